"""Formation and retrieval of holograms: round trips against the truth, and against qpretrieve and nrefocus."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from hemolens.errors import UserError
from hemolens.optics.holography import (
    HologramSettings,
    SaturationWarning,
    autofocus,
    find_sideband,
    flatten,
    form_hologram,
    level_field,
    refocus,
    retrieve_offaxis,
    unwrap,
)

from .scenes import LENGTHS, OPTICS, SETTINGS, discs, quietly_imported, turns_apart


@pytest.fixture(scope="module")
def scene():
    return discs(900, 45)


@pytest.mark.parametrize(("defocus_um", "bound"), [(0.0, 0.01), (8.0, 0.012)])
def test_round_trip_of_discs(scene, defocus_um, bound):
    phase, mask, centers = scene
    made = form_hologram(phase, defocus_um=defocus_um, rng=1)
    assert made.saturated_fraction == 0
    assert made.image.dtype == np.uint8
    field = retrieve_offaxis(made.image, **OPTICS)
    if defocus_um:
        blurred = flatten(unwrap(np.angle(field)))
        assert np.sqrt(((blurred - made.phase_rad) ** 2).mean()) > 10 * bound
        field = refocus(field, -defocus_um, **LENGTHS)
    found = flatten(unwrap(np.angle(field)))
    error = found - made.phase_rad
    assert np.sqrt((error**2).mean()) <= bound
    assert abs(error[~mask].mean()) < 1e-3
    y, x = np.mgrid[:900, :900] * SETTINGS.pixel_um
    for cy, cx in centers:
        cell = np.hypot(y - cy, x - cx) < 4.9
        assert found[cell].sum() == pytest.approx(phase[cell].sum(), rel=5e-3)


@pytest.mark.parametrize("size", [600, 601])
def test_a_carrier_that_does_not_fit_into_the_field(size):
    phase, _, _ = discs(size, 16)
    made = form_hologram(phase, settings=replace(SETTINGS, carrier=(0.331, 0.322)), rng=0)
    found = flatten(unwrap(np.angle(retrieve_offaxis(made.image, **OPTICS))))
    error = found - made.phase_rad
    assert np.sqrt((error**2).mean()) < 0.01  # border and all
    assert np.abs(error).max() < 0.12
    plain = flatten(unwrap(np.angle(retrieve_offaxis(made.image, whole_fringes=False, **OPTICS))))
    assert np.abs(plain - made.phase_rad).max() > 0.25


@pytest.mark.parametrize("shape", [(127, 201), (128, 90)])
@pytest.mark.parametrize("band", [(0.3, 0.25), (0.3, -0.25), (-0.02, 0.4), (0.41, 0.02)])
@pytest.mark.parametrize("radius", [0.05, 0.28])
def test_equals_a_literal_filter(shape, band, radius):
    image = np.random.default_rng(0).normal(size=shape)
    height, width = shape
    spectrum = np.fft.fft2(image)
    ky, kx = round(band[0] * height), round(band[1] * width)
    rows, columns = np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width)[None] * width
    moved = np.zeros(shape, complex)
    for y in range(height):
        for x in range(width):
            # distance from the side band on the circle of frequencies
            dy = (rows[y, 0] / height - band[0] + 0.5) % 1 - 0.5
            dx = (columns[0, x] / width - band[1] + 0.5) % 1 - 0.5
            if dy * dy + dx * dx <= radius**2:
                moved[(y - ky) % height, (x - kx) % width] = spectrum[y, x]
    literal = np.fft.ifft2(moved)
    options = {"objects_positive": False, "whole_fringes": False}
    found = retrieve_offaxis(image, sideband=band, radius=radius, **options)
    assert np.allclose(found, literal, atol=1e-12)


def test_read_only_and_conjugated_arrays():
    image = form_hologram(discs(150, 1)[0]).image
    image.flags.writeable = False
    field = torch.from_numpy(retrieve_offaxis(image, **OPTICS))
    lazy, plain = (refocus(f, 2.0, padding_px=4, **LENGTHS) for f in (field.conj(), field.conj().resolve_conj()))
    assert torch.equal(lazy, plain)


def test_spheres_come_out_unwrapped():
    phase, _, centers = discs(510, 8, spheres=8)
    made = form_hologram(phase, rng=0)
    field = retrieve_offaxis(made.image, **OPTICS)
    assert np.abs(np.diff(np.angle(field), axis=0)).max() > math.pi  # it does wrap
    found = flatten(unwrap(np.angle(field)))
    assert np.sqrt(((found - made.phase_rad) ** 2).mean()) < 0.015
    for cy, cx in centers:
        assert found[round(cy / SETTINGS.pixel_um), round(cx / SETTINGS.pixel_um)] > 3.2


@pytest.mark.parametrize("carrier", [(1 / 3, 1 / 3), (-0.3, 0.33), (0.31, -0.29), (0.0, 0.33), (0.33, 0.0)])
def test_cells_are_positive_whatever_the_carrier(carrier):
    phase, _, _ = discs(300, 6)
    made = form_hologram(phase, settings=replace(SETTINGS, carrier=carrier), rng=0)
    band = find_sideband(made.image)
    # whole rows and columns of 300 px: off by half a one at most
    assert np.allclose(np.abs(band.frequency), np.abs(carrier), atol=0.6 / 300)
    found = flatten(unwrap(np.angle(level_field(retrieve_offaxis(made.image, **OPTICS)))))
    error = found - made.phase_rad
    assert np.sqrt((error[20:-20, 20:-20] ** 2).mean()) < 0.03
    bands = (tuple(carrier), (-carrier[0], -carrier[1]))
    given, twin = (retrieve_offaxis(made.image, sideband=band, objects_positive=False, **OPTICS) for band in bands)
    assert np.allclose(given, twin.conj(), atol=1e-3 * np.abs(given).max())
    given, twin = (retrieve_offaxis(made.image, sideband=band, **OPTICS) for band in bands)
    assert np.allclose(given, twin, atol=1e-3 * np.abs(given).max())


def test_reference_takes_the_background_away():
    phase, _, _ = discs(400, 10)
    settings = replace(SETTINGS, speckle=0.05, static_speckle=1.0)
    made = form_hologram(phase, settings=settings, tilt=(2.3, -1.6), curvature_rad=6.0, rng=0)
    divided = retrieve_offaxis(made.image, reference=made.reference, **OPTICS)
    with_reference = flatten(unwrap(np.angle(divided)), degree=1)
    without = flatten(unwrap(np.angle(level_field(retrieve_offaxis(made.image, **OPTICS)))))
    errors = [np.sqrt(((found - made.phase_rad)[25:-25, 25:-25] ** 2).mean()) for found in (with_reference, without)]
    assert errors[0] < 0.015 < errors[1] < 0.08


def test_non_telecentric_background_goes_without_unwrapping_it():
    phase, _, _ = discs(510, 12)
    made = form_hologram(phase, tilt=(8.4, -5.7), curvature_rad=60.0, rng=0)
    field = retrieve_offaxis(made.image, **OPTICS)
    steps = np.abs(np.diff(np.angle(field), axis=0))
    assert (steps > math.pi).mean() > 0.02  # fringe after fringe
    found = flatten(unwrap(np.angle(level_field(field))))
    assert np.sqrt(((found - made.phase_rad)[30:-30, 30:-30] ** 2).mean()) < 0.03


def test_equals_qpretrieve():
    qpretrieve = quietly_imported("qpretrieve")
    made = form_hologram(discs(300, 6)[0], rng=0)
    peer = qpretrieve.OffAxisHologram(made.image.astype(float), padding=False)
    peer.run_pipeline(
        filter_name="disk",
        filter_size=1,
        filter_size_interpretation="physical radius",
        pixel_size=SETTINGS.pixel_um,
        numerical_aperture=SETTINGS.numerical_aperture,
        wavelength=SETTINGS.wavelength_um,
    )
    theirs = flatten(unwrap(np.angle(np.squeeze(peer.field))))
    ours = flatten(unwrap(np.angle(retrieve_offaxis(made.image, **OPTICS))))
    error = min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max())  # it may take the twin
    assert error < 0.01


@pytest.mark.parametrize("kernel", ["angular_spectrum", "fresnel"])
def test_equals_nrefocus(kernel):
    nrefocus = quietly_imported("nrefocus")
    rng = np.random.default_rng(0)
    field = np.exp(1j * discs(200, 3)[0]) * (1 + 0.1 * rng.standard_normal((200, 200)))
    peer = nrefocus.RefocusNumpy(
        field=field,
        wavelength=0.666,
        pixel_size=SETTINGS.pixel_um,
        medium_index=1.334,
        distance=0,
        kernel="helmholtz" if kernel == "angular_spectrum" else "fresnel",
        padding=False,
    )
    for distance in (-12.0, 3.5):
        theirs, ours = peer.propagate(distance), refocus(field, distance, kernel=kernel, **LENGTHS)
        if kernel == "fresnel":  # a constant phase is a matter of convention
            theirs = theirs * np.exp(1j * np.angle((ours * theirs.conj()).sum()))
        assert np.abs(ours - theirs).max() < 1e-6 * np.abs(theirs).max()


def test_batches_tensors_and_crops_agree():
    images = np.stack([form_hologram(discs(240, 4, seed=seed)[0], rng=seed).image for seed in range(3)])
    band = tuple(-f for f in SETTINGS.carrier)
    whole = retrieve_offaxis(images, sideband=band, **OPTICS)
    assert whole.shape == (3, 240, 240)
    assert whole.dtype == np.complex64
    single = np.stack([retrieve_offaxis(image, sideband=band, **OPTICS) for image in images])
    assert np.allclose(whole, single, atol=1e-4)
    tensors = retrieve_offaxis(torch.from_numpy(images), sideband=band, **OPTICS)
    assert np.allclose(tensors.numpy(), whole, atol=1e-4)
    double = retrieve_offaxis(images.astype(np.float64), sideband=band, **OPTICS)
    assert double.dtype == np.complex128
    small = retrieve_offaxis(images, sideband=band, crop=True, **OPTICS)
    assert small.shape[-1] < 90
    # the same band-limited field on fewer points: equal where the grids meet
    step = np.fft.fft2(whole)[..., :30, :30] / whole[0].size, np.fft.fft2(small)[..., :30, :30] / small[0].size
    assert np.allclose(step[0], step[1], atol=1e-4 * np.abs(step[0]).max())


def test_refocus_returns_and_leaves_evanescent_waves_out():
    field = np.exp(1j * discs(128, 2)[0]).astype(np.complex128)
    coarse = {"wavelength_um": 0.666, "pixel_um": 0.4}  # nothing is evanescent
    assert np.allclose(refocus(refocus(field, 5.0, **coarse), -5.0, **coarse), field, atol=1e-9)
    fine = refocus(field, 5.0, wavelength_um=0.666, pixel_um=0.05)
    assert (np.abs(fine) ** 2).sum() < (np.abs(field) ** 2).sum()
    flat = np.ones((64, 64), complex)
    assert np.allclose(refocus(flat, 7.0, **LENGTHS), flat)
    assert np.allclose(refocus(flat, 7.0, padding_px=9, **LENGTHS), flat)


@pytest.mark.parametrize("defocus_um", [-6.0, 8.0])
def test_autofocus(defocus_um):
    made = form_hologram(discs(400, 9)[0], defocus_um=defocus_um, rng=0)
    field = level_field(retrieve_offaxis(made.image, **OPTICS))
    found = autofocus(field, (-15, 15), **LENGTHS)
    assert found.distance_um == pytest.approx(-defocus_um, abs=0.3)
    assert found.scores.argmin() == np.abs(found.distances_um - found.distance_um).argmin()


def test_autofocus_of_an_absorbing_target():
    stripes = np.where(np.arange(200) // 10 % 2, 1.0, 0.3)
    field = np.broadcast_to(stripes, (200, 200)).astype(complex)
    there = refocus(field, 4.0, **LENGTHS)
    assert autofocus(there, (-10, 10), metric="amplitude_gradient", **LENGTHS).distance_um == pytest.approx(-4, abs=0.3)


def test_saturation_is_said():
    phase, _, _ = discs(200, 4)
    bright = replace(SETTINGS, fringe_level=1.0)
    with pytest.warns(SaturationWarning, match="fringe_level"):
        made = form_hologram(phase, settings=bright, defocus_um=5.0)
    assert made.saturated_fraction > 0.001
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        form_hologram(phase)


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (12, np.uint16), (16, np.uint16)])
def test_cameras(bits, dtype):
    made = form_hologram(discs(128, 1)[0], settings=replace(SETTINGS, bits=bits, electrons=None, speckle=0.0))
    assert made.image.dtype == dtype
    assert made.image.max() == pytest.approx((2**bits - 1) / 2, abs=1)


def test_noise_has_a_seed_and_falls_with_light():
    phase = np.zeros((200, 200), np.float32)
    assert np.array_equal(form_hologram(phase, rng=3).image, form_hologram(phase, rng=3).image)
    assert not np.array_equal(form_hologram(phase, rng=3).image, form_hologram(phase, rng=4).image)
    spreads = []
    for electrons in (1_000.0, 100_000.0):
        # whole periods; not (1/3, 1/3), where every third pixel is bright and the phase has half of the noise
        settings = replace(SETTINGS, electrons=electrons, bits=16, carrier=(0.31, 0.285))
        field = retrieve_offaxis(form_hologram(phase, settings=settings).image, sideband=settings.carrier, **OPTICS)
        spreads.append(np.angle(field * np.conj(field.mean())).std())
    # shot noise within the pupil: sd = sqrt(pupil area / (2 mean)) / (amplitude's share of the mean)
    mean = 1_000 / 2
    expected = math.sqrt(mean * math.pi * SETTINGS.cutoff**2 / 2) / (mean / 2)
    assert spreads[0] == pytest.approx(expected, rel=0.1)
    assert spreads[1] == pytest.approx(spreads[0] / 10, rel=0.15)


def test_speckle_has_its_deviation():
    settings = replace(SETTINGS, speckle=0.1, electrons=None, bits=16)
    made = form_hologram(np.zeros((255, 255)), settings=settings, rng=0)
    field = retrieve_offaxis(made.image, sideband=SETTINGS.carrier, **OPTICS)
    relative = field / field.mean() - 1
    assert np.sqrt((np.abs(relative) ** 2).mean()) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 7}, "8 to 16"),
        ({"carrier": (0.4, 0.4)}, "0.5 cycles/px"),
        ({"carrier": (0.05, 0.05)}, "zero order"),
        ({"fringe_level": 0.0}, "fringe_level"),
        ({"electrons": 0.0}, "null"),
        ({"pixel_um": -1.0}, "positive"),
        ({"speckle": -0.1}, "speckle"),
    ],
)
def test_impossible_settings(changes, words):
    with pytest.raises(UserError, match=words):
        HologramSettings(**changes)


def test_what_is_no_hologram():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="constant"):
        find_sideband(np.full((100, 100), 7, np.uint8))
    with pytest.raises(UserError, match="no side band"):
        find_sideband(rng.normal(100, 10, (300, 300)))
    with pytest.raises(UserError, match="not numbers"):
        find_sideband(np.full((100, 100), np.nan))
    cells, _, _ = discs(300, 9)  # a picture without fringes
    with pytest.raises(UserError, match="no side band"):
        find_sideband(100 + 20 * cells + rng.normal(0, 3, cells.shape))
    image = form_hologram(discs(128, 1)[0]).image
    with pytest.raises(UserError, match="same camera"):
        retrieve_offaxis(image, reference=image[:100])
    with pytest.raises(UserError, match="reaches the zero order"):
        retrieve_offaxis(image, radius=0.6)
    with pytest.raises(UserError, match="passes nothing"):
        retrieve_offaxis(image, radius=0.001)
    with pytest.raises(UserError, match="cycles a pixel, from"):
        retrieve_offaxis(image, sideband=(40.0, 30.0))
    with pytest.raises(UserError, match="give pixel_um"):
        retrieve_offaxis(image, numerical_aperture=0.75, wavelength_um=0.666)
    with pytest.raises(UserError, match="angular_spectrum, fresnel"):
        refocus(np.ones((8, 8), complex), 1.0, kernel="fraunhofer", **LENGTHS)
    with pytest.raises(UserError, match="complex field"):
        refocus(np.ones((8, 8)), 1.0, **LENGTHS)


def test_truth_is_the_band_limited_phase():
    phase, _, _ = discs(300, 5, spheres=3)
    made = form_hologram(phase)
    frequency = np.hypot(np.fft.fftfreq(300)[:, None], np.fft.fftfreq(300))
    wave = np.fft.ifft2(np.fft.fft2(np.exp(1j * phase)) * (frequency <= SETTINGS.cutoff))
    assert np.abs(turns_apart(np.angle(wave * np.exp(-1j * made.phase_rad)), 0)).max() < 1e-4
    assert np.abs(made.phase_rad - phase).max() < 1.5  # no turn is lost
