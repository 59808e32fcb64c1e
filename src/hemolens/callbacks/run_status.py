"""``status.json`` of a run folder: what the run is doing, and how it ended."""

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
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


class RunStatus(L.Callback):
    """Keep the training part of ``status.json`` up to date, and make an interrupted run resumable.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the epoch."""
        self._write(trainer, epochs_done=trainer.current_epoch + 1)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say which checkpoint was best, and whether the run stopped before its last epoch."""
        self._write(trainer, epochs_done=trainer.current_epoch)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """On Ctrl-C (or a SLURM signal) save ``last.ckpt``; other errors leave the last good one alone."""
        if isinstance(exception, KeyboardInterrupt) and trainer.training:
            trainer.save_checkpoint(self.run_dir / "checkpoints" / "last.ckpt")
            update_status(self.run_dir, interrupted_at_step=trainer.global_step)

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
