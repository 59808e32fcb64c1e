"""Stored blood: compositions that agree with paper B, cells, and fields of them as holograms."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hemolens.errors import UserError
from hemolens.optics.cells.settings import draw
from hemolens.optics.cells.stored import (
    STORAGE_DAYS,
    TYPE_NAMES,
    StoredBloodSettings,
    draw_bag,
    draw_stored_cell,
    storage_fractions,
)
from hemolens.optics.hologram_fields import HologramFieldSettings, simulate_hologram
from hemolens.optics.holography import ReconstructionSettings, dry_mass_pg, reconstruct
from hemolens.optics.placement import PlacementSettings

from .scenes import OPTICS, SETTINGS

# Cells of each day in paper B, Fig. 8, and of each type in its Fig. 9.
CELLS_OF_DAY = dict(zip(STORAGE_DAYS, (254, 313, 363, 421, 490, 262, 188, 156, 309, 213, 290), strict=True))
CELLS_OF_TYPE = dict(zip(TYPE_NAMES, (2469, 335, 312, 143), strict=True))


def test_compositions_agree_with_the_paper():
    totals = dict.fromkeys(TYPE_NAMES, 0.0)
    for day, cells in CELLS_OF_DAY.items():
        shares = storage_fractions(day)
        assert sum(shares.values()) == pytest.approx(1)
        for name, share in shares.items():
            assert share * cells == pytest.approx(round(share * cells), abs=1e-9)  # whole cells
            totals[name] += share * cells
    assert totals == pytest.approx(CELLS_OF_TYPE)
    assert storage_fractions(8)["discocyte"] > 0.9


def test_the_day_of_the_drop():
    early, late = (storage_fractions(40, drop_day=day)["discocyte"] for day in (40, 47))
    assert early < 0.6 < 0.85 < late
    assert storage_fractions(47, drop_day=47) == pytest.approx(storage_fractions(40))
    assert storage_fractions(57, drop_day=47) == pytest.approx(storage_fractions(57))
    assert storage_fractions(0) == storage_fractions(8)
    assert storage_fractions(90) == storage_fractions(57)
    between = storage_fractions(43.5)["discocyte"]
    assert storage_fractions(47)["discocyte"] < between < storage_fractions(40)["discocyte"]
    for bad in ({"drop_day": 44}, {"day": -1}):
        with pytest.raises(UserError):
            storage_fractions(**({"day": 40} | bad))


def test_donors_differ_and_bags_share_their_donor():
    settings = StoredBloodSettings()

    def bag(donor, number, day):
        return draw_bag(np.random.default_rng(donor), np.random.default_rng([donor, number]), settings, day)

    first, second, other = bag(0, 0, 8), bag(0, 1, 57), bag(1, 0, 8)
    assert first.mcv_fl == second.mcv_fl != other.mcv_fl
    assert first.fractions[0] > 0.8 > 0.2 > second.fractions[0]


def test_bags_age_at_their_own_speed():
    def bag(donor, day, ageing_sd):
        settings = StoredBloodSettings(mixture_sd=0.0, ageing_sd=ageing_sd)
        return draw_bag(np.random.default_rng(donor), np.random.default_rng(0), settings, day)

    plain, aged = ([bag(donor, 40, sd) for donor in range(20)] for sd in (0.0, 0.1))
    assert [one.mcv_fl for one in plain] == [one.mcv_fl for one in aged]  # the donors stay who they are
    assert len({one.fractions for one in plain}) == 1
    early = np.array([one.fractions[0] for one in aged])
    assert early.min() < 0.4 < 0.8 < early.max()  # days 36 and 44 of the others
    speeds = [math.exp(0.1 * z) for z in _speeds_drawn(20)]
    assert early == pytest.approx([storage_fractions(40 * speed)["discocyte"] for speed in speeds])
    assert bag(1, 360, 0.5).fractions == bag(2, 360, 0.0).fractions  # past the last day nothing changes


def _speeds_drawn(count):
    """What each donor's generator gives after the four numbers of the cells."""
    settings = StoredBloodSettings()
    found = []
    for donor in range(count):
        rng = np.random.default_rng(donor)
        for name in ("donor_mcv_fl", "donor_rdw_percent", "donor_mchc_g_dl", "hemoglobin_cv_percent"):
            draw(rng, getattr(settings, name))
        found.append(rng.standard_normal())
    return found


@pytest.mark.parametrize("name", TYPE_NAMES)
def test_hemoglobin_stays_when_the_shape_changes(name):
    settings = replace(StoredBloodSettings(), hemoglobin_cv_percent=(0.0, 0.0), donor_rdw_percent=(0.0, 0.0))
    bag = draw_bag(np.random.default_rng(0), np.random.default_rng(1), settings, None)
    rng = np.random.default_rng(2)
    cells = [draw_stored_cell(rng, name, bag, settings, wavelength_um=0.666) for _ in range(20)]
    assert {cell.class_name for cell in cells} == {name}
    masses = [cell.hemoglobin_pg for cell in cells]
    assert masses == pytest.approx([0.01 * bag.mcv_fl * bag.mchc_g_dl] * 20)
    low, high = settings.volume_factor[name]
    assert all(low * bag.mcv_fl <= cell.volume_fl * (1 + 1e-9) <= high * bag.mcv_fl * (1 + 1e-6) for cell in cells)
    # the index increment times concentration is what light sees
    for cell in cells:
        assert cell.components[0].delta_n == pytest.approx(0.0019 * 100 * cell.hemoglobin_pg / cell.volume_fl)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"storage_day": ()}, "storage_day"),
        ({"storage_day": (40, 40)}, "twice"),
        ({"storage_day": (8, -3)}, "0 or more"),
        ({"drop_day": 45}, "40, 47"),
        ({"composition": {"discocyte": 1.0}}, "each of discocyte"),
        ({"composition": dict.fromkeys(TYPE_NAMES, 0.5)}, "add up to 1"),
        ({"mixture_sd": -1.0}, "negative"),
        ({"tilt_deg": (5.0, 1.0)}, "tilt_deg"),
    ],
)
def test_impossible_blood(changes, words):
    with pytest.raises(UserError, match=words):
        StoredBloodSettings(**changes)


def test_unknown_shapes_are_named():
    kinds = StoredBloodSettings().kinds | {"discocyte": {"donut": 1.0}}
    with pytest.raises(UserError, match="donut"):
        StoredBloodSettings(kinds=kinds)


@pytest.fixture(scope="module")
def made():
    blood = StoredBloodSettings(composition=dict.fromkeys(TYPE_NAMES, 0.25), mixture_sd=0.0)
    settings = HologramFieldSettings(
        field_px=(450, 510), blood=blood, margin_px=30, placement=PlacementSettings(density_per_mm2=4000.0)
    )
    bag = draw_bag(np.random.default_rng(0), np.random.default_rng(1), blood, None)
    return simulate_hologram(np.random.default_rng(2), bag, settings), settings, bag


def test_masks_agree_with_the_cells(made):
    field, _, _ = made
    assert field.classes.shape == field.instances.shape == field.hologram.image.shape == (450, 510)
    assert (field.classes.dtype, field.instances.dtype) == (np.uint8, np.uint16)
    assert np.array_equal(field.classes > 0, field.instances > 0)
    assert len(field.cells) > 10
    assert {cell.cell.class_name for cell in field.cells} == set(TYPE_NAMES)
    for entry in field.cells:
        label = TYPE_NAMES.index(entry.cell.class_name) + 1
        own = field.instances == entry.instance_id
        if not own.any():
            continue  # hidden by thicker ones
        assert (field.classes[own] == label).all()
        ys, xs = np.nonzero(own)
        x0, y0, x1, y1 = entry.box
        assert xs.min() >= x0
        assert ys.min() >= y0
        assert xs.max() < x1
        assert ys.max() < y1
        if entry.visible_fraction == 1 and not entry.touching:
            inside = field.hologram.phase_rad[int(y0) : int(y1), int(x0) : int(x1)]
            assert inside.max() == pytest.approx(entry.phase_max_rad, rel=0.35)


def test_phase_holds_the_hemoglobin(made):
    field, _, _ = made
    for entry in field.cells:
        mass = SETTINGS.wavelength_um / (2 * math.pi * 0.19) * entry.phase_integral_um2
        assert mass == pytest.approx(entry.cell.hemoglobin_pg, rel=0.01)
    lonely = [entry for entry in field.cells if entry.visible_fraction == 1 and not entry.touching]
    compared = 0
    for entry in lonely:
        x0, y0, x1, y1 = (int(side) for side in entry.box)
        window = field.hologram.phase_rad[max(y0 - 8, 0) : y1 + 8, max(x0 - 8, 0) : x1 + 8]
        others = field.instances[max(y0 - 8, 0) : y1 + 8, max(x0 - 8, 0) : x1 + 8]
        if set(np.unique(others)) == {0, entry.instance_id}:
            mass = dry_mass_pg(window, wavelength_um=0.666, pixel_um=SETTINGS.pixel_um)
            assert mass == pytest.approx(entry.cell.hemoglobin_pg, rel=0.02)
            compared += 1
    assert compared >= 3


def test_reconstruction_gives_the_true_phase(made):
    field, _, _ = made
    found = reconstruct(field.hologram.image, ReconstructionSettings(**OPTICS), reference=field.hologram.reference)
    error = (found.phase_rad - field.hologram.phase_rad)[30:-30, 30:-30]
    assert np.sqrt((error**2).mean()) < 0.03
    assert 0.9 < found.quality["fringe_contrast"] <= 1.05


def test_holograms_of_a_bag_share_their_reference():
    blood = StoredBloodSettings()
    settings = HologramFieldSettings(
        field_px=(300, 300),
        margin_px=30,
        blood=blood,
        holography=replace(SETTINGS, speckle=0.05, static_speckle=1.0),
        tilt_waves=(1.0, 2.0),
        curvature_rad=(2.0, 4.0),
    )
    bag = draw_bag(np.random.default_rng(0), np.random.default_rng(1), blood, None)
    fields = [
        simulate_hologram(np.random.default_rng(n), bag, settings, bench_rng=np.random.default_rng(9)) for n in (2, 3)
    ]
    first, second = fields
    assert first.tilt_waves == second.tilt_waves
    assert 1 <= first.tilt_waves[0] <= 2
    assert 2 <= first.curvature_rad <= 4
    plain = ReconstructionSettings(**OPTICS, degree=0)  # nothing but the reference takes the background away
    for reference in (first.hologram.reference, second.hologram.reference):
        found = reconstruct(second.hologram.image, plain, reference=reference)
        error = (found.phase_rad - second.hologram.phase_rad)[20:-20, 20:-20]
        assert np.sqrt((error**2).mean()) < 0.02


def test_the_same_state_gives_the_same_hologram(made):
    field, settings, bag = made
    again = simulate_hologram(np.random.default_rng(2), bag, settings)
    assert np.array_equal(field.hologram.image, again.hologram.image)
    other = simulate_hologram(np.random.default_rng(3), bag, settings)
    assert not np.array_equal(field.hologram.image, other.hologram.image)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"field_px": (900,)}, "field_px"), ({"margin_px": -1}, "margin_px"), ({"defocus_um": (2.0, 1.0)}, "defocus_um")],
)
def test_impossible_fields(changes, words):
    with pytest.raises(UserError, match=words):
        HologramFieldSettings(**changes)
