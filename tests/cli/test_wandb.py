"""Offline W&B runs are read back: what a reviewer would see on the dashboard is really in them."""

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run, of_type, read_wandb, training_words


def records(wandb_folder: Path) -> list[dict[str, Any]]:
    """Every record of the one offline run below a run folder."""
    runs = list(wandb_folder.glob("wandb/offline-run-*"))
    assert len(runs) == 1, f"{len(runs)} W&B runs in {wandb_folder}"
    return read_wandb(runs[0])


def config_of(content: list[dict[str, Any]]) -> dict[str, Any]:
    """The config without W&B's own charts."""
    config: dict[str, Any] = {}
    for update in of_type(content, "config"):
        config |= update["update"]
    return {key: value for key, value in config.items() if not key.startswith("_wandb")}


def check_header(content: list[dict[str, Any]], group: str) -> None:
    run = of_type(content, "run")[0]
    assert run["project"] == "hemolens" and run["run_group"] == group and run["job_type"] == "train"
    assert run["tags"] == ["detection", "fcos_r18_pafpn", "bccd"]
    config = config_of(content)
    assert config["net"]["num_classes"] == 3 and config["optimizer"]["lr"] == 5e-4
    assert config["parameters"] > 1e6 and config["macs"] > 1e6 and set(config["git"]) == {"commit", "branch", "dirty"}
    assert "${" not in json.dumps(config)


def test_a_run_holds_config_history_media_and_summary(hemolens: Run, voc_folder: Path, tmp_path: Path) -> None:
    words = training_words(voc_folder, "logger=wandb_offline", "sweep_name=mine", "optimizer.lr=5e-4")
    done = hemolens("train", *words, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    content = records(tmp_path / "run")
    check_header(content, "mine")
    history = [row["item"] for row in of_type(content, "history")]
    losses = [row["train/loss"] for row in history if "train/loss" in row]
    assert len(losses) == 6  # 5 images in batches of 2, two epochs, every step
    assert sum("val/map" in row for row in history) == 2
    assert sum("val/pictures._type" in row for row in history) == 2
    assert any("test/pictures._type" in row for row in history)
    assert any("test/precision_recall_table._type" in row for row in history)
    metrics = {metric.get("name"): metric for metric in of_type(content, "metric")}
    assert metrics["val/map"]["summary"] == {"max": True} and metrics["val/loss"]["summary"] == {"min": True}
    files = {item["path"] for record in of_type(content, "files") for item in record["files"]}
    assert any(path.endswith(".boxes2D.json") for path in files)
    assert sum("media/images/test/" in path for path in files) >= 5  # two fields, three figures
    assert of_type(content, "exit")[-1].get("exit_code", 0) == 0


@pytest.mark.slow
def test_a_failing_job_of_a_multirun_is_a_failed_run_of_its_own(
    hemolens: Run, voc_folder: Path, tmp_path: Path
) -> None:
    words = training_words(voc_folder, "logger=wandb_offline", "sweep_name=three", "trainer.max_epochs=1")
    # the middle job's learning rate makes its loss infinite after the W&B run has begun
    rates = "optimizer.lr=5e-4,1e30,1e-4"
    done = hemolens("train", *words, "scheduler.warmup_steps=0", "trainer.gradient_clip_val=null", "-m", rates)
    assert done.returncode == 1
    jobs = sorted(
        path for path in (tmp_path / "outputs" / "det_fcos_r18_pafpn_bccd" / "three").iterdir() if path.is_dir()
    )
    assert len(jobs) == 3
    codes = {}
    for folder in jobs:
        content = records(folder)
        assert of_type(content, "run")[0]["run_group"] == "three"
        rate = next(
            update["update"]["optimizer"]["lr"]
            for update in of_type(content, "config")
            if "optimizer" in update["update"]
        )
        codes[rate] = of_type(content, "exit")[-1].get("exit_code", 0)
        history = [row["item"] for row in of_type(content, "history")]
        assert sum("val/map" in row for row in history) == (0 if rate == 1e30 else 1)
        # what failed has no model, and says so to whoever waits
        kinds = {artifact["type"] for artifact in of_type(content, "artifact")}
        assert "dataset" in kinds and ("model" in kinds) == (rate != 1e30)
        (alert,) = of_type(content, "alert")
        if rate == 1e30:
            assert alert["level"] == "ERROR" and alert["title"].startswith("loss is not finite: step ")
            assert "lower optimizer.lr" in alert["text"]
        else:
            assert alert["level"] == "INFO" and alert["title"] == "detection finished"
    assert codes == {5e-4: 0, 1e30: 1, 1e-4: 0}
