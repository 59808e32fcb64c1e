"""Blood samples from their cells: counts, class fractions, MCV, MCH, MCHC and RDW, with bootstrap intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hemolens.errors import UserError

BOOTSTRAP_RESAMPLES = 1000
RED_CLASSES = {"RBC": ("RBC",), "RBC+ARBC": ("RBC", "ARBC")}
INDICES = ("mcv_fl", "mch_pg", "mchc_g_dl", "rdw_percent")


def sample_table(
    cells: pd.DataFrame,
    class_names: Sequence[str],
    *,
    files: Mapping[str, str] | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """Counts and red-cell indices of each sample.

    All cells count; cells that the border cuts, that are clumped or in which nothing was found stay out of the
    indices. Each sample has a row for its RBC, as paper A measures, and one for RBC and ARBC together, as an analyser
    counts.

    Args:
        cells: one row a cell, with ``sample``, ``file``, ``class``, ``cv_fl``, ``ch_pg``, ``border_cut``, ``clumped``.
        class_names: classes, also those without a cell.
        files: sample of each file, so that files without a cell count; None: those of ``cells``.
        alpha: 1 - confidence of the intervals.
        seed: of the bootstrap over cells.

    Returns:
        ``sample``, ``n_files``, ``n_<class>`` and ``fraction_<class>``; ``indices_of`` (RBC or RBC+ARBC),
        ``n_measured``; ``mcv_fl``, ``mch_pg`` (means), ``mchc_g_dl`` (100 sum CH / sum CV), ``rdw_percent`` (100 SD /
        mean of the volumes), each with ``_low`` and ``_high``. NaN where fewer than two cells were measured.

    Raises:
        UserError: a column is missing.
    """
    missing = {"sample", "file", "class", "cv_fl", "ch_pg", "border_cut", "clumped"} - set(cells.columns)
    if missing:
        raise UserError(f"table of cells without {', '.join(sorted(missing))}")
    rows = []
    usable = measurable(cells)
    sample_of = pd.Series(dict(zip(cells.file, cells["sample"], strict=True)) | dict(files or {}), dtype=object)
    for sample, n_files in sample_of.value_counts().sort_index().items():
        group = cells[cells["sample"] == sample]
        counts = group["class"].value_counts()
        row: dict[str, object] = {"sample": sample, "n_files": int(n_files)}
        row |= {f"n_{name}": int(counts.get(name, 0)) for name in class_names}
        row |= {f"fraction_{name}": counts.get(name, 0) / max(len(group), 1) for name in class_names}
        for name, classes in RED_CLASSES.items():
            chosen = group[usable[group.index] & group["class"].isin(classes)]
            values = chosen[["cv_fl", "ch_pg"]].to_numpy(float)
            rows.append({**row, "indices_of": name, "n_measured": len(values), **_with_intervals(values, alpha, seed)})
    return pd.DataFrame(rows)


def measurable(cells: pd.DataFrame) -> pd.Series:
    """Which cells enter the indices: neither cut by the border nor clumped, and something was found."""
    return ~cells.border_cut.astype(bool) & ~cells.clumped.astype(bool) & (cells.cv_fl > 0)


def _with_intervals(values: NDArray[np.float64], alpha: float, seed: int) -> dict[str, float]:
    n = len(values)
    if n < 2:
        return {f"{name}{end}": float("nan") for name in INDICES for end in ("", "_low", "_high")}
    rng = np.random.default_rng(seed)
    drawn = _indices(values[rng.integers(n, size=(BOOTSTRAP_RESAMPLES, n))])
    low, high = np.percentile(drawn, [50 * alpha, 100 - 50 * alpha], axis=0)
    row: dict[str, float] = {}
    for name, value, a, b in zip(INDICES, _indices(values).tolist(), low.tolist(), high.tolist(), strict=True):
        row |= {name: value, f"{name}_low": a, f"{name}_high": b}
    return row


def _indices(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """MCV, MCH, MCHC, RDW of (volume, hemoglobin) [..., N, 2]."""
    mcv, mch = values[..., 0].mean(-1), values[..., 1].mean(-1)
    rdw = 100 * values[..., 0].std(-1, ddof=1) / mcv
    return np.stack([mcv, mch, 100 * mch / mcv, rdw], axis=-1)
