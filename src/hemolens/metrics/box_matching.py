"""Pool the boxes of a batch and match detections to ground truth, vectorised over images.

Matching is local to an image, so the metrics match at ``update`` and keep only its outcome: the result does
not depend on how images are split over batches or processes. All work is done on the CPU: it is a few hundred
boxes, and every step there is deterministic.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Pairs of boxes in one block: the temporaries of 2**17 float32 pairs stay in the L2 cache of a current CPU.
PAIRS_PER_BLOCK = 2**17


class PooledBoxes(NamedTuple):
    """The boxes of many images, one after the other, on the CPU.

    ``boxes`` float32 [N, 4] xyxy px; ``labels`` int64 [N]; ``scores`` float32 [N] (ones for ground truth);
    ``image`` int64 [N], the position of the image in the batch.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    image: Tensor

    def select(self, keep: Tensor) -> "PooledBoxes":
        """The rows named by a mask or an index tensor."""
        return PooledBoxes(*(column[keep] for column in self))


class Matches(NamedTuple):
    """Pairs that belong together: rows of the detections and rows of the ground truth, int64 [K] each."""

    detection: Tensor
    truth: Tensor


def pool_boxes(samples: Sequence[Mapping[str, Tensor]], name: str, num_classes: int, *, scored: bool) -> PooledBoxes:
    """Check one batch of boxes and join it.

    Args:
        samples: a mapping for each image: ``boxes`` floating [N, 4] xyxy px, ``labels`` integer [N] in
            0..num_classes-1 and, if ``scored``, ``scores`` floating [N] of any precision. N may be 0.
        name: what the samples are called in error messages; the image index is put behind it.
        num_classes: number of classes without background.
        scored: whether the samples are detections.

    Raises:
        ValueError: a key is missing, or a dtype, shape or value is not as above (boxes must be finite with
            x2 >= x1 and y2 >= y1, scores must not be NaN). The message names the image.
    """
    for index, sample in enumerate(samples):
        _check_layout(sample, f"{name}[{index}]", scored)
    counts = torch.tensor([len(sample["boxes"]) for sample in samples], dtype=torch.int64)
    image = torch.repeat_interleave(torch.arange(len(counts)), counts)
    boxes = _join([sample["boxes"] for sample in samples], torch.float32, (0, 4))
    labels = _join([sample["labels"] for sample in samples], torch.int64, (0,))
    scores = _join([sample["scores"] for sample in samples], torch.float32, (0,)) if scored else torch.ones(len(image))
    pooled = PooledBoxes(boxes, labels, scores, image)
    _check_values(pooled, name, num_classes)
    return pooled


def match_best_overlap(detections: PooledBoxes, truth: PooledBoxes, num_classes: int, iou_threshold: float) -> Matches:
    """True positives by the rule of PASCAL VOC, for each class apart.

    Each detection is compared with the one ground-truth box of its image and class that it overlaps most (the
    first of several equal ones); it never falls through to another. If IoU >= ``iou_threshold`` and no
    detection of higher score (or of equal score and earlier in the batch) has taken that box, the pair
    matches.
    """
    num_groups = num_classes * _num_images(detections, truth)
    found: list[tuple[Tensor, Tensor]] = []
    for rows, columns, iou in _iou_blocks(
        detections.boxes,
        detections.image * num_classes + detections.labels,
        truth.boxes,
        truth.image * num_classes + truth.labels,
        num_groups,
    ):
        best_iou, best = iou.max(dim=2)
        hit = best_iou >= iou_threshold
        found.append((rows[hit], columns.gather(1, best)[hit]))
    if not found:
        return _no_matches()
    detection, target = (torch.cat(parts) for parts in zip(*found, strict=True))
    by_rank = _score_rank(detections.scores)[detection].argsort()
    detection, target = detection[by_rank], target[by_rank]
    # Without fall-through the winner of a box is the first in score order that points at it: no loop needed.
    position = torch.arange(len(detection))
    first = torch.full((len(truth.boxes),), len(detection)).scatter_reduce(0, target, position, "amin")
    wins = first[target] == position
    return Matches(detection[wins], target[wins])


def match_one_to_one(detections: PooledBoxes, truth: PooledBoxes, iou_threshold: float) -> Matches:
    """Greedy one-to-one matching within each image, blind to the class.

    In order of falling score (stable), each detection takes the ground-truth box that it overlaps most among
    those still free with IoU >= ``iou_threshold``.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows, columns, iou in _iou_blocks(
        detections.boxes, detections.image, truth.boxes, truth.image, _num_images(detections, truth)
    ):
        segment, row, column = (iou >= iou_threshold).nonzero(as_tuple=True)
        found.append((rows[segment, row], columns[segment, column], iou[segment, row, column]))
    if not found:
        return _no_matches()
    detection, target, overlap = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = overlap.argsort(descending=True, stable=True)
    order = order[_score_rank(detections.scores)[detection[order]].argsort(stable=True)]
    # Few pairs overlap this much (about one a detection), so a plain loop over them costs next to nothing.
    used_detections: set[int] = set()
    used_targets: set[int] = set()
    kept: list[tuple[int, int]] = []
    for row, column in zip(detection[order].tolist(), target[order].tolist(), strict=True):
        if row not in used_detections and column not in used_targets:
            used_detections.add(row)
            used_targets.add(column)
            kept.append((row, column))
    pairs = torch.tensor(kept, dtype=torch.int64).reshape(-1, 2)
    return Matches(pairs[:, 0], pairs[:, 1])


def _iou_blocks(
    boxes: Tensor, group: Tensor, truth_boxes: Tensor, truth_group: Tensor, num_groups: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """IoU of the boxes that share a group, several groups at a time.

    Yields ``rows`` int64 [S, D] and ``columns`` int64 [S, M], indices into the two box lists, and ``iou``
    float32 [S, D, M]. Groups of like size are padded to one block; an entry that is only padding has IoU 0.
    """
    count, truth_count = (
        torch.bincount(group, minlength=num_groups),
        torch.bincount(truth_group, minlength=num_groups),
    )
    # Stable, so that within a group the order of the batch decides between equal overlaps.
    order, truth_order = group.argsort(stable=True), truth_group.argsort(stable=True)
    start, truth_start = count.cumsum(0) - count, truth_count.cumsum(0) - truth_count
    filled = ((count > 0) & (truth_count > 0)).nonzero()[:, 0]
    filled = filled[torch.maximum(count, truth_count)[filled].argsort(descending=True, stable=True)]
    for stop, length in _block_slices(count[filled].tolist(), truth_count[filled].tolist()):
        groups = filled[stop - length : stop]
        rows, row_padding = _padded_rows(order, start[groups], count[groups])
        columns, column_padding = _padded_rows(truth_order, truth_start[groups], truth_count[groups])
        yield (
            rows,
            columns,
            _iou(_corners(boxes, rows, row_padding), _corners(truth_boxes, columns, column_padding)),
        )


def _block_slices(counts: list[int], truth_counts: list[int]) -> Iterator[tuple[int, int]]:
    """Cut groups into blocks of at most PAIRS_PER_BLOCK padded pairs, or one group: (stop, length)."""
    begin = depth = width = 0
    for index, (count, truth_count) in enumerate(zip(counts, truth_counts, strict=True)):
        deeper, wider = max(depth, count), max(width, truth_count)
        if index > begin and (index - begin + 1) * deeper * wider > PAIRS_PER_BLOCK:
            yield index, index - begin
            begin, deeper, wider = index, count, truth_count
        depth, width = deeper, wider
    if counts:
        yield len(counts), len(counts) - begin


def _padded_rows(order: Tensor, start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Row indices [S, max(count)] of the groups that begin at ``start``, and a mask of the padding."""
    step = torch.arange(int(count.max()))
    return order[(start[:, None] + step).clamp_(max=len(order) - 1)], step >= count[:, None]


def _corners(boxes: Tensor, rows: Tensor, padding: Tensor) -> Tensor:
    """The corners [4, S, K] of the named boxes; padding becomes an empty box far from everything."""
    return boxes[rows].permute(2, 0, 1).masked_fill(padding, -1e9).contiguous()


def _iou(corners: Tensor, truth_corners: Tensor) -> Tensor:
    """IoU [S, D, M] of corners [4, S, D] and [4, S, M], without the extra pixel of the VOC devkit."""
    left, top, right, bottom = corners[..., None]
    truth_left, truth_top, truth_right, truth_bottom = truth_corners[:, :, None]
    width = (torch.minimum(right, truth_right) - torch.maximum(left, truth_left)).clamp_(min=0)
    height = (torch.minimum(bottom, truth_bottom) - torch.maximum(top, truth_top)).clamp_(min=0)
    intersection = width.mul_(height)
    area, truth_area = (
        (right - left) * (bottom - top),
        (truth_right - truth_left) * (truth_bottom - truth_top),
    )
    union = (area + truth_area).sub_(intersection)
    return intersection.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def _score_rank(scores: Tensor) -> Tensor:
    """Place of each score in falling order; equal scores keep their order."""
    rank = torch.empty(len(scores), dtype=torch.int64)
    rank[scores.argsort(descending=True, stable=True)] = torch.arange(len(scores))
    return rank


def _num_images(detections: PooledBoxes, truth: PooledBoxes) -> int:
    last = [int(pooled.image[-1]) for pooled in (detections, truth) if len(pooled.image)]
    return max(last, default=-1) + 1


def _no_matches() -> Matches:
    return Matches(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))


def _join(parts: list[Tensor], dtype: torch.dtype, empty_shape: tuple[int, ...]) -> Tensor:
    if not parts:
        return torch.empty(empty_shape, dtype=dtype)
    return torch.cat(parts).detach().to(device="cpu", dtype=dtype)


def _check_layout(sample: Mapping[str, Tensor], name: str, scored: bool) -> None:
    for key in ("boxes", "labels", "scores") if scored else ("boxes", "labels"):
        if key not in sample:
            raise ValueError(f"{name} has no '{key}': its keys are {sorted(sample)}")
        value = sample[key]
        if not isinstance(value, Tensor):
            raise ValueError(f"{name}['{key}'] is a {type(value).__name__}: pass a torch.Tensor")
        if value.is_floating_point() == (key == "labels") or value.dtype in (torch.bool, torch.complex64):
            wanted = "int64" if key == "labels" else "float32"
            raise ValueError(f"{name}['{key}'] is {value.dtype}: pass {wanted}")
    shape = sample["boxes"].shape
    if len(shape) != 2 or shape[1] != 4:
        raise ValueError(f"{name}['boxes'] has shape {tuple(shape)}: pass [N, 4], torch.zeros(0, 4) if there is none")
    for key in ("labels", "scores") if scored else ("labels",):
        if sample[key].shape != shape[:1]:
            raise ValueError(
                f"{name}['{key}'] has shape {tuple(sample[key].shape)} for {shape[0]} boxes: pass one each"
            )


def _check_values(pooled: PooledBoxes, name: str, num_classes: int) -> None:
    boxes, labels = pooled.boxes, pooled.labels
    rules = (
        (boxes.isfinite().all(dim=1), "boxes must be finite"),
        ((boxes[:, 2:] >= boxes[:, :2]).all(dim=1), "boxes must be xyxy with x2 >= x1 and y2 >= y1"),
        ((labels >= 0) & (labels < num_classes), f"labels must be in 0..{num_classes - 1} (no background)"),
        (~pooled.scores.isnan(), "scores must not be NaN"),
    )
    for valid, rule in rules:
        if not valid.all():
            row = int((~valid).nonzero()[0, 0])
            image = int(pooled.image[row])
            place = row - int((pooled.image < image).sum())
            box = [round(side, 2) for side in boxes[row].tolist()]
            raise ValueError(f"{name}[{image}]: {rule}; entry {place} has box {box}, label {int(labels[row])}")
