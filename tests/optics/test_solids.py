"""Three-dimensional bodies: volumes and areas against closed forms, and the voxels filled from them."""

import math

import numpy as np
import pytest

from hemolens.errors import UserError
from hemolens.optics.cells.cell import Pose
from hemolens.optics.cells.composed import Bowl, Cut, Spiculated, fibonacci_directions
from hemolens.optics.cells.solids import (
    Disc,
    Ellipsoid,
    KuchelDisc,
    Solid,
    numeric_volume,
    occupancy,
    surface_area,
)

SPICULES = fibonacci_directions(30)


def spiculated(volume_fl: float, count: int, height: float, width: float) -> Spiculated:
    bumps = {"directions": fibonacci_directions(count), "heights": np.full(count, height), "width_rad": width}
    unit = Spiculated(base=Ellipsoid.ball(1.0), **bumps)  # type: ignore[arg-type]
    return Spiculated(base=Ellipsoid.ball(volume_fl / unit.volume_fl), **bumps)  # type: ignore[arg-type]


SOLIDS: dict[str, Solid] = {
    "discocyte": Disc.from_volume(90),
    "elliptocyte": Disc.from_volume(90, axis_ratio=1.6),
    "teardrop": Disc.from_volume(80, tail=0.6),
    "crenated disc": Disc.from_volume(90, crenation=0.06, crenations=14),
    "folded": Disc.from_volume(90, bend_per_um=0.06),
    "Kuchel disc": KuchelDisc(diameter_um=8, dimple_um=1, thickness_um=2.12),
    "target": KuchelDisc(diameter_um=8, dimple_um=1, thickness_um=2.12, bump_um=0.9),
    "spherocyte": Ellipsoid.ball(85),
    "platelet": Ellipsoid(semi_axes_um=(1.4, 1.4, 0.8)),
    "echinocyte II": Spiculated(
        base=Disc.from_volume(80, thickness_factor=1.6), directions=SPICULES, heights=np.full(30, 0.12), width_rad=0.2
    ),
    "echinocyte III": spiculated(90, 30, 0.18, 0.2),
    "sphero-echinocyte": spiculated(85, 40, 0.04, 0.16),
    "stomatocyte": Bowl(radius_um=3.05, bite_um=(2.2, 1.2, 1.8), offset_um=2.4),
    "helmet": Cut(base=Disc(radius_um=3.6), normals=np.array([[1.0, 0.0]]), offsets_um=np.array([0.8])),
}


def filled(solid: Solid, tilt_deg: float, step: tuple[float, float, float], seed: int = 0) -> float:
    """Volume of the voxels (z, y, x steps in um) at a pose and a place between voxels drawn at random."""
    rng = np.random.default_rng(seed)
    reach = math.hypot(*solid.half_extent_um) + 3 * max(step)
    z, y, x = (np.arange(-reach, reach, s) + s * rng.uniform() for s in step)
    turn = Pose(0, 0, math.radians(tilt_deg), *rng.uniform(0, 2 * math.pi, 2)).rotation.T
    grid = np.meshgrid(z, y, x, indexing="ij")
    place = [turn[i, 0] * grid[2] + turn[i, 1] * grid[1] + turn[i, 2] * grid[0] for i in range(3)]
    return float(occupancy(solid.level(*place)).sum()) * math.prod(step)


def test_evans_fung_has_the_published_size() -> None:
    disc = Disc(radius_um=3.91)
    assert disc.volume_fl == pytest.approx(94.09, abs=0.01)
    assert surface_area(disc) == pytest.approx(134.1, rel=0.005)
    z = np.linspace(0, 2, 20001)
    thickness = [2 * z[disc.level(np.array(r), np.array(0.0), z) > 0].max() for r in (0.0, 2.737)]
    assert thickness == pytest.approx([0.810, 2.566], abs=2e-3)


def test_kuchel_disc_has_its_three_lengths() -> None:
    disc = KuchelDisc(diameter_um=8, dimple_um=1, thickness_um=2.12)
    assert disc.volume_fl == pytest.approx(85.99, abs=0.01)
    assert surface_area(disc) == pytest.approx(128.03, rel=0.005)
    r, z = np.meshgrid(np.linspace(0, 4, 801), np.linspace(0, 2, 4001))
    inside = disc.level(r, np.zeros_like(r), z) > 0
    half = np.where(inside, z, 0).max(0)
    assert 2 * half[0] == pytest.approx(1.0, abs=2e-3)
    assert 2 * half.max() == pytest.approx(2.12, abs=2e-3)
    with pytest.raises(UserError, match="dimple < thickness < diameter"):
        KuchelDisc(diameter_um=8, dimple_um=3, thickness_um=2.12)


def test_sphere_and_its_bumps() -> None:
    ball = Ellipsoid.ball(90)
    assert ball.semi_axes_um[0] == pytest.approx(2.78, abs=0.01)
    assert surface_area(ball) == pytest.approx(97.1, rel=0.002)
    # radii of echinocytes of 90 fL: base and tips
    for count, height, width, base, tip in ((30, 0.18, 0.20, 2.56, 3.02), (40, 0.22, 0.16, 2.53, 3.09)):
        cell = spiculated(90, count, height, width)
        assert cell.volume_fl == pytest.approx(90, rel=1e-3)
        assert cell.base.half_extent_um[0] == pytest.approx(base, abs=0.01)
        assert cell.half_extent_um[0] == pytest.approx(tip, abs=0.01)


def test_binary_phantom() -> None:
    """Voxels of 0.05 um that are in or out."""
    axis = (np.arange(120) + 0.5) * 0.05 - 3.0
    ball = Ellipsoid(semi_axes_um=(2.8,) * 3)
    inside = ball.level(axis[None, None], axis[None, :, None], axis[:, None, None]) > 0
    assert inside.sum() * 0.05**3 == pytest.approx(4 / 3 * math.pi * 2.8**3, rel=0.01)


@pytest.mark.parametrize(("radius", "bite", "offset", "volume"), [(3.05, 1.8, 2.4, 102.9), (3.3, 2.6, 2.4, 107.0)])
def test_bowl_equals_sphere_less_lens(radius: float, bite: float, offset: float, volume: float) -> None:
    bowl = Bowl(radius_um=radius, bite_um=(bite,) * 3, offset_um=offset)
    d, r = offset, bite  # volume of the lens of two balls at distance d
    lens = math.pi * (radius + r - d) ** 2 * (d * d + 2 * d * (r + radius) - 3 * (r - radius) ** 2) / (12 * d)
    assert bowl.volume_fl == pytest.approx(4 / 3 * math.pi * radius**3 - lens, rel=1e-4)
    assert bowl.volume_fl == pytest.approx(volume, abs=0.1)
    assert bowl.scaled(90).volume_fl == pytest.approx(90, rel=1e-6)


def test_half_a_disc_is_half() -> None:
    half = Cut(base=Disc(radius_um=3.91), normals=np.array([[0.6, 0.8]]), offsets_um=np.array([0.0]))
    assert half.volume_fl == pytest.approx(94.09 / 2, rel=1e-3)
    assert half.scaled(60).volume_fl == pytest.approx(60, rel=1e-3)


@pytest.mark.parametrize("name", SOLIDS)
def test_stated_volume_is_that_of_the_level_set(name: str) -> None:
    solid = SOLIDS[name]
    assert numeric_volume(solid, 120) == pytest.approx(solid.volume_fl, rel=1e-3)
    x, y, z = (np.linspace(-h, h, 61) * 1.2 for h in solid.half_extent_um)
    inside = solid.level(x[None, None], y[None, :, None], z[:, None, None]) > 0
    for axis, (values, half) in enumerate(zip((z, y, x), solid.half_extent_um[::-1], strict=True)):
        reach = np.abs(values[inside.any(tuple(i for i in range(3) if i != axis))]).max()
        assert reach <= half * (1 + 1e-9)  # the box holds the body


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("tilt", [0, 45, 90])
def test_voxels_hold_the_volume_at_every_pose(name: str, tilt: float) -> None:
    """Paper A's voxel, cut in three along z: volume, and so hemoglobin, within 0.5 %."""
    solid = SOLIDS[name]
    tolerance = 0.005 if solid.volume_fl > 20 else 0.015  # a platelet is ten voxels wide
    assert filled(solid, tilt, (0.731 / 3, 0.162, 0.162)) == pytest.approx(solid.volume_fl, rel=tolerance)


def test_occupancy_of_a_slab_is_exact() -> None:
    z = np.arange(20.0)[:, None, None] * 0.25
    slab = np.broadcast_to(1.03 - np.abs(z - 2.4), (20, 4, 4))
    assert occupancy(slab)[:, 1, 1].sum() * 0.25 == pytest.approx(2.06, abs=1e-9)
    assert occupancy(np.full((3, 3, 3), 0.1)).min() == 1
    assert occupancy(np.full((3, 3, 3), -0.1)).max() == 0
