"""Keeps ``status.json`` of a run folder up to date, and ends a run that must stop so that it can go on."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from hemolens.io.run_folder import update_status

# A scheduler's word that the time is almost up: SLURM's (scripts/train.sbatch) and submitit's.
REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
REQUEUE_EXIT_CODE = 75  # EX_TEMPFAIL: saved, start me again
AGREE_EVERY = 10  # batches; processes that train together stop at the same one


class RunStatus(Checkpoint):
    """Keep the training part of ``status.json`` up to date, and make an interrupted run resumable.

    The first Ctrl-C lets the batch in hand finish, saves ``last.ckpt`` and stops: a resumed run then equals an
    uninterrupted one. The second stops at once. A scheduler's signal does the same, and then goes on to who waited for
    it before (submitit, which queues the job again), or ends the process with exit code 75. Being a ``Checkpoint``, it
    runs after the other callbacks (the moving average has then seen the step).

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)
        self.started = time.monotonic()
        self.interrupted = False
        self._saved = False
        self._requeue: int | None = None
        self._former: dict[int, Any] = {}
        self._process = os.getpid()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over Ctrl-C, and below a scheduler its signals."""
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            scheduled = "SLURM_JOB_ID" in os.environ or "SUBMITIT_EXECUTOR" in os.environ
            for number in (signal.SIGINT, *(REQUEUE_SIGNALS if scheduled else ())):
                self._former[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker, which was forked with this handler
            return
        if number in REQUEUE_SIGNALS:
            self._requeue = number
            print("\nhemolens: the time is almost up: finishing this batch, then saving", file=sys.stderr)
        elif self.interrupted:
            raise KeyboardInterrupt
        else:
            print("\nhemolens: finishing this batch, then saving (Ctrl-C again: stop at once)", file=sys.stderr)
        self.interrupted = True

    def _to_stop(self, trainer: L.Trainer, batch_idx: int) -> bool:
        if trainer.world_size == 1 or signal.SIGUSR1 not in self._former:
            return self.interrupted
        # each process may have been told in another batch
        return batch_idx % AGREE_EVERY == 0 and trainer.strategy.reduce_boolean_decision(self.interrupted, all=False)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a signal: save. The loggers get this step's values after this hook, so stop at the next one."""
        if self._to_stop(trainer, batch_idx):
            trainer.save_checkpoint(self.run_dir / "checkpoints" / "last.ckpt")
            update_status(self.run_dir, interrupted_at_step=trainer.global_step)
            self._saved = True

    def _stop_if_saved(self) -> None:
        if not self._saved:
            return
        if self.interrupted and self._requeue is None:
            raise KeyboardInterrupt
        former = self._former.get(self._requeue) if self._requeue else None
        if callable(former):
            try:
                former(self._requeue, None)  # submitit: queues the job again, and leaves
            except Exception as error:  # not queued again; what is saved waits for the next call
                raise KeyboardInterrupt(f"{error}") from error
        raise SystemExit(REQUEUE_EXIT_CODE)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a signal."""
        self._stop_if_saved()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop after a signal in an epoch's last batch."""
        self._stop_if_saved()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the epoch."""
        self._stop_if_saved()
        self._write(trainer, epochs_done=trainer.current_epoch + 1)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say which checkpoint was best, and whether the run stopped before its last epoch; keep the last values.

        A run that is killed in its test goes on with nothing left to train, and would else have lost them.
        """
        self._write(trainer, epochs_done=trainer.current_epoch)
        if values := {name: float(value) for name, value in trainer.callback_metrics.items()}:
            update_status(self.run_dir, fit_metrics=values)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        while self._former:
            number, handler = self._former.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _write(self, trainer: L.Trainer, epochs_done: int) -> None:
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        update_status(
            self.run_dir,
            last_epoch=epochs_done,
            max_epochs=trainer.max_epochs,
            max_steps=trainer.max_steps,
            stopped_early=bool(trainer.should_stop and epochs_done != trainer.max_epochs),
            best_checkpoint=str(Path(best).relative_to(self.run_dir.absolute())) if best else None,
            global_step=trainer.global_step,
            fit_seconds=round(time.monotonic() - self.started, 1),
        )
