"""Losses of a batch that several processes share, each with a part of it.

DistributedDataParallel averages the gradients of the processes. That is the gradient of the whole batch only where each
process divides its sums by what is the same on all of them: the mean over the processes of a denominator, not its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy


def _itself(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class Ranks:
    """The processes that share a batch.

    Attributes:
        count: of them.
        mean: mean of a tensor over them, the same on all, whose gradient goes into the process's own part of it.
    """

    count: int = 1
    mean: Callable[[Tensor], Tensor] = _itself


ALONE = Ranks()


def mean_cross_entropy(
    logits: Tensor, target: Tensor, *, weight: Tensor | None = None, ranks: Ranks = ALONE, **options: Any
) -> Tensor:
    """``torch.nn.functional.cross_entropy``, whose mean over processes is the weighted mean of their whole batch.

    Args:
        logits: float [B, K, ...].
        target: class of each, int64 [B, ...].
        weight: of the classes, [K]; None: equal.
        ranks: who shares the batch.
        **options: ``label_smoothing``.
    """
    if ranks.count == 1:
        return cross_entropy(logits, target, weight=weight, **options)
    total = cross_entropy(logits, target, weight=weight, reduction="sum", **options)
    size = logits.new_tensor(target.numel()) if weight is None else weight[target].sum()
    return total / ranks.mean(size.detach().float())
