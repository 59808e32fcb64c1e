"""The whole loop as a user runs it: predict, correct, train again, see the gain."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.cli.finetune import report_gain
from hemolens.cli.main import main
from hemolens.inference.load import read_checkpoint
from hemolens.io.coco import write_coco
from hemolens.io.detections import ImageDetections

from .conftest import Run

QUICK = ["trainer.max_epochs=2", "trainer.precision=32-true", "trainer.enable_progress_bar=false"]


def test_predictions_are_corrected_and_learned(hemolens: Run, trained: Path, voc_folder: Path, tmp_path: Path) -> None:
    checkpoint = f"ckpt_path={trained}/checkpoints/best.ckpt"
    images = voc_folder / "JPEGImages"
    done = hemolens("predict", checkpoint, f"input={images}", "output=found", "score_threshold=0.001", "to_correct=5")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "found" / "ranking.csv").open(newline="") as file:
        ranking = list(csv.DictReader(file))
    assert len(ranking) == 8
    totals = [float(row["uncertainty"]) for row in ranking]
    assert totals == sorted(totals, reverse=True) and totals[0] > 0
    draft = tmp_path / "found" / "to_correct" / "annotations.json"
    content = json.loads(draft.read_text())
    stems = [Path(image["file_name"]).stem for image in content["images"]]
    assert stems == [Path(row["image"]).stem for row in ranking[:5]]

    for annotation in content["annotations"]:  # what a person might do to it
        annotation["category_id"] = str(annotation["category_id"])
        annotation.pop("score")
    for category in content["categories"]:
        category.update(id=str(category["id"]), name=category["name"].upper())
    (tmp_path / "corrected.json").write_text(json.dumps(content))
    words = [
        "experiment=finetune_corrected",
        "data=coco",
        f"data.image_folder={images}",
        "data.annotations=corrected.json",
        "data.image_size=[96,128]",
        "data.split=[0.6,0.2,0.2]",
        *QUICK,
    ]
    done = hemolens("train", *words, checkpoint, "hydra.run.dir=tuned")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "loaded" in done.stdout and "Before and after fine-tuning" in done.stdout
    metrics = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    assert (tmp_path / "tuned" / "gain.md").read_text().startswith("| test | before | after | change |\n")
    tuned, first = (read_checkpoint(run / "checkpoints" / "best.ckpt") for run in (tmp_path / "tuned", trained))
    assert tuned[KEY]["config"]["net"] == first[KEY]["config"]["net"]
    assert tuned[KEY]["config"]["net"]["head"]["feat_channels"] == 16  # the miniature one, not the config's default
    assert tuned[KEY]["class_names"] == ["RBC", "WBC", "Platelets"]  # of the checkpoint, since none were given

    held_out = [
        "data=coco",
        f"data.image_folder={images}",
        "data.annotations=corrected.json",
        "data.image_size=[96,128]",
        "data.split=[0.6,0.2,0.2]",
        "data.class_names=[RBC,WBC,Platelets]",
    ]
    again = hemolens("eval", checkpoint, *held_out, "trainer.precision=32-true", "hydra.run.dir=before")
    assert again.returncode == 0, again.stderr
    before = json.loads((tmp_path / "before" / "metrics.json").read_text())
    assert before["test/map"] == pytest.approx(metrics["before/map"], abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "finetune=true needs the checkpoint to start from: add ckpt_path="),
        (["net_of_checkpoint=false"], "finetune=true needs the checkpoint to start from"),
        (["CHECKPOINT", "data.in_channels=1"], "in_channels: 1 instead of 3"),
        (["CHECKPOINT", "data.image_size=null"], "resize_hw: None instead of [96, 128]"),
        (["CHECKPOINT", "data.split=[0.7,0.3,0]"], "no image in the test part"),
    ],
)
def test_slips_are_named(
    words: list[str],
    message: str,
    trained: Path,
    voc_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    files = sorted((voc_folder / "JPEGImages").iterdir())
    listed = [ImageDetections(f.name, 96, 128, np.zeros((0, 4)), np.zeros(0), np.zeros(0)) for f in files]
    write_coco("corrected.json", listed, ["RBC"])
    data = [
        "experiment=finetune_corrected",
        "data=coco",
        f"data.image_folder={voc_folder}/JPEGImages",
        "data.annotations=corrected.json",
        "data.image_size=[96,128]",
    ]
    if "CHECKPOINT" not in words:
        data.append("data.class_names=[RBC]")
    given = [word.replace("CHECKPOINT", f"ckpt_path={trained}/checkpoints/best.ckpt") for word in words]
    assert main(["train", *data, *QUICK, "hydra.run.dir=run", *given]) == 2
    errors = capsys.readouterr().err
    assert message in errors


def test_the_table_of_gains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {"before/map": 0.5, "before/ap_RBC": 0.75, "before/ap_WBC": float("nan"), "before/n_missed": 3.0}
    after = {"test/map": 0.625, "test/ap_RBC": 0.5, "test/ap_WBC": float("nan"), "test/n_missed": 1.0}
    report_gain(before, after, ["RBC", "WBC"], tmp_path)
    expected = [
        "| test | before | after | change |",
        "| --- | ---: | ---: | ---: |",
        "| mAP | 0.500 | 0.625 | +0.125 |",
        "| AP RBC | 0.750 | 0.500 | -0.250 |",
        "| AP WBC | – | – | – |",
    ]
    assert (tmp_path / "gain.md").read_text(encoding="utf-8").splitlines() == expected
    assert "\n".join(expected) in capsys.readouterr().out
    report_gain({}, after, ["RBC"], tmp_path / "none")
    assert not (tmp_path / "none").exists()
