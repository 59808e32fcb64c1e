"""What a multirun tells at its end: a row for each job (state, time, score), and an exit code that hides no failure."""

import json
import math
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

_started: dict[str, Any] = {}


class RememberSweep(Callback):
    """Hydra callback: keep the sweep's folder, so that the summary finds its jobs whatever the launcher."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Keep the folder and the time."""
        _started.update(dir=Path(config.hydra.sweep.dir).absolute(), time=int(time.time()))


# What the summary says of a job: the first of these that it has, else what it optimised.
SCORES = tuple(f"{split}/{name}" for name in ("map", "f1_macro", "dice") for split in ("test", "val"))
WELL = ("finished", "pruned")


def print_sweep_summary(code: int) -> int:
    """Print the table of the sweep folder's jobs; returns ``code``, or 1 where that is 0 and a job of now failed."""
    folder: Path | None = _started.get("dir")
    if folder is None or code == 2:
        return code
    rows, failed = [], False
    for status_file in sorted(folder.glob("*/status.json")):
        status = json.loads(status_file.read_text())
        if not status.get("superseded"):
            rows.append((status["state"], _seconds(status), status_file.parent.name, _note(status, status_file.parent)))
            failed |= status["state"] not in WELL and _began(status) >= _started["time"]
    print(f"\n{len(rows)} jobs in {folder}", file=sys.stderr)
    for state, seconds, name, note in rows:
        print(f"  {state:<12}{seconds:>9}  {name}  {note}", file=sys.stderr)
    print(f"Table: hemolens collect {folder}", file=sys.stderr)
    return code or int(failed)


def _began(status: dict[str, Any]) -> float:
    """When a job began last; one that does not say counts as of now."""
    started = status.get("started")
    return datetime.strptime(started, "%Y-%m-%dT%H:%M:%S%z").timestamp() if started else math.inf


def _seconds(status: dict[str, Any]) -> str:
    seconds = status.get("wall_seconds")
    return "" if seconds is None else f"{seconds:,.0f} s"


def _note(status: dict[str, Any], run: Path) -> str:
    if status.get("error"):
        return str(status["error"])
    metrics_file = run / "metrics.json"
    metrics = json.loads(metrics_file.read_text()) if metrics_file.exists() else {}
    told = next((name for name in (*SCORES, *status.get("scores", ())) if name in metrics), None)
    return "" if told is None else f"{told} {metrics[told]:.4f}"
