"""Drawn cells: truth against what is rendered, distributions, symmetry."""

import math

import numpy as np
import pytest

from hemolens.errors import UserError
from hemolens.optics.cells import (
    CLASS_NAMES,
    BiconcaveDisc,
    BloodSettings,
    Cell,
    Component,
    Donor,
    Ellipsoid,
    PlateletSettings,
    Pose,
    RedCellSettings,
    WhiteCellSettings,
    draw_cell,
    draw_donor,
    draw_tilt_rad,
    project,
)

PIXEL = 0.162
DONOR = Donor(mcv_fl=90.0, rdw_percent=13.0, mchc_g_dl=33.5, hemoglobin_cv_percent=4.0)
BLOOD = BloodSettings()


def cells_of(class_name: str, count: int, seed: int = 0) -> list[Cell]:
    rng = np.random.default_rng(seed)
    return [draw_cell(rng, class_name, DONOR, BLOOD) for _ in range(count)]


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


@pytest.mark.parametrize("class_name", ["RBC", "ARBC"])
def test_rendered_volume_and_hemoglobin_are_the_drawn_ones(class_name: str) -> None:
    rng = np.random.default_rng(1)
    for cell in cells_of(class_name, 8):
        angles = rng.uniform(0, 2 * math.pi, size=2)
        pose = Pose(8.0, 8.0, draw_tilt_rad(rng, cell, BLOOD), *angles)
        view = project(cell, pose, pixel_um=PIXEL)
        volume = view.thickness_um.sum(dtype=float) * PIXEL**2
        # Dry mass from optical path: alpha of 0.0019 dL/g is 0.19 um^3/pg.
        hemoglobin = view.opd_um.sum(dtype=float) * PIXEL**2 / 0.19
        assert volume == pytest.approx(cell.volume_fl, rel=0.01)
        assert hemoglobin == pytest.approx(cell.hemoglobin_pg, rel=0.01)


def test_red_cells_of_a_donor() -> None:
    cells = cells_of("RBC", 2000)
    volumes = np.array([cell.volume_fl for cell in cells])
    mchc = np.array([cell.hemoglobin_pg / (0.01 * cell.volume_fl) for cell in cells])
    assert volumes.mean() == pytest.approx(90.0, rel=0.02)
    assert volumes.std() / volumes.mean() == pytest.approx(0.13, rel=0.08)
    assert mchc.mean() == pytest.approx(33.5, rel=0.01)
    assert mchc.std() / mchc.mean() == pytest.approx(0.04, rel=0.08)
    assert {cell.kind for cell in cells} == {"discocyte"}


def test_irregular_cells_are_elongated_and_smaller() -> None:
    cells = cells_of("ARBC", 500)
    ratios = []
    for cell in cells:
        shape = cell.components[0].shape
        assert isinstance(shape, BiconcaveDisc)
        assert shape.volume_fl == pytest.approx(cell.volume_fl, rel=1e-9)
        ratios.append(shape.semi_axes_um[0] / shape.semi_axes_um[1])
    assert 1.15 <= min(ratios) < 1.2
    assert max(ratios) <= 2.2
    assert np.mean([cell.volume_fl for cell in cells]) == pytest.approx(90 * 0.7, rel=0.03)


def test_axis_ratio_of_the_picture() -> None:
    disc = BiconcaveDisc.from_volume(90.0, axis_ratio=1.5)
    cell = Cell("ARBC", "elliptocyte", 90.0, 30.0, (Component(disc, 0.06),))
    view = project(cell, Pose(8.0, 8.0, azimuth_rad=0.7), pixel_um=PIXEL)
    y, x = np.nonzero(view.footprint)
    eigenvalues, vectors = np.linalg.eigh(np.cov(np.stack([x, y])))
    assert math.sqrt(eigenvalues[1] / eigenvalues[0]) == pytest.approx(1.5, rel=0.01)
    angle = math.atan2(vectors[1, 1], vectors[0, 1]) % math.pi
    assert angle == pytest.approx(0.7, abs=0.02)


def test_platelets() -> None:
    for cell in cells_of("PLT", 200):
        shape = cell.components[0].shape
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
        body, nucleus = cell.components[0].shape, cell.components[1].shape
        assert isinstance(body, Ellipsoid)
        assert body.volume_fl == pytest.approx(cell.volume_fl)
        limit = {"lymphocyte": (7, 9), "neutrophil": (9, 12), "monocyte": (12, 15)}[cell.kind]
        assert limit[0] <= 2 * (cell.volume_fl * 0.75 / math.pi) ** (1 / 3) <= limit[1]
        for component in cell.components[1:]:
            for axis in np.eye(3):
                center = abs(float(axis @ np.asarray(component.shape.center_um)))
                reach = center + component.shape.half_extent_um(axis)
                assert reach <= body.half_extent_um(axis) + 1e-9
        for granule in cell.components[2:]:
            assert not nucleus.contains(np.asarray(granule.shape.center_um))  # type: ignore[union-attr]
    granules = {kind: [len(c.components) - 2 for c in cells if c.kind == kind] for kind in ("neutrophil", "lymphocyte")}
    assert min(granules["neutrophil"]) > 100
    assert max(granules["lymphocyte"]) <= 10


def test_projection_moves_with_the_cell() -> None:
    cell = cells_of("ARBC", 1)[0]
    first = project(cell, Pose(8.0, 8.0, 0.3, 0.5, 0.2), pixel_um=PIXEL)
    moved = project(cell, Pose(8.0 + 5 * PIXEL, 8.0 - 60 * PIXEL, 0.3, 0.5, 0.2), pixel_um=PIXEL)
    assert (moved.left, moved.top) == (first.left + 5, first.top - 60)
    assert moved.opd_um == pytest.approx(first.opd_um, abs=2e-3)
    columns = np.arange(first.opd_um.shape[1]) + 0.5 + first.left
    center = (first.opd_um * columns).sum(dtype=float) / first.opd_um.sum(dtype=float) * PIXEL
    assert center == pytest.approx(8.0, abs=0.01)


def test_projection_turns_with_the_cell() -> None:
    cell = cells_of("WBC", 1)[0]
    first = project(cell, Pose(8.1, 8.1, 0.3, 0.5, 0.2), pixel_um=PIXEL)
    turned = project(cell, Pose(8.1, 8.1, 0.3, 0.5 + math.pi / 2, 0.2), pixel_um=PIXEL)
    assert turned.opd_um == pytest.approx(np.rot90(first.opd_um, -1), abs=1e-3)  # y points down


def test_donors_differ_and_repeat() -> None:
    settings = RedCellSettings()
    donors = [draw_donor(np.random.default_rng(seed), settings) for seed in range(200)]
    assert donors[3] == draw_donor(np.random.default_rng(3), settings)
    mcv = np.array([donor.mcv_fl for donor in donors])
    assert mcv.mean() == pytest.approx(88, abs=2)
    assert mcv.std() == pytest.approx(8.5, abs=1.2)
    assert min(mcv) >= 63
    assert max(mcv) <= 110


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BloodSettings(class_fractions={"RBC": 1.0}), "share for each"),
        (lambda: BloodSettings(class_fractions=dict.fromkeys(CLASS_NAMES, 0.3)), "add up to 1"),
        (lambda: BloodSettings(wbc_fraction=1.0), "wbc_fraction"),
        (lambda: RedCellSettings(arbc_axis_ratio=(0.8, 1.2)), "starts at 1"),
        (lambda: RedCellSettings(tilt_deg=(3.0,)), "neither"),
        (lambda: RedCellSettings(donor_mcv_fl=(88.0, 2.0, 100.0, 110.0)), "2 sd"),
        (lambda: PlateletSettings(aspect=(0.8, 0.3)), "neither"),
        (lambda: WhiteCellSettings(kind_fractions={"basophil": 1.0}), "basophil"),
    ],
)
def test_impossible_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]


def test_platelets_without_a_possible_size() -> None:
    settings = BloodSettings(platelets=PlateletSettings(diameter_um=(9.0, 10.0)))
    with pytest.raises(UserError, match="widen diameter_um"):
        draw_cell(np.random.default_rng(0), "PLT", DONOR, settings)
