"""What all tasks share: which steps are logged."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from hemolens.callbacks.csv_history import CSVHistory
from hemolens.callbacks.progress import ProgressBar
from hemolens.tasks.base import Task


class Counted(Task):
    """A task whose loss is the number of the step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.net(torch.ones(1, 1)).sum() * 0 + batch_idx
        self.log_step({"loss": loss, "twice": 2 * loss}, loss, 1)
        return loss


class Stop(L.Callback):
    """Asks for an end after the fourth step of an epoch."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = batch_idx == 3


def fit(folder: Path, *callbacks: L.Callback, **more: Any) -> tuple[L.Trainer, dict[int, float], int]:
    """The trainer, losses in the history by step, and how often Lightning was told some."""
    task = Counted(nn.Linear(1, 1), ["a"], optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1))
    calls: list[Any] = []
    log_dict = task.log_dict
    task.log_dict = lambda *given, **named: calls.append(given) or log_dict(*given, **named)  # type: ignore[method-assign]
    history = CSVHistory(str(folder))
    settings = {"enable_checkpointing": False, "enable_progress_bar": bool(callbacks), "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        log_every_n_steps=3,
        logger=history,
        callbacks=list(callbacks),
        **(settings | more),
    )
    trainer.fit(task, torch.utils.data.DataLoader(range(7)))  # type: ignore[arg-type]
    assert not any(set(row) == {"step", "epoch"} for row in history.rows)
    return trainer, {int(row["step"]): float(row["train/loss"]) for row in history.rows}, len(calls)


def test_steps_are_logged_where_the_trainer_logs_and_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    trainer, rows, calls = fit(tmp_path)
    assert rows == {2: 2, 5: 5, 8: 1, 11: 4}  # of two epochs of 7 steps
    assert calls == 4 + 2
    assert trainer.callback_metrics["train/loss"] == 6 and trainer.callback_metrics["train/twice"] == 12


def test_the_step_that_ends_a_run_is_logged_as_it_is(tmp_path: Path) -> None:
    bar = ProgressBar()
    assert fit(tmp_path / "ends", bar, Stop())[1] == {2: 2, 3: 3}
    assert bar._drawn > 0
    longer = fit(tmp_path / "goes on", Stop(), min_epochs=2)[1]
    assert longer == {2: 2, 3: 3, 5: 5, 8: 1, 10: 3, 11: 4}


def test_the_history_is_not_written_at_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("hemolens.callbacks.csv_history.time.monotonic", lambda: now[0])
    history = CSVHistory(str(tmp_path), flush_seconds=10.0)
    written = tmp_path / "metrics.csv"
    for step in range(3):
        history.log_metrics({"train/loss": 1.0}, step=step)
        history.save()  # as Lightning does
    assert not written.exists()
    history.after_save_checkpoint(None)
    assert len(written.read_text().splitlines()) == 1 + 3
    history.log_metrics({"train/loss": 1.0}, step=3)
    history.save()
    assert len(written.read_text().splitlines()) == 1 + 3
    now[0] = 11.0
    history.save()
    assert len(written.read_text().splitlines()) == 1 + 4
    history.log_metrics({"train/loss": 1.0}, step=4)
    history.finalize("success")
    assert len(written.read_text().splitlines()) == 1 + 5
