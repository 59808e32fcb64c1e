"""Which windows of an image the patches are."""

from itertools import pairwise

import numpy as np
import pytest

from hemolens.data.patches import patch_corners
from hemolens.errors import UserError

SIZE = (900, 900)


def covered_fraction(size, corners, patch_px=256):
    """Share of an image's pixels that lie in at least one patch."""
    seen = np.zeros(size, bool)
    for y, x in corners:
        seen[y : y + patch_px, x : x + patch_px] = True
    return float(seen.mean())


def test_the_papers_nine_leave_a_quarter_out():
    corners = patch_corners(SIZE, mode="paper_3x3")
    assert corners == [(y, x) for y in (0, 256, 512) for x in (0, 256, 512)]
    assert covered_fraction(SIZE, corners) == pytest.approx(768**2 / 900**2)
    centred = patch_corners(SIZE, mode="centred_3x3")
    assert centred[0] == (66, 66)
    assert centred[-1] == (578, 578)


@pytest.mark.parametrize(
    ("size", "overlap"), [(SIZE, 0), (SIZE, 54), ((256, 300), 0), ((1000, 700), 95), ((511, 513), 0)]
)
def test_a_grid_covers_every_pixel(size, overlap):
    corners = patch_corners(size, overlap_px=overlap)
    assert covered_fraction(size, corners) == 1
    assert len(set(corners)) == len(corners)
    for axis in (0, 1):
        places = sorted({corner[axis] for corner in corners})
        assert places[0] == 0
        assert places[-1] == size[axis] - 256
        assert all(b - a <= 256 - overlap for a, b in pairwise(places))


def test_sizes_of_grids():
    assert len(patch_corners(SIZE)) == 16
    assert len(patch_corners(SIZE, overlap_px=95)) == 25
    assert patch_corners((256, 256)) == [(0, 0)]


def test_random_patches_lie_inside_and_have_a_seed():
    corners = patch_corners((300, 400), mode="random", count=500, rng=np.random.default_rng(0))
    assert len(corners) == 500
    assert min(corners) >= (0, 0)
    assert max(y for y, _ in corners) == 44
    assert max(x for _, x in corners) > 130
    assert corners == patch_corners((300, 400), mode="random", count=500, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "tiles"}, "choose from random"),
        ({"size": (700, 900), "mode": "paper_3x3"}, "768 px a side"),
        ({"size": (200, 900)}, "too small"),
        ({"overlap_px": 256}, "below patch_px"),
        ({"mode": "random"}, "random generator"),
    ],
)
def test_slips(options, words):
    size = options.pop("size", SIZE)
    with pytest.raises(UserError, match=words):
        patch_corners(size, **options)
