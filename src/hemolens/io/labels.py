"""Label masks: which object each pixel belongs to, as OME-TIFF with its physical size."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path
from hemolens.io.volumes.tiff import ome_facts


def write_labels(
    path: str | Path, labels: NDArray[Any], *, pixel_um: float | None = None, overwrite: bool = False
) -> None:
    """Write a label mask; opens as labels in napari, Fiji and QuPath.

    Args:
        path: ends in ``.ome.tif``.
        labels: whole numbers [H, W], 0 background, 1, 2, ... objects; stored as uint8 where they are that, else as
            uint16, or uint32 above 65,535.
        pixel_um: side of a pixel in um.
        overwrite: replace an existing file.

    Raises:
        UserError: another shape or type, negative or too large values; the file exists; no space.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{path}: a label mask is whole numbers [H, W], not {labels.dtype} {list(labels.shape)}")
    highest = int(labels.max(initial=0))
    if int(labels.min(initial=0)) < 0 or highest > 2**32 - 1:
        raise UserError(f"{path}: labels from {labels.min()} to {highest}; they start at 0 and fit 32 bits")
    size = {} if pixel_um is None else {f"PhysicalSize{axis}": pixel_um for axis in "XY"}
    units = {f"{key}Unit": "µm" for key in size}
    with atomic_path(path, overwrite=overwrite) as temporary:
        tifffile.imwrite(
            temporary,
            labels if labels.dtype == np.uint8 else labels.astype(np.uint16 if highest < 2**16 else np.uint32),
            ome=True,
            compression="zlib",
            metadata={"axes": "YX", **size, **units},
        )


def labels_pixel_um(path: str | Path) -> float | None:
    """Side of a pixel in um that a label mask's file states; None where it states none.

    Raises:
        UserError: missing or damaged.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            facts = ome_facts(tiff.ome_metadata)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise UserError(f"{path} is no readable label mask: {str(error).splitlines()[0]}") from error
    side: float | None = facts.get("step_um", (None,))[-1]
    return side


def read_labels(path: str | Path) -> NDArray[Any]:
    """A label mask [H, W] as it was written: unsigned whole numbers.

    Raises:
        UserError: missing, damaged, or no single plane of whole numbers.
    """
    try:
        labels = tifffile.imread(path)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise UserError(f"{path} is no readable label mask: {str(error).splitlines()[0]}") from error
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{path} holds {labels.dtype} {list(labels.shape)}; a label mask is whole numbers [H, W]")
    return labels
