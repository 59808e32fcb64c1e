"""The learning rate, under one name in every run."""

from typing import Any

import lightning as L

NAMES = ("train/lr", "train/lr_discriminator")


class LearningRate(L.Callback):
    """Log ``train/lr``, and ``train/lr_discriminator`` where a discriminator has an optimizer of its own.

    Lightning's ``LearningRateMonitor`` names its curves by the optimizer's class and parameter groups
    (``lr-AdamW/pg1``), so that runs with another optimizer could not be laid over each other; hence this class. All
    groups of an optimizer have the same rate here.
    """

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log what this batch is trained with."""
        rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
        pl_module.log_dict(dict(zip(NAMES, rates, strict=False)), on_step=True, on_epoch=False, batch_size=1)
