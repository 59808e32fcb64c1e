"""Losses of segmentation: cross entropy and soft Dice."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hemolens.errors import UserError
from hemolens.losses.ranks import ALONE, Ranks, mean_cross_entropy


def soft_dice_loss(logits: Tensor, target: Tensor, *, smooth: float = 1.0, ranks: Ranks = ALONE) -> Tensor:
    """1 - mean over classes of (2 sum p t + s) / (sum p + sum t + s), sums over the batch (Milletari et al. 2016).

    Only classes that occur in the batch's truth count, the background included: an absent one would be scored on noise.

    Args:
        logits: float [B, K, H, W].
        target: class of each pixel, int64 [B, H, W].
        smooth: s, in pixels.
        ranks: the processes over which the sums go too.
    """
    count = logits.shape[1]
    probability = logits.float().softmax(1)
    truth = one_hot(target, count).movedim(-1, 1).to(probability)
    axes = (0, 2, 3)
    occurring = truth.sum(axes)
    sums = torch.stack([(probability * truth).sum(axes), probability.sum(axes) + occurring, occurring])
    shared, total, occurring = ranks.mean(sums)
    smooth = smooth / ranks.count  # as the sums are means over the processes
    return 1 - ((2 * shared + smooth) / (total + smooth))[occurring > 0].mean()


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    *,
    dice_weight: float = 1.0,
    class_weight: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Cross entropy plus ``dice_weight`` times soft Dice.

    Args:
        logits: float [B, K, H, W].
        target: class of each pixel, int64 [B, H, W].
        dice_weight: of the Dice term.
        class_weight: of the classes in the cross entropy, [K]; None: equal.
        ranks: the processes that share the batch; the mean of their gradients is the gradient of the whole batch.

    Returns:
        ``loss``, ``cross_entropy`` and ``dice``, scalars.

    Raises:
        UserError: shapes that do not fit.
    """
    if logits.ndim != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise UserError(f"logits {list(logits.shape)} and target {list(target.shape)}: give [B, K, H, W] and [B, H, W]")
    entropy = mean_cross_entropy(logits.float(), target, weight=class_weight, ranks=ranks)
    dice = soft_dice_loss(logits, target, ranks=ranks)
    return {"loss": entropy + dice_weight * dice, "cross_entropy": entropy, "dice": dice}
