"""Networks of the diffusion GAN: published sizes, resampling, modulation, what they refuse."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from hemolens.errors import UserError
from hemolens.nets.ddgan.discriminator import DDGANDiscriminator
from hemolens.nets.ddgan.generator import DDGANGenerator, mask_generator, phase_generator
from hemolens.nets.ddgan.layers import (
    AdaptiveGroupNorm,
    FIRFilter,
    MinibatchStd,
    SmoothedDownConv,
    group_count,
    sinusoidal_embedding,
)

TINY: dict[str, Any] = {
    "image_px": 32,
    "width": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_px": [16],
    "latent_dim": 6,
    "style_features": 12,
    "mapping_depth": 1,
}


def count(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"channels": 5, "condition_channels": 1}, 142_318_341),  # paper B
        ({"channels": 5}, 142_316_037),
        ({"channels": 3, "width": 64}, 39_726_979),  # Xiao et al., LSUN and CelebA-HQ
        (
            {"channels": 3, "image_px": 32, "multipliers": [1, 2, 2, 2], "mapping_depth": 4},  # CIFAR-10
            48_432_515,
        ),
    ],
)
def test_published_sizes_of_the_generator(options: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        assert count(DDGANGenerator(**options)) == expected


def test_the_published_size_of_the_discriminator() -> None:
    with torch.device("meta"):
        assert count(DDGANDiscriminator(channels=5)) == 27_737_729


def test_a_generator_makes_images_in_range_of_any_multiple_of_its_stride() -> None:
    net = mask_generator(num_classes=5, in_channels=1, **TINY)
    for side in (32, 48):
        x, condition = torch.randn(2, 5, side, 32), torch.randn(2, 1, side, 32)
        made = net(x, torch.tensor([0, 3]), torch.randn(2, 6), condition)
        assert made.shape == x.shape and made.dtype == torch.float32
        assert float(made.detach().abs().max()) <= 1


def trained(net: torch.nn.Module) -> torch.nn.Module:
    """Branches that start as nothing, as training leaves them."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize("which", range(4))
def test_a_generator_heeds_each_of_its_inputs(which: int) -> None:
    torch.manual_seed(0)
    net = trained(phase_generator(num_classes=3, in_channels=1, of_mask=True, **TINY))
    inputs = [torch.randn(2, 1, 32, 32), torch.tensor([1, 1]), torch.randn(2, 6), torch.randn(2, 3, 32, 32)]
    before = net(*inputs)
    inputs[which] = torch.tensor([3, 3]) if which == 1 else inputs[which].roll(1, 0)
    assert not torch.allclose(net(*inputs), before, atol=1e-4)


def test_a_generator_refuses_a_condition_that_is_not_its_own() -> None:
    net = phase_generator(num_classes=3, in_channels=1, **TINY)
    x, t, z = torch.randn(1, 1, 32, 32), torch.zeros(1, dtype=torch.int64), torch.randn(1, 6)
    with pytest.raises(UserError, match="3 channels, where this generator takes 0"):
        net(x, t, z, torch.randn(1, 3, 32, 32))
    with pytest.raises(UserError, match="0 channels, where this generator takes 1"):
        mask_generator(num_classes=1, in_channels=1, **TINY)(x, t, z)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image_px": 33}, "multiples of 2"),
        ({"attention_px": [8]}, "the levels have 32, 16 px"),
        ({"width": 7}, "even"),
    ],
)
def test_a_generator_refuses_sizes_that_do_not_fit(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        DDGANGenerator(**(TINY | options))


def test_a_discriminator_heeds_both_images_the_step_and_the_condition() -> None:
    torch.manual_seed(0)
    net = DDGANDiscriminator(channels=2, condition_channels=1, widths=[8, 8, 8], time_features=8)
    inputs = [
        torch.randn(4, 2, 16, 16),
        torch.randn(4, 2, 16, 16),
        torch.tensor([0, 1, 2, 3]),
        torch.randn(4, 1, 16, 16),
    ]
    before = net(*inputs)
    assert before.shape == (4,) and before.dtype == torch.float32
    for place in range(4):
        changed = list(inputs)
        changed[place] = inputs[place].roll(1, 0)
        assert not torch.allclose(net(*changed), before), place
    with pytest.raises(UserError, match="wants a condition of 1"):
        net(*inputs[:3])
    with pytest.raises(UserError, match="at least two"):
        DDGANDiscriminator(widths=[8])


def test_the_filter_keeps_a_constant_and_removes_the_finest_stripes() -> None:
    filters = FIRFilter()
    flat = torch.full((1, 2, 16, 16), 3.0)
    assert torch.allclose(filters.halved(flat)[..., 1:-1, 1:-1], torch.tensor(3.0))
    assert torch.allclose(filters.doubled(flat), torch.tensor(3.0))
    spread = torch.randn(1, 3, 6, 6)  # zeros between the pixels, then the filter
    taps = 4 * filters.taps.expand(3, 1, -1, -1)
    literal = torch.nn.functional.conv_transpose2d(spread, taps, stride=2, padding=1, groups=3)
    torch.testing.assert_close(filters.doubled(spread)[..., 1:-1, 1:-1], literal[..., 1:-1, 1:-1])
    assert filters.halved(flat).shape == (1, 2, 8, 8) and filters.doubled(flat).shape == (1, 2, 32, 32)
    stripes = torch.ones(1, 1, 16, 16)
    stripes[..., ::2] = -1
    assert float(filters.halved(stripes)[..., 1:-1].abs().max()) < 1e-6  # plain striding would keep them all


def test_halving_is_a_literal_convolution() -> None:
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    taps = np.array([1, 3, 3, 1]) / 8
    padded = np.pad(x[0, 0].numpy(), 1)
    expected = np.array(
        [
            [(padded[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] * np.outer(taps, taps)).sum() for j in range(3)]
            for i in range(3)
        ]
    )
    np.testing.assert_allclose(FIRFilter().halved(x)[0, 0], expected, atol=1e-6)


def test_a_smoothed_convolution_halves() -> None:
    assert SmoothedDownConv(3, 4)(torch.randn(2, 3, 10, 12)).shape == (2, 4, 5, 6)


def test_an_adaptive_norm_starts_as_a_plain_one() -> None:
    norm = AdaptiveGroupNorm(8, 4)
    x = torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        norm.style.weight.zero_()
    torch.testing.assert_close(norm(x, torch.randn(2, 4)), torch.nn.functional.group_norm(x, 2, eps=1e-6))


def test_a_generator_starts_at_zero() -> None:
    net = phase_generator(num_classes=3, in_channels=1, **TINY)
    with torch.no_grad():
        made = net(torch.randn(2, 1, 32, 32), torch.tensor([0, 3]), torch.randn(2, 6))
    assert float(made.abs().max()) < 1e-2
    assert float(net.down[0].blocks[0].conv_out.weight.detach().abs().max()) < 1e-5


def test_group_counts_divide_their_channels() -> None:
    assert [group_count(channels) for channels in (1, 4, 8, 48, 128, 144, 1024)] == [1, 1, 2, 12, 32, 24, 32]
    assert all(channels % group_count(channels) == 0 for channels in range(1, 300))


def test_the_embedding_is_literal() -> None:
    made = sinusoidal_embedding(torch.tensor([3]), 8)[0].tolist()
    frequencies = [math.exp(-math.log(10_000) * index / 3) for index in range(4)]
    expected = [math.sin(3 * f) for f in frequencies] + [math.cos(3 * f) for f in frequencies]
    assert made == pytest.approx(expected, abs=1e-5)


def test_the_minibatch_channel_tells_equal_images() -> None:
    same = torch.randn(1, 3, 4, 4).expand(4, -1, -1, -1)
    assert float(MinibatchStd()(same)[:, 3].max()) < 2e-4
    for count in (1, 2, 3, 5, 6):  # the last batch of an epoch is short
        assert MinibatchStd()(torch.randn(count, 3, 4, 4)).shape == (count, 4, 4, 4)
    mixed = torch.cat([same, torch.randn(4, 3, 4, 4)])
    spread = MinibatchStd(4)(mixed)[:, 3, 0, 0]
    # groups of 4 take every second image, so that each is half equal images
    literal = [
        mixed[[0 + place, 2 + place, 4 + place, 6 + place]].var(0, unbiased=False).add(1e-8).sqrt().mean()
        for place in (0, 1)
    ]
    torch.testing.assert_close(spread, torch.stack(literal * 4))
