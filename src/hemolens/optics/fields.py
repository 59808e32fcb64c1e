"""Simulated fields of view: cells of one blood sample, settled on glass, as a refractive-index tomogram.

Each cell is drawn on voxels finer than the stack's along the optical axis, lowered until it rests on the glass or on
the cells below it, so that no two share a voxel, and added to the field with its axial band limit. The field is larger
than what is kept of it, because the transforms of the tomography wrap around.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from threadpoolctl import ThreadpoolController

from hemolens.errors import UserError
from hemolens.optics.cells import (
    CLASS_NAMES,
    BloodSample,
    BloodSettings,
    Cell,
    Pose,
    VoxelPatch,
    annotate,
    draw_cell,
    draw_tilt_rad,
    majority,
    render,
)
from hemolens.optics.placement import PlacementSettings, place_cells, settle
from hemolens.optics.tomography import TomographySettings, band_limit_axially, form_tomogram

# A cell with less of its shadow inside the field is neither drawn nor labelled, so that every mark of a cell
# in the picture has its box.
MIN_VISIBLE_FRACTION = 0.25
# Slices on which cells are drawn; a platelet is at least 0.6 um thick.
COARSEST_UM = 0.5
# Shadows closer than this count as touching: one pixel, a third of the resolution.
TOUCHING_GAP_PX = 1


@dataclass(frozen=True, kw_only=True)
class FieldSettings:
    """Everything that shapes a simulated field; ``field_px`` is (height, width)."""

    field_px: tuple[int, int] = (1444, 1444)
    blood: BloodSettings = field(default_factory=BloodSettings)
    placement: PlacementSettings = field(default_factory=PlacementSettings)
    tomography: TomographySettings = field(default_factory=TomographySettings)

    def __post_init__(self) -> None:
        if len(self.field_px) != 2 or min(self.field_px) < 64:
            raise UserError(f"field_px: {list(self.field_px)} must be [height, width] of at least 64 px")
        focus, stack, fine = (
            self.placement.focus_above_glass_um,
            self.tomography.stack_um,
            self.tomography.fine_voxel_um[0],
        )
        if focus > stack / 2:
            raise UserError(
                f"placement.focus_above_glass_um: {focus} is over half of a stack of {stack:.1f} um: the glass would "
                "lie below it; raise tomography.slices"
            )
        if fine > COARSEST_UM:
            raise UserError(
                f"tomography.axial_oversampling: cells are drawn on slices of {fine:.2f} um, at most {COARSEST_UM} um "
                "keep flat platelets"
            )

    @property
    def mean_cells(self) -> float:
        """Expected number of cells in a field."""
        height, width = self.field_px
        _, dy, dx = self.tomography.voxel_um
        return height * dy * width * dx * 1e-6 * self.placement.density_per_mm2


@dataclass(frozen=True)
class CellTruth:
    """A drawn cell, where it lies and what was said about it.

    Attributes:
        instance_id: counts from 1 in each field.
        cell: shape, volume, hemoglobin, true class.
        pose: place (z from the lower face of the stack) and angles.
        annotations: the class that each annotator gave.
        top, left: corner of the mask in the field.
        mask: bool [h, w], the part of the footprint inside the field.
        visible_fraction: share of the footprint inside the field; below 1 the border cuts the cell.
        touching: whether the visible footprint touches or overlaps that of another cell.
    """

    instance_id: int
    cell: Cell
    pose: Pose
    annotations: tuple[str, ...]
    top: int
    left: int
    mask: NDArray[np.bool_]
    visible_fraction: float
    touching: bool

    @property
    def label(self) -> int:
        """Index of the annotators' majority class."""
        return CLASS_NAMES.index(majority(self.annotations))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Tight box xyxy around the mask in field pixels; the end is exclusive."""
        ys, xs = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        left, top = self.left, self.top
        return float(left + xs[0]), float(top + ys[0]), float(left + xs[-1] + 1), float(top + ys[-1] + 1)


@dataclass(frozen=True)
class SimulatedField:
    """A tomogram and all that is known about it.

    Attributes:
        volume: float32 [Z, Y, X], reconstructed RI.
        cells: truth of each cell.
        left_out: cells that were drawn and found no room above the glass and the cells below.
    """

    volume: NDArray[np.float32]
    cells: tuple[CellTruth, ...]
    left_out: int = 0


def simulate_field(
    rng: np.random.Generator,
    sample: BloodSample,
    settings: FieldSettings,
    *,
    fractions: tuple[float, ...] | None = None,
    workers: int = 1,
) -> SimulatedField:
    """Draw cells of ``sample``, lay them out and form the tomogram.

    Args:
        rng: source of all randomness; the same state gives the same field.
        sample: blood sample that the cells come from.
        settings: cells, placement and optics.
        fractions: shares of the classes for this field instead of the sample's own.
        workers: threads.
    """
    with _thread_pools().limit(limits=workers):  # BLAS has threads of its own
        return _simulate(rng, sample, settings, fractions, workers)


@lru_cache(maxsize=1)
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()


def _simulate(
    rng: np.random.Generator,
    sample: BloodSample,
    settings: FieldSettings,
    fractions: tuple[float, ...] | None,
    workers: int,
) -> SimulatedField:
    optics = settings.tomography
    count = max(1, int(rng.poisson(settings.mean_cells)))
    names = rng.choice(CLASS_NAMES, size=count, p=fractions or sample.fractions)
    cells = [draw_cell(rng, str(name), sample, settings.blood, wavelength_um=optics.wavelength_um) for name in names]
    poses = _draw_poses(rng, cells, settings)
    height, width = settings.field_px
    margin, domain = _domain(settings)
    fine = optics.fine_voxel_um
    depth = optics.fine_depth
    floor = round((optics.stack_um / 2 - settings.placement.focus_above_glass_um) / fine[0])
    ceiling = np.full(domain, floor + optics.margin_slices * optics.axial_oversampling, np.int32)
    contrast = np.zeros((depth // optics.axial_oversampling, *domain), np.float32)
    absorbing = any(component.delta_k for cell, _ in poses for component in cell.components)
    absorption = np.zeros_like(contrast) if absorbing else None
    kept: list[tuple[Cell, Pose, Visible]] = []
    left_out = 0
    for cell, pose in poses:
        patch = render(cell, pose, fine)
        visible = clip(patch, height, width)
        if visible.fraction < MIN_VISIBLE_FRACTION:
            continue
        top, left = patch.top + margin, patch.left + margin
        lift = settle(patch, ceiling, top, left, highest=depth - optics.margin_slices * optics.axial_oversampling)
        if lift is None:
            left_out += 1
            continue
        _add(contrast, patch.contrast, patch.first + lift, top, left, optics)
        if absorption is not None and patch.absorption is not None:
            _add(absorption, patch.absorption, patch.first + lift, top, left, optics)
        z = pose.z_um + (lift - optics.margin_slices * optics.axial_oversampling) * fine[0]
        kept.append((cell, Pose(pose.x_um, pose.y_um, z, pose.tilt_rad, pose.azimuth_rad, pose.roll_rad), visible))
    touching = find_touching([visible for _, _, visible in kept])
    volume = form_tomogram(rng, contrast, optics, absorption=absorption, workers=workers)
    truths = tuple(
        CellTruth(
            number,
            cell,
            pose,
            annotate(rng, cell, settings.blood),
            visible.top,
            visible.left,
            visible.mask,
            visible.fraction,
            bool(touches),
        )
        for number, ((cell, pose, visible), touches) in enumerate(zip(kept, touching, strict=True), start=1)
    )
    seen = np.ascontiguousarray(volume[:, margin : margin + height, margin : margin + width])
    return SimulatedField(seen, truths, left_out)


def _draw_poses(rng: np.random.Generator, cells: list[Cell], settings: FieldSettings) -> list[tuple[Cell, Pose]]:
    """Angles, then places by the shadows that those angles give; cells without room are left out."""
    angles = [
        (draw_tilt_rad(rng, cell, settings.blood), *(float(a) for a in rng.uniform(0, 2 * math.pi, size=2)))
        for cell in cells
    ]
    outlines = np.stack(
        [cell.outline_um2(Pose(0, 0, 0, *angle).rotation) for cell, angle in zip(cells, angles, strict=True)]
    )
    _, dy, dx = settings.tomography.voxel_um
    size_um = (settings.field_px[1] * dx, settings.field_px[0] * dy)
    centers = place_cells(rng, outlines, size_um, settings.placement)
    placed = zip(cells, centers, angles, strict=True)
    heights = rng.uniform(0, settings.tomography.fine_voxel_um[0], size=len(cells))  # lowered onto the glass later
    return [
        (cell, Pose(float(x), float(y), float(z), *angle))
        for (cell, (x, y), angle), z in zip(placed, heights, strict=True)
        if not math.isnan(x)
    ]


def _domain(settings: FieldSettings) -> tuple[int, tuple[int, int]]:
    """Pixels simulated before the field's first row and column, and (height, width) of all that is simulated."""
    margin = settings.tomography.margin_px
    height, width = (fft.next_fast_len(side + 2 * margin, real=True) for side in settings.field_px)
    return margin, (height, width)


@lru_cache(maxsize=2)
def _axial_kernel(depth: int, oversampling: int) -> NDArray[np.float32]:
    """Matrix [depth, depth * oversampling] of :func:`band_limit_axially`."""
    return band_limit_axially(np.eye(depth * oversampling, dtype=np.float32), oversampling)


def _add(
    field: NDArray[np.float32], fine: NDArray[np.float32], first: int, top: int, left: int, optics: TomographySettings
) -> None:
    """Add a cell, band-limited along z, to the field; what lies outside the simulated area is left out."""
    depth, height, width = field.shape
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + fine.shape[1], height), min(left + fine.shape[2], width)
    if y0 >= y1 or x0 >= x1:
        return
    part = fine[:, y0 - top : y1 - top, x0 - left : x1 - left]
    columns = np.arange(first, first + len(part)) % (depth * optics.axial_oversampling)
    kernel = _axial_kernel(depth, optics.axial_oversampling)[:, columns]
    field[:, y0:y1, x0:x1] += np.tensordot(kernel, part, axes=1)


@dataclass(frozen=True)
class Visible:
    """The part of a footprint inside the field."""

    top: int
    left: int
    mask: NDArray[np.bool_]
    fraction: float


def clip(patch: VoxelPatch, height: int, width: int) -> Visible:
    """What a field of that size shows of a cell."""
    footprint = patch.footprint
    h, w = footprint.shape
    top, left = max(patch.top, 0), max(patch.left, 0)
    bottom, right = max(min(patch.top + h, height), top), max(min(patch.left + w, width), left)
    mask = footprint[top - patch.top : bottom - patch.top, left - patch.left : right - patch.left]
    return Visible(top, left, mask, float(mask.sum() / max(footprint.sum(), 1)))


def find_touching(views: list[Visible]) -> NDArray[np.bool_]:
    """Whether each footprint overlaps another or lies within the touching gap of it."""
    touching = np.zeros(len(views), bool)
    reach = TOUCHING_GAP_PX
    square = np.ones((3, 3), bool)
    ends = [(view.top + view.mask.shape[0], view.left + view.mask.shape[1]) for view in views]
    for i, a in enumerate(views):
        wide = ndimage.binary_dilation(np.pad(a.mask, reach), square, iterations=reach)
        for j in range(i + 1, len(views)):
            b = views[j]
            top, bottom = max(a.top - reach, b.top), min(ends[i][0] + reach, ends[j][0])
            left, right = max(a.left - reach, b.left), min(ends[i][1] + reach, ends[j][1])
            if top >= bottom or left >= right or (touching[i] and touching[j]):
                continue
            y, x = a.top - reach, a.left - reach
            part_a = wide[top - y : bottom - y, left - x : right - x]
            part_b = b.mask[top - b.top : bottom - b.top, left - b.left : right - b.left]
            if np.any(part_a & part_b):
                touching[i] = touching[j] = True
    return touching
