"""Denoising diffusion GANs: phase images from noise, and masks of phase images (Xiao, Kreis & Vahdat 2022)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import l1_loss

from hemolens.data.contracts import FieldBatch, PatchBatch
from hemolens.diffusion.schedule import DiffusionSchedule, generators
from hemolens.errors import UserError
from hemolens.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from hemolens.metrics.generation import COMPARED, GenerationScores
from hemolens.nets.moco import process
from hemolens.tasks.adversarial import AdversarialTask, as_one_hot
from hemolens.tasks.segmentation import SCORES, SegmentationTask

WON = 1e-3  # loss of a discriminator that knows every image
SAME = 1e-4  # standard deviation of the logits of one that says the same of every image
LEAST = 1e-4  # share of a class in the mean of sampled masks that counts as none
DISTANCES = (*COMPARED, "covered_share", "kernel")
# Neither network's loss tells by itself how good the images are: the last values say how the two stand.
LOSSES = dict.fromkeys(
    (f"train/{name}" for name in ("generator", "discriminator", "real_score", "fake_score", "logit_sd", "r1")), "last"
) | {"train/l1": "min"}


class DDGANTask(AdversarialTask):
    """Training of a denoising diffusion GAN; a subclass says what is made, of what, and how it is judged.

    A training step (arXiv:2112.07804, Algorithm in Appendix B): a pair (x_t, x_{t+1}) of real images is shown to the
    discriminator, then a pair whose x_t the generator made, without gradients of the generator; the discriminator
    steps; a fresh pair, and the generator steps.

    Args:
        schedule: of the noise.
        image_mean, image_sd: mean and standard deviation of the images in [-1, 1]. Diffused is what has mean 0 and
            standard deviation 1: on images of little contrast the schedule's noise is too much by its inverse (Chen
            2023, arXiv:2301.10972), and the discriminator learns slowly. 0 and 1, nothing done, for the cited paper.
        r1_gamma: weight of the gradient penalty at real x_t.
        r1_every: steps from one penalty to the next; its weight is not raised for it.
        l1_weight: of the mean absolute difference of x_0 and what the generator says of it; 0 for the cited paper.
        chunks: parts that a batch goes through in, with one optimizer step for all of them, where memory is short.
        draw_seed: of the steps and noise of training.
        collapse_steps: training ends after so many steps in a row in which the discriminator knew every image, or said
            the same of all; 0: never.
        options: see :class:`hemolens.tasks.adversarial.AdversarialTask`; the discriminator is called with x_t,
            x_{t+1}, t and the condition.

    Raises:
        UserError: a setting out of range.
    """

    family = "diffusion"
    steps: Tensor
    trouble: Tensor

    def __init__(
        self,
        *,
        schedule: DiffusionSchedule,
        image_mean: float = 0.0,
        image_sd: float = 1.0,
        r1_gamma: float = 1.0,
        r1_every: int = 10,
        l1_weight: float = 0.0,
        chunks: int = 1,
        draw_seed: int = 0,
        collapse_steps: int = 200,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for name, value, least in (
            *(("r1_gamma", r1_gamma, 0), ("r1_every", r1_every, 1), ("l1_weight", l1_weight, 0)),
            *(("chunks", chunks, 1), ("collapse_steps", collapse_steps, 0), ("draw_seed", draw_seed, 0)),
        ):
            if value < least:
                raise UserError(f"model.{name}={value}: must be at least {least}")
        if not image_sd > 0:
            raise UserError(f"model.image_sd={image_sd}: give a positive number, 1 to leave the images as they are")
        self.schedule, self.image_mean, self.image_sd = schedule, image_mean, image_sd
        self.r1_gamma, self.r1_every, self.l1_weight = r1_gamma, r1_every, l1_weight
        self.chunks, self.collapse_steps, self.draw_seed = chunks, collapse_steps, draw_seed
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # batches trained on
        self.register_buffer("trouble", torch.zeros((), dtype=torch.int64))  # of them the last ones without learning

    def images_of(self, batch: PatchBatch) -> tuple[Tensor, Tensor | None]:
        """What is made of a batch, [B, C, H, W] in [-1, 1], and the condition, if any."""
        raise NotImplementedError

    def example_inputs(self, image: Tensor) -> tuple[Tensor, ...]:
        """One denoising step of an image as large."""
        noise = torch.randn(1, self.net.channels, *image.shape[-2:])
        t, z = torch.zeros(1, dtype=torch.int64), torch.randn(1, self.net.latent_dim)
        if not self.net.condition_channels:
            return noise, t, z
        return noise, t, z, torch.zeros(1, self.net.condition_channels, *image.shape[-2:])

    def training_step(self, batch: PatchBatch, batch_idx: int) -> None:
        """A step of the discriminator, then one of the generator."""
        both: Any = self.optimizers()
        generator_steps, discriminator_steps = both
        # of each step its own, so that a resumed run draws what the uninterrupted one does
        seed = generators(self.draw_seed, [int(self.steps)])[0].initial_seed()
        self.rng = torch.Generator(self.device).manual_seed(seed)
        x0, condition = self.images_of(batch)
        x0 = self._standardised(x0)
        if len(x0) % self.chunks:
            raise UserError(f"model.chunks={self.chunks} does not divide the batch of {len(x0)}: see data.batch_size")
        reals = x0.chunk(self.chunks)
        conditions = [None] * self.chunks if condition is None else condition.chunk(self.chunks)
        penalised = self.r1_gamma > 0 and int(self.steps) % self.r1_every == 0
        pairs = list(zip(reals, conditions, strict=True))
        discriminator_steps.zero_grad()
        parts = _added([self._discriminator_part(*pair, penalised=penalised) for pair in pairs], self.chunks)
        self.refuse_not_finite(parts, batch_idx, batch["image_ids"])
        self._refuse_collapse(parts)
        self.optimizer_step_of(discriminator_steps, self.discriminator)
        self.discriminator.requires_grad_(False)  # its gradient is not wanted here
        generator_steps.zero_grad()
        made = _added([self._generator_part(*pair) for pair in pairs], self.chunks)
        self.refuse_not_finite(made, batch_idx, batch["image_ids"])
        self.optimizer_step_of(generator_steps, self.net)
        self.discriminator.requires_grad_(True)
        self.steps += 1
        self.advance_schedules()
        self.log_step(parts | made, made["generator"], len(x0))

    def _pair(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Steps t, x_t, x_{t+1} and latents."""
        rank, world = process()
        count = world * len(x0)
        t = torch.randint(0, self.schedule.num_timesteps, (count,), device=x0.device, generator=self.rng)[rank::world]
        x_t, x_next = self.schedule.q_sample_pair(x0, t, self._noise(x0), self._noise(x0))
        return t, x_t, x_next, self._noise(x0[:, 0, 0, :1].expand(-1, self.net.latent_dim))

    def _noise(self, like: Tensor) -> Tensor:
        # Every process draws for the whole batch, of which it has each n-th image (see data.sampling), so that several
        # draw together what one would.
        rank, world = process()
        return torch.randn(world * len(like), *like.shape[1:], device=like.device, generator=self.rng)[rank::world]

    def _discriminator_part(self, x0: Tensor, condition: Tensor | None, *, penalised: bool) -> dict[str, Tensor]:
        """Gradients of the discriminator's loss, and its parts without gradient."""
        t, x_t, x_next, z = self._pair(x0)
        real = self.discriminator(x_t, x_next, t, condition)
        with torch.no_grad():
            x0_hat = self._denoised(x_next, t, z, condition)
            fake_t = self.schedule.sample_posterior(x0_hat, x_next, t, self._noise(x0))
        fake = self.discriminator(fake_t, x_next, t, condition)
        loss = against = discriminator_loss(real, fake)
        parts = {
            "discriminator": against,
            "real_score": real.sigmoid().mean(),
            "fake_score": fake.sigmoid().mean(),
            "logit_sd": torch.cat([real, fake]).std(unbiased=False),
        }
        if penalised:
            with torch.autocast(x0.device.type, enabled=False):  # second derivatives want float32
                r1 = r1_penalty(lambda images: self.discriminator(images, x_next, t, condition), x_t)
            parts["r1"] = r1
            loss = against + self.r1_gamma * r1
        self.manual_backward(loss / self.chunks)
        return {name: value.detach() for name, value in parts.items()}

    def _generator_part(self, x0: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        """Gradients of the generator's loss, and its parts without gradient."""
        t, _, x_next, z = self._pair(x0)
        x0_hat = self._denoised(x_next, t, z, condition)
        fake_t = self.schedule.sample_posterior(x0_hat, x_next, t, self._noise(x0))
        parts = {"generator": generator_loss(self.discriminator(fake_t, x_next, t, condition))}
        loss = parts["generator"]
        if self.l1_weight:
            parts["l1"] = self.image_sd * l1_loss(x0_hat, x0)  # of images in [-1, 1]
            loss = loss + self.l1_weight * parts["l1"]
        self.manual_backward(loss / self.chunks)
        return {name: value.detach() for name, value in parts.items()}

    def _denoised(self, x_next: Tensor, t: Tensor, z: Tensor, condition: Tensor | None) -> Tensor:
        given = () if condition is None else (self.in_memory_format(condition),)
        x0_hat: Tensor = self.net(self.in_memory_format(x_next), t, z, *given)
        return self._standardised(x0_hat.float())

    def _standardised(self, images: Tensor) -> Tensor:
        return (images - self.image_mean) / self.image_sd

    def _refuse_collapse(self, parts: dict[str, Tensor]) -> None:
        if not self.collapse_steps:
            return
        loss, spread = (
            self.trainer.strategy.reduce(parts[name], reduce_op="mean") for name in ("discriminator", "logit_sd")
        )
        won, same = bool(loss < WON), bool(spread < SAME)
        self.trouble = (self.trouble + 1) if won or same else torch.zeros_like(self.trouble)
        if int(self.trouble) < self.collapse_steps:
            return
        what = "knew every image" if won else "said the same of every image"
        kept = getattr(self.trainer.checkpoint_callback, "best_model_path", "") or "none yet"
        raise UserError(
            f"for {self.collapse_steps} steps the discriminator {what}: the generator learns nothing more. Lower "
            f"model.discriminator_lr_factor or raise model.r1_gamma. Best checkpoint so far: {kept}",
            exit_code=1,
        )

    @torch.no_grad()
    def sampled(self, rng: Sequence[torch.Generator], size: Sequence[int], condition: Tensor | None = None) -> Tensor:
        """Images float32 [B, C, H, W] in [-1, 1].

        Args:
            rng: source of the noise of each image.
            size: (H, W), multiples of the network's stride.
            condition: [B, K, H, W].
        """

        def denoised(x: Tensor, t: Tensor, z: Tensor, *given: Tensor) -> Tensor:
            return self._denoised(x, t, z, given[0] if given else None)

        shape = (len(rng), self.net.channels, *size)
        x0 = self.schedule.sample(denoised, shape, condition, rng, latent_dim=self.net.latent_dim)
        return x0 * self.image_sd + self.image_mean


class PhaseDDGANTask(DDGANTask):
    """Makes phase images, from noise alone or of masks.

    Validation and test make as many patches as the whole images hold and compare them with those.

    Args:
        condition: None, or ``mask``: the generator sees a mask, one channel a class.
        sampling_seed: of the noise; the same images in every validation.
        feature_checkpoint: of the network whose features are ``features``; kept for who sets them.
        options: see :class:`DDGANTask`.

    Raises:
        UserError: another condition, or networks that do not fit it.
    """

    metrics: ClassVar[dict[str, str]] = LOSSES | {
        **{"val/over_floor": "min", "val/samples": "last"},
        **{f"val/{name}": "min" for name in DISTANCES},
        **{f"val/{name}_floor": "last" for name in DISTANCES},
    }

    def __init__(
        self,
        *,
        condition: str | None = None,
        sampling_seed: int = 0,
        feature_checkpoint: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if condition not in (None, "mask"):
            raise UserError(f"model.condition={condition}: a phase is made of null or mask")
        check_channels(self.net, 1, 0 if condition is None else len(self.class_names))
        self.condition, self.sampling_seed = condition, sampling_seed
        self.scores: GenerationScores | None = None
        self.feature_checkpoint = feature_checkpoint
        self.features: Callable[[Tensor], Tensor] | None = (
            None  # see metrics.generation.GenerationScores; set from outside
        )

    def images_of(self, batch: PatchBatch) -> tuple[Tensor, Tensor | None]:
        """The phase, and its mask where that is the condition."""
        return batch["images"], None if self.condition is None else self.masks_of(batch["classes"])

    def masks_of(self, classes: Tensor) -> Tensor:
        """Class maps [B, H, W] as the network sees them, float32 [B, K, H, W] in [-1, 1]."""
        return 2 * as_one_hot(classes, len(self.class_names)) - 1

    def _start(self) -> None:
        spec = self.trainer.datamodule.input_spec()  # type: ignore[attr-defined]
        self.images_seen = 0
        self.limits_rad = tuple(spec["phase_limits_rad"])
        self.scores = GenerationScores(features=self.features, pixel_um=spec["pixel_um"]).to(self.device)

    on_validation_epoch_start = on_test_epoch_start = _start

    def in_rad(self, images: Tensor) -> Tensor:
        """Phases in rad of images in [-1, 1]."""
        low, high = self.limits_rad
        return (images + 1) * ((high - low) / 2) + low

    def validation_step(self, batch: FieldBatch, batch_idx: int) -> dict[str, Tensor]:
        """Make a patch for each that the image holds; returns ``real`` and ``fake``, float32 [N, 1, P, P] in rad."""
        real = patches_of(batch["images"], self.net.image_px)
        given = patches_of(batch["classes"][:, None], self.net.image_px)[:, 0] if self.condition else None
        # of each patch its own noise, whichever process makes it; images have one size
        group = batch_idx * self.trainer.world_size + self.global_rank
        rng = generators(self.sampling_seed, range(group * len(real), (group + 1) * len(real)))
        fake = self.sampled(rng, real.shape[-2:], None if given is None else self.masks_of(given))
        found = {"real": self.in_rad(real.float()), "fake": self.in_rad(fake)}
        assert self.scores is not None
        self.images_seen += self.trainer.world_size
        self.scores.update(found["real"], found["fake"], torch.full((len(real),), group, device=self.device))
        return found

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the distances from real patches, and ``val/over_floor``: how many times as far as real ones from each
        other."""
        for name, value in self._computed().items():
            self.log(f"val/{name}", value, prog_bar=name == "over_floor")

    def on_test_epoch_end(self) -> None:
        """Log the distances; ``test_results`` keeps them."""
        self.test_results = self._computed()
        self.log_dict({f"test/{name}": value for name, value in self.test_results.items()})

    def _computed(self) -> dict[str, float]:
        assert self.scores is not None
        if self.images_seen < 2:  # of a quick trial; real images cannot be compared with each other
            return {"over_floor": math.nan, "samples": 0.0}
        return self.scores.compute()


class MaskDDGANTask(DDGANTask, SegmentationTask):  # type: ignore[misc]  # one steps by hand, one does not
    """Makes masks of phase images: a segmentation, judged as any other.

    Args:
        samples: masks made of an image, of which the mean is taken.
        sampling_seed: of their noise, which every image gets, so that its mask depends on itself alone.
        options: see :class:`DDGANTask` and :class:`hemolens.tasks.segmentation.SegmentationTask`.

    Raises:
        UserError: no sample, or networks for something else.
    """

    metrics: ClassVar[dict[str, str]] = LOSSES | {"val/loss": "min", **SCORES}

    def __init__(self, *, samples: int = 1, sampling_seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        if samples < 1:
            raise UserError(f"model.samples={samples}: at least 1")
        check_channels(self.net, len(self.class_names), 1)
        self.samples, self.sampling_seed = samples, sampling_seed

    def images_of(self, batch: PatchBatch) -> tuple[Tensor, Tensor | None]:
        """The mask, one channel a class in [-1, 1], and the phase."""
        return 2 * as_one_hot(batch["classes"], len(self.class_names)) - 1, batch["images"]

    def _logits(self, images: Tensor) -> Tensor:
        """Logarithms of the shares that the classes have in the mean of sampled masks, float32 [B, K, H, W]."""
        images = images.float()
        total = torch.zeros((), device=images.device)
        for sample in range(self.samples):
            rng = [generators(self.sampling_seed, [sample])[0] for _ in images]
            total = total + self.sampled(rng, images.shape[-2:], images)
        return mask_logits(total / self.samples)


def mask_logits(masks: Tensor) -> Tensor:
    """Logits, such that a softmax gives each class its share, of masks [B, K, H, W] in [-1, 1]."""
    return ((masks + 1) / 2).clamp(min=LEAST).log()


def check_channels(net: Any, channels: int, condition_channels: int) -> None:
    """Refuse a generator for something else.

    Raises:
        UserError: other channels.
    """
    if (net.channels, net.condition_channels) != (channels, condition_channels):
        raise UserError(
            f"net.channels={net.channels}, net.condition_channels={net.condition_channels}: this task wants {channels} "
            f"and {condition_channels}; choose the net with the model (ddgan_phase, ddgan_mask)"
        )


def patches_of(images: Tensor, side: int) -> Tensor:
    """Patches [N, C, side, side], edge to edge from the upper left corner, of images [B, C, H, W].

    Raises:
        UserError: an image is smaller than a patch.
    """
    height, width = (length // side * side for length in images.shape[-2:])
    if not height or not width:
        raise UserError(
            f"images of {images.shape[-2]}x{images.shape[-1]} px hold no patch of net.image_px={side}: lower it, or "
            "data.binning"
        )
    return rearrange(images[..., :height, :width], "b c (y p) (x q) -> (b y x) c p q", p=side, q=side)


def _added(parts: Sequence[dict[str, Tensor]], count: int) -> dict[str, Tensor]:
    """Means over the chunks."""
    return {name: torch.stack([part[name] for part in parts]).sum() / count for name in parts[0]}
