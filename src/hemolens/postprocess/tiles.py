"""Cut a large picture into overlapping tiles and join what was detected in them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

# Two tiles place the same cell a little apart. A cell whose center lies this close to the line between them
# is accepted from both, so that none is lost, and NMS then keeps the better box.
CORE_SLACK_PX = 8.0


class Tile(NamedTuple):
    """Rows ``y1 … y2`` and columns ``x1 … x2`` (exclusive) of a picture."""

    x1: int
    y1: int
    x2: int
    y2: int


def tile_grid(height: int, width: int, tile_px: int, overlap_px: int) -> list[Tile]:
    """Tiles of at most ``tile_px`` a side that cover a picture, row by row, evenly spaced.

    Args:
        height, width: the picture in pixels.
        tile_px: longest side of a tile.
        overlap_px: least overlap of neighbours.

    Raises:
        ValueError: ``overlap_px`` is negative or not below ``tile_px``.
    """
    if not 0 <= overlap_px < tile_px:
        raise ValueError(f"overlap_px={overlap_px} must be at least 0 and below tile_px={tile_px}")
    rows, columns = _intervals(height, tile_px, overlap_px), _intervals(width, tile_px, overlap_px)
    return [Tile(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]


def _intervals(length: int, tile_px: int, overlap_px: int) -> list[tuple[int, int]]:
    if length <= tile_px:
        return [(0, length)]
    count = -(-(length - overlap_px) // (tile_px - overlap_px))
    return [(start, start + tile_px) for start in (i * (length - tile_px) // (count - 1) for i in range(count))]


def join_tiles(
    tiles: Sequence[Tile], detections: Sequence[dict[str, Tensor]], height: int, width: int, nms_iou: float
) -> dict[str, Tensor]:
    """Detections of the whole picture from those of its tiles.

    The middle lines of the overlaps divide the picture among the tiles, and each tile keeps the boxes whose
    center lies in its own part. A cell no larger than the overlap is whole in the tile that keeps it; the
    stumps of cells cut by an inner tile border have their center in the neighbour's part and go. Class-wise
    NMS then removes what two tiles both kept beside the line between them.

    Args:
        tiles: from :func:`tile_grid`.
        detections: one dictionary a tile: ``boxes`` ``[N, 4]`` xyxy px of the tile, ``scores`` ``[N]``,
            ``labels`` ``[N]`` and, if you like, more with a row a detection.
        height, width: the picture in pixels.
        nms_iou: IoU above which the lower-scored of two boxes of a class goes.

    Returns:
        ``boxes`` in pixels of the picture, ``scores`` descending, ``labels``, and what else there was.
    """
    kept = []
    for tile, found in zip(tiles, detections, strict=True):
        boxes = found["boxes"] + found["boxes"].new_tensor([tile.x1, tile.y1, tile.x1, tile.y1])
        own = _in_core(boxes, _core(tile, tiles, height, width))
        kept.append({key: values[own] for key, values in (found | {"boxes": boxes}).items()})
    joined = {key: torch.cat([part[key] for part in kept]) for key in kept[0]}
    order = batched_nms(joined["boxes"], joined["scores"], joined["labels"], nms_iou).sort().values
    order = order[joined["scores"][order].argsort(descending=True, stable=True)]
    return {key: values[order] for key, values in joined.items()}


def _core(tile: Tile, tiles: Sequence[Tile], height: int, width: int) -> tuple[float, float, float, float]:
    """The part of the picture that is the tile's own, as x1, y1, x2, y2."""
    x1, x2 = _own_interval((tile.x1, tile.x2), {(t.x1, t.x2) for t in tiles}, width)
    y1, y2 = _own_interval((tile.y1, tile.y2), {(t.y1, t.y2) for t in tiles}, height)
    return x1, y1, x2, y2


def _own_interval(interval: tuple[int, int], intervals: set[tuple[int, int]], length: int) -> tuple[float, float]:
    before = [other for other in intervals if other[0] < interval[0]]
    after = [other for other in intervals if other[0] > interval[0]]
    start = (max(before)[1] + interval[0]) / 2 if before else 0.0
    end = (interval[1] + min(after)[0]) / 2 if after else float(length)
    return start, end


def _in_core(boxes: Tensor, core: tuple[float, float, float, float]) -> Tensor:
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = boxes.new_tensor(core[:2]) - CORE_SLACK_PX, boxes.new_tensor(core[2:]) + CORE_SLACK_PX
    return ((centers >= low) & (centers <= high)).all(dim=1)
