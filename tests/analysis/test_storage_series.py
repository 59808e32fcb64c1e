"""Shares of types by bag and day: what the intervals cover, and what the tables say."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hemolens.analysis.storage_series import series_table, share_interval, with_truth
from hemolens.errors import UserError

TYPES = ["disc", "sphere"]


def test_a_single_image_has_wilsons_interval() -> None:
    share, low, high = share_interval([9], [50])
    z = stats.norm.ppf(0.975)
    middle, half = (9 + z * z / 2) / (50 + z * z), z * math.sqrt(9 * 41 / 50 + z * z / 4) / (50 + z * z)
    assert (share, low, high) == pytest.approx((0.18, middle - half, middle + half))


def test_images_that_differ_widen_the_interval() -> None:
    alike, apart = share_interval([10] * 6, [50] * 6), share_interval([2, 18, 4, 16, 1, 19], [50] * 6)
    assert alike[0] == apart[0] == pytest.approx(0.2)
    assert apart[2] - apart[1] > 2 * (alike[2] - alike[1])
    # where shares are far from 0 and 1 and images many, it is the plain t interval of a ratio
    rng = np.random.default_rng(0)
    some = rng.binomial(50, rng.beta(10, 10, 200))
    ratios = some / 50
    half = stats.t.ppf(0.975, 199) * ratios.std(ddof=1) / math.sqrt(200)
    assert share_interval(some, np.full(200, 50)) == pytest.approx(
        (ratios.mean(), ratios.mean() - half, ratios.mean() + half), abs=2e-3
    )


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("alike", [0.0, 0.05])
def test_intervals_cover_the_truth(share: float, alike: float) -> None:
    """Six images of about 49 cells, as paper B; images of one share, or with a correlation of cells within an
    image."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(600):
        totals = rng.poisson(49, 6) + 1
        own = np.full(6, share)
        if alike:
            strength = 1 / alike - 1
            own = rng.beta(share * strength, (1 - share) * strength, 6)
        _, low, high = share_interval(rng.binomial(totals, own), totals)
        inside += low <= share <= high
    assert 0.93 <= inside / 600 <= 1.0


def test_none_and_all_have_bounds() -> None:
    none, every = share_interval([0, 0, 0], [40, 50, 60]), share_interval([40, 50, 60], [40, 50, 60])
    assert none[0] == none[1] - none[1] == 0.0 and 0 < none[2] < 0.2
    assert every[0] == every[2] == 1.0 and 0.8 < every[1] < 1
    assert all(math.isnan(value) for value in share_interval([0, 0], [0, 0]))
    assert share_interval([3, 0], [9, 0]) == share_interval([3], [9])  # an empty image is no image


def images() -> pd.DataFrame:
    rows = [("a", 8, 9, 1), ("a", 8, 19, 1), ("a", 40, 5, 5), ("b", 8, 20, 0), ("b", 8, 18, 2)]
    table = pd.DataFrame(rows, columns=["bag", "storage_day", *TYPES])
    return table.assign(true_disc=[10, 20, 4, 20, 20], true_sphere=[0, 0, 6, 0, 0])


def test_a_row_for_each_bag_day_and_type() -> None:
    table = series_table(images(), TYPES)
    assert list(table.groupby(["bag", "storage_day"], sort=False)["cells"].first()) == [30, 10, 40]
    first = table[(table["bag"] == "a") & (table["storage_day"] == 8) & (table["type"] == "sphere")].iloc[0]
    assert (first["count"], first["images"], first["bags"], first["interval"]) == (2, 2, 1, "image")
    assert (first["share"], first["low"], first["high"]) == pytest.approx(share_interval([1, 1], [10, 20]))
    assert set(table.loc[table["storage_day"] == 40, "interval"]) == {"cells"}


def test_several_bags_of_a_day_are_what_its_interval_rests_on() -> None:
    table = series_table(images(), TYPES, by=["storage_day"])
    day = table[(table["storage_day"] == 8) & (table["type"] == "disc")].iloc[0]
    assert (day["bags"], day["images"], day["interval"]) == (2, 4, "bag")
    assert (day["share"], day["low"], day["high"]) == pytest.approx(share_interval([28, 38], [30, 40]))


def test_errors_against_the_truth() -> None:
    for by in (["bag", "storage_day"], ["storage_day"]):
        table = with_truth(series_table(images(), TYPES, by=by), images(), TYPES)
        late = table[(table["storage_day"] == 40) & (table["type"] == "sphere")].iloc[0]
        assert (late["true_share"], late["error"]) == pytest.approx((0.6, -0.1))


def test_unknown_days_are_a_group() -> None:
    table = images()
    table["storage_day"] = np.nan
    assert len(series_table(table, TYPES)) == 4
    assert with_truth(series_table(table, TYPES), table, TYPES)["error"].notna().all()


@pytest.mark.parametrize(("counts", "totals"), [([1, 2], [3]), ([4], [3]), ([-1], [3])])
def test_slips(counts: list[int], totals: list[int]) -> None:
    with pytest.raises(UserError):
        share_interval(counts, totals)
