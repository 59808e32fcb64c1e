"""White cells: an ellipsoidal body, a nucleus by kind, and granules in the cytoplasm."""

import math
from collections.abc import Callable

import numpy as np

from hemolens.optics.cells.cell import Cell, Component
from hemolens.optics.cells.settings import WhiteCellSettings, draw
from hemolens.optics.cells.shapes import Ellipsoid, EllipsoidUnion


def draw_white_cell(rng: np.random.Generator, settings: WhiteCellSettings) -> Cell:
    """A neutrophil, lymphocyte or monocyte; its volume is that of the body (closed form)."""
    names = list(settings.kind_fractions)
    shares = np.array([settings.kind_fractions[name] for name in names])
    kind = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    diameter, granules = {
        "neutrophil": (settings.neutrophil_diameter_um, settings.neutrophil_granules),
        "lymphocyte": (settings.lymphocyte_diameter_um, settings.lymphocyte_granules),
        "monocyte": (settings.monocyte_diameter_um, settings.monocyte_granules),
    }[kind]
    radius = draw(rng, diameter) / 2
    stretch = math.sqrt(draw(rng, settings.elongation))
    body = Ellipsoid((radius * stretch, radius / stretch, radius))
    nucleus = _NUCLEI[kind](rng, min(body.semi_axes_um))
    components = [
        Component(body, draw(rng, settings.cytoplasm_delta_n)),
        Component(nucleus, draw(rng, settings.nucleus_delta_n)),
    ]
    for shape in _granules(rng, body, nucleus, round(draw(rng, granules)), settings):
        components.append(Component(shape, draw(rng, settings.granule_delta_n)))
    return Cell("WBC", kind, body.volume_fl, 0.0, tuple(components))


def _lymphocyte_nucleus(rng: np.random.Generator, radius: float) -> Ellipsoid:
    """Round, 80 to 90 % of the diameter, slightly off centre."""
    share = rng.uniform(0.8, 0.9)
    return Ellipsoid((radius * share,) * 3, _vector(rng, radius * rng.uniform(0, 0.98 - share)))


def _monocyte_nucleus(rng: np.random.Generator, radius: float) -> EllipsoidUnion:
    """Kidney: balls along an arc about the centre of the cell."""
    ball, arc = radius * rng.uniform(0.32, 0.38), radius * rng.uniform(0.42, 0.52)
    angles = rng.uniform(0, 2 * math.pi) + np.linspace(-1, 1, 7) * rng.uniform(1.1, 1.5)
    parts = (Ellipsoid((ball,) * 3, (arc * math.cos(a), arc * math.sin(a), 0.0)) for a in angles)
    return EllipsoidUnion(tuple(parts))


def _neutrophil_nucleus(rng: np.random.Generator, radius: float) -> EllipsoidUnion:
    """Two to five prolate lobes around the centre."""
    count = int(rng.integers(2, 6))
    start = rng.uniform(0, 2 * math.pi)
    lobes = []
    for index in range(count):
        angle = start + 2 * math.pi * index / max(count, 3) + rng.uniform(-0.2, 0.2)
        half_length = radius * rng.uniform(0.30, 0.36)
        half_width = half_length * rng.uniform(0.6, 0.75)
        away = radius * rng.uniform(0.40, 0.52)
        center = (away * math.cos(angle), away * math.sin(angle), radius * rng.uniform(-0.2, 0.2))
        # Long axis along the circle, so that neighbouring lobes nearly meet.
        c, s = math.cos(angle + math.pi / 2), math.sin(angle + math.pi / 2)
        axes = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        lobes.append(Ellipsoid((half_length, half_width, half_width), center, axes))
    return EllipsoidUnion(tuple(lobes))


_NUCLEI: dict[str, Callable[[np.random.Generator, float], Ellipsoid | EllipsoidUnion]] = {
    "lymphocyte": _lymphocyte_nucleus,
    "monocyte": _monocyte_nucleus,
    "neutrophil": _neutrophil_nucleus,
}


def _granules(
    rng: np.random.Generator,
    body: Ellipsoid,
    nucleus: Ellipsoid | EllipsoidUnion,
    count: int,
    settings: WhiteCellSettings,
) -> list[Ellipsoid]:
    """Balls inside the body and outside the nucleus; fewer than ``count`` where there is no room for them."""
    granules: list[Ellipsoid] = []
    for _ in range(4 * count):
        if len(granules) == count:
            break
        radius = draw(rng, settings.granule_diameter_um) / 2
        inner = np.asarray(body.semi_axes_um) - radius
        place = np.asarray(_vector(rng, rng.uniform() ** (1 / 3))) * inner
        if not nucleus.contains(place):
            granules.append(Ellipsoid((radius,) * 3, (float(place[0]), float(place[1]), float(place[2]))))
    return granules


def _vector(rng: np.random.Generator, length: float) -> tuple[float, float, float]:
    """A vector of the given length in a random direction."""
    direction = rng.normal(size=3)
    x, y, z = direction * (length / np.linalg.norm(direction))
    return float(x), float(y), float(z)
