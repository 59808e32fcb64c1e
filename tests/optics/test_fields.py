"""Simulated fields: boxes, overlaps and rates measured again by slow means."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from hemolens.errors import UserError
from hemolens.optics.cells import CLASS_NAMES, BloodSettings, Projection, draw_donor, project
from hemolens.optics.fields import FieldSettings, FieldTruth, OpticsSettings, simulate_field
from hemolens.optics.placement import PlacementSettings, place_cells

CLEAN = OpticsSettings(noise_opd_um=0.0, background_opd_um=0.0)
SMALL = FieldSettings(
    field_px=(256, 320),
    blood=BloodSettings(wbc_fraction=0.03),
    placement=PlacementSettings(density_per_mm2=4500.0),
)


def simulate(seed: int, settings: FieldSettings = SMALL) -> FieldTruth:
    rng = np.random.default_rng(seed)
    return simulate_field(rng, draw_donor(rng, settings.blood.red_cells), settings)


def on_field(view: Projection, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Optical path and footprint of one cell on the whole field, by moving pixel for pixel."""
    opd, footprint = np.zeros((height, width), np.float32), np.zeros((height, width), bool)
    for i, j in np.ndindex(view.opd_um.shape):
        row, column = view.top + i, view.left + j
        if 0 <= row < height and 0 <= column < width:
            opd[row, column], footprint[row, column] = view.opd_um[i, j], view.footprint[i, j]
    return opd, footprint


def test_same_seed_same_field() -> None:
    first, second, other = simulate(0), simulate(0), simulate(1)
    assert first.projection_um.tobytes() == second.projection_um.tobytes()
    assert first.boxes.tobytes() == second.boxes.tobytes()
    assert first.projection_um.tobytes() != other.projection_um.tobytes()


def test_truth_is_what_is_drawn() -> None:
    settings = dataclasses.replace(SMALL, optics=CLEAN)
    height, width = settings.field_px
    for seed in range(3):
        truth = simulate(seed, settings)
        total = np.zeros((height, width), np.float32)
        footprints = []
        for entry, box, label, visible in zip(
            truth.cells, truth.boxes, truth.labels, truth.visible_fraction, strict=True
        ):
            view = project(entry.cell, entry.pose, pixel_um=CLEAN.pixel_um)
            opd, footprint = on_field(view, height, width)
            total += opd
            footprints.append(footprint)
            rows, columns = np.nonzero(footprint)
            expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert tuple(box) == expected
            assert CLASS_NAMES[label] == entry.cell.class_name
            assert visible == pytest.approx(footprint.sum() / view.footprint.sum())
            assert visible >= 0.25
        blurred = ndimage.gaussian_filter(total, CLEAN.blur_px)
        assert np.abs(truth.projection_um - blurred).max() < 1e-6
        wide = [ndimage.binary_dilation(mask, np.ones((3, 3))) for mask in footprints]
        touching = [any(np.any(wide[i] & footprints[j]) for j in range(len(wide)) if j != i) for i in range(len(wide))]
        assert truth.touching.tolist() == touching
        assert [entry.instance_id for entry in truth.cells] == list(range(1, len(wide) + 1))


@pytest.mark.parametrize(("field_px", "density", "fields"), [((1444, 1444), 1718.0, 3), ((384, 384), 4000.0, 16)])
def test_crowding_rates(field_px: tuple[int, int], density: float, fields: int) -> None:
    settings = FieldSettings(field_px=field_px, placement=PlacementSettings(density_per_mm2=density))
    truths = [simulate(seed, settings) for seed in range(fields)]
    touching = np.concatenate([truth.touching for truth in truths])
    cut = np.concatenate([truth.visible_fraction < 1 for truth in truths])
    assert touching.mean() >= 0.30
    assert 0.08 <= cut.mean() <= 0.25
    assert len(cut) / fields == pytest.approx(settings.mean_cells, rel=0.2)


def test_noise_and_background_have_the_stated_size() -> None:
    settings = FieldSettings(
        field_px=(800, 800),
        placement=PlacementSettings(density_per_mm2=0.01),  # one cell
        optics=OpticsSettings(noise_opd_um=0.01, background_opd_um=0.0),
    )
    picture = simulate(3, settings).projection_um
    empty = picture[np.abs(picture) < 0.045]
    assert empty.std() == pytest.approx(0.01, rel=0.03)
    slow = dataclasses.replace(settings, optics=OpticsSettings(noise_opd_um=0.0, background_opd_um=0.02))
    rms = [np.percentile(np.abs(simulate(seed, slow).projection_um), 68.3) for seed in range(8)]
    assert np.mean(rms) == pytest.approx(0.02, rel=0.3)


def test_mixture_of_one_field() -> None:
    rng = np.random.default_rng(0)
    donor = draw_donor(rng, SMALL.blood.red_cells)
    only = {"RBC": 0.0, "PLT": 1.0, "WBC": 0.0, "ARBC": 0.0}
    truth = simulate_field(rng, donor, SMALL, mixture=only)
    assert set(truth.labels.tolist()) == {CLASS_NAMES.index("PLT")}


def test_placed_cells_lie_inside_or_across_the_border() -> None:
    outlines = np.stack([np.diag([16.0, 9.0])] * 40)
    free = PlacementSettings(border_probability=0.0, touching_probability=0.5, max_overlap=0.2)
    centers = place_cells(np.random.default_rng(0), outlines, (100.0, 80.0), free)
    assert not np.isnan(centers).any()
    assert (centers >= [4, 3]).all()
    assert (centers <= [96, 77]).all()
    scaled = centers / [4, 3]  # ellipses become unit circles: no deeper overlap than 20 % of two radii
    distance = np.linalg.norm(scaled[:, None] - scaled[None], axis=-1) + 9 * np.eye(40)
    assert distance.min() >= 2 * 0.8 - 1e-9
    assert ((distance <= 2 + 1e-9).any(1)).mean() > 0.4
    crossing = PlacementSettings(border_probability=0.99, touching_probability=0.0)
    centers = place_cells(np.random.default_rng(0), outlines, (100.0, 80.0), crossing)
    x, y = centers[~np.isnan(centers).any(1)].T
    assert np.mean((x < 4) | (x > 96) | (y < 3) | (y > 77)) > 0.9


def test_a_small_cell_is_not_hidden_by_a_large_one() -> None:
    radii = np.array([25.0] * 4 + [5.0] * 12)
    settings = PlacementSettings(border_probability=0.0, touching_probability=0.99, max_overlap=0.3)
    outlines = np.stack([np.diag([radius**2] * 2) for radius in radii])
    centers = place_cells(np.random.default_rng(1), outlines, (300.0, 300.0), settings)
    distance = np.linalg.norm(centers[4:, None] - centers[None, :4], axis=-1)
    assert distance.min() >= 30 - 0.3 * 10 - 1e-9  # at most 30 % of its width lie below
    assert (distance < 30).any()  # and some do


def test_a_full_field_leaves_cells_out() -> None:
    outlines = np.stack([np.diag([100.0, 100.0])] * 5)
    centers = place_cells(np.random.default_rng(0), outlines, (30.0, 30.0), PlacementSettings(border_probability=0.0))
    assert 1 <= np.isnan(centers[:, 0]).sum() < 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FieldSettings(field_px=(32, 64)), "field_px"),
        (lambda: OpticsSettings(pixel_um=0.0), "pixel_um"),
        (lambda: PlacementSettings(density_per_mm2=-1.0), "density_per_mm2"),
        (lambda: PlacementSettings(max_overlap=1.0), "max_overlap"),
    ],
)
def test_impossible_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]
