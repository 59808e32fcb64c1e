"""Whole phase images through the paper's ResUnet: one pass as shipped, against padded patches and a sliding window.

The network is not trained, but it is not random either: its normalisation has the statistics of the image, and its last
layer is fitted to the image's classes by least squares, so that most pixels are decided and the sides can be compared.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from benchmarks.harness import Comparison, Options, Side
from hemolens.nets.resunet import ResUnet
from hemolens.postprocess.windows import segment_image
from hemolens.tasks.precision import cpu_has_fast_bf16

PATCH_PX, CLASSES = 256, 5
SAME_CLASS = 0.95  # of the pixels: the sides see other surroundings at the borders of patches
MONAI_OVERLAP = 0.25


def comparisons(options: Options) -> Iterator[Comparison]:
    """Images of 900×900 px against 16 padded float32 patches each, and one image against MONAI's sliding window."""
    side, count = (320, 1) if options.quick else (900, 2)  # of ten a pair takes minutes
    encoder, decoder = ("resnet18", (64, 32, 16, 16, 16)) if options.quick else ("resnet50", (1024, 512, 256, 128, 64))
    images, classes = made_up(side, count)
    torch.manual_seed(0)
    net = ResUnet(CLASSES, 1, encoder=encoder, decoder_channels=decoder)
    fit_head(net, images[:1], classes[:1])
    half = cpu_has_fast_bf16()
    dtype = "bfloat16" if half else "float32"
    fast = ResUnet(CLASSES, 1, encoder=encoder, decoder_channels=decoder).eval()
    fast.load_state_dict(net.state_dict())
    fast.to(memory_format=torch.channels_last)

    def shipped(image: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits: Tensor = fast(image.contiguous(memory_format=torch.channels_last))
        return logits

    @torch.inference_mode()
    def whole(chosen: Tensor) -> list[NDArray[np.uint8]]:
        return [segment_image(shipped, image, stride=ResUnet.stride, mode="whole").classes for image in chosen]

    @torch.inference_mode()
    def patches(chosen: Tensor) -> list[NDArray[np.uint8]]:
        """As one would write it: mirror to a multiple of 256, one batch of patches, put together."""
        found = []
        for image in chosen:
            rows = -(-side // PATCH_PX)
            missing = rows * PATCH_PX - side
            large = pad(image[None], (0, missing, 0, missing), mode="reflect")[0, 0]
            tiles = large.reshape(rows, PATCH_PX, rows, PATCH_PX).permute(0, 2, 1, 3).reshape(-1, 1, PATCH_PX, PATCH_PX)
            said = net(tiles).argmax(1).reshape(rows, rows, PATCH_PX, PATCH_PX).permute(0, 2, 1, 3)
            found.append(said.reshape(rows * PATCH_PX, -1)[:side, :side].to(torch.uint8).numpy())
        return found

    @torch.inference_mode()
    def monai(chosen: Tensor) -> list[NDArray[np.uint8]]:
        found = []
        for image in chosen:
            logits: Any = sliding_window_inference(image[None], PATCH_PX, 4, shipped, overlap=MONAI_OVERLAP)
            found.append(logits[0].argmax(0).to(torch.uint8).numpy())
        return found

    work = {"net": f"ResUnet {encoder}", "images": f"{count}×{side}×{side}", "classes": CLASSES}
    ours = {"passes": "one an image, mirrored to 32", "dtype": dtype, "layout": "NHWC", "threads": options.threads}
    yield Comparison(
        "as shipped",
        Side("hemolens", ours, lambda: whole(images)),
        Side(
            "patches in torch eager",
            {"patches": "16 of 256×256 in one batch", "dtype": "float32", "layout": "NCHW", "threads": options.threads},
            lambda: patches(images),
        ),
        same_classes,
        f"the same class at {SAME_CLASS:.0%} of the pixels",
        target=4.0,
        most_pairs=4,
        work=work,
    )
    yield Comparison(
        "like for like, sliding window",
        Side("hemolens", ours, lambda: whole(images[:1])),
        Side(
            "MONAI sliding_window_inference",
            {"window": "256×256", "overlap": MONAI_OVERLAP, "batch": 4, "dtype": dtype, "layout": "NHWC"},
            lambda: monai(images[:1]),
        ),
        same_classes,
        f"the same class at {SAME_CLASS:.0%} of the pixels",
        target=1.5,
        work=work | {"images": f"1×{side}×{side}"},
    )


def made_up(side: int, count: int) -> tuple[Tensor, Tensor]:
    """Round cells of four thicknesses: images [N, 1, H, W] in [-1, 1] and classes [N, H, W]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    images, classes = np.full((count, side, side), -0.67, np.float32), np.zeros((count, side, side), np.int64)
    for image, mask in zip(images, classes, strict=True):
        for _ in range(max(4, 49 * side**2 // 900**2)):
            kind, (cy, cx) = int(rng.integers(1, CLASSES)), rng.uniform(0, side, size=2)
            inside = (y - cy) ** 2 + (x - cx) ** 2 < 26**2
            image[inside], mask[inside] = -0.67 + 0.35 * kind, kind
        image += rng.normal(0, 0.01, size=image.shape).astype(np.float32)
    return torch.from_numpy(images)[:, None], torch.from_numpy(classes)


@torch.no_grad()
def fit_head(net: ResUnet, images: Tensor, classes: Tensor) -> None:
    """Statistics of the normalisation from one image, and the last layer by least squares; ``net`` then evaluates."""
    size = [side // ResUnet.stride * ResUnet.stride for side in images.shape[-2:]]
    seen, truth = images[..., : size[0], : size[1]], classes[..., : size[0], : size[1]]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    net.train()
    net(seen)
    net.eval()
    features = net.decoder(net.encoder(seen)).float().movedim(1, -1).flatten(0, 2)
    wanted = one_hot(truth, CLASSES).float().flatten(0, 2)
    rows = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    gram = rows.T @ rows + 1e-3 * len(rows) * torch.eye(rows.shape[1])
    weights = torch.linalg.solve(gram, rows.T @ wanted).T  # [K, F + 1]
    net.head.weight.copy_(weights[:, :-1, None, None])
    net.head.bias.copy_(weights[:, -1])


def same_classes(ours: Any, peer: Any) -> dict[str, float]:
    """Share of pixels with the same class, and that there is more than one."""
    share = float(np.mean([np.mean(a == b) for a, b in zip(ours, peer, strict=True)]))
    assert len(np.unique(ours[0])) > 1, "the network says one class everywhere: nothing to compare"
    assert share >= SAME_CLASS, f"only {share:.2%} of the pixels have the same class"
    return {"same class": round(share, 5), "classes seen": len(np.unique(ours[0]))}
