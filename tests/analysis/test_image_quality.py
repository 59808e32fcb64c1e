"""Measures and flags on simulated holograms with known focus, and on defects made on purpose."""

import math
import warnings
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from hemolens.analysis.image_quality import (
    MEASURES,
    QualityLimits,
    flag_image,
    measure_image,
)
from hemolens.data.simulation.holograms import HologramJob, draw_hologram, plan_holograms
from hemolens.errors import UserError
from hemolens.optics.holography import ReconstructionSettings, reconstruct

PIXEL_UM, WAVELENGTH_UM = 129.68 / 900, 0.666
SCALE = {"pixel_um": PIXEL_UM, "wavelength_um": WAVELENGTH_UM}
LIMITS = QualityLimits(min_cells=3)  # the fields below are small
Field = tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint16], dict[str, float]]


@cache
def field(defocus_um: float = 0.0, day: int = 8, brighter: float = 1.0, donor: int = 0) -> Field:
    """A reconstructed hologram of 280 x 280 px with its true masks."""
    plan = plan_holograms(
        field_px=(280, 280),
        n_donors=donor + 1,
        fields_per_sample=1,
        defocus_um=[defocus_um, defocus_um],
        holography={"speckle": 0.05},
        blood={"storage_day": [day]},
        placement={"density_per_mm2": 4500.0},
        simulation_seed=1,
    )
    made = draw_hologram(plan, HologramJob(donor, 0, day, 0))
    image = np.clip(made.hologram.image * brighter, 0, 255).astype(np.uint8)
    settings = ReconstructionSettings(**SCALE, numerical_aperture=0.75, most_saturated=1.0)
    found = reconstruct(image, settings)
    return found.phase_rad, made.classes, made.instances, found.quality


def measured(defocus_um: float = 0.0, day: int = 8, **changes: float) -> dict[str, float]:
    phase, classes, instances, row = field(defocus_um, day, **changes)  # type: ignore[arg-type]
    return measure_image(phase, classes, instances, reconstruction=row, **SCALE)


def names(measures: dict[str, float], limits: QualityLimits = LIMITS) -> set[str]:
    return {flag.name for flag in flag_image(measures, limits)}


@pytest.mark.parametrize(("defocus_um", "day"), [(0, 8), (0, 40), (0, 57), (-2.5, 57), (2.5, 57), (2.5, 8)])
def test_good_images_have_no_flag(defocus_um: float, day: int) -> None:
    assert flag_image(measured(defocus_um, day), LIMITS) == []


@pytest.mark.parametrize(("defocus_um", "day"), [(-9, 8), (6, 8), (6, 57), (-6, 57)])
def test_the_dark_ring_tells_the_defocus(defocus_um: float, day: int) -> None:
    measures = measured(defocus_um, day)
    assert measures["defocus_um"] == pytest.approx(abs(defocus_um), rel=0.4)
    assert "out_of_focus" in names(measures)


def test_the_callers_focus_wins() -> None:
    phase, classes, instances, _ = field()
    (flag,) = flag_image(measure_image(phase, classes, instances, defocus_um=-7.0, **SCALE), LIMITS)
    assert (flag.name, flag.measure, flag.value, flag.limit) == ("out_of_focus", "defocus_um", 7.0, 5.5)
    assert "7.0 µm" in flag.text and "hologram.refocus_um=auto" in flag.text
    out = field(6.0)
    assert names(measure_image(*out[:3], defocus_um=0.5, **SCALE)) == set()


def test_focus_does_not_rest_on_the_masks() -> None:
    phase, classes, instances, _ = field(6.0)
    missed = np.where(instances == instances.max(), 0, instances)
    lost = measure_image(phase, np.where(missed > 0, classes, 0), missed, **SCALE)
    assert lost["defocus_um"] == pytest.approx(measured(6.0)["defocus_um"], rel=0.02)


def test_saturation() -> None:
    measures = measured(brighter=2.2)
    assert measures["saturated_fraction"] > 0.02
    assert names(measures) == {"saturated"}
    phase, classes, instances, _ = field()
    assert math.isnan(measure_image(phase, classes, instances)["saturated_fraction"])  # nothing is known


def test_an_uneven_or_grainy_background() -> None:
    phase, classes, instances, _ = field()
    rng = np.random.default_rng(0)
    for blur, amount, measure in ((60, 0.3, "unevenness_rad"), (3, 0.3, "background_sd_rad")):
        waves = ndimage.gaussian_filter(rng.normal(size=phase.shape), blur, mode="wrap")
        spoilt = phase + amount * waves / waves.std()
        flags = flag_image(measure_image(spoilt, classes, instances, **SCALE), LIMITS)
        (flag,) = [flag for flag in flags if flag.name == "uneven_background"]
        assert flag.measure == measure and flag.value > flag.limit and f"{flag.value:.2f} rad" in flag.text
        assert "out_of_focus" not in {flag.name for flag in flags}  # rings cannot be told from such a ground


def test_unfamiliar_phases() -> None:
    phase, classes, instances, _ = field(day=57)
    none = np.zeros_like(instances)
    empty = measure_image(phase, none.astype(np.uint8), none, **SCALE)
    assert empty["thick_not_cell"] == pytest.approx(1)
    assert names(empty) == {"few_cells", "unfamiliar_phase"}
    background = measure_image(np.where(classes > 0, 0, phase), classes, instances, **SCALE)
    assert {"thin_in_cell"} <= {flag.measure for flag in flag_image(background, LIMITS)}
    assert names(measure_image(phase * 3, classes, instances, **SCALE)) == {"unfamiliar_phase"}
    assert names(measure_image(phase, classes, instances, pixel_um=0.3, wavelength_um=0.666)) >= {"unfamiliar_phase"}


def test_measures_of_a_drawn_cell() -> None:
    y, x = np.mgrid[:200, :200]
    inside = np.hypot(y - 100, x - 100) <= 40
    phase = np.where(inside, 2.0, 0.0) + 0.3  # an offset is none
    classes, instances = inside.astype(np.uint8), inside.astype(np.int32)
    sure = np.where(inside, 0.9, 0.5)
    found = measure_image(phase, classes, instances, probability=sure, phase_limits_rad=(-1.0, 2.2), **SCALE)
    assert list(found) == list(MEASURES)
    assert found["cell_phase_rad"] == pytest.approx(2) and found["cells"] == 1
    assert (found["thick_not_cell"], found["thin_in_cell"], found["ring_depth"]) == (0, 0, 0)
    assert found["clipped_fraction"] == pytest.approx(inside.mean())
    assert found["mean_confidence"] == pytest.approx(0.9)
    integral = 2 * inside.sum() * PIXEL_UM**2
    assert found["cell_dry_mass_pg"] == pytest.approx(integral * WAVELENGTH_UM / (2 * np.pi * 0.19))
    assert found["edge_width_um"] == pytest.approx(0.6 * PIXEL_UM)  # of one step: from 80 to 20 %
    unscaled = measure_image(phase, classes, instances)
    assert {name for name in MEASURES if math.isnan(unscaled[name])} == {
        *("cell_dry_mass_pg", "edge_width_um", "defocus_um", "mean_confidence", "saturated_fraction")
    }


@pytest.mark.parametrize("fill", [0, 1])
def test_images_without_cells_or_without_background(fill: int) -> None:
    maps = np.full((64, 64), fill)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure_image(np.zeros((64, 64)), maps.astype(np.uint8), maps, probability=maps * 0.5, **SCALE)
    assert found["cells"] == fill
    assert math.isnan(found["defocus_um"])
    assert "few_cells" in names(found, QualityLimits())


def test_slips_are_named() -> None:
    with pytest.raises(UserError, match="sizes differ"):
        measure_image(np.zeros((4, 4)), np.zeros((4, 5), int), np.zeros((4, 4), int))
    with pytest.raises(UserError, match=r"quality\.min_cells=-1"):
        QualityLimits(min_cells=-1)
    with pytest.raises(UserError, match=r"quality\.dry_mass_pg"):
        QualityLimits(dry_mass_pg=(60.0, 15.0))
