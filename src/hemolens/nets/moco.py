"""Momentum contrast with a decoder: the network that paper B pretrains (its section 3, Figure 3).

He et al. 2020 (MoCo, arXiv:1911.05722), Chen et al. 2020 (MoCo v2, arXiv:2003.04297).

Shapes: N images, C channels, H, W pixels, F pooled features, D projected features, K keys in the queue.
"""

import copy
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import normalize

from hemolens.errors import UserError
from hemolens.nets.resunet import ResUnet


class ProjectionHead(nn.Sequential):
    """Linear, ReLU, Linear (MoCo v2): [N, in_features] to [N, out_features], not brought to length 1.

    Args:
        in_features, hidden_features, out_features: lengths.
        batch_norm: normalise after each Linear (MoCo v3, Chen et al. 2021, arXiv:2104.02057; the last without scale
            and shift). The features of a new encoder are means of what a ReLU let through and so nearly the same for
            all images; without it, hundreds of steps go by until their common part is gone.
    """

    def __init__(self, in_features: int, hidden_features: int, out_features: int, *, batch_norm: bool = False) -> None:
        super().__init__(
            nn.Linear(in_features, hidden_features, bias=not batch_norm),
            *([nn.BatchNorm1d(hidden_features)] if batch_norm else []),
            nn.ReLU(),
            nn.Linear(hidden_features, out_features, bias=not batch_norm),
            *([nn.BatchNorm1d(out_features, affine=False)] if batch_norm else []),
        )
        self.batch_norm = batch_norm

    def forward(self, features: Tensor) -> Tensor:
        """[N, out_features] of features [N, in_features].

        Raises:
            UserError: one image, which batch norms cannot train on.
        """
        if self.batch_norm and self.training and len(features) == 1:
            raise UserError("a batch of one image: net.projection_norm=true wants data.batch_size of 2 or more")
        projected: Tensor = super().forward(features)
        return projected


class KeyQueue(nn.Module):
    """The last keys, the oldest replaced first; part of the state dict, so that a resumed run has its negatives.

    Attributes:
        keys: float32 [K, D]; at the start directions drawn evenly, as in the public MoCo.
        pointer: int64 [], row of the oldest key.

    Args:
        size: K.
        features: D.

    Raises:
        UserError: no key or no feature.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, size: int, features: int) -> None:
        super().__init__()
        if size < 1 or features < 1:
            raise UserError(f"net.queue_size={size}, net.projection_features={features}: at least 1 each")
        self.register_buffer("keys", normalize(torch.randn(size, features), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put keys [N, D] of length 1 in the place of the N oldest; N need not divide K.

        Raises:
            UserError: other features, or more keys than the queue holds.
        """
        size, features = self.keys.shape
        if keys.ndim != 2 or keys.shape[1] != features:
            raise UserError(f"keys are {list(keys.shape)}: give [N, {features}]")
        if len(keys) > size:
            raise UserError(
                f"{len(keys)} keys a step, of all processes, do not fit net.queue_size={size}: raise it, or lower "
                "data.batch_size"
            )
        rows = (self.pointer + torch.arange(len(keys), device=self.keys.device)) % size
        self.keys[rows] = keys.to(self.keys)
        self.pointer.copy_((self.pointer + len(keys)) % size)


class MoCo(nn.Module):
    """A ResUnet that is pretrained: its encoder by momentum contrast, its decoder by reconstruction.

    ``query`` is a :class:`hemolens.nets.resunet.ResUnet` with C outputs: the state dicts of ``query.encoder`` and
    ``query.decoder`` fit those of a segmenting ResUnet with the same ``in_channels``, ``encoder`` and
    ``decoder_channels``. The momentum encoder has no decoder of its own.

    Args:
        num_classes: not used; every network of the config system has it.
        in_channels: C.
        encoder, decoder_channels, pretrained: see :class:`hemolens.nets.resunet.ResUnet`.
        projection_features: D, of the projection head.
        hidden_features, projection_norm: of the projection head; see :class:`ProjectionHead`.
        queue_size: K.
        momentum: m of :meth:`update_momentum`, from 0 to below 1.
        skips: whether the decoder sees the maps of the encoder's first stages. Paper B passes it "the feature vectors"
            alone; then these maps are zeros, so that the parameters stay those of the ResUnet.

    Raises:
        UserError: a setting out of range, or as a ResUnet does.
    """

    #: Height and width must be multiples of it.
    stride = ResUnet.stride

    def __init__(
        self,
        num_classes: int = 5,
        in_channels: int = 3,
        *,
        encoder: str = "resnet50",
        decoder_channels: Sequence[int] = (1024, 512, 256, 128, 64),
        projection_features: int = 128,
        hidden_features: int = 2048,
        projection_norm: bool = False,
        queue_size: int = 65536,
        momentum: float = 0.999,
        skips: bool = False,
        pretrained: bool | str | PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise UserError(f"net.momentum={momentum}: give a share from 0 to below 1, e.g. 0.999")
        if hidden_features < 1:
            raise UserError(f"net.hidden_features={hidden_features}: at least 1")
        self.num_classes, self.in_channels = num_classes, in_channels
        self.momentum, self.skips = momentum, skips
        self.queue = KeyQueue(queue_size, projection_features)
        self.query = ResUnet(
            in_channels, in_channels, encoder=encoder, decoder_channels=decoder_channels, pretrained=pretrained
        )
        #: F
        self.num_features: int = self.query.encoder.out_channels[-1]
        self.projection = ProjectionHead(
            self.num_features, hidden_features, projection_features, batch_norm=projection_norm
        )
        self.key_encoder = copy.deepcopy(self.query.encoder).requires_grad_(False)
        self.key_projection = copy.deepcopy(self.projection).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] encoded and reconstructed, float32; H and W are multiples of 32."""
        return self.reconstruct(self.maps(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images [N, C, H, W] and the query encoder's maps of them at strides 2 to 32."""
        found: list[Tensor] = self.query.encoder(images)
        return found

    def pooled(self, maps: Sequence[Tensor]) -> Tensor:
        """Means over the pixels of the deepest maps, float32 [N, F]."""
        return maps[-1].float().mean((2, 3))

    def features(self, images: Tensor) -> Tensor:
        """Pooled features of the query encoder, float32 [N, F], of images [N, C, H, W]."""
        return self.pooled(self.maps(images))

    def encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Queries float32 [N, D] of length 1, and :meth:`maps`, of images [N, C, H, W]."""
        maps = self.maps(images)
        return self._normalised(self.projection, maps), maps

    @torch.no_grad()
    def encode_keys(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """:meth:`encode` by the momentum networks, without gradient."""
        maps: list[Tensor] = self.key_encoder(images)
        return self._normalised(self.key_projection, maps), maps

    def _normalised(self, projection: nn.Module, maps: Sequence[Tensor]) -> Tensor:
        return normalize(projection(self.pooled(maps)).float(), dim=1)

    def reconstruct(self, maps: Sequence[Tensor]) -> Tensor:
        """Images float32 [N, C, H, W] that the decoder makes of :meth:`maps`, of either encoder."""
        if not self.skips:
            maps = [*(torch.zeros_like(part) for part in maps[:-1]), maps[-1]]
        images: Tensor = self.query.head(self.query.decoder(list(maps)))
        return images.float()

    @torch.no_grad()
    def update_momentum(self) -> None:
        """Key parameters become m times themselves plus 1 - m times the query's (MoCo, Eq. 2).

        Buffers are left alone: the momentum encoder's batch statistics come from its own forward passes, as in the
        public MoCo.
        """
        pairs: tuple[tuple[Any, Any], ...] = (
            (self.key_encoder, self.query.encoder),
            (self.key_projection, self.projection),
        )
        for key, query in pairs:
            for old, new in zip(key.parameters(), query.parameters(), strict=True):
                old.lerp_(new, 1 - self.momentum)


def process() -> tuple[int, int]:
    """(rank, number of processes) of the running process group; (0, 1) without one."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gathered(rows: Tensor) -> Tensor:
    """Rows [N, ...] of all processes, without gradient; every process has the same N. Of one they are those given.

    They are dealt as samples are (see ``data.sampling``): the first of each process, then the second, in the order of
    a batch on one process.
    """
    rows, world = rows.detach().contiguous(), process()[1]
    if world == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world)]
    distributed.all_gather(parts, rows)
    return torch.stack(parts, dim=1).flatten(0, 1)


def share_of(rows: Tensor, rank: int, world: int) -> Tensor:
    """What process ``rank`` of ``world`` has of rows [world * N, ...]: its N."""
    return rows[rank::world]
