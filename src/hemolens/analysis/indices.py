"""Volume and hemoglobin of single cells in a refractive-index tomogram.

With the index increment alpha, n - n_medium = alpha C; 1 g/dL = 0.01 pg/um^3, hence
``CH[pg] = 0.01 sum(n - n_medium) v[um^3] / alpha[dL/g]`` (paper A, equation 12, prints no 0.01). A contour at a fixed
index overestimates volumes behind a missing cone, by 2 to 4 times for flat cells: ``threshold`` is the published
method, kept as the baseline, and the others are ways around it.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hemolens.errors import UserError
from hemolens.io.volumes import RIArray, Volume
from hemolens.optics.tomography import TomographySettings, fill_missing_cone

RII_PAPER = 0.0029  # dL/g, as paper A prints it
RII_LITERATURE = 0.0019  # dL/g
THRESHOLD = 0.005  # above the medium (paper A)
METHODS = ("threshold", "gp_threshold", "half_max", "column")
ITERATIONS = {"gp_threshold": 20, "half_max": 30}
ASSUMED_MCHC_G_DL = 33.3
MARGIN_UM = 0.5  # around a box, that belongs to its cell
COLUMN_MARGIN_UM, RING_UM = 1.0, 2.0  # around a box for its column, and the width of the background's ring
TILT_CONTRAST = 0.02  # voxels above it tell how a cell lies
CONTEXT_PX = 24  # around a window, for the iterations: a neighbour's edge belongs to what they explain
CLUMPED_OVERLAP = 0.05  # of a box's area that lies in other boxes

COLUMNS = (
    *("x0", "y0", "x1", "y1", "cv_fl", "ch_pg", "concentration_g_dl", "tilt_deg"),
    *("footprint_um2", "contour_voxels", "border_cut", "clumped"),
)

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class _Window:
    """Rows and columns of one cell, and which of its pixels are its own, bool [h, w]; None for all."""

    rows: slice
    columns: slice
    own: NDArray[np.bool_] | None


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """How cells are measured.

    Args:
        method: ``threshold``, ``gp_threshold``, ``half_max`` or ``column``, see :func:`measure_cells`.
        rii: refractive index increment in dL/g.
        threshold: of the contour, above the medium.
        iterations: that fill the missing cone; None: 20 for ``gp_threshold``, 30 for ``half_max``.

    Raises:
        UserError: an unknown method, or a value out of range.
    """

    method: str = "half_max"
    rii: float = RII_LITERATURE
    threshold: float = THRESHOLD
    iterations: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"method={self.method}: choose from {', '.join(METHODS)}")
        if not self.rii > 0 or not self.threshold > 0 or (self.iterations or 0) < 0:
            raise UserError(
                f"rii={self.rii}, threshold={self.threshold}, iterations={self.iterations}: must be positive"
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
    method: str = "half_max",
    medium_index: float | None = None,
    rii: float = RII_LITERATURE,
    threshold: float = THRESHOLD,
    iterations: int | None = None,
    optics: TomographySettings | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    """Corpuscular volume and hemoglobin of each box.

    - ``threshold``: voxels above n_medium + ``threshold``, counted and summed (paper A, equations 11 and 12).
    - ``gp_threshold``: the same after iterations that fill the missing cone with n >= n_medium, see
      :func:`hemolens.optics.tomography.fill_missing_cone`.
    - ``half_max``: after the iterations; volume inside half of the cell's own 95th percentile, hemoglobin as above.
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
        iterations: that fill the missing cone; None: 20 for ``gp_threshold``, 30 for ``half_max``.
        optics: apertures and wavelength of the instrument, for the iterations; None: the defaults of
            :class:`TomographySettings` with the volume's voxels, medium and wavelength.
        workers: threads.

    Returns:
        One row a box, in order: the box; ``cv_fl``, ``ch_pg``, ``concentration_g_dl`` (NaN where nothing lies above the
        threshold); ``tilt_deg`` between the cell's shortest axis and the optical axis (NaN without iterations: the
        missing cone hides it); ``footprint_um2``; ``contour_voxels``; ``border_cut``, within 0.5 um of the border;
        ``clumped``, where another box covers more than 5 % of it.

    Raises:
        UserError: see :class:`IndexSettings`; boxes that are not [M, 4] inside the field, or a damaged volume.
    """
    if method not in METHODS:
        raise UserError(f"method={method}: choose from {', '.join(METHODS)}")
    settings = IndexSettings(method=method, rii=rii, threshold=threshold, iterations=iterations)
    return measure_field(volume, boxes, settings, medium_index=medium_index, optics=optics, workers=workers)[0]


def measure_field(
    volume: Volume,
    boxes: ArrayLike,
    settings: IndexSettings,
    *,
    medium_index: float | None = None,
    optics: TomographySettings | None = None,
    workers: int = 1,
) -> tuple[pd.DataFrame, NDArray[np.int32]]:
    """:func:`measure_cells`, and where each cell was found.

    Returns:
        The table, and a label mask [Y, X]: number of the row + 1 under each contour (for ``column``: in each cell's
        window), 0 elsewhere.
    """
    _, height, width = volume.shape
    found = _checked_boxes(boxes, height, width)
    medium = float(volume.medium_index if medium_index is None else medium_index)
    step = math.prod(volume.voxel_um)
    per_pg = 0.01 * step / settings.rii
    index = volume.array.loaded()
    instrument = _optics_of(volume, optics, medium)

    def measure(task: tuple[NDArray[np.float64], _Window]) -> tuple[dict[str, float], NDArray[np.bool_]]:
        box, window = task
        if settings.method == "column":
            cell, footprint = _column(index, medium, window, found, volume.voxel_um)
            cell["ch_pg"] *= per_pg
            cell["cv_fl"] = 100 * cell["ch_pg"] / ASSUMED_MCHC_G_DL
            cell["tilt_deg"] = math.nan
        else:
            base, crop = medium, index[:, window.rows, window.columns]
            if settings.repeats:
                base, crop = 0.0, _filled(index, window, instrument, settings.repeats)
            cell, footprint = _contour(crop, base, window.own, settings.threshold, half=settings.method == "half_max")
            cell["cv_fl"] *= step
            cell["ch_pg"] *= per_pg
            cell["tilt_deg"] = _tilt_deg(crop, window.own, volume.voxel_um) if settings.repeats else math.nan
        cell["footprint_um2"] = float(footprint.sum()) * volume.voxel_um[1] * volume.voxel_um[2]
        return {**dict(zip(("x0", "y0", "x1", "y1"), box.tolist(), strict=True)), **cell}, footprint

    margin = COLUMN_MARGIN_UM if settings.method == "column" else MARGIN_UM
    windows = list(_windows(found, (height, width), volume.voxel_um, margin))
    labels = np.zeros((height, width), np.int32)
    rows = []
    tasks = zip(found, windows, strict=True)
    with ThreadPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        measured = pool.map(measure, tasks) if pool else map(measure, tasks)
        for number, (window, (cell, footprint)) in enumerate(zip(windows, measured, strict=True), start=1):
            labels[window.rows, window.columns][footprint] = number
            rows.append(cell)
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name not in ("border_cut", "clumped")])
    with np.errstate(divide="ignore", invalid="ignore"):
        table["concentration_g_dl"] = np.where(table.cv_fl > 0, 100 * table.ch_pg / table.cv_fl, math.nan)
    my, mx = MARGIN_UM / volume.voxel_um[1], MARGIN_UM / volume.voxel_um[2]
    ends = np.array([width - mx, height - my])
    table["border_cut"] = (found[:, :2] < [mx, my]).any(1) | (found[:, 2:] > ends).any(1)
    table["clumped"] = _overlap(found) > CLUMPED_OVERLAP
    return table[list(COLUMNS)], labels


def _filled(index: RIArray, window: _Window, optics: TomographySettings, iterations: int) -> NDArray[np.float32]:
    """n - n_medium of a window after the iterations, which see the window's surroundings too."""
    _, height, width = index.shape
    top, left = max(window.rows.start - CONTEXT_PX, 0), max(window.columns.start - CONTEXT_PX, 0)
    bottom, right = min(window.rows.stop + CONTEXT_PX, height), min(window.columns.stop + CONTEXT_PX, width)
    around = index[:, top:bottom, left:right] - np.float32(optics.medium_index)
    filled = fill_missing_cone(around, optics, iterations)
    rows, columns = window.rows, window.columns
    return filled[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _optics_of(volume: Volume, optics: TomographySettings | None, medium: float) -> TomographySettings:
    settings = optics or TomographySettings(wavelength_um=volume.wavelength_um or TomographySettings.wavelength_um)
    return replace(settings, voxel_um=volume.voxel_um, medium_index=medium)


def _checked_boxes(boxes: ArrayLike, height: int, width: int) -> NDArray[np.float64]:
    found = np.asarray(boxes, np.float64)
    if found.size == 0:
        return np.zeros((0, 4))
    if found.ndim != 2 or found.shape[1] != 4:
        raise UserError(f"boxes have shape {list(found.shape)}: give [M, 4], xyxy in pixels")
    x0, y0, x1, y1 = found.T
    bad = ~((x0 >= 0) & (y0 >= 0) & (x0 < x1) & (y0 < y1) & (x1 <= width) & (y1 <= height))  # true for NaN too
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise UserError(
            f"{int(bad.sum())} boxes are empty or reach out of the field of {width}x{height} px; "
            f"the first is number {first}: {found[first].tolist()}"
        )
    return found


def _windows(
    boxes: NDArray[np.float64], size: tuple[int, int], voxel_um: tuple[float, float, float], margin_um: float
) -> Iterator[_Window]:
    """The window of each box with its margin, shared out where windows meet."""
    my, mx = margin_um / voxel_um[1], margin_um / voxel_um[2]
    ends = np.stack(
        [
            np.maximum(np.floor(boxes[:, 0] - mx), 0),
            np.maximum(np.floor(boxes[:, 1] - my), 0),
            np.minimum(np.ceil(boxes[:, 2] + mx), size[1]),
            np.minimum(np.ceil(boxes[:, 3] + my), size[0]),
        ],
        axis=1,
    ).astype(int)
    for i, (left, top, right, bottom) in enumerate(ends.tolist()):
        meets = (ends[:, 0] < right) & (ends[:, 2] > left) & (ends[:, 1] < bottom) & (ends[:, 3] > top)
        meets[i] = False
        own: NDArray[np.bool_] | None = None
        if meets.any():
            y, x = np.arange(top, bottom)[:, None] + 0.5, np.arange(left, right)[None] + 0.5
            mine = _distance(boxes[i], y, x)
            own = np.ones(mine.shape, bool)
            for j in np.flatnonzero(meets).tolist():
                theirs = _distance(boxes[j], y, x)
                inside = (x > ends[j, 0]) & (x < ends[j, 2]) & (y > ends[j, 1]) & (y < ends[j, 3])
                own &= ~(inside & ((theirs < mine) | ((theirs == mine) & (j < i))))
        yield _Window(slice(top, bottom), slice(left, right), own)


def _distance(box: NDArray[np.float64], y: FloatArray, x: FloatArray) -> FloatArray:
    """Squared distance from the centre in units of the box's size."""
    x0, y0, x1, y1 = box.tolist()
    return np.asarray(((x - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0)) ** 2)


def _contour(
    crop: NDArray[np.float32], base: float, own: NDArray[np.bool_] | None, threshold: float, *, half: bool
) -> tuple[dict[str, float], NDArray[np.bool_]]:
    """Voxels, their sum over the base, and pixels under the contour; with ``half`` voxels inside half maximum."""
    inside = crop > np.float32(base + threshold)
    if own is not None:
        inside &= own
    values = crop[inside]
    count = len(values)
    cell = {
        "cv_fl": float(count),
        "ch_pg": float(values.sum(dtype=np.float64)) - count * base,
        "contour_voxels": count,
    }
    if half and count:
        level = (np.percentile(values, 95) + base) / 2
        cell["cv_fl"] = float((values > level).sum())
    return cell, np.asarray(inside.any(0))


def _column(
    index: RIArray,
    base: float,
    window: _Window,
    boxes: NDArray[np.float64],
    voxel_um: tuple[float, float, float],
) -> tuple[dict[str, float], NDArray[np.bool_]]:
    """Integral along the axis of the window's own pixels over the median of a ring that no box reaches."""
    depth, height, width = index.shape
    ry, rx = round(RING_UM / voxel_um[1]), round(RING_UM / voxel_um[2])
    top, left = max(window.rows.start - ry, 0), max(window.columns.start - rx, 0)
    bottom, right = min(window.rows.stop + ry, height), min(window.columns.stop + rx, width)
    column = index[:, top:bottom, left:right].sum(0, dtype=np.float64) - depth * base
    inner = np.s_[
        window.rows.start - top : window.rows.stop - top, window.columns.start - left : window.columns.stop - left
    ]
    free = np.ones(column.shape, bool)
    free[inner] = False
    my, mx = COLUMN_MARGIN_UM / voxel_um[1], COLUMN_MARGIN_UM / voxel_um[2]
    for x0, y0, x1, y1 in boxes[
        (boxes[:, 0] - mx < right) & (boxes[:, 2] + mx > left) & (boxes[:, 1] - my < bottom) & (boxes[:, 3] + my > top)
    ]:
        free[
            max(int(y0 - my) - top, 0) : max(int(y1 + my) + 1 - top, 0),
            max(int(x0 - mx) - left, 0) : max(int(x1 + mx) + 1 - left, 0),
        ] = False
    background = float(np.median(column[free])) if free.any() else 0.0
    own = np.ones(column[inner].shape, bool) if window.own is None else window.own
    content = float((column[inner][own] - background).sum())
    return {"cv_fl": math.nan, "ch_pg": content, "contour_voxels": 0}, own


def _tilt_deg(crop: NDArray[np.float32], own: NDArray[np.bool_] | None, voxel_um: tuple[float, float, float]) -> float:
    """Angle between the optical axis and the axis of least spread of what is denser than ``TILT_CONTRAST``."""
    dense = crop > TILT_CONTRAST
    if own is not None:
        dense &= own
    z, y, x = np.nonzero(dense)
    if len(z) < 10:
        return math.nan
    places = np.stack([z, y, x]) * np.array(voxel_um)[:, None]
    _, axes = np.linalg.eigh(np.cov(places, aweights=crop[dense]))
    return math.degrees(math.acos(min(1.0, abs(float(axes[0, 0])))))


def _overlap(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each box's area that lies in the other box that covers most of it."""
    if len(boxes) < 2:
        return np.zeros(len(boxes))
    shared = np.ones((len(boxes), len(boxes)))
    for start, end in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])):
        shared *= np.maximum(np.minimum(end[:, None], end) - np.maximum(start[:, None], start), 0)
    np.fill_diagonal(shared, 0)
    return np.asarray(shared.max(1) / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
