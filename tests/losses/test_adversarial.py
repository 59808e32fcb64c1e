"""Losses of adversarial networks against their formulas."""

import math

import pytest
import torch

from hemolens.losses.adversarial import discriminator_loss, generator_loss, r1_penalty


def test_against_the_formulas() -> None:
    real, fake = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([[-0.5], [1.5]])
    of_real = [-math.log(1 / (1 + math.exp(-value))) for value in real.tolist()]
    of_fake = [-math.log(1 - 1 / (1 + math.exp(-value))) for value in fake.flatten().tolist()]
    expected = sum(of_real) / 3 + sum(of_fake) / 2
    assert float(discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-5)
    fooled = [-math.log(1 / (1 + math.exp(-value))) for value in fake.flatten().tolist()]
    assert float(generator_loss(fake)) == pytest.approx(sum(fooled) / 2, rel=1e-5)


def test_undecided_discriminator_costs_log_2_and_large_logits_stay_finite() -> None:
    zero = torch.zeros(4)
    assert float(discriminator_loss(zero, zero)) == pytest.approx(2 * math.log(2))
    assert float(generator_loss(zero)) == pytest.approx(math.log(2))
    far = torch.tensor([-1e4], requires_grad=True)
    generator_loss(far).backward()
    assert far.grad is not None and float(far.grad) == pytest.approx(-1.0)  # does not saturate


def test_the_penalty_is_half_the_squared_gradient() -> None:
    slope = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    images = torch.randn(4, 1, 2, 2)
    linear = r1_penalty(lambda x: (x * slope).sum((1, 2, 3)), images)
    assert float(linear.detach()) == pytest.approx(float(slope.square().sum()) / 2)
    squared = r1_penalty(lambda x: x.square().sum((1, 2, 3)) / 2, images)  # whose gradient is the image
    assert float(squared.detach()) == pytest.approx(float(images.square().sum((1, 2, 3)).mean()) / 2, rel=1e-5)


def test_the_penalty_reaches_the_weights() -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    r1_penalty(lambda x: weight * x.sum((1, 2, 3)), torch.randn(2, 1, 2, 2)).backward()
    assert weight.grad is not None and float(weight.grad) == pytest.approx(4 * 3.0)  # of w^2 / 2 * 4 pixels
