"""Beads with known truth: projections drawn on a finer grid, and light that went through the sphere."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemolens.analysis.beads import Bead

WAVELENGTH_UM = 0.633
SILICA = Bead(diameter_um=5.0, refractive_index=1.43, medium_index=1.334)


def projected(
    side: int, places: Any, bead: Bead = SILICA, *, pixel_um: float = 0.144, noise_rad: float = 0.03, seed: int = 0
) -> NDArray[np.float64]:
    """Phase [side, side] of spheres at (y, x) px: the mean over 4 x 4 points of each pixel, and noise."""
    fine = (np.arange(side * 4) + 0.5) / 4 - 0.5
    phase = np.random.default_rng(seed).normal(0, noise_rad, (side, side))
    for y, x in places:
        squared = ((fine[:, None] - y) ** 2 + (fine - x) ** 2) * pixel_um**2
        path = 2 * np.sqrt(np.maximum((bead.diameter_um / 2) ** 2 - squared, 0)) * bead.contrast
        phase += (2 * math.pi / WAVELENGTH_UM * path).reshape(side, 4, side, 4).mean((1, 3))
    return phase


def ball(
    shape: tuple[int, int, int], voxel_um: tuple[float, float, float], diameter_um: float, contrast: float
) -> NDArray[np.float64]:
    """Index difference [Z, Y, X] of a sphere near the middle, its edge soft over a voxel's width."""
    sides = zip(shape, voxel_um, (0.3, -0.6, 0.2), strict=True)
    axes = [(np.arange(count) - (count - 1) / 2 + shift) * step for count, step, shift in sides]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    away = np.sqrt(z**2 + y**2 + x**2)
    return np.asarray(contrast * np.clip((diameter_um / 2 - away) / voxel_um[2] + 0.5, 0, 1))
