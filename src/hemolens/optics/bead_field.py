"""Light behind a bead: slices of the sphere one after the other, and the way between them.

A sphere is a lens. Its phase in focus is not its projection: at an index of a tenth above the medium's the sphere looks
some per cent wider (tests/analysis/test_beads.py). The multi-slice model shows this: scalar, without reflections.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from hemolens.errors import UserError

SLICE_UM = 0.1


def bead_field(
    *,
    diameter_um: float,
    contrast: float,
    medium_index: float,
    wavelength_um: float,
    pixel_um: float,
    side_px: int,
) -> NDArray[np.complex128]:
    """The wave behind a homogeneous sphere in the middle of a field, brought back to the plane through its centre.

    Args:
        diameter_um: of the sphere.
        contrast: index of the sphere above the medium's.
        medium_index: of the medium.
        wavelength_um: in vacuum.
        pixel_um: of the grid, the same along both axes.
        side_px: of the grid, which wraps around: leave room beside the sphere.

    Returns:
        complex [side_px, side_px]; 1 where nothing was in the way.

    Raises:
        UserError: the sphere does not fit into the field.
    """
    radius = diameter_um / 2
    if side_px * pixel_um < 1.5 * diameter_um:
        raise UserError(f"side_px={side_px} of {pixel_um} um are too few for a bead of {diameter_um} um")
    frequency = fft.fftfreq(side_px, pixel_um)
    squared = frequency[:, None] ** 2 + frequency**2
    wave = medium_index / wavelength_um
    travelling = squared < wave**2
    axial = 2 * np.pi * (np.sqrt(np.maximum(wave**2 - squared, 0)) - wave)

    def propagated(field: NDArray[np.complex128], distance_um: float) -> NDArray[np.complex128]:
        spectrum = fft.fft2(field) * travelling
        return np.asarray(fft.ifft2(spectrum * np.exp(1j * distance_um * axial)), np.complex128)

    place = (np.arange(side_px) - (side_px - 1) / 2) * pixel_um
    distance = np.hypot(place[:, None], place)
    count = int(np.ceil(diameter_um / SLICE_UM))
    step = diameter_um / count
    field = np.ones((side_px, side_px), np.complex128)
    for height in (np.arange(count) + 0.5) * step - radius:
        inside = np.clip((np.sqrt(radius**2 - height**2) - distance) / pixel_um + 0.5, 0, 1)
        field = propagated(field * np.exp(2j * np.pi / wavelength_um * contrast * step * inside), step)
    return propagated(field, -radius - step / 2)
