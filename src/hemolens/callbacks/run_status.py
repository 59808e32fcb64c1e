"""``status.json`` of a run folder: what the run is doing, and how it ended."""

import json
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from hemolens.io.atomic import write_json

STATUS_FILE = "status.json"


def read_status(run_dir: str | Path) -> dict[str, Any]:
    """The status of a run folder; an empty dict where it has none."""
    path = Path(run_dir) / STATUS_FILE
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content


@rank_zero_only
def update_status(run_dir: str | Path, **changes: Any) -> None:
    """Change keys of ``status.json``, keeping the others."""
    write_json(Path(run_dir) / STATUS_FILE, read_status(run_dir) | changes, overwrite=True)


def is_complete(run_dir: str | Path) -> bool:
    """Whether a run ended well: the process said so, the epochs agree, and its results and checkpoint exist."""
    run_dir, status = Path(run_dir), read_status(run_dir)
    if status.get("state") != "finished" or status["exit_code"] != 0 or not (run_dir / "metrics.json").exists():
        return False
    if status["job"] != "train":
        return True
    epochs_agree = status["last_epoch"] == status["max_epochs"] or status["stopped_early"]
    return bool(epochs_agree and status["best_checkpoint"] and (run_dir / status["best_checkpoint"]).exists())


class RunStatus(Checkpoint):
    """Keep the training part of ``status.json`` up to date, and make an interrupted run resumable.

    The first Ctrl-C lets the batch in hand finish, saves ``last.ckpt`` and stops: a resumed run then equals an
    uninterrupted one. The second stops at once. Being a ``Checkpoint``, it runs after the other callbacks (the moving
    average has then seen the step).

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)
        self.started = time.monotonic()
        self.interrupted = False
        self._saved = False
        self._former_handler: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over Ctrl-C."""
        if threading.current_thread() is threading.main_thread():
            self._former_handler = signal.signal(signal.SIGINT, self._on_sigint)

    def _on_sigint(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        print("\nhemolens: finishing this batch, then saving (Ctrl-C again: stop at once)", file=sys.stderr)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After Ctrl-C: save. The loggers get this step's values after this hook, so stop at the next one."""
        if self.interrupted:
            trainer.save_checkpoint(self.run_dir / "checkpoints" / "last.ckpt")
            update_status(self.run_dir, interrupted_at_step=trainer.global_step)
            self._saved = True

    def _stop_if_saved(self) -> None:
        if self._saved:
            raise KeyboardInterrupt

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop after Ctrl-C."""
        self._stop_if_saved()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop after Ctrl-C in an epoch's last batch."""
        self._stop_if_saved()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the epoch."""
        self._stop_if_saved()
        self._write(trainer, epochs_done=trainer.current_epoch + 1)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say which checkpoint was best, and whether the run stopped before its last epoch."""
        self._write(trainer, epochs_done=trainer.current_epoch)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        if self._former_handler is not None:
            signal.signal(signal.SIGINT, self._former_handler)
            self._former_handler = None

    def _write(self, trainer: L.Trainer, epochs_done: int) -> None:
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        update_status(
            self.run_dir,
            last_epoch=epochs_done,
            max_epochs=trainer.max_epochs,
            stopped_early=bool(trainer.should_stop and epochs_done != trainer.max_epochs),
            best_checkpoint=str(Path(best).relative_to(self.run_dir.absolute())) if best else None,
            global_step=trainer.global_step,
            fit_seconds=round(time.monotonic() - self.started, 1),
        )
