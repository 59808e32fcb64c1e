"""Which images to correct first: those in which the detector wavers between classes, or between a cell and none.

Sources: the 1-vs-2 margin of a detection, (1 - (p1 - p2))^2, and its sum over an image: Brust, Kaeding and Denzler,
Active Learning for Deep Object Detection (VISAPP 2019, arXiv:1809.09875), who found the sum the best of sum, mean and
maximum. Theirs are class probabilities that sum to 1; FCOS gives one probability a class, so "no cell" is counted here
as a further class with 1 - max p [choice]. Without it every faint box beside a cell would count as most uncertain.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

AMBIGUOUS_MARGIN = 0.2  # of the two best classes, below which a cell is called ambiguous [choice]
# A faint box is a near miss from this score on (the usual one of the network's own cut), and up to this IoU with a
# better box; above it is a part of that cell, of which each has several [choice]
NEAR_MISS_SCORE, NEAR_MISS_IOU = 0.05, 0.3


@dataclass(frozen=True)
class ImageUncertainty:
    """How much a detector wavers in one image.

    Attributes:
        total: sum of the 1-vs-2 margins of its cells and near misses, 0 or more.
        n_cells: cells, each counted once, with a score of at least the threshold.
        n_ambiguous: those whose two best classes lie within ``AMBIGUOUS_MARGIN`` of each other.
        n_near_misses: possible cells with a lower score.
        most_confused: the two classes that ambiguous cells lie between most often, e.g. ``RBC/ARBC``; empty without.
    """

    total: float
    n_cells: int
    n_ambiguous: int
    n_near_misses: int
    most_confused: str

    @property
    def mean(self) -> float:
        """Of a cell or near miss; 0 where there is none."""
        return self.total / max(1, self.n_cells + self.n_near_misses)


def margins(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """The 1-vs-2 margin measure of each detection.

    Args:
        probabilities: float [N, C], of each class by itself, 0 to 1.

    Returns:
        float64 [N], 0 (certain) to 1: (1 - (q1 - q2))^2 of the two largest among the C and 1 - their maximum.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    background = 1 - values.max(axis=1, keepdims=True)
    ordered = np.sort(np.concatenate([values, background], axis=1), axis=1)
    return np.asarray((1 - (ordered[:, -1] - ordered[:, -2])) ** 2)


def image_uncertainty(
    found: Mapping[str, NDArray[Any]], class_names: Sequence[str], *, score_threshold: float, nms_iou: float
) -> ImageUncertainty:
    """What :func:`margins` of an image's detections come to.

    A cell that was found as two classes is one cell: of boxes that overlap, whatever their class, the best stays. A
    fainter box is a near miss from ``NEAR_MISS_SCORE`` on, where it overlaps no better one by more than
    ``NEAR_MISS_IOU``.

    Args:
        found: ``boxes`` [N, 4], ``scores`` [N] and ``probabilities`` [N, C], also of detections below the threshold.
        class_names: C names.
        score_threshold: from which a detection counts as a cell.
        nms_iou: IoU above which two boxes are of one cell.
    """
    boxes, scores = (torch.as_tensor(found[name]).float() for name in ("boxes", "scores"))
    kept = nms(boxes, scores, nms_iou)
    faint = scores[kept] < score_threshold
    apart = torch.isin(kept, kept[nms(boxes[kept], scores[kept], NEAR_MISS_IOU)])
    taken = ~faint | (apart & (scores[kept] >= NEAR_MISS_SCORE))
    kept, faint = kept[taken], faint[taken]
    probabilities, counted = found["probabilities"][kept.numpy()], ~faint.numpy()
    pairs: Counter[tuple[int, int]] = Counter()
    if len(class_names) > 1:
        for row in probabilities[counted]:
            first, second = np.argsort(-row, kind="stable")[:2].tolist()
            if row[first] - row[second] < AMBIGUOUS_MARGIN:
                pairs[min(first, second), max(first, second)] += 1
    confused = [class_names[label] for label in min(pairs, key=lambda pair: (-pairs[pair], pair))] if pairs else []
    return ImageUncertainty(
        total=float(margins(probabilities).sum()) if len(kept) else 0.0,
        n_cells=int(counted.sum()),
        n_ambiguous=pairs.total(),
        n_near_misses=int((~counted).sum()),
        most_confused="/".join(confused),
    )
