"""The part of a field that belongs to each detected cell."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from hemolens.errors import UserError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """Rows and columns of one cell, and which of its pixels are its own, bool [h, w]; None for all."""

    rows: slice
    columns: slice
    own: NDArray[np.bool_] | None


def checked_boxes(boxes: ArrayLike, height: int, width: int) -> FloatArray:
    """Boxes as float64 [M, 4].

    Raises:
        UserError: another shape, a box without area, or one that is not inside the field.
    """
    found = np.asarray(boxes, np.float64)
    if found.size == 0:
        return np.zeros((0, 4))
    if found.ndim != 2 or found.shape[1] != 4:
        raise UserError(f"boxes have shape {list(found.shape)}: give [M, 4], xyxy in pixels")
    x0, y0, x1, y1 = found.T
    bad = ~((x0 >= 0) & (y0 >= 0) & (x0 < x1) & (y0 < y1) & (x1 <= width) & (y1 <= height))  # true for NaN too
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise UserError(
            f"{int(bad.sum())} boxes are empty or reach out of the field of {width}x{height} px; "
            f"the first is number {first}: {found[first].tolist()}"
        )
    return found


def share_field(
    boxes: FloatArray, size: tuple[int, int], voxel_um: tuple[float, float, float], margin_um: float
) -> list[Window]:
    """The window of each box with its margin, shared out where windows meet.

    A pixel belongs to the box whose centre is nearer in units of the box; of two that are equally near, to the first.

    Args:
        boxes: [M, 4] xyxy in pixels, inside the field.
        size: (height, width) of the field.
        voxel_um: (z, y, x).
        margin_um: around each box.
    """
    my, mx = margin_um / voxel_um[1], margin_um / voxel_um[2]
    ends = np.concatenate([np.floor(boxes[:, :2] - [mx, my]), np.ceil(boxes[:, 2:] + [mx, my])], axis=1)
    ends = np.clip(ends, 0, [size[1], size[0], size[1], size[0]]).astype(int)
    pairs = meeting(ends)
    neighbours: dict[int, list[int]] = {}
    for i, j in np.concatenate([pairs, pairs[:, ::-1]]).tolist():
        neighbours.setdefault(i, []).append(j)
    return [
        Window(slice(y0, y1), slice(x0, x1), _own(i, neighbours[i], boxes, ends) if i in neighbours else None)
        for i, (x0, y0, x1, y1) in enumerate(ends.tolist())
    ]


def meeting(boxes: NDArray[np.number]) -> NDArray[np.intp]:
    """Pairs of boxes [M, 4] that share some area, int [P, 2], each pair once."""
    if len(boxes) < 2:
        return np.zeros((0, 2), np.intp)
    tree = cKDTree((boxes[:, :2] + boxes[:, 2:]) / 2)
    near = tree.query_pairs(float((boxes[:, 2:] - boxes[:, :2]).max()), p=np.inf, output_type="ndarray")
    first, second = boxes[near[:, 0]], boxes[near[:, 1]]
    meets = ((first[:, :2] < second[:, 2:]) & (second[:, :2] < first[:, 2:])).all(1)
    return np.asarray(near[meets], np.intp)


def overlap(boxes: FloatArray) -> FloatArray:
    """Share of each box's area that lies in the other box that covers most of it, [M]."""
    pairs = meeting(boxes)
    first, second = boxes[pairs[:, 0]], boxes[pairs[:, 1]]
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    most = np.zeros(len(boxes))
    np.maximum.at(most, pairs, np.prod(sides, axis=1)[:, None])
    return np.asarray(most / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))


def _own(i: int, others: list[int], boxes: FloatArray, ends: NDArray[np.int_]) -> NDArray[np.bool_]:
    left, top, right, bottom = ends[i].tolist()
    y, x = np.arange(top, bottom)[:, None] + 0.5, np.arange(left, right)[None] + 0.5
    mine = _distance(boxes[i], y, x)
    own = np.ones(mine.shape, bool)
    for j in others:
        theirs = _distance(boxes[j], y, x)
        inside = (x > ends[j, 0]) & (x < ends[j, 2]) & (y > ends[j, 1]) & (y < ends[j, 3])
        own &= ~(inside & ((theirs < mine) | ((theirs == mine) & (j < i))))
    return own


def _distance(box: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
    """Squared distance from the centre in units of the box's size."""
    x0, y0, x1, y1 = box.tolist()
    return np.asarray(((x - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0)) ** 2)
