"""Beads in phase images: size and index come back, also through a hologram and where the bead bends the light."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from hemolens.analysis.beads import measure_beads, seen_in_focus, soft_sphere, sphere_profile
from hemolens.errors import UserError
from hemolens.optics.bead_field import bead_field
from hemolens.optics.holography import HologramSettings, ReconstructionSettings, form_hologram, reconstruct

from .beads import SILICA, WAVELENGTH_UM, projected

PIXEL_UM = 0.144


def test_a_soft_sphere_is_a_ball_convolved_with_a_gaussian() -> None:
    grid = np.mgrid[:41, :41, :41] - 20.0
    away = np.sqrt((grid**2).sum(0))
    fine = ndimage.gaussian_filter(np.clip(12 - away + 0.5, 0, 1), 2.0)
    assert np.abs(soft_sphere(away, 12, 2.0) - fine).max() < 0.01
    assert soft_sphere([0.0], 12, 2.0)[0] == pytest.approx(1, abs=1e-6)


def test_the_profile_is_the_spheres_projection() -> None:
    r = np.linspace(0, 9, 40)
    assert sphere_profile(r, 10, 0.05) == pytest.approx(np.sqrt(1 - (r / 10) ** 2), abs=2e-3)
    places = np.arange(0, 40, 0.05)
    volume = 2 * math.pi * float((sphere_profile(places, 10, 2.0) * places).sum()) * 0.05 * 2 * 10
    assert volume == pytest.approx(4 / 3 * math.pi * 10**3, rel=1e-3)  # a blur moves nothing away


@pytest.mark.parametrize("stated", [1.0, 1.03])
def test_diameter_index_and_pixel_come_back(stated: float) -> None:
    phase = projected(150, [(45.3, 50.8), (100.1, 96.6)])
    fits = measure_beads(phase, SILICA, pixel_um=PIXEL_UM * stated, wavelength_um=WAVELENGTH_UM)
    assert len(fits) == 2
    for fit in fits:
        assert fit.row["diameter_um"] == pytest.approx(5.0 * stated, rel=0.002)
        assert fit.row["pixel_um"] == pytest.approx(PIXEL_UM, rel=0.002)
        assert fit.row["contrast"] == pytest.approx(SILICA.contrast, rel=0.005)
        assert fit.row["phase_scale"] == pytest.approx(1, abs=0.005)
        assert fit.row["residual_percent"] < 1.2
    assert (fits[0].row["y_px"], fits[0].row["x_px"]) == pytest.approx((45.3, 50.8), abs=0.05)


def test_a_wrong_phase_scale_is_measured_and_a_blur_told_from_it() -> None:
    phase = 1.1 * ndimage.gaussian_filter(projected(90, [(44.2, 45.7)], noise_rad=0.0), 2.0)
    (fit,) = measure_beads(phase, SILICA, pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM)
    assert fit.row["phase_scale"] == pytest.approx(1.1, rel=0.005)
    assert fit.row["diameter_um"] == pytest.approx(5, rel=0.005)
    assert fit.row["blur_um"] == pytest.approx(2 * PIXEL_UM, rel=0.1)
    given = measure_beads(phase, SILICA, pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM, blur_um=2 * PIXEL_UM)
    assert given[0].row["diameter_um"] == pytest.approx(5, rel=0.005)


def test_a_bead_of_lower_index_and_dust_beside_it() -> None:
    bead = replace(SILICA, refractive_index=1.42, medium_index=1.47)
    phase = projected(110, [(55.0, 52.0)], bead)
    phase[20:26, 48:54] -= 2.0
    (fit,) = measure_beads(phase, bead, pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM)
    assert fit.row["contrast"] == pytest.approx(-0.05, rel=0.01)
    assert fit.row["diameter_um"] == pytest.approx(5, rel=0.003)


def test_cut_and_touching_beads_are_passed_over() -> None:
    phase = projected(200, [(5, 60), (150, 60), (150, 94), (60, 140)], noise_rad=0.02)
    (fit,) = measure_beads(phase, SILICA, pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM)
    assert (fit.row["y_px"], fit.row["x_px"]) == pytest.approx((60, 140), abs=0.1)
    with pytest.raises(UserError, match=r"1 cut by the border, 1 (of another size|not round)"):
        measure_beads(phase[:, :120], SILICA, pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM)


def test_no_bead_says_what_was_expected() -> None:
    phase = projected(90, [], noise_rad=0.05)
    with pytest.raises(UserError, match=r"no bead found: expected 4\.76 above the background, the image has 0\.\d+"):
        measure_beads(phase, SILICA, pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM)


def test_what_is_said_of_a_bead_is_checked() -> None:
    for changes, message in (
        ({"diameter_um": None}, "diameter_um=None: kind=bead needs it"),
        ({"diameter_um": -1}, "diameter_um=-1"),
        ({"medium_index": 0.5}, "medium_index=0.5"),
        ({"refractive_index": 1.334}, "cannot be seen"),
    ):
        with pytest.raises(UserError, match=message):
            replace(SILICA, **changes)
    phase = projected(90, [(45, 45)])
    with pytest.raises(UserError, match="blur_um=-1"):
        measure_beads(phase, SILICA, pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM, blur_um=-1)
    phase[3, 3] = np.nan
    with pytest.raises(UserError, match="not numbers"):
        measure_beads(phase, SILICA, pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM)


def test_a_bead_is_a_lens() -> None:
    """In focus it looks wider than it is, the more the more it bends the light; a strong one is no standard."""
    silica = seen_in_focus(SILICA, WAVELENGTH_UM, 0.8)
    weak = seen_in_focus(replace(SILICA, refractive_index=1.38), WAVELENGTH_UM, 0.8)
    assert 5.05 < weak.diameter_um < silica.diameter_um < 5.25
    assert silica.phase_scale == pytest.approx(1, abs=0.01)
    with pytest.raises(UserError, match="bends the light too much"):
        seen_in_focus(replace(SILICA, refractive_index=1.59), WAVELENGTH_UM)  # polystyrene in water


def test_a_weak_field_has_the_projections_phase() -> None:
    bead = replace(SILICA, refractive_index=1.336)
    optics = {"medium_index": 1.334, "wavelength_um": WAVELENGTH_UM, "pixel_um": 0.1, "side_px": 120}
    phase = np.angle(bead_field(diameter_um=5.0, contrast=bead.contrast, **optics))
    assert phase.max() == pytest.approx(bead.peak_rad(WAVELENGTH_UM), rel=0.1)
    assert phase.sum() * 0.01 == pytest.approx(
        2 * math.pi / WAVELENGTH_UM * bead.contrast * math.pi / 6 * 125, rel=0.01
    )
    with pytest.raises(UserError, match="too few"):
        bead_field(diameter_um=20.0, contrast=0.1, **optics)


@pytest.mark.parametrize("index", [1.38, 1.43])
def test_through_a_hologram_the_pixel_comes_back(index: float) -> None:
    """Light through the bead, pupil, defocus, shot noise, side band, autofocus; the pixel stated 3 % wrong."""
    bead, pixel_um, na = replace(SILICA, refractive_index=index), 0.1, 0.8
    field = bead_field(
        diameter_um=5.0,
        contrast=bead.contrast,
        medium_index=1.334,
        wavelength_um=WAVELENGTH_UM,
        pixel_um=pixel_um,
        side_px=256,
    )
    bench = HologramSettings(wavelength_um=WAVELENGTH_UM, pixel_um=pixel_um, numerical_aperture=na, medium_index=1.334)
    made = form_hologram(np.angle(field), np.abs(field), settings=bench, tilt=(0.4, 0.7), defocus_um=3.0, rng=0)
    stated = ReconstructionSettings(
        wavelength_um=WAVELENGTH_UM, pixel_um=pixel_um * 1.03, numerical_aperture=na, refocus_um="auto"
    )
    phase = reconstruct(made.image, stated, reference=made.reference).phase_rad
    true = seen_in_focus(bead, WAVELENGTH_UM, na)
    scale = {"pixel_um": pixel_um * 1.03, "wavelength_um": WAVELENGTH_UM}
    (fit,) = measure_beads(phase, bead, **scale, apparent=true)
    (bare,) = measure_beads(phase, bead, **scale)
    off, bare_off = (found.row["pixel_um"] / pixel_um - 1 for found in (fit, bare))
    print(f"index {index}: pixel off by {off:+.2%}, of the bare projection {bare_off:+.2%}")
    assert fit.row["pixel_um"] == pytest.approx(pixel_um, rel=0.01)
    assert fit.row["phase_scale"] == pytest.approx(1, abs=0.01)
    assert bare.row["pixel_um"] < 0.985 * pixel_um
