"""Paper A's report from runs and predictions: every number is one that was put in."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hemolens.analysis.agreement import passing_bablok
from hemolens.analysis.hematology_report import TITLE, hematology_report
from hemolens.analysis.report_page import Section, TableBlock, to_markdown, write_report
from hemolens.analysis.report_sources import find_sources, find_truth, read_reference
from hemolens.errors import UserError

from .report_folders import CONFUSION, NAMES, detection_run, prediction, truth_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one detector, one of another, and a prediction with its truth; for reading only."""
    place = tmp_path_factory.mktemp("report")
    for seed in (0, 1):
        detection_run(place / "runs" / f"r18_{seed}", seed=seed)
    detection_run(place / "runs" / "swin", "swin_tiny_patch4_window7_224")
    prediction(place / "found", truth_folder(place / "cohort"))
    return place


@pytest.fixture(scope="module")
def written(folders: Path) -> Path:
    sources = find_sources([str(folders / "runs"), str(folders / "found")])
    lead, sections = hematology_report(sources)
    return write_report(folders / "report", TITLE, lead, sections, about=sources.facts()).parent


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "tables" / f"{name}.csv")


def test_tables_hold_what_the_runs_measured(written: Path) -> None:
    detection = table(written, "table2_detection").set_index("Backbone")
    assert detection.loc["ResNet-18", "mAP"] == pytest.approx(0.915)
    assert detection.loc["ResNet-18", "SD of seeds"] == pytest.approx(0.01 / np.sqrt(2))
    assert detection.loc["Swin Transformer", "Paper A mAP"] == 0.977
    assert np.isnan(detection.loc["Swin Transformer", "SD of seeds"])
    classes = table(written, "table3_classes").set_index(["Backbone", "Class"])
    arbc = classes.loc[("Swin Transformer", "ARBC")]
    assert arbc.Recall == pytest.approx(90 / 115) and arbc.Precision == pytest.approx(90 / 103)
    assert arbc["Paper A recall"] == 0.7090
    totals = table(written, "table3_totals").set_index("Backbone")
    red = sum(CONFUSION[a][i] for a in ("RBC", "ARBC") for i in (0, 3))
    assert totals.loc["Swin Transformer", "RBC for ARBC or the reverse"] == 12 + 25
    assert totals.loc["Swin Transformer", "share of red cells"] == pytest.approx(37 / red)
    assert totals.loc["ResNet-18", "Paper A RBC for ARBC or the reverse"] == 306
    cells = table(written, "table1_cells")
    assert list(cells["Data of"].unique()) == ["ResNet-18", "Paper A"]  # data that are the same are listed once
    assert cells[cells["Data of"] == "Paper A"].set_index("Split").loc["total", "RBC"] == 96_860


def test_indices_are_compared_with_analyser_and_truth(written: Path, folders: Path) -> None:
    agreed = table(written, "fig4_agreement").set_index(["Index", "Cells", "Against"])
    assert len(agreed) == 8  # MCV and MCH, RBC and RBC+ARBC, analyser and truth
    found = pd.read_csv(folders / "found" / "samples.csv")
    reference = pd.read_csv(folders / "cohort" / "reference.csv")
    rbc = found[found.indices_of == "RBC"]
    line = passing_bablok(reference.mcv_fl, rbc.mcv_fl)
    assert agreed.loc[("MCV (fL)", "RBC", "analyser"), "Slope"] == pytest.approx(line.slope)
    assert agreed.loc[("MCV (fL)", "RBC", "analyser"), "Paper A r"] == 0.905
    same = agreed.loc[("MCV (fL)", "RBC", "truth of the same cells")]
    assert same.r > 0.99 and same.Slope == pytest.approx(1.05, abs=0.05) and same.Bias == pytest.approx(4.4, abs=1)
    assert np.isnan(same["Paper A r"])
    by_class = table(written, "fig5_classes").set_index(["Quantity", "Found as"])
    assert by_class.loc[("CV (fL)", "ARBC"), "True mean"] < by_class.loc[("CV (fL)", "RBC"), "True mean"]
    assert by_class.loc[("CH (pg)", "RBC"), "RMSE a cell"] == pytest.approx(0.5, abs=0.1)


def test_counts_and_irregularity(written: Path, folders: Path) -> None:
    counts = table(written, "counts").set_index("Class")
    truth = pd.read_csv(folders / "cohort" / "cells.csv")
    assert counts["True cells"].to_dict() == {name: int((truth["class"] == name).sum()) for name in NAMES}
    assert counts.loc["RBC", "Bias"] > 0 > counts.loc["ARBC", "Bias"]  # those wrongly called are called RBC
    irregularity = table(written, "fig3_irregularity").set_index("Measure")
    assert irregularity.loc["Spearman of the main axis with irregularity", "Value"] > 0.8
    ceiling = irregularity.loc["An annotator agrees with the majority (ceiling)", "Value"]
    assert 0.98 < ceiling < 1


def test_figures_are_there_twice_and_in_the_page(written: Path) -> None:
    names = {path.stem for path in (written / "figures").glob("*.png")}
    assert names == {path.stem for path in (written / "figures").glob("*.svg")}
    assert {"fig2_1_matched", "fig2_2_all", "fig3_tsne", "fig3_irregularity", "fig3_crops_rbc_rbc"} <= names
    assert {f"fig4_{index}_{of}" for index in ("mcv_fl", "mch_pg") for of in ("analyser", "truth")} <= names
    assert {"fig5_cv", "fig5_ch", "counts_rbc"} <= names
    page = (written / "report.html").read_text()
    assert page.count("data:image/svg+xml") == len(names)
    assert "http://" not in page and "https://" not in page  # nothing is loaded from anywhere
    assert page.count("simulated data; difficulty is a setting; not comparable") >= 6


def test_numbers_say_where_they_come_from(written: Path) -> None:
    content = json.loads((written / "report.json").read_text())
    assert [(run["backbone"], run["seed"]) for run in content["runs"]] == [
        ("resnet18", 0),
        ("resnet18", 1),
        ("swin_tiny_patch4_window7_224", 0),
    ]
    assert content["measured"][0]["hematology"]["method"] == "half_max"
    assert content["tables"]["table2_detection"][0]["Paper A mAP"] == 0.97
    assert set(content["tables"]) == {path.stem for path in (written / "tables").glob("*.csv")}


def test_without_truth_a_laboratory_gives_its_own_table(folders: Path, tmp_path: Path) -> None:
    prediction(tmp_path / "found", folders / "cohort", source="D:/elsewhere")
    sources = find_sources([str(tmp_path / "found")])
    lead, sections = hematology_report(sources)
    assert any("truth of the tomograms is not known" in line for line in lead)
    missing = {section.title: section.missing for section in sections if section.missing}
    assert "hemolens train" in missing["Detection (Tables 1 to 3, Fig. 2)"]
    assert "reference=<CSV" in missing["Red-cell indices of blood samples (Fig. 4)"]
    (tmp_path / "lab.csv").write_text("sample,mcv_fl\n" + "".join(f"{i},{78 + 3 * i}\n" for i in range(8)))
    _, sections = hematology_report(sources, reference=str(tmp_path / "lab.csv"))
    blocks = {block.name: block for section in sections for block in section.blocks if isinstance(block, TableBlock)}
    assert set(blocks["fig4_agreement"].table.Index) == {"MCV (fL)"}
    page = write_report(tmp_path / "report", TITLE, lead, sections).read_text()
    assert "other samples and other annotations; not comparable" in page
    assert "simulated data" not in page and "simulated blood" not in page
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match=r"empty\.csv cannot be read"):
        hematology_report(sources, reference=str(tmp_path / "empty.csv"))


def test_truth_is_found_from_another_folder(folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prediction(folders / "relative", folders / "cohort", source="cohort/volumes")
    monkeypatch.chdir(tmp_path)
    (found,) = find_sources([str(folders / "relative")]).hematology
    assert find_truth(None, found) == folders / "cohort"


def test_rows_are_runs_that_differ_in_their_seed_alone(tmp_path: Path) -> None:
    for number, (seed, lr) in enumerate([(0, 1e-3), (1, 1e-3), (1, 1e-3), (0, 1e-2)]):
        detection_run(tmp_path / "runs" / f"run{number}", seed=seed, lr=lr)
    other = detection_run(tmp_path / "runs" / "two", seed=7, class_names=["a", "b"], parameters=5)
    (tmp_path / "runs" / "foreign").mkdir()
    (tmp_path / "runs" / "foreign" / "prediction.json").write_text("[]")
    (tmp_path / "runs" / "foreign" / "status.json").write_text('{"state": "finished", "jo')
    sources = find_sources([str(tmp_path / "runs")])
    assert len(sources.left_out) == 1 and "foreign is damaged or foreign" in sources.left_out[0]
    _, sections = hematology_report(sources)
    detection = next(section for section in sections if section.title == "Detection (Table 2)")
    (block,) = detection.blocks
    rows = block.table.set_index("Backbone")
    assert list(rows.index) == ["ResNet-18 (det_resnet18, run0)", "ResNet-18 (det_resnet18, run3)"]
    assert rows["mAP"].tolist() == pytest.approx([0.915, 0.91])  # seed 1 counts once
    assert other.name in detection.text[0]
    with pytest.raises(UserError, match="none were found in runs="):
        hematology_report(sources, reference="lab.csv")


def test_tomograms_without_a_found_cell_count(folders: Path, tmp_path: Path) -> None:
    found = prediction(tmp_path / "found", folders / "cohort")
    cells = pd.read_csv(found / "cells.csv", dtype={"sample": str})
    lost = cells.file == "s3.tcf"
    cells.loc[lost, "sample"] = "3"
    cells[~lost].to_csv(found / "cells.csv", index=False)
    samples = pd.read_csv(found / "samples.csv", dtype={"sample": str})
    columns = [name for name in samples if name.startswith("n_") and name not in ("n_files", "n_measured")]
    samples.loc[samples["sample"] == "3", columns] = 0
    samples.to_csv(found / "samples.csv", index=False)
    _, sections = hematology_report(find_sources([str(found)]))
    blocks = {block.name: block for section in sections for block in section.blocks if isinstance(block, TableBlock)}
    truth = pd.read_csv(folders / "cohort" / "cells.csv")
    counts = blocks["counts"].table.set_index("Class")
    assert counts["True cells"].to_dict() == {name: int((truth["class"] == name).sum()) for name in NAMES}


def test_slips_are_named(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder at runs="):
        find_sources([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="nothing to report"):
        find_sources([str(folders / "cohort")])
    unfinished = detection_run(tmp_path / "runs" / "r18")
    (unfinished / "status.json").write_text(json.dumps({"state": "failed", "job": "train"}))
    with pytest.raises(UserError, match="r18 is failed"):
        find_sources([str(tmp_path / "runs")])
    (unfinished / "status.json").write_text(json.dumps({"state": "finished", "job": "train"}))
    (unfinished / "test.json").unlink()
    with pytest.raises(UserError, match=r"no test\.json"):
        find_sources([str(tmp_path / "runs")])
    sources = find_sources([str(folders / "found")])
    with pytest.raises(UserError, match=r"holds no cells\.csv"):
        hematology_report(sources, truth=str(tmp_path))
    table_file = tmp_path / "lab.csv"
    for text, message in (
        ("sample,hgb\n1,2\n", "mcv_fl or mch_pg"),
        ("sample,mcv_fl\n1,80\n1,81\n", "sample 1 twice"),
        ("sample,mcv_fl\n1,80\n2,high\n", "mcv_fl of sample 2"),
    ):
        table_file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_reference(table_file)
    table_file.write_text("sample,mcv_fl\nx,80\n")
    with pytest.raises(UserError, match="name them alike"):
        hematology_report(sources, reference=str(table_file))


def test_reports_are_not_overwritten_unless_asked(tmp_path: Path) -> None:
    section = Section("s", blocks=[TableBlock("t", "T", pd.DataFrame({"a": ["x|y", None], "b": [-0.5, float("nan")]}))])
    write_report(tmp_path / "out", "title", [], [section])
    with pytest.raises(UserError, match="overwrite=true"):
        write_report(tmp_path / "out", "title", [], [section])
    write_report(tmp_path / "out", "title", [], [section], overwrite=True)
    (tmp_path / "out" / "mine.txt").write_text("")
    with pytest.raises(UserError, match=r"mine\.txt"):
        write_report(tmp_path / "out", "title", [], [section], overwrite=True)
    with pytest.raises(UserError, match="must differ"):
        write_report(tmp_path / "new", "title", [], [section, section])
    assert not (tmp_path / "new").exists()
    lines = to_markdown(section.blocks[0]).splitlines()
    assert lines[2:] == ["| a | b |", "| --- | ---: |", "| x\\|y | −0.500 |", "| – | – |"]
