"""Off-axis holograms to phase, step by step, against qpretrieve, nrefocus and scikit-image without padding."""

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import unwrap_phase

from benchmarks.harness import Comparison, Options, Side
from benchmarks.red_cell_scene import SETTINGS, scene
from hemolens.optics.holography import flatten, form_hologram, refocus, retrieve_offaxis, unwrap

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both warn of backends that are not installed
    from nrefocus import RefocusNumpy
    from qpretrieve import OffAxisHologram

OPTICS = {
    "numerical_aperture": SETTINGS.numerical_aperture,
    "wavelength_um": SETTINGS.wavelength_um,
    "pixel_um": SETTINGS.pixel_um,
}
EXACT = {"objects_positive": False, "whole_fringes": False}  # the carrier is given, and whole, as qpretrieve takes it
PLANES_UM = tuple(np.linspace(-9.0, 9.0, 10).tolist())


def comparisons(options: Options) -> Iterator[Comparison]:
    """Ten holograms of one carrier, which is given to both sides; the filter is the pupil on both."""
    side, count = (180, 2) if options.quick else (900, 10)
    phase = scene(side)
    images = np.stack([form_hologram(phase, settings=SETTINGS, rng=number).image for number in range(count)])
    floats = images.astype(np.float32)  # qpretrieve would lose time on whole numbers
    sideband = tuple(-f for f in SETTINGS.carrier)
    work = {"holograms": f"{count}×{side}×{side}", "pupil_cycles_px": round(SETTINGS.cutoff, 4), "padding": "none"}

    def theirs(image: NDArray[np.float32], *, crop: bool = False) -> NDArray[np.complexfloating]:
        hologram = OffAxisHologram(image, padding=False, subtract_mean=True)
        return hologram.run_pipeline(
            filter_name="disk",
            filter_size=1,
            filter_size_interpretation="physical radius",
            pixel_size=SETTINGS.pixel_um,
            numerical_aperture=SETTINGS.numerical_aperture,
            wavelength=SETTINGS.wavelength_um,
            sideband_freq=(sideband[1], sideband[0]),
            scale_to_filter=crop,
        )

    for name, crop, target in (("retrieve", False, 2.5), ("retrieve_cropped", True, 8.0)):

        def ours(crop: bool = crop) -> NDArray[np.complexfloating]:
            return retrieve_offaxis(images, sideband=sideband, crop=crop, **EXACT, **OPTICS)

        def peer(crop: bool = crop) -> NDArray[np.complexfloating]:
            return theirs(floats, crop=crop)

        yield Comparison(
            name,
            Side("retrieve_offaxis", {"crop": crop, "dtype": "complex64"}, ours),
            Side("qpretrieve", {"scale_to_filter": crop, "padding": False}, peer),
            same_size_free if crop else same_phase,
            "cropped: magnitudes of the lowest frequencies within 1 %"
            if crop
            else "phase within 0.01 rad (rms), flattened",
            target=target,
            work=work,
        )

    field = retrieve_offaxis(images[0], sideband=sideband, **EXACT, **OPTICS).astype(np.complex128)
    lengths = {"wavelength_um": SETTINGS.wavelength_um, "pixel_um": SETTINGS.pixel_um, "medium_index": 1.334}

    def planes() -> NDArray[np.complexfloating]:
        return refocus(field, PLANES_UM, **lengths)

    def their_planes() -> NDArray[np.complexfloating]:
        propagator = RefocusNumpy(
            field=field,
            wavelength=SETTINGS.wavelength_um,
            pixel_size=SETTINGS.pixel_um,
            medium_index=1.334,
            kernel="helmholtz",
            padding=False,
        )
        return np.stack([propagator.propagate(distance) for distance in PLANES_UM])

    yield Comparison(
        "refocus",
        Side("refocus", {"dtype": "complex128", "planes": len(PLANES_UM)}, planes),
        Side("nrefocus", {"dtype": "complex128", "planes": len(PLANES_UM), "padding": False}, their_planes),
        same_field,
        "fields within 1e-6 of their largest value",
        target=1.0,
        work={"field": f"{side}×{side}"},
    )

    def to_phase() -> NDArray[np.float32]:
        return flatten(unwrap(np.angle(retrieve_offaxis(images, sideband=sideband, **EXACT, **OPTICS))))

    def their_phase() -> NDArray[np.float32]:
        phases = [unwrap_phase(np.angle(part)) for part in theirs(floats)]
        return flatten(np.stack(phases).astype(np.float32))

    yield Comparison(
        "end_to_end",
        Side("retrieve_offaxis, unwrap, flatten", {"dtype": "float32"}, to_phase),
        Side("qpretrieve, scikit-image, the same flatten", {"padding": False}, their_phase),
        same_flat,
        "flat phase within 0.01 rad (rms)",
        target=6.0,
        work=work,
    )


def same_phase(ours: NDArray[np.complexfloating], peer: NDArray[np.complexfloating]) -> dict[str, float]:
    """Of the flat phases of all fields."""
    return same_flat(flatten(unwrap(np.angle(ours))), flatten(unwrap(np.angle(np.asarray(peer)))))


def same_flat(ours: NDArray[np.floating], peer: NDArray[np.floating]) -> dict[str, float]:
    """Root mean square of the difference, of the nearer sign."""
    error = min(float(np.sqrt(((ours - sign * peer) ** 2).mean())) for sign in (1, -1))
    assert error <= 0.01, f"phases differ by {error:.3f} rad"
    return {"rms difference, rad": error}


def same_size_free(ours: NDArray[np.complexfloating], peer: NDArray[np.complexfloating]) -> dict[str, float]:
    """Cropped fields have pixels of other sizes: what both hold of the spectrum is compared, of all fields."""
    mine, *theirs = (_lowest(f) for f in (ours, np.asarray(peer), np.asarray(peer).conj()))  # of either twin
    difference = min(float(np.abs(mine - other).max()) for other in theirs)
    assert difference <= 0.01, f"spectra differ by {difference:.2g}"
    return {"largest relative difference of the spectra": difference}


def _lowest(fields: NDArray[np.complexfloating]) -> NDArray[np.floating]:
    """Magnitudes of the lowest frequencies, in units of the largest."""
    side = min(40, fields.shape[-1] // 4)
    magnitudes = np.abs(np.fft.fft2(fields)[..., :side, :side])
    return magnitudes / magnitudes.max()


def same_field(ours: NDArray[np.complexfloating], peer: NDArray[np.complexfloating]) -> dict[str, float]:
    """Largest difference over the largest value."""
    difference = float(np.abs(ours - peer).max() / np.abs(peer).max())
    assert difference <= 1e-6, f"fields differ by {difference:.2g}"
    return {"largest relative difference": difference}
