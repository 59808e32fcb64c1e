"""Phase of a field of red cells, for the benchmarks of holography."""

import numpy as np
from numpy.typing import NDArray

from hemolens.optics.cells import Pose, red_cell, render
from hemolens.optics.holography import HologramSettings

SETTINGS = HologramSettings()
PITCH_UM = 13.0


def scene(side: int) -> NDArray[np.float32]:
    """Discocytes on a grid, every fourth cell a sphere, phase in rad [side, side]."""
    rng, pixel, step = np.random.default_rng(0), SETTINGS.pixel_um, 0.1
    phase = np.zeros((side, side), np.float32)
    count = int(side * pixel / PITCH_UM)
    for number in range(count * count):
        y, x = (PITCH_UM * (part + 0.5) for part in divmod(number, count))
        kind, irregularity = ("spherocyte", 1.0) if number % 4 == 3 else ("discocyte", 0.0)
        cell = red_cell(rng, kind, 90.0, 34.0, irregularity=irregularity)
        patch = render(cell, Pose(x, y), (step, pixel, pixel))
        own = patch.contrast.sum(0) * (2 * np.pi / SETTINGS.wavelength_um * step)
        phase[patch.top : patch.top + own.shape[0], patch.left : patch.left + own.shape[1]] += own
    return phase
