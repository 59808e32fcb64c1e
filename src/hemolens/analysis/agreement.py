"""Agreement of two measurements of the same samples: x is the reference, y the method under test.

A correlation alone says little: with the same error it grows with the spread of the cohort. Report it beside the
spread, the bias and the root mean square error (:func:`summarize`).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hemolens.errors import UserError

FloatArray = NDArray[np.float64]
Interval = tuple[float, float]

BOOTSTRAP_RESAMPLES = 2000


@dataclass(frozen=True)
class LinearAgreement:
    """A line y = intercept + slope x with errors in both measurements.

    Attributes:
        slope, intercept: of the line.
        slope_ci, intercept_ci: confidence intervals, lower end first.
        linearity_p: p value of the cusum test; small values speak against a straight line. NaN where all points lie
            on one side or on the line.
        n: points.
    """

    slope: float
    intercept: float
    slope_ci: Interval
    intercept_ci: Interval
    linearity_p: float
    n: int


@dataclass(frozen=True)
class DifferenceAgreement:
    """Bland-Altman analysis of d = y - x.

    Attributes:
        bias: mean of d.
        sd: its standard deviation (ddof 1).
        limits: limits of agreement, bias -+ z sd.
        bias_ci: confidence interval of the bias.
        lower_ci, upper_ci: confidence intervals of the limits.
        n: points.
    """

    bias: float
    sd: float
    limits: Interval
    bias_ci: Interval
    lower_ci: Interval
    upper_ci: Interval
    n: int


@dataclass(frozen=True)
class Correlation:
    """Pearson's r.

    Attributes:
        r: coefficient.
        fisher_ci: interval from Fisher's z.
        bootstrap_ci: interval from resampled points (percentiles).
        n: points.
    """

    r: float
    fisher_ci: Interval
    bootstrap_ci: Interval
    n: int


def passing_bablok(
    x: ArrayLike, y: ArrayLike, alpha: float = 0.05, *, equivariant: bool = False, seed: int = 0
) -> LinearAgreement:
    """Passing-Bablok regression: the shifted median of all slopes between two points.

    The rule of 1983 (Passing and Bablok, J. Clin. Chem. Clin. Biochem. 21:709) takes the slope to be near one: pairs
    that coincide and slopes of exactly -1 are left out, and the median is shifted by the number K of slopes below -1.
    The equivariant form (Bablok et al. 1988, 26:783; median of the absolute slopes, in the form of Dufey 2020) has no
    such preference and suits a method that is not calibrated; its intervals are bootstrapped.

    Args:
        x: reference, [N].
        y: method, [N].
        alpha: 1 - confidence.
        equivariant: the form of 1988.
        seed: of the bootstrap.

    Raises:
        UserError: fewer than 3 points, unequal lengths, values that are not finite, or one of them constant.
    """
    xs, ys = checked_pairs(x, y)
    z = _z(alpha)
    if equivariant:
        slope = _equivariant_slope(xs, ys)
        resampled = np.array([_equivariant_slope(xs[i], ys[i]) for i in _resamples(xs, ys, seed)])
        offsets = np.array(
            [np.median(ys[i] - b * xs[i]) for i, b in zip(_resamples(xs, ys, seed), resampled, strict=True)]
        )
        intercept = float(np.median(ys - slope * xs))
        slope_ci, intercept_ci = _percentiles(resampled, alpha), _percentiles(offsets, alpha)
    else:
        slopes = np.sort(_pairwise_slopes(xs, ys))
        slopes = slopes[slopes != -1]
        shift = int((slopes < -1).sum())
        count = len(slopes)
        if count == 0 or shift + count // 2 >= count:
            raise UserError("y does not rise with x: Passing-Bablok regression of 1983 has no slope here")
        slope = float(slopes[shift + (count - 1) // 2] + slopes[min(shift + count // 2, count - 1)]) / 2
        n = len(xs)
        reach = z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
        first = round((count - reach) / 2)  # M1, counted from one
        low = slopes[min(max(first - 1, 0) + shift, count - 1)]
        high = slopes[min(max(count - first, 0) + shift, count - 1)]
        slope_ci = float(low), float(high)
        intercept = float(np.median(ys - slope * xs))
        ends = [float(np.median(ys - b * xs)) if math.isfinite(b) else math.nan for b in (high, low)]
        intercept_ci = ends[0], ends[1]
    return LinearAgreement(slope, intercept, slope_ci, intercept_ci, _cusum_p(xs, ys, slope, intercept), len(xs))


def deming(x: ArrayLike, y: ArrayLike, error_ratio: float = 1.0, alpha: float = 0.05) -> LinearAgreement:
    """Deming regression, with intervals from the jackknife (Linnet 1993, Clin. Chem. 39:424).

    Args:
        x: reference, [N].
        y: method, [N].
        error_ratio: variance of the errors of y over that of x.
        alpha: 1 - confidence.

    Raises:
        UserError: as :func:`passing_bablok`; a ratio that is not positive.
    """
    xs, ys = checked_pairs(x, y)
    if not error_ratio > 0 or not math.isfinite(error_ratio):
        raise UserError(f"error_ratio={error_ratio}: must be positive (variance of y's errors over that of x's)")
    slope, intercept = _deming(xs, ys, error_ratio)
    n = len(xs)
    left_out = np.array([_deming(np.delete(xs, i), np.delete(ys, i), error_ratio) for i in range(n)])
    pseudo = n * np.array([slope, intercept]) - (n - 1) * left_out
    error = pseudo.std(axis=0, ddof=1) / math.sqrt(n)
    reach = float(stats.t.ppf(1 - _checked(alpha) / 2, n - 2)) * error
    return LinearAgreement(
        slope,
        intercept,
        (slope - float(reach[0]), slope + float(reach[0])),
        (intercept - float(reach[1]), intercept + float(reach[1])),
        _cusum_p(xs, ys, slope, intercept),
        n,
    )


def bland_altman(x: ArrayLike, y: ArrayLike, alpha: float = 0.05) -> DifferenceAgreement:
    """Bias and limits of agreement of y - x (Bland and Altman 1986, Lancet 1:307; intervals of 1999, SMMR 8:135).

    Raises:
        UserError: as :func:`passing_bablok`, but constant values are allowed.
    """
    xs, ys = checked_pairs(x, y, constant=True)
    difference = ys - xs
    n, z = len(difference), _z(alpha)
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    t = float(stats.t.ppf(1 - alpha / 2, n - 1))
    of_bias = t * sd / math.sqrt(n)
    of_limit = t * sd * math.sqrt(1 / n + z * z / (2 * (n - 1)))
    low, high = bias - z * sd, bias + z * sd
    return DifferenceAgreement(
        bias,
        sd,
        (low, high),
        (bias - of_bias, bias + of_bias),
        (low - of_limit, low + of_limit),
        (high - of_limit, high + of_limit),
        n,
    )


def pearson(x: ArrayLike, y: ArrayLike, alpha: float = 0.05, *, seed: int = 0) -> Correlation:
    """Pearson correlation with two intervals.

    Raises:
        UserError: as :func:`passing_bablok`.
    """
    xs, ys = checked_pairs(x, y)
    result = stats.pearsonr(xs, ys)
    fisher = result.confidence_interval(1 - _checked(alpha)) if len(xs) > 3 else (math.nan, math.nan)
    resampled = np.array([np.corrcoef(xs[i], ys[i])[0, 1] for i in _resamples(xs, ys, seed)])
    return Correlation(
        float(result.statistic), (float(fisher[0]), float(fisher[1])), _percentiles(resampled, alpha), len(xs)
    )


def summarize(x: ArrayLike, y: ArrayLike, alpha: float = 0.05, *, equivariant: bool = False) -> dict[str, Any]:
    """All of the above in one flat row, with the spread that r depends on.

    Returns:
        ``n``, ``sd_x``, ``r`` with its intervals, ``slope`` and ``intercept`` of Passing-Bablok with theirs,
        ``linearity_p``, ``bias`` with its interval, ``limit_low``, ``limit_high`` and ``rmse``.

    Raises:
        UserError: as :func:`passing_bablok`.
    """
    xs, ys = checked_pairs(x, y)
    line, difference = passing_bablok(xs, ys, alpha, equivariant=equivariant), bland_altman(xs, ys, alpha)
    correlation = pearson(xs, ys, alpha)
    return {
        "n": len(xs),
        "sd_x": float(xs.std(ddof=1)),
        "r": correlation.r,
        "r_low": correlation.fisher_ci[0],
        "r_high": correlation.fisher_ci[1],
        "r_bootstrap_low": correlation.bootstrap_ci[0],
        "r_bootstrap_high": correlation.bootstrap_ci[1],
        "slope": line.slope,
        "slope_low": line.slope_ci[0],
        "slope_high": line.slope_ci[1],
        "intercept": line.intercept,
        "intercept_low": line.intercept_ci[0],
        "intercept_high": line.intercept_ci[1],
        "linearity_p": line.linearity_p,
        "bias": difference.bias,
        "bias_low": difference.bias_ci[0],
        "bias_high": difference.bias_ci[1],
        "limit_low": difference.limits[0],
        "limit_high": difference.limits[1],
        "rmse": float(np.sqrt(np.mean((ys - xs) ** 2))),
    }


def checked_pairs(x: ArrayLike, y: ArrayLike, *, constant: bool = False) -> tuple[FloatArray, FloatArray]:
    """Both as float64 [N].

    Raises:
        UserError: see :func:`passing_bablok`; constant values only where ``constant`` is false.
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if xs.ndim != 1 or xs.shape != ys.shape:
        raise UserError(f"x has shape {list(xs.shape)} and y {list(ys.shape)}: give two lists of one length, in pairs")
    bad = np.flatnonzero(~(np.isfinite(xs) & np.isfinite(ys)))
    if len(bad):
        named = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise UserError(f"{len(bad)} pairs hold values that are not finite (number {named}): leave them out")
    if len(xs) < 3:
        raise UserError(f"{len(xs)} pairs: at least 3 are needed")
    for name, values in (("x", xs), ("y", ys)):
        if not constant and np.ptp(values) == 0:
            raise UserError(f"{name} is {values[0]} everywhere: nothing can be compared over a constant")
    return xs, ys


def _pairwise_slopes(x: FloatArray, y: FloatArray) -> FloatArray:
    """Slopes of all pairs that do not coincide; infinite, with the sign of y_i - y_j, where only x is equal."""
    i, j = np.triu_indices(len(x), 1)
    dx, dy = x[i] - x[j], y[i] - y[j]
    apart = (dx != 0) | (dy != 0)
    dx, dy = dx[apart], dy[apart]
    return np.asarray(np.where(dx == 0, np.copysign(np.inf, dy), dy / np.where(dx == 0, 1, dx)))


def _equivariant_slope(x: FloatArray, y: FloatArray) -> float:
    return float(np.median(np.abs(_pairwise_slopes(x, y))))


def _deming(x: FloatArray, y: FloatArray, ratio: float) -> tuple[float, float]:
    covariance = np.cov(x, y)
    sxx, syy, sxy = covariance[0, 0], covariance[1, 1], covariance[0, 1]
    if sxy == 0:
        raise UserError("x and y are uncorrelated: Deming regression has no slope here")
    excess = syy - ratio * sxx
    slope = float((excess + math.sqrt(excess * excess + 4 * ratio * sxy * sxy)) / (2 * sxy))
    return slope, float(y.mean() - slope * x.mean())


def _cusum_p(x: FloatArray, y: FloatArray, slope: float, intercept: float) -> float:
    """Cusum test for linearity of Passing and Bablok 1983.

    Points above and below the line, in the order of their feet on it, should be mixed. The largest cusum of the
    scores sqrt(L / l) and -sqrt(l / L) is the statistic of Kolmogorov and Smirnov for the two sets of ranks.
    """
    residual = y - intercept - slope * x
    along = slope * y + x
    near = np.abs(residual) < 1e-12 * max(1.0, float(np.abs(y).max()))
    above, below = along[(residual > 0) & ~near], along[(residual < 0) & ~near]
    if not len(above) or not len(below):
        return math.nan
    return float(stats.ks_2samp(above, below).pvalue)


def _resamples(x: FloatArray, y: FloatArray, seed: int) -> list[NDArray[np.intp]]:
    """Indices of resampled points; draws in which x or y is constant are drawn again."""
    rng = np.random.default_rng(seed)
    chosen: list[NDArray[np.intp]] = []
    while len(chosen) < BOOTSTRAP_RESAMPLES:
        index = rng.integers(len(x), size=len(x))
        if np.ptp(x[index]) and np.ptp(y[index]):
            chosen.append(index)
    return chosen


def _percentiles(values: FloatArray, alpha: float) -> Interval:
    low, high = np.percentile(values, [50 * alpha, 100 - 50 * alpha])
    return float(low), float(high)


def _checked(alpha: float) -> float:
    if not 0 < alpha < 1:
        raise UserError(f"alpha={alpha}: must lie between 0 and 1, e.g. 0.05 for 95 % intervals")
    return alpha


def _z(alpha: float) -> float:
    return float(stats.norm.ppf(1 - _checked(alpha) / 2))
