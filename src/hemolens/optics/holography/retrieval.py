"""Off-axis holograms to complex fields, by a filter around one side band of the spectrum.

With object wave U and reference wave R exp(2 pi i f r) a camera sees |U|^2 + |R|^2 + 2 Re(U* R exp(2 pi i f r)): the
spectrum holds U around -f and its conjugate twin around +f. Leith and Upatnieks (1962); Cuche, Marquet and Depeursinge
(2000).
"""

import logging
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage
from torch import Tensor

from hemolens.errors import UserError
from hemolens.optics.holography.arrays import Array, as_tensor, like, positive_number
from hemolens.optics.holography.background import flattest, residual_tilt

log = logging.getLogger(__name__)

LOWEST_CARRIER = 0.06  # cycles/px: what lies nearer to the zero order is taken for a part of it
SMOOTHING = 0.004  # of the sampling frequency: sd of the window in which energy is gathered; side bands of
# non-telecentric microscopes are as wide as this and wider
PROMINENCE = 15.0  # of a side band, over the median at its distance from the zero order
DEFAULT_RADIUS = 1 / 3  # of the filter, in distances of the side band from the zero order
WIDEST_RADIUS = 0.9  # of the same: beyond it the filter would let the zero order pass
WHOLE = 0.02  # fringes across the field: a carrier this near to a whole number of them is one


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
    window = (np.hanning(height)[:, None] * np.hanning(width)).astype(np.float32)
    spectrum = np.abs(fft.fft2((pixels - pixels.mean()) * window))
    smooth = ndimage.gaussian_filter(spectrum, (SMOOTHING * height, SMOOTHING * width), mode="wrap")
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    distance = np.hypot(fy, fx)
    allowed = (distance >= LOWEST_CARRIER) & ((fy > 0) | ((fy == 0) & (fx > 0)))
    rings = (distance * 100).astype(int)
    medians = np.maximum(ndimage.median(smooth, rings, np.arange(rings.max() + 1)), 1e-12)
    row, column = (int(at) for at in np.unravel_index(np.where(allowed, smooth, -1.0).argmax(), smooth.shape))
    prominence = float(smooth[row, column] / medians[rings[row, column]])
    if prominence < PROMINENCE:
        raise UserError(
            f"no side band: the strongest peak of the spectrum stands {prominence:.1f} times above its surroundings, "
            f"{PROMINENCE:.0f} are needed; is this an off-axis hologram? If so give sideband=[y, x] in cycles a pixel"
        )
    return Sideband(_centre(smooth, row, column), prominence)


def _centre(smooth: NDArray[np.floating], row: int, column: int) -> tuple[float, float]:
    """Frequency (y, x) of the centre of gravity of what is above half of the peak, connected to it."""
    height, width = smooth.shape
    middle = (height // 2, width // 2)
    rolled = np.roll(smooth, (middle[0] - row, middle[1] - column), axis=(0, 1))  # far from the seams
    labels, _ = ndimage.label(rolled > rolled[middle] / 2)
    y, x = ndimage.center_of_mass(rolled, labels, labels[middle])
    frequencies = ((row + y - middle[0]) / height, (column + x - middle[1]) / width)
    fy, fx = ((float(f) + 0.5) % 1 - 0.5 for f in frequencies)
    return fy, fx


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
    objects_positive: bool = True,
    whole_fringes: bool = True,
) -> Array:
    """Complex field of an off-axis hologram, or of many with the same carrier.

    The disc of ``radius`` around the side band is moved to the middle of the spectrum. A carrier that does not fit into
    the field a whole number of times would disturb a wide border: its frequency is found to a hundredth of a fringe
    from the field itself, and taken away before the transform.

    Args:
        hologram: real [..., H, W]; all of one carrier.
        sideband: its (y, x) in cycles a pixel, or what :func:`find_sideband` found; None: the stronger one is sought in
            the first hologram.
        reference: hologram [H, W] or [..., H, W] without objects; the field is divided by its own.
        numerical_aperture, wavelength_um, pixel_um: of the microscope: the filter is its pupil, NA / wavelength.
        radius: of the filter in cycles a pixel instead.
        crop: only the frequencies that pass: the field has fewer, larger pixels, [..., h, w] with pixels of H / h and
            W / w of the old ones, and takes a fraction of the time.
        objects_positive: take the twin in which what stands out of the background is positive, as cells are; False
            takes the side band as it is.
        whole_fringes: False leaves out the search for the carrier's fraction: faster, right where the carrier fits into
            the field, else half a fringe a side of tilt is left, and a disturbed border. With a reference nothing is
            sought: both fields are disturbed alike.

    Returns:
        Complex64 [..., H, W] (complex128 for float64) of the hologram's kind.

    Raises:
        UserError: no side band, a reference of another size, a constant image, or a filter without an inside.
    """
    field, _ = retrieve(
        as_tensor(hologram, "hologram"),
        sideband=sideband,
        reference=None if reference is None else as_tensor(reference, "reference"),
        numerical_aperture=numerical_aperture,
        wavelength_um=wavelength_um,
        pixel_um=pixel_um,
        radius=radius,
        crop=crop,
        objects_positive=objects_positive,
        whole_fringes=whole_fringes,
    )
    return like(field, hologram)


def retrieve(
    images: Tensor,
    *,
    sideband: tuple[float, float] | Sideband | None,
    reference: Tensor | None,
    numerical_aperture: float | None,
    wavelength_um: float | None,
    pixel_um: float | None,
    radius: float | None,
    crop: bool,
    objects_positive: bool,
    whole_fringes: bool,
) -> tuple[Tensor, Sideband]:
    """:func:`retrieve_offaxis` of a tensor, and the side band that the field is from."""
    size = (int(images.shape[-2]), int(images.shape[-1]))
    if sideband is None:
        sideband = find_sideband(images.reshape(-1, *size)[0])
    band = sideband if isinstance(sideband, Sideband) else Sideband((float(sideband[0]), float(sideband[1])), math.nan)
    if radius is None:
        radius = filter_radius(
            band, numerical_aperture=numerical_aperture, wavelength_um=wavelength_um, pixel_um=pixel_um
        )
    ground = None
    if reference is not None:
        ground = reference.to(images.device)
        if ground.shape[-2:] != images.shape[-2:]:
            raise UserError(
                f"the reference has {_px(ground)}, the hologram {_px(images)}: both must come from the same camera and "
                "crop"
            )
    filtered = _Filter.around(band, radius, size)
    part, empty = filtered.cut(images), None if ground is None else filtered.cut(ground)
    if whole_fringes and ground is None:
        tilt = residual_tilt(filtered.field(part.reshape(-1, *part.shape[-2:])[:1], None, small=True)[0])
        if max(map(abs, tilt)) > WHOLE:
            center = (filtered.center[0] / size[0], filtered.center[1] / size[1])
            band = replace(band, frequency=(center[0] + tilt[0] / size[0], center[1] + tilt[1] / size[1]))
            filtered = _Filter.around(Sideband(center, math.nan), radius, size)
            part = filtered.cut(images, tilt)
    small = filtered.field(part, empty, small=True) if crop or objects_positive else None
    field = small if crop and small is not None else filtered.field(part, empty, small=False)
    if objects_positive and small is not None and _is_twin(small, empty is not None):
        (y, x), field = band.frequency, field.conj().resolve_conj()
        band = replace(band, frequency=(-y, -x))
    return field, band


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
        if not max(abs(fy), abs(fx)) <= 0.5:
            raise UserError(f"sideband={[fy, fx]}: frequencies are in cycles a pixel, from -0.5 to 0.5")
        if not radius > 0 or radius * min(size) < 1:
            raise UserError(f"a filter of {radius:.4f} cycles/px passes nothing of {height}×{width} px: raise radius")
        if radius >= band.distance:
            raise UserError(
                f"a filter of {radius:.3f} cycles/px reaches the zero order, {band.distance:.3f} away: lower radius"
            )
        sides = []
        for frequency, length in ((fy, height), (fx, width)):
            middle, reach = frequency * length, min(radius, 0.499) * length
            sides.append(np.arange(math.ceil(middle - reach), math.floor(middle + reach) + 1))
        rows, columns = sides
        away = ((rows / height - fy) ** 2)[:, None] + (columns / width - fx) ** 2
        return cls(size, rows, columns, (round(fy * height), round(fx * width)), away <= radius * radius)

    def cut(self, images: Tensor, tilt: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """The disc of the spectrum, [..., h, w], 0 outside of it; ``tilt`` (y, x), in waves across the field, is taken
        from the images first."""
        height, width = self.size

        def index(values: NDArray[Any]) -> Tensor:
            return torch.as_tensor(values, device=images.device)

        rows, columns = index(self.rows % height)[:, None], self.columns % width
        if any(tilt):
            y, x = (_wave(-waves, side, images) for waves, side in zip(tilt, self.size, strict=True))
            level = images.mean((-2, -1), keepdim=True)  # the zero order would get a border of its own
            spectrum = torch.fft.fft2((images - level) * (y[:, None] * x))
            return spectrum[..., rows, index(columns)] * index(self.mask)
        spectrum = torch.fft.rfft2(images)
        beyond = columns > width // 2  # there the spectrum is the conjugate of that at -f
        here, there = index(np.flatnonzero(~beyond)), index(np.flatnonzero(beyond))
        shape = (*spectrum.shape[:-2], len(self.rows), len(columns))
        part = torch.empty(shape, dtype=spectrum.dtype, device=images.device)
        part[..., here] = spectrum[..., rows, index(columns[~beyond])]
        if len(there):
            mirrored = index(-self.rows % height)[:, None]
            part[..., there] = spectrum[..., mirrored, index(width - columns[beyond])].conj()
        return part * index(self.mask)

    def field(self, part: Tensor, ground: Tensor | None, *, small: bool) -> Tensor:
        """The field on the hologram's pixels, or on the coarsest that hold it."""
        height, width = self.size
        if small:
            height, width = (fft.next_fast_len(len(side) + 1) for side in (self.rows, self.columns))
        field = self._inverse(part, (height, width))
        if ground is not None:
            flat = self._inverse(ground, (height, width))
            power = flat.abs().square()
            if not float(power.mean()) > 0:
                raise UserError("the reference has no fringes where the hologram has them")
            return field * flat.conj() / power.clamp_min(1e-6 * float(power.mean()))
        return field

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


def _wave(waves: float, side: int, like_tensor: Tensor) -> Tensor:
    """exp(2 pi i waves n / side) for n = 0 .. side - 1, complex [side]."""
    phase = torch.arange(side, dtype=torch.float64, device=like_tensor.device) * (2 * math.pi * waves / side)
    dtype = torch.complex128 if like_tensor.dtype == torch.float64 else torch.complex64
    return torch.polar(torch.ones_like(phase), phase).to(dtype)
