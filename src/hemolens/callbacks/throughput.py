"""Images a second, logged once an epoch."""

import time
from typing import Any

import lightning as L

from hemolens.callbacks.csv_history import CSVHistory


class Throughput(L.Callback):
    """Log ``train/images_per_second`` (wall time of the training steps, data loading included)."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self.images, self.start, self.elapsed = 0, time.perf_counter(), 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock; a run resumed within an epoch has no epoch start."""
        self._restart()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._restart()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images and stop the clock, so that validation is not counted."""
        self.images += len(batch["image_ids"])
        self.elapsed = time.perf_counter() - self.start

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the rate over all processes."""
        if self.images:  # none where a run is resumed at an epoch's end
            rate = self.images / self.elapsed * trainer.world_size
            pl_module.log("train/images_per_second", rate, rank_zero_only=True, logger=False)
            # Lightning would log it after the epoch's checkpoint, and a run killed in between would lose it
            for logger in trainer.loggers:
                logger.log_metrics(
                    {"train/images_per_second": rate, "epoch": trainer.current_epoch}, step=trainer.global_step - 1
                )
                if isinstance(logger, CSVHistory):
                    logger.flush()
