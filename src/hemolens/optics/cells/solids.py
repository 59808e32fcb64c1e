"""Bodies in three dimensions, as the level sets that voxels are filled from.

Object frame: x and y in the plane of the cell, z along its axis of symmetry, origin at its centre, micrometres. A
``level`` is positive inside, zero on the surface, and near it close to linear in the distance from it, with any slope:
only its sign and its change from voxel to voxel are used.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from hemolens.errors import UserError

FloatArray = NDArray[np.floating]

# Evans and Fung 1972: z(r) = (R/2) sqrt(1-q) (C0 + C1 q + C2 q^2) is HALF the thickness, q = (r/R)^2.
# Public code often prints the full-thickness constants (0.81, 7.83, -4.39 um at R = 3.91 um) instead.
EVANS_FUNG = (0.207161, 2.002558, -1.122762)
# V = pi s R^3 sum_k C_k B(k+1, 3/2), with B(1, 3/2) = 2/3, B(2, 3/2) = 4/15, B(3, 3/2) = 16/105.
EVANS_FUNG_VOLUME = math.pi * sum(c * b for c, b in zip(EVANS_FUNG, (2 / 3, 4 / 15, 16 / 105), strict=True))

#: Half thickness below which a disc's surface counts as its rim.
RIM_UM = 0.15
#: Voxels along an axis where a volume has no closed form: about 3e-4.
GRID = 72


class Solid(Protocol):
    """A body in the object frame."""

    @property
    def volume_fl(self) -> float:
        """Volume in fL (um^3)."""
        ...

    @property
    def half_extent_um(self) -> tuple[float, float, float]:
        """Half sides of a box around the body, centred on the origin."""
        ...

    def level(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Positive inside, 0 on the surface; shape of the broadcast coordinates (um)."""
        ...


def occupancy(level: FloatArray) -> FloatArray:
    """Share of each voxel that lies inside, from the levels at the voxels' centres [Z, Y, X].

    A voxel that a plane cuts is full to ``1/2 + mean level / sum_i |d_i level|``, with the change d_i of the level
    from one voxel to the next along axis i and the mean over the voxel, level + sum_i d_i^2 level / 24, which takes
    the surface's curvature into account. That is exact for planes along the grid and unbiased for others, so the sum
    over voxels is the volume, whatever the voxel's proportions.
    """
    change, mean = np.zeros_like(level), level.copy()
    for axis in range(level.ndim):
        if level.shape[axis] < 3:
            continue
        along, back = np.moveaxis(level, axis, 0), np.moveaxis(mean, axis, 0)
        slope = np.moveaxis(change, axis, 0)
        step = np.diff(along, axis=0)
        slope[1:-1] += np.abs(step[1:] + step[:-1]) / 2
        slope[0] += np.abs(step[0])
        slope[-1] += np.abs(step[-1])
        back[1:-1] += (step[1:] - step[:-1]) / 24
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 0.5 + mean / change
    return np.clip(np.where(change > 0, share, mean > 0), 0, 1).astype(level.dtype)


def numeric_volume(solid: Solid, voxels: int = GRID) -> float:
    """Volume in fL of a body without closed form, by its occupancy on a grid around it."""
    axes = [np.linspace(-h, h, voxels) * (1 + 3 / voxels) for h in solid.half_extent_um]
    x, y, z = axes
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    level = solid.level(x[None, None, :], y[None, :, None], z[:, None, None])
    return float(occupancy(np.broadcast_to(level, (voxels, voxels, voxels)).astype(float)).sum()) * cell


def surface_area(solid: Solid, voxels: int = 160) -> float:
    """Area of the surface in um^2, by the coarea formula on a fine grid: about 0.3 %.

    The integral of a narrow bump of unit area over the distance from the surface. Used to check shapes, not in
    simulations.
    """
    axes = [np.linspace(-h, h, voxels) * (1 + 6 / voxels) for h in solid.half_extent_um]
    steps = [float(axis[1] - axis[0]) for axis in axes]
    x, y, z = axes
    level = np.broadcast_to(solid.level(x[None, None, :], y[None, :, None], z[:, None, None]), (voxels,) * 3)
    gradient = np.gradient(level, steps[2], steps[1], steps[0])
    slope = np.sqrt(sum(part**2 for part in gradient))
    width = 1.5 * max(steps)
    distance = level / np.maximum(slope, 1e-12)
    # coarea formula: the integral of a bump of unit area over the distance from the surface
    bump = np.where(np.abs(distance) < width, (1 + np.cos(math.pi * distance / width)) / (2 * width), 0)
    return float(bump.sum()) * math.prod(steps)


@dataclass(frozen=True, kw_only=True)
class Disc:
    """Evans-Fung disc (1972) with an outline that may be stretched, crenated or drawn out into a tail, and bent.

    Covers discocyte, elliptocyte, teardrop, crenated disc (echinocyte I) and folded cell; the volume has a closed form
    up to a one-dimensional mean.

    Args:
        radius_um: R of the round disc.
        thickness_factor: s, multiplies the thickness everywhere (1: the published mean cell).
        axis_ratio: length over width; x is stretched and y squeezed by its root.
        tail: t of the outline 1 + t exp(-(phi / tail_width)^2): how far a teardrop is drawn out.
        tail_width_rad: angular width of the tail.
        crenations: m of the outline 1 + crenation cos(m phi).
        crenation: amplitude of the crenation.
        bend_per_um: kappa of the fold, z -> z + kappa x^2 (keeps the volume).
    """

    radius_um: float
    thickness_factor: float = 1.0
    axis_ratio: float = 1.0
    tail: float = 0.0
    tail_width_rad: float = 0.35
    crenations: int = 12
    crenation: float = 0.0
    bend_per_um: float = 0.0

    @classmethod
    def from_volume(cls, volume_fl: float, **shape: float) -> Self:
        """Solve the volume for R.

        Raises:
            UserError: the volume or a proportion is not positive.
        """
        unit = cls(radius_um=1.0, **shape)  # type: ignore[arg-type]  # crenations is a whole number
        if volume_fl <= 0 or unit.thickness_factor <= 0 or unit.axis_ratio <= 0:
            raise UserError(f"disc of {volume_fl} fL, {shape}: volume, thickness and axis ratio must be positive")
        return replace(unit, radius_um=(volume_fl / unit.volume_fl) ** (1 / 3))

    def grown(self, factor: float) -> Self:
        """The same proportions with lengths times ``factor``."""
        return replace(self, radius_um=self.radius_um * factor, bend_per_um=self.bend_per_um / factor)

    @property
    def volume_fl(self) -> float:
        """1.5740487 s R^3 times the mean square of the outline."""
        phi = (np.arange(4096) + 0.5) * (2 * math.pi / 4096)
        return EVANS_FUNG_VOLUME * self.thickness_factor * self.radius_um**3 * float((self._outline(phi) ** 2).mean())

    @property
    def half_extent_um(self) -> tuple[float, float, float]:
        """See :class:`Solid`."""
        stretch = math.sqrt(self.axis_ratio)
        widest = self.radius_um * (1 + abs(self.crenation))
        long = (widest + self.radius_um * self.tail) * stretch
        height = 0.3283 * self.radius_um * self.thickness_factor + abs(self.bend_per_um) * long**2
        return long, max(widest, self.radius_um * (1 + self.tail * 0.5)) / stretch, height

    def level(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Half thickness h less |z|, continued beyond the rim, where h^2 < 0; see :func:`_lens`."""
        stretch = math.sqrt(self.axis_ratio)
        u, v = x / (self.radius_um * stretch), y * (stretch / self.radius_um)
        q = u * u + v * v
        if self.tail or self.crenation:
            q = q / self._outline(np.arctan2(v, u)) ** 2
        q = np.minimum(q, 1.5)  # the polynomial has another root further out
        c0, c1, c2 = EVANS_FUNG
        half = self.radius_um * self.thickness_factor / 2 * (c0 + q * (c1 + c2 * q))
        height = z - self.bend_per_um * x * x if self.bend_per_um else z
        return _lens((1 - q) * half * half, height)

    def _outline(self, phi: FloatArray) -> FloatArray:
        wrapped = (phi + math.pi) % (2 * math.pi) - math.pi
        bumps = self.crenation * np.cos(self.crenations * phi)
        return 1 + self.tail * np.exp(-((wrapped / self.tail_width_rad) ** 2)) + bumps


@dataclass(frozen=True, kw_only=True)
class KuchelDisc:
    """Degree-four disc of Kuchel and Fackerell (1999), with three measurable lengths; target cells carry a bump.

    Args:
        diameter_um: d.
        dimple_um: b, thickness at the centre; 0 < b < h.
        thickness_um: h, largest thickness.
        bump_um: thickness that a target cell's middle gains, a Gaussian of ``bump_sigma_um``.
        bump_sigma_um: its width.
    """

    diameter_um: float
    dimple_um: float
    thickness_um: float
    bump_um: float = 0.0
    bump_sigma_um: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.dimple_um < self.thickness_um < self.diameter_um:
            raise UserError(
                f"disc of diameter {self.diameter_um}, dimple {self.dimple_um}, thickness {self.thickness_um} um: "
                "0 < dimple < thickness < diameter is needed"
            )

    def scaled(self, volume_fl: float) -> Self:
        """The same proportions at another volume."""
        factor = (volume_fl / self.volume_fl) ** (1 / 3)
        lengths = ("diameter_um", "dimple_um", "thickness_um", "bump_um", "bump_sigma_um")
        return replace(self, **{name: getattr(self, name) * factor for name in lengths})

    @cached_property
    def volume_fl(self) -> float:
        """2 pi times the integral of thickness(r) r dr (Gauss-Legendre in r = R sin t, smooth at the rim)."""
        node, weight = np.polynomial.legendre.leggauss(96)
        t = (node + 1) * math.pi / 4
        radius = self.diameter_um / 2
        r = radius * np.sin(t)
        half = np.sqrt(np.maximum(self._half_squared(r * r), 0))
        return float((4 * math.pi * half * r * radius * np.cos(t) * weight).sum() * math.pi / 4)

    @property
    def half_extent_um(self) -> tuple[float, float, float]:
        """See :class:`Solid`."""
        height = max(self.thickness_um, self.dimple_um + self.bump_um) / 2
        return self.diameter_um / 2, self.diameter_um / 2, height * 1.01

    def level(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """See :class:`Solid`."""
        return _lens(self._half_squared(x * x + y * y), z)

    def _half_squared(self, rho: FloatArray) -> FloatArray:
        """Square of the half thickness at r^2 = rho: the upper root z^2 of the quartic; negative beyond the rim."""
        d2, b2, h2 = self.diameter_um**2, self.dimple_um**2, self.thickness_um**2
        p = -d2 / 2 + (h2 / 2) * (d2 / b2 - 1) * (1 - math.sqrt(1 - b2 / h2))
        q = p * d2 / b2 + (b2 / 4) * (d2 * d2 / (b2 * b2) - 1)
        t = -p * d2 / 4 - d2 * d2 / 16
        linear = 2 * rho + q
        squared = (np.sqrt(np.maximum(linear**2 - 4 * (rho * rho + p * rho + t), 0)) - linear) / 2
        if not self.bump_um:
            return squared
        bump = self.bump_um / 2 * np.exp(-rho / (2 * self.bump_sigma_um**2))
        return np.where(squared > 0, (np.sqrt(np.maximum(squared, 0)) + bump) ** 2, squared)


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """Ellipsoid along the axes: spherocyte, platelet, white cell."""

    semi_axes_um: tuple[float, float, float]

    @classmethod
    def ball(cls, volume_fl: float) -> Self:
        """A sphere of that volume."""
        return cls(semi_axes_um=((0.75 * volume_fl / math.pi) ** (1 / 3),) * 3)

    def grown(self, factor: float) -> Self:
        """The same proportions with lengths times ``factor``."""
        a, b, c = self.semi_axes_um
        return replace(self, semi_axes_um=(a * factor, b * factor, c * factor))

    @property
    def volume_fl(self) -> float:
        """Closed form."""
        return 4 / 3 * math.pi * math.prod(self.semi_axes_um)

    @property
    def half_extent_um(self) -> tuple[float, float, float]:
        """See :class:`Solid`."""
        return self.semi_axes_um

    def level(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """See :class:`Solid`."""
        a, b, c = self.semi_axes_um
        return 1 - np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)


def _lens(half_squared: FloatArray, z: FloatArray) -> FloatArray:
    """h - |z| in um where h^2 is well above 0, and proportional to h^2 about the rim, where h has no slope."""
    rim = RIM_UM * RIM_UM
    return (half_squared - z * z) / (np.sqrt(np.maximum(half_squared, 0) + rim) + np.sqrt(z * z + rim))
