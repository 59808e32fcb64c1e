"""What tasks with a generator and a discriminator share: two optimizers, stepped by hand."""

from typing import Any

import torch
from torch import Tensor, nn

from hemolens.errors import UserError
from hemolens.tasks.base import Task
from hemolens.tasks.schedules import advance


class AdversarialTask(Task):
    """A network, the generator, against a discriminator.

    The two optimizers are stepped by hand, so that gradients are clipped here and not by the trainer, whose
    ``global_step`` counts both.

    Args:
        discriminator: the other network.
        gradient_clip_norm: largest norm of the generator's and of the discriminator's gradient; None does not clip.
        discriminator_lr_factor: learning rate of its optimizer over the generator's.
        options: see :class:`hemolens.tasks.base.Task`.

    Raises:
        UserError: gradients clipped where float16 scales them, once the trainer is known.
    """

    def __init__(
        self,
        *,
        discriminator: nn.Module,
        gradient_clip_norm: float | None = 5.0,
        discriminator_lr_factor: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.automatic_optimization = False
        self.discriminator = discriminator
        if discriminator_lr_factor <= 0:
            raise UserError(f"model.discriminator_lr_factor={discriminator_lr_factor}: must be positive")
        self.gradient_clip_norm, self.discriminator_lr_factor = gradient_clip_norm, discriminator_lr_factor

    def setup(self, stage: str) -> None:
        """Bring the weights into their memory format."""
        if stage == "fit" and self.gradient_clip_norm is not None and str(self.trainer.precision) == "16-mixed":
            raise UserError(
                "trainer.precision=16-mixed scales gradients, which model.gradient_clip_norm would misjudge: set "
                "trainer.precision=bf16-mixed or 32-true, or model.gradient_clip_norm=null"
            )
        super().setup(stage)
        if self.channels_last:
            self.discriminator.to(memory_format=torch.channels_last)

    def optimizer_step_of(self, optimizer: Any, net: nn.Module) -> None:
        """Clip the gradients of ``net`` and make the step."""
        if self.gradient_clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), self.gradient_clip_norm)
        optimizer.step()

    def advance_schedules(self) -> None:
        """One step of both learning rates."""
        schedulers: Any = self.lr_schedulers()
        for scheduler in [] if schedulers is None else schedulers:
            advance(scheduler, self.total_steps, self.trainer)

    def configure_optimizers(self) -> Any:
        """One optimizer and schedule a network, the generator's first, both of the injected kinds."""
        if self.optimizer_factory is None:
            raise UserError(f"this task has no optimizer: give {type(self).__name__}(optimizer=…) before training")
        optimizers = [self.optimizer_factory(list(net.parameters())) for net in (self.net, self.discriminator)]
        for group in optimizers[1].param_groups:
            group["lr"] *= self.discriminator_lr_factor
        if self.scheduler_factory is None:
            return optimizers
        self.total_steps = int(self.trainer.estimated_stepping_batches)
        schedulers = [self.scheduler_factory(optimizer, self.total_steps) for optimizer in optimizers]
        return optimizers, [{"scheduler": scheduler, "interval": "step"} for scheduler in schedulers]


def as_one_hot(classes: Tensor, count: int) -> Tensor:
    """Class maps int64 [B, H, W] as float32 [B, count, H, W]."""
    return nn.functional.one_hot(classes, count).movedim(-1, 1).float()
