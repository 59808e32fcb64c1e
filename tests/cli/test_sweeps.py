"""Multiruns with every launcher: folders, skipping, going on, the table and the exit code."""

import csv
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run, of_type, read_wandb, training_words

STAND_IN = Path(__file__).with_name("stand_in.py")
Sweep = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """``sweep(*words)``: a multirun of the stand-in for a training, in a process group of its own."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(STAND_IN), "-m", *words],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"} | environment,
            capture_output=True,
            text=True,
            timeout=300,
            start_new_session=True,
        )

    return run


def calls(folder: Path) -> list[list[str]]:
    """(seed, rate, first epoch, process) of each job that ran."""
    path = folder / "calls.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def states(folder: Path) -> list[str]:
    return sorted(json.loads(path.read_text())["state"] for path in folder.glob("outputs/*/*/*/status.json"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_parallel_launcher_runs_all_and_says_what_failed(sweep: Sweep, tmp_path: Path, launcher: str) -> None:
    words = ["sweep=lr", "optimizer.lr=1e-3,0.5,1e-4", f"launcher={launcher}"]
    done = sweep(*words)
    assert done.returncode == 1, done.stderr
    assert "3 jobs in" in done.stderr and "too fast" in done.stderr and "val/map 1.0000" in done.stderr
    assert states(tmp_path) == ["failed", "finished", "finished"]
    assert len({process for *_, process in calls(tmp_path)} - {str(os.getpid())}) >= 2  # side by side
    # one after the other is the same sweep: two are skipped, the failed one starts again, and the new one runs
    again = sweep("sweep=lr", "optimizer.lr=1e-3,0.5,1e-4,3e-4")
    assert again.returncode == 1 and again.stdout.count("skipped, already complete") == 2
    assert [rate for _, rate, *_ in calls(tmp_path)[3:]] == ["0.5", "0.0003"]


@pytest.mark.slow
def test_a_submitit_job_that_is_told_to_stop_is_started_again_and_goes_on(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "strike").write_text(f"1 {signal.SIGUSR2:d}")
    done = sweep("seed=0", "trainer.max_epochs=2", "launcher=submitit_local")
    assert done.returncode == 0, done.stderr
    assert [call[2] for call in calls(tmp_path)] == ["0", "1"]
    assert states(tmp_path) == ["finished"]


SBATCH = """#!/bin/bash
# A cluster of one machine: keeps the file and runs it as the tasks of array job 1, in the background.
cp "$1" {folder}/submitted.sh
for task in 0 1; do
    SLURM_JOB_ID=$((10 + task)) SLURM_ARRAY_JOB_ID=1 SLURM_ARRAY_TASK_ID=$task SLURM_NTASKS=1 SLURM_PROCID=0 \\
        SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NODELIST=here bash {folder}/submitted.sh \\
        > {folder}/task$task.log 2>&1 < /dev/null &
done
echo "Submitted batch job 1"
"""
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do case "$1" in --output | --error) shift 2 ;; *) shift ;; esac; done
exec "$@"
"""


def fake_commands(folder: Path, **texts: str) -> str:
    """Executables in a folder; returns a PATH on which they come first."""
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.slow
def test_slurm_gets_an_array_of_requeueable_jobs(sweep: Sweep, tmp_path: Path) -> None:
    path = fake_commands(
        tmp_path / "bin",
        sbatch=SBATCH.format(folder=tmp_path),
        srun=SRUN,
        sacct="#!/bin/bash\necho 'JobID|State'\n",
        scontrol="#!/bin/bash\n",
    )
    more = ["hydra.launcher.partition=long", "hydra.launcher.timeout_min=90"]
    done = sweep("seed=0,1", "launcher=submitit_slurm", *more, PATH=path)
    assert done.returncode == 0, done.stderr + (tmp_path / "task0.log").read_text()
    assert len(calls(tmp_path)) == 2 and states(tmp_path) == ["finished", "finished"]
    text = (tmp_path / "submitted.sh").read_text()
    for line in ("partition=long", "time=90", "gpus-per-node=1", "array=0-1%2", "signal=USR2@300", "job-name=hemolens"):
        assert f"#SBATCH --{line}\n" in text, line
    assert "#SBATCH --requeue\n" in text and "open-mode=append" in text


TWO_TASKS = """#!/bin/bash
# srun on one node: two processes of the command at once; the worst of their exit codes
shift
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=($!); done
code=0
for task in "${tasks[@]}"; do wait "$task"; found=$?; ((found > code)) && code=$found; done
exit $code
"""


@pytest.mark.slow
def test_a_slurm_job_of_two_processes_saves_when_its_time_is_up_and_goes_on(voc_folder: Path, tmp_path: Path) -> None:
    path = fake_commands(
        tmp_path / "bin",
        srun=TWO_TASKS,
        scontrol=f'#!/bin/bash\necho "$@" >> {tmp_path}/scontrol.said\n',
        hemolens=f'#!/bin/bash\nexec {sys.executable} -m hemolens.cli.main "$@"\n',
    )
    slurm = {"JOB_ID": str(os.getpid()), "JOB_NAME": "long", "NTASKS": "2", "NTASKS_PER_NODE": "2", "NNODES": "1"}
    environment = os.environ | {f"SLURM_{key}": value for key, value in slurm.items()}
    environment |= {"PATH": path, "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    words = training_words(
        voc_folder,
        "trainer.accelerator=cpu",
        "trainer.sync_batchnorm=false",
        "data.validation_fraction=0.4",
        "callbacks.figures=null",
    )
    words = [word for word in words if not word.startswith("trainer.max_epochs")] + [
        "trainer.max_epochs=3",
        "test=false",
    ]
    run_dir = tmp_path / "outputs" / "slurm" / f"long-{os.getpid()}"
    script = str(Path(__file__).resolve().parents[2] / "scripts" / "train.sbatch")
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        ["bash", script, *words], cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    wait_for(lambda: status_of(run_dir).get("last_epoch") == 1, process)
    tasks = subprocess.run(["pgrep", "-g", str(process.pid), "-f", "hemolens.cli.main"], capture_output=True, text=True)
    pids = [int(pid) for pid in tasks.stdout.split()]
    for pid in pids:
        os.kill(pid, signal.SIGUSR1)
    assert process.wait(120) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "scontrol.said").read_text() == f"requeue {os.getpid()}\n"
    first = status_of(run_dir)
    assert first["state"] == "interrupted" and first["interrupted_at_step"] > 0
    again = subprocess.run(["bash", script, *words], cwd=tmp_path, env=environment, stdout=log, stderr=log, timeout=300)
    log.close()
    assert again.returncode == 0, (tmp_path / "log").read_text()
    second = status_of(run_dir)
    assert second["state"] == "finished" and second["last_epoch"] == 3
    assert "going on from" in (tmp_path / "log").read_text()
    assert (tmp_path / "scontrol.said").read_text().count("requeue") == 1


def status_of(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "status.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content


@pytest.mark.slow
def test_a_sweep_over_experiments_has_one_folder_and_only_its_own_failures(sweep: Sweep, tmp_path: Path) -> None:
    words = ["experiment=demo,det_fcos_r18_pafpn_tomogram_quick", "sweep_name=two", "monitor.metric=val/map"]
    failed = sweep(*words, "optimizer.lr=0.5")
    assert failed.returncode == 1 and "2 jobs in" in failed.stderr and states(tmp_path) == ["failed"] * 2
    done = sweep(*words, "optimizer.lr=1e-3")
    assert done.returncode == 0, done.stderr  # those of before are in the table and are not of now
    assert "4 jobs in" in done.stderr and done.stderr.count("too fast") == 2
    assert len(list(tmp_path.glob("outputs/*/two/*/status.json"))) == 4 and len(list(tmp_path.glob("outputs/*"))) == 1


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_to_its_number_of_trials(sweep: Sweep, tmp_path: Path) -> None:
    words = ["sweep=optuna", "hydra.sweeper.n_trials=4", "trainer.max_epochs=2", "hydra.sweeper.pruner=null"]
    (tmp_path / "strike").write_text(f"3 {signal.SIGKILL:d}")
    assert sweep(*words).returncode == -signal.SIGKILL
    assert len(calls(tmp_path)) == 3 and states(tmp_path) == ["finished", "finished", "running"]
    done = sweep(*words)
    assert done.returncode == 0, done.stderr
    ran = calls(tmp_path)
    assert len(ran) == 5 and ran[3][1] == ran[2][1] and ran[3][2] == "1"  # the third one went on after its first epoch
    assert len({rate for _, rate, *_ in ran}) == 4 and states(tmp_path) == ["finished"] * 4
    study = json.loads(next(tmp_path.glob("outputs/*/optuna/study.json")).read_text())
    assert [trial["state"] for trial in study["trials"]] == ["complete"] * 4
    assert study["best"]["value"] == max(trial["value"] for trial in study["trials"])
    assert f"{study['best']['params']['optimizer.lr']}" in done.stderr
    # without a kill the search would have drawn the same
    whole = sweep(*words, "sweep_name=whole")
    assert whole.returncode == 0
    assert sorted({rate for _, rate, *_ in calls(tmp_path)}) == sorted({rate for _, rate, *_ in ran})


@pytest.mark.slow
def test_a_sweep_that_is_killed_and_repeated_ends_complete_but_for_what_fails(
    hemolens: Run, voc_folder: Path, tmp_path: Path
) -> None:
    """Three seeds by two batch sizes of a real training; the loss of one of the six becomes infinite."""
    rates = {"RATE_1_3": "1e38"}
    words = training_words(
        voc_folder,
        "optimizer.lr='${oc.decode:${oc.env:RATE_${seed}_${data.batch_size},5e-4}}'",
        "scheduler.warmup_steps=0",
        "trainer.gradient_clip_val=null",
        "logger=wandb_offline",
        "sweep_name=six",
        "-m",
        "seed=0,1,2",
        "data.batch_size=2,3",
    )
    folder = tmp_path / "outputs" / "det_fcos_r18_pafpn_bccd" / "six"
    process = start_training(tmp_path, words, **rates)
    wait_for(lambda: len(list(folder.glob("*/metrics.json"))) == 2 and halfway(folder), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/status.json")}
    cut = next(name for name, status in before.items() if status["state"] == "running")
    done = hemolens("train", *words, **rates)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("skipped, already complete") == 2 and done.stdout.count("going on from") == 1
    after = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/status.json")}
    assert sorted(status["state"] for status in after.values()) == ["failed"] + ["finished"] * 5
    assert f"6 jobs in {folder}" in done.stderr and done.stderr.count("test/map") == 5
    assert hemolens("collect", str(folder)).returncode == 0
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = {(row["seed"], row["data.batch_size"]): row["state"] for row in rows}
    assert len(rows) == 6 and table[("1", "3")] == "failed" and sorted(table.values()) == ["failed"] + ["finished"] * 5
    for name, status in after.items():
        runs = sorted((folder / name).glob("wandb/offline-run-*"))
        assert len(runs) == (2 if name == cut else 1)
        assert {run.name.rpartition("-")[2] for run in runs} == {status["wandb_id"]}
        content = read_wandb(runs[-1])  # the killed half of one may hold nothing
        assert of_type(content, "run")[0]["run_id"] == status["wandb_id"]
        assert of_type(content, "run")[0]["run_group"] == "six"
        assert of_type(content, "exit")[-1].get("exit_code", 0) == (1 if status["state"] == "failed" else 0)
    assert len({status["wandb_id"] for status in after.values()}) == 6
    assert after[cut]["wandb_id"] == before[cut]["wandb_id"]


def halfway(folder: Path) -> bool:
    """Whether a job has its first epoch of two behind it."""
    running = [json.loads(path.read_text()) for path in folder.glob("*/status.json")]
    return any(status["state"] == "running" and status.get("last_epoch") == 1 for status in running)


def start_training(folder: Path, words: list[str], **more: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "HEMOLENS"))}
    return subprocess.Popen(
        [sys.executable, "-m", "hemolens.cli.main", "train", *words],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "WANDB_SILENT": "true"} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened in four minutes"
        time.sleep(0.02)
