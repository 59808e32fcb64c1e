"""Repeatability and within-laboratory precision of what is measured of a sample, as CLSI EP05-A3 describes them.

A field is a replicate; fields lie in runs, runs in days. The variance components are those of a nested analysis of
variance with unequal numbers (Searle, Casella, McCulloch: Variance Components, 1992, chapter 3); one that comes out
negative is set to 0. Intervals are those of chi-square, with Satterthwaite's degrees of freedom (Biometrics Bulletin
1946;2:110) for sums of components.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from hemolens.errors import UserError

CONFIDENCE = 0.95
NAN = float("nan")
RESULT_COLUMNS = (
    *("sample", "measurand", "unit", "files", "runs", "days", "mean"),
    *("repeatability_sd", "repeatability_low", "repeatability_high", "repeatability_cv_percent"),
    *("between_run_sd", "between_day_sd"),
    *("within_laboratory_sd", "within_laboratory_low", "within_laboratory_high", "within_laboratory_cv_percent"),
    *("within_laboratory_df", "chance_sd"),
)


@dataclass(frozen=True)
class Spread:
    """A standard deviation with its interval and degrees of freedom."""

    sd: float
    low: float
    high: float
    df: float


@dataclass(frozen=True)
class Components:
    """What :func:`nested_components` found; NaN for what the design does not show.

    Attributes:
        mean: of all values.
        repeatability: within runs.
        between_run_sd: of runs of the same day, or of all runs where there are no days.
        between_day_sd: of days.
        within_laboratory: all components together.
    """

    mean: float
    repeatability: Spread
    between_run_sd: float
    between_day_sd: float
    within_laboratory: Spread


def spread(variance: float, df: float, confidence: float = CONFIDENCE) -> Spread:
    """A standard deviation of a variance with its chi-square interval; of one that is 0 the interval is 0 too."""
    tail = (1 - confidence) / 2
    low, high = (math.sqrt(variance * df / float(chi2.ppf(p, df))) for p in (1 - tail, tail))
    return Spread(math.sqrt(variance), low, high, df)


def nested_components(
    values: ArrayLike, runs: Sequence[str] | None = None, days: Sequence[str] | None = None
) -> Components:
    """Variance components of replicates in runs in days.

    Args:
        values: [N].
        runs: [N], the run of each value, told apart within its day; None: one run a day, or one run.
        days: [N]; None: one day.

    Returns:
        Components. Of a level with one entry there is none (NaN), and where neither runs nor days differ there is no
        within-laboratory spread.

    Raises:
        UserError: no two values of one run.
    """
    x = np.asarray(values, np.float64)
    day = pd.factorize(np.asarray(days if days is not None else [""] * len(x), object))[0]
    names = [f"{d}\n{run}" for d, run in zip(day, runs if runs is not None else [""] * len(x), strict=True)]
    run = pd.factorize(np.asarray(names, object))[0]
    n_values, n_runs, n_days = len(x), len(set(run.tolist())), len(set(day.tolist()))
    if n_values - n_runs < 1:
        raise UserError("repeatability needs two files of the same sample and run at least")
    in_run, in_day = np.bincount(run).astype(float), np.bincount(day).astype(float)
    run_mean, day_mean = np.bincount(run, x) / in_run, np.bincount(day, x) / in_day
    day_of_run = np.zeros(n_runs, int)
    day_of_run[run] = day
    mean = float(x.mean())

    # mean squares of days, runs in days, values in runs; 0 for a level that is not there
    freedom = np.array([n_days - 1, n_runs - n_days, n_values - n_runs], float)
    squares = np.array(
        [
            (in_day * (day_mean - mean) ** 2).sum(),
            (in_run * (run_mean - day_mean[day_of_run]) ** 2).sum(),
            ((x - run_mean[run]) ** 2).sum(),
        ]
    )
    mean_squares = np.divide(squares, freedom, out=np.zeros(3), where=freedom > 0)

    # each component as weights of the mean squares
    own = np.array([0.0, 0.0, 1.0])
    of_runs, of_days = np.zeros(3), np.zeros(3)
    squared_in_day = float((in_run**2 / in_day[day_of_run]).sum())
    if freedom[1] > 0:
        share = (n_values - squared_in_day) / freedom[1]
        of_runs = _positive((np.array([0.0, 1.0, 0.0]) - own) / share, mean_squares)
    if freedom[0] > 0:
        runs_share = (squared_in_day - float((in_run**2).sum()) / n_values) / freedom[0]
        share = (n_values - float((in_day**2).sum()) / n_values) / freedom[0]
        of_days = _positive((np.array([1.0, 0.0, 0.0]) - own - runs_share * of_runs) / share, mean_squares)

    total = own + of_runs + of_days
    variance = float(total @ mean_squares)
    parts = np.divide((total * mean_squares) ** 2, freedom, out=np.zeros(3), where=freedom > 0)
    df = variance**2 / float(parts.sum()) if parts.sum() else float(freedom.sum())
    return Components(
        mean=mean,
        repeatability=spread(float(mean_squares[2]), float(freedom[2])),
        between_run_sd=math.sqrt(float(of_runs @ mean_squares)) if freedom[1] > 0 else NAN,
        between_day_sd=math.sqrt(float(of_days @ mean_squares)) if freedom[0] > 0 else NAN,
        within_laboratory=spread(variance, df) if freedom[:2].any() else Spread(NAN, NAN, NAN, NAN),
    )


def _positive(weights: NDArray[np.float64], mean_squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights of a component, or none where it would be negative."""
    return weights if float(weights @ mean_squares) > 0 else np.zeros(3)


def file_values(cells: pd.DataFrame, counts: pd.DataFrame, means: dict[str, str]) -> pd.DataFrame:
    """What each file says of its sample, and how much chance alone would vary it.

    Args:
        cells: of one sample, a row a cell: ``file`` and the columns of ``means``, without those that are not measured.
        counts: of the same sample, a row a file: ``file``, a column a type, ``all``.
        means: columns of ``cells`` to average, and their units.

    Returns:
        A row a file and measurand: ``file``, ``measurand``, ``unit``, ``value``, ``chance_variance``. That is
        p (1 - p) / n of a share p of n cells, their mean number for the number of cells (Poisson), and s^2 / n for the
        mean of n cells.
    """
    types = [column for column in counts.columns if column not in ("file", "all")]
    shares = {name: float(counts[name].sum()) / max(int(counts["all"].sum()), 1) for name in types}
    rows: list[tuple[str, str, str, float, float]] = []
    groups = dict(list(cells.groupby("file")))
    typical = float(counts["all"].mean())
    for record in counts.to_dict("records"):
        file, n = record["file"], int(record["all"])
        rows.append((file, "cells", "", float(n), typical))
        for name, share in shares.items() if n else ():
            rows.append((file, f"share of {name}", "", record[name] / n, share * (1 - share) / n))
        for column, unit in means.items():
            measured = groups[file][column].dropna() if file in groups else pd.Series(dtype=float)
            if len(measured) > 1:
                rows.append((file, column, unit, float(measured.mean()), float(measured.var()) / len(measured)))
    return pd.DataFrame(rows, columns=["file", "measurand", "unit", "value", "chance_variance"])


def repeatability_table(values: pd.DataFrame) -> pd.DataFrame:
    """Components of every sample and measurand.

    Args:
        values: of :func:`file_values`, with ``sample``, ``run`` and ``day`` (strings; empty: not told apart).

    Returns:
        ``RESULT_COLUMNS``; ``chance_sd`` is what chance alone (counting, and which cells were in the field) would give
        within runs. Measurands without two files in one run are left out.

    Raises:
        UserError: nothing is left.
    """
    rows = []
    for (sample, measurand), group in values.groupby(["sample", "measurand"], sort=False):
        if len(group) - group.groupby(["day", "run"]).ngroups < 1:
            continue
        found = nested_components(group["value"], group["run"].tolist(), group["day"].tolist())
        within, total = found.repeatability, found.within_laboratory
        percent = 100 / abs(found.mean) if found.mean else NAN
        numbers = [
            *(found.mean, within.sd, within.low, within.high, within.sd * percent),
            *(found.between_run_sd, found.between_day_sd),
            *(total.sd, total.low, total.high, total.sd * percent, total.df),
            math.sqrt(float(group["chance_variance"].mean())),
        ]
        design = [len(group), group.groupby(["day", "run"]).ngroups, group["day"].nunique()]
        rows.append([sample, measurand, group["unit"].iloc[0], *design, *numbers])
    if not rows:
        raise UserError("no two files are of the same sample and run: repeatability needs repeated fields of a sample")
    return pd.DataFrame(rows, columns=list(RESULT_COLUMNS))
