"""Losses of conditional GANs against their formulas."""

import math

import pytest
import torch

from hemolens.losses.adversarial import discriminator_loss, generator_loss


def test_against_the_formulas() -> None:
    real, fake = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([[-0.5], [1.5]])
    of_real = [-math.log(1 / (1 + math.exp(-value))) for value in real.tolist()]
    of_fake = [-math.log(1 - 1 / (1 + math.exp(-value))) for value in fake.flatten().tolist()]
    expected = (sum(of_real) / 3 + sum(of_fake) / 2) / 2
    assert float(discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-5)
    fooled = [-math.log(1 / (1 + math.exp(-value))) for value in fake.flatten().tolist()]
    assert float(generator_loss(fake)) == pytest.approx(sum(fooled) / 2, rel=1e-5)


def test_undecided_discriminator_costs_log_2_and_large_logits_stay_finite() -> None:
    zero = torch.zeros(4)
    assert float(discriminator_loss(zero, zero)) == pytest.approx(math.log(2))
    assert float(generator_loss(zero)) == pytest.approx(math.log(2))
    far = torch.tensor([-1e4], requires_grad=True)
    generator_loss(far).backward()
    assert far.grad is not None and float(far.grad) == pytest.approx(-1.0)  # does not saturate
