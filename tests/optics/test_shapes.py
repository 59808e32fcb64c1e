"""Bodies against closed forms and against counting voxels."""

import math

import numpy as np
import pytest
from scipy import integrate

from hemolens.errors import UserError
from hemolens.optics.cells import BiconcaveDisc, Cell, Component, Ellipsoid, EllipsoidUnion, Pose, project

PIXEL = 0.162
ANGLES = [(0, 0, 0), (8, 30, 70), (25, 200, 10), (45, 90, 45), (70, 310, 0), (90, 0, 90), (90, 120, 20)]


def poses() -> list[Pose]:
    return [Pose(9.03, 8.94, *(math.radians(a) for a in angles)) for angles in ANGLES]


def one_body(shape: BiconcaveDisc | Ellipsoid | EllipsoidUnion, delta_n: float = 1.0) -> Cell:
    return Cell("RBC", "body", 0.0, 0.0, (Component(shape, delta_n),))


def evans_fung_literal(r: float, radius: float = 3.91) -> float:
    """Full thickness in um at distance r, from the constants of the 1972 paper at R = 3.91 um."""
    q = (r / radius) ** 2
    return radius * math.sqrt(1 - q) * (0.207161 + 2.002558 * q - 1.122762 * q * q)


def disc_voxels(disc: BiconcaveDisc, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    a, b = disc.semi_axes_um
    q = np.minimum((x / a) ** 2 + (y / b) ** 2, 1)
    half = disc.thickness_factor * disc.radius_um / 2
    half = half * np.sqrt(1 - q) * (0.207161 + 2.002558 * q - 1.122762 * q * q)
    return np.abs(z) < half


def test_evans_fung_volume_in_closed_form() -> None:
    numeric, _ = integrate.quad(lambda r: 2 * math.pi * r * evans_fung_literal(r), 0, 3.91)
    disc = BiconcaveDisc(3.91)
    assert disc.volume_fl == pytest.approx(numeric, rel=1e-6)
    assert disc.volume_fl == pytest.approx(94.09, abs=0.01)
    assert disc.volume_fl == pytest.approx(1.5740487 * 3.91**3, rel=1e-6)


def test_evans_fung_profile() -> None:
    disc = BiconcaveDisc(3.91)
    radii = np.linspace(0, 3.91, 2001)
    thickness = 2 * disc.half_thickness_um((radii / 3.91) ** 2)
    assert thickness[0] == pytest.approx(0.810, abs=5e-4)
    assert thickness.max() == pytest.approx(2.566, abs=1e-3)
    assert radii[thickness.argmax()] == pytest.approx(2.737, abs=5e-3)
    assert thickness[700] == pytest.approx(evans_fung_literal(float(radii[700])), rel=1e-9)
    assert disc.half_height_um >= thickness.max() / 2


def test_disc_of_a_volume() -> None:
    disc = BiconcaveDisc.from_volume(87.0, thickness_factor=1.1, axis_ratio=1.7)
    assert disc.volume_fl == pytest.approx(87.0, rel=1e-12)
    assert disc.semi_axes_um[0] / disc.semi_axes_um[1] == pytest.approx(1.7)
    assert math.prod(disc.semi_axes_um) == pytest.approx(disc.radius_um**2)
    for bad in ({"volume_fl": 0.0}, {"volume_fl": 90.0, "axis_ratio": 0.9}):
        with pytest.raises(UserError, match="axis ratio"):
            BiconcaveDisc.from_volume(**bad)


@pytest.mark.parametrize("axis_ratio", [1.0, 1.15, 2.2])
@pytest.mark.parametrize("pose", poses(), ids=str)
def test_projected_volume_of_discs(pose: Pose, axis_ratio: float) -> None:
    disc = BiconcaveDisc.from_volume(94.0, axis_ratio=axis_ratio)
    view = project(one_body(disc), pose, pixel_um=PIXEL)
    assert view.thickness_um.sum(dtype=float) * PIXEL**2 == pytest.approx(94.0, rel=0.005)


@pytest.mark.parametrize("pose", poses(), ids=str)
def test_projected_volume_of_ellipsoids(pose: Pose) -> None:
    for axes in ((1.4, 1.4, 0.6), (5.0, 4.5, 6.0)):
        body = Ellipsoid(axes)
        view = project(one_body(body), pose, pixel_um=PIXEL)
        assert view.thickness_um.sum(dtype=float) * PIXEL**2 == pytest.approx(body.volume_fl, rel=0.005)


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, 75, 30), (60, 160, 10), (90, 40, 0)])
def test_chords_of_a_disc_against_voxels(angles: tuple[int, int, int]) -> None:
    disc = BiconcaveDisc.from_volume(90.0, axis_ratio=1.4)
    rotation = Pose(0, 0, *(math.radians(a) for a in angles)).rotation
    grid = np.linspace(-4.9, 4.9, 25)
    x, y = (part.ravel() for part in np.meshgrid(grid, grid))
    z = (np.arange(1200) + 0.5) * 0.01 - 6
    lab = np.stack(np.broadcast_arrays(x[:, None], y[:, None], z[None, :]))
    literal = disc_voxels(disc, *np.einsum("ij,jnk->ink", rotation.T, lab)).sum(1) * 0.01
    points = rotation.T @ np.stack([x, y, np.zeros_like(x)])
    chords = disc.chord_um(points, rotation.T[:, 2])
    assert np.abs(chords - literal).mean() < 0.01
    assert np.abs(chords - literal).max() < 0.15  # where a ray grazes the rim


def test_chords_of_a_ball() -> None:
    x = np.linspace(-3, 3, 61)
    points = np.stack([x, np.zeros_like(x), np.full_like(x, 7.0)])
    expected = 2 * np.sqrt(np.maximum(2.5**2 - (x - 0.3) ** 2, 0))
    ball = Ellipsoid((2.5, 2.5, 2.5), (0.3, 0.0, 0.0))
    assert ball.chord_um(points, np.array([0.0, 0.0, 1.0])) == pytest.approx(expected, abs=1e-7)


def test_union_counts_shared_length_once() -> None:
    turn = Pose(0, 0, 0.4, 1.1, 0.2).rotation
    parts = (
        Ellipsoid((1.5, 1.0, 0.8), (0.0, 0.0, 0.0), turn),
        Ellipsoid((1.0, 1.0, 1.0), (0.9, 0.2, 0.3)),
        Ellipsoid((0.4, 0.4, 0.4), (-3.0, 0.0, 0.0)),
        Ellipsoid((0.3, 0.3, 0.3), (0.0, 0.0, 0.0)),  # wholly inside the first
    )
    grid = np.linspace(-3.5, 2.5, 31)
    x, y = (part.ravel() for part in np.meshgrid(grid, grid))
    z = (np.arange(800) + 0.5) * 0.005 - 2
    inside = np.zeros((x.size, z.size), bool)
    for part in parts:
        offset = np.stack(np.broadcast_arrays(x[:, None], y[:, None], z[None, :]), -1) - part.center_um
        inside |= (((offset @ part.axes) / part.semi_axes_um) ** 2).sum(-1) < 1
    points = np.stack([x, y, np.zeros_like(x)])
    chords = EllipsoidUnion(parts).chord_um(points, np.array([0.0, 0.0, 1.0]))
    assert chords == pytest.approx(inside.sum(1) * 0.005, abs=0.021)
    assert EllipsoidUnion(parts).contains(np.array([1.5, 0.2, 0.3]))
    assert not EllipsoidUnion(parts).contains(np.array([-2.0, 0.0, 0.0]))


@pytest.mark.parametrize("pose", poses(), ids=str)
def test_extents_hold_the_body(pose: Pose) -> None:
    rng = np.random.default_rng(0)
    parts = tuple(
        Ellipsoid(tuple(rng.uniform(0.3, 1.5, 3)), tuple(rng.normal(size=3)), pose.rotation) for _ in range(3)
    )
    for shape in (BiconcaveDisc(3.9, 1.2, 1.5), parts[0], EllipsoidUnion(parts)):
        row = pose.rotation[0]
        center = float(row @ np.asarray(shape.center_um))
        reach = shape.half_extent_um(row)
        # Lines in the plane just outside the extent along the image's x axis miss the body.
        for side in (-1, 1):
            offsets = np.linspace(-9, 9, 181)
            lab = np.stack([np.full_like(offsets, center + side * (reach + 1e-3)), offsets, np.zeros_like(offsets)])
            assert shape.chord_um(pose.rotation.T @ lab, pose.rotation.T[:, 2]).max() < 1e-6
