"""Losses of segmentation against their formulas."""

import math

import pytest
import torch

from hemolens.errors import UserError
from hemolens.losses.segmentation import segmentation_loss, soft_dice_loss


def test_soft_dice_is_its_formula():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 6, 5), torch.randint(0, 3, (2, 6, 5))
    probability = logits.softmax(1)
    terms = []
    for number in range(3):  # class 3 is not in the truth
        truth = (target == number).float()
        shared, total = (probability[:, number] * truth).sum(), (probability[:, number] + truth).sum()
        terms.append((2 * shared + 1) / (total + 1))
    assert float(soft_dice_loss(logits, target)) == pytest.approx(1 - float(sum(terms)) / 3, abs=1e-6)


def test_perfect_and_worst():
    target = torch.randint(0, 3, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float() * 60
    found = segmentation_loss(right, target)
    assert float(found["dice"]) == pytest.approx(0, abs=1e-5)
    assert float(found["cross_entropy"]) == pytest.approx(0, abs=1e-5)
    flat = segmentation_loss(torch.zeros(1, 3, 8, 8), target, dice_weight=0.5)
    assert float(flat["cross_entropy"]) == pytest.approx(math.log(3))
    assert float(flat["loss"]) == pytest.approx(math.log(3) + 0.5 * float(flat["dice"]))


def test_gradients_and_shapes():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 4))
    segmentation_loss(logits, target, class_weight=torch.tensor([0.2, 1.0, 3.0]))["loss"].backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    with pytest.raises(UserError, match=r"\[B, K, H, W\]"):
        segmentation_loss(logits, target[:, :2])
