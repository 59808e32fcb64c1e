"""Beads of known size and index in phase images: what they say of the pixel and of the phase.

The model is the projection of a homogeneous sphere with a soft edge. A Gaussian blur in the image plane and a Gaussian
blur of the sphere itself have the same projection, and the blurred sphere has a closed form.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.optimize import least_squares, minimize_scalar
from scipy.special import erf
from skimage.measure import regionprops

from hemolens.errors import UserError
from hemolens.optics.bead_field import bead_field
from hemolens.optics.holography import refocus, unwrap
from hemolens.optics.holography.background import background_level

FloatArray = NDArray[np.float64]

FOUND_AT = 0.3  # of the expected peak: a sphere is seen there at 0.95 of its diameter
SIZES = (0.6, 1.6)  # found diameters, as shares of the one expected, that can be this bead
LONGEST = 1.2  # longest over shortest axis of what is found; two touching beads have about 2
WINDOW = 1.7  # half side of what is fitted, in radii
SHARPEST_PX = 0.25  # softness of an edge that pixels still sample
GRID_UM = (0.08, 0.2)  # finest and coarsest pixel of the simulated bead
ROOM = 2.4  # side of its field, in diameters
STRONGEST = 0.1  # share of the phase that a bead which bends the light may lose or gain, before it is no standard


@dataclass(frozen=True, kw_only=True)
class Bead:
    """A bead as its maker describes it, in its medium.

    Args:
        diameter_um: certified.
        refractive_index: of the bead, at the wavelength of the instrument.
        medium_index: of what it lies in.

    Raises:
        UserError: something is missing or impossible.
    """

    diameter_um: float
    refractive_index: float
    medium_index: float

    def __post_init__(self) -> None:
        for name, example in (("diameter_um", 5.0), ("refractive_index", 1.43), ("medium_index", 1.334)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
                raise UserError(f"{name}={value}: kind=bead needs it; give a positive number, e.g. {name}={example}")
        for name in ("refractive_index", "medium_index"):
            if not 1 <= getattr(self, name) <= 3:
                raise UserError(f"{name}={getattr(self, name)} is no refractive index: give one from 1 to 3")
        if abs(self.contrast) < 1e-3:
            raise UserError(
                f"refractive_index={self.refractive_index} and medium_index={self.medium_index}: a bead like its "
                "medium cannot be seen"
            )

    @property
    def contrast(self) -> float:
        """Index above the medium's."""
        return self.refractive_index - self.medium_index

    def peak_rad(self, wavelength_um: float) -> float:
        """Phase through the middle."""
        return 2 * math.pi / wavelength_um * self.contrast * self.diameter_um


@dataclass(frozen=True, eq=False)
class BeadFit:
    """A fitted bead and the pixels it was fitted to.

    Attributes:
        row: numbers, see :func:`measure_beads` and ``analysis.bead_volumes.measure_volume_beads``.
        image, model: [h, w], measured and fitted, the fitted offset taken from both; NaN where the image shows other
            objects.
        pixel_um: (y, x) of the pictures.
        unit: of their values.
    """

    row: Mapping[str, Any]
    image: FloatArray
    model: FloatArray
    pixel_um: tuple[float, float]
    unit: str


def soft_sphere(distance: ArrayLike, radius: float, blur: float) -> FloatArray:
    """A ball of height 1 convolved with a Gaussian, at a distance from its centre; 1 inside and 0 outside.

    Args:
        distance: >= 0, any shape.
        radius, blur: of the ball and standard deviation of the Gaussian, in the unit of ``distance``.
    """
    rho = np.maximum(np.asarray(distance, np.float64), 1e-6 * blur)
    near, far = (radius - rho) / blur, (radius + rho) / blur
    step = 0.5 * (erf(near / math.sqrt(2)) + erf(far / math.sqrt(2)))
    slope = (np.exp(-0.5 * near**2) - np.exp(-0.5 * far**2)) * blur / (rho * math.sqrt(2 * math.pi))
    return np.asarray(step - slope, np.float64)


def sphere_profile(distance: ArrayLike, radius: float, blur: float) -> FloatArray:
    """Projection of :func:`soft_sphere` over the diameter: near 1 in the middle, ``sqrt(1 - (r / R)^2)`` without blur.

    Args:
        distance: from the axis, >= 0, any shape.
        radius, blur: see :func:`soft_sphere`.
    """
    away = np.asarray(distance, np.float64)
    reach = radius + 5 * blur
    step = min(blur / 2, radius / 60)
    lateral = np.arange(0, reach + step, step)
    axial = np.arange(0, reach + step, step)
    # soft_sphere is a function of one number: tabulated, and summed along the axis by the trapezoidal rule
    table = np.arange(0, math.hypot(lateral[-1], axial[-1]) + step, step / 4)
    values = soft_sphere(table, radius, blur)
    along = np.interp(np.hypot(lateral[:, None], axial), table, values)
    summed = (along.sum(1) - 0.5 * along[:, 0]) * step
    return np.asarray(np.interp(away, lateral, summed / radius, right=0.0), np.float64)


def find_beads(
    image: NDArray[np.floating], peak: float, size_px: tuple[float, float], *, sizes: tuple[float, float] = SIZES
) -> tuple[list[tuple[float, float]], NDArray[np.int32], dict[str, int]]:
    """Middles of what may be a bead: as high as a share of the expected peak, round, and of about the size.

    Args:
        image: [H, W]; the background fills more than half of it.
        peak: expected height over the background; below 0 for beads of a lower index.
        size_px: expected diameter along (y, x).
        sizes: smallest and largest diameter that is taken, as shares of the expected one.

    Returns:
        Middles (y, x) in pixels; the label map of all that stands out, beads or not; and how many were passed over
        because the border cuts them (``cut``), by their size (``size``) or shape (``shape``).
    """
    level, spread = background_level(image)
    above = (np.asarray(image, np.float64) - level) * math.copysign(1, peak)
    mask = ndimage.binary_fill_holes(above > max(FOUND_AT * abs(peak), 3 * spread))
    labels, _ = ndimage.label(mask)
    passed = {"cut": 0, "size": 0, "shape": 0}
    middles = []
    seen = math.sqrt(1 - FOUND_AT**2)
    for region in regionprops(labels, spacing=(size_px[1] / size_px[0], 1.0)):  # pixels need not be square
        share = region.equivalent_diameter_area / (seen * size_px[1])
        y0, x0, y1, x1 = region.bbox
        if not sizes[0] <= share <= sizes[1]:
            passed["size"] += share > 0.2  # smaller is noise or dust, not worth a word
        elif y0 == 0 or x0 == 0 or y1 == labels.shape[0] or x1 == labels.shape[1]:
            passed["cut"] += 1
        elif region.axis_minor_length * LONGEST < region.axis_major_length:
            passed["shape"] += 1
        else:
            ys, xs = np.nonzero(labels == region.label)
            middles.append((float(ys.mean()), float(xs.mean())))
    return middles, labels.astype(np.int32), passed


def refuse_nothing(middles: list[Any], image: NDArray[np.floating], peak: float, passed: Mapping[str, int]) -> None:
    """Say why no bead was found.

    Raises:
        UserError: there is none.
    """
    if middles:
        return
    level, _ = background_level(image)
    highest = float(np.percentile(image, 99.9 if peak > 0 else 0.1)) - level
    words = {"cut": "cut by the border", "size": "of another size", "shape": "not round, such as touching beads"}
    others = ", ".join(f"{count} {words[name]}" for name, count in passed.items() if count)
    raise UserError(
        f"no bead found: expected {peak:.3g} above the background, the image has {highest:.3g}"
        + (f"; passed over: {others}" if others else "")
        + ". Check diameter_um, refractive_index, medium_index, the wavelength and the pixel size",
        exit_code=1,
    )


@dataclass(frozen=True)
class Apparent:
    """What a true instrument shows of a bead.

    Attributes:
        diameter_um: of the fitted sphere.
        phase_scale: of its phase over that of a straight way through the bead.
    """

    diameter_um: float
    phase_scale: float


def seen_in_focus(bead: Bead, wavelength_um: float, numerical_aperture: float | None = None) -> Apparent:
    """What a microscope shows of a bead in focus: the fit of :func:`measure_beads` to its simulated wave.

    A bead bends the light and so looks wider than its projection (Mueller et al., Opt Express 2018;26:10729, compare
    models). In focus is the plane of the least amplitude contrast, as ``refocus_um=auto`` finds it.

    Args:
        bead: what is known.
        wavelength_um: in vacuum.
        numerical_aperture: of the objective; None: all that travels.

    Raises:
        UserError: a bead so strong that its phase cannot be measured.
    """
    pixel_um = min(max(bead.diameter_um / 60, GRID_UM[0]), GRID_UM[1])
    field = bead_field(
        diameter_um=bead.diameter_um,
        contrast=bead.contrast,
        medium_index=bead.medium_index,
        wavelength_um=wavelength_um,
        pixel_um=pixel_um,
        side_px=math.ceil(ROOM * bead.diameter_um / pixel_um) + 32,
    )
    frequency = np.fft.fftfreq(len(field), pixel_um)
    cutoff = min(numerical_aperture or math.inf, bead.medium_index) / wavelength_um
    passed = np.hypot(frequency[:, None], frequency) <= cutoff
    behind = np.fft.ifft2(np.fft.fft2(field) * passed)

    def seen_at(distance_um: float) -> NDArray[np.complex128]:
        moved = refocus(
            behind, distance_um, wavelength_um=wavelength_um, pixel_um=pixel_um, medium_index=bead.medium_index
        )
        return np.asarray(moved)

    focus = minimize_scalar(
        lambda distance: float(np.abs(seen_at(distance)).var()),
        bounds=(-bead.diameter_um / 2, bead.diameter_um / 2),
        method="bounded",
        options={"xatol": 0.01},
    )
    phase = unwrap(np.angle(seen_at(float(focus.x))))
    too_strong = UserError(
        f"a bead of {bead.diameter_um} um and {bead.contrast:+.3f} bends the light too much for its phase "
        f"({bead.peak_rad(wavelength_um):.1f} rad): take a smaller one, or a medium nearer to its index"
    )
    try:
        fits = measure_beads(np.asarray(phase), bead, pixel_um=pixel_um, wavelength_um=wavelength_um)
    except UserError as error:
        raise too_strong from error
    row = fits[0].row
    if len(fits) != 1 or abs(row["phase_scale"] - 1) > STRONGEST:
        raise too_strong
    return Apparent(row["diameter_um"], row["phase_scale"])


def measure_beads(
    phase_rad: NDArray[np.floating],
    bead: Bead,
    *,
    pixel_um: float,
    wavelength_um: float,
    blur_um: float | None = None,
    apparent: Apparent | None = None,
) -> list[BeadFit]:
    """Find and fit the beads of a phase image. A row has

    - ``y_px``, ``x_px``: middle; ``diameter_px``; ``diameter_um`` at the stated pixel size, as it is seen;
    - ``pixel_um``: side of a pixel that makes the diameter the expected one;
    - ``peak_rad``: phase that the fitted sphere has in its middle; ``phase_scale``: over the expected phase, 1 for a
      true instrument; ``contrast``: index above the medium's of that phase and the certified diameter;
    - ``blur_um``: of the edge, standard deviation; ``offset_rad``: of the background around it;
    - ``residual_percent``: root mean square of what the fit leaves, of the peak.

    Args:
        phase_rad: [H, W], unwrapped.
        bead: what is known.
        pixel_um: stated side of a pixel.
        wavelength_um: in vacuum.
        blur_um: standard deviation of the blur by the optics where it is known; None: fitted.
        apparent: what a true instrument shows, see :func:`seen_in_focus`; None: the sphere's projection.

    Raises:
        UserError: no bead in it, values that are no numbers, or a blur below 0.
    """
    phase = np.asarray(phase_rad, np.float64)
    if not np.isfinite(phase).all():
        raise UserError("the phase holds values that are not numbers: reconstruct the hologram again", exit_code=1)
    if blur_um is not None and not blur_um >= 0:
        raise UserError(f"blur_um={blur_um}: give a length in um, 0 for none, or null to fit it")
    apparent = apparent or Apparent(bead.diameter_um, 1.0)
    expected, size_px = bead.peak_rad(wavelength_um) * apparent.phase_scale, apparent.diameter_um / pixel_um
    middles, labels, passed = find_beads(phase, expected, (size_px, size_px))
    refuse_nothing(middles, phase, expected, passed)
    fixed = None if blur_um is None else max(blur_um / pixel_um, SHARPEST_PX)
    fits = []
    for middle in middles:
        found, window = _fit(phase, labels, middle, expected, size_px / 2, fixed)
        cy, cx, radius, peak, offset, blur = found
        y, x = np.mgrid[window]
        model = peak * sphere_profile(np.hypot(y - cy, x - cx), radius, blur)
        image = phase[window] - offset
        others = _others(labels, middle, window)
        image[others] = math.nan
        rms = math.sqrt(float(np.nanmean((image - model) ** 2)))
        row = {
            "y_px": cy,
            "x_px": cx,
            "diameter_px": 2 * radius,
            "diameter_um": 2 * radius * pixel_um,
            "pixel_um": apparent.diameter_um / (2 * radius),
            "peak_rad": peak,
            "contrast": bead.contrast * peak / expected,
            "phase_scale": peak / expected,
            "blur_um": blur * pixel_um,
            "offset_rad": offset,
            "residual_percent": 100 * rms / abs(peak),
        }
        fits.append(BeadFit(row, image, model, (pixel_um, pixel_um), "rad"))
    return fits


def _others(labels: NDArray[np.int32], middle: tuple[float, float], window: tuple[slice, slice]) -> NDArray[np.bool_]:
    """What of a window belongs to other objects, with a rim around it."""
    own, near = labels[round(middle[0]), round(middle[1])], labels[window]
    return np.asarray(ndimage.binary_dilation((near > 0) & (near != own), iterations=3), np.bool_)


def _fit(
    phase: FloatArray,
    labels: NDArray[np.int32],
    middle: tuple[float, float],
    expected: float,
    radius: float,
    fixed_blur: float | None,
) -> tuple[tuple[float, ...], tuple[slice, slice]]:
    """Robust least squares of centre, radius, peak, offset and blur (pixels and rad), and the window it saw."""
    own = labels == labels[round(middle[0]), round(middle[1])]
    start = math.sqrt(float(own.sum()) / math.pi) / math.sqrt(1 - FOUND_AT**2)
    half = math.ceil(WINDOW * start)
    cy, cx = middle
    y0, x0 = max(round(cy) - half, 0), max(round(cx) - half, 0)
    y1, x1 = min(round(cy) + half + 1, phase.shape[0]), min(round(cx) + half + 1, phase.shape[1])
    window = np.s_[y0:y1, x0:x1]
    seen = ~_others(labels, middle, window)
    values = phase[window][seen]
    rows, columns = np.nonzero(seen)
    y, x = rows + y0, columns + x0
    outside = phase[window][seen & ~own[window]]
    offset = float(np.median(outside)) if outside.size else 0.0
    noise = 1.4826 * float(np.median(np.abs(outside - offset))) if outside.size else 0.0
    peak = float(np.percentile(values - offset, 99 if expected > 0 else 1))
    blur = fixed_blur or 1.0

    def missed(p: FloatArray) -> FloatArray:
        soft = fixed_blur or float(p[5])
        model = p[3] * sphere_profile(np.hypot(y - p[0], x - p[1]), float(p[2]), soft) + p[4]
        return np.asarray(model - values, np.float64)

    guess = [cy, cx, start, peak, offset, blur][: 5 if fixed_blur else 6]
    reach = 0.5 * start
    low = [cy - reach, cx - reach, 0.5 * start, *sorted((0.2 * peak, 5 * peak))[:1], -np.inf, SHARPEST_PX]
    high = [cy + reach, cx + reach, 2 * start, *sorted((0.2 * peak, 5 * peak))[1:], np.inf, 0.5 * start + 1]
    fit = least_squares(
        missed,
        guess,
        bounds=(low[: len(guess)], high[: len(guess)]),
        loss="soft_l1",
        f_scale=max(2 * noise, 0.02 * abs(peak)),  # dust and rings of diffraction beyond it pull less
        xtol=1e-6,
        x_scale=[1.0, 1.0, 1.0, abs(peak) / start, abs(peak) / start, 1.0][: len(guess)],
    )
    found = [float(value) for value in fit.x] + ([fixed_blur] if fixed_blur else [])
    return tuple(found), window
