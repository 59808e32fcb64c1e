"""Binned images and masks against loops."""

from collections import Counter

import numpy as np
import pytest
import torch

from hemolens.data.binning import binned_classes, binned_image, binned_instances


def test_an_image_is_averaged() -> None:
    image = torch.randn(2, 7, 9)
    made = binned_image(image, 3)
    assert made.shape == (2, 2, 3)
    for y in range(2):
        for x in range(3):
            square = image[:, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3]
            torch.testing.assert_close(made[:, y, x], square.mean((1, 2)))


@pytest.mark.parametrize("seed", range(3))
def test_masks_take_the_commonest_class_and_of_it_the_commonest_cell(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instances = torch.from_numpy(rng.integers(0, 6, (8, 12)).astype(np.int32))
    kinds = torch.tensor([0, 1, 2, 1, 3, 2])  # class of each cell
    classes = kinds[instances.long()]
    found, cells = binned_classes(classes, 4), binned_instances(instances, classes, 4)
    assert cells.dtype == torch.int32 and found.dtype == torch.int64
    for y in range(2):
        for x in range(3):
            part = (slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4))
            counts = Counter(classes[part].flatten().tolist())
            kind = min(counts, key=lambda one: (-counts[one], one))
            assert found[y, x] == kind
            of_kind = Counter(instances[part][(classes[part] == kind) & (instances[part] > 0)].tolist())
            if kind == 0:
                assert cells[y, x] == 0
            else:
                assert of_kind[int(cells[y, x])] == max(of_kind.values())


def test_a_factor_of_1_changes_nothing() -> None:
    image, classes = torch.randn(1, 5, 5), torch.ones(5, 5, dtype=torch.int64)
    assert binned_image(image, 1) is image and binned_classes(classes, 1) is classes


def test_a_class_without_numbered_cells_has_none() -> None:
    classes = torch.ones(2, 2, dtype=torch.int64)
    assert binned_instances(torch.zeros(2, 2, dtype=torch.int32), classes, 2).tolist() == [[0]]
