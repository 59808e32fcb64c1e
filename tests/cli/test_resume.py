"""A run that is interrupted and resumed equals the run that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from .conftest import Run, training_words


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    content = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return content["state_dict"] | {f"raw.{name}": value for name, value in content["ema_raw_net"].items()}


def assert_equal_runs(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert set(first) == set(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    rows = [[line for line in (run / "metrics.csv").read_text().splitlines()] for run in (one, two)]
    header = rows[0][0].split(",")
    assert rows[1][0].split(",") == header
    drop = header.index("train/images_per_second")
    cells = [[[cell for i, cell in enumerate(line.split(",")) if i != drop] for line in run] for run in rows]
    assert cells[0] == cells[1]


def test_a_run_stopped_after_epoch_2_of_4_equals_the_whole_run(hemolens: Run, voc_folder: Path, tmp_path: Path) -> None:
    words = training_words(voc_folder, "trainer.max_epochs=4")
    assert hemolens("train", *words, "hydra.run.dir=whole").returncode == 0
    # the same schedule of four epochs, stopped from outside once epoch 2 is done
    stopped = start(tmp_path, words, "parts")
    wait_for(lambda: '"last_epoch": 2' in read(tmp_path / "parts" / "status.json"), stopped)
    stopped.kill()
    stopped.communicate()
    resumed = hemolens("train", *words, "hydra.run.dir=parts", "ckpt_path=parts/checkpoints/last.ckpt")
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_job_that_was_cut_off_in_its_test_is_tested_again(hemolens: Run, voc_folder: Path, tmp_path: Path) -> None:
    words = training_words(voc_folder, "trainer.max_epochs=1", "optimized_metric=val/map", "-m", "sweep_name=cut")
    assert hemolens("train", *words).returncode == 0
    run = next(tmp_path.glob("outputs/*/cut/*/status.json")).parent
    before = json.loads((run / "metrics.json").read_text())
    for name in ("metrics.json", "test.json", "test.md"):  # as if it had been killed while it tested
        (run / name).unlink()
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "running", "exit_code": None, "host": "elsewhere"}))
    done = hemolens("train", *words)
    assert done.returncode == 0 and "going on from" in done.stdout, done.stderr
    again = json.loads((run / "metrics.json").read_text())
    assert again["test/map"] == before["test/map"] and again["val/map"] == before["val/map"]
    assert (run / "test.json").exists() and not list(run.parent.glob("*.attempt*"))


@pytest.mark.slow
def test_ctrl_c_in_mid_epoch_leaves_a_checkpoint_that_resumes_exactly(
    hemolens: Run, voc_folder: Path, tmp_path: Path
) -> None:
    words = training_words(voc_folder, "trainer.max_epochs=4", "data.batch_size=1")
    assert hemolens("train", *words, "hydra.run.dir=whole").returncode == 0
    process = start(tmp_path, words, "parts")
    wait_for(lambda: '"last_epoch": 1' in read(tmp_path / "parts" / "status.json"), process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Go on with" in errors and "ckpt_path=" in errors
    assert '"interrupted"' in read(tmp_path / "parts" / "status.json")
    resumed = hemolens("train", *words, "hydra.run.dir=parts", "ckpt_path=parts/checkpoints/last.ckpt")
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def start(folder: Path, words: list[str], run_dir: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hemolens.cli.main", "train", *words, f"hydra.run.dir={run_dir}"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("nothing happened in two minutes")
