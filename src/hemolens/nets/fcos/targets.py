"""Where FCOS predicts and what it is trained to predict there (arXiv:1904.01355, 3.1–3.2; center sampling).

Shape suffixes: N_l points of level l, N points of all levels, M boxes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Point-box pairs tested at once: bounds memory to some 16 MB a boolean, whatever the image and its boxes.
_MAX_PAIRS = 2**24


def points_for(
    feature_sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | str
) -> list[Tensor]:
    """Centers of the cells, ((i_x + 0.5)·stride, (i_y + 0.5)·stride).

    Args:
        feature_sizes: (rows, columns) of each level.
        strides: Input pixels a cell, one for each level.
        device: Where to make them.

    Returns:
        One float32 [N_l, 2] a level: (x, y) in pixels, row-major.
    """
    points = []
    for (rows, columns), stride in zip(feature_sizes, strides, strict=True):
        y = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) * stride
        x = (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) * stride
        points.append(torch.cartesian_prod(y, x).flip(1))
    return points


def valid_points(points: Sequence[Tensor], strides: Sequence[int], image_size: tuple[int, int]) -> list[Tensor]:
    """Which cells of a padded batch belong to one of its images.

    A cell belongs if its upper left corner, point − stride/2, lies inside the image: these are exactly the
    ceil(H/stride)·ceil(W/stride) cells that the image has without padding on the right and at the bottom.

    Args:
        points: [N_l, 2] (x, y) in pixels, one tensor a level.
        strides: Input pixels a cell, one for each level.
        image_size: (H, W) of the image before padding.

    Returns:
        One boolean [N_l] a level.
    """
    height, width = (int(n) for n in image_size)
    masks = []
    for level, stride in zip(points, strides, strict=True):
        corner = level - stride / 2
        masks.append((corner[:, 0] < width) & (corner[:, 1] < height))
    return masks


@torch.no_grad()
def assign_targets(
    points: Sequence[Tensor],
    strides: Sequence[int],
    regress_ranges: Sequence[tuple[float, float]],
    boxes: Tensor,
    labels: Tensor,
    center_radius: float = 1.5,
) -> tuple[Tensor, Tensor]:
    """Give each point the box that it has to predict, or background.

    A point is positive for a box if (a) it lies strictly inside the center box, which reaches
    ``center_radius``·stride to each side of the box's center and is clipped to the box, and (b) the largest
    of its distances to the four sides lies within the range of its level, both limits included. Of several
    boxes the one of smallest area wins; of equal ones the first.

    Args:
        points: [N_l, 2] (x, y) in pixels, one tensor a level.
        strides: Input pixels a cell, one for each level.
        regress_ranges: Least and greatest max(l, t, r, b) in pixels, one pair for each level.
        boxes: [M, 4] xyxy in pixels; M may be 0. Boxes without area are given to no point.
        labels: int64 [M], 0…C−1.
        center_radius: Half the side of the center box, in strides.

    Returns:
        Labels, int64 [N], −1 = background, and distances to left, top, right, bottom in pixels,
        float32 [N, 4], zero at background points; levels concatenated.

    Raises:
        ValueError: Numbers of levels, or of boxes and labels, do not agree.
    """
    _check(points, strides, regress_ranges, boxes, labels)
    boxes = boxes.float()
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = area.argsort(stable=True)  # now the first box that fits is the smallest
    boxes = boxes[order]
    none = len(boxes)
    level_choices = [
        _first_box(level, stride * center_radius, limits, boxes)
        for level, stride, limits in zip(points, strides, regress_ranges, strict=True)
    ]
    all_points = torch.cat(list(points)).float()
    choice = torch.cat(level_choices)
    positive = choice < none
    chosen = choice[positive]
    out_labels = torch.full((len(all_points),), -1, dtype=torch.int64, device=all_points.device)
    out_labels[positive] = labels[order][chosen].long()
    ltrb = all_points.new_zeros(len(all_points), 4)
    ltrb[positive] = _distances(all_points[positive], boxes[chosen])
    return out_labels, ltrb


def _first_box(points: Tensor, reach: float, limits: tuple[float, float], boxes: Tensor) -> Tensor:
    """Index of the first fitting box for each point of a level, int64 [N_l]; M where none fits."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    low = torch.maximum(center - reach, boxes[:, :2])
    high = torch.minimum(center + reach, boxes[:, 2:])
    first = torch.full((len(points),), len(boxes), dtype=torch.int64, device=points.device)
    rows = max(1, _MAX_PAIRS // max(1, len(boxes)))
    for start in range(0, len(points), rows):
        chunk = points[start : start + rows].float()
        x, y = chunk[:, :1], chunk[:, 1:]
        # The cheap test leaves at most nine points a box and level; distances are computed for these alone.
        inside = (x > low[:, 0]).logical_and_(x < high[:, 0])
        inside.logical_and_(y > low[:, 1]).logical_and_(y < high[:, 1])
        point, box = inside.nonzero(as_tuple=True)
        largest = _distances(chunk[point], boxes[box]).amax(dim=1)
        in_range = (largest >= limits[0]) & (largest <= limits[1])
        first.scatter_reduce_(0, start + point[in_range], box[in_range], "amin")
    return first


def _distances(points: Tensor, boxes: Tensor) -> Tensor:
    return torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], dim=1)


def _check(
    points: Sequence[Tensor],
    strides: Sequence[int],
    regress_ranges: Sequence[tuple[float, float]],
    boxes: Tensor,
    labels: Tensor,
) -> None:
    if not len(points) == len(strides) == len(regress_ranges):
        raise ValueError(
            f"{len(points)} levels of points, {len(strides)} strides and {len(regress_ranges)} ranges: "
            "give one of each for every level"
        )
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise ValueError(
            f"boxes are {list(boxes.shape)} and labels {list(labels.shape)}, expected [M, 4] and [M]: an "
            "image without objects has boxes of shape [0, 4]"
        )
