"""Red cells by kind: what shape an irregularity makes of a volume.

Kinds of poikilocytes are the clinical ones; how far each shape goes at irregularity 1 is a choice, kept here in one
table of constants. Teardrops, targets, fragments, crenated and folded cells grow with the root of the irregularity, so
that near the class border they are as visible as an ellipse of 1.15 (choice). Echinocyte stages follow Bessis: I a
crenated disc, II a disc with bumps, III a sphere with 25 to 50 spicules (Mukhopadhyay 2002), then the
sphero-echinocyte with low bumps.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hemolens.errors import UserError
from hemolens.optics.cells.composed import Bowl, Cut, Spiculated, fibonacci_directions
from hemolens.optics.cells.settings import RED_KINDS
from hemolens.optics.cells.solids import Disc, Ellipsoid, KuchelDisc, Solid

Rng = np.random.Generator

LENGTH_OVER_WIDTH = 2.2  # of an elliptocyte
TAIL = 0.9  # of a teardrop, in radii
KUCHEL_DISC = KuchelDisc(diameter_um=8.0, dimple_um=1.0, thickness_um=2.12)  # 86.0 fL, Kuchel and Fackerell 1999
TARGET_BUMP_UM = 1.6  # thickness that the middle of a target cell gains
TARGET_DISC = KuchelDisc(diameter_um=10.0, dimple_um=0.4, thickness_um=2.0, bump_sigma_um=0.6)  # thin and wide; scaled
CUT_AWAY = 0.6  # of a fragment, of the radius: about 65 % of the volume with two cuts
CRENATION = 0.08  # of a crenated disc, of the radius
BEND_PER_UM = 0.10  # of a folded cell
FLAT_ASPECT = 0.4  # of a spheroid at irregularity 0: thickness over diameter
MOUTH_ASPECT = (0.8, 0.3)  # of a stomatocyte at irregularity 0 and 1: width over length
SPICULE_HEIGHT = {"echinocyte_2": 0.12, "echinocyte_3": 0.22, "sphero_echinocyte": 0.05}
SPICULE_WIDTH_RAD = (0.16, 0.20)
SPICULES = (25, 50)


def red_solid(
    rng: Rng, kind: str, volume_fl: float, *, irregularity: float = 0.5, thickness_factor: float = 1.0
) -> Solid:
    """A red cell's surface.

    Args:
        rng: source of what the kind leaves open: numbers and places of spicules, cuts.
        kind: one of ``settings.RED_KINDS``.
        volume_fl: volume of the body (exact where it has a closed form, else to about 0.1 %).
        irregularity: 0 to 1.
        thickness_factor: of the Evans-Fung profile, for kinds made from it.

    Raises:
        UserError: an unknown kind.
    """
    if kind not in _MAKERS:
        raise UserError(f"no red cell is called {kind}: choose from {', '.join(RED_KINDS)}")
    return _MAKERS[kind](rng, volume_fl, irregularity, thickness_factor)


def _elongated(rng: Rng, volume: float, u: float, s: float) -> Solid:
    return Disc.from_volume(volume, thickness_factor=s, axis_ratio=1 + u * (LENGTH_OVER_WIDTH - 1))


def _kuchel_disc(rng: Rng, volume: float, u: float, s: float) -> Solid:
    thick = replace(KUCHEL_DISC, dimple_um=KUCHEL_DISC.dimple_um * s, thickness_um=KUCHEL_DISC.thickness_um * s)
    return thick.scaled(volume)


def _teardrop(rng: Rng, volume: float, u: float, s: float) -> Solid:
    return Disc.from_volume(volume, thickness_factor=s, tail=TAIL * math.sqrt(u))


def _target(rng: Rng, volume: float, u: float, s: float) -> Solid:
    return replace(TARGET_DISC, bump_um=TARGET_BUMP_UM * math.sqrt(u)).scaled(volume)


def _fragment(rng: Rng, volume: float, u: float, s: float) -> Solid:
    base = Disc.from_volume(volume, thickness_factor=s)
    count = int(rng.integers(1, 3))
    angles = rng.uniform(0, 2 * math.pi) + np.arange(count) * rng.uniform(1.6, 2.6)
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Cut(
        base=base, normals=normals, offsets_um=np.full(count, base.radius_um * (1 - CUT_AWAY * math.sqrt(u)))
    ).scaled(volume)


def _crenated(rng: Rng, volume: float, u: float, s: float) -> Solid:
    bumps = int(rng.integers(10, 21))
    return Disc.from_volume(volume, thickness_factor=s, crenations=bumps, crenation=CRENATION * math.sqrt(u))


def _folded(rng: Rng, volume: float, u: float, s: float) -> Solid:
    return Disc.from_volume(volume, thickness_factor=s, bend_per_um=BEND_PER_UM * math.sqrt(u))


def _spheroid(rng: Rng, volume: float, u: float, s: float) -> Solid:
    aspect = FLAT_ASPECT + u * (1 - FLAT_ASPECT)
    radius = (0.75 * volume / (math.pi * aspect)) ** (1 / 3)
    return Ellipsoid(semi_axes_um=(radius, radius, radius * aspect))


def _stomatocyte(rng: Rng, volume: float, u: float, s: float) -> Solid:
    aspect = MOUTH_ASPECT[0] + u * (MOUTH_ASPECT[1] - MOUTH_ASPECT[0])
    stretch = math.sqrt(aspect)
    return Bowl(radius_um=3.05, bite_um=(1.8 / stretch, 1.8 * stretch, 1.8), offset_um=2.4).scaled(volume)


def _echinocyte_2(rng: Rng, volume: float, u: float, s: float) -> Solid:
    return _spiculated(rng, Disc.from_volume(volume, thickness_factor=1.5 * s), volume, "echinocyte_2", u)


def _echinocyte_3(rng: Rng, volume: float, u: float, s: float) -> Solid:
    return _spiculated(rng, Ellipsoid.ball(volume), volume, "echinocyte_3", u)


def _sphero_echinocyte(rng: Rng, volume: float, u: float, s: float) -> Solid:
    return _spiculated(rng, Ellipsoid.ball(volume), volume, "sphero_echinocyte", u)


def _spiculated(rng: Rng, base: Disc | Ellipsoid, volume: float, kind: str, u: float) -> Spiculated:
    count = int(rng.integers(SPICULES[0], SPICULES[1] + 1))
    height = SPICULE_HEIGHT[kind] * (0.4 + 0.6 * u)
    heights = height * rng.uniform(0.8, 1.2, size=count)
    width = float(rng.uniform(*SPICULE_WIDTH_RAD))
    solid = Spiculated(base=base, directions=fibonacci_directions(count), heights=heights, width_rad=width)
    return solid.scaled(volume)


_MAKERS: dict[str, Callable[[Rng, float, float, float], Solid]] = {
    "discocyte": _elongated,
    "elliptocyte": _elongated,
    "teardrop": _teardrop,
    "target": _target,
    "fragment": _fragment,
    "crenated": _crenated,
    "folded": _folded,
    "spherocyte": _spheroid,
    "stomatocyte": _stomatocyte,
    "echinocyte_1": _crenated,
    "echinocyte_2": _echinocyte_2,
    "echinocyte_3": _echinocyte_3,
    "sphero_echinocyte": _sphero_echinocyte,
    "kuchel_disc": _kuchel_disc,
}
