"""White cells: an ellipsoidal body, a nucleus by kind, and granules in the cytoplasm."""

import math
from collections.abc import Callable

import numpy as np

from hemolens.optics.cells.cell import Cell, Component
from hemolens.optics.cells.composed import Lobes
from hemolens.optics.cells.settings import WhiteCellSettings, draw
from hemolens.optics.cells.solids import Ellipsoid, FloatArray


def draw_white_cell(rng: np.random.Generator, settings: WhiteCellSettings, kind: str | None = None) -> Cell:
    """A neutrophil, lymphocyte or monocyte (drawn if not given); its volume is that of the body (closed form)."""
    if kind is None:
        names = list(_NUCLEI)
        shares = np.array([settings.kind_fractions.get(name, 0.0) for name in names])
        kind = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    diameter, granules = {
        "neutrophil": (settings.neutrophil_diameter_um, settings.neutrophil_granules),
        "lymphocyte": (settings.lymphocyte_diameter_um, settings.lymphocyte_granules),
        "monocyte": (settings.monocyte_diameter_um, settings.monocyte_granules),
    }[kind]
    radius = draw(rng, diameter) / 2
    stretch = math.sqrt(draw(rng, settings.elongation))
    body = Ellipsoid(semi_axes_um=(radius * stretch, radius / stretch, radius))
    nucleus, center = _NUCLEI[kind](rng, min(body.semi_axes_um))
    components = [
        Component(body, draw(rng, settings.cytoplasm_delta_n)),
        Component(nucleus, draw(rng, settings.nucleus_delta_n), center),
    ]
    count = round(draw(rng, granules))
    components += _granules(rng, body, components[1], count, settings)
    return Cell(class_name="WBC", kind=kind, volume_fl=body.volume_fl, components=tuple(components))


def _lymphocyte_nucleus(rng: np.random.Generator, radius: float) -> tuple[Ellipsoid, tuple[float, float, float]]:
    """Round, 80 to 90 % of the diameter, slightly off centre."""
    share = rng.uniform(0.8, 0.9)
    return Ellipsoid(semi_axes_um=(radius * share,) * 3), _vector(rng, radius * rng.uniform(0, 0.98 - share))


def _monocyte_nucleus(rng: np.random.Generator, radius: float) -> tuple[Lobes, tuple[float, float, float]]:
    """Kidney: balls along an arc about the centre of the cell."""
    ball, arc = radius * rng.uniform(0.32, 0.38), radius * rng.uniform(0.42, 0.52)
    angles = rng.uniform(0, 2 * math.pi) + np.linspace(-1, 1, 7) * rng.uniform(1.1, 1.5)
    centers = np.stack([arc * np.cos(angles), arc * np.sin(angles), np.zeros(7)], axis=1)
    balls = Lobes(semi_axes_um=np.full((7, 3), ball), centers_um=centers, axes=np.stack([np.eye(3)] * 7))
    return balls, (0.0, 0.0, 0.0)


def _neutrophil_nucleus(rng: np.random.Generator, radius: float) -> tuple[Lobes, tuple[float, float, float]]:
    """Two to five prolate lobes around the centre."""
    count = int(rng.integers(2, 6))
    start = rng.uniform(0, 2 * math.pi)
    sizes, centers, turns = [], [], []
    for index in range(count):
        angle = start + 2 * math.pi * index / max(count, 3) + rng.uniform(-0.2, 0.2)
        half_length = radius * rng.uniform(0.30, 0.36)
        half_width = half_length * rng.uniform(0.6, 0.75)
        away = radius * rng.uniform(0.40, 0.52)
        sizes.append((half_length, half_width, half_width))
        centers.append((away * math.cos(angle), away * math.sin(angle), radius * rng.uniform(-0.2, 0.2)))
        # Long axis along the circle, so that neighbouring lobes nearly meet.
        c, s = math.cos(angle + math.pi / 2), math.sin(angle + math.pi / 2)
        turns.append([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return Lobes(semi_axes_um=np.array(sizes), centers_um=np.array(centers), axes=np.array(turns)), (0.0, 0.0, 0.0)


_NUCLEI: dict[str, Callable[[np.random.Generator, float], tuple[Ellipsoid | Lobes, tuple[float, float, float]]]] = {
    "lymphocyte": _lymphocyte_nucleus,
    "monocyte": _monocyte_nucleus,
    "neutrophil": _neutrophil_nucleus,
}


def _granules(
    rng: np.random.Generator, body: Ellipsoid, nucleus: Component, count: int, settings: WhiteCellSettings
) -> list[Component]:
    """Balls inside the body and outside the nucleus; fewer than ``count`` where there is no room for them."""
    tries = 4 * count
    radii = np.array([draw(rng, settings.granule_diameter_um) for _ in range(tries)]) / 2
    inner = np.asarray(body.semi_axes_um) - radii[:, None]
    directions = rng.normal(size=(tries, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places = directions * np.cbrt(rng.uniform(size=(tries, 1))) * inner
    x, y, z = (places - np.asarray(nucleus.center_um)).T
    outside = np.flatnonzero(nucleus.solid.level(x, y, z) < 0)[:count]
    return [
        Component(
            Ellipsoid(semi_axes_um=(float(radii[i]),) * 3), draw(rng, settings.granule_delta_n), _as_point(places[i])
        )
        for i in outside
    ]


def _vector(rng: np.random.Generator, length: float) -> tuple[float, float, float]:
    """A vector of the given length in a random direction."""
    direction = rng.normal(size=3)
    return _as_point(direction * (length / np.linalg.norm(direction)))


def _as_point(values: FloatArray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
