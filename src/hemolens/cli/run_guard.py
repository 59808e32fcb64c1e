"""The life of one run folder: made once, never overwritten, and truthful about how the run ended."""

import hashlib
import json
import logging
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from hemolens.cli.launchers import one_device, trial_number
from hemolens.cli.words import config_dir_words, hydra_word
from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path, write_json
from hemolens.io.run_folder import is_complete, process_rank, read_status, update_status

log = logging.getLogger(__name__)

RUN_DIR_VARIABLE = "HEMOLENS_RUN_DIR"  # tells the processes of a DDP run where rank 0 writes


class PrunedScore(float):
    """The score of a trial that a search stopped early."""


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as a plain dict with every ``${…}`` replaced; a missing value is an error."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{', '.join(missing)} must be given: add {missing[0]}=… to the command")
    container: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    return container


def identity(config: dict[str, Any]) -> str:
    """What makes two runs the same: a hash of the resolved config, taken before the run folder is filled in."""
    content = {key: value for key, value in config.items() if key not in ("paths", "resume")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Commit and dirty flag of the checkout the code runs from; nulls outside a checkout."""

    def git(*words: str) -> str | None:
        where = folder or Path(__file__).resolve().parent
        try:
            done = subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git("rev-parse", "HEAD"),
        "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
        "dirty": None if changes is None else bool(changes),
    }


def run_name(overrides: list[str], config: dict[str, Any]) -> str:
    """A multirun job's folder: its overrides, readable, and a hash of its config, unique."""
    pairs = [item.lstrip("+~").partition("=") for item in overrides]
    told = [
        f"{key.rpartition('.')[2]}={_short(value)}"
        for key, _, value in pairs
        if not key.startswith(("hydra.", "paths.", "logger", "sweep", "task_name", "launcher")) and "/" not in value
    ]
    slug = re.sub(r"[^A-Za-z0-9=_.,-]+", "-", "_".join(told))[-80:].strip("-_") or "run"
    return f"{slug}-{identity(config)[:8]}"


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}" if len(value) > 8 else value
    except ValueError:
        return value


def _started(pid: int) -> str | None:
    """When a process began, which tells it from a later one of the same number; None where the system won't say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _runs_in_slurm(job: str | None) -> bool:
    """Whether SLURM runs a job on another machine; not this very job, which was queued again."""
    if not job or job == os.environ.get("SLURM_JOB_ID"):
        return False
    try:
        asked = ["squeue", "--noheader", "--states=RUNNING", f"--jobs={job}"]
        return bool(subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.strip())
    except (OSError, subprocess.TimeoutExpired):
        return False


def _alive(status: dict[str, Any]) -> bool:
    if status.get("host") != socket.gethostname():
        return _runs_in_slurm(status.get("slurm_job"))
    pid = int(status["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's; whether it is this run's, its start says
        pass
    return pid != os.getpid() and status.get("pid_started") in (None, _started(pid))


def _set_aside(run_dir: Path) -> None:
    """Keep what an earlier attempt left, out of the way of the new one."""
    number = 1
    while (target := run_dir.with_name(f"{run_dir.name}.attempt{number}")).exists():
        number += 1
    run_dir.rename(target)
    update_status(target, superseded=True)
    log.info("an earlier attempt is kept in %s", target)


def claim_single(cfg: DictConfig, run_dir: Path, config: dict[str, Any]) -> bool:
    """Refuse a folder that holds something else; allow the run's own folder when it is resumed from a checkpoint.

    True where ``cfg.resume`` finds this run complete.
    """
    if cfg.get("resume") and any(run_dir.iterdir()):
        return _claim_again(cfg, run_dir, config)
    ckpt = Path(cfg.ckpt_path).absolute() if cfg.get("ckpt_path") else None
    resuming = ckpt is not None and ckpt.is_relative_to(run_dir)
    if resuming and is_complete(run_dir):
        raise UserError(f"{run_dir} holds a complete run: choose another hydra.run.dir")
    last = run_dir / "checkpoints" / "last.ckpt"
    if read_status(run_dir).get("state") == "failed" and not last.exists():
        return False  # an attempt that came to nothing, e.g. a wrong data folder: use its folder again
    if any(run_dir.iterdir()) and not resuming:
        hint = f", or resume it with ckpt_path={last}" if last.exists() else ""
        raise UserError(f"output folder {run_dir} exists and is not empty: choose another hydra.run.dir{hint}")
    if resuming:
        _refuse_in_use(run_dir)
    return False


def _claim_again(cfg: DictConfig, run_dir: Path, config: dict[str, Any]) -> bool:
    status = read_status(run_dir)
    if not status:
        raise UserError(f"{run_dir} is not empty and holds no run: choose another hydra.run.dir")
    if status.get("identity") != identity(config):
        raise UserError(
            f"{run_dir} holds a run of another config: choose another hydra.run.dir, or go on from its checkpoint "
            "all the same with ckpt_path=… in place of resume=true"
        )
    if is_complete(run_dir):
        return True
    if status.get("state") == "running":
        _refuse_in_use(run_dir)
    go_on(cfg, run_dir)
    return False


class InUse(UserError):
    """A run folder that another process is at work in."""


def _refuse_in_use(run_dir: Path, exit_code: int = 2) -> None:
    status = read_status(run_dir)
    if _alive(status):
        raise InUse(f"{run_dir} is in use by process {status['pid']}: wait for it or stop it", exit_code=exit_code)


def go_on(cfg: DictConfig, run_dir: Path) -> bool:
    """Set ``ckpt_path`` to the last checkpoint of a run folder, if there is one."""
    last = run_dir / "checkpoints" / "last.ckpt"
    if not last.exists():
        return False
    cfg.ckpt_path = str(last)
    log.info("going on from %s", last)
    return True


def claim_multirun(cfg: DictConfig, run_dir: Path, config: dict[str, Any]) -> bool:
    """Prepare a job's folder; True where the same job is already complete. Sets ``ckpt_path`` to go on from a kill."""
    if not run_dir.exists():
        return False
    status = read_status(run_dir)
    same, state = status.get("identity") == identity(config), status.get("state")
    if same and (is_complete(run_dir) or (state == "pruned" and trial_number() is not None)):
        return True
    if state == "running":
        _refuse_in_use(run_dir, exit_code=1)
    if same and state in ("running", "interrupted", "pruned") and go_on(cfg, run_dir):
        return False
    if any(run_dir.iterdir()):
        _set_aside(run_dir)
    return False


def guarded_run(cfg: DictConfig, job_type: str, body: Callable[[DictConfig, Path], dict[str, Any]]) -> float | None:
    """Run ``body(cfg, run_dir)`` with a run folder around it.

    The folder gets ``config.yaml``, ``config_resolved.yaml``, ``git.json``, ``run.log``, ``status.json`` and, from the
    returned metrics, ``metrics.json``. W&B is finished with the job's exit code, so that a failed job shows as crashed
    and the next job of a sweep gets a run of its own.

    Returns:
        The value of ``cfg.optimized_metric`` (for sweepers), or None.
    """
    hydra_cfg = HydraConfig.get()
    if process_rank() > 0:  # a process beside the first one: the folder is that one's business
        return _follow(cfg, body)
    with open_dict(cfg):
        config = resolved(cfg)
        if hydra_cfg.mode == RunMode.MULTIRUN:
            run_dir = Path(hydra_cfg.sweep.dir).absolute() / run_name(list(hydra_cfg.overrides.task), config)
            done = claim_multirun(cfg, run_dir, config)
        else:
            run_dir = _single_folder(cfg)
            done = claim_single(cfg, run_dir, config)
        if done:
            log.info("skipped, already complete: %s", run_dir)
            return _optimized(cfg, json.loads((run_dir / "metrics.json").read_text()), run_dir)
        cfg.paths.run_dir = str(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    _describe(cfg, run_dir, job_type, identity(config))
    handler = logging.FileHandler(run_dir / "run.log")
    logging.getLogger().addHandler(handler)
    environment = dict(os.environ)
    os.environ[RUN_DIR_VARIABLE] = str(run_dir)
    exit_code, started, cpu_before = 1, time.monotonic(), _cpu_seconds()
    try:
        with one_device(cfg):
            metrics = body(cfg, run_dir)
        write_json(run_dir / "metrics.json", metrics, overwrite=True)
        exit_code = 0
        return _optimized(cfg, metrics, run_dir)
    except (KeyboardInterrupt, SystemExit):
        update_status(run_dir, state="interrupted", exit_code=1)
        if hydra_cfg.mode == RunMode.MULTIRUN:
            _tell(f"interrupted; everything so far is in {run_dir}. The same command again goes on with it")
        else:
            _say_how_to_resume(run_dir, list(hydra_cfg.overrides.task), job_type)
        raise
    except BaseException as error:
        with atomic_path(run_dir / "crash.txt", overwrite=True) as temporary:
            temporary.write_text(traceback.format_exc())
        update_status(run_dir, state="failed", exit_code=1, error=f"{type(error).__name__}: {error}")
        if hydra_cfg.mode == RunMode.MULTIRUN:
            log.error("failed: %s: %s: %s", run_dir.name, type(error).__name__, error)
        raise
    finally:
        _finish_wandb(exit_code)
        update_status(
            run_dir,
            wall_seconds=round(time.monotonic() - started, 1),
            cpu_seconds=round(_cpu_seconds() - cpu_before, 1),
            **({"state": _end_state(run_dir), "exit_code": 0} if exit_code == 0 else {}),
        )
        logging.getLogger().removeHandler(handler)
        handler.close()
        os.environ.clear()
        os.environ.update(environment)


def _end_state(run_dir: Path) -> str:
    return "pruned" if read_status(run_dir).get("pruned") else "finished"


def _single_folder(cfg: DictConfig) -> Path:
    """Of a run outside a multirun; with ``cfg.resume`` it must be the same in each call."""
    hydra_cfg: Any = HydraConfig.get()
    named_by_time = "${now:" in str(hydra_cfg.run._get_node("dir"))
    if cfg.get("resume") and named_by_time:
        raise UserError("resume=true goes on in a folder that stays: add hydra.run.dir=… to the command")
    return Path(hydra_cfg.runtime.output_dir).absolute()


def _follow(cfg: DictConfig, body: Callable[[DictConfig, Path], dict[str, Any]]) -> float | None:
    """A run's further process: it does what the first one does, and leaves the folder alone."""
    with open_dict(cfg):
        if RUN_DIR_VARIABLE in os.environ:  # started by the first one
            run_dir = Path(os.environ[RUN_DIR_VARIABLE])
        else:  # started by srun, at the same time as the first one
            run_dir = _single_folder(cfg)
            if cfg.get("resume") and is_complete(run_dir):
                return None
        if cfg.get("resume"):
            go_on(cfg, run_dir)
        cfg.paths.run_dir = str(run_dir)
    body(cfg, run_dir)
    return None


def _cpu_seconds() -> float:
    """Of this process and of the workers that have ended, on all cores."""
    return sum(os.times()[:4])


def _describe(cfg: DictConfig, run_dir: Path, job_type: str, digest: str) -> None:
    for name, resolve in (("config.yaml", False), ("config_resolved.yaml", True)):
        with atomic_path(run_dir / name, overwrite=True) as temporary:
            temporary.write_text(OmegaConf.to_yaml(cfg, resolve=resolve))
    write_json(run_dir / "git.json", git_state(), overwrite=True)
    update_status(
        run_dir,
        state="running",
        job=job_type,
        identity=digest,
        exit_code=None,
        error=None,
        command=" ".join(sys.argv),
        host=socket.gethostname(),
        pid=os.getpid(),
        pid_started=_started(os.getpid()),
        slurm_job=os.environ.get("SLURM_JOB_ID"),
        pruned=False,
        scores=[name for name in (cfg.get("optimized_metric"), OmegaConf.select(cfg, "monitor.metric")) if name],
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )


def _optimized(cfg: DictConfig, metrics: dict[str, Any], run_dir: Path) -> float | None:
    name = cfg.get("optimized_metric")
    if not name:
        return None
    if name not in metrics:
        raise UserError(f"optimized_metric={name} is not among the metrics: {', '.join(sorted(metrics))}", exit_code=1)
    return PrunedScore(metrics[name]) if read_status(run_dir).get("pruned") else float(metrics[name])


def _finish_wandb(exit_code: int) -> None:
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=exit_code)


def _say_how_to_resume(run_dir: Path, overrides: list[str], job_type: str) -> None:
    last = run_dir / "checkpoints" / "last.ckpt"
    if not last.exists():
        return
    words = [word for word in overrides if not word.startswith(("ckpt_path=", "hydra."))]
    places = [hydra_word("hydra.run.dir", run_dir), hydra_word("ckpt_path", last)]
    command = shlex.join(["hemolens", job_type, *config_dir_words(), *words, *places])
    _tell(f"interrupted; everything so far is in {run_dir}. Go on with\n  {command}")


def _tell(message: str) -> None:
    print(f"\nhemolens: {message}", file=sys.stderr)
