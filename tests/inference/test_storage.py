"""Stored blood by bag and day: tables, pictures and errors from segmented images and a manifest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hemolens.errors import UserError
from hemolens.inference.segmentation_outputs import SegmentedField, write_segmentations
from hemolens.inference.storage import StorageOutputs
from hemolens.io.labels import write_labels
from hemolens.io.phase import PhaseImage

NAMES = ["background", "discocyte", "spherocyte", "echinocyte", "stomatocyte"]
# (bag, day, true labels of three cells, what they are called)
IMAGES = {
    "a_day08_f0": ("a", 8, (1, 1, 1), (1, 1, 1)),
    "a_day08_f1": ("a", 8, (1, 1, 2), (1, 1, 1)),
    "a_day40_f0": ("a", 40, (2, 2, 3), (2, 2, 0)),
    "b_day40_f0": ("b", 40, (1, 3, 4), (1, 3, 4)),
}


def maps(labels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Three squares of 20 px; 0 for none."""
    classes, instances = np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.int32)
    for place, label in enumerate(labels):
        at = np.s_[10 + 30 * place : 30 + 30 * place, 40:60]
        classes[at], instances[at] = label, (place + 1) * (label > 0)
    return classes, instances


def lay_out(folder: Path, *, truth: bool = True, header: str = "file,sample,bag,storage_day") -> Path:
    lines = [header]
    for name, (bag, day, true, _) in IMAGES.items():
        lines.append(f"holograms/{name}.png,{bag}{day},{bag},{day}")
        if truth:
            for place, labels in zip(("classes", "instances"), maps(true), strict=True):
                write_labels(folder / place / f"{name}.ome.tif", labels)
    folder.mkdir(exist_ok=True)
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def assess(folder: Path, output: Path, **options: Any) -> None:
    def fields():
        for name, (_, _, _, called) in IMAGES.items():
            classes, instances = maps(called)
            scores = np.log(np.full((3, 5), 0.1, np.float32))
            scores[np.arange(3), np.maximum(called, 1)] = np.log([0.9, 0.9, 0.6])  # of the four types: 3/4 and 2/3
            found = {"classes": classes, "instances": instances, "probability": np.ones((100, 100), np.float32)}
            found["cell_log_probability"] = scores
            image = PhaseImage((classes > 0).astype(np.float32), 0.144, 0.666)
            yield SegmentedField(name, f"holograms/{name}.png", image, found)

    more = StorageOutputs(folder, NAMES, **options)
    more.check([folder / "holograms" / f"{name}.png" for name in IMAGES])
    write_segmentations(output, fields(), NAMES, info={}, alpha_um3_pg=0.19, overlays=False, more=more)


def test_shares_by_bag_and_day_with_errors(tmp_path: Path) -> None:
    assess(lay_out(tmp_path / "stored"), tmp_path / "out")
    out = tmp_path / "out"
    cells = pd.read_csv(out / "cells.csv")
    assert (
        list(cells.columns[:6]) == ["file", "bag", "storage_day", "type_probability", "decided", "cell"]
        and len(cells) == 11
    )
    assert cells.groupby(["bag", "storage_day"]).size().to_dict() == {("a", 8): 6, ("a", 40): 2, ("b", 40): 3}
    images = pd.read_csv(out / "images.csv", index_col="file")
    assert images.loc["holograms/a_day08_f1.png", ["discocyte", "true_discocyte", "true_spherocyte"]].tolist() == [
        3,
        2,
        1,
    ]
    days = pd.read_csv(out / "days.csv").set_index(["storage_day", "type"])
    assert days.loc[(8, "discocyte"), ["share", "true_share", "error"]].tolist() == pytest.approx(
        [1, 5 / 6, 1 / 6], abs=1e-4
    )
    assert days.loc[(40, "spherocyte"), ["share", "true_share", "bags"]].tolist() == pytest.approx(
        [2 / 5, 2 / 6, 2], abs=1e-4
    )
    series = pd.read_csv(out / "series.csv")
    assert series.groupby(["bag", "storage_day"])["cells"].first().to_dict() == {
        ("a", 8): 6,
        ("a", 40): 2,
        ("b", 40): 3,
    }
    summary = json.loads((out / "storage.json").read_text())
    assert summary["right_type"] == pytest.approx(
        {"discocyte": 1.0, "spherocyte": 2 / 3, "echinocyte": 0.5, "stomatocyte": 1.0}, abs=1e-4
    )
    assert (summary["bags"], summary["storage_days"], summary["images"]) == (["a", "b"], [8.0, 40.0], 4)
    assert images["flags"].str.contains("few_cells").all() and summary["flagged_images"] == 4
    assert summary["flags"]["few_cells"] == 4
    for name in ("trend", "errors", "morphology", "gallery", "confusion"):
        assert (out / f"{name}.png").stat().st_size > 5000, name


def test_unsure_cells_are_left_undecided(tmp_path: Path) -> None:
    assess(lay_out(tmp_path / "stored"), tmp_path / "out", least_probability=0.7)
    cells = pd.read_csv(tmp_path / "out" / "cells.csv")
    third = (cells["cell"] == 3).to_numpy()  # 0.6 beside three times 0.1
    assert cells.loc[third, "type_probability"].tolist() == pytest.approx([2 / 3] * 3, abs=1e-4)
    assert cells.loc[~third, "type_probability"].tolist() == pytest.approx([3 / 4] * 8, abs=1e-4)
    assert (cells["decided"] == (~third).astype(int)).all()
    images = pd.read_csv(tmp_path / "out" / "images.csv", index_col="file")
    assert images["undecided"].tolist() == [1, 1, 0, 1]
    assert images.loc["holograms/b_day40_f0.png", NAMES[1:]].tolist() == [1, 0, 1, 0]
    assert json.loads((tmp_path / "out" / "storage.json").read_text())["undecided_cells"] == 3
    assess(tmp_path / "stored", tmp_path / "sharper", least_probability=0.7, temperature=0.5)
    assert pd.read_csv(tmp_path / "sharper" / "cells.csv")["decided"].all()  # 36 / 39
    with pytest.raises(UserError, match="least_probability"):
        StorageOutputs(tmp_path / "stored", NAMES, least_probability=1.0)


def test_without_truth_there_are_no_errors(tmp_path: Path) -> None:
    assess(lay_out(tmp_path / "stored", truth=False), tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"trend.png", "days.csv"} <= written and not {"errors.png", "confusion.png"} & written
    assert "error" not in pd.read_csv(tmp_path / "out" / "days.csv")
    assert "right_type" not in json.loads((tmp_path / "out" / "storage.json").read_text())


def test_columns_of_a_simulation_will_do(tmp_path: Path) -> None:
    assess(lay_out(tmp_path / "stored", truth=False, header="file,sample,donor,day"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "storage.json").read_text())["bags"] == ["a", "b"]


def test_phases_are_known_by_the_name_of_their_hologram(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "stored", truth=False)
    more = StorageOutputs(tmp_path / "phases", NAMES, manifest=folder / "manifest.csv")
    assert more.of(tmp_path / "phases" / "a_day40_f0.ome.tif").storage_day == 40
    with pytest.raises(UserError, match=r"no row for .*stranger"):
        more.of(tmp_path / "phases" / "stranger.ome.tif")


@pytest.mark.parametrize(
    ("header", "words"),
    [("file,sample,bag,when", "no column storage_day"), ("file,sample,storage_day,bag", "'a', no number")],
)
def test_bad_manifests(tmp_path: Path, header: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        StorageOutputs(lay_out(tmp_path / "stored", truth=False, header=header), NAMES)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match=r"holds no manifest\.csv"):
        StorageOutputs(tmp_path / "bare", NAMES)
    folder = lay_out(tmp_path / "stored")
    (folder / "classes" / "a_day08_f0.ome.tif").unlink()
    with pytest.raises(UserError, match="no mask of a_day08_f0"):
        assess(folder, tmp_path / "out")
    with pytest.raises(UserError, match="lacks classes/"):
        StorageOutputs(folder, NAMES, truth=tmp_path / "bare")
    assert not (tmp_path / "out").exists()


def test_cells_that_the_border_cuts_are_in_no_share(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "stored", truth=False)
    more = StorageOutputs(folder, NAMES)
    classes, instances = maps((1, 2, 2))
    classes[80:, 40:60], instances[80:, 40:60] = 2, 4  # at the border
    scores = np.log(np.full((4, 5), 0.2, np.float32))
    found = {"classes": classes, "instances": instances, "probability": np.ones(classes.shape, np.float32)}
    image = PhaseImage((classes > 0).astype(np.float32), 0.144, 0.666)
    field = SegmentedField("a", "holograms/a_day08_f0.png", image, found | {"cell_log_probability": scores})
    write_segmentations(tmp_path / "out", iter([field]), NAMES, info={}, alpha_um3_pg=0.19, overlays=False, more=more)
    row = pd.read_csv(tmp_path / "out" / "images.csv").iloc[0]
    assert (row["discocyte"], row["spherocyte"], row["cut"], row["undecided"]) == (1, 2, 1, 0)
    assert len(pd.read_csv(tmp_path / "out" / "cells.csv")) == 4
    assert pd.read_csv(tmp_path / "out" / "days.csv")["cells"].unique().tolist() == [3]
