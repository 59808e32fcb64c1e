"""Images a second, logged once an epoch."""

import time
from typing import Any

import lightning as L


class Throughput(L.Callback):
    """Log ``train/images_per_second`` (wall time of the training steps, data loading included)."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.images, self.start = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images and stop the clock, so that validation is not counted."""
        self.images += len(batch["targets"])
        self.elapsed = time.perf_counter() - self.start

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the rate over all processes."""
        rate = self.images / max(self.elapsed, 1e-9) * trainer.world_size
        pl_module.log("train/images_per_second", rate, rank_zero_only=True)
