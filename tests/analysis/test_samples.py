"""Samples from their cells: what counts, what is measured, and intervals that hold the truth."""

import numpy as np
import pandas as pd
import pytest

from hemolens.analysis.hematology_figures import draw_samples
from hemolens.analysis.samples import sample_table
from hemolens.errors import UserError

CLASSES = ["RBC", "PLT", "WBC", "ARBC"]


def made_up(n=50, sample="a", mcv=90.0, sd=12.0, name="RBC", seed=0):
    cv = np.random.default_rng(seed).normal(mcv, sd, n)
    return pd.DataFrame(
        {
            "sample": sample,
            "file": [f"{sample}_{i % 3}.tcf" for i in range(n)],
            "class": name,
            "cv_fl": cv,
            "ch_pg": cv * 0.33,
            "border_cut": False,
            "clumped": False,
        }
    )


def test_indices_of_a_sample():
    cells = pd.concat([made_up(), made_up(10, mcv=60, name="ARBC", seed=1), made_up(4, name="PLT")], ignore_index=True)
    rbc, both = sample_table(cells, CLASSES).to_dict("records")
    red = cells[cells["class"] == "RBC"]
    assert (rbc["n_files"], rbc["n_RBC"], rbc["n_PLT"], rbc["n_WBC"], rbc["n_ARBC"]) == (3, 50, 4, 0, 10)
    assert rbc["fraction_RBC"] == pytest.approx(50 / 64)
    assert (rbc["indices_of"], both["indices_of"], rbc["n_measured"], both["n_measured"]) == ("RBC", "RBC+ARBC", 50, 60)
    assert rbc["mcv_fl"] == pytest.approx(red.cv_fl.mean()) and rbc["mch_pg"] == pytest.approx(red.ch_pg.mean())
    assert rbc["mchc_g_dl"] == pytest.approx(33) and rbc["mchc_g_dl_low"] == pytest.approx(33)
    assert rbc["rdw_percent"] == pytest.approx(100 * red.cv_fl.std() / red.cv_fl.mean())
    assert both["mcv_fl"] < rbc["mcv_fl"]
    for name in ("mcv_fl", "mch_pg", "rdw_percent"):
        assert rbc[f"{name}_low"] < rbc[name] < rbc[f"{name}_high"]


def test_cut_and_clumped_cells_count_but_are_not_measured():
    cells = made_up(20)
    cells.loc[0, "border_cut"] = cells.loc[1, "clumped"] = True
    cells.loc[2, "cv_fl"] = 0.0
    cells.loc[:1, "cv_fl"] = 1e6
    row = sample_table(cells, CLASSES).iloc[0]
    assert row.n_RBC == 20 and row.n_measured == 17
    assert row.mcv_fl == pytest.approx(cells.cv_fl[3:].mean())


def test_samples_without_cells_are_listed():
    table = sample_table(made_up(1), CLASSES, files={"b_0.tcf": "b", "b_1.tcf": "b"})
    empty = table[table["sample"] == "b"].iloc[0]
    assert (empty.n_files, empty.n_RBC, empty.n_measured) == (2, 0, 0) and np.isnan(empty.mcv_fl)
    assert table[table["sample"] == "a"].mcv_fl.isna().all()  # one cell is no mean
    assert len(sample_table(made_up(0), CLASSES, files={"b_0.tcf": "b"})) == 2


def test_intervals_hold_the_truth():
    held = sum(
        row.mcv_fl_low <= 90 <= row.mcv_fl_high
        for row in (sample_table(made_up(40, seed=seed), CLASSES).iloc[0] for seed in range(100))
    )
    assert 86 <= held <= 100


def test_figure_shows_every_sample():
    cells = pd.concat([made_up(sample=name, seed=i) for i, name in enumerate("abc")], ignore_index=True)
    figure = draw_samples(cells, sample_table(cells, CLASSES))
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == ["a", "b", "c"]
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "RBC (150)"


def test_missing_columns_are_named():
    with pytest.raises(UserError, match="ch_pg"):
        sample_table(made_up().drop(columns="ch_pg"), CLASSES)
