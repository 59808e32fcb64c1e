"""Cells on voxels: what share of each voxel a cell fills, and what it adds to the refractive index there."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemolens.optics.cells.cell import Cell, Component, Pose
from hemolens.optics.cells.solids import FloatArray, occupancy


@dataclass(frozen=True)
class VoxelPatch:
    """A cell on the voxels from (``first``, ``top``, ``left``) of an unbounded grid, [D, h, w].

    Voxel (k, i, j) covers [k, k + 1] x [i, i + 1] x [j, j + 1] times the voxel's sides (z, y, x).

    Attributes:
        inside: float32 [D, h, w], share of each voxel inside the outer surface: sum * voxel = volume.
        contrast: float32 [D, h, w], n - n_medium.
        absorption: float32 [D, h, w], imaginary part of the index; None where the cell has none.
    """

    first: int
    top: int
    left: int
    inside: NDArray[np.float32]
    contrast: NDArray[np.float32]
    absorption: NDArray[np.float32] | None = None

    @property
    def footprint(self) -> NDArray[np.bool_]:
        """Pixels at least half covered, bool [h, w]."""
        return np.asarray(self.inside.max(0) >= 0.5)

    def heights(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Lowest voxel that the cell enters and the first above it, of each column, int32 [h, w], counted from
        ``first``; D and 0 where the cell is not."""
        filled = self.inside > 0
        depth = len(filled)
        low = np.where(filled.any(0), filled.argmax(0), depth)
        high = np.where(filled.any(0), depth - filled[::-1].argmax(0), 0)
        return low.astype(np.int32), high.astype(np.int32)


def render(cell: Cell, pose: Pose, voxel_um: tuple[float, float, float]) -> VoxelPatch:
    """Fill voxels of sides ``voxel_um`` (z, y, x) with a cell; its surface keeps its place to a part of a voxel.

    Only the outermost body absorbs.
    """
    rotation = pose.rotation
    windows = [_window(component, pose, rotation, voxel_um) for component in cell.components]
    start, stop = windows[0]
    inside = _filled(cell.components[0], pose, rotation, windows[0], voxel_um)
    contrast = inside * np.float32(cell.components[0].delta_n)
    for component, (low, high) in zip(cell.components[1:], windows[1:], strict=True):
        # what sticks out of the cell is cut off with it
        low, high = np.maximum(low, start), np.minimum(high, stop)
        at = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        part = _filled(component, pose, rotation, (low, high), voxel_um)
        contrast[at] += np.float32(component.delta_n) * np.minimum(part, inside[at])
    first, top, left = (int(n) for n in start)
    absorbing = cell.components[0].delta_k
    return VoxelPatch(first, top, left, inside, contrast, inside * np.float32(absorbing) if absorbing else None)


def _window(
    component: Component, pose: Pose, rotation: FloatArray, voxel_um: tuple[float, float, float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Whole voxels around a body, and one more on each side: first and last + 1 along z, y, x."""
    center = rotation @ np.asarray(component.center_um) + (pose.x_um, pose.y_um, pose.z_um)
    half = np.array([component.half_extent_um(row) for row in rotation])
    step = np.asarray(voxel_um)
    low, high = (center - half)[::-1] / step, (center + half)[::-1] / step
    return np.floor(low).astype(np.int64) - 1, np.ceil(high).astype(np.int64) + 1


def _filled(
    component: Component,
    pose: Pose,
    rotation: FloatArray,
    window: tuple[NDArray[np.int64], NDArray[np.int64]],
    voxel_um: tuple[float, float, float],
) -> NDArray[np.float32]:
    """Share of each voxel of the window inside the body, float32 [D, h, w]."""
    at = (pose.z_um, pose.y_um, pose.x_um)
    z, y, x = (
        ((np.arange(low, high) + 0.5) * step - place).astype(np.float32)
        for low, high, step, place in zip(*window, voxel_um, at, strict=True)
    )
    shift = component.center_um
    along = [
        (float(rotation[0, i]) * x[None, None] + float(rotation[1, i]) * y[None, :, None] - np.float32(shift[i]))
        + float(rotation[2, i]) * z[:, None, None]
        for i in range(3)
    ]
    return occupancy(component.solid.level(*along)).astype(np.float32)
