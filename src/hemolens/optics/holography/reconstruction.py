"""From a hologram to a flat, unwrapped phase in focus, and how far it can be trusted."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemolens.errors import UserError
from hemolens.optics.holography.arrays import as_tensor, positive_number
from hemolens.optics.holography.background import flattest
from hemolens.optics.holography.propagation import KERNELS, METRICS, autofocus, refocus
from hemolens.optics.holography.retrieval import Sideband, find_sideband, retrieve
from hemolens.optics.holography.unwrapping import count_residues

# Share of saturated pixels above which a hologram is refused: with 3 to 6 % the refocused phase is off by 0.1 rad.
MOST_SATURATED = 0.02
SAME_CARRIER = 0.2  # of the side band's distance from the zero order: nearer are the same fringes, tilted a little
FOREGROUND_SD = 5.0  # standard deviations of the background above which a pixel belongs to an object


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings:
    """How holograms are reconstructed.

    Args:
        wavelength_um: vacuum wavelength; None where it is not known: then nothing can be refocused, and the phase has
            no optical path.
        pixel_um: side of a pixel in the object's space, or None; see ``wavelength_um``.
        medium_index: refractive index of the medium, for refocusing.
        numerical_aperture: of the objective: with wavelength and pixel it sets the filter; None: a third of the side
            band's distance from the zero order.
        sideband: (y, x) in cycles a pixel; None: found.
        objects_positive: take the twin in which what stands out of the background is positive, as cells in water are.
        radius: of the filter in cycles a pixel, instead of the two ways above.
        refocus_um: distance to the plane in focus along +z, 0 for none; ``auto`` looks for it.
        refocus_interval_um: lowest and highest distance that ``auto`` tries.
        focus_metric: see :func:`hemolens.optics.holography.autofocus`.
        kernel: ``angular_spectrum`` or ``fresnel``.
        degree: of the background's polynomial, 0 to 4; ``auto`` takes 1 or 2, whichever leaves the narrower background
            (2 bends what fills most of the field, 1 leaves the curvature of most microscopes).
        most_saturated: share of saturated pixels above which a hologram is refused.

    Raises:
        UserError: a value out of range, or a refocusing without wavelength or pixel.
    """

    wavelength_um: float | None = None
    pixel_um: float | None = None
    medium_index: float = 1.334
    numerical_aperture: float | None = None
    sideband: tuple[float, float] | None = None
    objects_positive: bool = True
    radius: float | None = None
    refocus_um: float | str = 0.0
    refocus_interval_um: tuple[float, float] = (-20.0, 20.0)
    focus_metric: str = "amplitude_variance"
    kernel: str = "angular_spectrum"
    degree: int | str = "auto"
    most_saturated: float = MOST_SATURATED

    def __post_init__(self) -> None:
        for name in ("wavelength_um", "pixel_um", "medium_index", "numerical_aperture", "radius"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, str) or not value > 0):
                raise UserError(f"{name}={value}: give a positive number")
        for name, (low, high) in {"wavelength_um": (0.1, 20.0), "pixel_um": (0.001, 100.0)}.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"{name}={value}: give it in um, from {low} to {high}")
        for name in ("sideband", "refocus_interval_um"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, tuple) or len(value) != 2):
                raise UserError(f"{name}={value}: give two numbers")
        if self.kernel not in KERNELS:
            raise UserError(f"kernel={self.kernel}: choose from {', '.join(KERNELS)}")
        if self.focus_metric not in METRICS:
            raise UserError(f"focus_metric={self.focus_metric}: choose from {', '.join(METRICS)}")
        if isinstance(self.refocus_um, str) and self.refocus_um != "auto":
            raise UserError(f"refocus_um={self.refocus_um}: give a distance in um, or auto")
        if self.degree != "auto" and not (isinstance(self.degree, int) and 0 <= self.degree <= 4):
            raise UserError(f"degree={self.degree}: the background is a polynomial of degree 0 to 4, or auto")
        if not 0 <= self.most_saturated <= 1:
            raise UserError(f"most_saturated={self.most_saturated}: give a share of the pixels")
        if self.refocus_um != 0:
            positive_number("wavelength_um", self.wavelength_um, "the vacuum wavelength in um, to refocus")
            positive_number("pixel_um", self.pixel_um, "the side of a pixel in the object's space in um, to refocus")


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A reconstructed hologram.

    Attributes:
        phase_rad: float32 [H, W], unwrapped and flat: the background's median is 0.
        amplitude: float32 [H, W], of the object wave in focus, in units of its median.
        sideband: where it was found.
        degree: of the background that was taken away.
        refocus_um: distance by which the field was propagated.
        quality: see :func:`reconstruct`.
    """

    phase_rad: NDArray[np.float32]
    amplitude: NDArray[np.float32]
    sideband: Sideband
    degree: int
    refocus_um: float
    quality: dict[str, float]


def reconstruct(
    hologram: NDArray[Any] | Tensor,
    settings: ReconstructionSettings | None = None,
    *,
    reference: NDArray[Any] | Tensor | None = None,
    device: str = "cpu",
) -> Reconstruction:
    """Phase of one off-axis hologram.

    Args:
        hologram: grey levels [H, W]; whole numbers tell whether they are saturated.
        settings: None: the defaults, without a scale.
        reference: hologram without objects, [H, W]; else the background is a polynomial.
        device: of torch.

    Returns:
        The phase, and its ``quality``: ``fringe_contrast``, (max - min) / (max + min) of the fringes, 0 to 1;
        ``saturated_fraction``; ``residues_per_megapixel`` of the wrapped phase; ``background_sd_rad``;
        ``phase_max_rad``, the 99.9th percentile; ``amplitude_sd``, relative: small for cells in focus; and
        ``dry_mass_pg``, of all that stands out of the background, see :func:`dry_mass_pg` (NaN without a scale).

    Raises:
        UserError: a constant or saturated image, no side band, or a reference of another size.
    """
    settings = settings or ReconstructionSettings()
    saturated = saturated_fraction(hologram)
    if saturated > settings.most_saturated:
        raise UserError(
            f"{saturated:.0%} of the pixels are saturated: the phase would be wrong; expose for less light (or accept "
            f"it: most_saturated={math.ceil(saturated * 100) / 100})"
        )
    image = as_tensor(hologram, "hologram").to(device)
    if image.ndim != 2:
        raise UserError(f"hologram has the shape {list(image.shape)}: one image [H, W] is reconstructed at a time")
    ground = None if reference is None else as_tensor(reference, "reference").to(device)
    sought = settings.sideband or find_sideband(image)
    if ground is not None and isinstance(sought, Sideband):
        _check_reference(ground, image, sought)
    given: dict[str, Any] = {
        "numerical_aperture": settings.numerical_aperture,
        "wavelength_um": settings.wavelength_um,
        "pixel_um": settings.pixel_um,
        "radius": settings.radius,
    }
    field, band = retrieve(
        image,
        sideband=sought,
        reference=ground,
        crop=False,
        objects_positive=settings.objects_positive,
        whole_fringes=True,
        **given,
    )
    plain = field
    if ground is not None:  # once more without it, for the fringes' strength
        options: dict[str, Any] = {"crop": True, "objects_positive": False, "whole_fringes": False}
        plain, _ = retrieve(image, sideband=band, reference=None, **options, **given)
    contrast = _fringe_contrast(image, plain)
    degrees = (1, 2) if isinstance(settings.degree, str) else (settings.degree,)
    field, flat, degree, spread = flattest(field, degrees, level=ground is None)
    distance = _distance(field, settings)
    if distance:
        assert settings.wavelength_um is not None and settings.pixel_um is not None
        field = refocus(
            field,
            distance,
            wavelength_um=settings.wavelength_um,
            pixel_um=settings.pixel_um,
            medium_index=settings.medium_index,
            kernel=settings.kernel,
            padding_px=min(64, min(field.shape) // 4),
        )
        field, flat, _, spread = flattest(field, (degree,), level=False)
    phase = flat.cpu().numpy()
    amplitude = field.abs()
    amplitude = amplitude / amplitude.median()
    objects = np.where(phase > FOREGROUND_SD * spread, phase, 0)
    quality = {
        "fringe_contrast": contrast,
        "saturated_fraction": saturated,
        "residues_per_megapixel": 1e6 * count_residues(torch.angle(field)) / field.numel(),
        "background_sd_rad": spread,
        "phase_max_rad": float(np.percentile(phase, 99.9)),
        "amplitude_sd": float(amplitude.std() / amplitude.mean()),
        "dry_mass_pg": math.nan,
    }
    if settings.wavelength_um is not None and settings.pixel_um is not None:
        quality["dry_mass_pg"] = dry_mass_pg(objects, wavelength_um=settings.wavelength_um, pixel_um=settings.pixel_um)
    return Reconstruction(phase, amplitude.cpu().numpy(), band, degree, distance, quality)


def _distance(field: Tensor, settings: ReconstructionSettings) -> float:
    if not isinstance(settings.refocus_um, str):
        return float(settings.refocus_um)
    assert settings.wavelength_um is not None and settings.pixel_um is not None
    found = autofocus(
        field,
        settings.refocus_interval_um,
        wavelength_um=settings.wavelength_um,
        pixel_um=settings.pixel_um,
        medium_index=settings.medium_index,
        metric=settings.focus_metric,
    )
    return found.distance_um


def _check_reference(ground: Tensor, image: Tensor, other: Sideband) -> None:
    """Refuse what is no hologram with the image's carrier; what has another size, retrieval refuses."""
    if ground.shape != image.shape:
        return
    try:
        own = find_sideband(ground)
    except UserError as error:
        raise UserError(f"the reference: {error}") from error
    apart = math.dist(own.frequency, other.frequency)
    if apart > SAME_CARRIER * other.distance:
        raise UserError(
            f"the reference's fringes are others: its side band lies at {_listed(own)}, the hologram's at "
            f"{_listed(other)} cycles a pixel; give a reference of the same microscope and setting"
        )


def _listed(band: Sideband) -> str:
    return f"[{band.frequency[0]:.3f}, {band.frequency[1]:.3f}]"


def _fringe_contrast(image: Tensor, field: Tensor) -> float:
    """2 |U R| / (|U|^2 + |R|^2), by the means over the image; NaN where a background was taken from the image."""
    mean = float(image.mean())
    contrast = 2 * float(field.abs().mean()) / mean if mean > 0 else math.nan
    return contrast if contrast < 2 else math.nan


def saturated_fraction(hologram: NDArray[Any] | Tensor) -> float:
    """Share of the pixels at the end of the camera's range; 0 for floats, which have none.

    The range's end is the highest value of the type, or of 10, 12 or 14 bits in 16, where the image reaches it.
    """
    values = hologram.cpu().numpy() if isinstance(hologram, Tensor) else np.asarray(hologram)
    if not np.issubdtype(values.dtype, np.integer):
        return 0.0
    highest = int(values.max(initial=0))
    ends = {np.iinfo(values.dtype).max, *(2**bits - 1 for bits in (8, 10, 12, 14))}
    # cameras of 12 bits are also stored shifted to the top of 16
    ends |= {(2**bits - 1) << (16 - bits) for bits in (10, 12, 14)}
    return float((values == highest).mean()) if highest in ends else 0.0


def dry_mass_pg(
    phase_rad: NDArray[np.floating], *, wavelength_um: float, pixel_um: float, alpha_um3_pg: float = 0.19
) -> float:
    """Dry mass under a phase: wavelength / (2 pi alpha) times its integral over the area (Barer 1952).

    alpha = 0.19 um^3/pg (0.19 mL/g) is usual for proteins, 0.18 to 0.21 is found: the result is as uncertain as that.

    Args:
        phase_rad: unwrapped phase of the objects, 0 outside.
        wavelength_um: in vacuum.
        pixel_um: side of a pixel in the object's space.
        alpha_um3_pg: refractive index increment.

    Raises:
        UserError: a value that is not positive.
    """
    for name, value in (("wavelength_um", wavelength_um), ("pixel_um", pixel_um), ("alpha_um3_pg", alpha_um3_pg)):
        positive_number(name, value, "for the dry mass")
    integral = float(np.asarray(phase_rad, np.float64).sum()) * pixel_um**2
    return wavelength_um / (2 * math.pi * alpha_um3_pg) * integral
