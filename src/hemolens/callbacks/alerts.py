"""Messages that W&B sends to a phone or a channel: a loss that is not finite, a stopped run, the end."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from hemolens.callbacks.wandb_run import wandb_runs
from hemolens.tasks.base import LossNotFinite

LOSSES = ("val/loss", "val/reconstruction")
MOST_CHARACTERS = 1000


class Alerts(L.Callback):
    """Alert at a loss that is infinite or not a number, at any other error, and at the end; without W&B do nothing.

    Each alert says at which step, and what to try. W&B sends them by e-mail or to Slack, as the account's settings say.

    Args:
        tested: a test follows the training, and its end is the run's.
    """

    def __init__(self, tested: bool = True) -> None:
        self.tested = tested
        self.warned = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Warn once of a validation loss that is not finite; training goes on, the best checkpoint so far stays."""
        scores = trainer.callback_metrics
        lost = [f"{name}={float(scores[name])}" for name in LOSSES if not math.isfinite(float(scores.get(name, 0.0)))]
        if lost and not self.warned and not trainer.sanity_checking:
            self.warned = True
            text = f"{', '.join(lost)} at step {trainer.global_step}: lower optimizer.lr, look at the validation images"
            alert(trainer, "validation loss is not finite", text, "WARN")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say why the run ends; not after Ctrl-C, which somebody pressed."""
        if not isinstance(exception, Exception):
            return
        what = "loss is not finite" if isinstance(exception, LossNotFinite) else "run failed"
        text = f"step {trainer.global_step}: {exception or type(exception).__name__}"
        alert(trainer, f"{what}: step {trainer.global_step}", text, "ERROR")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that a run without a test is done."""
        if not self.tested:
            self._finished(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that a run is done, and its main scores."""
        self._finished(trainer, pl_module)

    def _finished(self, trainer: L.Trainer, pl_module: Any) -> None:
        scores = trainer.callback_metrics
        names = [name for name in scores if name.startswith("test/")] or [n for n in scores if n.startswith("val/")]
        names = [name for name in names if not name.endswith(tuple(f"_{word}" for word in pl_module.class_names))]
        listed = ", ".join(f"{name} {float(scores[name]):.4g}" for name in names)
        alert(trainer, f"{pl_module.family} finished", listed or "no scores", "INFO")


@rank_zero_only
def alert(trainer: L.Trainer, title: str, text: str, level: str) -> None:
    """Send an alert from each W&B run of a trainer.

    Args:
        trainer: whose loggers are asked.
        title: one line; W&B sends the same title at most once a minute.
        text: cut to :data:`MOST_CHARACTERS`.
        level: INFO, WARN or ERROR.
    """
    for run in wandb_runs(trainer.loggers):
        run.alert(title=title, text=text[:MOST_CHARACTERS], level=level)
