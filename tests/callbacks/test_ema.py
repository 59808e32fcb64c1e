"""The moving average against its definition, in a real fit, through checkpoints."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hemolens.callbacks.ema import EMA


class Line(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.validated: list[float] = []
        self.trajectory: list[float] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return (self.net(batch[0]) - 3).pow(2).mean()

    def on_train_batch_end(self, *args: Any) -> None:
        self.trajectory.append(float(self.net.weight.detach()))

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated.append(float(self.net.weight.detach()))

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_with(*callbacks: L.Callback, folder: Path) -> L.Trainer:
    return L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        log_every_n_steps=1,
    )


def four_points() -> DataLoader:
    return DataLoader(TensorDataset(torch.linspace(1, 2, 4)[:, None]), batch_size=1)


class SaveAfterOne(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "one.ckpt")


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_follows_its_definition_and_is_what_is_validated(tmp_path: Path) -> None:
    model = Line()
    average, expected = float(model.net.weight.detach()), []
    trainer_with(EMA(decay=0.5), folder=tmp_path).fit(model, four_points(), four_points())
    for step, weight in enumerate(model.trajectory, start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
        if step % 4 == 0:
            expected.append(average)
    assert torch.allclose(torch.tensor(model.validated[::4]), torch.tensor(expected))
    assert abs(float(model.net.weight.detach()) - expected[-1]) < 1e-6  # left in the task at the end


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_a_test_of_a_checkpoint_uses_the_average_and_a_resume_the_network(tmp_path: Path) -> None:
    model, checkpoint = Line(), tmp_path / "one.ckpt"
    trainer = trainer_with(EMA(decay=0.5), SaveAfterOne(), folder=tmp_path)
    trainer.fit(model, four_points(), four_points())
    averaged = model.validated[0]
    trainer.test(model, four_points(), ckpt_path=checkpoint, verbose=False, weights_only=True)
    assert model.validated[-1] == averaged != model.trajectory[3]

    resumed = Line()
    again = trainer_with(EMA(decay=0.5), folder=tmp_path)
    again.fit(resumed, four_points(), four_points(), ckpt_path=checkpoint, weights_only=True)
    assert resumed.trajectory == model.trajectory[4:]
    assert resumed.validated[-1] == model.validated[4]
