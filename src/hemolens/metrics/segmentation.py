"""Scores of segmented cells: Dice, aggregated Jaccard index, and the type of each cell.

Class maps hold 0 for the background and 1 to K - 1 for the types, instance maps 0 and any positive numbers for cells.
Per image a class that is in neither truth nor prediction has no score (NaN); how that enters a mean is a convention
(``empty``), and all conventions are reported: ``one`` counts it as 1, which inflates the scores of rare classes,
``skip`` leaves it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from hemolens.errors import UserError


def dice_score(pred: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """2 |P n T| / (|P| + |T|) of each class in each image.

    Args:
        pred: class of each pixel, int [B, H, W] (or [H, W]).
        target: the same of the truth.
        num_classes: K, with the background.

    Returns:
        float64 [B, K] ([K] for one image); NaN where a class is in neither.

    Raises:
        UserError: shapes that differ, or a class out of range.
    """
    single = pred.ndim == 2
    shared, predicted, true = _pixel_counts(pred, target, num_classes)
    score = 2 * shared / (predicted + true)  # 0 / 0 is NaN
    return score[0] if single else score


def _pixel_counts(pred: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of each class in both, in the prediction, and in the truth, float64 [B, K] each."""
    if pred.shape != target.shape or pred.ndim not in (2, 3):
        raise UserError(f"prediction {list(pred.shape)}, truth {list(target.shape)}: give two [B, H, W] of one shape")
    p, t = (values.reshape(-1, *values.shape[-2:]).flatten(1).long() for values in (pred, target))
    low, high = int(min(p.min(), t.min())), int(max(p.max(), t.max()))
    if low < 0 or high >= num_classes:
        raise UserError(f"classes from {low} to {high}: expected 0 to {num_classes - 1}")
    offset = torch.arange(len(p), device=p.device)[:, None] * num_classes**2
    joint = torch.bincount((offset + t * num_classes + p).flatten(), minlength=len(p) * num_classes**2)
    table = joint.reshape(len(p), num_classes, num_classes).double()
    return table.diagonal(dim1=1, dim2=2), table.sum(1), table.sum(2)


def aggregated_jaccard_index(pred_instances: Tensor, true_instances: Tensor) -> float:
    """Aggregated Jaccard index of one image (Kumar et al. 2017).

    Each true cell takes the prediction of largest intersection over union, which another may take too; their
    intersections are added up and divided by the sum of their unions, of the true cells that no prediction meets, and
    of the predictions that nobody took.

    Args:
        pred_instances: int [H, W].
        true_instances: int [H, W].

    Returns:
        0 to 1; NaN where there are neither true cells nor predictions.

    Raises:
        UserError: shapes that differ.
    """
    return _jaccard(overlap_table(pred_instances, true_instances))


@dataclass(frozen=True, eq=False)
class Overlaps:
    """How true cells and predictions of one image overlap; cells and predictions by rising number.

    Attributes:
        true_areas: float64 [T], pixels.
        pred_areas: float64 [P].
        rows: int64 [N], true cell of each pair that shares a pixel.
        columns: int64 [N], prediction of each pair.
        shared: float64 [N], pixels of both.
    """

    true_areas: NDArray[np.float64]
    pred_areas: NDArray[np.float64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    shared: NDArray[np.float64]

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each pair, float64 [N]."""
        return self.shared / (self.true_areas[self.rows] + self.pred_areas[self.columns] - self.shared)

    def best(self, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Pair of largest IoU of each true cell among the allowed pairs [N], int64 [T]; -1 for none."""
        pairs = np.arange(len(self.rows)) if allowed is None else np.flatnonzero(allowed)
        order = pairs[np.lexsort((-self.columns[pairs], self.iou[pairs], self.rows[pairs]))]
        found = np.full(len(self.true_areas), -1)
        found[self.rows[order]] = order  # the last of each true cell stays: of equals that with the lowest number
        return found


def overlap_table(pred_instances: Tensor, true_instances: Tensor) -> Overlaps:
    """Count all overlaps in one pass over the pixels.

    Raises:
        UserError: shapes that differ, or negative numbers.
    """
    if pred_instances.shape != true_instances.shape or pred_instances.ndim != 2:
        raise UserError(
            f"instance maps {list(pred_instances.shape)} and {list(true_instances.shape)}: give two [H, W] of one shape"
        )
    pred, true = (values.reshape(-1).cpu().numpy() for values in (pred_instances, true_instances))
    if not true.size:
        raise UserError("the instance maps have no pixels")
    # runs of pixels with the same pair of numbers: some hundred times fewer than pixels
    starts = np.flatnonzero(np.concatenate([[True], (true[1:] != true[:-1]) | (pred[1:] != pred[:-1])]))
    lengths = np.diff(np.append(starts, true.size)).astype(np.float64)
    (pred_count, pred_runs), (true_count, true_runs) = _numbered(pred[starts]), _numbered(true[starts])
    true_areas = np.bincount(true_runs, weights=lengths, minlength=true_count + 1)[1:].astype(np.float64)
    pred_areas = np.bincount(pred_runs, weights=lengths, minlength=pred_count + 1)[1:].astype(np.float64)
    both = (true_runs > 0) & (pred_runs > 0)
    keys, place = np.unique((true_runs[both] - 1) * pred_count + pred_runs[both] - 1, return_inverse=True)
    shared = np.bincount(place, weights=lengths[both], minlength=len(keys)).astype(np.float64)
    rows, columns = np.divmod(keys, max(pred_count, 1))
    return Overlaps(true_areas, pred_areas, rows, columns, shared)


def _numbered(values: NDArray[Any]) -> tuple[int, NDArray[np.int64]]:
    """How many different positive numbers there are, and 0 for the background, 1, 2, ... for them by rising number."""
    flat = values.astype(np.int64)
    if not flat.size:
        return 0, flat
    if int(flat.min()) < 0:
        raise UserError("an instance map holds negative numbers: 0 is the background, cells are positive")
    highest = int(flat.max())
    if highest > 4 * flat.size + 1024:  # too sparse for a table
        ids, place = np.unique(flat, return_inverse=True)
        has_background = int(ids[0] == 0)
        return len(ids) - has_background, place.reshape(flat.shape) + 1 - has_background
    present = np.zeros(highest + 1, bool)
    present[flat] = True
    present[0] = False
    numbers = np.cumsum(present) * present
    return int(present.sum()), numbers[flat]


def _jaccard(
    overlaps: Overlaps, chosen: NDArray[np.bool_] | None = None, offered: NDArray[np.bool_] | None = None
) -> float:
    """Aggregated Jaccard index of the chosen true cells [T] and the offered predictions [P]; NaN where there are
    neither."""
    true = np.ones(len(overlaps.true_areas), bool) if chosen is None else chosen
    pred = np.ones(len(overlaps.pred_areas), bool) if offered is None else offered
    best = overlaps.best(true[overlaps.rows] & pred[overlaps.columns])
    pairs = best[best >= 0]
    rows, columns, shared = overlaps.rows[pairs], overlaps.columns[pairs], overlaps.shared[pairs]
    unused = pred.copy()
    unused[columns] = False
    union = (overlaps.true_areas[rows] + overlaps.pred_areas[columns] - shared).sum()
    total = union + overlaps.true_areas[true & (best < 0)].sum() + overlaps.pred_areas[unused].sum()
    return float(shared.sum() / total) if total else float("nan")


def touching_cells(instances: Tensor, gap_px: int = 1) -> Tensor:
    """Whether each cell of an instance map [H, W] has at most ``gap_px`` pixels between it and another, bool [T], cells
    by rising number."""
    count, numbers = _numbered(instances.cpu().numpy())
    image = torch.from_numpy(numbers)
    height, width = image.shape
    touching = torch.zeros(count + 1, dtype=torch.bool)
    reach = gap_px + 1
    for dy in range(reach + 1):
        for dx in range(-reach, reach + 1):
            if dy == 0 and dx <= 0:
                continue
            here = image[: height - dy, max(-dx, 0) : width - max(dx, 0)]
            there = image[dy:, max(dx, 0) : width + min(dx, 0)]
            meet = (here > 0) & (there > 0) & (here != there)
            touching[here[meet]] = True
            touching[there[meet]] = True
    return touching[1:]


class SegmentationScores(Metric):
    """Dice, aggregated Jaccard index and cell types of a set of images, one update a batch, right under DDP.

    Results, with types in order, background left out:

    - ``dice_skip``, ``dice_one``, ``aji_skip``, ``aji_one`` [K - 1]: mean over images by both conventions; an image
      with a class that is only in the prediction or only in the truth counts with its score, 0. ``dice_pooled``
      [K - 1]: of all pixels together.
    - ``dice``, ``aji``: unweighted mean of the types under ``skip``; ``dice_paper``, ``aji_paper`` under ``one``.
    - ``dice_images``, ``aji_images`` [N, K - 1]: of each image, NaN where neither truth nor prediction holds the type;
      in the order of the updates (of one process).
    - ``types`` [K - 1, K]: true cells by type and by the class of most of their pixels; column 0: missed.
    - ``spurious``: predicted cells an image most of whose pixels are background; ``spurious_types`` [K - 1]: how many
      of each predicted type in all images.
    - ``type_accuracy`` [K - 1]: share of the true cells of a type with the right class; ``mixed_type_rate``: share of
      all true cells in which at least two types each hold 10 % of the pixels.
    - ``cell_dice_touching``, ``cell_dice_isolated``, ``type_accuracy_touching``, ``type_accuracy_isolated``: over true
      cells that touch another and over those that do not; Dice of a cell with the prediction of largest IoU.

    Args:
        num_classes: K, with the background.
    """

    is_differentiable = False
    full_state_update = False
    dice_images: list[Tensor]
    aji_images: list[Tensor]
    cells: list[Tensor]
    spurious_images: list[Tensor]
    pooled: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: at least the background and one type are needed")
        self.num_classes = num_classes
        for name in ("dice_images", "aji_images", "cells", "spurious_images"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("pooled", default=torch.zeros(3, num_classes - 1, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, pred: Tensor, target: Tensor, pred_instances: Tensor, true_instances: Tensor) -> None:
        """Add a batch of whole images.

        Args:
            pred: class of each pixel, int [B, H, W].
            target: the same of the truth.
            pred_instances: predicted cells, int [B, H, W].
            true_instances: true cells, int [B, H, W].
        """
        shared, predicted, true = _pixel_counts(pred, target, self.num_classes)
        self.pooled += torch.stack([shared.sum(0), predicted.sum(0), true.sum(0)])[:, 1:].to(self.pooled.device)
        self.dice_images.append((2 * shared / (predicted + true))[:, 1:])
        for image in zip(pred, target, pred_instances, true_instances, strict=True):
            self._add_cells(*image)

    def _add_cells(self, pred: Tensor, target: Tensor, pred_instances: Tensor, true_instances: Tensor) -> None:
        overlaps = overlap_table(pred_instances, true_instances)
        true_classes = class_counts(true_instances, target, self.num_classes)
        types = true_classes[:, 1:].argmax(1) + 1
        pred_types = class_counts(pred_instances, pred, self.num_classes)[:, 1:].argmax(1) + 1
        on_truth = class_counts(pred_instances, target, self.num_classes)
        spurious = torch.bincount(pred_types[on_truth[:, 0] > on_truth.sum(1) / 2] - 1, minlength=self.num_classes - 1)
        seen = class_counts(true_instances, pred, self.num_classes)
        mixed = (seen[:, 1:] >= 0.1 * seen.sum(1, keepdim=True)).sum(1) >= 2
        touching = touching_cells(true_instances)
        best = overlaps.best()
        found = np.flatnonzero(best >= 0)
        columns, shared = overlaps.columns[best[found]], overlaps.shared[best[found]]
        cell_dice = np.zeros(len(best))
        cell_dice[found] = 2 * shared / (overlaps.true_areas[found] + overlaps.pred_areas[columns])
        dice = torch.from_numpy(cell_dice)
        device = self.pooled.device
        rows = [types.double(), seen.argmax(1).double(), mixed.double(), touching.double(), dice]
        self.cells.append(torch.stack(rows, dim=1).to(device))
        self.spurious_images.append(spurious.double()[None].to(device))
        scores = [
            _jaccard(overlaps, (types == number).numpy(), (pred_types == number).numpy())
            for number in range(1, self.num_classes)
        ]
        self.aji_images.append(torch.tensor([scores], dtype=torch.float64, device=device))

    def compute(self) -> dict[str, Tensor]:
        """All scores, see the class."""
        count = self.num_classes - 1
        dice, aji = _joined(self.dice_images, count), _joined(self.aji_images, count)
        cells, spurious = _joined(self.cells, 5), _joined(self.spurious_images, count)
        shared, predicted, true = self.pooled
        results = {"dice_pooled": 2 * shared / (predicted + true)}
        for name, values in (("dice", dice), ("aji", aji)):
            results[f"{name}_images"] = values
            results[f"{name}_skip"] = values.nanmean(0)
            results[f"{name}_one"] = values.nan_to_num(1.0).mean(0)
            results[name] = results[f"{name}_skip"].nanmean()
            results[f"{name}_paper"] = results[f"{name}_one"].mean()
        types, seen, mixed, touching, cell_dice = cells.unbind(1)
        table = torch.bincount((types.long() - 1) * self.num_classes + seen.long(), minlength=count * self.num_classes)
        results["types"] = table.reshape(count, self.num_classes)
        right = types == seen
        results["type_accuracy"] = torch.stack([right[types == n + 1].double().mean() for n in range(count)])
        results["mixed_type_rate"] = mixed.mean()
        results["spurious"] = spurious.sum(1).mean()
        results["spurious_types"] = spurious.sum(0)
        for name, chosen in (("touching", touching > 0), ("isolated", touching == 0)):
            results[f"cell_dice_{name}"] = cell_dice[chosen].mean()
            results[f"type_accuracy_{name}"] = right[chosen].double().mean()
        return results


def _joined(parts: Sequence[Tensor] | Tensor, columns: int) -> Tensor:
    """The rows of all updates; after a reduction across processes they are one tensor already."""
    if isinstance(parts, Tensor):
        return parts
    return torch.cat(list(parts)) if parts else torch.zeros((0, columns), dtype=torch.float64)


def class_counts(instances: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Pixels of each class in each cell, int64 [T, K], cells by rising number."""
    count, numbers = _numbered(instances.reshape(-1).cpu().numpy())
    pairs = torch.from_numpy(numbers) * num_classes + classes.reshape(-1).long().cpu()
    return torch.bincount(pairs, minlength=(count + 1) * num_classes).reshape(-1, num_classes)[1:]
