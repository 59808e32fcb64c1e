"""Losses of two processes with unlike parts of a batch: their mean, and that of their gradients, is the whole's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hemolens.losses.ranks import Ranks, mean_cross_entropy
from hemolens.losses.segmentation import segmentation_loss

WEIGHT = torch.tensor([0.2, 1.0, 3.0])
Loss = Callable[..., Tensor]


def on_two(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
    """Mean of the losses of two processes, each with its half and what the other brings to the means."""
    halves = list(zip(logits.chunk(2), target.chunk(2), strict=True))
    told: list[list[Tensor]] = []
    for half in halves:
        told.append([])
        loss(*half, ranks=Ranks(2, lambda value: told[-1].append(value.detach()) or value))
    means = [(one + two) / 2 for one, two in zip(*told, strict=True)]
    losses = []
    for half in halves:
        left = iter(means)
        losses.append(loss(*half, ranks=Ranks(2, lambda value, left=left: next(left) + (value - value.detach()))))
    return (losses[0] + losses[1]) / 2


@pytest.mark.parametrize(
    "loss",
    [
        lambda *given, **who: segmentation_loss(*given, class_weight=WEIGHT, dice_weight=0.7, **who)["loss"],
        lambda *given, **who: segmentation_loss(*given, **who)["dice"],
        lambda *given, **who: mean_cross_entropy(*given, weight=WEIGHT, label_smoothing=0.1, **who),
        lambda *given, **who: mean_cross_entropy(*given, **who),
    ],
)
def test_the_mean_over_processes_is_the_whole(loss: Any) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 6, 5, requires_grad=True)
    target = torch.zeros(4, 6, 5, dtype=torch.int64)
    target[0, :3], target[3, 2:] = 1, 2  # each class but the background on one process only
    together, apart = loss(logits, target), on_two(loss, logits, target)
    assert float(apart.detach()) == pytest.approx(float(together.detach()), abs=1e-6)
    expected, found = (torch.autograd.grad(value, logits)[0] for value in (together, apart))
    assert float(expected.abs().max()) > 1e-4
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)
