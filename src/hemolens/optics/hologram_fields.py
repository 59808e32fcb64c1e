"""Simulated fields of stored red cells as off-axis holograms, with the truth of every cell.

Cells lie on the glass, in one plane; where they overlap their phases add up. The field is larger than what is kept of
it, because the transforms of the wave optics wrap around.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from hemolens.errors import UserError
from hemolens.optics.cells.cell import Cell, Pose
from hemolens.optics.cells.settings import Distribution, check_distribution, draw
from hemolens.optics.cells.stored import (
    TYPE_NAMES,
    BloodBag,
    StoredBloodSettings,
    draw_lean_rad,
    draw_stored_cell,
)
from hemolens.optics.cells.voxels import VoxelPatch, render
from hemolens.optics.fields import MIN_VISIBLE_FRACTION, clip, find_touching
from hemolens.optics.holography.formation import Hologram, HologramSettings, SaturationWarning, form_hologram
from hemolens.optics.placement import PlacementSettings, place_cells

AXIAL_STEP_UM = 0.1  # of the voxels whose columns give the phase


@dataclass(frozen=True, kw_only=True)
class HologramFieldSettings:
    """Everything that shapes a simulated hologram.

    Args:
        field_px: (height, width).
        blood: donors and cells.
        placement: crowding; ``focus_above_glass_um`` plays no part.
        holography: microscope and camera.
        defocus_um: distribution of the distance of the camera's plane behind the cells.
        tilt_waves: distribution of the object wave's tilt along y and along x, in waves across the field.
        curvature_rad: distribution of the quadratic background, half of the longer side away from the centre.
        margin_px: simulated beyond each side of the field.
    """

    field_px: tuple[int, int] = (900, 900)
    blood: StoredBloodSettings = field(default_factory=StoredBloodSettings)
    placement: PlacementSettings = field(default_factory=lambda: PlacementSettings(density_per_mm2=2937.0))
    holography: HologramSettings = field(default_factory=HologramSettings)
    defocus_um: Distribution = (0.0, 0.0)
    tilt_waves: Distribution = (0.0, 0.0)
    curvature_rad: Distribution = (0.0, 0.0)
    margin_px: int = 62

    def __post_init__(self) -> None:
        if len(self.field_px) != 2 or min(self.field_px) < 64:
            raise UserError(f"field_px: {list(self.field_px)} must be [height, width] of at least 64 px")
        if self.margin_px < 0:
            raise UserError(f"margin_px: {self.margin_px} must not be negative")
        for name in ("defocus_um", "tilt_waves", "curvature_rad"):
            check_distribution(name, getattr(self, name))

    @property
    def mean_cells(self) -> float:
        """Expected number of cells in a field."""
        height, width = (side * self.holography.pixel_um for side in self.field_px)
        return height * width * 1e-6 * self.placement.density_per_mm2


@dataclass(frozen=True, eq=False)
class RedCellTruth:
    """A drawn cell and where it lies.

    Attributes:
        instance_id: counts from 1 in each field.
        cell: shape, volume, hemoglobin; its class name is the type.
        pose: place in um from the field's upper left corner, and angles.
        box: xyxy in pixels around the visible footprint; the end is exclusive.
        visible_fraction: share of the footprint inside the field; below 1 the border cuts the cell.
        touching: whether the visible footprint touches or overlaps another's.
        phase_max_rad: largest phase that the cell adds.
        phase_integral_um2: integral of the phase that the whole cell adds over the area, rad um^2.
    """

    instance_id: int
    cell: Cell
    pose: Pose
    box: tuple[float, float, float, float]
    visible_fraction: float
    touching: bool
    phase_max_rad: float
    phase_integral_um2: float


@dataclass(frozen=True, eq=False)
class SimulatedHologram:
    """A hologram and all that is known about it.

    Attributes:
        hologram: picture, reference, and the phase behind the pupil.
        classes: uint8 [H, W], 0 background, 1 to 4 the types in the order of ``TYPE_NAMES``.
        instances: uint16 [H, W], ``instance_id`` of each pixel, 0 background. Where cells overlap, of the thicker.
        cells: truth of each cell.
        defocus_um: distance of the camera's plane behind the cells.
        tilt_waves: (y, x) of the background, waves across the field.
        curvature_rad: of the background.
    """

    hologram: Hologram
    classes: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    cells: tuple[RedCellTruth, ...]
    defocus_um: float
    tilt_waves: tuple[float, float]
    curvature_rad: float


def simulate_hologram(
    rng: np.random.Generator,
    bag: BloodBag,
    settings: HologramFieldSettings,
    *,
    bench_rng: np.random.Generator | None = None,
) -> SimulatedHologram:
    """Draw cells of ``bag``, lay them out, and record their hologram.

    Args:
        rng: source of all randomness but the next; the same state gives the same hologram.
        bag: blood that the cells come from.
        settings: cells, placement and optics.
        bench_rng: source of what the microscope itself does: tilt, curvature and still speckle. Holograms that share
            its state can share one reference. None: ``rng``.
    """
    optics, (height, width) = settings.holography, settings.field_px
    pixel = optics.pixel_um
    count = max(1, int(rng.poisson(settings.mean_cells)))
    names = rng.choice(TYPE_NAMES, size=count, p=bag.fractions)
    cells = [
        draw_stored_cell(rng, str(name), bag, settings.blood, wavelength_um=optics.wavelength_um) for name in names
    ]
    poses = _poses(rng, cells, settings)
    domain, margin = _domain(settings)
    phase = np.zeros(domain, np.float32)
    kept: list[tuple[Cell, Pose, VoxelPatch, NDArray[np.float32]]] = []
    for cell, pose in poses:
        patch = render(cell, pose, (AXIAL_STEP_UM, pixel, pixel))
        own = patch.contrast.sum(0) * np.float32(2 * math.pi / optics.wavelength_um * AXIAL_STEP_UM)
        if clip(patch, height, width).fraction < MIN_VISIBLE_FRACTION:
            continue
        _add(phase, own, patch.top + margin[0], patch.left + margin[1])
        kept.append((cell, pose, patch, own))
    defocus, bench = draw(rng, settings.defocus_um), rng if bench_rng is None else bench_rng
    curvature, tilt = (
        draw(bench, settings.curvature_rad),
        (draw(bench, settings.tilt_waves), draw(bench, settings.tilt_waves)),
    )
    # given for the field; the larger domain has as much more of them
    larger = (domain[0] / height, domain[1] / width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SaturationWarning)  # the table says so, once a field
        whole = form_hologram(
            phase,
            settings=optics,
            defocus_um=defocus,
            tilt=(tilt[0] * larger[0], tilt[1] * larger[1]),
            curvature_rad=curvature * (max(domain) / max(height, width)) ** 2,
            rng=rng,
            still_rng=bench_rng,
        )
    inner = np.s_[margin[0] : margin[0] + height, margin[1] : margin[1] + width]
    image = whole.image[inner].copy()
    hologram = Hologram(
        image,
        whole.reference[inner].copy(),
        whole.phase_rad[inner].copy(),
        float((image >= optics.full_scale).mean()),
    )
    classes, instances, truths = _truth(kept, settings)
    return SimulatedHologram(hologram, classes, instances, truths, defocus, tilt, curvature)


def _poses(rng: np.random.Generator, cells: Sequence[Cell], settings: HologramFieldSettings) -> list[tuple[Cell, Pose]]:
    """Angles, then places by the shadows that those angles give; cells without room are left out."""
    angles = [
        (draw_lean_rad(rng, settings.blood), *(float(a) for a in rng.uniform(0, 2 * math.pi, size=2))) for _ in cells
    ]
    outlines = np.stack(
        [cell.outline_um2(Pose(0, 0, 0, *angle).rotation) for cell, angle in zip(cells, angles, strict=True)]
    )
    height, width = (side * settings.holography.pixel_um for side in settings.field_px)
    centers = place_cells(rng, outlines, (width, height), settings.placement)
    return [
        (cell, Pose(float(x), float(y), 0.0, *angle))
        for cell, (x, y), angle in zip(cells, centers, angles, strict=True)
        if not math.isnan(x)
    ]


def _domain(settings: HologramFieldSettings) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of all that is simulated, and its rows and columns before the field's first."""
    height, width = (fft.next_fast_len(side + 2 * settings.margin_px) for side in settings.field_px)
    return (height, width), ((height - settings.field_px[0]) // 2, (width - settings.field_px[1]) // 2)


def _add(phase: NDArray[np.float32], own: NDArray[np.float32], top: int, left: int) -> None:
    """Add a cell's phase; what lies outside is left out."""
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + own.shape[0], phase.shape[0]), min(left + own.shape[1], phase.shape[1])
    if y0 < y1 and x0 < x1:
        phase[y0:y1, x0:x1] += own[y0 - top : y1 - top, x0 - left : x1 - left]


def _truth(
    kept: Sequence[tuple[Cell, Pose, VoxelPatch, NDArray[np.float32]]], settings: HologramFieldSettings
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], tuple[RedCellTruth, ...]]:
    """Masks and truth of the cells inside the field."""
    height, width = settings.field_px
    views = [clip(patch, height, width) for _, _, patch, _ in kept]
    touching = find_touching(views)
    classes, instances = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint16)
    thickest = np.zeros((height, width), np.float32)
    truths = []
    for number, ((cell, pose, patch, own), view, touches) in enumerate(
        zip(kept, views, touching, strict=True), start=1
    ):
        h, w = view.mask.shape
        at = np.s_[view.top : view.top + h, view.left : view.left + w]
        seen = own[view.top - patch.top :, view.left - patch.left :][:h, :w]
        mine = view.mask & (seen > thickest[at])
        classes[at][mine] = TYPE_NAMES.index(cell.class_name) + 1
        instances[at][mine] = number
        thickest[at][mine] = seen[mine]
        ys, xs = np.flatnonzero(view.mask.any(1)), np.flatnonzero(view.mask.any(0))
        box = (view.left + xs[0], view.top + ys[0], view.left + xs[-1] + 1, view.top + ys[-1] + 1)
        truths.append(
            RedCellTruth(
                number,
                cell,
                pose,
                (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                view.fraction,
                bool(touches),
                float(own.max()),
                float(own.sum(dtype=np.float64)) * settings.holography.pixel_um**2,
            )
        )
    return classes, instances, tuple(truths)
