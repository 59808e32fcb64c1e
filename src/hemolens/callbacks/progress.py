"""The progress bar of a training, drawn no oftener than one can see."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

LEAST_SECONDS = 0.1


class ProgressBar(RichProgressBar):
    """Lightning's bar, which draws itself anew after every step: for a small network that is most of its time."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the bar, if the last time is a while ago or the epoch ends."""
        now = time.monotonic()
        if now - self._drawn >= LEAST_SECONDS or trainer.is_last_batch:
            self._drawn = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
