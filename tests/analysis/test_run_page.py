"""What the page of many runs is given: thinned histories, small pictures, what varies, which metric ranks."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from hemolens.analysis.run_folders import find_runs
from hemolens.analysis.run_history import read_history, thin
from hemolens.analysis.run_page import PageOptions, _rounded, _sounds_lower, page_data, write_run_page
from hemolens.analysis.run_pictures import Embedded, embed_pictures
from hemolens.errors import UserError
from hemolens.tasks.base import Task
from hemolens.tasks.classification import ClassificationTask
from hemolens.tasks.ddgan import MaskDDGANTask, PhaseDDGANTask
from hemolens.tasks.detection import DetectionTask
from hemolens.tasks.gan_segmentation import GANSegmentationTask
from hemolens.tasks.moco import MoCoReconstructionTask

from .made_up_runs import MARKUP, write_run, write_sweep


def data_of(folder: Path, **options: object) -> dict:
    """The data inside the page."""
    page = folder / "runs.html"
    write_run_page(page, find_runs([folder]), PageOptions(quiet=True, **options), overwrite=True)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), flags=re.DOTALL)
    assert found
    data: dict = json.loads(found[1])
    return data


def test_what_varies_and_what_ranks(tmp_path: Path) -> None:
    data = data_of(write_sweep(tmp_path))
    assert [(axis["key"], axis["also"], axis["values"]) for axis in data["axes"][:2]] == [
        ("optimizer.lr", [], 3),
        ("seed", ["data.seed"], 4),
    ]
    assert data["axes"][1]["seed"] and data["axes"][1]["asked"]
    assert data["common"]["optimizer.weight_decay"] == 0.01 and "optimizer.lr" not in data["common"]
    assert data["main"] == "test/dice" and data["lower"] == ["val/loss"]
    assert {"state", "optimizer.lr", "seed", "test/dice", "wall_seconds"} <= set(data["shown"])
    labels = [run["label"] for run in data["runs"]]
    assert "lr=0.001 seed=1" in labels and len(set(labels)) == len(labels) == 7
    failed = next(run for run in data["runs"] if run["about"]["state"] == "failed")
    assert failed["about"]["error"] == f"UserError: {MARKUP}" and not failed["metrics"] and failed["curves"]
    assert str(tmp_path) not in json.dumps(data)  # no folder of this machine


def test_a_metric_that_falls_ranks_by_the_lowest(tmp_path: Path) -> None:
    monitor = {"metric": "val/over_floor", "mode": "min"}
    for seed in (0, 1):
        run = write_run(tmp_path / str(seed), lr=1e-3, seed=seed, monitor=monitor)
        (run / "metrics.json").write_text(json.dumps({"test/over_floor": 2.0 + seed, "test/x": float("nan")}))
    data = data_of(tmp_path)
    assert data["main"] == "test/over_floor" and data["lower"] == ["test/over_floor"]
    assert data["runs"][0]["metrics"]["test/x"] == "nan"  # JSON has no such number


def test_one_run_and_runs_that_are_the_same(tmp_path: Path) -> None:
    write_run(tmp_path / "a", lr=1e-3, seed=0)
    data = data_of(tmp_path / "a")
    assert data["axes"] == [] and data["runs"][0]["label"] == "a" and data["runs"][0]["link"] == "."
    write_run(tmp_path / "b", lr=1e-3, seed=0)
    assert [run["label"] for run in data_of(tmp_path)["runs"]] == ["a", "b"]


def test_thinning_keeps_ends_and_extremes() -> None:
    rng = np.random.default_rng(0)
    for count in (4, 500, 501, 998, 2000, 12345):
        steps, values = np.arange(count) * 10, rng.normal(size=count)
        values[count // 3], values[count // 2] = 99.0, -99.0
        few, kept = thin(steps, values, 500)
        assert len(few) <= 500 and (count > 500 or len(few) == count)
        assert few[0] == 0 and few[-1] == 10 * (count - 1) and (np.diff(few) > 0).all()
        assert np.array_equal(values[few // 10], kept)  # true points, no means
        assert kept.max() == 99.0 and kept.min() == -99.0


def test_history_as_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", lr=1e-3, seed=0, rows=60)
    history = read_history(run / "metrics.csv")
    assert set(history.curves) == {"train/loss", "val/dice"}
    assert history.curves["val/dice"][0].tolist() == [19, 39, 59]
    assert history.epochs == [(0, 0), (20, 1), (40, 2), (60, 3)]
    assert read_history(tmp_path / "none.csv").curves == {}
    (tmp_path / "empty.csv").write_text("")
    assert read_history(tmp_path / "empty.csv").curves == {}
    (tmp_path / "diverged.csv").write_text("step,epoch,train/loss\n0,0,1\n1,0,nan\n2,0,inf\n3,0,0.5\n")
    assert read_history(tmp_path / "diverged.csv").curves["train/loss"][1].tolist() == [1, 0.5]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"other\.csv is no history"):
        read_history(tmp_path / "other.csv")


def test_numbers_are_short_and_near() -> None:
    values = np.array([0.0, 1 / 3, -2e-7 / 3, 123456.789, 1e-300, -5e12 / 7, 1e200])
    rounded = _rounded(values)
    assert np.allclose(rounded, values, rtol=1e-4, atol=0)
    assert json.dumps(rounded[:4]) == "[0.0, 0.33333, -6.6667e-08, 123460.0]"


def test_pictures_are_small_and_the_limit_names_what_is_left_out(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, lr=1e-3, seed=seed) for seed, name in enumerate("ab")]
    files = [{path.stem: path for path in (run / "figures").glob("*.png")} for run in runs]
    whole = embed_pictures(files, most_mb=1, width_px=480, quiet=True)
    assert not whole.left_out and whole.pictures[0]["test_overlays"].width == 480
    assert whole.pictures[0]["test_overlays"].height == 320 and whole.pictures[0]["reliability"].width == 480
    assert embed_pictures(files, most_mb=1, quiet=True).width_px == 960  # of few pictures
    one = len(whole.pictures[0]["reliability"].url) / 1e6
    part = embed_pictures(files, most_mb=1.5 * one, width_px=480, quiet=True)
    assert part.left_out == {"reliability": 1, "test_overlays": 2} and list(part.pictures) == [0]
    (runs[0] / "figures" / "broken.png").write_text("no picture")
    with pytest.raises(UserError, match=r"broken\.png is no picture"):
        embed_pictures([{"broken": runs[0] / "figures" / "broken.png"}], most_mb=1, quiet=True)


def test_pictures_that_were_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path / "a", lr=1e-3, seed=0)
    for images, names in (("all", ["reliability", "test_overlays"]), ("test", ["test_overlays"]), ("none", [])):
        assert list(data_of(tmp_path, images=images)["runs"][0]["pictures"]) == names
    data_of(tmp_path, images_mb=0.0001)
    page = (tmp_path / "runs.html").read_text()
    assert "exceed 0.0001 MB: reliability of 1, test_overlays of 1 runs. --images-mb raises the limit" in page


def test_no_text_can_leave_its_place(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    page = tmp_path / "runs.html"
    write_run_page(page, find_runs([tmp_path]), PageOptions(title=MARKUP, command=MARKUP, quiet=True))
    html = page.read_text()
    assert "<img src=x" not in html and html.count("</script>") == 2 and html.count("<script") == 2
    with pytest.raises(UserError, match="exists: add --overwrite"):
        write_run_page(page, find_runs([tmp_path]), PageOptions(quiet=True))


def test_data_are_plain(tmp_path: Path) -> None:
    write_run(tmp_path / "a", lr=1e-3, seed=0, floor=float("nan"), limits=[1.0, float("inf")])
    runs = find_runs([tmp_path])
    data = page_data(runs, [read_history(run.folder / "metrics.csv") for run in runs], Embedded(), page_folder=tmp_path)
    json.dumps(data, allow_nan=False)


def test_seeds_are_seeds_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "a", lr=1e-3, seed=0, pictures=False)
    write_run(tmp_path / "b", lr=3e-3, seed=1, pictures=False)  # another seed, and other settings
    axes = {axis["key"]: (axis["also"], axis["seed"]) for axis in data_of(tmp_path)["axes"]}
    assert axes == {"optimizer.lr": ([], False), "seed": (["data.seed"], True)}


@pytest.mark.parametrize(
    "task",
    [ClassificationTask, DetectionTask, GANSegmentationTask, MaskDDGANTask, MoCoReconstructionTask, PhaseDDGANTask],
)
def test_what_is_better_is_what_the_tasks_say(task: type[Task]) -> None:
    ways = {name.replace("*", "discocyte"): way for name, way in task.metrics.items()}
    assert {name for name, way in ways.items() if way == "min"} == {
        name for name, way in ways.items() if way in ("min", "max") and _sounds_lower(name)
    }
    assert not any(_sounds_lower(name) for name in ways if name.endswith("_floor") and name != "val/over_floor")


def test_a_training_loss_is_not_ranked_as_the_score_of_its_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", lr=1e-3, seed=0, pictures=False)
    (run / "metrics.json").write_text(json.dumps({"val/dice": 0.5, "test/dice": 0.6, "train/dice": 0.4}))
    assert data_of(tmp_path)["lower"] == ["train/dice"]
