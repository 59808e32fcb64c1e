"""The morphology score against its formula and its closed cases."""

import math

import numpy as np
import pytest

from hemolens.analysis.morphology_score import morphology_score


def test_closed_cases() -> None:
    assert morphology_score({"discocyte": 7}).value == 300
    assert morphology_score({"spherocyte": 7}).value == 0
    echinocytes = morphology_score({"echinocyte": 4})
    assert (echinocytes.low, echinocytes.value, echinocytes.high) == (100, 150, 200)


def test_formula_with_both_stages_bounded() -> None:
    counts = {"discocyte": 168, "spherocyte": 37, "echinocyte": 85, "stomatocyte": 19}
    found = morphology_score(counts)
    percent = {name: 100 * counts[name] / 290 for name in ("discocyte", "echinocyte", "spherocyte")}
    assert found.cells == 290  # without stomatocytes
    for value, weight in ((found.low, 1), (found.value, 1.5), (found.high, 2)):
        assert value == pytest.approx(3 * percent["discocyte"] + weight * percent["echinocyte"])
    # whatever the stages are, the score lies between the bounds
    for first in (0, 20, 85):
        told_apart = (3 * 168 + 2 * first + (85 - first)) / 290 * 100
        assert found.low - 1e-9 <= told_apart <= found.high + 1e-9


def test_no_cell_that_counts() -> None:
    for counts in ({}, {"stomatocyte": 9}):
        found = morphology_score(counts, images=[counts, counts])
        assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high)
        assert (found.cells, found.interval) == (0, None)


def test_the_interval_covers_the_bags_score() -> None:
    """Images that differ from each other, as fields of one bag do."""
    rng = np.random.default_rng(0)
    names, shares = ("discocyte", "spherocyte", "echinocyte"), np.array([0.6, 0.15, 0.25])
    truth = 100 * (3 * shares[0] + 1.5 * shares[2])
    covered, widths = [], []
    for _ in range(400):
        images = [
            dict(zip(names, rng.multinomial(rng.poisson(45), rng.dirichlet(60 * shares)).tolist(), strict=True))
            for _ in range(6)
        ]
        total = {name: sum(image[name] for image in images) for name in names}
        low, high = morphology_score(total, images=images).interval or (math.nan, math.nan)
        covered.append(low <= truth <= high)
        widths.append(high - low)
    assert 0.92 <= np.mean(covered) <= 0.99
    assert np.mean(widths) < 60


def test_the_interval_needs_two_images_and_stays_on_the_scale() -> None:
    one = {"discocyte": 3, "spherocyte": 1}
    assert morphology_score(one, images=[one, {"stomatocyte": 4}]).interval is None
    low, high = morphology_score(one, images=[{"discocyte": 3}, {"spherocyte": 1}]).interval or (math.nan, math.nan)
    assert (low, high) == (0, 300)
