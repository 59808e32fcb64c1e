"""Bodies made from others: with spicules, with a bite, or cut. See :mod:`hemolens.optics.cells.solids`."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from hemolens.optics.cells.solids import Disc, Ellipsoid, FloatArray, numeric_volume

#: Directions of the quadrature over the sphere: volumes of star-shaped bodies to about 1e-4.
DIRECTIONS = 4096


@dataclass(frozen=True, kw_only=True)
class Spiculated:
    """A body with rounded protuberances: r(u) -> r(u) [1 + max_i a_i exp(-(angle(u, c_i) / w)^2 / 2)].

    Echinocytes II (on a thick disc) and III (on a sphere), sphero-echinocytes (low bumps).

    Args:
        base: star-shaped body, without bumps.
        directions: unit vectors c_i of the spicules, float [K, 3].
        heights: a_i, relative to the radius of the base, float [K].
        width_rad: w.
    """

    base: Disc | Ellipsoid
    directions: FloatArray
    heights: FloatArray
    width_rad: float

    @cached_property
    def volume_fl(self) -> float:
        """Volume of the base times the mean of (1 + bump)^3, weighted by the base's r^3 over the sphere."""
        directions = fibonacci_directions(DIRECTIONS)
        radius = _radii(self.base, directions)
        cubes = radius**3
        bumped = cubes * (1 + self._bump(*directions.T)) ** 3
        return self.base.volume_fl * float(bumped.sum() / cubes.sum())

    def scaled(self, volume_fl: float) -> Self:
        """The same proportions at another volume."""
        return replace(self, base=self.base.grown((volume_fl / self.volume_fl) ** (1 / 3)))

    @property
    def half_extent_um(self) -> tuple[float, float, float]:
        """See :class:`hemolens.optics.cells.solids.Solid`."""
        grown = 1 + float(np.max(self.heights, initial=0.0))
        x, y, z = self.base.half_extent_um
        return x * grown, y * grown, z * grown

    def level(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Level of the base at the point drawn back by the bump in its direction."""
        x, y, z = np.broadcast_arrays(x, y, z)
        length = np.sqrt(x * x + y * y + z * z)
        away = np.maximum(length, 1e-9)
        shrink = 1 / (1 + self._bump(x / away, y / away, z / away))
        return self.base.level(x * shrink, y * shrink, z * shrink)

    def _bump(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        highest = np.zeros_like(x)
        for (cx, cy, cz), height in zip(self.directions, self.heights, strict=True):
            cosine = x * float(cx) + y * float(cy) + z * float(cz)
            # 2 (1 - cos) is the squared angle near the spicule, and needs no arc cosine; far away both are nothing
            highest = np.maximum(highest, float(height) * np.exp((cosine - 1) / self.width_rad**2))
        return highest


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """A sphere with an ellipsoidal bite: stomatocyte.

    Args:
        radius_um: of the sphere.
        bite_um: semi-axes of the ellipsoid taken away, (x, y, z): x over y is the mouth's elongation.
        offset_um: height of the bite's centre above that of the sphere.
    """

    radius_um: float
    bite_um: tuple[float, float, float]
    offset_um: float

    def scaled(self, volume_fl: float) -> Self:
        """The same proportions at another volume."""
        factor = (volume_fl / self.volume_fl) ** (1 / 3)
        a, b, c = (axis * factor for axis in self.bite_um)
        return replace(self, radius_um=self.radius_um * factor, bite_um=(a, b, c), offset_um=self.offset_um * factor)

    @cached_property
    def volume_fl(self) -> float:
        """The sphere's less the bite's share of it: discs of the sphere cut by ellipses, integrated along z."""
        node, weight = np.polynomial.legendre.leggauss(64)
        radius, (a, b, c) = self.radius_um, self.bite_um
        low, high = max(-radius, self.offset_um - c), min(radius, self.offset_um + c)
        if low >= high:
            return 4 / 3 * math.pi * radius**3
        z = (low + high) / 2 + node * (high - low) / 2
        inner = np.sqrt(np.maximum(1 - ((z - self.offset_um) / c) ** 2, 0))
        outer = np.sqrt(np.maximum(radius**2 - z**2, 0))
        phi = (np.arange(512) + 0.5) * (math.pi / 1024)  # a quarter turn
        ellipse = 1 / np.sqrt((np.cos(phi) / a) ** 2 + (np.sin(phi) / b) ** 2)
        reach = np.minimum(ellipse[None] * inner[:, None], outer[:, None])
        area = 2 * math.pi * (reach**2).mean(1) / 2
        return float(4 / 3 * math.pi * radius**3 - (area * weight).sum() * (high - low) / 2)

    @property
    def half_extent_um(self) -> tuple[float, float, float]:
        """See :class:`hemolens.optics.cells.solids.Solid`."""
        return (self.radius_um,) * 3

    def level(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """The lower of the two levels, both near um."""
        ball = self.radius_um - np.sqrt(x * x + y * y + z * z)
        a, b, c = self.bite_um
        bite = np.sqrt((x / a) ** 2 + (y / b) ** 2 + ((z - self.offset_um) / c) ** 2) - 1
        return np.minimum(ball, bite * (a * b * c) ** (1 / 3))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What half-spaces leave of a disc: fragments and helmets.

    Args:
        base: the whole cell.
        normals: outward unit vectors in the plane of the cell, float [K, 2].
        offsets_um: distance of each cut from the centre, float [K].
    """

    base: Disc
    normals: FloatArray
    offsets_um: FloatArray

    @cached_property
    def volume_fl(self) -> float:
        """By the occupancy of a grid; the cuts leave no closed form."""
        return numeric_volume(self)

    @property
    def half_extent_um(self) -> tuple[float, float, float]:
        """See :class:`hemolens.optics.cells.solids.Solid`."""
        return self.base.half_extent_um

    def scaled(self, volume_fl: float) -> Self:
        """The same proportions at another volume."""
        factor = (volume_fl / self.volume_fl) ** (1 / 3)
        return replace(self, base=self.base.grown(factor), offsets_um=np.asarray(self.offsets_um) * factor)

    def level(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """The lowest of the base's level and the distances from the cuts (um)."""
        level = self.base.level(x, y, z)
        for (nx, ny), offset in zip(self.normals, self.offsets_um, strict=True):
            level = np.minimum(level, float(offset) - float(nx) * x - float(ny) * y)
        return level


@dataclass(frozen=True, kw_only=True)
class Lobes:
    """Overlapping ellipsoids as one body: bent or lobed nuclei.

    Args:
        semi_axes_um: float [K, 3].
        centers_um: float [K, 3].
        axes: orthogonal matrices whose columns are the ellipsoids' axes, float [K, 3, 3].
    """

    semi_axes_um: FloatArray
    centers_um: FloatArray
    axes: FloatArray

    @cached_property
    def volume_fl(self) -> float:
        """By the occupancy of a grid; shared parts count once."""
        return numeric_volume(self)

    @property
    def half_extent_um(self) -> tuple[float, float, float]:
        """See :class:`hemolens.optics.cells.solids.Solid`; a box around all parts, centred on the origin."""
        reach = np.sqrt(((self.axes * self.semi_axes_um[:, None, :]) ** 2).sum(2))
        x, y, z = (np.abs(self.centers_um) + reach).max(0)
        return float(x), float(y), float(z)

    def level(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """The highest level of a part."""
        highest = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), -np.inf, np.result_type(x, y, z))
        for semi_axes, center, axes in zip(self.semi_axes_um, self.centers_um, self.axes, strict=True):
            (cx, cy, cz), turned = center.tolist(), (axes / semi_axes).T.tolist()
            px, py, pz = x - cx, y - cy, z - cz
            squares = sum((row[0] * px + row[1] * py + row[2] * pz) ** 2 for row in turned)
            highest = np.maximum(highest, 1 - np.sqrt(squares))
        return highest


def fibonacci_directions(count: int) -> FloatArray:
    """Unit vectors spread evenly over the sphere, float64 [count, 3] (the golden-angle lattice)."""
    index = np.arange(count) + 0.5
    z = 1 - 2 * index / count
    ring = np.sqrt(1 - z * z)
    phi = math.pi * (1 + math.sqrt(5)) * index
    return np.stack([ring * np.cos(phi), ring * np.sin(phi), z], axis=1)


def _radii(solid: Disc | Ellipsoid, directions: FloatArray) -> FloatArray:
    """Distance [N] from the centre to the surface along unit vectors [N, 3], by bisection (star-shaped bodies)."""
    low, high = np.zeros(len(directions)), np.full(len(directions), 1.01 * float(np.linalg.norm(solid.half_extent_um)))
    x, y, z = directions.T
    for _ in range(40):
        middle = (low + high) / 2
        inside = solid.level(x * middle, y * middle, z * middle) > 0
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return low
