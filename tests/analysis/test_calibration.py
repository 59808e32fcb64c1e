"""The correction of cell indices, and the increment from a laboratory's own values."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hemolens.analysis.calibration import calibrate_rii, fit_calibration, read_calibration
from hemolens.analysis.cell_measures import FEATURES, Contour, contour, features, resolution_um
from hemolens.analysis.indices import IndexSettings, corrected
from hemolens.errors import UserError
from hemolens.optics.tomography import TomographySettings

K = len(FEATURES)


def made_up(n=200, seed=0):
    """Features and ratios that follow the model exactly."""
    rng = np.random.default_rng(seed)
    values = rng.normal(1.0, 0.2, (n, K)) * np.arange(1, K + 1)
    volume, hemoglobin = (rng.normal(0, 0.05, K) for _ in range(2))
    return values, np.exp(0.1 + values @ volume), np.exp(-0.2 + values @ hemoglobin)


def fitted(values, volume, hemoglobin, **keys):
    return fit_calibration(values, volume, hemoglobin, threshold=0.005, iterations=30, **keys)


def test_an_exact_law_is_found_and_kept_in_the_file(tmp_path):
    values, volume, hemoglobin = made_up()
    calibration = fitted(values, volume, hemoglobin, ridge=1e-9, made_by={"command": "by hand"})
    calibration.write(tmp_path / "c.json")
    again = read_calibration(tmp_path / "c.json")
    inside = ((values >= again.low) & (values <= again.high)).all(1)
    assert 100 < inside.sum() < 200  # 1 % of each feature lies outside
    for found in (calibration.factors(values), again.factors(values)):
        assert found[0][inside] == pytest.approx(volume[inside], rel=1e-6)
        assert found[1][inside] == pytest.approx(hemoglobin[inside], rel=1e-6)
        assert (found[2] == ~inside).all()
    assert (again.threshold, again.iterations, again.made_by) == (0.005, 30, {"command": "by hand"})
    with pytest.raises(UserError, match="exists"):
        calibration.write(tmp_path / "c.json")


def test_ridge_is_least_squares_with_one_more_row_a_feature():
    values, volume, hemoglobin = made_up()
    volume = volume * np.exp(np.random.default_rng(1).normal(0, 0.1, len(volume)))
    calibration = fitted(values, volume, hemoglobin, ridge=7.0)
    x = (values - values.mean(0)) / values.std(0)
    y = np.log(volume)
    rows, sides = np.concatenate([x, math.sqrt(7.0) * np.eye(K)]), np.concatenate([y - y.mean(), np.zeros(K)])
    assert calibration.volume[0] == pytest.approx(y.mean())
    assert calibration.volume[1:] == pytest.approx(np.linalg.lstsq(rows, sides)[0])


def test_unknown_cells_are_flagged_and_far_ones_stop_at_the_range():
    values, volume, hemoglobin = made_up()
    calibration = fitted(values, volume, hemoglobin)
    far = calibration.high.copy()
    far[3] += 100 * calibration.sd[3]
    missing = calibration.mean.copy()
    missing[0] = math.nan
    cells = np.stack([calibration.mean, calibration.high, far, missing])
    of_volume, of_hemoglobin, extrapolated = calibration.factors(cells)
    assert extrapolated.tolist() == [False, False, True, True]
    assert of_volume[1] == of_volume[2] and of_hemoglobin[1] == of_hemoglobin[2]
    assert (of_volume[3], of_hemoglobin[3]) == (1, 1)
    assert of_volume[0] == pytest.approx(math.exp(np.log(volume).mean()))
    table = pd.DataFrame({"cv_fl": [90.0] * 3 + [0.0], "ch_pg": 30.0, "concentration_g_dl": 1.0, "extrapolated": False})
    after = corrected(table, cells, calibration)
    assert after.cv_fl.tolist() == pytest.approx((table.cv_fl * of_volume).tolist())
    assert after.concentration_g_dl[0] == pytest.approx(100 * after.ch_pg[0] / after.cv_fl[0])
    assert math.isnan(after.concentration_g_dl[3])
    assert after.extrapolated.tolist() == [False, False, True, True]


def test_too_few_cells():
    values, volume, hemoglobin = made_up(60)
    values[:20, 2] = math.nan
    with pytest.raises(UserError, match=r"40 cells with features: .* at least 50"):
        fitted(values, volume, hemoglobin)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format="other"), "no calibration of this version"),
        (lambda c: c["features"].pop("tilt"), "no calibration of this version"),
        (lambda c: c.pop("iterations"), "'iterations'"),
        (lambda c: c["features"]["tilt"].update(sd=0.0), "sd holds impossible values"),
        (lambda c: c["features"]["tilt"].update(volume=math.nan), "volume holds impossible values"),
        (lambda c: c["features"].update(tilt=3), "no calibration of this version"),
    ],
)
def test_bad_files_are_named(change, words, tmp_path):
    path = tmp_path / "c.json"
    fitted(*made_up()).write(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words) as caught:
        read_calibration(path)
    assert str(path) in str(caught.value)
    for text in ("no json", "[1]"):
        path.write_text(text)
        with pytest.raises(UserError, match="calibration="):
            read_calibration(path)
    with pytest.raises(UserError, match="No such file"):
        IndexSettings(method="regressor", calibration=str(tmp_path / "none.json"))


def test_hemolens_comes_with_one():
    shipped = read_calibration()
    assert (shipped.threshold, shipped.iterations) == (0.005, 30)
    assert shipped.made_by["command"].startswith("python scripts/fit_indices.py")
    assert (shipped.low < shipped.mean).all() and (shipped.mean < shipped.high).all()
    volume, hemoglobin, extrapolated = shipped.factors(shipped.mean[None])
    assert 0.9 < volume[0] < 1.0 and 0.95 < hemoglobin[0] < 1.0 and not extrapolated[0]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"method": "half_max", "calibration": "c.json"}, "only method=regressor"),
        ({"method": "regressor", "iterations": 10}, "iterations=10: the calibration .* iterations=30"),
        ({"method": "regressor", "threshold": 0.01}, "threshold=0.01, .* threshold=0.005"),
        ({"rii": "calibrated"}, "rii=calibrated: must be a number; .*calibrate_rii"),
        ({"iterations": "many"}, "iterations=many: must be a number"),
    ],
)
def test_settings_that_do_not_fit_are_named(keys, words):
    with pytest.raises(UserError, match=words):
        IndexSettings(**keys)


def test_features_by_plain_arithmetic():
    rng = np.random.default_rng(0)
    crop = np.float32(rng.uniform(0, 0.08, (6, 9, 8)))
    crop[:2] *= np.float32(0.01)  # empty slices
    own = rng.uniform(size=(9, 8)) < 0.7
    axes = (np.array([0.2, 3.0, 4.0]), 30.0)
    peaks = crop.max((1, 2))
    found = contour(crop, peaks, 0.0, own, 0.005)
    inside = (crop > np.float32(0.005)) & own
    assert len(found.values) == inside.sum() and found.content == pytest.approx(crop[inside].sum(dtype=float))
    assert (found.footprint == inside.any(0)).all()
    dense = np.percentile(crop[inside], 95)
    above = {share: ((crop > share * dense) & own) for share in (0.5, 0.7, 0.9)}
    expected = [
        math.log(inside.any(0).sum() / above[0.5].any(0).sum()),
        math.log(np.percentile(crop[inside], 99) / dense),
        math.log(dense),
        above[0.7].sum() / above[0.5].sum(),
        above[0.9].sum() / above[0.5].sum(),
        math.log(np.median(crop[inside]) / dense),
        1.2 / math.sqrt(12 * 0.2),
        0.25,
        math.log(0.3),
        math.log(1.2),
    ]
    assert features(crop, peaks, found, own, axes, (1.2, 0.3)) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert np.isnan(features(crop, peaks, found, own, (axes[0], math.nan), (1.2, 0.3))).all()
    nothing = Contour(np.zeros(0, np.float32), 0.0, np.zeros((9, 8), bool))
    assert np.isnan(features(crop, peaks, nothing, own, axes, (1.2, 0.3))).all()


def test_resolution_of_equal_apertures():
    """Across: wavelength / (2 NA). Along: between the axis and the rim of the aperture, n - sqrt(n^2 - NA^2)."""
    optics = TomographySettings(condenser_na=0.8, objective_na=0.8, wavelength_um=0.5, medium_index=1.337)
    along, across = resolution_um(optics)
    assert across == pytest.approx(0.5 / 1.6)
    assert along == pytest.approx(0.5 / (1.337 - math.sqrt(1.337**2 - 0.64)), rel=0.01)


def table_of(mch, names="abcdef", **more):
    return pd.DataFrame({"sample": list(names[: len(mch)]), "mch_pg": mch, **more})


def test_increment_that_gives_slope_1(tmp_path):
    reference = table_of([26.0, 28.0, 29.0, 31.0, 33.0])
    measured = pd.concat(
        [
            table_of(1.25 * reference.mch_pg + 2, indices_of="RBC+ARBC"),
            table_of(3.0 * reference.mch_pg, indices_of="RBC"),
            table_of([math.nan], "f", indices_of="RBC+ARBC"),
        ]
    )
    found = calibrate_rii(measured, reference, rii=0.0019)
    assert (found.rii, found.samples) == (pytest.approx(0.0019 * 1.25), 5)
    assert found.rii_ci == pytest.approx((found.rii, found.rii))  # no scatter
    measured.to_csv(tmp_path / "samples.csv", index=False)
    reference.iloc[::-1].to_csv(tmp_path / "analyser.csv", index=False)
    assert calibrate_rii(tmp_path / "samples.csv", tmp_path / "analyser.csv", rii=0.0019).rii == pytest.approx(
        found.rii
    )
    assert calibrate_rii(measured, reference, rii=0.0019, indices_of="RBC").rii == pytest.approx(0.0057)


def test_numbers_as_names_of_samples(tmp_path):
    path = Path(tmp_path / "samples.csv")
    table_of([26.0, 28.0, 29.0], ["007", "008", "009"]).to_csv(path, index=False)
    assert calibrate_rii(path, table_of([26.0, 28.0, 29.0], ["007", "008", "009"]), rii=1.0).samples == 3


@pytest.mark.parametrize(
    ("reference", "rii", "words"),
    [
        (table_of([26.0, 28.0, 29.0]), 0, "rii=0"),
        (table_of([26.0, 28.0, 29.0]).drop(columns="mch_pg"), 1, "reference: no column mch_pg"),
        (table_of([26.0, 28.0, 29.0], "xyz"), 1, "0 samples with MCH are in both tables"),
        (table_of([26.0, 28.0, 29.0], "abb"), 1, "reference: sample b occurs twice"),
        ("nowhere.csv", 1, "reference=nowhere.csv: cannot be read"),
    ],
)
def test_bad_references_are_named(reference, rii, words):
    with pytest.raises(UserError, match=words):
        calibrate_rii(table_of([26.0, 28.0, 29.0]), reference, rii=rii)
