"""A scheduler's signal in mid-epoch: the batch is finished, saved, and the signal handed on."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from hemolens.callbacks.run_status import REQUEUE_EXIT_CODE, RunStatus
from hemolens.io.run_folder import is_complete, read_status, update_status


class Line(L.LightningModule):
    """Fits a line; sends a signal to its own process in a batch."""

    def __init__(self, number: int, in_batch: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.number, self.in_batch, self.seen = number, in_batch, 0

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen += 1
        if batch_idx == self.in_batch:
            os.kill(os.getpid(), self.number)
        return (self.layer(batch) - batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.fixture
def handlers() -> Iterator[None]:
    former = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


def fit(folder: Path, number: int, in_batch: int = 2) -> Line:
    module = Line(number, in_batch)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RunStatus(str(folder))],
    )
    try:
        trainer.fit(module, DataLoader(torch.ones(5, 1)))
    finally:
        assert module.seen == in_batch + 1  # the batch was finished, and no other begun
        step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
        assert step == in_batch + 1 and read_status(folder)["interrupted_at_step"] == step
    return module


@pytest.mark.parametrize("in_batch", [2, 4])  # 4: the epoch's last
def test_slurms_signal_ends_the_process_with_the_code_that_queues_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handlers: None, in_batch: int
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(SystemExit) as stop:
        fit(tmp_path, signal.SIGUSR1, in_batch)
    assert stop.value.code == REQUEUE_EXIT_CODE


def test_submitits_handler_gets_the_signal_after_all_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handlers: None
) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    asked: list[Any] = []

    def requeue(number: int, frame: FrameType | None) -> None:
        asked.append((number, (tmp_path / "checkpoints" / "last.ckpt").exists()))
        raise SystemExit(3)

    signal.signal(signal.SIGUSR2, requeue)
    with pytest.raises(SystemExit) as stop:
        fit(tmp_path, signal.SIGUSR2)
    assert stop.value.code == 3 and asked == [(signal.SIGUSR2, True)]
    assert signal.getsignal(signal.SIGUSR2) is requeue


def test_a_job_that_submitit_will_not_start_again_counts_as_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handlers: None
) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")

    def refuse(number: int, frame: FrameType | None) -> None:
        raise RuntimeError("timed-out too many times")

    signal.signal(signal.SIGUSR2, refuse)
    with pytest.raises(SystemExit):  # as after Ctrl-C, and not the error: the run can go on
        fit(tmp_path, signal.SIGUSR2)


def test_without_a_scheduler_its_signals_are_left_alone(tmp_path: Path, handlers: None) -> None:
    asked: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: asked.append(number))
    module = Line(signal.SIGUSR1, in_batch=1)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RunStatus(str(tmp_path))],
    )
    trainer.fit(module, DataLoader(torch.ones(5, 1)))
    assert module.seen == 5 and asked == [signal.SIGUSR1]


@pytest.mark.parametrize(("epochs", "steps"), [(-1, 7), (30, 7), (2, -1)])
def test_a_training_by_steps_is_complete_too(tmp_path: Path, epochs: int, steps: int) -> None:
    class Scored(Line):
        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            self.log("val/loss", self.layer(batch).mean())

    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="val/loss", enable_version_counter=False)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[checkpoint, RunStatus(str(tmp_path))],
    )
    data = DataLoader(torch.ones(5, 1))
    trainer.fit(Scored(signal.SIGINT, in_batch=99), data, data)
    (tmp_path / "metrics.json").touch()
    ended = {"state": "finished", "exit_code": 0, "job": "train"}
    update_status(tmp_path, **ended)
    assert is_complete(tmp_path)
    status = read_status(tmp_path)
    assert status["fit_metrics"] == {"val/loss": pytest.approx(float(trainer.callback_metrics["val/loss"]))}
    update_status(tmp_path, global_step=status["global_step"] - 1, last_epoch=1)
    assert not is_complete(tmp_path)
