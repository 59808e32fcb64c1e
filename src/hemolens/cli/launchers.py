"""What a job of a multirun needs from its launcher: one device, and none of the others' jobs'."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hemolens.errors import UserError

DEVICE_VARIABLE = "HEMOLENS_DEVICE"  # the index of the GPU that a job of a parallel launcher got
MISSING_PLUGIN = "pip install 'hemolens[sweep]'"


class SweepError(UserError):
    """A multirun that cannot begin; no job has started."""


def check_one_device(cfg: DictConfig) -> None:
    """Refuse the config of a multirun's job that wants several devices or processes.

    Raises:
        SweepError: with the key.
    """
    trainer = cfg.get("trainer")
    if trainer is None:
        return
    several = {
        "devices": _several(trainer.get("devices", 1), trainer.get("accelerator")),
        "num_nodes": int(trainer.get("num_nodes", 1)) > 1,
        "strategy": not str(trainer.get("strategy", "auto")).startswith(("auto", "single_device")),
    }
    for key, wrong in several.items():
        if wrong:
            raise SweepError(
                f"trainer.{key}={trainer[key]}: a job of a multirun takes one device; drop -m, or choose trainer=gpu "
                "or trainer=cpu (many jobs at once: launcher=joblib or launcher=submitit_slurm)"
            )


def _several(devices: Any, accelerator: str | None) -> bool:
    if devices is None:
        return False
    if OmegaConf.is_list(devices):
        return len(devices) > 1
    if str(devices) in ("auto", "-1"):
        return accelerator != "cpu"
    return "," in str(devices) or int(devices) > 1


def jobs_at_once(hydra_cfg: DictConfig) -> int:
    """How many jobs the launcher runs side by side."""
    launcher = hydra_cfg.launcher
    if "n_jobs" in launcher:  # joblib: -1 is a job a core, -2 one fewer
        jobs = int(launcher.n_jobs)
        return jobs if jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + jobs)
    return int(launcher.get("array_parallelism", 1))


def trial_number() -> int | None:
    """Which trial of a search this job is; None: it is no trial."""
    if not HydraConfig.initialized():
        return None
    number = HydraConfig.get().sweeper.get("trial")
    return None if number is None else int(number)


def _shares_devices(hydra_cfg: Any) -> bool:
    """Whether jobs run side by side on this machine; SLURM hands out devices itself."""
    launcher = hydra_cfg.runtime.choices.get("hydra/launcher")
    return hydra_cfg.mode == RunMode.MULTIRUN and launcher in ("joblib", "submitit_local")


@contextmanager
def one_device(cfg: DictConfig) -> Iterator[None]:
    """While the block runs, a job of a parallel launcher on this machine has a GPU of its own.

    Its number modulo the GPUs says which, or if that one is taken the next one that is free; a job beyond their number
    shares. The GPU is told by ``DEVICE_VARIABLE``, which :mod:`hemolens.cli.build` reads.
    """
    hydra_cfg = HydraConfig.get()
    trainer = cfg.get("trainer")
    if trainer is None or trainer.get("accelerator") == "cpu" or not _shares_devices(hydra_cfg):
        yield
        return
    import torch

    count = torch.cuda.device_count()
    if count < 2 or OmegaConf.is_list(trainer.devices):  # a list: chosen by hand
        yield
        return
    folder = Path(hydra_cfg.sweep.dir).absolute() / ".devices"
    folder.mkdir(parents=True, exist_ok=True)
    order = [(int(hydra_cfg.job.num) + step) % count for step in range(count)]
    device, lock = next(
        ((index, lock) for index in order if (lock := _locked(folder / f"{index}.lock")) is not None), (order[0], None)
    )
    os.environ[DEVICE_VARIABLE] = str(device)
    try:
        yield
    finally:
        os.environ.pop(DEVICE_VARIABLE, None)
        if lock is not None:
            lock.close()  # the system opens it too where the process is killed


def _locked(path: Path) -> Any | None:
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another job's, or a file system without locks
        file.close()
        return None
    return file
