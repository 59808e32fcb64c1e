"""A cell: bodies with refractive-index increments, its pose, and its projection on pixels."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemolens.optics.cells.shapes import FloatArray, Shape

# Order of the paper's Table 1: the label of a class is its index.
CLASS_NAMES = ("RBC", "PLT", "WBC", "ARBC")


@dataclass(frozen=True)
class Pose:
    """Where a cell lies: centre in the field (um from the top left corner) and three angles (rad).

    The cell spins by ``roll`` about its own axis, leans by ``tilt`` away from the optical axis, and turns by
    ``azimuth`` in the image plane.
    """

    x_um: float
    y_um: float
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
    """A body and what it adds to the refractive index of what surrounds it."""

    shape: Shape
    delta_n: float


@dataclass(frozen=True)
class Cell:
    """One cell; the first component is its outer surface.

    Attributes:
        class_name: one of :data:`CLASS_NAMES`.
        kind: discocyte, elliptocyte, platelet, neutrophil, lymphocyte or monocyte.
        volume_fl: exact volume of the outer surface.
        hemoglobin_pg: exact hemoglobin mass, 0 for cells without.
    """

    class_name: str
    kind: str
    volume_fl: float
    hemoglobin_pg: float
    components: tuple[Component, ...]


@dataclass(frozen=True)
class Projection:
    """A cell seen along the optical axis, on the pixels from (``left``, ``top``) of the field's grid.

    Attributes:
        opd_um: float32 [h, w], optical path difference: integral of (n - n_medium) dz, averaged over a pixel.
        thickness_um: float32 [h, w], path inside the outer surface: sum * pixel^2 = volume.
        footprint: bool [h, w], pixels at least half covered.
    """

    left: int
    top: int
    opd_um: NDArray[np.float32]
    thickness_um: NDArray[np.float32]
    footprint: NDArray[np.bool_]


def project(cell: Cell, pose: Pose, *, pixel_um: float, supersample: int = 2) -> Projection:
    """Integrate ``cell`` along the optical axis with ``supersample``^2 rays a pixel.

    Pixel (row, column) covers [column, column + 1] x [row, row + 1] times ``pixel_um``; the grid is
    unbounded, so ``left`` and ``top`` may be negative for a cell cut by the border of its field.
    """
    rotation = pose.rotation
    windows = [_window(component.shape, pose, rotation, pixel_um) for component in cell.components]
    left, top = min(w[0] for w in windows), min(w[1] for w in windows)
    right, bottom = max(w[2] for w in windows), max(w[3] for w in windows)
    whole = (left, top, right, bottom)
    outer = _rays(cell.components[0].shape, pose, rotation, whole, pixel_um, supersample)
    thickness = outer.mean((1, 3))
    opd = np.float32(cell.components[0].delta_n) * thickness
    for component, (x0, y0, x1, y1) in zip(cell.components[1:], windows[1:], strict=True):
        rays = _rays(component.shape, pose, rotation, (x0, y0, x1, y1), pixel_um, supersample)
        opd[y0 - top : y1 - top, x0 - left : x1 - left] += component.delta_n * rays.mean((1, 3))
    return Projection(left, top, opd, thickness, (outer > 0).mean((1, 3)) >= 0.5)


def _window(shape: Shape, pose: Pose, rotation: FloatArray, pixel_um: float) -> tuple[int, int, int, int]:
    """Whole pixels that hold the shadow of the shape: left, top, right, bottom (exclusive)."""
    center = rotation @ np.asarray(shape.center_um)
    x, y = pose.x_um + float(center[0]), pose.y_um + float(center[1])
    half_x, half_y = shape.half_extent_um(rotation[0]), shape.half_extent_um(rotation[1])
    return (
        math.floor((x - half_x) / pixel_um),
        math.floor((y - half_y) / pixel_um),
        math.ceil((x + half_x) / pixel_um),
        math.ceil((y + half_y) / pixel_um),
    )


def _rays(
    shape: Shape,
    pose: Pose,
    rotation: FloatArray,
    window: tuple[int, int, int, int],
    pixel_um: float,
    supersample: int,
) -> NDArray[np.float32]:
    """Chords through the shape, float32 [rows, supersample, columns, supersample]."""
    left, top, right, bottom = window
    step = pixel_um / supersample
    x = (np.arange((right - left) * supersample) + 0.5) * step + (left * pixel_um - pose.x_um)
    y = (np.arange((bottom - top) * supersample) + 0.5) * step + (top * pixel_um - pose.y_um)
    to_object = rotation.T.astype(np.float32)
    along_x = to_object[:, 0, None, None] * x.astype(np.float32)
    along_y = to_object[:, 1, None, None] * y.astype(np.float32)[:, None]
    chord = shape.chord_um((along_x + along_y).reshape(3, -1), to_object[:, 2])
    return chord.astype(np.float32).reshape(bottom - top, supersample, right - left, supersample)
