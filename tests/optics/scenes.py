"""Phase objects with known truth, for the tests of holography."""

import math
import warnings
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from hemolens.optics.holography import HologramSettings

SETTINGS = (
    HologramSettings()
)  # NA 0.75, 8 bit, 10,000 electrons, carrier (1/3, 1/3), brightest fringe at half of the range
OPTICS = {
    "numerical_aperture": SETTINGS.numerical_aperture,
    "wavelength_um": SETTINGS.wavelength_um,
    "pixel_um": SETTINGS.pixel_um,
}
LENGTHS = {"wavelength_um": SETTINGS.wavelength_um, "pixel_um": SETTINGS.pixel_um}
RADIUS_UM = 3.91


def discs(
    side: int, count: int, *, peak_rad: float = 1.8, spheres: int = 0, sphere_rad: float = 3.4, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.bool_], list[NDArray[np.float64]]]:
    """Evans-Fung discs (and spheres of 5.6 um) on an empty field: phase, where they are, and their centres in um."""
    rng, pixel = np.random.default_rng(seed), SETTINGS.pixel_um
    y, x = np.mgrid[:side, :side] * pixel
    rows = math.ceil(math.sqrt(count))
    pitch = side * pixel / rows
    assert pitch > 8.5, "the discs would overlap"
    places = rng.permutation(rows * rows)[:count]
    centers = [
        (np.array(divmod(int(place), rows)) + 0.5) * pitch + rng.uniform(-0.5, 0.5, 2) * max(pitch - 10, 0)
        for place in places
    ]
    phase, mask = np.zeros((side, side)), np.zeros((side, side), bool)
    for number, (cy, cx) in enumerate(centers):
        squared = (y - cy) ** 2 + (x - cx) ** 2
        if number < spheres:
            own = sphere_rad * np.sqrt(np.maximum(1 - squared / 2.8**2, 0))
        else:
            q = squared / RADIUS_UM**2
            profile = np.sqrt(np.maximum(1 - q, 0)) * (0.207161 + 2.002558 * q - 1.122762 * q * q)
            own = np.where(q < 1, profile, 0)
            own *= peak_rad / own.max()
        phase += own
        mask |= own > 0
    return phase.astype(np.float32), mask, centers


def turns_apart(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    """a - b, less the whole turns by which most of it is off."""
    difference = np.asarray(a, np.float64) - b
    return difference - 2 * np.pi * np.round(np.median(difference) / (2 * np.pi))


def quietly_imported(name: str) -> ModuleType:
    """A library that warns on import of backends that are not installed."""
    import importlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
