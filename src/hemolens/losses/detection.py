"""Losses of FCOS: focal, GIoU, centerness. Averaging factors are the caller's, so ``sum`` is the default.

All are computed in float32 whatever the inputs, with autocast off or on.
Shape suffixes: N points or boxes, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss


def focal_loss(
    logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "sum"
) -> Tensor:
    """Sigmoid focal loss, −α_t (1 − p_t)^γ log p_t over every class (Lin et al., arXiv:1708.02002, eq. 5).

    Args:
        logits: [N, C].
        labels: Integers [N], 0…C−1; −1 = background, which is negative for every class.
        alpha: Weight of positives; negatives get 1 − alpha.
        gamma: Focusing exponent.
        reduction: ``sum``, ``mean`` over the N·C terms (0 if there are none), or ``none`` for [N, C].

    Raises:
        ValueError: Shapes do not agree, a label is outside −1…C−1, or the reduction is unknown.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits are {list(logits.shape)} and labels {list(labels.shape)}, expected [N, C] and [N]: "
            "flatten the levels and images first"
        )
    classes = logits.shape[1]
    if labels.is_floating_point():
        raise ValueError(f"labels are {labels.dtype}: give integers, −1 for background and 0…{classes - 1}")
    outside = labels[(labels < -1) | (labels >= classes)]
    if outside.numel():
        raise ValueError(
            f"label {int(outside[0])} is outside −1…{classes - 1}: give −1 for background, or set "
            "net.num_classes to the number of classes in the data"
        )
    one_hot = labels[:, None] == torch.arange(classes, device=labels.device)
    loss = sigmoid_focal_loss(logits.float(), one_hot.float(), alpha=alpha, gamma=gamma, reduction="none")
    return _reduce(loss, reduction)


def giou_loss(pred_xyxy: Tensor, target_xyxy: Tensor, weight: Tensor | None = None, reduction: str = "sum") -> Tensor:
    """1 − GIoU of pairs of boxes (Rezatofighi et al., arXiv:1902.09630), each times its weight.

    Args:
        pred_xyxy: [N, 4] with x1 ≤ x2 and y1 ≤ y2.
        target_xyxy: [N, 4], of positive area.
        weight: [N], FCOS gives the centerness targets; None for ones.
        reduction: ``sum``, ``mean`` over the N weighted terms (not over the weights; 0 if there are none), or
            ``none`` for [N].

    Raises:
        ValueError: Shapes do not agree, or the reduction is unknown.
    """
    if pred_xyxy.ndim != 2 or pred_xyxy.shape[1] != 4 or pred_xyxy.shape != target_xyxy.shape:
        raise ValueError(
            f"boxes are {list(pred_xyxy.shape)} and {list(target_xyxy.shape)}, expected [N, 4] both: "
            "select the positive points in predictions and targets alike"
        )
    if weight is not None and weight.shape != pred_xyxy.shape[:1]:
        raise ValueError(f"weight is {list(weight.shape)}, expected [{len(pred_xyxy)}]: one number a box")
    loss = generalized_box_iou_loss(pred_xyxy.float(), target_xyxy.float(), reduction="none")
    if weight is not None:
        loss = loss * weight.float()
    return _reduce(loss, reduction)


def centerness_target(ltrb: Tensor) -> Tensor:
    """sqrt(min(l, r)/max(l, r) · min(t, b)/max(t, b)) (arXiv:1904.01355, eq. 3).

    Args:
        ltrb: Distances [N, 4] to left, top, right, bottom, in any one unit.

    Returns:
        Float32 [N] in 0…1: 1 at the center; 0 on a side, outside, and for rows of zeros (background points).

    Raises:
        ValueError: ``ltrb`` is not [N, 4].
    """
    if ltrb.ndim != 2 or ltrb.shape[1] != 4:
        raise ValueError(f"ltrb is {list(ltrb.shape)}, expected [N, 4]: flatten the levels and images first")
    pairs = ltrb.float().reshape(-1, 2, 2)  # [N, (left top | right bottom), (x | y)]
    least, greatest = pairs.amin(dim=1).clamp(min=0), pairs.amax(dim=1)
    ratio = torch.where(greatest > 0, least / greatest, 0.0)
    return ratio.prod(dim=1).sqrt()


def centerness_loss(logits: Tensor, targets: Tensor, reduction: str = "sum") -> Tensor:
    """Binary cross-entropy of sigmoid(logits) with centerness targets (arXiv:1904.01355, 3.3).

    Args:
        logits: [N].
        targets: [N] in 0…1, from :func:`centerness_target`.
        reduction: ``sum``, ``mean`` (0 if there are no points), or ``none`` for [N].

    Raises:
        ValueError: Shapes do not agree, or the reduction is unknown.
    """
    if logits.ndim != 1 or logits.shape != targets.shape:
        raise ValueError(
            f"logits are {list(logits.shape)} and targets {list(targets.shape)}, expected [N] both: "
            "select the positive points in both"
        )
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return _reduce(loss, reduction)


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.sum() / max(1, loss.numel())  # an image without objects gives 0, not NaN
    if reduction == "none":
        return loss
    raise ValueError(f"reduction is {reduction!r}: choose 'sum', 'mean' or 'none'")
