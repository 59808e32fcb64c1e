"""Optical diffraction tomography: what of a refractive-index distribution reaches the reconstruction.

First-order (linear) model. An illumination direction k_i inside the condenser's aperture and a scattered direction
k_s = k_i + f inside the objective's measure the spatial frequency f of the object; the frequencies that no pair reaches
are lost, above all the missing cone along the optical axis (Wolf 1969; Lauer 2002; Sung et al. 2009). 3-D transforms
are scipy's: those of torch on a CPU fail for large sizes.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from hemolens.errors import UserError

FloatArray = NDArray[np.floating]

# Directions along a radius and around the aperture, from which the limits of f_z are taken.
APERTURE_STEPS = (48, 180)
FREQUENCY_STEPS = 512
FILL_MARGIN = 10  # voxels around a stack in which a cell's halo may go on
FILL_STEP = 16  # sides are rounded up to it: fast to transform, and few transfer functions for cells of many sizes


@dataclass(frozen=True, kw_only=True)
class TomographySettings:
    """Instrument and reconstruction.

    Args:
        voxel_um: (z, y, x); paper A: 0.731, 0.162, 0.162.
        slices: Z; paper A states none [choice].
        wavelength_um, condenser_na, objective_na: not stated by paper A [choice].
        medium_index: refractive index of the medium (paper A: 1.337).
        rolloff_per_um: f0 of the loss of low lateral frequencies, 1 - exp(-(f_r / f0)^2); 0 for none. Partially
            coherent instruments have it, and it costs projected mass (results/physics.json).
        nonnegative_iterations: Gerchberg-Papoulis iterations with dn >= 0 that fill the missing cone.
        noise_ri: standard deviation of the noise a voxel, of the same bandwidth as the signal [choice].
        background_ri: standard deviation of a slow background, the same in all slices [choice].
        background_period_um: its shortest period [choice].
        axial_oversampling: fine slices a slice in which cells are drawn before the band limit.
        margin_slices: slices beyond each end of the stack, cut off at the end, so that the halo of a cell does not
            come round from the other side.
        margin_px: pixels simulated beyond each side of a field, for the same reason.

    Raises:
        UserError: a value out of range.
    """

    voxel_um: tuple[float, float, float] = (0.731, 0.162, 0.162)
    slices: int = 48
    wavelength_um: float = 0.45
    condenser_na: float = 0.72
    objective_na: float = 0.95
    medium_index: float = 1.337
    rolloff_per_um: float = 0.0
    nonnegative_iterations: int = 0
    noise_ri: float = 5e-4
    background_ri: float = 2e-4
    background_period_um: float = 40.0
    axial_oversampling: int = 3
    margin_slices: int = 8
    margin_px: int = 8

    def __post_init__(self) -> None:
        for name in ("condenser_na", "objective_na"):
            if not 0 < getattr(self, name) < self.medium_index:
                raise UserError(f"{name}: {getattr(self, name)} must be above 0 and below the medium's index")
        if min(self.voxel_um) <= 0 or self.slices < 1 or self.axial_oversampling < 1 or self.wavelength_um <= 0:
            raise UserError(
                f"voxel_um {list(self.voxel_um)}, slices {self.slices}, axial_oversampling {self.axial_oversampling}, "
                f"wavelength_um {self.wavelength_um}: all must be positive"
            )
        for name in (
            "rolloff_per_um",
            "nonnegative_iterations",
            "noise_ri",
            "background_ri",
            "margin_slices",
            "margin_px",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"{name}: {getattr(self, name)} must not be negative")

    @property
    def fine_voxel_um(self) -> tuple[float, float, float]:
        """Voxel (z, y, x) on which cells are drawn."""
        dz, dy, dx = self.voxel_um
        return dz / self.axial_oversampling, dy, dx

    @property
    def fine_depth(self) -> int:
        """Fine slices of the stack with its margins."""
        return (self.slices + 2 * self.margin_slices) * self.axial_oversampling

    @property
    def stack_um(self) -> float:
        """Height of the stack without its margins."""
        return self.slices * self.voxel_um[0]


def axial_limits(settings: TomographySettings, radial: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest axial frequency f_z (1/um) that some pair of directions measures.

    f_z = sqrt(k^2 - |k_s|^2) - sqrt(k^2 - |k_i|^2) with k = n / wavelength, over all lateral k_i with
    |k_i| <= NA_condenser / wavelength and |k_i + f| <= NA_objective / wavelength.

    Args:
        settings: apertures, wavelength and medium.
        radial: lateral frequencies |f| >= 0, float [N], 1/um.

    Returns:
        Two float64 [N]; where nothing is measured the first is larger than the second.
    """
    k = settings.medium_index / settings.wavelength_um
    condenser, objective = (na / settings.wavelength_um for na in (settings.condenser_na, settings.objective_na))
    lengths = condenser * np.linspace(0, 1, APERTURE_STEPS[0])
    angles = np.linspace(0, math.pi, APERTURE_STEPS[1])  # the other half is its mirror image
    ix, iy = (lengths[:, None] * np.cos(angles)).ravel(), (lengths[:, None] * np.sin(angles)).ravel()
    before = np.sqrt(k * k - ix * ix - iy * iy)
    low, high = np.empty(len(radial)), np.empty(len(radial))
    for n, f in enumerate(np.asarray(radial, float)):
        scattered = (ix + f) ** 2 + iy * iy
        passed = scattered <= objective * objective * (1 + 1e-9)
        fz = np.sqrt(np.maximum(k * k - scattered, 0)) - before
        low[n], high[n] = np.min(fz, where=passed, initial=np.inf), np.max(fz, where=passed, initial=-np.inf)
    return low, high


@lru_cache(maxsize=4)
def transfer_function(shape: tuple[int, int, int], settings: TomographySettings) -> NDArray[np.float32]:
    """What the instrument passes of each frequency of a volume [Z, Y, X]: 0 or 1, less the roll-off.

    The object's dn is real, so a frequency is measured if it or its negative is. The zero frequency passes: with it
    and the plane f_z = 0 intact, the integral along z is exact up to the lateral resolution.

    Returns:
        float32 [Z, Y, X // 2 + 1], for ``scipy.fft.rfftn``; read-only, since it is kept for the next call.
    """
    depth, height, width = shape
    low, high, weight = _support(shape, settings)
    # f and -f together: |f_z| from the smaller distance to 0 up to the larger one
    reached = low <= high
    far = np.where(reached, np.maximum(np.abs(low), np.abs(high)), -1).astype(np.float32)
    near = np.where(reached & (low * high > 0), np.minimum(np.abs(low), np.abs(high)), 0).astype(np.float32)
    half_bin = np.float32(0.5 / (depth * settings.voxel_um[0]))
    passed = np.empty((depth, height, width // 2 + 1), np.float32)
    for z, f in enumerate(np.abs(np.fft.fftfreq(depth, settings.voxel_um[0])).astype(np.float32)):
        inside = reached & (f <= far + half_bin) & (f >= near - half_bin)
        passed[z] = np.where(inside, weight, 0)
    passed[0, 0, 0] = 1
    passed.setflags(write=False)
    return passed


def one_sided(shape: tuple[int, int, int], settings: TomographySettings) -> NDArray[np.float32]:
    """The weight of frequencies that are measured while their negatives are not, minus it at the negatives, else 0.

    Returns:
        float32 [Z, Y, X // 2 + 1], odd in f_z.
    """
    depth, height, width = shape
    low, high, weight = _support(shape, settings)
    half_bin = 0.5 / (depth * settings.voxel_um[0])
    sides = np.empty((depth, height, width // 2 + 1), np.float32)
    for z, f in enumerate(np.fft.fftfreq(depth, settings.voxel_um[0])):
        here = (low <= f + half_bin) & (f - half_bin <= high)
        opposite = (low <= -f + half_bin) & (-f - half_bin <= high)
        sides[z] = (here.astype(np.float32) - opposite) * weight
    if depth % 2 == 0:
        sides[depth // 2] = 0  # its own negative
    return sides


def _support(
    shape: tuple[int, int, int], settings: TomographySettings
) -> tuple[FloatArray, FloatArray, NDArray[np.float32]]:
    """Limits of f_z (the first above the second where nothing is measured) and weight of each lateral frequency.

    A frequency stands for its bin, which passes if the support meets it. All are [Y, X // 2 + 1].
    """
    _, height, width = shape
    _, dy, dx = settings.voxel_um
    fr = np.hypot(np.fft.fftfreq(height, dy)[:, None], np.fft.rfftfreq(width, dx)[None])
    cutoff = (settings.condenser_na + settings.objective_na) / settings.wavelength_um
    grid = np.linspace(0, cutoff, FREQUENCY_STEPS)
    low, high = axial_limits(settings, grid)
    if settings.condenser_na == settings.objective_na:  # symmetric but for the sampling of the aperture
        high = np.where(low <= high, np.maximum(high, -low), high)
        low = np.where(low <= high, -high, low)
    reached = low <= high
    last = grid[reached][-1]
    lowest = np.where(fr <= last, np.interp(fr, grid[reached], low[reached]), np.inf)
    highest = np.where(fr <= last, np.interp(fr, grid[reached], high[reached]), -np.inf)
    weight = np.ones_like(fr, np.float32)
    if settings.rolloff_per_um:
        weight = (1 - np.exp(-((fr / settings.rolloff_per_um) ** 2))).astype(np.float32)
    return lowest, highest, weight


def band_limit_axially(fine: NDArray[np.float32], oversampling: int) -> NDArray[np.float32]:
    """Resample [Z * oversampling, ...] to [Z, ...] along z without aliasing; the mean along z is kept.

    Fine slices k * oversampling ... (k + 1) * oversampling - 1 make up slice k.
    """
    if oversampling == 1:
        return fine
    depth = fine.shape[0] // oversampling
    spectrum = fft.rfft(fine, axis=0)[: depth // 2 + 1]
    # the centre of a slice lies (oversampling - 1) / 2 fine slices after the centre of its first one
    frequency = np.arange(depth // 2 + 1) / (depth * oversampling)
    phase = np.exp(2j * math.pi * frequency * (oversampling - 1) / 2).astype(np.complex64)
    spectrum = spectrum * phase.reshape(-1, *[1] * (fine.ndim - 1))
    if depth % 2 == 0:
        spectrum[-1] = spectrum[-1].real
    return np.asarray(fft.irfft(spectrum, n=depth, axis=0) / oversampling, np.float32)


def form_tomogram(
    rng: np.random.Generator,
    contrast: NDArray[np.float32],
    settings: TomographySettings,
    *,
    absorption: NDArray[np.float32] | None = None,
    workers: int = 1,
) -> NDArray[np.float32]:
    """The reconstruction of a true index difference.

    Args:
        rng: source of noise and background.
        contrast: float32 [Z + 2 margin, Y, X], n - n_medium, already band-limited axially.
        settings: instrument and reconstruction.
        absorption: of the same shape, imaginary part of the index. The reconstruction takes the object for real, so
            that absorption leaks into it where f is measured and -f is not, which needs two different apertures.
        workers: threads of the transforms.

    Returns:
        float32 [Z, Y, X], reconstructed RI (not its difference).

    Raises:
        UserError: the depth is not ``slices + 2 margin_slices``.
    """
    depth = settings.slices + 2 * settings.margin_slices
    if contrast.shape[0] != depth:
        raise UserError(f"a volume of {contrast.shape[0]} slices, but slices + 2 margin_slices is {depth}")
    passed = transfer_function(contrast.shape, settings)
    if settings.noise_ri:
        # filtered with the object: white noise that has the wanted deviation behind the filter
        share = _mean_square(passed, contrast.shape[2])
        sigma = np.float32(settings.noise_ri / math.sqrt(max(share, 1e-12)))
        noise = rng.standard_normal(contrast.shape, np.float32)
        noise *= sigma
        noise += contrast
        contrast = noise
    measured = fft.rfftn(contrast, workers=workers)
    measured *= passed
    if absorption is not None:
        measured += 1j * fft.rfftn(absorption, workers=workers) * one_sided(contrast.shape, settings)
    keep = settings.nonnegative_iterations > 0
    volume = np.asarray(fft.irfftn(measured, s=contrast.shape, workers=workers, overwrite_x=not keep), np.float32)
    for _ in range(settings.nonnegative_iterations):
        np.maximum(volume, 0, out=volume)
        spectrum = fft.rfftn(volume, workers=workers)
        np.copyto(spectrum, measured, where=passed > 0)
        volume = np.asarray(fft.irfftn(spectrum, s=contrast.shape, workers=workers), np.float32)
    margin = settings.margin_slices
    volume = volume[margin : depth - margin]
    if settings.background_ri:
        volume += _background(rng, volume.shape[1], volume.shape[2], settings)
    volume += np.float32(settings.medium_index)
    return volume


def fill_missing_cone(
    contrast: NDArray[np.float32], settings: TomographySettings, iterations: int
) -> NDArray[np.float32]:
    """Fill what was not measured so that n >= n_medium, from a reconstruction that ends where its stack ends.

    Looks for the index difference, nowhere negative, that the instrument would show like this inside the stack: least
    squares by accelerated projected gradient steps (Beck and Teboulle 2009). Without an end of the stack and without
    acceleration these are the steps of Gerchberg and Papoulis; a stack that is cut out of a larger one has lost its
    band limit, so that keeping its spectrum would keep the cut.

    Args:
        contrast: reconstructed n - n_medium, float32 [Z, Y, X].
        settings: apertures, wavelength, medium and voxels that say what was measured.
        iterations: how often; 20 to 30 suffice. Each takes four transforms. With 0 it comes back as it is.

    Returns:
        float32 [Z, Y, X], at least 0.
    """
    if not iterations:
        return contrast
    depth, height, width = (-(-(side + 2 * FILL_MARGIN) // FILL_STEP) * FILL_STEP for side in contrast.shape)
    passed = transfer_function((depth, height, width), settings)
    inside = tuple(slice(FILL_MARGIN, FILL_MARGIN + side) for side in contrast.shape)
    ahead = np.zeros((depth, height, width), np.float32)
    ahead[inside] = np.maximum(contrast, 0)
    volume, missed, momentum = ahead.copy(), np.zeros_like(ahead), 1.0
    for _ in range(iterations):
        missed[inside] = contrast - _seen(ahead, passed)[inside]
        step = np.maximum(ahead + _seen(missed, passed), 0)
        following = (1 + math.sqrt(1 + 4 * momentum * momentum)) / 2
        ahead = step + np.float32((momentum - 1) / following) * (step - volume)
        volume, momentum = step, following
    return np.ascontiguousarray(volume[inside])


def _seen(volume: NDArray[np.float32], passed: NDArray[np.float32]) -> NDArray[np.float32]:
    spectrum = fft.rfftn(volume)
    spectrum *= passed
    return np.asarray(fft.irfftn(spectrum, s=volume.shape, overwrite_x=True), np.float32)


def _mean_square(passed: NDArray[np.float32], width: int) -> float:
    """Mean of the squared transfer function over the whole spectrum, of which ``passed`` is a half."""
    twice = np.full(passed.shape[2], 2.0)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    total = float((np.square(passed).sum((0, 1), dtype=np.float64) * twice).sum())
    return total / (passed.shape[0] * passed.shape[1] * width)


def _background(rng: np.random.Generator, height: int, width: int, settings: TomographySettings) -> NDArray[np.float32]:
    """Long waves in random directions, float32 [Y, X]."""
    waves = 6
    total = np.zeros((height, width), np.float32)
    y = np.arange(height)[:, None] * settings.voxel_um[1]
    x = np.arange(width)[None] * settings.voxel_um[2]
    for _ in range(waves):
        frequency = 2 * math.pi / settings.background_period_um * rng.uniform(0.1, 1)
        direction, phase = rng.uniform(0, 2 * math.pi, size=2)
        total += np.cos(frequency * (math.sin(direction) * y + math.cos(direction) * x) + phase).astype(np.float32)
    return total * np.float32(settings.background_ri / math.sqrt(waves / 2))
