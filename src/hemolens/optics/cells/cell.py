"""A cell: bodies with refractive-index increments, and its pose."""

import math
from dataclasses import dataclass

import numpy as np

from hemolens.optics.cells.solids import FloatArray, Solid

# Order of the paper's Table 1: the label of a class is its index.
CLASS_NAMES = ("RBC", "PLT", "WBC", "ARBC")


@dataclass(frozen=True)
class Pose:
    """Where a cell lies: its origin in the field (um from the top left corner and from the lower face of the stack)
    and three angles (rad).

    The cell spins by ``roll`` about its own axis, leans by ``tilt`` away from the optical axis, and turns by
    ``azimuth`` in the image plane.
    """

    x_um: float
    y_um: float
    z_um: float = 0.0
    tilt_rad: float = 0.0
    azimuth_rad: float = 0.0
    roll_rad: float = 0.0

    @property
    def rotation(self) -> FloatArray:
        """Object frame to field frame, Rz(azimuth) Rx(tilt) Rz(roll), [3, 3]."""
        lean_c, lean_s = math.cos(self.tilt_rad), math.sin(self.tilt_rad)
        lean = np.array([[1, 0, 0], [0, lean_c, -lean_s], [0, lean_s, lean_c]])
        return _turn(self.azimuth_rad) @ lean @ _turn(self.roll_rad)


def _turn(angle: float) -> FloatArray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@dataclass(frozen=True)
class Component:
    """A body, what it adds to the refractive index of what surrounds it (real and imaginary part), and its place in the
    cell's frame."""

    solid: Solid
    delta_n: float
    center_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
    delta_k: float = 0.0

    def half_extent_um(self, axis: FloatArray) -> float:
        """Half the width along the unit vector ``axis`` [3] of a box around the body; never too small."""
        return float(np.abs(axis) @ np.asarray(self.solid.half_extent_um))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell; the first component is its outer surface.

    Attributes:
        class_name: what the cell is: one of :data:`CLASS_NAMES`, of stored blood one of ``stored.TYPE_NAMES``.
        kind: e.g. discocyte, teardrop, neutrophil; see :mod:`hemolens.optics.cells.drawing`.
        volume_fl: volume of the outer surface, from a closed form or a quadrature.
        hemoglobin_pg: hemoglobin mass, 0 for cells without.
        irregularity: 0 for a perfect disc, 1 for the most irregular red cell; 0 for platelets and white cells.
    """

    class_name: str
    kind: str
    volume_fl: float
    hemoglobin_pg: float = 0.0
    irregularity: float = 0.0
    components: tuple[Component, ...]

    def outline_um2(self, rotation: FloatArray) -> FloatArray:
        """S [2, 2]: the ellipse u^T S^-1 u <= 1 stands for the cell's shadow in the image plane.

        That of an ellipsoid with the length, width and height of the outer surface.
        """
        half = rotation[:2] * np.asarray(self.components[0].solid.half_extent_um)
        return half @ half.T
