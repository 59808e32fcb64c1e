"""``metrics.csv`` of a run: one row a logging step, kept over a resume."""

import csv
import math
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from hemolens.io.atomic import atomic_path


class CSVHistory(Logger):
    """Log metrics to ``<run_dir>/metrics.csv``.

    Lightning's ``CSVLogger`` deletes the file of a run that is resumed. This one goes on with it: rows that the
    interrupted run wrote after the checkpoint are replaced, so that the history reads as if nothing had happened.

    Args:
        run_dir: the run folder.
        flush_seconds: least time between two writes; the file is also written before each checkpoint of an epoch, after
            any, and at the end.
    """

    def __init__(self, run_dir: str, flush_seconds: float = 10.0) -> None:
        super().__init__()
        self.path = Path(run_dir) / "metrics.csv"
        self.flush_seconds = flush_seconds
        self._written = time.monotonic()
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = [{key: text for key, text in row.items() if text} for row in csv.DictReader(file)]
        self._first = True

    @property
    def name(self) -> str:
        """Lightning asks for it; the run folder has its own name."""
        return ""

    @property
    def version(self) -> str:
        """Lightning asks for it; unused."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config_resolved.yaml`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row."""
        if self._first:
            self._first = False
            self.rows = [row for row in self.rows if step is None or int(row["step"]) < step]
        self.rows.append({"step": step, **{key: _number(value) for key, value in metrics.items()}})

    @rank_zero_only
    def save(self) -> None:
        """Write the file, if that was not done just now: Lightning calls this after each row."""
        if time.monotonic() - self._written > self.flush_seconds:
            self.flush()

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Let the file be no older than a checkpoint."""
        self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Write the file whole; its columns are the metrics seen so far, ``step`` and ``epoch`` first."""
        if not self.rows:
            return
        self._written = time.monotonic()
        names = sorted({key for row in self.rows for key in row} - {"step", "epoch"})
        with atomic_path(self.path, overwrite=True) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=["step", "epoch", *names])
            writer.writeheader()
            writer.writerows(self.rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the last rows."""
        self.flush()


def _number(value: Any) -> str | float:
    number = float(value)
    return "nan" if math.isnan(number) else int(number) if number.is_integer() else number
