"""Exponential moving average of a task's network."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

RAW = "ema_raw_net"


class EMA(L.Callback):
    """Validate, test and publish an exponential moving average of ``pl_module.net``.

    A checkpoint's ``state_dict`` holds the averaged network (what ``hemolens.load`` wants), the network in training
    lies beside it for resuming. Lightning's ``EMAWeightAveraging`` loads the latter when the same trainer tests its
    best checkpoint, and has no warm-up, so that a short run stays near its random start; hence this class.

    Args:
        decay: weight of the past at each optimizer step, at most; the first steps use (1 + step) / (10 + step),
            as TensorFlow's ``ExponentialMovingAverage(num_updates=…)``.
    """

    def __init__(self, decay: float = 0.998) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.step = 0
        self.swapped = False  # the task holds the average, `average` the network in training

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Start from the network as it is."""
        if stage == "fit":
            self.average = {name: value.detach().clone() for name, value in _state(pl_module).items()}
            self.step = trainer.global_step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Follow the network to its device."""
        self.average = {name: value.to(pl_module.device) for name, value in self.average.items()}
        self.step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update after each optimizer step."""
        if trainer.global_step == self.step:  # gradients are being accumulated
            return
        self.step = trainer.global_step
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for name, value in _state(pl_module).items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate the average."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on training the network itself."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._swap(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the task."""
        self._swap(pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Publish the average; keep the network for resuming."""
        if not self.average:  # saved by hand, outside of a fit
            return
        average, raw = self.average, _state(pl_module)
        if self.swapped:
            average, raw = raw, average
        checkpoint[RAW] = {name: value.clone() for name, value in raw.items()}
        checkpoint["state_dict"] |= {f"net.{name}": value.clone() for name, value in average.items()}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Resume both networks; a test keeps the average, which has been loaded already."""
        if trainer.state.fn == TrainerFn.FITTING and RAW in checkpoint:
            self.average = {name: checkpoint["state_dict"][f"net.{name}"].clone() for name in checkpoint[RAW]}
            for name, value in _state(pl_module).items():
                value.copy_(checkpoint[RAW][name])

    @torch.no_grad()
    def _swap(self, pl_module: L.LightningModule) -> None:
        for name, value in _state(pl_module).items():
            kept = value.clone()
            value.copy_(self.average[name])
            self.average[name].copy_(kept)
        self.swapped = not self.swapped


def _state(pl_module: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = pl_module.net.state_dict()
    return state
