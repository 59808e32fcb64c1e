"""Target assignment against a literal transcription of the rules, point by point and box by box."""

import math

import numpy as np
import pytest
import torch

from hemolens.nets.fcos import targets as module
from hemolens.nets.fcos.targets import assign_targets, points_for, valid_points

STRIDES = (8, 16, 32, 64, 128)
RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, 1e8))


def literal(points, strides, ranges, boxes, labels, radius=1.5):
    """The rules of the paper (3.2) and of center sampling, in float32, one comparison at a time."""
    out_labels, out_ltrb = [], []
    for level, stride, (low, high) in zip(points, strides, ranges, strict=True):
        for x, y in level.numpy():
            best, best_area = -1, math.inf
            for m, (x1, y1, x2, y2) in enumerate(boxes.numpy()):
                center_x, center_y = (x1 + x2) / np.float32(2), (y1 + y2) / np.float32(2)
                reach = np.float32(stride * radius)
                left = max(center_x - reach, x1)
                top = max(center_y - reach, y1)
                right = min(center_x + reach, x2)
                bottom = min(center_y + reach, y2)
                if not min(x - left, y - top, right - x, bottom - y) > 0:
                    continue
                largest = max(x - x1, y - y1, x2 - x, y2 - y)
                if not low <= largest <= high:
                    continue
                area = (x2 - x1) * (y2 - y1)
                if area < best_area:
                    best, best_area = m, area
            if best < 0:
                out_labels.append(-1)
                out_ltrb.append((0.0, 0.0, 0.0, 0.0))
            else:
                x1, y1, x2, y2 = boxes[best].numpy()
                out_labels.append(int(labels[best]))
                out_ltrb.append((x - x1, y - y1, x2 - x, y2 - y))
    return torch.tensor(out_labels), torch.tensor(np.array(out_ltrb, dtype=np.float32))


def grid(height, width, strides=STRIDES):
    return points_for([(math.ceil(height / s), math.ceil(width / s)) for s in strides], strides, "cpu")


def random_boxes(generator, count, height, width, quantum):
    """Sizes from 2 pixels to the field, on a grid of ``quantum`` pixels (0: anywhere), cut by the borders."""
    size = torch.tensor([width, height])
    center = torch.rand(count, 2, generator=generator) * size * 1.2 - 0.1 * size
    half = torch.exp(torch.rand(count, 2, generator=generator) * math.log(height)) * 0.75 + 1
    boxes = torch.cat([center - half, center + half], dim=1)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    return (boxes / quantum).round() * quantum if quantum else boxes


def assert_like_the_literal(points, strides, ranges, boxes, labels, radius=1.5):
    found_labels, found_ltrb = assign_targets(points, strides, ranges, boxes, labels, radius)
    wanted_labels, wanted_ltrb = literal(points, strides, ranges, boxes, labels, radius)
    assert found_labels.dtype == torch.int64 and found_ltrb.dtype == torch.float32
    assert torch.equal(found_labels, wanted_labels)
    assert torch.equal(found_ltrb, wanted_ltrb)
    return found_labels


# A quantum of 4 puts points on the sides of center boxes and distances on the limits of ranges.
@pytest.mark.parametrize("quantum", [0, 0.5, 4])
@pytest.mark.parametrize("seed", range(3))
def test_random_boxes(quantum, seed):
    generator = torch.Generator().manual_seed(seed)
    height, width = 140, 190
    boxes = random_boxes(generator, 25, height, width, quantum)
    boxes = torch.cat([boxes, boxes[:5], boxes[3:4] + 8])  # exact duplicates and equal areas
    labels = torch.randint(0, 4, (len(boxes),), generator=generator)
    ranges = ((-1.0, 24.0), (24.0, 48.0), (48.0, 80.0), (80.0, 120.0), (120.0, 1e8))
    found = assert_like_the_literal(grid(height, width), STRIDES, ranges, boxes, labels)
    assert (found >= 0).any()


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.5])
def test_other_radii_and_scattered_points(radius):
    generator = torch.Generator().manual_seed(5)
    points = [torch.rand(200, 2, generator=generator) * 100, torch.rand(50, 2, generator=generator) * 100]
    boxes = random_boxes(generator, 20, 100, 100, 0)
    labels = torch.randint(0, 3, (20,), generator=generator)
    assert_like_the_literal(points, (4, 8), ((-1.0, 20.0), (20.0, 1e8)), boxes, labels, radius)


def test_published_ranges_on_a_large_field():
    """Boxes for every level."""
    sizes = (30, 100, 200, 400, 900)
    boxes = torch.tensor([[10.0, 10.0, 10.0 + s, 10.0 + 0.8 * s] for s in sizes])
    points = grid(1000, 1000, STRIDES)
    labels, ltrb = assign_targets(points, STRIDES, RANGES, boxes, torch.arange(5))
    at = 0
    for level, stride, (low, high) in zip(points, STRIDES, RANGES, strict=True):
        mine = slice(at, at + len(level))
        at += len(level)
        positive = labels[mine] >= 0
        largest = ltrb[mine][positive].amax(1)
        assert positive.any() and (largest >= low).all() and (largest <= high).all()
        center = (boxes[:, :2] + boxes[:, 2:])[labels[mine][positive]] / 2
        assert ((level[positive] - center).abs() < 1.5 * stride).all()
    assert set(labels.tolist()) == {-1, 0, 1, 2, 3, 4}


def single_point(x, y, boxes, limits=(-1.0, 1e8), stride=8):
    labels, ltrb = assign_targets(
        [torch.tensor([[x, y]])], [stride], [limits], torch.tensor(boxes), torch.arange(len(boxes))
    )
    return int(labels[0]), ltrb[0].tolist()


def test_center_box_is_open():
    # center (50, 50), reach 12: the point at 62 lies on its side
    assert single_point(62.0, 50.0, [[0.0, 0.0, 100.0, 100.0]])[0] == -1
    assert single_point(61.99, 50.0, [[0.0, 0.0, 100.0, 100.0]])[0] == 0


def test_center_box_is_clipped_to_the_box():
    # reach 12 is more than half the width: a point outside the box stays background
    assert single_point(56.0, 50.0, [[45.0, 0.0, 55.0, 100.0]])[0] == -1
    assert single_point(55.0, 50.0, [[45.0, 0.0, 55.0, 100.0]])[0] == -1
    assert single_point(54.0, 50.0, [[45.0, 0.0, 55.0, 100.0]]) == (0, [9.0, 50.0, 1.0, 50.0])


@pytest.mark.parametrize(("limits", "expected"), [((-1, 64), 0), ((64, 128), 0), ((64.01, 128), -1), ((-1, 63.99), -1)])
def test_ranges_include_both_limits(limits, expected):
    # the largest distance is exactly 64: such a point is positive on both levels
    assert single_point(64.0, 60.0, [[0.0, 0.0, 126.0, 120.0]], limits)[0] == expected


def test_ambiguous_points_take_the_smallest_box_and_then_the_first():
    large, small = [0.0, 0.0, 60.0, 60.0], [20.0, 20.0, 44.0, 40.0]
    assert single_point(30.0, 30.0, [large, small])[0] == 1
    assert single_point(30.0, 30.0, [small, large])[0] == 0
    assert single_point(30.0, 30.0, [large, small, small])[0] == 1
    # the smaller one is no candidate if its level is another
    assert single_point(30.0, 30.0, [small, large], (30.0, 64.0))[0] == 1


def test_no_boxes_and_boxes_without_area():
    points = grid(64, 64)
    count = sum(map(len, points))
    for boxes in (torch.zeros(0, 4), torch.tensor([[12.0, 4.0, 12.0, 30.0], [4.0, 4.0, 4.0, 4.0]])):
        labels, ltrb = assign_targets(points, STRIDES, RANGES, boxes, torch.zeros(len(boxes), dtype=torch.int64))
        assert torch.equal(labels, torch.full((count,), -1)) and not ltrb.any()


def test_mirror_symmetry():
    """Turning the field by 180° turns the targets."""
    generator = torch.Generator().manual_seed(2)
    boxes, labels = random_boxes(generator, 30, 128, 128, 0.5), torch.arange(30)
    found, ltrb = assign_targets(grid(128, 128), STRIDES, RANGES, boxes, labels)
    turned, turned_ltrb = assign_targets(grid(128, 128), STRIDES, RANGES, 128 - boxes[:, [2, 3, 0, 1]], labels)
    cells = [len(p) for p in grid(128, 128)]
    for a, b, c, d in zip(*(x.split(cells) for x in (found, turned, ltrb, turned_ltrb)), strict=True):
        assert torch.equal(a, b.flip(0))
        assert torch.equal(c, d.flip(0)[:, [2, 3, 0, 1]])


def test_chunks_change_nothing(monkeypatch):
    """Memory is bounded by working through the points in pieces."""
    generator = torch.Generator().manual_seed(3)
    boxes, labels = random_boxes(generator, 60, 200, 260, 0), torch.arange(60)
    whole = assign_targets(grid(200, 260), STRIDES, RANGES, boxes, labels)
    monkeypatch.setattr(module, "_MAX_PAIRS", 1000)
    pieces = assign_targets(grid(200, 260), STRIDES, RANGES, boxes, labels)
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_a_thousand_boxes_on_a_whole_field():
    generator = torch.Generator().manual_seed(4)
    center = torch.rand(1000, 2, generator=generator) * 1444
    half = 20 + 20 * torch.rand(1000, 2, generator=generator)
    boxes = torch.cat([center - half, center + half], 1).clamp(0, 1444)
    points = grid(1444, 1444)
    labels, ltrb = assign_targets(points, STRIDES, RANGES, boxes, torch.arange(1000))
    positive = labels >= 0
    xy = torch.cat(points)[positive]
    recovered = torch.cat([xy - ltrb[positive, :2], xy + ltrb[positive, 2:]], 1)
    torch.testing.assert_close(recovered, boxes[labels[positive]], rtol=0, atol=1e-3)
    # cells up to 104 pixels: the finest level alone
    assert positive[: len(points[0])].sum() == positive.sum()


def test_points_are_cell_centers_in_row_major_order():
    points = points_for([(2, 3), (1, 2)], (8, 16), "cpu")
    assert points[0].tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert points[1].tolist() == [[8, 8], [24, 8]]
    assert points[0].dtype == torch.float32


@pytest.mark.parametrize("seed", range(20))
def test_valid_points_are_those_of_the_image_alone(seed):
    generator = torch.Generator().manual_seed(seed)
    height, width, below, right = torch.randint(1, 300, (4,), generator=generator).tolist()
    alone, padded = grid(height, width), grid(height + below, width + right)
    for a, b, mask in zip(alone, padded, valid_points(padded, STRIDES, (height, width)), strict=True):
        assert mask.dtype == torch.bool
        assert torch.equal(a, b[mask])


@pytest.mark.parametrize(
    "change",
    [
        {"strides": STRIDES[:4]},
        {"regress_ranges": RANGES[:4]},
        {"boxes": torch.zeros(4)},
        {"boxes": torch.zeros(2, 5)},
        {"labels": torch.zeros(3, dtype=torch.int64)},
    ],
)
def test_disagreeing_inputs_are_refused(change):
    arguments = {
        "points": grid(64, 64),
        "strides": STRIDES,
        "regress_ranges": RANGES,
        "boxes": torch.zeros(2, 4),
        "labels": torch.zeros(2, dtype=torch.int64),
    }
    with pytest.raises(ValueError, match=r"one of each|expected \[M, 4\]"):
        assign_targets(**{**arguments, **change})
