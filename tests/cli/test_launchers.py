"""Launchers: their configs, one device a job, and what is said where that is not to be had."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hemolens.cli import build
from hemolens.cli.app import config_dir, register_resolvers
from hemolens.cli.compose import composed
from hemolens.cli.launchers import DEVICE_VARIABLE, SweepError, check_one_device, jobs_at_once, one_device
from hemolens.cli.main import main

GPU = {"accelerator": "gpu", "devices": 1, "strategy": "auto", "precision": "32-true"}


@pytest.mark.parametrize(
    ("trainer", "key"),
    [
        ({"devices": "auto"}, "devices"),
        ({"devices": -1}, "devices"),
        ({"devices": 2}, "devices"),
        ({"devices": [0, 1]}, "devices"),
        ({"devices": "0,1"}, "devices"),
        ({"num_nodes": 2}, "num_nodes"),
        ({"strategy": "ddp"}, "strategy"),
        ({"strategy": "fsdp"}, "strategy"),
    ],
)
def test_several_devices_are_named(trainer: dict[str, Any], key: str) -> None:
    with pytest.raises(SweepError, match=rf"trainer\.{key}=.*one device; drop -m"):
        check_one_device(OmegaConf.create({"trainer": GPU | trainer}))


@pytest.mark.parametrize("trainer", [{}, {"devices": [3]}, {"devices": "1"}, {"accelerator": "cpu", "devices": "auto"}])
def test_one_device_is_well(trainer: dict[str, Any]) -> None:
    check_one_device(OmegaConf.create({"trainer": GPU | trainer}))
    check_one_device(OmegaConf.create({"seed": 0}))


@pytest.mark.parametrize("words", [["trainer=gpu,ddp"], ["trainer=slurm"]])
def test_a_multirun_over_several_devices_is_refused_before_any_job(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", "sweep_name=x", *words]) == 2
    error = capfd.readouterr().err.strip()
    assert error.startswith("hemolens: trainer.") and "drop -m" in error and len(error.splitlines()) == 1
    assert not list(tmp_path.glob("outputs/*/x/*/"))


def hydra_config(*words: str) -> DictConfig:
    register_resolvers()
    return composed(str(config_dir()), "train", words, with_hydra=True).hydra


@pytest.mark.parametrize(("name", "at_once"), [("joblib", 2), ("submitit_local", 1), ("submitit_slurm", 8)])
def test_launchers_compose_for_a_grid_and_for_a_search(name: str, at_once: int) -> None:
    grid, search = (hydra_config(f"launcher={name}", f"sweep={sweep}") for sweep in ("seeds", "optuna_detection"))
    assert grid.runtime.choices["hydra/launcher"] == search.runtime.choices["hydra/launcher"] == name
    assert grid.launcher._target_ == search.launcher._target_ and jobs_at_once(grid) == jobs_at_once(search) == at_once
    assert grid.sweeper._target_.endswith("GridSweeper") and search.sweeper._target_.endswith("OptunaSweeper")
    assert grid.sweeper.max_batch_size == search.sweeper.max_batch_size == (2 if name == "submitit_local" else None)


def test_without_a_launcher_jobs_run_one_after_the_other() -> None:
    assert jobs_at_once(hydra_config()) == 1
    assert jobs_at_once(OmegaConf.create({"launcher": {"n_jobs": -1}})) >= 1


def test_a_missing_plugin_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hydra_config()  # all plugins are known now
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "joblib.yaml")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", "launcher=joblib", "seed=0,1"]) == 2
    error = capsys.readouterr().err
    assert error == "hemolens: the joblib launcher is not installed: pip install 'hemolens[sweep]'\n"


def job(number: int, folder: Path, launcher: str = "joblib") -> DictConfig:
    """Hydra's config of job ``number``."""
    content = {
        "mode": RunMode.MULTIRUN,
        "job": {"num": number},
        "sweep": {"dir": str(folder)},
        "runtime": {"choices": {"hydra/launcher": launcher}},
    }
    return OmegaConf.create(content)


def test_jobs_side_by_side_take_gpus_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)
    cfg = OmegaConf.create({"trainer": GPU})

    def taken() -> Any:
        return build._trainer_settings(cfg)["devices"]

    def start(number: int, **more: Any) -> Any:
        monkeypatch.setattr(HydraConfig, "get", lambda: job(number, tmp_path, **more))
        return one_device(cfg)

    with start(0):
        assert taken() == [0]
        with start(2):  # its own number says 0 too, which is taken
            assert taken() == [1]
            with start(3):  # more jobs than GPUs: shared
                assert taken() == [1]
    with start(3):
        assert taken() == [1]
    with start(4):
        assert taken() == [0]  # given back
    with start(1, launcher="submitit_slurm"):  # SLURM hands them out
        assert taken() == 1
    with start(1, launcher="basic"):
        assert taken() == 1


def test_a_chosen_gpu_or_a_cpu_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(HydraConfig, "get", lambda: job(1, tmp_path))
    for trainer in (GPU | {"devices": [0]}, GPU | {"accelerator": "cpu"}):
        cfg = OmegaConf.create({"trainer": trainer})
        with one_device(cfg):
            assert build._trainer_settings(cfg)["devices"] == trainer["devices"]


def test_a_run_of_a_wandb_sweep_takes_the_agents_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    assert build._wandb_run(tmp_path / "own", "train")["id"] != "given"  # of no sweep
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert build._wandb_run(tmp_path / "agents", "train")["id"] == "given"
