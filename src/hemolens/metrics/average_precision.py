"""Average precision from ranked detections, by the two rules of the PASCAL VOC challenge.

Source: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 88, 2010, section 4.2 (11
points), and the VOC2010 development kit (all points).
"""

from typing import Literal

import torch
from torch import Tensor

Interpolation = Literal["11point", "area"]

# 3 of 10 found is the double 0.3, while the third grid point 0.1 + 0.1 + 0.1 is 0.30000000000000004. Without
# slack such a recall misses its own grid point.
RECALL_SLACK = 1e-9


def precision_recall(true_positive: Tensor, num_truth: int) -> tuple[Tensor, Tensor]:
    """Recall and precision after each detection.

    Args:
        true_positive: bool [N], detections in order of falling score.
        num_truth: number of ground-truth boxes, at least 1.

    Returns:
        ``recall`` and ``precision``, float64 [N].
    """
    found = true_positive.cumsum(0).double()
    return found / num_truth, found / torch.arange(1, len(found) + 1)


def average_precision(recall: Tensor, precision: Tensor, interpolation: Interpolation = "11point") -> float:
    """Average precision of one class.

    ``11point`` is the mean over the recalls 0, 0.1, ... 1 of the highest precision at that recall or beyond
    (0 where it is never reached). ``area`` is the area under the precision curve made monotone from the
    right.

    Args:
        recall: float64 [N], not falling.
        precision: float64 [N].
        interpolation: which of the two rules.
    """
    if len(recall) == 0:
        return 0.0
    envelope = precision.flip(0).cummax(0).values.flip(0)
    if interpolation == "area":
        return float((recall.diff(prepend=recall.new_zeros(1)) * envelope).sum())
    grid = torch.arange(11, dtype=torch.float64) / 10
    reached = torch.searchsorted(recall, grid - RECALL_SLACK)
    return float(torch.cat([envelope, envelope.new_zeros(1)])[reached].mean())
