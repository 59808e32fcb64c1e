"""Segmentation as image-to-image translation by a conditional GAN: the baseline that paper B calls GAN + Watershed."""

from typing import Any, ClassVar

from torch.nn.functional import l1_loss

from hemolens.data.contracts import PatchBatch
from hemolens.errors import UserError
from hemolens.losses.adversarial import discriminator_loss, generator_loss
from hemolens.tasks.adversarial import AdversarialTask, as_one_hot
from hemolens.tasks.segmentation import SCORES, SegmentationTask


class GANSegmentationTask(AdversarialTask, SegmentationTask):
    """A generator of masks against a discriminator of image and mask, with an L1 term (pix2pix, Isola et al. 2017).

    Validation and test are those of :class:`hemolens.tasks.segmentation.SegmentationTask`: the likeliest class of each
    pixel, and cells parted by a watershed.

    Args:
        l1_weight: of the mean absolute difference of mask probabilities.
        options: see :class:`hemolens.tasks.adversarial.AdversarialTask` and
            :class:`hemolens.tasks.segmentation.SegmentationTask`; the discriminator maps images [B, C, H, W] and masks
            [B, K, H, W] to logits of any shape.

    Raises:
        UserError: a setting out of range.
    """

    metrics: ClassVar[dict[str, str]] = {
        **{"train/loss": "min", "train/l1": "min", "train/generator": "last", "train/discriminator": "last"},
        **{"val/loss": "min", **SCORES},
    }

    def __init__(self, *, l1_weight: float = 100.0, **options: Any) -> None:
        super().__init__(**options)
        if l1_weight < 0:
            raise UserError(f"model.l1_weight={l1_weight}: must not be negative")
        self.l1_weight = l1_weight

    def training_step(self, batch: PatchBatch, batch_idx: int) -> None:  # type: ignore[override]
        """A step of the discriminator, then one of the generator."""
        both: Any = self.optimizers()
        generator_steps, discriminator_steps = both
        images = batch["images"]
        real = as_one_hot(batch["classes"], len(self.class_names))
        fake = self(images).softmax(1)
        judged = self.discriminator(images, real), self.discriminator(images, fake.detach())
        against = discriminator_loss(*judged) / 2  # pix2pix halves it
        discriminator_steps.zero_grad()
        self.manual_backward(against)
        self.optimizer_step_of(discriminator_steps, self.discriminator)
        l1 = l1_loss(fake, real)
        self.discriminator.requires_grad_(False)  # its gradient is not wanted here
        fooling = generator_loss(self.discriminator(images, fake))
        loss = fooling + self.l1_weight * l1
        parts = {"loss": loss, "l1": l1, "generator": fooling, "discriminator": against}
        self.refuse_not_finite(parts, batch_idx, batch["image_ids"])
        generator_steps.zero_grad()
        self.manual_backward(loss)
        self.optimizer_step_of(generator_steps, self.net)
        self.discriminator.requires_grad_(True)
        self.advance_schedules()
        self.log_step(parts, loss, len(batch["image_ids"]))
