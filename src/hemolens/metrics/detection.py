"""Detection metrics: mean average precision of PASCAL VOC, and the classification of matched cells.

Both take ``update(preds, targets)`` with one mapping an image and keep only the outcome of the matching, so
they are exact under any split over batches and processes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, get_args

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat
from torchvision.ops import nms

from hemolens.metrics.average_precision import Interpolation, average_precision, precision_recall
from hemolens.metrics.box_matching import PooledBoxes, match_best_overlap, match_one_to_one, pool_boxes

SIZES = ("small", "medium", "large")


class PrecisionRecallCurve(NamedTuple):
    """One class, detections in order of falling score: float64 [N] on the CPU, for plots.

    Recall and precision are those reached when every detection down to ``score`` is accepted. A class without
    ground truth has three empty arrays.
    """

    recall: Tensor
    precision: Tensor
    score: Tensor


class _DetectionMetric(Metric):
    """What the two metrics share: checked input, and one-element results that keep their shape."""

    is_differentiable = False
    full_state_update = False
    _class_axes: ClassVar[dict[str, int]] = {}  # results by class, and how many of their axes are classes

    def __init__(self, num_classes: int, iou_threshold: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}: at least 1 class (background is not counted) is needed")
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold is {iou_threshold}: choose one in (0, 1]")
        self.num_classes = num_classes
        self.iou_threshold = iou_threshold

    def _pool(
        self, preds: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]
    ) -> tuple[PooledBoxes, PooledBoxes]:
        if len(preds) != len(targets):
            raise ValueError(f"got {len(preds)} preds and {len(targets)} targets: pass one of each an image")
        return (
            pool_boxes(preds, "preds", self.num_classes, scored=True),
            pool_boxes(targets, "targets", self.num_classes, scored=False),
        )

    def _wrap_compute(self, compute: Callable) -> Callable:
        """Keep the shapes [1] and [1, 1] of a one-class metric: torchmetrics squeezes them to scalars."""
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def with_shapes(*args: Any, **kwargs: Any) -> dict[str, Any]:
            result = dict(wrapped(*args, **kwargs))
            for key, axes in self._class_axes.items():
                result[key] = result[key].reshape((self.num_classes,) * axes)
            return result

        return with_shapes


class VOCMeanAveragePrecision(_DetectionMetric):
    """Mean average precision by the rules of PASCAL VOC, as in MMDetection 2.24.

    For each class, over all images, detections are taken in order of falling score (equal scores in order of
    update). Each is compared with the one ground-truth box of its image and class that it overlaps most; with
    IoU >= ``iou_threshold`` it is a true positive if that box is still free, otherwise a false positive: it
    never falls through to the next box, unlike COCO's rule. Box sides are x2 - x1, without the extra pixel of
    the VOC devkit. A class without ground truth has no average precision (NaN) and is left out of the means.

    Args:
        num_classes: number of classes C, background not counted.
        iou_threshold: least IoU of a true positive, in (0, 1].
        interpolation: ``11point`` (VOC2007, the published figures) or ``area`` (VOC2010, all points).
        size_limits_px: limits in pixels of sqrt(box area) between small, medium and large ground truth; a box
            on the limit belongs to the larger size.
        min_boxes: classes with fewer ground-truth boxes are flagged as rare and left out of ``map_frequent``.
        **kwargs: passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: an argument is out of range.

    ``compute()`` gives
        ``map`` scalar: mean of the classes with ground truth (NaN if there is none);
        ``map_frequent`` scalar: mean of the classes with at least ``min_boxes`` boxes;
        ``ap_per_class`` float32 [C]; ``gt_per_class`` int64 [C];
        ``recall_by_size`` dict small/medium/large of scalars: share of ground-truth boxes of that size that
        some detection of their class matched, all classes pooled and all detections counted whatever their
        score (NaN without such boxes);
        ``rare_classes`` list of class indices with fewer than ``min_boxes`` boxes, those with none included.
    """

    higher_is_better = True
    _class_axes: ClassVar[dict[str, int]] = {"ap_per_class": 1, "gt_per_class": 1}

    # 1-D float32 lists are what torchmetrics can gather also from a process that saw no image.
    scores: list[Tensor]
    labels: list[Tensor]
    true_positive: list[Tensor]
    truth_count: Tensor
    truth_found: Tensor

    def __init__(
        self,
        num_classes: int,
        iou_threshold: float = 0.5,
        interpolation: Interpolation = "11point",
        *,
        size_limits_px: tuple[float, float] = (32.0, 96.0),
        min_boxes: int = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, iou_threshold, **kwargs)
        if interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation is {interpolation!r}: choose one of {get_args(Interpolation)}")
        if len(size_limits_px) != 2 or not 0 < size_limits_px[0] < size_limits_px[1]:
            raise ValueError(f"size_limits_px is {size_limits_px}: pass two rising lengths in pixels")
        self.interpolation = interpolation
        self.size_limits_px = (float(size_limits_px[0]), float(size_limits_px[1]))
        self.min_boxes = min_boxes
        for name in ("scores", "labels", "true_positive"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        for name in ("truth_count", "truth_found"):
            zeros = torch.zeros(len(SIZES), num_classes, dtype=torch.int64)
            self.add_state(name, default=zeros, dist_reduce_fx="sum")

    def update(self, preds: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Add a batch.

        Args:
            preds: for each image ``boxes`` [N, 4] xyxy px, ``labels`` int [N] in 0..C-1, ``scores`` [N]; any
                floating dtype. Scores are compared as float32.
            targets: for each image ``boxes`` [M, 4] and ``labels`` int [M]; other keys are ignored.

        Raises:
            ValueError: the lists differ in length or a sample is malformed; the message names the image.
        """
        detections, truth = self._pool(preds, targets)
        matches = match_best_overlap(detections, truth, self.num_classes, self.iou_threshold)
        true_positive = torch.zeros(len(detections.scores))
        true_positive[matches.detection] = 1
        self.scores.append(detections.scores.to(self.device))
        self.labels.append(detections.labels.float().to(self.device))
        self.true_positive.append(true_positive.to(self.device))
        found = truth.select(matches.truth)
        self.truth_count = self.truth_count + self._count_by_size(truth).to(self.device)
        self.truth_found = self.truth_found + self._count_by_size(found).to(self.device)

    def compute(self) -> dict[str, Any]:
        """The results listed in the class documentation, over all processes."""
        gt_per_class = self.truth_count.sum(dim=0)
        ap = torch.full((self.num_classes,), torch.nan)
        for index, curve in enumerate(self._curves()):
            if gt_per_class[index] > 0:
                ap[index] = average_precision(curve.recall, curve.precision, self.interpolation)
        ap = ap.to(self.device)
        recall = self.truth_found.sum(dim=1) / self.truth_count.sum(dim=1)  # 0 / 0 is NaN, as it should be
        frequent = gt_per_class >= max(self.min_boxes, 1)
        return {
            "map": ap.nanmean(),
            "map_frequent": ap[frequent].mean() if frequent.any() else ap.new_tensor(torch.nan),
            "ap_per_class": ap,
            "gt_per_class": gt_per_class,
            "recall_by_size": dict(zip(SIZES, recall.unbind(), strict=True)),
            "rare_classes": (gt_per_class < self.min_boxes).nonzero()[:, 0].tolist(),
        }

    def precision_recall_curves(self) -> list[PrecisionRecallCurve]:
        """The curve of each class over all processes; under DDP call it in every process, as ``compute``."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            return self._curves()

    def _curves(self) -> list[PrecisionRecallCurve]:
        scores, labels, true_positive = (self._joined(name) for name in ("scores", "labels", "true_positive"))
        order = scores.argsort(descending=True, stable=True)
        curves = []
        for index, num_truth in enumerate(self.truth_count.sum(dim=0).tolist()):
            ranked = order[labels[order] == index] if num_truth else order[:0]
            recall, precision = precision_recall(true_positive[ranked] > 0, max(num_truth, 1))
            curves.append(PrecisionRecallCurve(recall, precision, scores[ranked].double()))
        return curves

    def _joined(self, name: str) -> Tensor:
        state = getattr(self, name)
        # An empty list has nothing to join, and after a sync the state is one tensor already.
        return dim_zero_cat(state).cpu() if len(state) else torch.zeros(0)

    def _count_by_size(self, truth: PooledBoxes) -> Tensor:
        """Ground-truth boxes by size and class, int64 [3, C]."""
        side = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(dim=1).sqrt()
        size = torch.bucketize(side, torch.tensor(self.size_limits_px), right=True)
        cells = torch.bincount(size * self.num_classes + truth.labels, minlength=len(SIZES) * self.num_classes)
        return cells.reshape(len(SIZES), self.num_classes)


class MatchedClassification(_DetectionMetric):
    """Confusion matrix of the cells that were found, whatever class they were found as.

    Detections are cut at ``score_threshold`` and thinned by class-agnostic NMS; then, in order of falling
    score (equal scores in order of update), each takes the ground-truth box of its image that it overlaps
    most among those still free with IoU >= ``iou_threshold``, one to one. The figures describe matched cells
    only, as in the published table they are compared with, whose denominators leave missed cells out; so a
    detector that misses hard cells looks better here: read them with ``n_missed``, ``n_spurious`` and
    ``confusion_with_background``.

    Args:
        num_classes: number of classes C, background not counted.
        iou_threshold: least IoU of a match, in (0, 1].
        score_threshold: detections below it are dropped. The publication names none; 0.3 is the default of
            MMDetection's confusion-matrix tool, the toolbox used there.
        nms_iou: a detection that overlaps a better one of any class by more than this is dropped; None turns
            it off. 0.6 is the detector's own class-wise threshold, so only duplicates of another class are
            removed on top.
        **kwargs: passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: an argument is out of range.

    ``compute()`` gives (NaN where a denominator is 0)
        ``confusion`` int64 [C, C]: rows ground truth, columns predicted, matched cells;
        ``confusion_with_background`` int64 [C+1, C+1]: last column missed cells, last row spurious
        detections;
        ``precision``, ``recall``, ``f1`` float32 [C]: of the matched cells; f1 = 2 TP / (2 TP + FP + FN);
        ``weighted_f1`` scalar: f1 weighted by the matched ground truth of each class;
        ``found`` float32 [C]: share of all cells of a class, missed ones counted, that were found as that class;
        ``accuracy`` scalar: trace over matched cells;
        ``one_vs_rest_accuracy`` float32 [C]: (TP + TN) / (TP + TN + FP + FN) of each class against the rest;
        ``n_missed``, ``n_spurious`` int64 scalars.
    """

    higher_is_better = None
    _class_axes: ClassVar[dict[str, int]] = {
        "confusion": 2,
        "precision": 1,
        "recall": 1,
        "f1": 1,
        "found": 1,
        "one_vs_rest_accuracy": 1,
    }

    counts: Tensor

    def __init__(
        self,
        num_classes: int,
        iou_threshold: float = 0.5,
        *,
        score_threshold: float = 0.3,
        nms_iou: float | None = 0.6,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, iou_threshold, **kwargs)
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold is {score_threshold}: choose one in [0, 1]")
        if nms_iou is not None and not 0 < nms_iou <= 1:
            raise ValueError(f"nms_iou is {nms_iou}: choose one in (0, 1], or None for no suppression")
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        zeros = torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64)
        self.add_state("counts", default=zeros, dist_reduce_fx="sum")

    def update(self, preds: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Add a batch; arguments and errors as in :meth:`VOCMeanAveragePrecision.update`."""
        detections, truth = self._pool(preds, targets)
        detections = detections.select(detections.scores >= self.score_threshold)
        if self.nms_iou is not None:
            detections = _suppress(detections, self.nms_iou)
        matches = match_one_to_one(detections, truth, self.iou_threshold)
        background = self.num_classes
        predicted = torch.full_like(truth.labels, background)
        predicted[matches.truth] = detections.labels[matches.detection]
        spurious = torch.ones(len(detections.labels), dtype=torch.bool)
        spurious[matches.detection] = False
        actual = torch.cat([truth.labels, torch.full((int(spurious.sum()),), background)])
        predicted = torch.cat([predicted, detections.labels[spurious]])
        side = self.num_classes + 1
        cells = torch.bincount(actual * side + predicted, minlength=side * side)
        self.counts = self.counts + cells.reshape(side, side).to(self.device)

    def compute(self) -> dict[str, Any]:
        """The results listed in the class documentation, over all processes."""
        confusion = self.counts[:-1, :-1]
        hits, support, predicted = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
        matched = confusion.sum()
        f1 = 2 * hits / (support + predicted)
        errors = support + predicted - 2 * hits
        return {
            "confusion": confusion,
            "confusion_with_background": self.counts,
            "precision": hits / predicted,
            "recall": hits / support,
            "f1": f1,
            "found": hits / self.counts[:-1].sum(dim=1),
            "weighted_f1": (f1.nan_to_num() * support).sum() / matched,
            "accuracy": hits.sum() / matched,
            "one_vs_rest_accuracy": (matched - errors) / matched,
            "n_missed": self.counts[:-1, -1].sum(),
            "n_spurious": self.counts[-1, :-1].sum(),
        }


def _suppress(detections: PooledBoxes, nms_iou: float) -> PooledBoxes:
    """Class-agnostic NMS within each image, keeping the order of the batch."""
    counts = torch.bincount(detections.image).tolist()
    kept, start = [], 0
    for count in counts:
        rows = slice(start, start + count)
        kept.append(nms(detections.boxes[rows], detections.scores[rows], nms_iou).sort().values + start)
        start += count
    return detections.select(torch.cat(kept)) if kept else detections
