"""Which pixels belong to which cell, against a loop over pixels and boxes."""

import numpy as np
import pytest

from hemolens.analysis.cell_windows import meeting, overlap, share_field

VOXEL_UM = (0.7, 0.2, 0.1)
SIZE = (60, 90)


def boxes(n=25, seed=0):
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, [75, 45], (n, 2))
    found = np.concatenate([start, start + rng.uniform(1, 15, (n, 2))], axis=1)
    found[1] = found[0]  # the same box twice
    return found


def literal_owner(found, my, mx):
    """Number of the box that each pixel belongs to, -1 for none."""
    owner = np.full(SIZE, -1)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            best = np.inf
            for i, (x0, y0, x1, y1) in enumerate(found):
                if not (np.floor(x0 - mx) <= x < np.ceil(x1 + mx) and np.floor(y0 - my) <= y < np.ceil(y1 + my)):
                    continue
                dx, dy = (x + 0.5 - (x0 + x1) / 2) / (x1 - x0), (y + 0.5 - (y0 + y1) / 2) / (y1 - y0)
                if dx**2 + dy**2 < best:
                    best, owner[y, x] = dx**2 + dy**2, i
    return owner


def test_each_pixel_belongs_to_the_nearest_box():
    found = boxes()
    owner = np.full(SIZE, -1)
    for i, window in enumerate(share_field(found, SIZE, VOXEL_UM, 0.5)):
        part = owner[window.rows, window.columns]
        own = np.ones(part.shape, bool) if window.own is None else window.own
        assert (part[own] == -1).all()  # nobody else has it
        part[own] = i
    assert (owner == literal_owner(found, 0.5 / 0.2, 0.5 / 0.1)).all()


def test_a_box_alone_has_its_whole_window():
    (window,) = share_field(np.array([[10.2, 20.0, 19.0, 30.5]]), SIZE, VOXEL_UM, 0.2)
    assert (window.rows, window.columns, window.own) == (slice(19, 32), slice(8, 21), None)
    assert share_field(np.zeros((0, 4)), SIZE, VOXEL_UM, 0.2) == []


@pytest.mark.parametrize("seed", range(3))
def test_pairs_and_overlap_by_loops(seed):
    found = boxes(40, seed)
    pairs, share = set(), np.zeros(len(found))
    for i, a in enumerate(found):
        for j, b in enumerate(found):
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            if i != j and width > 0 and height > 0:
                pairs.add((min(i, j), max(i, j)))
                share[i] = max(share[i], width * height / ((a[2] - a[0]) * (a[3] - a[1])))
    found_pairs = [tuple(sorted(pair)) for pair in meeting(found).tolist()]
    assert len(found_pairs) == len(set(found_pairs)) and set(found_pairs) == pairs
    assert overlap(found) == pytest.approx(share)


def test_boxes_that_only_share_an_edge_do_not_meet():
    found = np.array([[0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20.0]])
    assert len(meeting(found)) == 0 and (overlap(found) == 0).all()
    assert len(overlap(np.zeros((0, 4)))) == 0
