"""Segment phase images of any size and scale: the class of each pixel, and the cells."""

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from hemolens.data.segmentation import PhaseSpec
from hemolens.errors import UserError
from hemolens.postprocess.windows import segment_image
from hemolens.tasks.segmentation import SegmentationTask

log = logging.getLogger(__name__)

SAME_SCALE = 0.02  # of the pixel size: nearer is not worth resampling
MOST_ZOOM = 8.0  # a pixel or a wavelength that differs more from the training's is taken for a slip


@torch.inference_mode()
def predict_segmentation(
    task: SegmentationTask,
    phase_rad: NDArray[Any],
    spec: PhaseSpec,
    *,
    pixel_um: float | None = None,
    wavelength_um: float | None = None,
    cell_scores: bool = False,
    **windows: Any,
) -> dict[str, NDArray[Any]]:
    """The class of each pixel and the cells.

    Where the image's scale and the training's are known, the phase is brought to the training's wavelength (the optical
    path stays) and pixel size first, and the maps are brought back.

    Args:
        task: in evaluation mode.
        phase_rad: [H, W], the background at 0.
        spec: what the network takes.
        pixel_um, wavelength_um: of the image; None where they are not known: then they are taken for the training's.
        cell_scores: whether to say what each cell may be, too.
        windows: keys of ``postprocess.windows.segment_image`` but the network's.

    Returns:
        ``classes`` uint8, ``instances`` int32 (1, 2, … the cells) and ``probability`` float32 of the class of each
        pixel, all [H, W]; with ``cell_scores`` also ``cell_log_probability`` float32 [cells, K]: mean over a cell's
        pixels of the logarithm of each class's probability, row 0 of cell 1.

    Raises:
        UserError: no phase image, or a pixel size or wavelength that is more than 8 times another than the training's.
    """
    phase = np.asarray(phase_rad)
    if phase.ndim != 2 or not np.issubdtype(phase.dtype, np.floating) or not phase.size:
        raise UserError(
            f"a phase image is floats [H, W] in rad, not {phase.dtype} {list(phase.shape)}: reconstruct holograms "
            "first (hemolens reconstruct, or give hemolens predict the hologram's file)"
        )
    if not np.isfinite(phase).all():
        raise UserError("the phase image holds NaN or infinite values: replace them before prediction")
    if wavelength_um is not None and spec.wavelength_um is not None:
        ratio = wavelength_um / spec.wavelength_um
        if not 1 / MOST_ZOOM <= ratio <= MOST_ZOOM:
            raise UserError(
                f"a wavelength of {wavelength_um:g} um, but the network was trained at {spec.wavelength_um:g} um: "
                "check wavelength_um (in vacuum, in um)"
            )
        phase = phase * ratio
    image = spec.scaled(phase)
    zoom = 1.0 if None in (pixel_um, spec.pixel_um) else float(pixel_um or 1) / float(spec.pixel_um or 1)
    if not 1 / MOST_ZOOM <= zoom <= MOST_ZOOM:
        raise UserError(
            f"a pixel of {pixel_um:g} um, but the network was trained at {spec.pixel_um:g} um: check pixel_um (the "
            "side of a pixel in the object's space: the camera's pixel over the magnification)"
        )
    height, width = phase.shape
    if abs(zoom - 1) > SAME_SCALE:
        size = [max(1, round(side * zoom)) for side in (height, width)]
        image = interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    found = segment_image(
        lambda images: _logits(task, images), image, stride=task.net.stride, all_classes=cell_scores, **windows
    )
    instances = task.cells(torch.from_numpy(found.classes)[None])[0].numpy()
    maps: dict[str, NDArray[Any]] = {
        "classes": found.classes,
        "instances": instances,
        "probability": found.probability,
    }
    sized = {name: _to_size(values, (height, width)) for name, values in maps.items()}
    if found.log_probability is not None:
        sized["cell_log_probability"] = mean_of_cells(found.log_probability, instances)
    return sized


def mean_of_cells(maps: NDArray[np.floating], instances: NDArray[np.integer]) -> NDArray[np.float32]:
    """Mean of each map [K, H, W] over the pixels of each cell, [cells, K]; cells 1, 2, … of the instance map [H, W]."""
    inside = instances > 0
    numbers = instances[inside]
    count = int(numbers.max()) if numbers.size else 0
    pixels = np.bincount(numbers, minlength=count + 1)[1:]
    sums = [np.bincount(numbers, weights=values[inside], minlength=count + 1)[1:] for values in maps]
    means: NDArray[np.float32] = (np.stack(sums, axis=1) / np.maximum(pixels, 1)[:, None]).astype(np.float32)
    return means


def _logits(task: SegmentationTask, images: Tensor) -> Tensor:
    return task(images.to(task.device))


def _to_size(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Nearest neighbours, by the middles of pixels."""
    if values.shape == size:
        return values
    rows, columns = (
        np.minimum((np.arange(now) + 0.5) * (before / now), before - 1).astype(np.int64)
        for before, now in zip(values.shape, size, strict=True)
    )
    return values[rows[:, None], columns[None]]
