"""Training, evaluation, prediction, sweeps and their tables, as commands."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hemolens as package

from .conftest import Run, run_command, training_words


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_run_leaves_what_it_promises(trained: Path) -> None:
    status = read_json(trained / "status.json")
    assert status["state"] == "finished" and status["exit_code"] == 0
    assert status["last_epoch"] == status["max_epochs"] == 2
    metrics = read_json(trained / "metrics.json")
    assert {"val/map", "test/map", "test/accuracy", "test/ap_RBC", "parameters", "macs"} <= set(metrics)
    for name in (
        "config.yaml",
        "config_resolved.yaml",
        "git.json",
        "metrics.csv",
        "run.log",
        "checkpoints/last.ckpt",
    ):
        assert (trained / name).exists(), name
    assert (trained / status["best_checkpoint"]).exists()
    for name in ("test_overlays", "test_precision_recall", "test_confusion"):
        assert (trained / "figures" / f"{name}.png").stat().st_size > 5000
    assert "${" not in (trained / "config_resolved.yaml").read_text()
    card = (trained / "checkpoints" / "MODEL_CARD.md").read_text()
    assert "research" in card.lower() and "not a medical device" in card.lower()


def test_checkpoints_hold_only_tensors_and_plain_data(trained: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["hemolens"]["class_names"] == ["RBC", "WBC", "Platelets"]
    assert content["hemolens"]["config"]["net"]["num_classes"] == 3


def test_eval_repeats_the_test_of_training(hemolens: Run, trained: Path, tmp_path: Path) -> None:
    done = hemolens("eval", f"ckpt_path={trained}/checkpoints/best.ckpt", f"hydra.run.dir={tmp_path}/eval")
    assert done.returncode == 0, done.stderr
    again, before = read_json(tmp_path / "eval" / "metrics.json"), read_json(trained / "metrics.json")
    assert again["test/map"] == pytest.approx(before["test/map"], abs=1e-6)
    assert "mAP" in done.stdout


def test_predict_writes_every_format(hemolens: Run, trained: Path, voc_folder: Path, tmp_path: Path) -> None:
    words = [
        f"ckpt_path={trained}/checkpoints/best.ckpt",
        f"input={voc_folder}/JPEGImages",
        f"output={tmp_path}/found",
    ]
    done = hemolens("predict", *words, "score_threshold=0.001")
    assert done.returncode == 0, done.stderr
    found = tmp_path / "found"
    coco = read_json(found / "detections_coco.json")
    assert len(coco["images"]) == 8 and [c["name"] for c in coco["categories"]] == ["RBC", "WBC", "Platelets"]
    with (found / "detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(coco["annotations"]) > 0
    assert len(list(found.rglob("*.geojson"))) == 8
    assert len(list(found.rglob("*.png"))) == 8
    tiles = ["tile_px=64", "tile_overlap_px=32", "overlays=false", "score_threshold=0.001"]
    done = hemolens("predict", *words[:2], *tiles, f"output={tmp_path}/tiled")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiled" / "detections.csv").read_text() != (found / "detections.csv").read_text()
    bad = hemolens("predict", *words[:2], "tile_px=64", f"output={tmp_path}/none")
    assert bad.returncode == 2 and "tile_overlap_px=256: must be at least 0 and below tile_px=64" in bad.stderr
    refused = hemolens("predict", *words)
    assert refused.returncode == 2 and "found" in refused.stderr


def test_predict_takes_tiff_and_one_file_and_names_a_bad_one(hemolens: Run, trained: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "field.tif", tmp_path / "bad.png"
    Image.fromarray(np.full((70, 90), 90, np.uint8)).save(good)
    bad.write_bytes(b"no image")
    base = ["predict", f"ckpt_path={trained}/checkpoints/best.ckpt"]
    assert hemolens(*base, f"input={good}", "output=a").returncode == 0
    done = hemolens(*base, f"input={bad}", "output=b")
    assert done.returncode in (1, 2) and "bad.png" in done.stderr
    assert not (tmp_path / "b").exists()


def test_python_api(trained: Path, voc_folder: Path) -> None:
    model = package.load(trained / "checkpoints" / "best.ckpt", score_threshold=0.001)
    path = sorted((voc_folder / "JPEGImages").glob("*.jpg"))[0]
    from_path = model.predict(path)
    from_array = model.predict(np.asarray(Image.open(path)))
    assert from_path["boxes"].shape[1] == 4 and len(from_path["boxes"]) == len(from_path["scores"]) > 0
    for key in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(from_path[key], from_array[key])


def test_other_classes_are_refused_unless_finetuning(
    hemolens: Run, trained: Path, voc_folder: Path, tmp_path: Path
) -> None:
    words = training_words(
        voc_folder,
        f"ckpt_path={trained}/checkpoints/best.ckpt",
        "data.class_names=[RBC,WBC]",
        "data.unknown_labels=drop",
    )
    refused = hemolens("train", *words)
    assert refused.returncode == 2 and "finetune=true" in refused.stderr
    done = hemolens("train", *words, "finetune=true", f"hydra.run.dir={tmp_path}/tuned")
    assert done.returncode == 0, done.stderr
    assert "cls_logits" in done.stdout and "loaded" in done.stdout


@pytest.mark.slow
def test_ddp_on_two_cpu_processes(hemolens: Run, voc_folder: Path, tmp_path: Path) -> None:
    words = training_words(
        voc_folder,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "trainer.sync_batchnorm=false",
        "trainer.precision=32-true",
        "trainer.max_epochs=1",
        "data.validation_fraction=0.4",  # an image for each process
        f"hydra.run.dir={tmp_path}/ddp",
    )
    done = hemolens("train", *words)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "ddp" / "status.json")["state"] == "finished"
    single = run_command(
        "eval",
        f"ckpt_path={tmp_path}/ddp/checkpoints/best.ckpt",
        f"hydra.run.dir={tmp_path}/one",
        cwd=tmp_path,
    )
    assert single.returncode == 0
    two, one = (read_json(tmp_path / name / "metrics.json")["test/map"] for name in ("ddp", "one"))
    assert two == pytest.approx(one, abs=1e-6)
