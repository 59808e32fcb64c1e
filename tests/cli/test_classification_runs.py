"""A classifier as commands: train, resume, test again, predict, and what W&B gets."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hemolens as package

from .conftest import Run, call_command
from .test_resume import read, start, wait_for
from .test_wandb import of_type, records


def words(root: Path, *more: str) -> list[str]:
    return [
        "experiment=cls_resnet18_acevedo",
        f"data.root={root}",
        "data.class_names=null",
        "data.min_images=4",
        "data.split=[0.5,0.25,0.25]",
        "data.image_px=32",
        "data.crop_px=null",
        "data.batch_size=4",
        "model.class_weights=balanced",
        "net.name=test_resnet",
        "net.drop_rate=0.2",  # draws numbers, which a resumed run has to repeat
        "trainer.max_epochs=3",
        "trainer.max_time=null",
        "trainer.precision=32-true",
        "trainer.enable_progress_bar=false",
        "trainer.log_every_n_steps=1",
        *more,
    ]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, cell_folder_made_once: Path) -> Path:
    """The run folder of a finished training with W&B; for reading only."""
    folder = tmp_path_factory.mktemp("classified")
    given = words(cell_folder_made_once, f"hydra.run.dir={folder}/run", "logger=many")
    done = call_command("train", *given, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "macro" not in done.stderr and "accuracy" in done.stdout
    return folder / "run"


def test_a_training_that_its_time_limit_cuts_short_says_so(cell_folder_made_once: Path, tmp_path: Path) -> None:
    given = words(cell_folder_made_once, f"hydra.run.dir={tmp_path}/run", "test=false")
    given += ["trainer.max_epochs=100000", "trainer.max_time='00:00:00:02'"]
    done = call_command("train", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = re.search(r"trainer\.max_time was up after (\d+) of (\d+) steps", done.stdout + done.stderr)
    assert told and 0 < int(told[1]) < int(told[2])


def test_a_run_leaves_what_it_promises(run_dir: Path) -> None:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    expected = {
        "val/loss",
        "val/f1_macro",
        "val/accuracy",
        "val/f1_WBC",
        "test/accuracy",
        "test/f1_macro",
        "test/f1_WBC",
    }
    assert expected | {"train/loss", "test/precision_RBC", "test/recall_Platelets", "parameters", "macs"} <= set(
        metrics
    )
    for name in ("cells", "class_scores", "confusion"):
        assert (run_dir / "figures" / f"test_{name}.png").stat().st_size > 5000
    content = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["hemolens"]["class_names"] == ["Platelets", "RBC", "WBC"]
    assert content["hemolens"]["config"]["data"]["class_names"] == ["Platelets", "RBC", "WBC"]
    assert content["state_dict"]["class_weight"].tolist() == [1.0, 1.0, 1.0]
    assert "num_classes: 3" in (run_dir / "config_resolved.yaml").read_text()
    card = (run_dir / "checkpoints" / "MODEL_CARD.md").read_text()
    assert "classification of blood cells" in card and 'found["probabilities"]' in card and "one donor" in card


def test_data_and_model_that_do_not_fit_are_refused(hemolens: Run, cell_folder: Path, voc_folder: Path) -> None:
    cells = hemolens("train", "data=blood_cells", f"data.root={cell_folder}", "data.min_images=4")
    assert cells.returncode == 2 and "add model=classification net=cls_resnet18" in cells.stderr
    fields = hemolens("train", "data=bccd", f"data.root={voc_folder}", "model=classification", "net=cls_resnet18")
    assert fields.returncode == 2 and "choose data=blood_cells" in fields.stderr
    nothing = hemolens("train", "data=blood_cells", "model=classification", "net=cls_resnet18")
    assert nothing.returncode == 2 and "data.root must be given" in nothing.stderr


def test_wandb_gets_pictures_bars_and_the_matrix(run_dir: Path) -> None:
    content = records(run_dir)
    history = [row["item"] for row in of_type(content, "history")]
    assert sum("val/pictures._type" in row for row in history) == 3
    keys = {key.split(".")[0] for row in history for key in row}
    assert {
        "test/pictures",
        "test/picture_table",
        "test/confusion_table",
        "test/f1_bars_table",
        "test/confusion_figure",
    } <= keys
    metrics = {metric.get("name"): metric for metric in of_type(content, "metric")}
    assert metrics["val/f1_macro"]["summary"] == {"max": True}


def test_eval_repeats_the_test_of_training(hemolens: Run, run_dir: Path, tmp_path: Path) -> None:
    done = hemolens("eval", f"ckpt_path={run_dir}/checkpoints/best.ckpt", f"hydra.run.dir={tmp_path}/eval")
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    before = json.loads((run_dir / "metrics.json").read_text())
    for name in ("test/f1_macro", "test/accuracy", "test/f1_WBC"):
        assert again[name] == pytest.approx(before[name], abs=1e-6)
    refused = hemolens("eval", f"ckpt_path={run_dir}/checkpoints/best.ckpt", "decode.nms_iou=0.5")
    assert refused.returncode == 2 and "has no nms_iou" in refused.stderr


def test_a_run_killed_in_the_middle_resumes_exactly(hemolens: Run, cell_folder: Path, tmp_path: Path) -> None:
    given = words(cell_folder, "trainer.max_epochs=4")
    assert hemolens("train", *given, "hydra.run.dir=whole").returncode == 0
    stopped = start(tmp_path, given, "parts")
    wait_for(lambda: '"last_epoch": 2' in read(tmp_path / "parts" / "status.json"), stopped)
    stopped.kill()
    stopped.communicate()
    resumed = hemolens("train", *given, "hydra.run.dir=parts", "ckpt_path=parts/checkpoints/last.ckpt")
    assert resumed.returncode == 0, resumed.stderr
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    assert set(one) == set(two) and all(torch.equal(value, two[name]) for name, value in one.items())


def test_predict_writes_classes_and_a_contact_sheet(
    hemolens: Run, run_dir: Path, cell_folder: Path, tmp_path: Path
) -> None:
    folder = cell_folder / "WBC"
    (folder / "bad.png").write_bytes(b"no picture")
    base = ["predict", f"ckpt_path={run_dir}/checkpoints/best.ckpt", "precision=32-true", "device=cpu"]
    done = hemolens(*base, f"input={folder}", f"output={tmp_path}/found")
    assert done.returncode == 1 and "bad.png" in done.stderr
    with (tmp_path / "found" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and (tmp_path / "found" / "contact_sheet.png").exists()
    network = package.load(run_dir / "checkpoints" / "best.ckpt", precision="32-true")
    for row in rows:
        probabilities = network.predict(folder / row["file"])["probabilities"]
        assert float(row["probability_WBC"]) == pytest.approx(float(probabilities[2]), abs=1e-4)
        assert row["class"] == network.class_names[int(np.argmax(probabilities))]
    refused = hemolens(*base, f"input={folder}", f"output={tmp_path}/found")
    assert refused.returncode == 2 and "not empty" in refused.stderr
    wrong = hemolens(*base, f"input={folder}", "output=other", "pipeline=hematology")
    assert wrong.returncode == 2 and "classifier of single cells" in wrong.stderr
    Image.fromarray(np.full((50, 40), 90, np.uint8)).save(tmp_path / "one.tif")
    single = hemolens(*base, f"input={tmp_path}/one.tif", "output=single", "overlays=false")
    assert single.returncode == 0 and not (tmp_path / "single" / "contact_sheet.png").exists()
