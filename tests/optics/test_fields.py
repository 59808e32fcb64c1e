"""Simulated fields: boxes, overlaps, heights and rates measured again by slow means."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import ndimage

from hemolens.errors import UserError
from hemolens.optics.cells import CLASS_NAMES, BloodSettings, Pose, VoxelPatch, draw_sample, majority, red_cell, render
from hemolens.optics.fields import FieldSettings, SimulatedField, simulate_field
from hemolens.optics.placement import PlacementSettings, place_cells, settle
from hemolens.optics.tomography import TomographySettings

CLEAN = TomographySettings(noise_ri=0.0, background_ri=0.0)
SMALL = FieldSettings(
    field_px=(192, 224),
    blood=BloodSettings(wbc_fraction=0.03),
    placement=PlacementSettings(density_per_mm2=6000.0),
    tomography=TomographySettings(slices=32, margin_slices=4),
)


def simulate(seed: int, settings: FieldSettings = SMALL) -> SimulatedField:
    rng = np.random.default_rng(seed)
    return simulate_field(rng, draw_sample(rng, settings.blood), settings)


def on_grid(patch: VoxelPatch, shape: tuple[int, int, int]) -> np.ndarray:
    """The share of each voxel of a field, by moving voxel for voxel; what lies outside is cut off."""
    whole = np.zeros(shape, np.float32)
    for k, i, j in zip(*np.nonzero(patch.inside), strict=True):
        place = (patch.first + k, patch.top + i, patch.left + j)
        if all(0 <= p < side for p, side in zip(place, shape, strict=True)):
            whole[place] = patch.inside[k, i, j]
    return whole


def test_same_seed_same_field() -> None:
    first, second, other = simulate(0), simulate(0), simulate(1)
    assert first.volume.tobytes() == second.volume.tobytes()
    assert [cell.pose for cell in first.cells] == [cell.pose for cell in second.cells]
    assert first.volume.tobytes() != other.volume.tobytes()


def test_volume_and_truth_keep_their_contract() -> None:
    field = simulate(2)
    assert field.volume.shape == (32, 192, 224)
    assert field.volume.dtype == np.float32
    assert np.median(field.volume) == pytest.approx(1.337, abs=2e-3)
    assert field.volume.max() > 1.36
    assert [entry.instance_id for entry in field.cells] == list(range(1, len(field.cells) + 1))
    for entry in field.cells:
        assert entry.label == CLASS_NAMES.index(majority(entry.annotations))
        assert 0.25 <= entry.visible_fraction <= 1


def test_cells_lie_where_the_truth_says_and_share_no_voxel() -> None:
    settings = dataclasses.replace(SMALL, placement=PlacementSettings(density_per_mm2=9000.0))
    height, width = settings.field_px
    fine = settings.tomography.fine_voxel_um
    for seed in range(2):
        field = simulate(seed, settings)
        filled = np.zeros((settings.tomography.slices * 3, height, width), np.float32)
        footprints = []
        for entry in field.cells:
            patch = render(entry.cell, entry.pose, fine)
            inside = on_grid(patch, filled.shape)
            assert np.minimum(filled > 0, inside > 0).sum() == 0
            filled += inside
            footprint = inside.max(0) >= 0.5
            footprints.append(footprint)
            rows, columns = np.nonzero(footprint)
            assert entry.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            placed = np.zeros((height, width), bool)
            h, w = entry.mask.shape
            placed[entry.top : entry.top + h, entry.left : entry.left + w] = entry.mask
            assert (placed == footprint).all()
            assert entry.visible_fraction == pytest.approx(footprint.sum() / patch.footprint.sum())
        wide = [ndimage.binary_dilation(mask, np.ones((3, 3))) for mask in footprints]
        touching = [any(np.any(wide[i] & footprints[j]) for j in range(len(wide)) if j != i) for i in range(len(wide))]
        assert [entry.touching for entry in field.cells] == touching
        assert sum(touching) > 4
        assert len({round(entry.pose.z_um, 1) for entry in field.cells}) > 3  # some lie on others


def test_column_integral_is_that_of_the_cells() -> None:
    """Without noise, and without a finite stack's loss, the integral along z is the path through the cells."""
    whole = dataclasses.replace(CLEAN, margin_slices=0, margin_px=0)
    settings = dataclasses.replace(
        SMALL,
        field_px=(256, 256),
        tomography=whole,
        placement=PlacementSettings(density_per_mm2=6000.0, border_probability=0.0),
    )
    field = simulate(5, settings)
    got = float((field.volume - 1.337).sum(dtype=float)) * math.prod(whole.voxel_um)
    fine = whole.fine_voxel_um
    expected = sum(render(e.cell, e.pose, fine).contrast.sum(dtype=float) * math.prod(fine) for e in field.cells)
    assert len(field.cells) > 1
    assert got == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("field_px", "density", "fields"), [((1024, 1024), 1718.0, 2), ((384, 384), 4000.0, 8)])
def test_crowding_rates(field_px: tuple[int, int], density: float, fields: int) -> None:
    settings = FieldSettings(
        field_px=field_px,
        placement=PlacementSettings(density_per_mm2=density),
        tomography=TomographySettings(slices=16, margin_slices=8, axial_oversampling=2),
    )
    cells = [entry for seed in range(fields) for entry in simulate(seed, settings).cells]
    assert np.mean([entry.touching for entry in cells]) >= 0.30
    assert 0.08 <= np.mean([entry.visible_fraction < 1 for entry in cells]) <= 0.25
    assert len(cells) / fields == pytest.approx(settings.mean_cells, rel=0.25)


def test_fractions_of_one_field() -> None:
    rng = np.random.default_rng(0)
    field = simulate_field(rng, draw_sample(rng, SMALL.blood), SMALL, fractions=(0.0, 1.0, 0.0, 0.0))
    assert {entry.cell.class_name for entry in field.cells} == {"PLT"}


def test_a_cell_settles_on_glass_and_on_others() -> None:
    voxel = (0.25, 0.2, 0.2)
    cell = red_cell(np.random.default_rng(0), "spherocyte", 90.0, 33.0, irregularity=1.0)
    patch = render(cell, Pose(8.0, 8.0), voxel)
    ceiling = np.full((80, 80), 10, np.int32)
    lift = settle(patch, ceiling, patch.top, patch.left, highest=200)
    assert lift is not None
    low, high = patch.heights()
    assert patch.first + lift + low.min() == 10
    first_top = int(ceiling.max())
    assert first_top == 10 + high.max() - low.min()
    again = settle(patch, ceiling, patch.top, patch.left, highest=200)
    assert again is not None
    assert patch.first + again + low.min() == first_top
    before = ceiling.copy()
    assert settle(patch, ceiling, patch.top, patch.left, highest=first_top + 5) is None
    assert (ceiling == before).all()
    assert settle(patch, ceiling, -500, 0, highest=200) is None


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
        (lambda: TomographySettings(margin_px=-1), "margin_px"),
        (lambda: PlacementSettings(density_per_mm2=-1.0), "density_per_mm2"),
        (lambda: PlacementSettings(max_overlap=1.0), "max_overlap"),
    ],
)
def test_impossible_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]
