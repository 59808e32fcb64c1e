"""Volume and hemoglobin of single cells in a refractive-index tomogram.

With the index increment alpha, n - n_medium = alpha C; 1 g/dL = 0.01 pg/um^3, hence
``CH[pg] = 0.01 sum(n - n_medium) v[um^3] / alpha[dL/g]`` (paper A, equation 12, prints no 0.01). A contour at a fixed
index overestimates volumes behind a missing cone, by 2 to 4 times for flat cells: ``threshold`` is the published
method, kept as the baseline, and the others are ways around it.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hemolens.analysis.calibration import IndexCalibration, read_calibration
from hemolens.analysis.cell_measures import (
    COLUMN_MARGIN_UM,
    FEATURES,
    column,
    contour,
    features,
    filled,
    principal_axes,
    read_window,
    resolution_um,
)
from hemolens.analysis.cell_windows import Window, checked_boxes, overlap, share_field
from hemolens.errors import UserError
from hemolens.io.volumes import RIArray, Volume
from hemolens.optics.tomography import TomographySettings

RII_PAPER = 0.0029  # dL/g, as paper A prints it
RII_LITERATURE = 0.0019  # dL/g
THRESHOLD = 0.005  # above the medium (paper A)
METHODS = ("threshold", "gp_threshold", "half_max", "regressor", "column")
HALF_LEVEL = ("half_max", "regressor")  # their volume is that inside the half maximum
ITERATIONS = {"gp_threshold": 20, "half_max": 30, "regressor": 30}
ASSUMED_MCHC_G_DL = 33.3
MARGIN_UM = 0.5  # around a box, that belongs to its cell
CLUMPED_OVERLAP = 0.05  # of a box's area that lies in other boxes


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """How cells are measured.

    Args:
        method: ``threshold``, ``gp_threshold``, ``half_max``, ``regressor`` or ``column``, see :func:`measure_cells`.
        rii: refractive index increment in dL/g.
        threshold: of the contour, above the medium.
        iterations: that fill the missing cone; None: 20 for ``gp_threshold``, 30 for ``half_max`` and ``regressor``.
        calibration: file of ``regressor``, see :func:`hemolens.analysis.calibration.read_calibration`; None: the one
            that hemolens comes with.

    Raises:
        UserError: an unknown method, or a value out of range; a calibration that cannot be read, or that was fitted
            with another threshold or number of iterations.
    """

    method: str = "regressor"
    rii: float = RII_LITERATURE
    threshold: float = THRESHOLD
    iterations: int | None = None
    calibration: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"method={self.method}: choose from {', '.join(METHODS)}")
        for name in ("rii", "threshold", "iterations"):
            value = getattr(self, name)
            if isinstance(value, str):
                hint = "; hemolens.analysis.calibration.calibrate_rii finds one" if name == "rii" else ""
                raise UserError(f"{name}={value}: must be a number{hint}")
        if not self.rii > 0 or not self.threshold > 0 or (self.iterations or 0) < 0:
            raise UserError(
                f"rii={self.rii}, threshold={self.threshold}, iterations={self.iterations}: must be positive"
            )
        if self.method != "regressor":
            if self.calibration is not None:
                raise UserError(f"calibration={self.calibration}: only method=regressor has one, not {self.method}")
            return
        fitted = read_calibration(self.calibration)
        if (self.threshold, self.repeats) != (fitted.threshold, fitted.iterations):
            raise UserError(
                f"threshold={self.threshold}, iterations={self.repeats}: the calibration of method=regressor was "
                f"fitted with threshold={fitted.threshold}, iterations={fitted.iterations}: leave them as they are, "
                "or take method=half_max"
            )

    @property
    def repeats(self) -> int:
        """Iterations that are made; 0 where the method has none."""
        usual = ITERATIONS.get(self.method, 0)
        return usual if self.iterations is None or not usual else self.iterations


def measure_cells(
    volume: Volume,
    boxes: ArrayLike,
    *,
    method: str = "regressor",
    medium_index: float | None = None,
    rii: float = RII_LITERATURE,
    threshold: float = THRESHOLD,
    iterations: int | None = None,
    calibration: str | None = None,
    optics: TomographySettings | None = None,
    chosen: ArrayLike | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    """Corpuscular volume and hemoglobin of each box.

    - ``threshold``: voxels above n_medium + ``threshold``, counted and summed (paper A, equations 11 and 12).
    - ``gp_threshold``: the same after iterations that fill the missing cone with n >= n_medium, see
      :func:`hemolens.optics.tomography.fill_missing_cone`.
    - ``half_max``: after the iterations; volume inside half of the cell's own 95th percentile, hemoglobin as above.
    - ``regressor``: both of ``half_max``, corrected by what cells of known volume teach about the cell's sharpness,
      thickness and tilt and the instrument's resolution, see :mod:`hemolens.analysis.calibration`.
    - ``column``: hemoglobin as the integral along the axis over the ring around the cell, without any contour, exact
      where the whole stack is there; volume = hemoglobin / 33.3 g/dL.

    Where boxes meet, a pixel belongs to the cell whose centre is nearer in units of its box, so that no voxel counts
    twice.

    Args:
        volume: open tomogram.
        boxes: [M, 4] xyxy in pixels.
        method: one of the above.
        medium_index: instead of the volume's.
        rii: refractive index increment in dL/g.
        threshold: of the contour, above the medium.
        iterations: that fill the missing cone; None: 20 for ``gp_threshold``, 30 for ``half_max`` and ``regressor``.
        calibration: file of ``regressor``; None: the one that hemolens comes with.
        optics: apertures and wavelength of the instrument, for the iterations; None: :func:`instrument_of` with the
            usual apertures. Voxels and medium are always the volume's.
        chosen: bool [M], the boxes to measure; the others only claim their pixels and come back without values.
            None: all.
        workers: threads.

    Returns:
        One row a box, in order: the box; ``cv_fl``, ``ch_pg``, ``concentration_g_dl`` (NaN where nothing lies above the
        threshold); ``tilt_deg`` between the cell's shortest axis and the optical axis (NaN without iterations: the
        missing cone hides it); ``footprint_um2``; ``contour_voxels``; ``border_cut``, within 0.5 um of the border;
        ``clumped``, where another box covers more than 5 % of it; ``extrapolated``, where ``regressor`` saw a cell
        unlike those that it was fitted on (it stops at the end of its range) or too faint to correct (then it gives
        what ``half_max`` gives).

    Raises:
        UserError: see :class:`IndexSettings`; boxes that are not [M, 4] inside the field, or a damaged volume.
    """
    settings = IndexSettings(
        method=method, rii=rii, threshold=threshold, iterations=iterations, calibration=calibration
    )
    return _measure(volume, boxes, settings, medium_index, optics, chosen, workers)[0]


def measure_field(
    volume: Volume,
    boxes: ArrayLike,
    settings: IndexSettings,
    *,
    medium_index: float | None = None,
    optics: TomographySettings | None = None,
    chosen: ArrayLike | None = None,
    workers: int = 1,
) -> tuple[pd.DataFrame, NDArray[np.int32]]:
    """:func:`measure_cells`, and where each cell was found.

    Returns:
        The table, and a label mask [Y, X]: number of the row + 1 under each contour (for ``column``: in each cell's
        window), 0 elsewhere.
    """
    table, cells = _measure(volume, boxes, settings, medium_index, optics, chosen, workers)
    labels = np.zeros(volume.shape[1:], np.int32)
    for number, cell in enumerate(cells, start=1):
        labels[cell.window.rows, cell.window.columns][cell.footprint] = number
    return table, labels


def measure_features(
    volume: Volume,
    boxes: ArrayLike,
    *,
    rii: float = RII_LITERATURE,
    threshold: float = THRESHOLD,
    iterations: int = ITERATIONS["half_max"],
    optics: TomographySettings | None = None,
    chosen: ArrayLike | None = None,
    workers: int = 1,
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """The table of ``half_max``, and the features [M, K] from which ``regressor`` corrects it.

    For those who fit a calibration; see :func:`measure_cells` for arguments and errors.
    """
    settings = IndexSettings(method="half_max", rii=rii, threshold=threshold, iterations=iterations)
    table, cells = _measure(volume, boxes, settings, None, optics, chosen, workers)
    return table, _features_of(cells)


def instrument_of(
    volume: Volume,
    *,
    condenser_na: float = TomographySettings.condenser_na,
    objective_na: float = TomographySettings.objective_na,
) -> TomographySettings:
    """The instrument that a volume was made with: what the volume states, and the apertures, which none states.

    Raises:
        UserError: an aperture that the medium does not allow.
    """
    return TomographySettings(
        condenser_na=condenser_na,
        objective_na=objective_na,
        wavelength_um=volume.wavelength_um or TomographySettings.wavelength_um,
        medium_index=volume.medium_index,
        voxel_um=volume.voxel_um,
    )


def corrected(table: pd.DataFrame, values: NDArray[np.float64], calibration: IndexCalibration) -> pd.DataFrame:
    """A table of ``half_max`` as ``regressor`` has it, from the features of its cells [M, K]."""
    volume, hemoglobin, extrapolated = calibration.factors(values)
    cv, ch = table.cv_fl.to_numpy() * volume, table.ch_pg.to_numpy() * hemoglobin
    return table.assign(cv_fl=cv, ch_pg=ch, concentration_g_dl=_concentration(cv, ch), extrapolated=extrapolated)


@dataclass(slots=True)
class _Cell:
    """What was found in a window; volume in voxels, content in voxels times index."""

    window: Window
    footprint: NDArray[np.bool_]
    volume: float = math.nan
    content: float = math.nan
    voxels: int = 0
    tilt_deg: float = math.nan
    features: NDArray[np.float64] | None = None


def _measure(
    volume: Volume,
    boxes: ArrayLike,
    settings: IndexSettings,
    medium_index: float | None,
    optics: TomographySettings | None,
    chosen: ArrayLike | None,
    workers: int,
) -> tuple[pd.DataFrame, list[_Cell]]:
    """The table, and what it was made of."""
    _, height, width = volume.shape
    found = checked_boxes(boxes, height, width)
    medium = float(volume.medium_index if medium_index is None else medium_index)
    index = volume.array.loaded()
    instrument = replace(optics or instrument_of(volume), voxel_um=volume.voxel_um, medium_index=medium)
    resolution = resolution_um(instrument) if settings.method in HALF_LEVEL else (math.nan, math.nan)

    wanted = np.ones(len(found), bool) if chosen is None else np.asarray(chosen, bool)
    if wanted.shape != (len(found),):
        raise UserError(f"chosen has shape {list(wanted.shape)}: give one bool for each of {len(found)} boxes")

    def measure(task: tuple[Window, bool]) -> _Cell:
        window, wish = task
        if not wish:
            rows, columns = window.rows, window.columns
            return _Cell(window, np.zeros((rows.stop - rows.start, columns.stop - columns.start), bool))
        if settings.method == "column":
            content, own = column(index, medium, window, found, volume.voxel_um)
            return _Cell(window, own, content=content)
        return _inside(index, window, settings, instrument, resolution)

    margin = COLUMN_MARGIN_UM if settings.method == "column" else MARGIN_UM
    tasks = zip(share_field(found, (height, width), volume.voxel_um, margin), wanted.tolist(), strict=True)
    with ThreadPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        cells = list(pool.map(measure, tasks) if pool else map(measure, tasks))
    table = _table(found, cells, (height, width), volume.voxel_um, settings)
    if settings.method == "regressor":
        table = corrected(table, _features_of(cells), read_calibration(settings.calibration))
    return table, cells


def _features_of(cells: list[_Cell]) -> NDArray[np.float64]:
    values = np.full((len(cells), len(FEATURES)), math.nan)
    for row, cell in zip(values, cells, strict=True):
        if cell.features is not None:
            row[:] = cell.features
    return values


def _inside(
    index: RIArray,
    window: Window,
    settings: IndexSettings,
    instrument: TomographySettings,
    resolution: tuple[float, float],
) -> _Cell:
    """One cell inside its contour."""
    repeats = settings.repeats
    if repeats:
        base, crop = 0.0, filled(index, window, instrument, repeats)
        peaks = crop.reshape(len(crop), -1).max(1)
    else:
        base = instrument.medium_index
        crop, peaks = read_window(index, window)
    found = contour(crop, peaks, base, window.own, settings.threshold)
    count = len(found.values)
    half = settings.method in HALF_LEVEL and count > 0
    volume = found.count(found.level(0.5, base)) if half else count
    cell = _Cell(window, found.footprint, volume, found.content, count)
    if not repeats:
        return cell
    axes = principal_axes(crop, window.own, instrument.voxel_um)
    cell.tilt_deg = axes[1]
    cell.features = features(crop, peaks, found, window.own, axes, resolution) if half else None
    return cell


def _table(
    boxes: NDArray[np.float64],
    cells: list[_Cell],
    size: tuple[int, int],
    voxel_um: tuple[float, float, float],
    settings: IndexSettings,
) -> pd.DataFrame:
    step, (height, width) = math.prod(voxel_um), size
    ch = np.array([cell.content for cell in cells], float) * (0.01 * step / settings.rii)
    cv = np.array([cell.volume for cell in cells], float) * step
    if settings.method == "column":
        cv = 100 * ch / ASSUMED_MCHC_G_DL
    mx, my = MARGIN_UM / voxel_um[2], MARGIN_UM / voxel_um[1]
    cut = (boxes[:, :2] < [mx, my]).any(1) | (boxes[:, 2:] > [width - mx, height - my]).any(1)
    pixels = np.array([np.count_nonzero(cell.footprint) for cell in cells], float)
    return pd.DataFrame(
        {
            **dict(zip(("x0", "y0", "x1", "y1"), boxes.T, strict=True)),
            "cv_fl": cv,
            "ch_pg": ch,
            "concentration_g_dl": _concentration(cv, ch),
            "tilt_deg": np.array([cell.tilt_deg for cell in cells], float),
            "footprint_um2": pixels * voxel_um[1] * voxel_um[2],
            "contour_voxels": np.array([cell.voxels for cell in cells], int),
            "border_cut": cut,
            "clumped": overlap(boxes) > CLUMPED_OVERLAP,
            "extrapolated": np.zeros(len(cells), bool),
        }
    )


def _concentration(cv: NDArray[np.float64], ch: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(cv > 0, 100 * ch / cv, math.nan)
