"""Segmentation as image-to-image translation by a conditional GAN: the baseline that paper B calls GAN + Watershed."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, one_hot

from hemolens.data.contracts import PatchBatch
from hemolens.errors import UserError
from hemolens.losses.adversarial import discriminator_loss, generator_loss
from hemolens.tasks.schedules import advance
from hemolens.tasks.segmentation import SegmentationTask


class GANSegmentationTask(SegmentationTask):
    """A generator of masks against a discriminator of image and mask, with an L1 term (pix2pix, Isola et al. 2017).

    Validation and test are those of :class:`hemolens.tasks.segmentation.SegmentationTask`: the likeliest class of each
    pixel, and cells parted by a watershed. The two optimizers are stepped by hand, so that gradients are clipped here
    and not by the trainer, whose ``global_step`` counts both.

    Args:
        discriminator: maps images [B, C, H, W] and masks [B, K, H, W] to logits of any shape.
        l1_weight: of the mean absolute difference of mask probabilities.
        gradient_clip_norm: largest norm of the generator's and of the discriminator's gradient; None does not clip.
        options: see :class:`hemolens.tasks.segmentation.SegmentationTask`.

    Raises:
        UserError: a setting out of range.
    """

    def __init__(
        self,
        *,
        discriminator: nn.Module,
        l1_weight: float = 100.0,
        gradient_clip_norm: float | None = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if l1_weight < 0:
            raise UserError(f"model.l1_weight={l1_weight}: must not be negative")
        self.automatic_optimization = False
        self.discriminator = discriminator
        self.l1_weight, self.gradient_clip_norm = l1_weight, gradient_clip_norm

    def training_step(self, batch: PatchBatch, batch_idx: int) -> None:  # type: ignore[override]
        """A step of the discriminator, then one of the generator."""
        both: Any = self.optimizers()
        generator_steps, discriminator_steps = both
        images = batch["images"]
        real = one_hot(batch["classes"], len(self.class_names)).movedim(-1, 1).to(images.dtype)
        logits = self(images)
        fake = logits.softmax(1)
        judged = self.discriminator(images, real), self.discriminator(images, fake.detach())
        against = discriminator_loss(*judged)
        self._step(discriminator_steps, self.discriminator, against)
        l1 = l1_loss(fake, real)
        self.discriminator.requires_grad_(False)  # its gradient is not wanted here
        fooling = generator_loss(self.discriminator(images, fake))
        loss = fooling + self.l1_weight * l1
        parts = {"loss": loss, "l1": l1, "generator": fooling, "discriminator": against}
        self.refuse_not_finite(parts, batch_idx, batch["image_ids"])
        self._step(generator_steps, self.net, loss)
        self.discriminator.requires_grad_(True)
        for scheduler in self._schedulers():
            advance(scheduler, self.total_steps, self.trainer)
        size = len(batch["image_ids"])
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, batch_size=size)
        self.log("train/loss_bar", loss.detach(), prog_bar=True, logger=False, batch_size=size)

    def _step(self, optimizer: Any, net: nn.Module, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.gradient_clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), self.gradient_clip_norm)
        optimizer.step()

    def _schedulers(self) -> list[Any]:
        schedulers = self.lr_schedulers()
        if schedulers is None:
            return []
        return schedulers if isinstance(schedulers, list) else [schedulers]

    def configure_optimizers(self) -> Any:
        """One optimizer and schedule a network, both of the injected kinds."""
        if self.optimizer_factory is None:
            raise UserError(f"this task has no optimizer: give {type(self).__name__}(optimizer=…) before training")
        optimizers = [self.optimizer_factory(list(net.parameters())) for net in (self.net, self.discriminator)]
        if self.scheduler_factory is None:
            return optimizers
        self.total_steps = int(self.trainer.estimated_stepping_batches)
        schedulers = [self.scheduler_factory(optimizer, self.total_steps) for optimizer in optimizers]
        return optimizers, [{"scheduler": scheduler, "interval": "step"} for scheduler in schedulers]
