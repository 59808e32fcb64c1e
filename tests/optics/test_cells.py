"""Drawn cells: truth against what is rendered, distributions, annotators."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hemolens.errors import UserError
from hemolens.optics.cells import (
    CLASS_NAMES,
    RED_KINDS,
    BloodSample,
    BloodSettings,
    Cell,
    Component,
    PlateletSettings,
    Pose,
    RedCellSettings,
    WhiteCellSettings,
    annotate,
    draw_cell,
    draw_sample,
    draw_tilt_rad,
    majority,
    red_cell,
    render,
)
from hemolens.optics.cells.solids import Disc, Ellipsoid

VOXEL = (0.731 / 3, 0.162, 0.162)
SAMPLE = BloodSample(
    mcv_fl=90.0, rdw_percent=13.0, mchc_g_dl=33.5, hemoglobin_cv_percent=4.0, fractions=(0.8, 0.1, 0.05, 0.05)
)
BLOOD = BloodSettings()


def cells_of(class_name: str, count: int, seed: int = 0) -> list[Cell]:
    rng = np.random.default_rng(seed)
    return [draw_cell(rng, class_name, SAMPLE, BLOOD) for _ in range(count)]


def test_classes_follow_table_1() -> None:
    assert CLASS_NAMES == ("RBC", "PLT", "WBC", "ARBC")
    mixture = BLOOD.mixture
    assert sum(mixture.values()) == pytest.approx(1)
    assert mixture["RBC"] == pytest.approx(96860 / 115143)
    assert mixture["WBC"] == pytest.approx(124 / 115143)
    raised = BloodSettings(wbc_fraction=0.02).mixture
    assert raised["WBC"] == 0.02
    assert sum(raised.values()) == pytest.approx(1)
    assert raised["RBC"] / raised["ARBC"] == pytest.approx(96860 / 9017)


@pytest.mark.parametrize("irregularity", [0.2, 1.0])
@pytest.mark.parametrize("kind", RED_KINDS)
def test_every_kind_keeps_its_volume_and_hemoglobin_at_any_tilt(kind: str, irregularity: float) -> None:
    cell = red_cell(np.random.default_rng(1), kind, 90.0, 33.0, irregularity=irregularity, alpha_dl_g=0.0019)
    for tilt in (0.0, 0.7, math.pi / 2):
        patch = render(cell, Pose(8.03, 7.96, 5.11, tilt, 0.6, 0.3), VOXEL)
        assert patch.inside.sum(dtype=float) * math.prod(VOXEL) == pytest.approx(90.0, rel=0.005)
        # Dry mass from refractive index: alpha of 0.0019 dL/g is 0.19 um^3/pg.
        mass = patch.contrast.sum(dtype=float) * math.prod(VOXEL) / 0.19
        assert mass == pytest.approx(cell.hemoglobin_pg, rel=0.005)
        faces = [patch.inside.take(side, axis=axis) for axis in range(3) for side in (0, -1)]
        assert not any(face.any() for face in faces)  # nothing sticks out of the patch


@pytest.mark.parametrize("kind", ["elliptocyte", "teardrop", "folded", "crenated"])
def test_irregularity_starts_from_the_disc(kind: str) -> None:
    disc, flat, near, far = (
        red_cell(np.random.default_rng(2), name, 90.0, 33.0, irregularity=u).components[0].solid
        for name, u in (("discocyte", 0.0), (kind, 0.0), (kind, 0.5), (kind, 1.0))
    )
    axis = np.linspace(-6, 6, 61)
    grid = np.meshgrid(axis, axis, axis / 3)
    inside = [solid.level(*grid) > 0 for solid in (disc, flat, near, far)]
    assert (inside[0] == inside[1]).all()
    changed = [np.mean(inside[0] ^ other) / inside[0].mean() for other in inside[2:]]
    assert 0.02 < changed[0] < changed[1]


def test_unknown_kind() -> None:
    with pytest.raises(UserError, match="choose from discocyte"):
        red_cell(np.random.default_rng(0), "sickle", 90.0, 33.0)


def test_red_cells_of_a_sample() -> None:
    cells = cells_of("RBC", 2000)
    volumes = np.array([cell.volume_fl for cell in cells])
    mchc = np.array([cell.hemoglobin_pg / (0.01 * cell.volume_fl) for cell in cells])
    assert volumes.mean() == pytest.approx(90.0, rel=0.02)
    assert volumes.std() / volumes.mean() == pytest.approx(0.13, rel=0.08)
    assert mchc.mean() == pytest.approx(33.5, rel=0.01)
    assert mchc.std() / mchc.mean() == pytest.approx(0.04, rel=0.08)
    assert {cell.kind for cell in cells} == {"discocyte"}


def test_irregular_cells_are_of_many_kinds_and_smaller() -> None:
    cells = cells_of("ARBC", 400)
    shares = {kind: np.mean([cell.kind == kind for cell in cells]) for kind in BLOOD.red_cells.arbc_kinds}
    assert shares == pytest.approx(dict(BLOOD.red_cells.arbc_kinds), abs=0.07)
    irregularity = [cell.irregularity for cell in cells]
    assert 0.125 <= min(irregularity) < 0.15
    assert max(irregularity) <= 1
    assert np.mean([cell.volume_fl for cell in cells]) == pytest.approx(90 * 0.7, rel=0.03)


def test_axis_ratio_of_the_shadow() -> None:
    disc = Disc.from_volume(90.0, axis_ratio=1.5)
    cell = Cell(class_name="ARBC", kind="elliptocyte", volume_fl=90.0, components=(Component(disc, 0.06),))
    patch = render(cell, Pose(8.0, 8.0, 5.0, azimuth_rad=0.7), VOXEL)
    y, x = np.nonzero(patch.footprint)
    eigenvalues, vectors = np.linalg.eigh(np.cov(np.stack([x, y])))
    assert math.sqrt(eigenvalues[1] / eigenvalues[0]) == pytest.approx(1.5, rel=0.01)
    angle = math.atan2(vectors[1, 1], vectors[0, 1]) % math.pi
    assert angle == pytest.approx(0.7, abs=0.02)
    outline = cell.outline_um2(Pose(0, 0, azimuth_rad=0.7).rotation)
    assert np.sqrt(np.linalg.eigvalsh(outline)) == pytest.approx(sorted(disc.half_extent_um[:2]), rel=0.02)


def test_platelets() -> None:
    for cell in cells_of("PLT", 200):
        shape = cell.components[0].solid
        assert isinstance(shape, Ellipsoid)
        assert shape.volume_fl == pytest.approx(cell.volume_fl)
        assert 5 <= cell.volume_fl <= 12
        assert 2.0 <= 2 * shape.semi_axes_um[0] <= 3.2
        assert 0.3 <= shape.semi_axes_um[2] / shape.semi_axes_um[0] <= 0.8
        assert cell.hemoglobin_pg == 0


def test_white_cells() -> None:
    cells = cells_of("WBC", 60)
    assert {cell.kind for cell in cells} == {"neutrophil", "lymphocyte", "monocyte"}
    for cell in cells:
        body, nucleus, granules = cell.components[0].solid, cell.components[1], cell.components[2:]
        assert isinstance(body, Ellipsoid)
        assert body.volume_fl == pytest.approx(cell.volume_fl)
        limit = {"lymphocyte": (7, 9), "neutrophil": (9, 12), "monocyte": (12, 15)}[cell.kind]
        assert limit[0] <= 2 * (cell.volume_fl * 0.75 / math.pi) ** (1 / 3) <= limit[1]
        for component in cell.components[1:]:
            reach = np.abs(component.center_um) + component.solid.half_extent_um
            assert (reach <= np.asarray(body.semi_axes_um) * 1.001).all()
        places = np.array([granule.center_um for granule in granules]).reshape(-1, 3) - nucleus.center_um
        assert (nucleus.solid.level(*places.T) < 0).all()
    counts = {kind: [len(c.components) - 2 for c in cells if c.kind == kind] for kind in ("neutrophil", "lymphocyte")}
    assert min(counts["neutrophil"]) > 100
    assert max(counts["lymphocyte"]) <= 10


def test_a_white_cell_holds_its_nucleus() -> None:
    cell = next(cell for cell in cells_of("WBC", 40) if cell.kind == "lymphocyte")
    body, nucleus = cell.components[0], cell.components[1]
    plain = Cell(class_name="WBC", kind="body", volume_fl=cell.volume_fl, components=(body,))
    both = Cell(class_name="WBC", kind="both", volume_fl=cell.volume_fl, components=(body, nucleus))
    pose = Pose(10.0, 10.0, 6.0, 0.4, 0.5, 0.2)
    added = (render(both, pose, VOXEL).contrast - render(plain, pose, VOXEL).contrast).sum(dtype=float)
    expected = nucleus.delta_n * nucleus.solid.volume_fl / math.prod(VOXEL)
    assert added == pytest.approx(expected, rel=0.01)


def test_patch_moves_and_turns_with_the_cell() -> None:
    cell = cells_of("ARBC", 1)[0]
    first = render(cell, Pose(8.0, 8.0, 5.0, 0.3, 0.5, 0.2), VOXEL)
    moved = render(cell, Pose(8.0 + 5 * 0.162, 8.0 - 60 * 0.162, 5.0 + 2 * VOXEL[0], 0.3, 0.5, 0.2), VOXEL)
    assert (moved.first, moved.top, moved.left) == (first.first + 2, first.top - 60, first.left + 5)
    assert moved.inside == pytest.approx(first.inside, abs=2e-3)
    columns = np.arange(first.inside.shape[2]) + 0.5 + first.left
    round_cell = red_cell(np.random.default_rng(0), "discocyte", 90.0, 33.0)
    patch = render(round_cell, Pose(8.0, 8.0, 5.0, 0.3, 0.5, 0.2), VOXEL)
    columns = np.arange(patch.inside.shape[2]) + 0.5 + patch.left
    center = (patch.inside.sum((0, 1), dtype=float) * columns).sum() / patch.inside.sum(dtype=float) * 0.162
    assert center == pytest.approx(8.0, abs=0.01)
    square = (0.162, 0.162, 0.162)
    upright = render(cell, Pose(8.1, 8.1, 5.0, 0.3, 0.5, 0.2), square)
    turned = render(cell, Pose(8.1, 8.1, 5.0, 0.3, 0.5 + math.pi / 2, 0.2), square)
    assert turned.inside == pytest.approx(np.rot90(upright.inside, -1, axes=(1, 2)), abs=1e-3)  # y points down


def test_samples_differ_and_repeat() -> None:
    samples = [draw_sample(np.random.default_rng(seed), BLOOD) for seed in range(200)]
    assert samples[3] == draw_sample(np.random.default_rng(3), BLOOD)
    mcv = np.array([sample.mcv_fl for sample in samples])
    assert mcv.mean() == pytest.approx(88, abs=2)
    assert mcv.std() == pytest.approx(8.5, abs=1.2)
    assert min(mcv) >= 63
    assert max(mcv) <= 110
    shares = np.array([sample.fractions for sample in samples])
    assert shares.sum(1) == pytest.approx(1)
    assert shares.mean(0) == pytest.approx([BLOOD.mixture[name] for name in CLASS_NAMES], rel=0.1)
    assert np.log(shares[:, 3] / shares[:, 1]).std() == pytest.approx(0.25 * math.sqrt(2), rel=0.15)
    same = replace(BLOOD, mixture_sd=0.0)
    assert draw_sample(np.random.default_rng(0), same).fractions == pytest.approx(tuple(same.mixture.values()))


def test_annotators_call_cells_by_their_own_threshold() -> None:
    rng = np.random.default_rng(0)
    sharp = replace(BLOOD, annotator_thresholds=(0.1, 0.3, 0.5), annotator_sd=0.0)

    def words(irregularity: float, class_name: str = "RBC") -> tuple[str, ...]:
        cell = red_cell(rng, "elliptocyte", 90.0, 33.0, class_name=class_name, irregularity=irregularity)
        return annotate(rng, cell, sharp)

    assert words(0.05) == ("RBC", "RBC", "RBC")
    assert words(0.2, "ARBC") == ("ARBC", "RBC", "RBC")
    assert majority(words(0.2)) == "RBC"
    assert majority(words(0.4)) == "ARBC"
    assert annotate(rng, cells_of("WBC", 1)[0], sharp) == ("WBC", "WBC", "WBC")
    called = [majority(annotate(rng, cell, BLOOD)) for name in ("RBC", "ARBC") for cell in cells_of(name, 300)]
    assert np.mean(np.array(called[:300]) == "RBC") > 0.97
    assert np.mean(np.array(called[300:]) == "ARBC") > 0.97


def test_what_hemoglobin_does_to_light_depends_on_the_wavelength() -> None:
    red = RedCellSettings(alpha_dl_g=((0.4, 0.0020), (0.6, 0.0018)), absorption_dl_g=((0.4, 1e-4), (0.6, 0.0)))
    blood = replace(BLOOD, red_cells=red)
    for wavelength, alpha, absorption in ((0.3, 0.0020, 1e-4), (0.45, 0.00195, 7.5e-5), (0.7, 0.0018, 0.0)):
        cell = draw_cell(np.random.default_rng(4), "RBC", SAMPLE, blood, wavelength_um=wavelength)
        concentration = cell.hemoglobin_pg / (0.01 * cell.volume_fl)
        assert cell.components[0].delta_n == pytest.approx(alpha * concentration)
        assert cell.components[0].delta_k == pytest.approx(absorption * concentration)
        patch = render(cell, Pose(8.0, 8.0, 5.0), VOXEL)
        assert (patch.absorption is None) == (absorption == 0)


def test_tilts_follow_the_class() -> None:
    rng = np.random.default_rng(0)
    tilts = {name: [draw_tilt_rad(rng, cell, BLOOD) for cell in cells_of(name, 60)] for name in CLASS_NAMES}
    assert max(tilts["RBC"]) <= math.radians(25)
    assert max(tilts["PLT"]) > math.radians(70)
    assert not any(tilts["WBC"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BloodSettings(class_fractions={"RBC": 1.0}), "share for each"),
        (lambda: BloodSettings(class_fractions=dict.fromkeys(CLASS_NAMES, 0.3)), "add up to 1"),
        (lambda: BloodSettings(wbc_fraction=1.0), "wbc_fraction"),
        (lambda: BloodSettings(annotator_thresholds=(0.1, 0.2)), "odd number"),
        (lambda: BloodSettings(annotator_sd=-1.0), "annotator_sd"),
        (lambda: RedCellSettings(arbc_irregularity=(0.8, 1.2)), r"within \[0, 1\]"),
        (lambda: RedCellSettings(alpha_dl_g=((0.6, 0.002), (0.4, 0.002))), "rising wavelengths"),
        (lambda: RedCellSettings(arbc_kinds={"sickle": 1.0}), "sickle"),
        (lambda: RedCellSettings(tilt_deg=(3.0,)), "neither"),
        (lambda: RedCellSettings(sample_mcv_fl=(88.0, 2.0, 100.0, 110.0)), "2 sd"),
        (lambda: PlateletSettings(aspect=(0.8, 0.3)), "neither"),
        (lambda: WhiteCellSettings(kind_fractions={"basophil": 1.0}), "basophil"),
    ],
)
def test_impossible_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_platelets_without_a_possible_size() -> None:
    settings = BloodSettings(platelets=PlateletSettings(diameter_um=(9.0, 10.0)))
    with pytest.raises(UserError, match="widen diameter_um"):
        draw_cell(np.random.default_rng(0), "PLT", SAMPLE, settings)
