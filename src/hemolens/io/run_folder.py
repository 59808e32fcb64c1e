"""``status.json`` of a run folder: what the run is doing, how it ended, and whether it is complete."""

import json
import os
from pathlib import Path
from typing import Any

from hemolens.io.atomic import write_json

STATUS_FILE = "status.json"
# Who numbers the processes of one run: torchrun, Lightning, srun.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def process_rank() -> int:
    """Which of the processes of one run this is; 0 writes the folder."""
    return next((int(os.environ[name]) for name in RANK_VARIABLES if os.environ.get(name)), 0)


def read_status(run_dir: str | Path) -> dict[str, Any]:
    """The status of a run folder; an empty dict where it has none."""
    path = Path(run_dir) / STATUS_FILE
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content


def update_status(run_dir: str | Path, **changes: Any) -> None:
    """Change keys of ``status.json``, keeping the others; does nothing in a run's further processes."""
    if process_rank() == 0:
        write_json(Path(run_dir) / STATUS_FILE, read_status(run_dir) | changes, overwrite=True)


def is_complete(run_dir: str | Path) -> bool:
    """Whether a run ended well: the process said so, the epochs or steps agree, and its results and checkpoint exist.

    A trial that a search pruned is not complete: its state is ``pruned``.
    """
    run_dir, status = Path(run_dir), read_status(run_dir)
    if status.get("state") != "finished" or status["exit_code"] != 0 or not (run_dir / "metrics.json").exists():
        return False
    if status["job"] != "train":
        return True
    if "last_epoch" not in status:  # trained without the callback that counts
        return True
    last_step = 0 < status.get("max_steps", -1) <= status.get("global_step", 0)
    ended = status["last_epoch"] == status["max_epochs"] or last_step or status["stopped_early"]
    return bool(ended and status["best_checkpoint"] and (run_dir / status["best_checkpoint"]).exists())
