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

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep what this batch is trained with: at its end the schedule has gone on."""
        rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
        self.rates = dict(zip(NAMES, rates, strict=False))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log it at the steps that the loggers get; a call of ``log`` takes a third of a millisecond."""
        connector = trainer._logger_connector  # as Lightning's LearningRateMonitor asks it
        if connector.should_update_logs or trainer.is_last_batch or trainer.should_stop:
            pl_module.log_dict(self.rates, on_step=True, on_epoch=False, batch_size=1)
