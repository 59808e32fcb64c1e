"""Variance components against values worked out by hand, a published example, and what was simulated."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from hemolens.analysis.repeatability import file_values, nested_components, repeatability_table, spread
from hemolens.errors import UserError


def test_two_days_of_two_runs_of_two_by_hand() -> None:
    """Run means 11, 13 | 17, 19; MS values 2, runs 4, days 72: components 2, (4 - 2) / 2 = 1, (72 - 4) / 4 = 17."""
    values = [10, 12, 12, 14, 16, 18, 18, 20]
    found = nested_components(values, list("aabbaabb"), list("11112222"))
    assert found.mean == 15
    assert found.repeatability.sd**2 == pytest.approx(2)
    assert found.repeatability.df == 4
    assert found.between_run_sd**2 == pytest.approx(1)
    assert found.between_day_sd**2 == pytest.approx(17)
    assert found.within_laboratory.sd**2 == pytest.approx(20)
    # 20 = 2 + (4 - 2) / 2 + (72 - 4) / 4 = 72 / 4 + 4 / 4 + 2 / 2
    assert found.within_laboratory.df == pytest.approx(400 / (18**2 / 1 + 1**2 / 2 + 1**2 / 4))
    low = math.sqrt(2 * 4 / chi2.ppf(0.975, 4))
    high = math.sqrt(2 * 4 / chi2.ppf(0.025, 4))
    assert (found.repeatability.low, found.repeatability.high) == pytest.approx((low, high))


def test_negative_components_are_zero() -> None:
    """Runs agree better than their values: MS runs 0, so the run's component is 0 and the day's follows without it."""
    found = nested_components([9, 11, 9, 11, 13, 15, 13, 15], list("aabbaabb"), list("11112222"))
    assert found.between_run_sd == 0
    assert found.between_day_sd**2 == pytest.approx((32 - 2) / 4)
    assert found.within_laboratory.sd**2 == pytest.approx(2 + 7.5)
    flat = nested_components([9, 11, 9, 11], list("aabb"))
    assert (flat.between_run_sd, flat.within_laboratory.sd) == pytest.approx((0, math.sqrt(2)))


def test_the_ferritin_example_of_clsi_ep15() -> None:
    """Five runs of five (CLSI EP15-A3, as the R package CLSIEP15 prints it): components 3.16 and 2.54."""
    table = [
        *([140, 140, 140, 141, 139], [139, 143, 138, 144, 140], [138, 141, 136, 142, 141]),
        *([138, 143, 141, 143, 138], [140, 137, 136, 144, 141]),
    ]
    values = np.array(table).ravel()
    found = nested_components(values, list("12345") * 5)
    assert found.mean == pytest.approx(140.12)
    assert found.repeatability.sd**2 == pytest.approx(3.16)
    assert found.between_run_sd**2 == pytest.approx(2.54)
    assert found.within_laboratory.sd == pytest.approx(math.sqrt(5.70))
    assert math.isnan(found.between_day_sd)


def test_unequal_numbers_are_unbiased_and_intervals_cover() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(150):
        values, runs, days = [], [], []
        for day in range(15):
            of_day = rng.normal(0, 2)
            for run in range(2):
                of_run = rng.normal(0, 1.5)
                for _ in range(rng.integers(1, 5)):
                    values.append(of_day + of_run + rng.normal())
                    runs.append(str(run))
                    days.append(str(day))
        one = nested_components(values, runs, days)
        inside = one.repeatability.low < 1 < one.repeatability.high
        found.append([one.repeatability.sd**2, one.between_run_sd**2, one.between_day_sd**2, inside])
    assert np.mean(found, axis=0) == pytest.approx([1, 2.25, 4, 0.95], rel=0.1)


def test_a_spread_of_none_and_no_repeats() -> None:
    assert spread(0.0, 3).high == 0
    with pytest.raises(UserError, match="two files of the same sample and run"):
        nested_components([1, 2, 3], list("abc"))


def test_files_and_what_chance_spreads() -> None:
    cells = pd.DataFrame({"file": ["a"] * 3 + ["b"] * 2, "mass": [1.0, 2, 3, 4, 6]})
    counts = pd.DataFrame({"file": ["a", "b"], "disc": [2, 2], "sphere": [2, 0], "all": [4, 2]})
    values = file_values(cells, counts, {"mass": "pg"}).set_index(["file", "measurand"])
    assert values.loc[("a", "share of disc"), "value"] == 0.5
    assert values.loc[("a", "share of disc"), "chance_variance"] == pytest.approx(2 / 3 * 1 / 3 / 4)
    assert values.loc[("b", "cells"), ["value", "chance_variance"]].tolist() == [2, 3]
    assert values.loc[("a", "mass"), ["value", "chance_variance"]].tolist() == pytest.approx([2, 1 / 3])
    per_file = values.reset_index().assign(sample="s", run="", day="")
    table = repeatability_table(per_file).set_index("measurand")
    assert table.loc["mass", "repeatability_sd"] == pytest.approx(math.sqrt(4.5))  # of 2 and 5
    assert math.isnan(table.loc["mass", "within_laboratory_sd"])
    assert table.loc["cells", "chance_sd"] == pytest.approx(math.sqrt(3))
    with pytest.raises(UserError, match="repeated fields"):
        repeatability_table(per_file[per_file["file"] == "a"])
