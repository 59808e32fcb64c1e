"""Who waits for a run hears of a loss that is not finite, of its failure and of its end; nobody hears of Ctrl-C."""

from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import nn
from torch.utils.data import DataLoader

from hemolens.callbacks.alerts import MOST_CHARACTERS, Alerts
from hemolens.tasks.base import Task


class Numbers(Task):
    """A task of one weight, whose losses are what the data say."""

    family = "numbers"
    metrics = {"train/loss": "min", "val/loss": "min"}  # noqa: RUF012  # as the tasks' own

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), ["odd", "even"], optimizer=lambda groups: torch.optim.SGD(groups, lr=0.25))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.net(batch).mean()
        self.refuse_not_finite({"loss": loss}, batch_idx, ["a", "b"])
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", batch.mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/score", batch.mean())
        self.log("test/score_odd", batch.mean())


class Recorder(WandbLogger):
    """W&B that keeps its alerts."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, str]] = []

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(alert=lambda **words: self.alerts.append(words))

    def __getattr__(self, name: str) -> Any:
        return None

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        pass

    save = finalize = after_save_checkpoint = log_metrics


def numbers(*values: float) -> DataLoader[torch.Tensor]:
    return DataLoader(torch.tensor(values)[:, None], batch_size=1)  # type: ignore[arg-type]


def trainer(*callbacks: L.Callback, loggers: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    quiet |= {"num_sanity_val_steps": 0, "log_every_n_steps": 1}
    return L.Trainer(accelerator="cpu", max_epochs=2, logger=loggers, callbacks=list(callbacks), **quiet)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_the_end_is_told_once_with_the_scores(recorder: Recorder) -> None:
    task, run = Numbers(), trainer(Alerts(), loggers=[recorder])
    run.fit(task, numbers(1.0), numbers(1.0))
    assert recorder.alerts == []  # a test follows
    run.test(task, numbers(0.5), verbose=False)
    assert recorder.alerts == [{"title": "numbers finished", "text": "test/score 0.5", "level": "INFO"}]


def test_without_a_test_the_training_is_the_end(recorder: Recorder) -> None:
    trainer(Alerts(tested=False), loggers=[recorder]).fit(Numbers(), numbers(1.0), numbers(2.0))
    assert recorder.alerts == [{"title": "numbers finished", "text": "val/loss 2", "level": "INFO"}]


def test_a_loss_that_is_not_finite_names_step_and_remedy(recorder: Recorder) -> None:
    with pytest.raises(Exception, match="not finite"):
        trainer(Alerts(), loggers=[recorder]).fit(Numbers(), numbers(1.0, float("inf")), numbers(1.0))
    (alert,) = recorder.alerts
    assert alert["level"] == "ERROR" and alert["title"] == "loss is not finite: step 1"
    assert "images a, b" in alert["text"] and "lower optimizer.lr" in alert["text"]


def test_a_validation_loss_that_is_not_finite_is_warned_of_once(recorder: Recorder) -> None:
    trainer(Alerts(), loggers=[recorder]).fit(Numbers(), numbers(1.0), numbers(float("nan")))
    (alert,) = recorder.alerts
    assert alert["level"] == "WARN" and "val/loss=nan at step 1" in alert["text"]


@pytest.mark.parametrize("error", [RuntimeError("x" * 5000), KeyboardInterrupt()])
def test_other_errors_are_told_but_not_ctrl_c(recorder: Recorder, error: BaseException) -> None:
    run = trainer(Alerts(), loggers=[recorder])
    Alerts().on_exception(run, Numbers(), error)
    if isinstance(error, KeyboardInterrupt):
        assert recorder.alerts == []
    else:
        assert recorder.alerts[0]["title"] == "run failed: step 0"
        assert len(recorder.alerts[0]["text"]) == MOST_CHARACTERS


def test_nothing_happens_without_wandb_or_in_another_process(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(Alerts(tested=False), loggers=False).fit(Numbers(), numbers(1.0), numbers(1.0))
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    run = trainer(Alerts(), loggers=[recorder])
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    Alerts().on_exception(run, Numbers(), RuntimeError("no"))
    assert recorder.alerts == []
