"""How long a segmentation takes: ten whole images and ten patches, as paper B's Table 3 asks."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hemolens.tasks.precision import device_name
from hemolens.tasks.segmentation import SegmentationTask

COUNT = 10
REPEATS = 3


@torch.inference_mode()
def time_segmentation(
    task: SegmentationTask, images: Sequence[Tensor], *, dtype: torch.dtype | None, patch_px: int = 256
) -> dict[str, Any]:
    """Seconds from phase to class map, medians of three rounds after one that warms up.

    Args:
        task: in evaluation mode, on its device.
        images: float32 [1, H, W] each, of one size; repeated or cut to ten.
        dtype: of the autocast; None for float32.
        patch_px: side of a patch, cut from the images' upper left corners.

    Returns:
        ``images_10_s``: ten images, one by one in one pass each; ``patches_10_s``: ten patches in one batch;
        ``image_px`` [H, W], ``patch_px``, ``precision``, ``device`` and ``threads``.
    """
    device = task.device
    whole = [images[number % len(images)][None].to(device) for number in range(COUNT)]
    side = min(patch_px, *whole[0].shape[-2:])
    patches = torch.cat([image[..., :side, :side] for image in whole])
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        seconds = {
            "images_10_s": _median_seconds(task, whole),
            "patches_10_s": _median_seconds(task, [patches]),
        }
    return {
        **{name: round(value, 4) for name, value in seconds.items()},
        "image_px": list(whole[0].shape[-2:]),
        "patch_px": side,
        "precision": "float32" if dtype is None else str(dtype).removeprefix("torch."),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }


def _median_seconds(task: SegmentationTask, batches: Sequence[Tensor]) -> float:
    taken = []
    for _ in range(REPEATS + 1):
        if batches[0].is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for batch in batches:
            task(batch).argmax(1).to(torch.uint8).cpu()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])
