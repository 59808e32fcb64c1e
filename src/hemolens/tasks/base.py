"""What the tasks share: injected optimizer and schedule, memory format, metrics by class."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hemolens.errors import UserError
from hemolens.losses.ranks import ALONE, Ranks
from hemolens.tasks.schedules import advance


class LossNotFinite(UserError):
    """A loss that is infinite or not a number ended the training."""


class Task(L.LightningModule):
    """A network with class names, an optimizer and a schedule, all made elsewhere.

    Args:
        net: the network.
        class_names: one name a class, in label order.
        optimizer: called with parameter groups; None where the task only predicts.
        scheduler: called with ``(optimizer, total_steps)``, stepped every optimizer step; None for a constant rate.
        channels_last: keep weights and images in NHWC. None decides when the trainer is known: yes for half precision,
            whose convolutions want it; no for float32 on a CPU, where it is a little slower.
    """

    family: ClassVar[str]
    """What kind of task it is; runs of one family have the same metrics and are compared with each other."""
    metrics: ClassVar[dict[str, str]]
    """Everything that is logged but the test, ``name_*`` for one a class, and which value of a run counts: its ``min``,
    ``max``, ``mean`` or ``last``."""

    def __init__(
        self,
        net: nn.Module,
        class_names: Iterable[str],
        optimizer: Callable[[Any], Optimizer] | None = None,
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        channels_last: bool | None = None,
    ) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.net: Any = net
        self.class_names = tuple(class_names)
        self.optimizer_factory, self.scheduler_factory = optimizer, scheduler
        self._unlogged: tuple[dict[str, Tensor], Tensor, int] | None = None  # of the last step

    def setup(self, stage: str) -> None:
        """Bring the weights into their memory format."""
        if self.channels_last is None:
            self.channels_last = "16" in str(self.trainer.precision)
        if self.channels_last:
            self.net.to(memory_format=torch.channels_last)

    def in_memory_format(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] as the weights lie."""
        return images.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def example_inputs(self, image: Tensor) -> tuple[Tensor, ...]:
        """What the network is called with for an image [1, C, H, W], to count its multiply-accumulates."""
        return (image,)

    def ranks(self) -> Ranks:
        """The processes that share a training batch. Not for validation, where one may have a batch more."""
        return Ranks(self.trainer.world_size, self._mean_over_ranks) if self.trainer.world_size > 1 else ALONE

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        mean = self.trainer.strategy.reduce(value.detach().clone(), reduce_op="mean")
        # Each process makes the same of the mean, so its own gradient needs no exchange: the mean of the processes'
        # gradients is that of the mean.
        shared: Tensor = mean + (value - value.detach())
        return shared

    def refuse_not_finite(self, losses: Mapping[str, Tensor], batch_idx: int, image_ids: Sequence[str]) -> None:
        """End the run where a loss is not finite, and name the images.

        Raises:
            LossNotFinite: a loss is infinite or not a number.
        """
        if bool(
            torch.isfinite(torch.stack([value.detach() for value in losses.values()]).sum())
        ):  # one question to the device
            return
        parts = {name: float(value.detach()) for name, value in losses.items()}
        raise LossNotFinite(
            f"loss is not finite ({parts}) at epoch {self.current_epoch}, batch {batch_idx}, images "
            f"{', '.join(image_ids)}: look at these files, lower optimizer.lr or set trainer.precision=32",
            exit_code=1,
        )

    def log_step(self, parts: Mapping[str, Tensor], bar: Tensor, batch_size: int) -> None:
        """Log ``train/<name>`` of a step, where it is one of ``log_every_n_steps``, and ``bar`` on the progress bar.

        Lightning takes most of a millisecond for a call of ``log``, also at steps that are not logged; an epoch's last
        step is in any case one whose values are kept.
        """
        self._unlogged = ({f"train/{name}": value.detach() for name, value in parts.items()}, bar.detach(), batch_size)
        connector = self.trainer._logger_connector  # as Lightning's LearningRateMonitor asks it
        if connector.should_update_logs or self.trainer.is_last_batch:
            self._log_last_step()

    def _log_last_step(self) -> None:
        if self._unlogged is None:
            return
        (values, bar, batch_size), self._unlogged = self._unlogged, None
        self.log_dict(values, batch_size=batch_size)
        self.log("train/loss_bar", bar, prog_bar=True, logger=False, batch_size=batch_size)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the step in which a callback ends the run: the loggers get it too."""
        if self.trainer.should_stop:
            here, self._current_fx_name = self._current_fx_name, "training_step"  # else it is another value beside it
            self._log_last_step()
            self._current_fx_name = here

    def log_per_class(self, prefix: str, values: Tensor) -> None:
        """Log values [K] as ``<prefix>_<class>``."""
        self.log_dict({f"{prefix}_{name}": float(value) for name, value in zip(self.class_names, values, strict=True)})

    def configure_optimizers(self) -> Any:
        """The injected optimizer (no weight decay on biases and norms) and schedule."""
        if self.optimizer_factory is None:
            raise UserError(f"this task has no optimizer: give {type(self).__name__}(optimizer=…) before training")
        trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        optimizer = self.optimizer_factory(
            [
                {"params": [p for p in trained if p.ndim > 1]},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ]
        )
        if self.scheduler_factory is None:
            return optimizer
        self.total_steps = int(self.trainer.estimated_stepping_batches)
        scheduler = self.scheduler_factory(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """:func:`hemolens.tasks.schedules.advance`: in time for ``trainer.max_time``."""
        advance(scheduler, self.total_steps, self.trainer)
