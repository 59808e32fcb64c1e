"""Where the cells of a field lie: how many touch each other, how many the border cuts, and at what height.

Seen from above each cell stands as the ellipse of its shadow; overlaps are measured afterwards on the real footprints.
Cells that overlap in projection lie above each other.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemolens.errors import UserError
from hemolens.optics.cells.solids import FloatArray
from hemolens.optics.cells.voxels import VoxelPatch

# A border cell's centre lies up to 0.4 of its half width outside (a quarter of a disc is then still visible)
# or 0.85 inside.
BORDER_DEPTH = (-0.4, 0.85)
TRIES = 60


@dataclass(frozen=True, kw_only=True)
class PlacementSettings:
    """Rates of crowding.

    Args:
        density_per_mm2: mean number of cells an area; paper A has 94.1 cells in 0.234 mm x 0.234 mm: 1,718.
        touching_probability: chance that a cell is laid against one already there (touching or overlapping it
            in projection). More touch by chance, and each such pair counts twice, so the measured rate is
            higher.
        border_probability: chance that a cell is laid across the border; the others lie inside. A rate of its
            own, so that small fields have the border of large ones (about 10 % of cells at 1444 px).
        max_overlap: deepest overlap of two cells along the line between them, as a share of the smaller one's
            width there, so that a platelet is not hidden by a red cell.
        focus_above_glass_um: height of the middle of the stack above the glass that cells rest on [choice].

    Raises:
        UserError: a value out of range.
    """

    density_per_mm2: float = 1718.0
    touching_probability: float = 0.3
    border_probability: float = 0.14
    max_overlap: float = 0.3
    focus_above_glass_um: float = 3.0

    def __post_init__(self) -> None:
        if self.density_per_mm2 <= 0:
            raise UserError(f"density_per_mm2: {self.density_per_mm2} must be positive")
        for name in ("touching_probability", "border_probability", "max_overlap"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} is not in [0, 1)")


def place_cells(
    rng: np.random.Generator,
    outlines: FloatArray,
    size_um: tuple[float, float],
    settings: PlacementSettings,
) -> FloatArray:
    """Centres [N, 2] (x, y in um; NaN where no room was found) for shadows given as ellipses.

    Args:
        rng: source of all randomness.
        outlines: float [N, 2, 2], matrices S of u^T S^-1 u <= 1 (um^2).
        size_um: width and height of the field.
        settings: rates of crowding.
    """
    centers = np.full((len(outlines), 2), np.nan)
    layout = _Layout(centers, np.linalg.inv(outlines), settings.max_overlap)
    for index, outline in enumerate(outlines):
        half = np.sqrt(np.diag(outline))
        at_border = rng.uniform() < settings.border_probability
        touching = rng.uniform() < settings.touching_probability
        for attempt in range(2 * TRIES):
            if at_border:
                center = _on_border(rng, half, size_um)
            elif touching and index and attempt < TRIES:
                center = layout.beside_another(rng, index)
            else:
                center = rng.uniform(half, np.maximum(np.asarray(size_um) - half, half))
            inside = bool(np.all(center >= half) and np.all(center <= np.asarray(size_um) - half))
            if (at_border or inside) and layout.has_room(index, center):
                centers[index] = center
                break
    return centers


def _on_border(rng: np.random.Generator, half: FloatArray, size_um: tuple[float, float]) -> FloatArray:
    """A centre near a side of the field: sides in proportion to their length."""
    width, height = size_um
    across = 0 if rng.uniform() < height / (width + height) else 1  # 0: left or right side, 1: top or bottom
    center = rng.uniform((0, 0), size_um)
    depth = rng.uniform(*BORDER_DEPTH) * half[across]
    center[across] = depth if rng.uniform() < 0.5 else size_um[across] - depth
    return center


def settle(patch: VoxelPatch, ceiling: NDArray[np.int32], top: int, left: int, *, highest: int) -> int | None:
    """Lower a cell until it rests on the glass or on the cells below, and raise ``ceiling`` by it.

    Args:
        patch: the cell.
        ceiling: int32 [H, W], first free voxel above the glass and the cells so far; changed in place.
        top, left: of the patch on that map; what lies outside of it is not looked at.
        highest: number of voxels along z.

    Returns:
        By how many voxels the patch moves up, or None if the cell would leave the stack (``ceiling`` stays).
    """
    low, high = patch.heights()
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + low.shape[0], ceiling.shape[0]), min(left + low.shape[1], ceiling.shape[1])
    if y0 >= y1 or x0 >= x1:
        return None
    own = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    below = ceiling[y0:y1, x0:x1]
    there = high[own] > 0
    if not there.any():
        return None
    first = int((below - low[own])[there].max())
    if first + int(high.max()) > highest:
        return None
    ceiling[y0:y1, x0:x1] = np.where(there, np.maximum(below, first + high[own]), below)
    return first - patch.first


class _Layout:
    """Cells placed so far, with distances scaled by their radii towards each other."""

    def __init__(self, centers: FloatArray, inverses: FloatArray, max_overlap: float) -> None:
        self.centers, self.inverses, self.max_overlap = centers, inverses, max_overlap

    def _radii(self, which: slice | int, direction: FloatArray) -> FloatArray:
        """Radius of each ellipse along the unit vectors [..., 2]."""
        matrix = self.inverses[which]
        return 1 / np.sqrt(np.einsum("...i,...ij,...j->...", direction, matrix, direction))

    def has_room(self, index: int, center: FloatArray) -> bool:
        """Whether no earlier cell is overlapped too deeply (unplaced ones are NaN: no obstacle)."""
        away = self.centers[:index] - center
        distance = np.maximum(np.linalg.norm(away, axis=1), 1e-9)
        direction = away / distance[:, None]
        theirs, own = self._radii(slice(index), direction), self._radii(index, direction)
        return not bool(np.any(distance < theirs + own - 2 * self.max_overlap * np.minimum(theirs, own)))

    def beside_another(self, rng: np.random.Generator, index: int) -> FloatArray:
        """A centre at which cell ``index`` touches or overlaps an earlier cell."""
        host = int(rng.integers(index))
        angle = rng.uniform(0, 2 * math.pi)
        direction = np.array([math.cos(angle), math.sin(angle)])
        theirs, own = float(self._radii(host, direction)), float(self._radii(index, direction))
        depth = rng.uniform(0, 2 * self.max_overlap * min(theirs, own))
        return self.centers[host] + direction * (theirs + own - depth)
