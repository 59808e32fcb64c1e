"""Bodies that light passes through: each answers how long a parallel ray stays inside it.

Object frame: x and y in the plane of the cell, z along its axis of symmetry, origin at its centre,
micrometres. Chords are taken along any direction, so one shape gives its projection at every tilt.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hemolens.errors import UserError

FloatArray = NDArray[np.floating]

# Evans and Fung 1972: z(r) = (R/2) sqrt(1-q) (C0 + C1 q + C2 q^2) is HALF the thickness, q = (r/R)^2.
# Public code often prints the full-thickness constants (0.81, 7.83, -4.39 um at R = 3.91 um) instead.
EVANS_FUNG = (0.207161, 2.002558, -1.122762)
# V = pi s R^3 sum_k C_k B(k+1, 3/2), with B(1, 3/2) = 2/3, B(2, 3/2) = 4/15, B(3, 3/2) = 16/105.
EVANS_FUNG_VOLUME = math.pi * sum(c * b for c, b in zip(EVANS_FUNG, (2 / 3, 4 / 15, 16 / 105), strict=True))
# Ray step through a disc seen edge on, and what may be added for one seen from above, where the crossings are
# linear.
RAY_STEP_UM = (0.06, 0.2)
# Rays worked on together: few enough that the samples along them stay in the processor's cache.
RAYS_AT_ONCE = 1024


class Shape(Protocol):
    """A body in the object frame."""

    @property
    def center_um(self) -> tuple[float, float, float]:
        """Centre of the body in the frame of its cell."""
        ...

    def half_extent_um(self, axis: FloatArray) -> float:
        """Half the width of a box around the body along the unit vector ``axis`` [3]."""
        ...

    def outline_um2(self, rows: FloatArray) -> FloatArray:
        """S [2, 2]: the ellipse u^T S^-1 u <= 1 stands for the shadow on the plane of ``rows`` [2, 3]."""
        ...

    def chord_um(self, points: FloatArray, direction: FloatArray) -> FloatArray:
        """Length [N] inside the body of the lines through ``points`` [3, N] along a unit vector [3]."""
        ...


@dataclass(frozen=True)
class Ellipsoid:
    """Ellipsoid with semi-axes along the columns of ``axes`` (an orthogonal matrix)."""

    semi_axes_um: tuple[float, float, float]
    center_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axes: FloatArray = field(default_factory=lambda: np.eye(3))

    @property
    def volume_fl(self) -> float:
        """Volume in fL (um^3)."""
        return 4 / 3 * math.pi * math.prod(self.semi_axes_um)

    def half_extent_um(self, axis: FloatArray) -> float:
        """See :class:`Shape`; exact."""
        return float(np.linalg.norm((axis @ self.axes) * self.semi_axes_um))

    def outline_um2(self, rows: FloatArray) -> FloatArray:
        """See :class:`Shape`; exact."""
        half = (rows @ self.axes) * self.semi_axes_um
        return half @ half.T

    def contains(self, place: FloatArray) -> bool:
        """Whether the point ``place`` [3] lies inside."""
        offset = (place - np.asarray(self.center_um)) @ self.axes / self.semi_axes_um
        return float(offset @ offset) < 1

    def interval_um(self, points: FloatArray, direction: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Entry and exit distance along each line; equal where the line misses the body."""
        to_unit_ball = (self.axes / self.semi_axes_um).T
        origin = to_unit_ball @ (points - np.asarray(self.center_um)[:, None])
        step = to_unit_ball @ direction
        a = step @ step
        b = step @ origin
        root = np.sqrt(np.maximum(b * b - a * ((origin * origin).sum(0) - 1), 0)) / a
        return -b / a - root, -b / a + root

    def chord_um(self, points: FloatArray, direction: FloatArray) -> FloatArray:
        """See :class:`Shape`; exact."""
        enter, leave = self.interval_um(points, direction)
        return leave - enter


@dataclass(frozen=True)
class EllipsoidUnion:
    """Bodies of overlapping ellipsoids (bent or lobed nuclei): shared length counts once."""

    parts: tuple[Ellipsoid, ...]
    center_um: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def contains(self, place: FloatArray) -> bool:
        """Whether the point ``place`` [3] lies inside any part."""
        return any(part.contains(place) for part in self.parts)

    def half_extent_um(self, axis: FloatArray) -> float:
        """See :class:`Shape`."""
        return max(abs(float(axis @ np.asarray(p.center_um))) + p.half_extent_um(axis) for p in self.parts)

    def outline_um2(self, rows: FloatArray) -> FloatArray:
        """See :class:`Shape`; the upright ellipse over the half extents."""
        return np.diag([self.half_extent_um(row) ** 2 for row in rows])

    def chord_um(self, points: FloatArray, direction: FloatArray) -> FloatArray:
        """See :class:`Shape`; exact: the intervals of each line are merged in order of entry."""
        intervals = np.stack([part.interval_um(points, direction) for part in self.parts])  # [part, 2, N]
        order = np.argsort(intervals[:, 0], axis=0)
        enter = np.take_along_axis(intervals[:, 0], order, axis=0)
        leave = np.maximum.accumulate(np.take_along_axis(intervals[:, 1], order, axis=0), axis=0)
        enter[1:] = np.maximum(enter[1:], leave[:-1])
        return np.maximum(leave - enter, 0).sum(0)


@dataclass(frozen=True)
class BiconcaveDisc:
    """Evans-Fung disc, stretched by ``sqrt(axis_ratio)`` along x and squeezed by it along y (volume kept).

    Args:
        radius_um: R of the round disc.
        thickness_factor: s, multiplies the thickness everywhere (1 = the published mean cell).
        axis_ratio: length over width, 1 for a discocyte.
    """

    radius_um: float
    thickness_factor: float = 1.0
    axis_ratio: float = 1.0
    center_um: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def from_volume(
        cls, volume_fl: float, *, thickness_factor: float = 1.0, axis_ratio: float = 1.0
    ) -> "BiconcaveDisc":
        """Solve V = 1.5740487 s R^3 for R, so that the drawn volume is the exact one.

        Raises:
            UserError: a value is not positive or ``axis_ratio`` is below 1.
        """
        if volume_fl <= 0 or thickness_factor <= 0 or axis_ratio < 1:
            raise UserError(
                f"disc of {volume_fl} fL, thickness_factor {thickness_factor}, axis_ratio {axis_ratio}: "
                "volume and thickness must be positive and the axis ratio at least 1"
            )
        radius = (volume_fl / (EVANS_FUNG_VOLUME * thickness_factor)) ** (1 / 3)
        return cls(radius, thickness_factor, axis_ratio)

    @property
    def volume_fl(self) -> float:
        """Volume in fL (um^3), closed form."""
        return EVANS_FUNG_VOLUME * self.thickness_factor * self.radius_um**3

    @property
    def semi_axes_um(self) -> tuple[float, float]:
        """Half length and half width of the flat disc."""
        stretch = math.sqrt(self.axis_ratio)
        return self.radius_um * stretch, self.radius_um / stretch

    @cached_property
    def half_height_um(self) -> float:
        """Largest half thickness (1.283 um at R = 3.91 um, s = 1)."""
        return float(self.half_thickness_um(np.linspace(0, 1, 513)).max()) * 1.0001

    def half_thickness_um(self, q: FloatArray) -> FloatArray:
        """Evans-Fung profile at q = (r/R)^2; 0 outside the disc."""
        c0, c1, c2 = EVANS_FUNG
        scale = self.radius_um * self.thickness_factor / 2
        return scale * np.sqrt(np.maximum(1 - q, 0)) * (c0 + q * (c1 + c2 * q))

    def half_extent_um(self, axis: FloatArray) -> float:
        """See :class:`Shape`; of the elliptic cylinder around the disc."""
        a, b = self.semi_axes_um
        return math.hypot(a * axis[0], b * axis[1]) + self.half_height_um * abs(float(axis[2]))

    def outline_um2(self, rows: FloatArray) -> FloatArray:
        """See :class:`Shape`; of the ellipsoid with the disc's length, width and height."""
        half = rows * (*self.semi_axes_um, self.half_height_um)
        return half @ half.T

    def chord_um(self, points: FloatArray, direction: FloatArray) -> FloatArray:
        """See :class:`Shape`; closed form along z, else sampled with linear surface crossings."""
        a, b = self.semi_axes_um
        u, v, z = points[0] / a, points[1] / b, points[2]
        du, dv, dz = float(direction[0]) / a, float(direction[1]) / b, float(direction[2])
        q0, q1, q2 = u * u + v * v, u * du + v * dv, du * du + dv * dv
        if q2 < 1e-12:
            return 2 * self.half_thickness_um(q0)
        hit, start, length = self._ray_range(z, q0, q1, q2, dz)
        chord = np.zeros_like(q0)
        where = np.flatnonzero(hit)
        for first in range(0, where.size, RAYS_AT_ONCE):
            few, part = where[first : first + RAYS_AT_ONCE], slice(first, first + RAYS_AT_ONCE)
            chord[few] = self._sampled_chord(z[few], q0[few], q1[few], q2, dz, start[part], length[part])
        return chord

    def _ray_range(
        self, z: FloatArray, q0: FloatArray, q1: FloatArray, q2: float, dz: float
    ) -> tuple[NDArray[np.bool_], FloatArray, FloatArray]:
        """Which lines cross the cylinder around the disc (hit [N]), and start and length of those."""
        discriminant = q1 * q1 - q2 * (q0 - 1)
        root = np.sqrt(np.maximum(discriminant, 0)) / q2
        start, stop = -q1 / q2 - root, -q1 / q2 + root
        if abs(dz) > 1e-9:
            reach = self.half_height_um / abs(dz)
            start, stop = np.maximum(start, -z / dz - reach), np.minimum(stop, -z / dz + reach)
            hit = (discriminant > 0) & (stop > start)
        else:
            hit = (discriminant > 0) & (np.abs(z) < self.half_height_um)
        return hit, start[hit], (stop - start)[hit]

    def _sampled_chord(
        self,
        z: FloatArray,
        q0: FloatArray,
        q1: FloatArray,
        q2: float,
        dz: float,
        start: FloatArray,
        length: FloatArray,
    ) -> FloatArray:
        step = RAY_STEP_UM[0] + RAY_STEP_UM[1] * dz * dz
        steps = max(8, math.ceil(float(length.max()) / step))
        t = start + np.linspace(0, 1, steps + 1, dtype=z.dtype)[:, None] * length  # [step, ray]
        # Positive inside, and for a ray along z exactly linear in t where it meets the surface.
        level = self.half_thickness_um((q2 * t + 2 * q1) * t + q0) - np.abs(z + dz * t)
        below, above = level[:-1], level[1:]
        inside = np.maximum(level, 0)
        # Share of each step that is inside if the level is linear over it: 1, 0 or the crossing's position.
        share = np.where(
            below * above < 0,
            (inside[:-1] + inside[1:]) / np.maximum(np.abs(above - below), 1e-12),
            below + above > 0,
        )
        return share.sum(0, dtype=z.dtype) * length / steps
