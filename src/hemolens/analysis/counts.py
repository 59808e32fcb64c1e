"""Cells counted in samples against a reference."""

import numpy as np
import pandas as pd

from hemolens.analysis.agreement import bland_altman
from hemolens.errors import UserError


def count_agreement(found: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Bland and Altman's bias and limits, and the mean absolute error, of each class.

    Args:
        found: a row a sample (index), a column a class, counts.
        reference: the same samples and classes.

    Returns:
        A row a class: ``Class``, ``Samples``, ``Cells`` (all in the reference), ``Mean a sample``, ``Bias``, ``Lower
        limit``, ``Upper limit`` (NaN with fewer than three samples), ``Mean absolute error`` and ``in % of the mean``.

    Raises:
        UserError: the samples or classes differ, or a count is negative or no number.
    """
    if not found.index.equals(reference.index) or list(found.columns) != list(reference.columns):
        raise UserError("counts to compare must have the same samples and classes, in the same order")
    rows = []
    for name in found.columns:
        x, y = (table[name].to_numpy(float) for table in (reference, found))
        if not (np.isfinite(x).all() and np.isfinite(y).all() and (x >= 0).all() and (y >= 0).all()):
            raise UserError(f"counts of {name} hold a value that is no count: give whole numbers from 0")
        limits = (np.nan, np.nan) if len(x) < 3 else bland_altman(x, y).limits
        error = float(np.abs(y - x).mean()) if len(x) else np.nan
        mean = float(x.mean()) if len(x) else np.nan
        rows.append(
            {
                "Class": name,
                "Samples": len(x),
                "Cells": int(x.sum()),
                "Mean a sample": mean,
                "Bias": float((y - x).mean()) if len(x) else np.nan,
                "Lower limit": float(limits[0]),
                "Upper limit": float(limits[1]),
                "Mean absolute error": error,
                "in % of the mean": 100 * error / mean if mean > 0 else np.nan,
            }
        )
    return pd.DataFrame(rows)
