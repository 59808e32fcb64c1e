"""Published cases: Bland and Altman 1986, Table 1; NCSS's example of Deming regression; R's mcr (Passing-Bablok)."""

import numpy as np
import pytest
from scipy import stats

from hemolens.analysis.agreement import bland_altman, deming, passing_bablok, pearson, summarize
from hemolens.errors import UserError

# Peak expiratory flow (l/min) by a mini and by a large Wright meter, first readings.
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]


def literal_passing_bablok(x, y):
    """The rule of 1983, step by step, at 95 %."""
    slopes, n = [], len(x)
    for i in range(n):
        for j in range(i + 1, n):
            dx, dy = x[i] - x[j], y[i] - y[j]
            if dx == 0 and dy == 0:
                continue
            slope = dy / dx if dx else (np.inf if dy > 0 else -np.inf)
            if slope != -1:
                slopes.append(slope)
    slopes.sort()
    total, shift = len(slopes), sum(slope < -1 for slope in slopes)

    def at(k):
        return slopes[k - 1 + shift]

    slope = at((total + 1) // 2) if total % 2 else (at(total // 2) + at(total // 2 + 1)) / 2
    spread = stats.norm.ppf(0.975) * np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    m1 = round((total - spread) / 2)
    ends = at(m1), at(total - m1 + 1)
    return slope, ends, np.median(np.array(y) - slope * np.array(x))


def test_bland_altman_of_1986():
    result = bland_altman(MINI, WRIGHT)
    assert result.bias == pytest.approx(-2.1, abs=0.05) and result.sd == pytest.approx(38.8, abs=0.05)
    assert result.bias_ci == pytest.approx((-22.0, 17.8), abs=0.1)
    assert result.limits == pytest.approx((-2.118 - 1.96 * 38.765, -2.118 + 1.96 * 38.765), abs=0.01)
    # the paper's approximation of the error of a limit is sqrt(3 / n) sd = 16.3
    assert (result.upper_ci[1] - result.upper_ci[0]) / 2 == pytest.approx(stats.t.ppf(0.975, 16) * 16.3, rel=0.01)
    assert bland_altman(WRIGHT, MINI).bias == pytest.approx(-result.bias)


def test_passing_bablok_of_mcr():
    x = np.arange(1.0, 21)
    y = [1.03, 2.05, 2.79, 3.67, 5.00, 5.82, 7.16, 7.69, 8.53, 10.38]
    y += [11.11, 12.17, 13.47, 13.83, 15.15, 16.12, 16.94, 18.09, 19.13, 19.54]
    result = passing_bablok(x, y)
    assert (result.slope, result.intercept) == pytest.approx((1.005, 0.0125), abs=1e-4)
    assert result.slope_ci == pytest.approx((0.9848077, 1.0265805), abs=2e-3)  # mcr interpolates angles
    assert result.intercept_ci == pytest.approx((-0.2975146, 0.1393271), abs=2e-2)
    assert result.linearity_p > 0.1


@pytest.mark.parametrize("seed", range(6))
def test_passing_bablok_is_the_rule_of_1983(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 40))
    x = np.round(rng.normal(90, 8, n), int(seed % 2))  # rounded: ties
    y = np.round(1.1 * x - 5 + rng.normal(0, 6, n), int(seed % 2))
    slope, ends, intercept = literal_passing_bablok(x.tolist(), y.tolist())
    result = passing_bablok(x, y)
    assert (result.slope, result.intercept) == pytest.approx((slope, intercept))
    assert result.slope_ci == pytest.approx(ends)


def test_deming_of_ncss():
    x = [7.0, 8.3, 10.5, 9.0, 5.1, 8.2, 10.2, 10.3, 7.1, 5.9]
    y = [7.9, 8.2, 9.6, 9.0, 6.5, 7.3, 10.2, 10.6, 6.3, 5.2]
    result = deming(x, y, error_ratio=0.25)  # stated there as variance of x over that of y, 4
    assert (result.slope, result.intercept) == pytest.approx((1.0012, -0.0897), abs=1e-4)
    assert result.slope_ci[0] < result.slope < result.slope_ci[1]


def test_equivariant_line_does_not_prefer_a_slope_of_one():
    rng = np.random.default_rng(0)
    truth = rng.normal(90, 8, 200)
    x, y = truth + rng.normal(0, 1, 200), 3.5 * truth + 10 + rng.normal(0, 3.5, 200)
    line, turned = passing_bablok(x, y, equivariant=True), passing_bablok(y, x, equivariant=True)
    assert line.slope == pytest.approx(3.5, rel=0.03)
    assert turned.slope == pytest.approx(1 / line.slope, rel=1e-6)
    assert passing_bablok(x / 7, y, equivariant=True).slope == pytest.approx(7 * line.slope)
    assert line.slope_ci[0] < 3.5 < line.slope_ci[1]


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = {"passing_bablok": 0, "deming": 0, "bias": 0, "pearson": 0}
    repeats = 200
    for _ in range(repeats):
        truth = rng.normal(90, 8, 40)
        x, y = truth + rng.normal(0, 2, 40), truth + rng.normal(0, 2, 40)
        for name, interval, value in (
            ("passing_bablok", passing_bablok(x, y).slope_ci, 1.0),
            ("deming", deming(x, y).slope_ci, 1.0),
            ("bias", bland_altman(x, y).bias_ci, 0.0),
        ):
            held[name] += interval[0] <= value <= interval[1]
        low, high = stats.pearsonr(x, y).confidence_interval(0.95)
        held["pearson"] += low <= 64 / 68 <= high
    assert all(0.9 <= count / repeats <= 0.99 for count in held.values()), held


def test_cusum_sees_a_curve():
    x = np.linspace(1, 10, 60)
    noise = np.random.default_rng(0).normal(0, 0.05, 60)
    assert passing_bablok(x, x + noise).linearity_p > 0.05
    assert passing_bablok(x, 0.3 * x**2 + noise).linearity_p < 0.01


def test_summary_holds_what_r_depends_on():
    row = summarize(MINI, WRIGHT)
    assert row["r"] == pytest.approx(0.943, abs=5e-4) and row["sd_x"] == pytest.approx(np.std(MINI, ddof=1))
    assert row["r_low"] < row["r"] < row["r_high"] and row["rmse"] == pytest.approx(37.67, abs=0.01)
    assert pearson(MINI, WRIGHT).bootstrap_ci[0] == row["r_bootstrap_low"]


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2, 3], [1, 2], "one length"),
        ([1, 2], [1, 2], "at least 3"),
        ([1, 2, np.nan, 4], [1, 2, 3, 4], "number 2"),
        ([1, 1, 1], [1, 2, 3], "x is 1.0 everywhere"),
        ([1, 2, 3], [2, 2, 2], "y is 2.0 everywhere"),
    ],
)
def test_bad_pairs_are_named(x, y, words):
    for analyse in (passing_bablok, deming, pearson, summarize):
        with pytest.raises(UserError, match=words):
            analyse(x, y)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match=r"alpha=1\.5"):
        passing_bablok(MINI, WRIGHT, 1.5)
    with pytest.raises(UserError, match="error_ratio=0"):
        deming(MINI, WRIGHT, 0)
    with pytest.raises(UserError, match="does not rise"):
        passing_bablok([1, 2, 3, 4], [8, 6, 4, 1])
