"""The learning rate has one name, and a step's value is what that step was trained with."""

from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from hemolens.callbacks.csv_history import CSVHistory
from hemolens.callbacks.learning_rate import LearningRate
from hemolens.tasks.base import Task


class Decaying(Task):
    """One weight, whose rate is halved after each step."""

    family = "numbers"
    metrics = {}  # noqa: RUF012  # as the tasks' own

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(1, 1),
            ["odd", "even"],
            optimizer=lambda groups: torch.optim.SGD(groups, lr=1.0),
            scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        )

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.net(batch).mean()
        return loss


class StopAfter(L.Callback):
    """Ends the run in a step that is not logged."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == self.steps


def fitted(*callbacks: L.Callback, loggers: Any = False) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        log_every_n_steps=3,
        callbacks=list(callbacks),
        logger=loggers,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Decaying(), DataLoader(torch.ones(8, 1), batch_size=1))  # type: ignore[arg-type]
    return trainer


def test_a_step_is_logged_with_the_rate_it_was_trained_with(tmp_path: Path) -> None:
    trainer = fitted(LearningRate(), loggers=[CSVHistory(str(tmp_path))])
    rows = pd.read_csv(tmp_path / "metrics.csv").dropna(subset="train/lr")
    assert dict(zip(rows["step"], rows["train/lr"], strict=True)) == {2: 0.25, 5: 0.5**5}
    assert float(trainer.callback_metrics["train/lr"]) == 0.5**7
    assert "train/lr_discriminator" not in trainer.callback_metrics


@pytest.mark.parametrize("steps", [4, 5])
def test_the_step_that_ends_a_run_is_kept(steps: int) -> None:
    trainer = fitted(StopAfter(steps), LearningRate())
    assert float(trainer.callback_metrics["train/lr"]) == 0.5 ** (steps - 1)
