"""Cells from class maps."""

import numpy as np
import pytest

from hemolens.errors import UserError
from hemolens.postprocess.instances import cells_of_classes


def discs(*places, side=120):
    """Class map of discs (y, x, radius, class)."""
    y, x = np.mgrid[:side, :side]
    image = np.zeros((side, side), np.uint8)
    for cy, cx, radius, kind in places:
        image[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = kind
    return image


def test_cells_apart_and_of_two_classes():
    image = discs((30, 30, 12, 1), (80, 30, 12, 1), (30, 80, 12, 2))
    cells = cells_of_classes(image)
    assert cells.dtype == np.int32
    assert np.array_equal(cells > 0, image > 0)
    assert sorted(np.unique(cells)) == [0, 1, 2, 3]
    assert len(set(cells[[30, 80, 30], [30, 30, 80]].tolist())) == 3


def test_classes_that_meet_are_two_cells():
    image = discs((50, 40, 14, 1), (50, 62, 14, 3))
    cells = cells_of_classes(image)
    assert cells.max() == 2
    assert all(len(np.unique(image[cells == n])) == 1 for n in (1, 2))


@pytest.mark.parametrize("distance", [20, 23, 26])
def test_touching_cells_are_parted(distance):
    image = discs((50, 30, 14, 1), (50, 30 + distance, 14, 1))
    assert cells_of_classes(image, split=False).max() == 1
    cells = cells_of_classes(image)
    assert cells.max() == 2
    middle = 30 + distance / 2
    sides = [np.nonzero(cells == n)[1].mean() for n in (1, 2)]
    assert min(sides) < middle < max(sides)
    areas = [int((cells == n).sum()) for n in (1, 2)]
    assert max(areas) < 1.15 * min(areas)
    assert np.array_equal(cells > 0, image > 0)


def test_a_cell_of_two_types_is_one_across_types() -> None:
    y, x = np.mgrid[:60, :100]
    classes = (np.hypot(y - 30, x - 25) < 14).astype(np.uint8)
    classes[(classes > 0) & (x > 25)] = 2
    classes[np.hypot(y - 30, x - 70) < 14] = 3
    assert cells_of_classes(classes).max() == 3
    whole = cells_of_classes(classes, across_types=True)
    assert whole.max() == 2 and (whole[classes > 0] > 0).all() and len(np.unique(whole[classes == 3])) == 1
    touching = np.where(np.hypot(y - 30, x - 51) < 14, 2, (np.hypot(y - 30, x - 25) < 14).astype(int))
    assert cells_of_classes(touching, across_types=True).max() == 2  # by the watershed


def test_one_cell_stays_one():
    y, x = np.mgrid[:120, :120]
    ellipse = (((y - 60) / 12) ** 2 + ((x - 60) / 26) ** 2 <= 1).astype(np.uint8)
    assert cells_of_classes(ellipse).max() == 1
    outline = 25 + 3 * np.cos(12 * np.arctan2(y - 60, x - 60))
    crenated = ((y - 60) ** 2 + (x - 60) ** 2 <= outline**2).astype(np.uint8)
    assert cells_of_classes(crenated).max() == 1
    assert cells_of_classes(discs((0, 60, 25, 2))).max() == 1  # cut by the border


def test_specks_are_no_cells():
    image = discs((60, 60, 15, 1), (20, 20, 2, 1))
    assert cells_of_classes(image).max() == 1
    assert cells_of_classes(image, min_area_px=5).max() == 2
    assert cells_of_classes(np.zeros((40, 40), np.uint8)).max() == 0
    diagonal = np.eye(40, dtype=np.uint8)  # 4-connectivity: pixels that meet at corners are apart
    assert cells_of_classes(diagonal, min_area_px=2).max() == 0


def test_no_class_map():
    with pytest.raises(UserError, match="whole numbers"):
        cells_of_classes(np.zeros((4, 4)))
