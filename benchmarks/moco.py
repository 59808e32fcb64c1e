"""A step of momentum contrast with reconstruction, against lightly's MoCo v2 with the same decoder."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import update_momentum
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.harness import Comparison, Options, Side
from hemolens.nets.moco import MoCo
from hemolens.tasks.moco import MoCoReconstructionTask

MOMENTUM, TEMPERATURE, LR, HIDDEN = 0.99, 0.2, 0.03, 512
SAME_LOSS = 1e-4  # relative, of the first step


def comparisons(options: Options) -> Iterator[Comparison]:
    """ResNet-18 and its decoder, float32, with and without the maps of the encoder's first stages."""
    batch, side, keys = (4, 32, 16) if options.quick else (32, 96, 1024)
    config = {"dtype": "float32", "layout": "NCHW", "threads": options.threads, "optimizer": "SGD"}
    for skips in (False, True):
        net = moco(keys, skips=skips)
        views = views_of(batch, side)
        yield Comparison(
            "decoder sees all maps" if skips else "decoder sees the deepest maps",
            Side("hemolens", {"queue": "persistent", **config}, ours(copy.deepcopy(net), views)),
            Side("lightly", {"queue": "MemoryBankModule", **config}, Peer(net, views, keys)),
            same_losses,
            f"both losses of the first step within {SAME_LOSS:g}",
            target=1.0,
            work={
                "net": "moco_resnet18",
                "batch": f"{batch}×2×3×{side}×{side}",
                "keys": keys,
                "a step": "momentum, both encoders, decoder twice, queue, gradient, SGD",
            },
        )


def moco(keys: int, *, skips: bool) -> MoCo:
    """The quick experiments' network, with MoCo v2's projection and random weights."""
    torch.manual_seed(0)
    return MoCo(
        encoder="resnet18",
        decoder_channels=[256, 128, 64, 32, 16],
        hidden_features=HIDDEN,
        queue_size=keys,
        momentum=MOMENTUM,
        skips=skips,
    )


def views_of(batch: int, side: int) -> Tensor:
    """Two views of each image, [B, 2, 3, S, S]; they are their own targets."""
    return torch.randn(batch, 2, 3, side, side, generator=torch.Generator().manual_seed(1))


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    """MoCo's optimizer of what learns."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.SGD(learning, lr=LR, momentum=0.9, weight_decay=1e-4)


def ours(net: MoCo, views: Tensor) -> Callable[[], dict[str, float]]:
    """A step of the task, which each call goes on from."""
    task = MoCoReconstructionTask(net=net, class_names=["cell"], temperature=TEMPERATURE)
    optimizer = sgd(task)

    def step() -> dict[str, float]:
        optimizer.zero_grad()
        parts = task.losses(views, views)
        parts["loss"].backward()
        optimizer.step()
        return {name: parts[name].item() for name in ("contrastive", "reconstruction")}

    return step


class Peer(nn.Module):
    """The example of lightly's documentation for MoCo v2, with the decoder of ``net`` and its weights."""

    def __init__(self, net: MoCo, views: Tensor, keys: int) -> None:
        super().__init__()
        features = net.queue.keys.shape[1]
        self.views, self.skips = views, net.skips
        self.backbone, self.decoder, self.head = net.query.encoder, net.query.decoder, net.query.head
        self.projection = MoCoProjectionHead(net.num_features, HIDDEN, features)
        of_ours = zip(self.projection.parameters(), net.projection.parameters(), strict=True)
        with torch.no_grad():
            for parameter, our in of_ours:
                parameter.copy_(our)
        self.backbone_momentum = copy.deepcopy(self.backbone).requires_grad_(False)
        self.projection_momentum = copy.deepcopy(self.projection).requires_grad_(False)
        self.criterion = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(keys, features))
        bank: Any = self.criterion.memory_bank
        bank.bank.copy_(net.queue.keys)
        self.optimizer = sgd(self)

    def forward(self) -> dict[str, float]:
        """A step, which each call goes on from."""
        update_momentum(self.backbone, self.backbone_momentum, m=MOMENTUM)
        update_momentum(self.projection, self.projection_momentum, m=MOMENTUM)
        self.optimizer.zero_grad()
        first, second = self.views[:, 0], self.views[:, 1]
        maps = self.backbone(first)
        query = self.projection(maps[-1].mean((2, 3)))
        with torch.no_grad():
            key_maps = self.backbone_momentum(second)
            key = self.projection_momentum(key_maps[-1].mean((2, 3)))
        contrastive = self.criterion(query, key)
        errors = mse_loss(self.made(maps), first) + mse_loss(self.made(key_maps), second)
        (contrastive + errors / 2).backward()
        self.optimizer.step()
        return {"contrastive": contrastive.item(), "reconstruction": errors.item() / 2}

    def made(self, maps: list[Tensor]) -> Tensor:
        """Images of the encoder's maps."""
        given = maps if self.skips else [*(torch.zeros_like(part) for part in maps[:-1]), maps[-1]]
        images: Tensor = self.head(self.decoder(list(given)))
        return images


def same_losses(found: dict[str, float], peer: dict[str, float]) -> dict[str, float]:
    """Relative differences of both losses of the first step."""
    differences = {name: abs(found[name] - peer[name]) / abs(peer[name]) for name in peer}
    assert max(differences.values()) <= SAME_LOSS, differences
    return differences
