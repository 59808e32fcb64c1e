"""What the tasks share: injected optimizer and schedule, memory format, metrics by class."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hemolens.errors import UserError
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
