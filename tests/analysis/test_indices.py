"""Cells of known volume and hemoglobin, seen through the model of tomography, against what is measured."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hemolens.analysis.calibration import read_calibration
from hemolens.analysis.indices import METHODS, RII_PAPER, instrument_of, measure_cells, measure_features
from hemolens.errors import UserError
from hemolens.io.volumes import RIArray, Volume
from hemolens.optics.cells import Pose, red_cell, render
from hemolens.optics.tomography import TomographySettings, band_limit_axially, form_tomogram

MEDIUM, ALPHA, VOLUME_FL, MCHC = 1.337, 0.0019, 94.0, 33.0
OPTICS = TomographySettings(noise_ri=0.0, background_ri=0.0, margin_slices=0)
SIDE = 128


def as_volume(index):
    return Volume(
        array=RIArray(np.asarray(index, np.float32), "made up"),
        voxel_um=OPTICS.voxel_um,
        medium_index=MEDIUM,
        wavelength_um=OPTICS.wavelength_um,
        path=Path("made up"),
    )


def cell_volume(tilt_deg, optics=OPTICS, places=((SIDE / 2, SIDE / 2),)):
    """A tomogram of discocytes and their boxes."""
    cell = red_cell(np.random.default_rng(0), "discocyte", VOLUME_FL, MCHC, alpha_dl_g=ALPHA)
    fine, whole = optics.fine_voxel_um, np.zeros((optics.fine_depth, SIDE, SIDE), np.float32)
    boxes = []
    for y, x in places:
        pose = Pose(x * fine[2] + 0.03, y * fine[1] - 0.02, optics.stack_um / 2, math.radians(tilt_deg), 0.4, 0.2)
        patch = render(cell, pose, fine)
        d, h, w = patch.contrast.shape
        whole[patch.first : patch.first + d, patch.top : patch.top + h, patch.left : patch.left + w] += patch.contrast
        ys, xs = np.flatnonzero(patch.footprint.any(1)), np.flatnonzero(patch.footprint.any(0))
        boxes.append([patch.left + xs[0], patch.top + ys[0], patch.left + xs[-1] + 1, patch.top + ys[-1] + 1])
    truth = band_limit_axially(whole, optics.axial_oversampling)
    return as_volume(form_tomogram(np.random.default_rng(0), truth, optics)), np.array(boxes, float)


# Volume and hemoglobin in % of the truth behind a condenser of 0.72, an objective of 0.95, 450 nm: the published
# threshold overestimates flat cells fourfold, the others do not. Tolerances in points.
@pytest.mark.parametrize("tilt", [0, 45, 90])
@pytest.mark.parametrize(
    ("method", "cv", "ch"),
    [
        ("threshold", {0: (383, 38), 45: (359, 36), 90: (223, 22)}, {0: (85, 8.5), 45: (98, 9.8), 90: (101, 10)}),
        ("gp_threshold", None, {0: (101, 3), 45: (101, 3), 90: (101, 3)}),
        ("half_max", {0: (101, 6), 45: (101, 6), 90: (101, 6)}, {0: (101, 3), 45: (101, 3), 90: (101, 3)}),
        ("regressor", {0: (100, 6), 45: (100, 6), 90: (100, 6)}, {0: (100, 3), 45: (100, 3), 90: (100, 3)}),
        ("column", {0: (99, 1), 45: (99, 1), 90: (99, 1)}, {0: (100, 1), 45: (100, 1), 90: (100, 1)}),
    ],
)
def test_methods_against_the_truth(method, cv, ch, tilt):
    volume, boxes = cell_volume(tilt)
    row = measure_cells(volume, boxes, method=method, optics=OPTICS).iloc[0]
    truth_pg = 0.01 * MCHC * VOLUME_FL
    assert 100 * row.ch_pg / truth_pg == pytest.approx(ch[tilt][0], abs=ch[tilt][1])
    if cv:
        assert 100 * row.cv_fl / VOLUME_FL == pytest.approx(cv[tilt][0], abs=cv[tilt][1])
    assert row.concentration_g_dl == pytest.approx(100 * row.ch_pg / row.cv_fl)
    if method in ("gp_threshold", "half_max", "regressor"):
        assert row.tilt_deg == pytest.approx(tilt, abs=7)
    else:
        assert math.isnan(row.tilt_deg)


def literal_threshold(index, box, rii):
    """Equations 11 and 12 of paper A, with the factor that makes picograms."""
    x0, y0, x1, y1 = box
    count, total = 0, 0.0
    for z in range(index.shape[0]):
        for y in range(y0, y1):
            for x in range(x0, x1):
                if index[z, y, x] - MEDIUM > 0.005:
                    count += 1
                    total += index[z, y, x]
    step = math.prod(OPTICS.voxel_um)
    return count * step, 0.01 * (total - count * MEDIUM) / rii * step


@pytest.mark.parametrize("rii", [RII_PAPER, ALPHA])
def test_threshold_is_the_published_equations(rii):
    rng = np.random.default_rng(0)
    index = np.full((5, 30, 40), MEDIUM)
    index[1:4, 10:20, 12:28] += rng.uniform(-0.01, 0.05, (3, 10, 16))
    row = measure_cells(as_volume(index), [[12, 10, 28, 20]], method="threshold", rii=rii).iloc[0]
    cv, ch = literal_threshold(np.float32(index).astype(float), (12, 10, 28, 20), rii)
    assert (row.cv_fl, row.ch_pg) == pytest.approx((cv, ch), rel=1e-5)
    assert cv == pytest.approx(row.contour_voxels * 0.0192, rel=2e-3)  # the unit volume that paper A states


def test_no_voxel_counts_twice():
    index = np.full((4, 60, 90), MEDIUM + 0.02)
    boxes = [[10, 10, 40, 50], [30, 15, 70, 45], [35, 5, 60, 30], [30, 15, 70, 45]]
    table = measure_cells(as_volume(index), boxes, method="threshold")
    reached = np.zeros((60, 90), bool)
    for x0, y0, x1, y1 in boxes:
        reached[max(y0 - 4, 0) : y1 + 4, max(x0 - 4, 0) : x1 + 4] = True
    assert table.contour_voxels.sum() == 4 * reached.sum()
    assert table.clumped.all()
    assert table.contour_voxels[1] > 0 and table.contour_voxels[3] == 0  # the same box twice: the first has it


@pytest.mark.parametrize("method", ["gp_threshold", "column"])  # a neighbour's halo costs the plain threshold 10 %
def test_touching_cells_keep_their_own_content(method):
    single, box = cell_volume(0, places=((64, 40),))
    pair, boxes = cell_volume(0, places=((64, 40), (64, 40 + 51)))
    alone = measure_cells(single, box, method=method, optics=OPTICS).iloc[0]
    beside = measure_cells(pair, boxes, method=method, optics=OPTICS)
    assert beside.ch_pg[0] == pytest.approx(alone.ch_pg, rel=0.03)
    assert beside.ch_pg[0] == pytest.approx(beside.ch_pg[1], rel=0.03)


@pytest.mark.parametrize("method", ["threshold", "half_max", "regressor"])
def test_only_the_chosen_are_measured(method):
    volume, boxes = cell_volume(0, places=((64, 40), (64, 40 + 51)))
    keys = {} if method == "regressor" else {"iterations": 2}
    both = measure_cells(volume, boxes, method=method, optics=OPTICS, **keys)
    one = measure_cells(volume, boxes, method=method, optics=OPTICS, chosen=[False, True], **keys)
    pd.testing.assert_series_equal(one.iloc[1], both.iloc[1])
    assert math.isnan(one.cv_fl[0]) and math.isnan(one.ch_pg[0]) and one.footprint_um2[0] == 0
    with pytest.raises(UserError, match="chosen has shape \\[1\\]"):
        measure_cells(volume, boxes, method="threshold", chosen=[True])


def test_regressor_corrects_what_half_max_gives():
    volume, boxes = cell_volume(0)
    half, values = measure_features(volume, boxes, optics=OPTICS)
    pd.testing.assert_frame_equal(half, measure_cells(volume, boxes, method="half_max", optics=OPTICS))
    found = measure_cells(volume, boxes, method="regressor", optics=OPTICS).iloc[0]
    of_volume, of_hemoglobin, extrapolated = read_calibration().factors(values)
    assert found.cv_fl == pytest.approx(half.cv_fl[0] * of_volume[0])
    assert found.ch_pg == pytest.approx(half.ch_pg[0] * of_hemoglobin[0])
    assert found.extrapolated == extrapolated[0]
    assert (found.tilt_deg, found.contour_voxels) == (half.tilt_deg[0], half.contour_voxels[0])


def test_regressor_leaves_what_it_cannot_judge():
    index = np.full((8, 60, 60), MEDIUM, np.float32)
    index[3, 20:30, 20:30] += 0.012  # too faint to tell how it lies
    table = measure_cells(as_volume(index), [[18, 18, 32, 32], [40, 40, 55, 55]], method="regressor")
    half = measure_cells(as_volume(index), [[18, 18, 32, 32], [40, 40, 55, 55]], method="half_max")
    assert table.extrapolated.all() and not half.extrapolated.any()
    assert table.cv_fl.tolist() == half.cv_fl.tolist() and table.ch_pg.tolist() == half.ch_pg.tolist()


def test_instrument_by_default():
    volume = as_volume(np.full((3, 20, 20), MEDIUM))
    optics = instrument_of(volume, condenser_na=0.6)
    assert (optics.condenser_na, optics.objective_na) == (0.6, TomographySettings.objective_na)
    assert (optics.voxel_um, optics.wavelength_um) == (volume.voxel_um, volume.wavelength_um)


def test_flags():
    index = np.full((3, 50, 50), MEDIUM)
    index[:, 5:15, 0:12] += 0.02
    table = measure_cells(
        as_volume(index), [[2, 5, 12, 15], [20, 20, 30, 30], [36, 36, 46, 46], [37, 37, 48, 46]], method="threshold"
    )
    assert table.border_cut.tolist() == [True, False, False, True]
    assert table.clumped.tolist() == [False, False, True, True]
    assert table.cv_fl[1] == 0 and math.isnan(table.concentration_g_dl[1])


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_volume_stays_as_it_is(method):
    volume, boxes = cell_volume(0)
    before = volume.array[:].copy()
    measure_cells(volume, boxes, method=method, iterations=None if method == "regressor" else 2)
    assert np.array_equal(before, volume.array[:])


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.5, 2.5])
@pytest.mark.parametrize("method", ["threshold", "gp_threshold", "column"])
def test_impossible_values_are_refused(method, value):
    index = np.full((6, 40, 40), MEDIUM, np.float32)
    index[2, 20, 20] = value
    with pytest.raises(UserError, match="made up: refractive index from"):
        measure_cells(as_volume(index), [[12, 12, 28, 28]], method=method)


def test_stored_integers_are_measured_as_their_index():
    index = np.full((5, 30, 40), 13370, np.uint16)
    index[1:4, 10:20, 12:28] += np.random.default_rng(0).integers(0, 500, (3, 10, 16), np.uint16)
    stored = replace(as_volume(index), array=RIArray(index, "made up", scale=1e-4))
    boxes = [[12, 10, 28, 20]]
    plain = measure_cells(as_volume(index * 1e-4), boxes, method="threshold")
    pd.testing.assert_frame_equal(measure_cells(stored, boxes, method="threshold"), plain)


def test_no_boxes():
    table = measure_cells(as_volume(np.full((3, 20, 20), MEDIUM)), [], method="threshold")
    assert len(table) == 0 and "cv_fl" in table.columns


@pytest.mark.parametrize(
    ("boxes", "keys", "words"),
    [
        ([[0, 0, 10, 10]], {"method": "best"}, "method=best"),
        ([[0, 0, 10, 10]], {"rii": 0}, "rii=0"),
        ([[0, 0, 10]], {}, "give \\[M, 4\\]"),
        ([[0, 0, 10, 10], [5, 5, 60, 20]], {}, "number 1"),
        ([[8, 0, 8, 10]], {}, "number 0"),
        ([[0, 0, math.nan, 10]], {}, "number 0"),
    ],
)
def test_bad_input_is_named(boxes, keys, words):
    with pytest.raises(UserError, match=words):
        measure_cells(as_volume(np.full((3, 20, 20), MEDIUM)), boxes, **{"method": "threshold", **keys})
