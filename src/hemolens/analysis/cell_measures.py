"""What is measured of one cell inside its window of a tomogram, in units of voxels and of the refractive index."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemolens.analysis.cell_windows import Window
from hemolens.io.volumes import RIArray
from hemolens.io.volumes.volume import RI_RANGE
from hemolens.optics.tomography import TomographySettings, axial_limits, fill_missing_cone

COLUMN_MARGIN_UM, RING_UM = 1.0, 2.0  # around a box for its column, and the width of the background's ring
TILT_CONTRAST = 0.02  # voxels above it tell how a cell lies
CONTEXT_PX = 24  # around a window, for the iterations: a neighbour's edge belongs to what they explain
DENSE_PERCENTILE = 95  # of the voxels inside the contour: what the cell's own levels are shares of
APERTURE_SAMPLES = 256

_ONE = np.float32(RI_RANGE[0]).view(np.int32)

Voxel = tuple[float, float, float]


@dataclass(frozen=True)
class Contour:
    """A cell inside a contour at a fixed index.

    Attributes:
        values: what lies inside, the index or its difference from the medium, float32 [N].
        content: their sum over the medium.
        footprint: bool [h, w], pixels of the window under the contour.
    """

    values: NDArray[np.float32]
    content: float
    footprint: NDArray[np.bool_]

    def level(self, share: float, base: float = 0.0) -> float:
        """The index at a share of the cell's own dense voxels over the medium ``base``; there must be voxels."""
        return base + share * (float(np.percentile(self.values, DENSE_PERCENTILE)) - base)

    def count(self, level: float) -> int:
        """Voxels above a level."""
        return int((self.values > level).sum())


def read_window(index: RIArray, window: Window) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A window of an array in memory, float32 [Z, h, w], and the largest value of each of its slices, [Z].

    Raises:
        UserError: a value is not a number or no possible index.
    """
    crop = np.ascontiguousarray(index.source[:, window.rows, window.columns])
    if crop.dtype != np.float32 or index.scale != 1.0 or index.offset != 0.0:
        crop = index.to_ri(crop)
        return crop, _peaks(crop)
    # Floats from 0 on are in the order of their bits (NaN last, what is negative first), which are faster to compare.
    bits = crop.view(np.int32)
    peaks = bits.reshape(len(bits), -1).max(1).view(np.float32)
    if not (bits.min() >= _ONE and peaks.max() <= RI_RANGE[1]):  # true for NaN too
        index.check(crop)  # says so; to let it look at every window would be another pass
    return crop, peaks


def _peaks(crop: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(crop.reshape(len(crop), -1).max(1))


def contour(
    crop: NDArray[np.float32], peaks: NDArray[np.float32], base: float, own: NDArray[np.bool_] | None, threshold: float
) -> Contour:
    """The voxels of a window that are the cell's own and above base + threshold.

    Args:
        crop: [Z, h, w].
        peaks: largest value of each slice, [Z]; slices below the threshold are not looked at.
        base: the medium in ``crop``.
        own: the cell's pixels, [h, w]; None for all.
        threshold: over the medium.
    """
    level = np.float32(base + threshold)
    filled = (peaks > level).nonzero()[0]
    part = crop[filled[0] : filled[-1] + 1] if len(filled) else crop[:0]
    inside = part > level
    if own is not None:
        inside &= own
    values = part[inside]
    return Contour(values, float(values.sum(dtype=np.float64)) - len(values) * base, np.asarray(inside.any(0)))


def filled(index: RIArray, window: Window, optics: TomographySettings, iterations: int) -> NDArray[np.float32]:
    """n - n_medium of a window after the iterations, which see the window's surroundings too, [Z, h, w]."""
    _, height, width = index.shape
    top, left = max(window.rows.start - CONTEXT_PX, 0), max(window.columns.start - CONTEXT_PX, 0)
    bottom, right = min(window.rows.stop + CONTEXT_PX, height), min(window.columns.stop + CONTEXT_PX, width)
    around = index[:, top:bottom, left:right] - np.float32(optics.medium_index)
    whole = fill_missing_cone(around, optics, iterations)
    rows, columns = window.rows, window.columns
    return whole[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def column(
    index: RIArray, base: float, window: Window, boxes: NDArray[np.float64], voxel_um: Voxel
) -> tuple[float, NDArray[np.bool_]]:
    """Integral along the axis of the window's own pixels over the median of a ring that no box reaches, and them.

    Args:
        index: the whole field.
        base: index of the medium.
        window: of the cell, with a margin of ``COLUMN_MARGIN_UM`` around its box.
        boxes: of all cells, [M, 4].
        voxel_um: (z, y, x).
    """
    depth, height, width = index.shape
    ry, rx = round(RING_UM / voxel_um[1]), round(RING_UM / voxel_um[2])
    top, left = max(window.rows.start - ry, 0), max(window.columns.start - rx, 0)
    bottom, right = min(window.rows.stop + ry, height), min(window.columns.stop + rx, width)
    summed = index[:, top:bottom, left:right].sum(0, dtype=np.float64) - depth * base
    inner = np.s_[
        window.rows.start - top : window.rows.stop - top, window.columns.start - left : window.columns.stop - left
    ]
    free = np.ones(summed.shape, bool)
    free[inner] = False
    my, mx = COLUMN_MARGIN_UM / voxel_um[1], COLUMN_MARGIN_UM / voxel_um[2]
    for x0, y0, x1, y1 in boxes[
        (boxes[:, 0] - mx < right) & (boxes[:, 2] + mx > left) & (boxes[:, 1] - my < bottom) & (boxes[:, 3] + my > top)
    ]:
        free[
            max(int(y0 - my) - top, 0) : max(int(y1 + my) + 1 - top, 0),
            max(int(x0 - mx) - left, 0) : max(int(x1 + mx) + 1 - left, 0),
        ] = False
    background = float(np.median(summed[free])) if free.any() else 0.0
    own = np.ones(summed[inner].shape, bool) if window.own is None else window.own
    return float((summed[inner][own] - background).sum()), own


def principal_axes(
    crop: NDArray[np.float32], own: NDArray[np.bool_] | None, voxel_um: Voxel
) -> tuple[NDArray[np.float64], float]:
    """How what is denser than ``TILT_CONTRAST`` lies.

    Returns:
        Variances along its principal axes in um^2, ascending, [3]; and the angle between the first of them and the
        optical axis in degrees. NaN where there are fewer than 10 voxels.
    """
    dense = crop > TILT_CONTRAST
    if own is not None:
        dense &= own
    z, y, x = np.nonzero(dense)
    if len(z) < 10:
        return np.full(3, math.nan), math.nan
    places = np.stack([z, y, x]) * np.array(voxel_um)[:, None]
    variances, axes = np.linalg.eigh(np.cov(places, aweights=crop[dense]))
    return variances, math.degrees(math.acos(min(1.0, abs(float(axes[0, 0])))))


def resolution_um(optics: TomographySettings) -> tuple[float, float]:
    """Shortest period along the optical axis and across it that the instrument passes, in um."""
    cutoff = (optics.condenser_na + optics.objective_na) / optics.wavelength_um
    low, high = axial_limits(optics, np.linspace(0, cutoff, APERTURE_SAMPLES))
    reached = low <= high
    return 1 / float(np.maximum(np.abs(low), np.abs(high))[reached].max()), 1 / cutoff


FEATURES = (
    "footprint_ratio",
    "peak_ratio",
    "contrast",
    "inner_share",
    "core_share",
    "median_ratio",
    "thinness",
    "tilt",
    "lateral_resolution",
    "axial_resolution",
)


def features(
    crop: NDArray[np.float32],
    peaks: NDArray[np.float32],
    found: Contour,
    own: NDArray[np.bool_] | None,
    axes: tuple[NDArray[np.float64], float],
    resolution: tuple[float, float],
) -> NDArray[np.float64]:
    """What tells by how much the half maximum is off, [10] in the order of ``FEATURES``; NaN where a cell has none.

    With d the cell's 95th percentile: how far the contour reaches beyond the half maximum (log of the ratio of
    footprints), log of the 99th percentile over d, log d, voxels above 0.7 d and above 0.9 d as shares of those above
    0.5 d, log of the median over d, the axial resolution over the thickness (square root of 12 variances along the
    shortest axis), squared sine of the tilt, and the logs of the resolutions in um.

    Args:
        crop: n - n_medium after the iterations, [Z, h, w].
        peaks: largest value of each slice, [Z].
        found: the cell inside its contour.
        own: the cell's pixels; None for all.
        axes: of :func:`principal_axes`.
        resolution: of :func:`resolution_um`.
    """
    if not len(found.values) or not math.isfinite(axes[1]):
        return np.full(len(FEATURES), math.nan)
    median, dense, peak = np.percentile(found.values, [50, DENSE_PERCENTILE, 99])
    half = contour(crop, peaks, 0.0, own, dense / 2)
    count, (axial, lateral) = len(half.values), resolution
    return np.array(
        [
            math.log(found.footprint.sum() / half.footprint.sum()),
            math.log(peak / dense),
            math.log(dense),
            found.count(0.7 * dense) / count,
            found.count(0.9 * dense) / count,
            math.log(median / dense),
            axial / math.sqrt(12 * max(float(axes[0][0]), 1e-6)),
            math.sin(math.radians(axes[1])) ** 2,
            math.log(lateral),
            math.log(axial),
        ]
    )
