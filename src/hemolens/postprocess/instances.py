"""Cells from class maps: connected components, and a watershed that parts touching ones."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from hemolens.errors import UserError


def cells_of_classes(
    classes: NDArray[np.integer],
    *,
    min_area_px: int = 30,
    split: bool = True,
    min_distance_px: int = 12,
    depth: float = 0.75,
    across_types: bool = False,
) -> NDArray[np.int32]:
    """The cells of a class map.

    Parts of one class that meet along an edge (4-connectivity) are one cell, unless their distance from the background
    has several peaks: then the watershed between the peaks parts them.

    Args:
        classes: class of each pixel, [H, W]; 0 is the background.
        min_area_px: smaller parts are no cells.
        split: whether to part touching cells.
        min_distance_px: least distance of the middles of two cells.
        depth: two peaks belong to two cells where the neck between them is narrower than this share of the smaller one.
        across_types: parts of different classes that meet are one part too, so that a cell of which a network calls
            some pixels another type is counted once, as the type of most of its pixels; touching cells of two types
            are then parted by the watershed alone.

    Returns:
        int32 [H, W]: 0 background, 1, 2, ... cells.

    Raises:
        UserError: no class map.
    """
    values = np.asarray(classes)
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"a class map is whole numbers [H, W], not {values.dtype} {list(values.shape)}")
    if across_types:
        values = (values > 0).astype(np.uint8)
    cells = np.zeros(values.shape, np.int32)
    count = 0
    for number in np.unique(values[values > 0]).tolist():
        parts, found = ndimage.label(values == number)
        for index, where in enumerate(ndimage.find_objects(parts, found), start=1):
            own = parts[where] == index
            if int(own.sum()) < min_area_px:
                continue
            for piece in _pieces(own, min_distance_px, depth) if split else [own]:
                if int(piece.sum()) >= min_area_px:
                    count += 1
                    cells[where][piece] = count
    return cells


def _pieces(own: NDArray[np.bool_], min_distance_px: int, depth: float) -> list[NDArray[np.bool_]]:
    """A part, or the cells that it is made of."""
    padded = np.pad(own, 1)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(padded), 1.0)
    peaks = peak_local_max(distance, min_distance=min_distance_px, labels=padded.astype(np.int32), exclude_border=False)
    if len(peaks) < 2:
        return [own]
    markers = np.zeros(padded.shape, np.int32)
    kept: list[tuple[int, int]] = []
    for y, x in peaks.tolist():  # the widest first
        if all(_neck(distance, (y, x), other) < depth * distance[y, x] for other in kept):
            kept.append((y, x))
            markers[y, x] = len(kept)
    if len(kept) < 2:
        return [own]
    parted = watershed(-distance, markers, mask=padded)[1:-1, 1:-1]
    return [parted == number for number in range(1, len(kept) + 1)]


def _neck(distance: NDArray[np.floating], a: tuple[int, int], b: tuple[int, int]) -> float:
    """Smallest distance from the background along the line between two peaks."""
    steps = int(max(abs(a[0] - b[0]), abs(a[1] - b[1]))) + 1
    rows = np.rint(np.linspace(a[0], b[0], steps)).astype(int)
    columns = np.rint(np.linspace(a[1], b[1], steps)).astype(int)
    return float(distance[rows, columns].min())
