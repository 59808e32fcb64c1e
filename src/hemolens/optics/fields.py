"""Simulated fields of view: cells of one donor, seen as the integral of the refractive index along the
optical axis.

The picture is the optical path difference, OPD = integral of (n - n_medium) dz in micrometres, what a phase
image shows. The mean projection of an RI stack of depth D is n_medium + OPD / D, so after min-max
normalisation both are the same picture. Cells that overlap in projection lie above each other and their paths
add.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hemolens.errors import UserError
from hemolens.optics.cells import (
    CLASS_NAMES,
    BloodSettings,
    Cell,
    Donor,
    Pose,
    Projection,
    draw_cell,
    draw_tilt_rad,
    project,
)
from hemolens.optics.placement import PlacementSettings, place_cells

# A cell with less of its shadow inside the field is neither drawn nor labelled, so that every mark of a cell
# in the picture has its box.
MIN_VISIBLE_FRACTION = 0.25
# Shadows closer than this count as touching: one pixel, a third of the resolution.
TOUCHING_GAP_PX = 1
BACKGROUND_WAVES = 6


@dataclass(frozen=True, kw_only=True)
class OpticsSettings:
    """Sampling and imperfections of the picture.

    Args:
        pixel_um: paper A's lateral sampling.
        wavelength_um, objective_na: set the lateral blur, a Gaussian of sigma 0.21 wavelength / NA (the fit
            to an Airy disc); values within those common in tomography, not stated by the paper [choice].
        noise_opd_um: standard deviation of the noise, coloured like the blur: RI noise 5e-4 a voxel [choice]
            summed over 48 slices of 0.731 um = 5e-4 * 0.731 * sqrt(48).
        background_opd_um: standard deviation of the slow background [choice].
        background_period_um: shortest period of the background [choice].
        supersample: rays a pixel and axis.

    Raises:
        UserError: a value that is not positive (noise and background may be 0).
    """

    pixel_um: float = 0.162
    wavelength_um: float = 0.45
    objective_na: float = 0.72
    noise_opd_um: float = 0.0025
    background_opd_um: float = 0.004
    background_period_um: float = 40.0
    supersample: int = 2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            may_be_zero = name in ("noise_opd_um", "background_opd_um")
            if value < 0 or (value == 0 and not may_be_zero):
                raise UserError(f"optics.{name}: {value} must be positive")

    @property
    def blur_px(self) -> float:
        """Sigma of the lateral blur in pixels."""
        return 0.21 * self.wavelength_um / self.objective_na / self.pixel_um


@dataclass(frozen=True, kw_only=True)
class FieldSettings:
    """Everything that shapes a simulated field; ``field_px`` is (height, width)."""

    field_px: tuple[int, int] = (1444, 1444)
    blood: BloodSettings = field(default_factory=BloodSettings)
    placement: PlacementSettings = field(default_factory=PlacementSettings)
    optics: OpticsSettings = field(default_factory=OpticsSettings)

    def __post_init__(self) -> None:
        if len(self.field_px) != 2 or min(self.field_px) < 64:
            raise UserError(f"field_px: {list(self.field_px)} must be [height, width] of at least 64 px")

    @property
    def mean_cells(self) -> float:
        """Expected number of cells in a field."""
        height, width = self.field_px
        area_mm2 = height * width * (self.optics.pixel_um / 1000) ** 2
        return area_mm2 * self.placement.density_per_mm2


@dataclass(frozen=True)
class CellTruth:
    """A drawn cell and where it lies; ``instance_id`` counts from 1 in each field."""

    instance_id: int
    cell: Cell
    pose: Pose


@dataclass(frozen=True)
class FieldTruth:
    """A simulated field and all that is known about it; M cells, in the order of the arrays.

    Attributes:
        projection_um: float32 [H, W], optical path difference with blur, noise and background.
        boxes: float32 [M, 4], xyxy in pixels, tight around the visible part of each cell's own footprint.
        labels: int64 [M], index into ``CLASS_NAMES``.
        visible_fraction: float32 [M], share of the footprint inside the field; below 1 the border cuts the
            cell.
        touching: bool [M], whether the visible footprint touches or overlaps that of another cell.
        cells: truth of each cell.
    """

    projection_um: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    visible_fraction: NDArray[np.float32]
    touching: NDArray[np.bool_]
    cells: tuple[CellTruth, ...]


def simulate_field(
    rng: np.random.Generator,
    donor: Donor,
    settings: FieldSettings,
    *,
    mixture: dict[str, float] | None = None,
) -> FieldTruth:
    """Draw cells of ``donor``, lay them out and form the picture.

    Args:
        rng: source of all randomness; the same state gives the same field.
        donor: blood sample that the red cells come from.
        settings: mixture of classes, placement and optics.
        mixture: shares of the classes for this field instead of the blood's own.
    """
    shares = mixture or settings.blood.mixture
    count = max(1, int(rng.poisson(settings.mean_cells)))
    names = rng.choice(CLASS_NAMES, size=count, p=[shares[name] for name in CLASS_NAMES])
    cells = [draw_cell(rng, str(name), donor, settings.blood) for name in names]
    drawn = _draw_poses(rng, cells, settings)
    height, width = settings.field_px
    canvas = np.zeros((height, width), np.float32)
    kept: list[tuple[CellTruth, _Visible]] = []
    for cell, pose in drawn:
        view = project(cell, pose, pixel_um=settings.optics.pixel_um, supersample=settings.optics.supersample)
        visible = _clip(view, height, width)
        if visible.fraction >= MIN_VISIBLE_FRACTION:
            canvas[visible.rows, visible.columns] += visible.opd_um
            kept.append((CellTruth(len(kept) + 1, cell, pose), visible))
    views = [visible for _, visible in kept]
    return FieldTruth(
        projection_um=_degrade(rng, canvas, settings.optics),
        boxes=np.array([view.box for view in views], np.float32).reshape(-1, 4),
        labels=np.array([CLASS_NAMES.index(truth.cell.class_name) for truth, _ in kept], np.int64),
        visible_fraction=np.array([view.fraction for view in views], np.float32),
        touching=_find_touching(views),
        cells=tuple(truth for truth, _ in kept),
    )


def _draw_poses(rng: np.random.Generator, cells: list[Cell], settings: FieldSettings) -> list[tuple[Cell, Pose]]:
    """Angles, then places by the shadows that those angles give; cells without room are left out."""
    angles = [
        (draw_tilt_rad(rng, cell, settings.blood), *(float(a) for a in rng.uniform(0, 2 * math.pi, size=2)))
        for cell in cells
    ]
    outlines = np.stack(
        [
            cell.components[0].shape.outline_um2(Pose(0, 0, *angle).rotation[:2])
            for cell, angle in zip(cells, angles, strict=True)
        ]
    )
    height, width = (side * settings.optics.pixel_um for side in settings.field_px)
    centers = place_cells(rng, outlines, (width, height), settings.placement)
    placed = zip(cells, centers, angles, strict=True)
    return [(cell, Pose(float(x), float(y), *angle)) for cell, (x, y), angle in placed if not math.isnan(x)]


@dataclass(frozen=True)
class _Visible:
    """The part of a projection inside the field."""

    rows: slice
    columns: slice
    opd_um: NDArray[np.float32]
    footprint: NDArray[np.bool_]
    fraction: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Tight box in field pixels; the end is exclusive."""
        ys, xs = np.flatnonzero(self.footprint.any(1)), np.flatnonzero(self.footprint.any(0))
        left, top = self.columns.start, self.rows.start
        return float(left + xs[0]), float(top + ys[0]), float(left + xs[-1] + 1), float(top + ys[-1] + 1)


def _clip(view: Projection, height: int, width: int) -> _Visible:
    h, w = view.footprint.shape
    rows = slice(max(view.top, 0), max(min(view.top + h, height), 0))
    columns = slice(max(view.left, 0), max(min(view.left + w, width), 0))
    y, x = view.top, view.left
    own = (slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x))
    footprint = view.footprint[own]
    fraction = float(footprint.sum() / view.footprint.sum())
    return _Visible(rows, columns, view.opd_um[own], footprint, fraction)


def _find_touching(views: list[_Visible]) -> NDArray[np.bool_]:
    """Whether each footprint overlaps another or lies within the touching gap of it."""
    touching = np.zeros(len(views), bool)
    reach = TOUCHING_GAP_PX
    square = np.ones((3, 3), bool)
    for i, a in enumerate(views):
        wide = ndimage.binary_dilation(np.pad(a.footprint, reach), square, iterations=reach)
        for j in range(i + 1, len(views)):
            b = views[j]
            top, bottom = max(a.rows.start - reach, b.rows.start), min(a.rows.stop + reach, b.rows.stop)
            left, right = (
                max(a.columns.start - reach, b.columns.start),
                min(a.columns.stop + reach, b.columns.stop),
            )
            if top >= bottom or left >= right or (touching[i] and touching[j]):
                continue
            y, x = a.rows.start - reach, a.columns.start - reach
            part_a = wide[top - y : bottom - y, left - x : right - x]
            part_b = b.footprint[
                top - b.rows.start : bottom - b.rows.start, left - b.columns.start : right - b.columns.start
            ]
            if np.any(part_a & part_b):
                touching[i] = touching[j] = True
    return touching


def _degrade(rng: np.random.Generator, canvas: NDArray[np.float32], optics: OpticsSettings) -> NDArray[np.float32]:
    """Lateral blur, then noise of the same bandwidth and a slow background."""
    noise = ndimage.gaussian_filter(rng.standard_normal(canvas.shape, np.float32), optics.blur_px)
    picture = ndimage.gaussian_filter(canvas, optics.blur_px)
    picture += noise * np.float32(optics.noise_opd_um / max(float(noise.std()), 1e-12))
    picture += _background(rng, canvas.shape[0], canvas.shape[1], optics)
    return picture


def _background(rng: np.random.Generator, height: int, width: int, optics: OpticsSettings) -> NDArray[np.float32]:
    """Sum of long waves in random directions, float32 [H, W]."""
    total = np.zeros((height, width), np.float32)
    for _ in range(BACKGROUND_WAVES):
        frequency = 2 * math.pi * optics.pixel_um / optics.background_period_um * rng.uniform(0.1, 1)
        direction, phase = rng.uniform(0, 2 * math.pi, size=2)
        along_y = frequency * math.sin(direction) * np.arange(height) + phase
        along_x = frequency * math.cos(direction) * np.arange(width)
        # cos(a + b) = cos a cos b - sin a sin b: two outer products in place of a cosine a pixel
        total += np.outer(np.cos(along_y), np.cos(along_x)).astype(np.float32)
        total -= np.outer(np.sin(along_y), np.sin(along_x)).astype(np.float32)
    # A wave has variance 1/2.
    return total * np.float32(optics.background_opd_um / math.sqrt(BACKGROUND_WAVES / 2))
