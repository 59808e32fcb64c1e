"""Cells counted in each sample against a reference count: the number that a laboratory reads first."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hemolens.analysis.agreement import bland_altman
from hemolens.errors import UserError

CLASSES = ("RBC", "PLT", "WBC", "ARBC")
MIN_SAMPLES = 3  # for limits of agreement


def count_agreement(
    found: pd.DataFrame, reference: pd.DataFrame, class_names: Sequence[str] = CLASSES, *, alpha: float = 0.05
) -> pd.DataFrame:
    """Agreement of the counts of each class, found minus reference.

    Args:
        found: a row a sample with ``sample`` and ``n_<class>``, e.g. ``samples.csv`` of a prediction (rows that repeat
            the counts of a sample, as its two rows do, count once).
        reference: the same, of the true cells or of another count.
        class_names: whose columns are compared.
        alpha: 1 - confidence of the limits of agreement.

    Returns:
        One row a class: ``class``, ``samples``, ``found`` and ``reference`` (totals), ``mean_absolute_error`` (cells a
        sample), ``relative_error`` ((found - reference) / reference over all samples; NaN where the reference has
        none), ``bias`` with ``bias_low`` and ``bias_high``, ``limit_low`` and ``limit_high`` (Bland and Altman 1986;
        all of them in cells a sample).

    Raises:
        UserError: a column is missing, counts are not numbers of 0 or more, rows of one sample differ, a sample is in
            one table alone, or fewer than 3 samples.
    """
    ours, theirs = (_counts(table, name, class_names) for name, table in (("found", found), ("reference", reference)))
    if lonely := sorted(set(ours.index) ^ set(theirs.index)):
        where = "found" if lonely[0] in ours.index else "reference"
        raise UserError(f"{len(lonely)} samples are in one table alone; the first is {lonely[0]}, only in {where}")
    if len(ours) < MIN_SAMPLES:
        raise UserError(f"{len(ours)} samples: agreement of counts needs at least {MIN_SAMPLES}")
    theirs = theirs.loc[ours.index]
    rows = []
    for name in class_names:
        x, y = theirs[f"n_{name}"].to_numpy(float), ours[f"n_{name}"].to_numpy(float)
        difference = bland_altman(x, y, alpha)
        rows.append(
            {
                "class": name,
                "samples": len(x),
                "found": int(y.sum()),
                "reference": int(x.sum()),
                "mean_absolute_error": float(np.abs(y - x).mean()),
                "relative_error": float((y.sum() - x.sum()) / x.sum()) if x.sum() else float("nan"),
                "bias": difference.bias,
                "bias_low": difference.bias_ci[0],
                "bias_high": difference.bias_ci[1],
                "limit_low": difference.limits[0],
                "limit_high": difference.limits[1],
            }
        )
    return pd.DataFrame(rows)


def _counts(table: pd.DataFrame, name: str, class_names: Sequence[str]) -> pd.DataFrame:
    """Counts by sample."""
    columns = [f"n_{label}" for label in class_names]
    if missing := [column for column in ("sample", *columns) if column not in table.columns]:
        raise UserError(f"{name}: no column {', '.join(missing)}")
    counts = table[["sample", *columns]].assign(sample=table["sample"].astype(str)).drop_duplicates()
    if counts["sample"].duplicated().any():
        twice = counts.loc[counts["sample"].duplicated(), "sample"].iloc[0]
        raise UserError(f"{name}: rows of sample {twice} have different counts")
    for column in columns:
        values = pd.to_numeric(counts[column], errors="coerce").to_numpy(float)
        bad = ~(np.isfinite(values) & (values >= 0) & (values == np.round(values)))
        if bad.any():
            first = counts[bad].iloc[0]
            raise UserError(f"{name}: {column} of sample {first['sample']} is {first[column]}: expected a whole number")
    return counts.set_index("sample")
