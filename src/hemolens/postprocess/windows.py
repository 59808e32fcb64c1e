"""Class maps of images of any size from a network that takes multiples of its stride.

Three ways, each of which covers every pixel:

- ``whole``: one pass over the image, continued by its mirror image to a multiple of the stride.
- ``windows``: overlapping windows whose logits are blended, so that memory does not grow with the image's height.
- ``paper``: paper B's: the mirrored image in patches edge to edge.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from hemolens.errors import UserError
from hemolens.postprocess.tiles import tile_grid

MODES = ("auto", "whole", "windows", "paper")
WHOLE_PX = 2048  # longer images go through in windows by default
Logits = Callable[[Tensor], Tensor]
"""Logits [B, K, H, W] of images [B, C, H, W], H and W multiples of the stride."""


class ClassMap(NamedTuple):
    """What a network says of each pixel."""

    classes: NDArray[np.uint8]
    """[H, W]: the likeliest class."""
    probability: NDArray[np.float32]
    """[H, W]: its softmax probability."""
    log_probability: NDArray[np.float16] | None = None
    """[K, H, W]: logarithm of every class's probability, where it was asked for."""


def mirrored(images: Tensor, height: int, width: int) -> Tensor:
    """Images [B, C, h, w] continued at the bottom and the right by their mirror image, to [B, C, height, width].

    The mirror does not repeat the border pixel, and repeats itself where more is asked for than the image holds; of a
    single row or column it is that.
    """
    while (missing := height - images.shape[-2]) > 0:
        rows = images.shape[-2]
        images = (
            pad(images, (0, 0, 0, min(missing, rows - 1)), mode="reflect") if rows > 1 else images.repeat(1, 1, 2, 1)
        )
    while (missing := width - images.shape[-1]) > 0:
        columns = images.shape[-1]
        more = min(missing, columns - 1)
        images = pad(images, (0, more, 0, 0), mode="reflect") if columns > 1 else images.repeat(1, 1, 1, 2)
    return images[..., :height, :width]


def whole_pass(logits_of: Logits, images: Tensor, stride: int) -> Tensor:
    """Logits [B, K, H, W] of images [B, C, H, W] of any size in one pass.

    Args:
        logits_of: the network.
        images: float [B, C, H, W].
        stride: of the network.
    """
    height, width = images.shape[-2:]
    padded = mirrored(images, *(-(-side // stride) * stride for side in (height, width)))
    return logits_of(padded)[..., :height, :width]


def segment_image(
    logits_of: Logits,
    image: Tensor,
    *,
    stride: int,
    mode: str = "auto",
    window_px: int = 1024,
    overlap_px: int = 128,
    patch_px: int = 256,
    batch_size: int = 4,
    all_classes: bool = False,
) -> ClassMap:
    """The class of each pixel.

    Args:
        logits_of: the network.
        image: float [C, H, W].
        stride: of the network.
        mode: ``whole``, ``windows``, ``paper``, or ``auto``: windows for images longer than 2048 px, else whole.
        window_px: side of a window; rounded up to a multiple of the stride.
        overlap_px: least overlap of windows, no smaller than a cell.
        patch_px: side of a patch of ``paper``.
        batch_size: windows or patches that go through at once.
        all_classes: keep ``log_probability``, 2 K bytes a pixel.

    Raises:
        UserError: an unknown mode, a size below 1, an overlap that leaves no step, or patches that the stride does not
            divide.
    """
    check_way(stride, mode=mode, window_px=window_px, overlap_px=overlap_px, patch_px=patch_px, batch_size=batch_size)
    height, width = image.shape[-2:]
    if mode == "auto":
        mode = "windows" if max(height, width) > WHOLE_PX else "whole"
    if mode == "whole":
        return _argmax(whole_pass(logits_of, image[None], stride)[0], all_classes)
    if mode == "paper":
        return _paper(logits_of, image, stride, patch_px, batch_size, all_classes)
    window_px = -(-window_px // stride) * stride
    parts = list(_bands(logits_of, image, stride, window_px, overlap_px, batch_size, all_classes))
    return ClassMap(
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.probability for part in parts]),
        np.concatenate([part.log_probability for part in parts], axis=1) if all_classes else None,
    )


def check_way(stride: int, *, mode: str, window_px: int, overlap_px: int, patch_px: int, batch_size: int) -> None:
    """Refuse what :func:`segment_image` refuses, before there is an image."""
    if mode not in MODES:
        raise UserError(f"mode={mode}: choose from {', '.join(MODES)}")
    for name, value in (("window_px", window_px), ("patch_px", patch_px), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name}={value}: must be at least 1")
    if mode in ("auto", "windows") and not 0 <= overlap_px < -(-window_px // stride) * stride:
        raise UserError(f"overlap_px={overlap_px}: must be at least 0 and below window_px={window_px}")
    if mode == "paper" and patch_px % stride:
        raise UserError(f"patch_px={patch_px}: the network takes multiples of {stride} px")


def _argmax(logits: Tensor, all_classes: bool) -> ClassMap:
    """Of logits [K, H, W]."""
    logarithms = logits.float().log_softmax(0)
    most, classes = logarithms.max(0)
    kept = logarithms.to(torch.float16).cpu().numpy() if all_classes else None
    return ClassMap(classes.to(torch.uint8).cpu().numpy(), most.exp().cpu().numpy(), kept)


def _paper(
    logits_of: Logits, image: Tensor, stride: int, patch_px: int, batch_size: int, all_classes: bool
) -> ClassMap:
    height, width = image.shape[-2:]
    rows, columns = (-(-side // patch_px) for side in (height, width))
    large = mirrored(image[None], rows * patch_px, columns * patch_px)[0]
    patches = large.unfold(1, patch_px, patch_px).unfold(2, patch_px, patch_px)  # [C, rows, columns, P, P]
    patches = patches.permute(1, 2, 0, 3, 4).flatten(0, 1)
    logits = torch.cat([logits_of(part).float().cpu() for part in patches.split(batch_size)])
    whole = logits.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).reshape(-1, *large.shape[-2:])
    return _argmax(whole[:, :height, :width], all_classes)


def _bands(
    logits_of: Logits,
    image: Tensor,
    stride: int,
    window_px: int,
    overlap_px: int,
    batch_size: int,
    all_classes: bool,
) -> Iterator[ClassMap]:
    """Finished rows from top to bottom: only one row of windows is kept at a time."""
    height, width = image.shape[-2:]
    tiles = tile_grid(height, width, window_px, overlap_px)
    tops = sorted({tile.y1 for tile in tiles})
    sums: Tensor | None = None  # weighted logits [K, rows, W] from `start` on
    weights = torch.zeros(0)
    start = 0
    for number, top in enumerate(tops):
        row = [tile for tile in tiles if tile.y1 == top]
        end = row[0].y2
        for part in range(0, len(row), batch_size):
            chosen = row[part : part + batch_size]
            windows = [image[:, tile.y1 : tile.y2, tile.x1 : tile.x2] for tile in chosen]
            logits = whole_pass(logits_of, torch.stack(windows), stride).float().cpu()
            if sums is None:
                sums, weights = torch.zeros(logits.shape[1], 0, width), torch.zeros(0, width)
            missing = end - start - sums.shape[1]
            if missing > 0:
                sums, weights = pad(sums, (0, 0, 0, missing)), pad(weights, (0, 0, 0, missing))
            taper = _taper(logits.shape[-2], overlap_px)[:, None] * _taper(logits.shape[-1], overlap_px)[None]
            for tile, values in zip(chosen, logits, strict=True):
                at = (slice(tile.y1 - start, tile.y2 - start), slice(tile.x1, tile.x2))
                sums[:, *at] += values * taper
                weights[at] += taper
        assert sums is not None
        done = (tops[number + 1] if number + 1 < len(tops) else end) - start
        yield _argmax(sums[:, :done] / weights[:done], all_classes)
        sums, weights, start = sums[:, done:], weights[done:], start + done


def _taper(length: int, overlap_px: int) -> Tensor:
    """Weights that fall linearly to both ends over the overlap and stay above 0, [length]."""
    from_end = torch.arange(length) + 1.0
    ramp = torch.minimum(from_end, from_end.flip(0)) / (max(overlap_px, 1) + 1)
    return ramp.clamp(max=1.0)
