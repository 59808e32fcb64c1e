"""Who may have a run folder: a run that goes on, a job that starts again, and nobody else."""

import json
import os
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from hemolens.cli import run_guard
from hemolens.cli.run_guard import claim_multirun, claim_single, identity, run_name
from hemolens.errors import UserError

CONFIG: dict[str, Any] = {"seed": 1, "resume": False, "ckpt_path": None}
HERE = {"host": socket.gethostname(), "pid": os.getppid()}


def write_folder(folder: Path, state: str, *, checkpoint: bool = True, **more: Any) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    if checkpoint:
        (folder / "checkpoints" / "last.ckpt").touch()
    status = {"state": state, "identity": identity(CONFIG), "job": "train", "exit_code": None, "host": "elsewhere"}
    if state == "finished":
        (folder / "metrics.json").write_text("{}")
        best = {"best_checkpoint": "checkpoints/last.ckpt", "stopped_early": False}
        status |= {"exit_code": 0, "last_epoch": 2, "max_epochs": 2} | best
    (folder / "status.json").write_text(json.dumps(status | more))
    return folder


def claimed(folder: Path, **changes: Any) -> tuple[bool, DictConfig]:
    """A single run with ``resume=true``: whether it is complete, and its config after the claim."""
    config = CONFIG | {"resume": True} | changes
    cfg = OmegaConf.create(config)
    return claim_single(cfg, folder, config), cfg


def test_resume_starts_goes_on_or_has_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert claimed(tmp_path / "new") == (False, CONFIG | {"resume": True})
    for state in ("running", "interrupted", "failed"):
        folder = write_folder(tmp_path / state, state)
        done, cfg = claimed(folder)
        assert not done and cfg.ckpt_path == str(folder / "checkpoints" / "last.ckpt")
    folder = write_folder(tmp_path / "early", "running", checkpoint=False)  # killed before its first checkpoint
    assert claimed(folder) == (False, CONFIG | {"resume": True})
    assert claimed(write_folder(tmp_path / "done", "finished"))[0]


def test_resume_refuses_another_config_and_what_is_no_run(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", "interrupted")
    with pytest.raises(UserError, match=r"another config.*ckpt_path=.*resume=true"):
        claimed(folder, seed=2)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(UserError, match="holds no run"):
        claimed(tmp_path / "notes")
    assert identity(CONFIG) == identity(CONFIG | {"resume": True})  # how a run was started is not what it is


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not say when a process began")
def test_a_number_that_another_process_has_by_now_is_not_the_run(tmp_path: Path) -> None:
    began = run_guard._started(os.getppid())
    assert began and run_guard._started(2**22 + 1) is None
    living = write_folder(tmp_path / "living", "running", **HERE, pid_started=began)
    reused = write_folder(tmp_path / "reused", "running", **HERE, pid_started="1")
    with pytest.raises(UserError, match=f"in use by process {os.getppid()}"):
        claimed(living)
    assert not claimed(reused)[0]
    with pytest.raises(UserError, match="in use"):
        claim_multirun(OmegaConf.create(CONFIG), living, CONFIG)
    assert not claim_multirun(OmegaConf.create(CONFIG), reused, CONFIG)


def test_a_run_on_another_node_of_a_cluster_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "bin" / "squeue"
    command.parent.mkdir()
    command.write_text('#!/bin/bash\n[[ "$*" == *--jobs=7* ]] && echo "7 gpu hemolens R"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    running, ended = (write_folder(tmp_path / job, "running", pid=1, slurm_job=job) for job in ("7", "8"))
    with pytest.raises(UserError, match="in use"):
        claimed(running)
    assert not claimed(ended)[0]
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # the job itself, queued again
    assert not claimed(running)[0]
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine without SLURM
    assert not claimed(running)[0]


def test_a_pruned_trial_is_done_as_a_trial_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "run", "pruned", exit_code=0)
    monkeypatch.setattr(run_guard, "trial_number", lambda: 3)
    assert claim_multirun(OmegaConf.create(CONFIG), folder, CONFIG)
    monkeypatch.setattr(run_guard, "trial_number", lambda: None)
    cfg = OmegaConf.create(CONFIG)
    assert not claim_multirun(cfg, folder, CONFIG) and cfg.ckpt_path  # a grid has it finished


def test_a_failed_job_starts_again_beside_what_it_left(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", "failed")
    cfg = OmegaConf.create(CONFIG)
    assert not claim_multirun(cfg, folder, CONFIG) and cfg.ckpt_path is None
    assert json.loads((tmp_path / "run.attempt1" / "status.json").read_text())["superseded"]


def test_a_jobs_name_does_not_depend_on_how_it_is_launched() -> None:
    names = {run_name(["seed=1", "optimizer.lr=0.00085588945", *more], CONFIG) for more in ([], ["launcher=joblib"])}
    assert names == {f"seed=1_lr=0.0008559-{identity(CONFIG)[:8]}"}


def test_the_command_that_goes_on_is_one_that_hydra_and_the_shell_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / 'lr=0.1 "a"', "interrupted")
    monkeypatch.setattr("sys.argv", ["hemolens", "train", "--config-dir", "my configs", "data.split=[1, 1]"])
    run_guard._say_how_to_resume(folder, ["data.split=[1, 1]", "ckpt_path=old", "hydra.run.dir=x"], "train")
    words = shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert words[:5] == ["hemolens", "train", "--config-dir", "my configs", "data.split=[1, 1]"] and len(words) == 7
    values = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(words[4:])}
    assert values["hydra.run.dir"] == str(folder)
    assert values["ckpt_path"] == str(folder / "checkpoints" / "last.ckpt")


def test_what_a_run_without_its_callback_says_is_enough(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", "finished")
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({k: status[k] for k in ("state", "identity", "job", "exit_code")}))
    assert claim_multirun(OmegaConf.create(CONFIG), folder, CONFIG)
