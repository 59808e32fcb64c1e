"""Unwrapping against the truth and scikit-image, and flattening."""

import numpy as np
import pytest
import torch
from skimage.restoration import unwrap_phase

from hemolens.errors import UserError
from hemolens.optics.holography import count_residues, flatten, level_field, unwrap
from hemolens.optics.holography.unwrapping import MANY_RESIDUES, _cosines

from .scenes import discs, turns_apart


def wrapped(phase, noise, seed=0):
    rng = np.random.default_rng(seed)
    return np.angle(np.exp(1j * (phase + noise * rng.standard_normal(phase.shape)))).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.15, 0.3, 0.5])
@pytest.mark.parametrize("scale", [1.0, 2.3])
def test_equals_scikit_image_on_red_cells(noise, scale):
    phase, _, _ = discs(400, 12, spheres=4)
    image = wrapped(scale * phase, noise)
    found = unwrap(image)
    assert (np.abs(turns_apart(found, unwrap_phase(image))) > 1e-3).mean() <= 3e-5
    turns = (found - image) / (2 * np.pi)
    assert np.abs(turns - np.round(turns)).max() < 1e-5
    assert -np.pi < np.median(found) <= np.pi


def test_many_residues_go_through_scikit_image():
    phase, _, _ = discs(300, 6)
    image = wrapped(phase, 0.8)
    assert count_residues(image) > MANY_RESIDUES * image.size
    assert np.abs(turns_apart(unwrap(image), unwrap_phase(image))).max() < 1e-3


def test_few_residues_far_apart():
    # A disc whose phase winds up along its rim, from 0 to 6 rad: two residues where it starts, and a true cliff.
    y, x = np.mgrid[-150:150, -150:150] + 0.5
    angle = np.arctan2(y, x)
    phase = np.where(np.hypot(y, x) < 90, (angle + np.pi) / (2 * np.pi) * 6.0, 0.0)
    image = np.angle(np.exp(1j * phase)).astype(np.float32)
    assert 0 < count_residues(image) < MANY_RESIDUES * image.size
    ours, theirs = (np.abs(turns_apart(found, phase)) > 1 for found in (unwrap(image), unwrap_phase(image)))
    assert ours.mean() <= theirs.mean() + 1e-3


def test_nothing_to_unwrap():
    image = wrapped(discs(200, 4)[0], 0.05)
    found = unwrap(image)
    assert np.array_equal(found, image)
    found[:] = 0  # a copy
    assert image.any()


def test_a_ramp_of_many_turns():
    y, x = np.mgrid[:97, :131]
    ramp = 0.9 * x - 0.4 * y
    assert np.abs(turns_apart(unwrap(np.angle(np.exp(1j * ramp))), ramp)).max() < 1e-9


def test_residues_of_a_vortex():
    y, x = np.mgrid[-20:20, -20:20] + 0.5
    vortex = np.arctan2(y, x)
    assert count_residues(vortex) == 1
    pair = np.angle(np.exp(1j * (vortex - np.arctan2(y, x - 8))))
    assert count_residues(pair) == 2
    assert np.isfinite(unwrap(pair)).all()


@pytest.mark.parametrize("size", [7, 8, 90, 91])
def test_cosine_transform_on_any_device(size):
    from scipy import fft

    values = torch.from_numpy(np.random.default_rng(0).standard_normal((5, size)))
    assert np.allclose(_cosines(values, -1), fft.dct(values.numpy(), type=2) / 2)
    assert np.allclose(_cosines(_cosines(values, -1), -1, inverse=True), values)
    assert np.allclose(_cosines(values.T, 0), fft.dct(values.T.numpy(), type=2, axis=0) / 2)


def test_batches_and_bad_values():
    images = np.stack([wrapped(discs(180, 4, spheres=2, seed=seed)[0], 0.2, seed) for seed in range(3)])
    assert np.array_equal(unwrap(images), np.stack([unwrap(image) for image in images]))
    assert isinstance(unwrap(torch.from_numpy(images)), torch.Tensor)
    images[1, 3, 3] = np.nan
    with pytest.raises(UserError, match="not numbers"):
        unwrap(images)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_flatten_takes_a_polynomial_away(degree):
    phase, mask, _ = discs(400, 14)
    y, x = np.mgrid[-1:1:400j, -1:1:400j]
    background = 5 + sum((1 + i - 0.7 * j) * y**i * x**j for i in range(5) for j in range(5 - i) if 0 < i + j <= degree)
    noise = 0.02 * np.random.default_rng(0).standard_normal(phase.shape)
    for known in (None, mask):
        found = flatten(phase + background + noise, known, degree=degree)
        assert np.abs(found - phase - noise).max() < 0.02
        assert abs(np.median(found[~mask])) < 2e-3


def test_flatten_of_batches_and_slips():
    phase, mask, _ = discs(200, 4)
    pair = np.stack([phase + 1, phase - 2]).astype(np.float32)
    found = flatten(pair)
    assert found.dtype == np.float32
    assert np.allclose(found[0], found[1], atol=1e-4)
    assert np.allclose(flatten(torch.from_numpy(pair)).numpy(), found)
    assert np.allclose(flatten(pair, np.stack([mask, mask])), found, atol=5e-3)
    with pytest.raises(UserError, match="degree 1 to 4"):
        flatten(phase, degree=7)
    with pytest.raises(UserError, match="leaves no background"):
        flatten(phase, np.ones_like(mask))
    with pytest.raises(UserError, match="give bool"):
        flatten(phase, mask[:50])


def test_a_field_is_leveled_where_cells_are_in_the_way():
    phase, mask, _ = discs(300, 9)
    y, x = np.mgrid[-1:1:300j, -1:1:300j]
    for degree, background in ((1, 60 * y - 44 * x), (2, 40 * y - 15 * x + 30 * y * y + 12 * x * y - 20 * x * x)):
        rest = level_field(np.exp(1j * (phase + background)), degree=degree) * np.exp(-1j * phase)
        assert np.abs(np.angle(rest / rest[~mask].mean())).max() < 0.1
    with pytest.raises(UserError, match="degree 1 to 4"):
        level_field(np.ones((20, 20), complex), degree=0)
