"""What a multirun tells at its end: one row a job, and an exit code that does not hide a failure."""

import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

_started: dict[str, Any] = {}


class RememberSweep(Callback):
    """Hydra callback: keep the sweep's folder, so that the summary finds its jobs whatever the launcher."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Keep the folder."""
        _started["dir"] = Path(config.hydra.sweep.dir).absolute()


# What the summary says of a job: the first of these that it has.
SCORES = tuple(f"{split}/{name}" for name in ("map", "f1_macro", "dice") for split in ("test", "val"))


def print_sweep_summary(code: int) -> int:
    """Print the table of the sweep's jobs; returns 1 where any of them failed."""
    folder: Path | None = _started.get("dir")
    if folder is None or code == 2:
        return code
    rows = []
    for status_file in sorted(folder.glob("*/status.json")):
        status = json.loads(status_file.read_text())
        if status.get("superseded"):
            continue
        metrics_file = status_file.parent / "metrics.json"
        metrics = json.loads(metrics_file.read_text()) if metrics_file.exists() else {}
        told = next((name for name in SCORES if name in metrics), None)
        note = status.get("error") or ("" if told is None else f"{told} {metrics[told]:.4f}")
        rows.append((status_file.parent.name, status["state"], note))
    print(f"\n{len(rows)} jobs in {folder}", file=sys.stderr)
    for name, state, note in rows:
        print(f"  {state:<12}{name}  {note}", file=sys.stderr)
    print(f"Table: hemolens collect {folder}", file=sys.stderr)
    return 1 if code or any(state != "finished" for _, state, _ in rows) else 0
