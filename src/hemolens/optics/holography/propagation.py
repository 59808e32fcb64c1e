"""Scalar diffraction between planes, and the search for the plane in focus. Goodman, Introduction to Fourier Optics."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemolens.errors import UserError
from hemolens.optics.holography.arrays import Array, as_tensor, frequencies, like, positive_number

log = logging.getLogger(__name__)

KERNELS = ("angular_spectrum", "fresnel")
#: Smaller is sharper; see :func:`autofocus`.
METRICS = ("amplitude_variance", "amplitude_gradient")


def refocus(
    field: Array,
    distance_um: float | Sequence[float],
    *,
    wavelength_um: float,
    pixel_um: float,
    medium_index: float = 1.334,
    kernel: str = "angular_spectrum",
    padding_px: int = 0,
) -> Array:
    """A field as it is ``distance_um`` further along +z, the direction of the light.

    ``angular_spectrum`` multiplies the spectrum by exp(i d (sqrt(k^2 - k_x^2 - k_y^2) - k)), k = 2 pi n / wavelength,
    and leaves out evanescent waves; the phase of the undisturbed wave stays as it is. ``fresnel`` takes
    -(k_x^2 + k_y^2) / 2k for the root less k, good near the axis only (paper B names it).

    Args:
        field: complex [..., H, W].
        distance_um: positive along +z; to undo a propagation give its negative. Several at once share a transform.
        wavelength_um: in vacuum.
        pixel_um: side of a pixel in the object's space.
        medium_index: refractive index between the planes.
        kernel: ``angular_spectrum`` or ``fresnel``.
        padding_px: rows and columns to add on each side first, with the border's values, so that what leaves the
            field does not come in at the other side; the result has the field's size.

    Returns:
        Complex [..., H, W] of the field's kind and precision; [K, ..., H, W] for K distances.

    Raises:
        UserError: an unknown kernel, a length that is not positive, or no complex field.
    """
    values = as_tensor(field, "field", complex_values=True)
    padded = _padded(values, padding_px)
    optics = _Propagation(wavelength_um, pixel_um, medium_index, kernel).on(padded)
    spectrum = torch.fft.fft2(padded)
    if isinstance(distance_um, Sequence):
        moved = torch.stack([torch.fft.ifft2(spectrum * optics.transfer(distance)) for distance in distance_um])
    else:
        moved = torch.fft.ifft2(spectrum * optics.transfer(float(distance_um)))
    if padding_px:
        moved = moved[..., padding_px:-padding_px, padding_px:-padding_px]
    return like(moved, field)


@dataclass(frozen=True)
class _Propagation:
    wavelength_um: float
    pixel_um: float
    medium_index: float
    kernel: str

    def __post_init__(self) -> None:
        positive_number("wavelength_um", self.wavelength_um, "the vacuum wavelength")
        positive_number("pixel_um", self.pixel_um, "the side of a pixel in the object's space")
        positive_number("medium_index", self.medium_index, "the medium's refractive index")
        if self.kernel not in KERNELS:
            raise UserError(f"kernel={self.kernel}: choose from {', '.join(KERNELS)}")

    def on(self, values: Tensor) -> "_Transfer":
        """For fields of the size, device and precision of ``values`` [..., H, W]."""
        k = 2 * math.pi * self.medium_index / self.wavelength_um
        # the four quarters of the plane of frequencies are alike: one is worked out
        steps = [2 * math.pi / self.pixel_um * frequencies(n, values) for n in values.shape[-2:]]
        ky, kx = (step[: len(step) // 2 + 1].abs() for step in steps)
        transverse = ky[:, None] ** 2 + kx[None] ** 2
        passed = torch.ones_like(transverse)
        if self.kernel == "fresnel":
            phase = transverse * (-1 / (2 * k))
        else:
            phase = torch.sqrt((k * k - transverse).clamp_min(0)) - k
            passed = (transverse < k * k).to(phase.dtype)
        counts = [torch.arange(len(step), device=step.device) for step in steps]
        rows, columns = (torch.minimum(count, len(count) - count) for count in counts)
        return _Transfer(phase, passed, rows, columns, values.dtype)


@dataclass(frozen=True, eq=False)
class _Transfer:
    """Transfer functions of one size: phase per um and passing waves in a quarter of the frequencies, and which row and
    column of it each frequency has."""

    phase_per_um: Tensor
    passed: Tensor
    rows: Tensor
    columns: Tensor
    dtype: torch.dtype

    def transfer(self, distance_um: float) -> Tensor:
        """[H, W] for a distance."""
        quarter = torch.polar(self.passed, self.phase_per_um * distance_um).to(self.dtype)
        return quarter[self.rows][:, self.columns]


def _padded(values: Tensor, padding_px: int) -> Tensor:
    if padding_px < 0:
        raise UserError(f"padding_px={padding_px}: must not be negative")
    if not padding_px:
        return values
    planes = torch.view_as_real(values.reshape(-1, *values.shape[-2:])).movedim(-1, 1)
    wide = torch.nn.functional.pad(planes, (padding_px,) * 4, mode="replicate")
    whole = torch.view_as_complex(wide.movedim(1, -1).contiguous())
    return whole.reshape(*values.shape[:-2], *whole.shape[-2:])


@dataclass(frozen=True)
class Focus:
    """What :func:`autofocus` found.

    Attributes:
        distance_um: by which to :func:`refocus`.
        distances_um: that were tried, ascending, float64 [K].
        scores: of each, smaller is sharper, float64 [K].
    """

    distance_um: float
    distances_um: NDArray[np.float64]
    scores: NDArray[np.float64]


def autofocus(
    field: NDArray[np.complexfloating] | Tensor,
    interval_um: Sequence[float],
    *,
    wavelength_um: float,
    pixel_um: float,
    medium_index: float = 1.334,
    metric: str = "amplitude_variance",
    step_um: float = 1.0,
) -> Focus:
    """Distance to the plane in focus within an interval, by a coarse and two finer searches.

    - ``amplitude_variance``: relative variance of |U|. Transparent objects (cells) have next to no amplitude contrast
      in focus; the default.
    - ``amplitude_gradient``: the mean gradient of |U|, largest in focus for absorbing objects (test targets).

    Args:
        field: complex [H, W], without tilt (``level_field``).
        interval_um: lowest and highest distance to try.
        wavelength_um, pixel_um, medium_index: see :func:`refocus`.
        metric: one of the above.
        step_um: of the coarse search; the result is as fine as a hundredth of it.

    Raises:
        UserError: an unknown metric, no interval, or see :func:`refocus`.
    """
    values = as_tensor(field, "field", complex_values=True)
    if values.ndim != 2:
        raise UserError(f"field has the shape {list(values.shape)}: the focus is sought for one image [H, W]")
    if metric not in METRICS:
        raise UserError(f"metric={metric}: choose from {', '.join(METRICS)}")
    low, high = (float(end) for end in interval_um)
    if not low < high or not step_um > 0:
        raise UserError(f"interval_um={[low, high]}, step_um={step_um}: give [lowest, highest] and a positive step")
    optics = _Propagation(wavelength_um, pixel_um, medium_index, "angular_spectrum")
    transfers = optics.on(values)
    spectrum = torch.fft.fft2(values)

    def score(distance: float) -> float:
        amplitude = torch.fft.ifft2(spectrum * transfers.transfer(distance)).abs()
        inner = _inner(amplitude)
        if metric == "amplitude_variance":
            return float(inner.var() / inner.mean() ** 2)
        slopes = [inner.diff(dim=axis).abs().mean() for axis in (0, 1)]
        return -float((slopes[0] + slopes[1]) / inner.mean())

    tried: dict[float, float] = {}
    start, stop, step = low, high, min(step_um, (high - low) / 4)
    for _ in range(3):
        count = max(round((stop - start) / step) + 1, 2)
        for distance in np.linspace(start, stop, count).tolist():
            if distance not in tried:
                tried[distance] = score(distance)
        best = min(tried, key=tried.__getitem__)
        start, stop, step = max(best - step, low), min(best + step, high), step / 5
    if best in (low, high):
        log.warning("the focus lies at the end of the interval, %.1f um: widen it", best)
    distances = np.array(sorted(tried))
    scores = np.array([tried[distance] for distance in distances.tolist()])
    return Focus(_vertex(distances, scores), distances, scores)


def _inner(image: Tensor) -> Tensor:
    """Without an eighth of the image at each side, where waves from beyond the other side arrive."""
    height, width = image.shape
    return image[height // 8 : height - height // 8, width // 8 : width - width // 8]


def _vertex(places: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """Vertex of the parabola through the lowest score and its neighbours."""
    at = int(scores.argmin())
    if at in (0, len(places) - 1):
        return float(places[at])
    x, y = places[at - 1 : at + 2], scores[at - 1 : at + 2]
    curvature, slope, _ = np.polyfit(x - x[1], y, 2)
    if curvature <= 0:
        return float(x[1])
    return float(np.clip(x[1] - slope / (2 * curvature), x[0], x[2]))
