"""Off-axis holograms to complex fields, by a filter around one side band of the spectrum.

With object wave U and reference wave R exp(2 pi i f r) a camera sees |U|^2 + |R|^2 + 2 Re(U* R exp(2 pi i f r)): the
spectrum holds U around -f and its conjugate twin around +f. Leith and Upatnieks (1962); Cuche, Marquet and Depeursinge
(2000).
"""

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage
from torch import Tensor

from hemolens.errors import UserError
from hemolens.optics.holography.arrays import Array, as_tensor, like, positive_number
from hemolens.optics.holography.background import flattest

log = logging.getLogger(__name__)

LOWEST_CARRIER = 0.06  # cycles/px: what lies nearer to the zero order is taken for a part of it
SMOOTHING = 0.004  # of the sampling frequency: sd of the window in which energy is gathered; side bands of
# non-telecentric microscopes are as wide as this and wider
PROMINENCE = 15.0  # of a side band, over the median at its distance from the zero order
DEFAULT_RADIUS = 1 / 3  # of the filter, in distances of the side band from the zero order
WIDEST_RADIUS = 0.9  # of the same: beyond it the filter would let the zero order pass


@dataclass(frozen=True)
class Sideband:
    """Where a side band lies.

    Attributes:
        frequency: (y, x) in cycles a pixel.
        prominence: its smoothed magnitude over the median at the same distance from the zero order.
    """

    frequency: tuple[float, float]
    prominence: float

    @property
    def distance(self) -> float:
        """From the zero order, in cycles a pixel."""
        return math.hypot(*self.frequency)


def find_sideband(hologram: NDArray[np.generic] | Tensor) -> Sideband:
    """The stronger peak of the spectrum away from the zero order, in the half plane of positive rows.

    Args:
        hologram: real [H, W].

    Raises:
        UserError: a constant image, values that are no numbers, or no side band.
    """
    image = as_tensor(hologram, "hologram")
    if image.ndim != 2:
        raise UserError(f"hologram has the shape {list(image.shape)}: the side band is sought in one image [H, W]")
    pixels = image.to(torch.float32).cpu().numpy()
    if not np.isfinite(pixels).all():
        raise UserError("the hologram holds values that are not numbers")
    if float(np.ptp(pixels)) == 0:
        raise UserError("the image is constant: no fringes, no hologram")
    height, width = pixels.shape
    # without the window the image's edges put a cross through the spectrum
    window = np.hanning(height)[:, None] * np.hanning(width)
    half = np.abs(fft.rfft2(((pixels - pixels.mean()) * window).astype(np.float32)))
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    whole = np.concatenate([half[_mirrored(height), 1:8][:, ::-1], half], axis=1)  # its left neighbours, for the blur
    sigma = (SMOOTHING * height, SMOOTHING * width)
    smooth = ndimage.gaussian_filter(whole, sigma, mode=("wrap", "nearest"))[:, whole.shape[1] - half.shape[1] :]
    distance = np.hypot(fy, fx)
    allowed = (distance >= LOWEST_CARRIER) & (distance < 0.6) & ((fy > 0) | ((fy == 0) & (fx > 0)) | (fx > 0))
    rings = (distance * 100).astype(int)
    medians = np.maximum(ndimage.median(smooth, rings, np.arange(rings.max() + 1)), 1e-12)
    row, column = np.unravel_index(int(np.where(allowed, smooth, -1.0).argmax()), smooth.shape)
    prominence = float(smooth[row, column] / medians[rings[row, column]])
    if prominence < PROMINENCE:
        raise UserError(
            f"no side band: the strongest peak of the spectrum stands {prominence:.1f} times above its surroundings, "
            f"{PROMINENCE:.0f} are needed; is this an off-axis hologram? If so give sideband=[y, x] in cycles a pixel"
        )
    y, x = _centre(smooth, int(row), int(column))
    frequency = (float((y / height + 0.5) % 1 - 0.5), float(x / width))
    if frequency[0] < 0:
        frequency = (-frequency[0], -frequency[1])
    return Sideband(frequency, prominence)


def _mirrored(size: int) -> NDArray[np.int64]:
    """Row of -f for each row of f."""
    return -np.arange(size) % size


def _centre(smooth: NDArray[np.floating], row: int, column: int) -> tuple[float, float]:
    """Centre of gravity of what is above half of the peak, connected to it, in rows and columns."""
    height, width = smooth.shape
    rolled = np.roll(smooth, height // 2 - row, axis=0)  # so that the peak is nowhere near the seam
    labels, _ = ndimage.label(rolled > rolled[height // 2, column] / 2)
    y, x = ndimage.center_of_mass(rolled, labels, labels[height // 2, column])
    return y + row - height // 2, min(float(x), width - 1.0)


def filter_radius(
    sideband: Sideband,
    *,
    numerical_aperture: float | None = None,
    wavelength_um: float | None = None,
    pixel_um: float | None = None,
) -> float:
    """Radius of the pupil NA / wavelength in cycles a pixel; where the three are not known, a third of the side band's
    distance from the zero order."""
    if numerical_aperture is None:
        return DEFAULT_RADIUS * sideband.distance
    aperture = positive_number("numerical_aperture", numerical_aperture, "of the objective")
    wavelength = positive_number("wavelength_um", wavelength_um, "the vacuum wavelength in um")
    pixel = positive_number("pixel_um", pixel_um, "the side of a pixel in the object's space in um")
    radius = aperture * pixel / wavelength
    widest = WIDEST_RADIUS * sideband.distance
    if radius > widest:
        log.warning(
            "the pupil (%.3f cycles/px) reaches the zero order, %.3f away: the filter is cut to %.3f",
            radius,
            sideband.distance,
            widest,
        )
    return min(radius, widest)


def retrieve_offaxis(
    hologram: Array,
    *,
    sideband: tuple[float, float] | Sideband | None = None,
    reference: Array | None = None,
    numerical_aperture: float | None = None,
    wavelength_um: float | None = None,
    pixel_um: float | None = None,
    radius: float | None = None,
    crop: bool = False,
    find_twin: bool | None = None,
) -> Array:
    """Complex field of an off-axis hologram, or of many with the same carrier.

    The disc of ``radius`` around the side band is moved to the middle of the spectrum by whole frequencies, so that
    at most half a fringe a side is left of the tilt (``level_field`` takes it away). Without ``sideband`` the stronger
    one is sought, and of the two twins the one is taken in which what stands out of the background is positive, as
    cells are.

    Args:
        hologram: real [..., H, W]; all of one carrier.
        sideband: its (y, x) in cycles a pixel, taken as it is, or what :func:`find_sideband` found.
        reference: hologram [H, W] or [..., H, W] without objects; the field is divided by its own.
        numerical_aperture, wavelength_um, pixel_um: of the microscope: the filter is its pupil, NA / wavelength.
        radius: of the filter in cycles a pixel instead.
        crop: only the frequencies that pass: the field has fewer, larger pixels, [..., h, w] with pixels of H / h and
            W / w of the old ones, and takes a fraction of the time.
        find_twin: whether to take the twin in which objects are positive; None: where no ``sideband`` is given.

    Returns:
        Complex64 [..., H, W] (complex128 for float64) of the hologram's kind.

    Raises:
        UserError: no side band, a reference of another size, a constant image, or a filter without an inside.
    """
    images = as_tensor(hologram, "hologram")
    size = (int(images.shape[-2]), int(images.shape[-1]))
    look = sideband is None if find_twin is None else find_twin
    if sideband is None:
        sideband = find_sideband(images.reshape(-1, *size)[0])
    band = sideband if isinstance(sideband, Sideband) else Sideband((float(sideband[0]), float(sideband[1])), math.nan)
    if radius is None:
        radius = filter_radius(
            band, numerical_aperture=numerical_aperture, wavelength_um=wavelength_um, pixel_um=pixel_um
        )
    filtered = _Filter.around(band, radius, size)
    background = None
    if reference is not None:
        background = as_tensor(reference, "reference").to(images.device)
        if background.shape[-2:] != images.shape[-2:]:
            raise UserError(
                f"the reference has {_px(background)}, the hologram {_px(images)}: both must come from the same camera "
                "and crop"
            )
    part = filtered.cut(images)
    ground = None if background is None else filtered.cut(background)
    small = filtered.small(part, ground) if crop or look else None
    if not crop:
        field = filtered.full(part, ground)
    else:
        assert small is not None
        field = small
    if look and small is not None and _is_twin(small, ground is not None):
        field = field.conj().resolve_conj()
    return like(field, hologram)


def _px(image: Tensor) -> str:
    return f"{image.shape[-2]}×{image.shape[-1]} px"


def _is_twin(field: Tensor, flat: bool) -> bool:
    """Whether objects are negative: the mean cube of the phase over its background, of some images, is below 0."""
    total = 0.0
    for image in field.reshape(-1, *field.shape[-2:])[:8]:
        total += flattest(image, (1, 2), level=not flat)[1].pow(3).mean().item()
    return total < 0


@dataclass(frozen=True)
class _Filter:
    """Frequencies inside the disc, as rows and columns of the half plane that ``rfft2`` gives.

    Attributes:
        size: (H, W) of the hologram.
        rows, columns: of the box around the disc, whole frequencies, ascending.
        center: whole frequency (y, x) that becomes zero.
        mask: bool [h, w], the disc in the box.
    """

    size: tuple[int, int]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    center: tuple[int, int]
    mask: NDArray[np.bool_]

    @classmethod
    def around(cls, band: Sideband, radius: float, size: tuple[int, int]) -> "_Filter":
        (fy, fx), (height, width) = band.frequency, size
        if max(abs(fy), abs(fx)) > 0.5:
            raise UserError(f"sideband={[fy, fx]}: frequencies are in cycles a pixel, from -0.5 to 0.5")
        if not radius > 0 or radius * min(size) < 1:
            raise UserError(f"a filter of {radius:.4f} cycles/px passes nothing of {height}×{width} px: raise it")
        sides = []
        for frequency, length in ((fy, height), (fx, width)):
            reach, middle = radius * length, frequency * length
            sides.append(np.arange(math.ceil(middle - reach), math.floor(middle + reach) + 1))
        rows, columns = sides
        away = ((rows / height - fy) ** 2)[:, None] + (columns / width - fx) ** 2
        return cls(size, rows, columns, (round(fy * height), round(fx * width)), away <= radius * radius)

    def cut(self, images: Tensor) -> Tensor:
        """The disc of the spectrum, [..., h, w]; what is outside of it in the box is 0."""
        height, width = self.size
        spectrum = torch.fft.rfft2(images)
        rows, columns = self.rows % height, self.columns % width
        beyond = columns > width // 2  # there the spectrum is the conjugate of that at -f
        here, there = np.flatnonzero(~beyond), np.flatnonzero(beyond)

        def index(values: NDArray[np.int64]) -> Tensor:
            return torch.as_tensor(values, device=images.device)

        part = torch.empty((*spectrum.shape[:-2], len(rows), len(columns)), dtype=spectrum.dtype, device=images.device)
        if len(here):
            part[..., here[0] : here[-1] + 1] = spectrum[..., index(rows)[:, None], index(columns[here])]
        if len(there):
            mirrored = spectrum[..., index(-rows % height)[:, None], index(width - columns[there])]
            part[..., there[0] : there[-1] + 1] = mirrored.conj()
        return part * torch.as_tensor(self.mask, device=images.device)

    def small(self, part: Tensor, ground: Tensor | None) -> Tensor:
        """The field on the coarsest pixels that hold it."""
        height, width = (fft.next_fast_len(len(side) + 1) for side in (self.rows, self.columns))
        return self._field(part, ground, (height, width))

    def full(self, part: Tensor, ground: Tensor | None) -> Tensor:
        """The field on the hologram's pixels."""
        return self._field(part, ground, self.size)

    def _field(self, part: Tensor, ground: Tensor | None, size: tuple[int, int]) -> Tensor:
        field = self._inverse(part, size)
        if ground is None:
            return field
        flat = self._inverse(ground, size)
        power = flat.abs().square()
        return field * flat.conj() / power.clamp_min(1e-6 * float(power.mean()))

    def _inverse(self, part: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = size
        rows, columns = self.rows - self.center[0], self.columns - self.center[1]
        # only the rows that hold something are transformed along x; then all columns along y
        wide = part.new_zeros((*part.shape[:-1], width))
        wide[..., torch.as_tensor(columns % width, device=part.device)] = part
        lines = torch.fft.ifft(wide, dim=-1)
        tall = part.new_zeros((*part.shape[:-2], height, width))
        tall[..., torch.as_tensor(rows % height, device=part.device), :] = lines
        scale = height * width / (self.size[0] * self.size[1])
        return torch.fft.ifft(tall, dim=-2) * scale
