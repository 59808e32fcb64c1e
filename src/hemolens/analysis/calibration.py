"""Calibrations of cell indices: a correction fitted on cells of known volume, and an increment from a laboratory.

The correction is a ridge regression. With x the features of a cell (:data:`hemolens.analysis.cell_measures.FEATURES`),
``log(true / measured) = a + sum_k b_k (x_k - mean_k) / sd_k`` for the volume inside the half maximum and for the
hemoglobin inside the contour. ``scripts/fit_indices.py`` fits it on simulated cells.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hemolens.analysis.agreement import passing_bablok
from hemolens.analysis.cell_measures import FEATURES
from hemolens.errors import UserError
from hemolens.io.atomic import write_json

FORMAT = "hemolens index calibration 1"
SHIPPED = "index_calibration.json"
RIDGE = 5.0  # added to the squares of each standardised feature, in cells [choice]
RANGE_PERCENTILES = (0.5, 99.5)  # of the cells of the fit: outside of them a feature counts as extrapolated
MIN_CELLS = 50

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class IndexCalibration:
    """A fitted correction of volume and hemoglobin.

    Attributes:
        mean, sd, low, high: of each feature over the cells of the fit, [K].
        volume, hemoglobin: intercept and coefficients, [K + 1].
        threshold, iterations: of the contour that was corrected.
        made_by: where it comes from, for the reader.
    """

    mean: FloatArray
    sd: FloatArray
    low: FloatArray
    high: FloatArray
    volume: FloatArray
    hemoglobin: FloatArray
    threshold: float
    iterations: int
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def factors(self, values: FloatArray) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
        """What to multiply each cell's volume and hemoglobin by.

        Args:
            values: features of the cells, [M, K]; a row with NaN has none.

        Returns:
            Factors of the volume and of the hemoglobin, [M], 1 where features are missing; and whether features are
            missing or outside the range of the fit, [M]. Features outside are taken for the end of the range.
        """
        missing = np.asarray(~np.isfinite(values).all(1))
        outside = np.asarray(((values < self.low) | (values > self.high)).any(1))
        x = (np.clip(np.where(missing[:, None], self.mean, values), self.low, self.high) - self.mean) / self.sd
        volume, hemoglobin = (
            np.where(missing, 1.0, np.exp(line[0] + x @ line[1:])) for line in (self.volume, self.hemoglobin)
        )
        return volume, hemoglobin, missing | outside

    def write(self, path: Path, *, overwrite: bool = False) -> None:
        """Write as JSON.

        Raises:
            UserError: the file exists, or cannot be written.
        """
        columns = zip(self.mean, self.sd, self.low, self.high, self.volume[1:], self.hemoglobin[1:], strict=True)
        names = ("mean", "sd", "low", "high", "volume", "hemoglobin")
        content = {
            "format": FORMAT,
            "threshold": self.threshold,
            "iterations": self.iterations,
            "intercept": {"volume": float(self.volume[0]), "hemoglobin": float(self.hemoglobin[0])},
            "features": {
                feature: {name: float(value) for name, value in zip(names, column, strict=True)}
                for feature, column in zip(FEATURES, columns, strict=True)
            },
            "made_by": dict(self.made_by),
        }
        write_json(path, content, overwrite=overwrite)


def read_calibration(path: str | Path | None = None) -> IndexCalibration:
    """A calibration from its file; None: the one that hemolens comes with.

    Raises:
        UserError: no such file, or not such a calibration.
    """
    source = files("hemolens.analysis") / SHIPPED if path is None else Path(path)
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"calibration={source}: {error}: give a file that scripts/fit_indices.py wrote") from error
    try:
        if content["format"] != FORMAT or tuple(content["features"]) != FEATURES:
            raise KeyError(f"format {content['format']!r} with features {', '.join(content['features'])}")
        rows = list(content["features"].values())
        numbers = {
            name: np.array([row[name] for row in rows], np.float64)
            for name in ("mean", "sd", "low", "high", "volume", "hemoglobin")
        }
        lines = {
            name: np.concatenate([[float(content["intercept"][name])], numbers.pop(name)])
            for name in ("volume", "hemoglobin")
        }
        found = IndexCalibration(
            **numbers,
            **lines,
            threshold=float(content["threshold"]),
            iterations=int(content["iterations"]),
            made_by=content.get("made_by", {}),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"calibration={source}: no calibration of this version of hemolens ({error}): make one with "
            "scripts/fit_indices.py"
        ) from error
    for name, values in {**numbers, **lines}.items():
        if not np.isfinite(values).all() or (name == "sd" and not (values > 0).all()):
            raise UserError(f"calibration={source}: {name} holds impossible values: make it again")
    return found


def fit_calibration(
    values: FloatArray,
    volume_ratio: FloatArray,
    hemoglobin_ratio: FloatArray,
    *,
    threshold: float,
    iterations: int,
    ridge: float = RIDGE,
    made_by: Mapping[str, Any] | None = None,
) -> IndexCalibration:
    """Ridge regression of the logarithm of true over measured.

    Args:
        values: features, [N, K]; cells with NaN are left out.
        volume_ratio, hemoglobin_ratio: true over measured, [N].
        threshold, iterations: that the cells were measured with.
        ridge: penalty, in cells.
        made_by: kept in the file.

    Raises:
        UserError: fewer than 50 cells.
    """
    targets = np.stack([volume_ratio, hemoglobin_ratio], axis=1)
    used = np.isfinite(values).all(1) & np.isfinite(targets).all(1) & (targets > 0).all(1)
    if used.sum() < MIN_CELLS:
        raise UserError(f"{int(used.sum())} cells with features: a calibration needs at least {MIN_CELLS}")
    known, logs = values[used], np.log(targets[used])
    mean, sd = known.mean(0), np.maximum(known.std(0), 1e-9)
    x = (known - mean) / sd
    slopes = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (logs - logs.mean(0)))
    low, high = np.percentile(known, RANGE_PERCENTILES, axis=0)
    volume, hemoglobin = np.concatenate([logs.mean(0)[None], slopes]).T
    return IndexCalibration(mean, sd, low, high, volume, hemoglobin, threshold, iterations, made_by or {})


@dataclass(frozen=True)
class CalibratedIncrement:
    """A refractive index increment that makes MCH agree with a reference.

    Attributes:
        rii: dL/g, for ``hematology.rii``.
        rii_ci: its 95 % interval.
        samples: that both tables have.
    """

    rii: float
    rii_ci: tuple[float, float]
    samples: int


def calibrate_rii(
    measured: str | Path | pd.DataFrame,
    reference: str | Path | pd.DataFrame,
    *,
    rii: float,
    indices_of: str = "RBC+ARBC",
) -> CalibratedIncrement:
    """The increment with which MCH has slope 1 against a reference, by Passing-Bablok in its equivariant form.

    Hemoglobin is proportional to 1 / increment, and the equivariant slope to the hemoglobin, so that one step suffices:
    ``rii * slope``. Measure other samples than these with it: agreement on the same ones says nothing.

    Args:
        measured: ``samples.csv`` of a prediction, or its table.
        reference: CSV or table with the columns ``sample`` and ``mch_pg``, e.g. readings of an analyser.
        rii: that ``measured`` was made with, dL/g.
        indices_of: which rows of ``measured``: an analyser counts ``RBC+ARBC``.

    Raises:
        UserError: a column is missing, a sample occurs twice, or fewer than 3 samples are in both tables.
    """
    if not rii > 0:
        raise UserError(f"rii={rii}: must be positive")
    ours, theirs = (_table(table, name) for table, name in ((measured, "measured"), (reference, "reference")))
    if "indices_of" in ours.columns:
        ours = ours[ours.indices_of == indices_of]
    for name, table in (("measured", ours), ("reference", theirs)):
        if table["sample"].duplicated().any():
            twice = table.loc[table["sample"].duplicated(), "sample"].iloc[0]
            raise UserError(f"{name}: sample {twice} occurs twice: give one row a sample")
    both = ours.merge(theirs, on="sample", suffixes=("_measured", "_reference"))
    both = both[np.isfinite(both.mch_pg_measured) & np.isfinite(both.mch_pg_reference)]
    if len(both) < 3:
        raise UserError(
            f"{len(both)} samples with MCH are in both tables, at least 3 are needed: the names in the column sample "
            "must be the same"
        )
    line = passing_bablok(both.mch_pg_reference, both.mch_pg_measured, equivariant=True)
    if not math.isfinite(line.slope) or line.slope <= 0:
        raise UserError(f"MCH has slope {line.slope} against the reference: nothing to calibrate with")
    low, high = line.slope_ci
    return CalibratedIncrement(rii * line.slope, (rii * low, rii * high), len(both))


def _table(table: str | Path | pd.DataFrame, name: str) -> pd.DataFrame:
    if not isinstance(table, pd.DataFrame):
        try:
            found = pd.read_csv(table, dtype={"sample": str})
        except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
            raise UserError(f"{name}={table}: cannot be read: {error}") from error
        name, table = str(table), found
    if missing := {"sample", "mch_pg"} - set(table.columns):
        raise UserError(f"{name}: no column {', '.join(sorted(missing))}")
    return table.assign(sample=table["sample"].astype(str), mch_pg=pd.to_numeric(table.mch_pg, errors="coerce"))
