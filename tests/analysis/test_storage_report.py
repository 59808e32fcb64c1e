"""Paper B's tables and figures from run folders."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hemolens.analysis import storage_paper as paper
from hemolens.analysis.report_page import write_report
from hemolens.analysis.report_sources import find_sources
from hemolens.analysis.storage_paper_figures import PhaseWithClasses, lone_cell
from hemolens.analysis.storage_report import TITLE, storage_report
from hemolens.errors import UserError

from .storage_folders import calibrate, generated_pairs, segmentation_run, stored_series


def section_of(sections: list[Any], words: str) -> Any:
    (found,) = [section for section in sections if words in section.title]
    return found


def blocks_of(sections: list[Any]) -> dict[str, Any]:
    return {block.name: block.table for section in sections for block in section.blocks if hasattr(block, "table")}


def test_tables_group_seeds_and_stand_beside_the_paper(tmp_path: Path) -> None:
    segmentation_run(tmp_path / "a0", "resunet18", 0, dice=0.90)
    segmentation_run(tmp_path / "a1", "resunet18", 1, dice=0.94)
    segmentation_run(tmp_path / "b0", "unet_s", 0, dice=0.80)
    segmentation_run(tmp_path / "c0", "mine", 0, dice=0.70)
    lead, sections = storage_report(find_sources([str(tmp_path)]))
    tables = blocks_of(sections)
    dice = tables["table_dice"].set_index("Method")
    others = {f"{method} (not run)" for method in paper.DICE if method not in ("ResUnet", "U-Net")}
    assert set(dice.index) == {"ResUnet (resunet18)", "U-Net (unet_s)", "mine"} | others and len(others) == 8
    assert dice.loc["ResUnet + SSL (not run)", "Paper B overall"] == 0.9381
    ours = dice.loc["ResUnet (resunet18)"]
    assert ours["Overall"] == pytest.approx(0.92) and ours["SD of seeds"] == pytest.approx(0.0282843, rel=1e-4)
    assert ours["discocyte"] == pytest.approx(0.92) and np.isnan(ours["stomatocyte"])
    assert ours["Overall, paper's way"] == pytest.approx(0.95) and ours["Paper B overall"] == 0.9292
    assert np.isnan(dice.loc["mine", "Paper B overall"])
    aji = tables["table_aji"].set_index("Method")
    assert aji.loc["U-Net (unet_s)", "Paper B overall"] == 0.8396
    cells = tables["cells"].set_index("Method").loc["ResUnet (resunet18)"]
    assert cells["right type, discocyte"] == pytest.approx(90 / 91)
    assert cells["missed"] == pytest.approx(3 / 148)
    cost = tables["table3_cost"].set_index("Method").loc["ResUnet (resunet18)"]
    assert cost["10 images (s)"] == 4.5 and cost["Image"] == "900×900"
    assert cost["MACs (G)"] == pytest.approx(5.29) and cost["Paper B (s)"] == 1.7472
    assert "not comparable" in lead[1] or "no figure is comparable" in lead[1]
    text = " ".join(words for section in sections for words in section.text)
    assert "inference" in text and "more parameters" in text


def test_the_page_holds_figure_6_with_a_column_a_method(tmp_path: Path) -> None:
    segmentation_run(tmp_path / "runs" / "a0", "resunet18")
    segmentation_run(tmp_path / "runs" / "b0", "unet_s")
    lead, sections = storage_report(find_sources([str(tmp_path / "runs")]))
    page = write_report(tmp_path / "report", TITLE, lead, sections)
    assert (tmp_path / "report" / "figures" / "fig6_segmentations.png").is_file()
    (figure,) = [
        panel.figure
        for section in sections
        for block in section.blocks
        for panel in getattr(block, "panels", [])
        if panel.name == "fig6_segmentations"
    ]
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["phase", "truth", "ResUnet (resunet18)", "U-Net (unet_s)"]
    assert "Stored red cells" in page.read_text()


def test_a_method_with_larger_pixels_says_so_and_is_drawn_on_the_finer_images(tmp_path: Path) -> None:
    segmentation_run(tmp_path / "a0", "resunet18")
    coarse = segmentation_run(tmp_path / "b0", "ddgan_mask_s", parameters=1)
    (coarse / "config_resolved.yaml").write_text(yaml.safe_dump({"seed": 0, "data": {"binning": 4}, "net": {}}))
    with np.load(coarse / "figures" / "test_maps.npz") as stored:
        smaller = {name: stored[name] if name == "names" else stored[name][::4, ::4] for name in stored.files}
    np.savez_compressed(coarse / "figures" / "test_maps.npz", **smaller)
    sections = storage_report(find_sources([str(tmp_path)]))[1]
    (figure,) = [panel.figure for panel in section_of(sections, "Fig. 6").blocks[0].panels]
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles[:2] == ["phase", "truth"] and titles[3] == "ResUnet (resunet18)"
    assert titles[2].endswith("4× larger pixels)")
    shapes = {axes.images[0].get_array().shape[:2] for axes in figure.axes if axes.images}
    assert shapes == {(40, 40)}


def test_runs_without_maps_or_of_other_images_are_named(tmp_path: Path) -> None:
    segmentation_run(tmp_path / "a0", "resunet18")
    other = segmentation_run(tmp_path / "b0", "unet_s")
    with np.load(other / "figures" / "test_maps.npz") as stored:
        changed = {name: stored[name] for name in stored.files} | {"names": np.array(["three", "four"])}
    np.savez_compressed(other / "figures" / "test_maps.npz", **changed)
    caption = section_of(storage_report(find_sources([str(tmp_path)]))[1], "Fig. 6").blocks[0].caption
    assert "Not of the same images: U-Net (unet_s)" in caption
    for run in ("a0", "b0"):
        (tmp_path / run / "figures" / "test_maps.npz").unlink()
    sections = storage_report(find_sources([str(tmp_path)]))[1]
    assert "callbacks.figures" in section_of(sections, "Fig. 6").missing
    assert "callbacks.figures" in section_of(sections, "Fig. 10").missing


def test_other_classes_are_left_out_and_named(tmp_path: Path) -> None:
    segmentation_run(tmp_path / "a0", "resunet18")
    segmentation_run(tmp_path / "b0", "unet_s", parameters=99_000_000, class_names=["background", "cell"])
    _, sections = storage_report(find_sources([str(tmp_path)]))
    assert "Left out for other classes: b0" in section_of(sections, "Table 1").text[0]


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder at runs="):
        find_sources([str(tmp_path / "nowhere")])


def test_the_papers_own_means_but_one() -> None:
    """Overall is the mean of the four types; Table 2's ResUnet + SSL is the one that is not."""
    wrong = {
        method
        for table in (paper.DICE, paper.AJI)
        for method, values in table.items()
        if abs(sum(values[:4]) / 4 - values[4]) > 0.00051
    }
    assert wrong == {"ResUnet + SSL"}


def test_arms_are_the_papers_rows_and_controls_are_named(tmp_path: Path) -> None:
    for arm in ("plain", "da", "ssl", "da_ssl", "oracle"):
        folder = segmentation_run(tmp_path / arm, "resunet18")
        config = {"seed": 0, "data": {"seed": 0, "arm": arm}, "net": {"name": "resunet18"}, "arm_name": arm}
        (folder / "config_resolved.yaml").write_text(yaml.safe_dump(config))
    dice = blocks_of(storage_report(find_sources([str(tmp_path)]))[1])["table_dice"].set_index("Method")
    known = {
        "ResUnet (resunet18)": 0.9292,
        "ResUnet + DA (resunet18)": 0.9358,
        "ResUnet + SSL (resunet18)": 0.9381,
        "ResUnet + DA&SSL (resunet18)": 0.9752,
    }
    assert {name: dice.loc[name, "Paper B overall"] for name in known} == known
    assert np.isnan(dice.loc["resunet18, oracle", "Paper B overall"])
    assert sum(name.endswith("(not run)") for name in dice.index) == 6


def test_figures_5_and_7_to_10(tmp_path: Path) -> None:
    run = segmentation_run(tmp_path / "runs" / "a0", "resunet18")
    calibrate(run)
    stored_series(tmp_path / "assessed")
    generated_pairs(tmp_path / "pairs")
    lead, sections = storage_report(find_sources([str(tmp_path)]))
    assert not [section.missing for section in sections if section.missing]
    page = write_report(tmp_path / "report", TITLE, lead, sections)
    figures = ("fig5_generated", "fig6_segmentations", "fig7_gallery", "fig8_trend", "fig9_confusion", "fig10_data")
    for name in (*figures, "fig8_errors", "morphology"):
        assert (tmp_path / "report" / "figures" / f"{name}.png").stat().st_size > 5000, name
    tables = blocks_of(sections)
    row = tables["storage_series"].iloc[0]
    assert (row["flagged"], row["right, discocyte"]) == (3, 0.99) and np.isnan(row["right, stomatocyte"])
    assert tables["calibration"].iloc[0]["right of these"] == 0.97
    assert tables["generated_cells"]["pairs"].tolist() == [5, 4]
    assert tables["generated_cells"]["stomatocyte"].tolist() == [1, 1]
    assert "counted by hand" in page.read_text()


def test_what_is_not_there_is_said_with_its_command(tmp_path: Path) -> None:
    segmentation_run(tmp_path / "runs" / "a0", "resunet18")
    said = {section.title: section.missing for section in storage_report(find_sources([str(tmp_path)]))[1]}
    assert "hemolens generate" in said["Generated pairs (Fig. 5)"]
    assert "pipeline=storage" in said["Blood in storage (Figs 7 to 9)"]
    assert "calibrate=true" in said["Probabilities of the types"]
    stored_series(tmp_path / "assessed", truth=False)
    sections = storage_report(find_sources([str(tmp_path)]))[1]
    assert "no truth" in section_of(sections, "Fig. 9").missing
    names = [panel.name for panel in section_of(sections, "Fig. 8").blocks[0].panels]
    assert names == ["fig8_trend", "morphology"]


def test_a_lone_cell_is_found_away_from_others_and_the_border() -> None:
    classes = np.zeros((80, 80), np.uint8)
    classes[:10, :10] = 1  # at the border
    classes[30:40, 30:40], classes[30:40, 40:50] = 1, 2  # touching
    classes[60:68, 58:66] = 1
    image = PhaseWithClasses("a", 1.0 * classes, classes)
    window = lone_cell(image, 1)
    assert window is not None and classes[window].sum() == 64 and (classes[window] == 1).sum() == 64
    assert lone_cell(image, 2) is None and lone_cell(image, 3) is None
