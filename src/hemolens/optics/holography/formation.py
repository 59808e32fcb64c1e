"""What the camera of an off-axis digital holographic microscope records of a phase object.

U = pupil{A exp(i phi)}, propagated by the defocus, with speckle, tilt and curvature; the camera counts electrons of
|U + R exp(2 pi i f r)|^2. Free of torch, so that the processes that simulate start quickly.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from hemolens.errors import UserError

#: Share of saturated pixels from which a hologram is said to be saturated.
SATURATED = 1e-3


class SaturationWarning(UserWarning):
    """Part of a hologram is at the end of the camera's range."""


@dataclass(frozen=True, kw_only=True)
class HologramSettings:
    """Microscope and camera.

    Args:
        wavelength_um: vacuum wavelength.
        pixel_um: side of a pixel in the object's space.
        numerical_aperture: of the objective; the pupil passes |f| <= NA / wavelength.
        medium_index: refractive index of the medium.
        carrier: frequency (y, x) of the reference wave in cycles a pixel.
        reference_amplitude: of the reference wave, in units of the undisturbed object wave.
        speckle: standard deviation of a complex, relative disturbance of the object wave.
        speckle_grain_um: its correlation length (the disturbance is blurred by a Gaussian of this sd).
        static_speckle: share of the speckle's variance that the hologram without objects has too (dust, multiple
            reflections), and that dividing by it takes away.
        electrons: that the brightest fringe in focus gives; None: no shot noise.
        bits: of the camera, 8 to 16.
        fringe_level: brightest fringe in focus, as a share of the camera's range. Cells out of focus act as lenses and
            double the light: above 0.5 they saturate.

    Raises:
        UserError: a value out of range, or a carrier that the camera does not resolve.
    """

    wavelength_um: float = 0.666
    pixel_um: float = 129.68 / 900  # paper B: 900 px are 129.68 um
    numerical_aperture: float = 0.75
    medium_index: float = 1.334
    carrier: tuple[float, float] = (1 / 3, 1 / 3)
    reference_amplitude: float = 1.0
    speckle: float = 0.0
    speckle_grain_um: float = 0.6
    static_speckle: float = 0.5
    electrons: float | None = 10_000.0
    bits: int = 8
    fringe_level: float = 0.5

    def __post_init__(self) -> None:
        for name in ("wavelength_um", "pixel_um", "numerical_aperture", "medium_index", "reference_amplitude"):
            if not getattr(self, name) > 0:
                raise UserError(f"holography.{name}: {getattr(self, name)} must be positive")
        if self.numerical_aperture >= self.medium_index * 1.2:
            raise UserError(f"holography.numerical_aperture: {self.numerical_aperture} is no aperture in this medium")
        if not 8 <= self.bits <= 16:
            raise UserError(f"holography.bits: {self.bits}; cameras have 8 to 16")
        if not 0 < self.fringe_level <= 1:
            raise UserError(f"holography.fringe_level: {self.fringe_level} is a share of the camera's range, above 0")
        if self.electrons is not None and not self.electrons > 0:
            raise UserError(
                f"holography.electrons: {self.electrons}; give a positive number, or null for no shot noise"
            )
        if self.speckle < 0 or not self.speckle_grain_um > 0 or not 0 <= self.static_speckle <= 1:
            raise UserError(
                f"holography.speckle: {self.speckle}, speckle_grain_um: {self.speckle_grain_um}, static_speckle: "
                f"{self.static_speckle}; give a standard deviation, a length and a share"
            )
        if len(self.carrier) != 2 or max(abs(f) for f in self.carrier) + self.cutoff > 0.5:
            raise UserError(
                f"holography.carrier: {list(self.carrier)} with a pupil of {self.cutoff:.3f} cycles/px passes the "
                "camera's limit of 0.5 cycles/px: lower the carrier or pixel_um"
            )
        if math.hypot(*self.carrier) <= self.cutoff:
            raise UserError(
                f"holography.carrier: {list(self.carrier)} lies inside the pupil of {self.cutoff:.3f} cycles/px: the "
                "side band would cover the zero order"
            )

    @property
    def cutoff(self) -> float:
        """Radius of the pupil in cycles a pixel."""
        return self.numerical_aperture * self.pixel_um / self.wavelength_um

    @property
    def full_scale(self) -> int:
        """Highest grey level."""
        return 2**self.bits - 1


@dataclass(frozen=True, eq=False)
class Hologram:
    """What a camera recorded, and the truth.

    Attributes:
        image: hologram, uint8 or (above 8 bits) uint16 [H, W].
        reference: the same without objects.
        phase_rad: phase of the object wave in focus behind the pupil, float32 [H, W], unwrapped: what a perfect
            microscope shows.
        saturated_fraction: share of the pixels of ``image`` at the end of the range.
    """

    image: NDArray[np.unsignedinteger]
    reference: NDArray[np.unsignedinteger]
    phase_rad: NDArray[np.float32]
    saturated_fraction: float


def form_hologram(
    phase_rad: ArrayLike,
    amplitude: ArrayLike | None = None,
    *,
    settings: HologramSettings | None = None,
    defocus_um: float = 0.0,
    tilt: Sequence[float] = (0.0, 0.0),
    curvature_rad: float = 0.0,
    rng: np.random.Generator | int = 0,
    still_rng: np.random.Generator | int | None = None,
    margin_px: int = 0,
) -> Hologram:
    """The hologram of a thin object, and that of the empty field.

    Args:
        phase_rad: phase that the object adds, [H, W]: 2 pi / wavelength times its optical path over the medium's.
        amplitude: transmission of the object, [H, W]; None: 1.
        settings: microscope and camera; None: the defaults.
        defocus_um: the camera sees the plane this far behind the object (+z); ``refocus`` by its negative undoes it.
        tilt: (y, x) of the object wave, in waves across what is kept of the field.
        curvature_rad: phase of a quadratic background over that at the centre, half of the longer side away from it.
        rng: source of speckle and shot noise, or a seed.
        still_rng: source of the speckle that the empty field has too, for holograms of one bench; None: ``rng``.
        margin_px: rows and columns at each side that are left out of the result: transforms wrap around, so what is
            near a border disturbs the other one.

    Warns:
        SaturationWarning: more than one of 1,000 pixels is saturated.

    Raises:
        UserError: shapes that differ, values that are no numbers, or a margin that leaves nothing.
    """
    settings = settings or HologramSettings()
    phase = np.asarray(phase_rad, np.float32)
    if phase.ndim != 2 or min(phase.shape) <= 2 * margin_px + 1 or margin_px < 0:
        raise UserError(
            f"phase_rad has the shape {list(phase.shape)}, margin_px={margin_px}: give [H, W] with an inside"
        )
    if amplitude is not None and np.shape(amplitude) != phase.shape:
        raise UserError(f"amplitude has the shape {list(np.shape(amplitude))}, phase_rad {list(phase.shape)}")
    if not np.isfinite(phase).all():
        raise UserError("phase_rad holds values that are not numbers")
    generator = np.random.default_rng(rng)
    wave = np.exp(1j * phase).astype(np.complex64)
    if amplitude is not None:
        wave *= np.asarray(amplitude, np.float32)

    fy, fx = (fft.fftfreq(side) for side in phase.shape)
    squared = (fy[:, None] ** 2 + fx**2).astype(np.float32)
    pupil = squared <= settings.cutoff**2
    spectrum = fft.fft2(wave) * pupil
    in_focus = fft.ifft2(spectrum)
    seen = fft.ifft2(spectrum * _defocus(squared, settings, defocus_um)) if defocus_um else in_focus

    of_bench = generator if still_rng is None else np.random.default_rng(still_rng)
    still = _speckle(of_bench, phase.shape, squared, settings)
    moving = _speckle(generator, phase.shape, squared, settings)
    kept_px = tuple(side - 2 * margin_px for side in phase.shape)
    background = _background(phase.shape, kept_px, tilt, curvature_rad)
    carrier = _carrier(phase.shape, settings)
    brightest = float(_intensity(in_focus, carrier).max())  # without speckle, so that it does not decide the exposure
    own = math.sqrt(1 - settings.static_speckle)
    shared = math.sqrt(settings.static_speckle)
    other = _speckle(generator, phase.shape, squared, settings)
    image = _expose(generator, seen * (1 + shared * still + own * moving) * background, carrier, brightest, settings)
    empty = _expose(generator, (1 + shared * still + own * other) * background, carrier, brightest, settings)

    inner = np.s_[margin_px : phase.shape[0] - margin_px, margin_px : phase.shape[1] - margin_px]
    kept = image[inner]
    saturated = float((kept >= settings.full_scale).mean())
    if saturated > SATURATED:
        warnings.warn(
            f"{saturated:.1%} of the hologram's pixels are saturated, and its phase will be wrong there: lower "
            "holography.fringe_level (0.5 leaves room for cells out of focus)",
            SaturationWarning,
            stacklevel=2,
        )
    # the pupil changes the phase by less than pi, so that it tells the turns of the wrapped one
    change = np.angle(in_focus * np.exp(-1j * phase)).astype(np.float32)
    return Hologram(kept.copy(), empty[inner].copy(), (phase + change)[inner].copy(), saturated)


def _defocus(squared: NDArray[np.float32], settings: HologramSettings, distance_um: float) -> NDArray[np.complex64]:
    """Transfer function of a propagation inside the pupil, see ``propagation.refocus``."""
    k = 2 * math.pi * settings.medium_index / settings.wavelength_um
    transverse = squared.astype(np.float64) * (2 * math.pi / settings.pixel_um) ** 2
    axial = np.sqrt(np.maximum(k * k - transverse, 0))
    return (np.exp(1j * distance_um * (axial - k)) * (transverse < k * k)).astype(np.complex64)


def _speckle(
    rng: np.random.Generator, shape: tuple[int, ...], squared: NDArray[np.float32], settings: HologramSettings
) -> NDArray[np.complex64] | float:
    """Complex Gaussian disturbance with the wanted deviation and grain; 0 where there is none."""
    if not settings.speckle:
        return 0.0
    noise = rng.standard_normal((*shape, 2), np.float32).view(np.complex64)[..., 0]
    sd_px = settings.speckle_grain_um / settings.pixel_um
    blurred = fft.ifft2(fft.fft2(noise) * np.exp(-2 * (math.pi * sd_px) ** 2 * squared))
    return np.asarray(blurred * np.float32(settings.speckle / np.sqrt((np.abs(blurred) ** 2).mean())), np.complex64)


def _background(
    shape: tuple[int, ...], kept_px: tuple[int, ...], tilt: Sequence[float], curvature_rad: float
) -> NDArray[np.complex64] | float:
    """Phase factor of tilt and curvature, which are those of the middle of ``kept_px``."""
    if not any(tilt) and not curvature_rad:
        return 1.0
    y, x = (np.arange(side) - (side - 1) / 2 for side in shape)
    half = max(kept_px) / 2
    bowl = curvature_rad * ((y[:, None] / half) ** 2 + (x / half) ** 2)
    slope = 2 * math.pi * (tilt[0] * y[:, None] / kept_px[0] + tilt[1] * x / kept_px[1])
    return np.exp(1j * (slope + bowl)).astype(np.complex64)


def _carrier(shape: tuple[int, ...], settings: HologramSettings) -> NDArray[np.complex64]:
    """The reference wave [H, W]."""
    fy, fx = settings.carrier
    y, x = (np.exp(2j * math.pi * f * np.arange(side)) for f, side in zip((fy, fx), shape, strict=True))
    return (settings.reference_amplitude * y[:, None] * x).astype(np.complex64)


def _intensity(
    wave: NDArray[np.complexfloating] | np.complex64 | float, carrier: NDArray[np.complex64]
) -> NDArray[np.float32]:
    total = wave + carrier
    return np.asarray(total.real**2 + total.imag**2)


def _expose(
    rng: np.random.Generator,
    wave: NDArray[np.complexfloating] | np.complex64 | float,
    carrier: NDArray[np.complex64],
    brightest: float,
    settings: HologramSettings,
) -> NDArray[np.unsignedinteger]:
    """Grey levels: electrons with shot noise, scaled so that ``brightest`` comes to ``fringe_level``, and rounded."""
    light = _intensity(wave, carrier) / np.float32(brightest)
    if settings.electrons is not None:
        light = rng.poisson(light * settings.electrons).astype(np.float32) / np.float32(settings.electrons)
    levels = np.rint(light * np.float32(settings.fringe_level * settings.full_scale))
    return np.minimum(levels, settings.full_scale).astype(np.uint8 if settings.bits == 8 else np.uint16)
