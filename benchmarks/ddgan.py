"""The diffusion GAN: one training step against the textbook's order, precisions, and pairs made in batches."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Comparison, Options, Side
from hemolens.diffusion.schedule import DiffusionSchedule, generators
from hemolens.losses.adversarial import discriminator_loss, generator_loss
from hemolens.nets.ddgan.discriminator import DDGANDiscriminator
from hemolens.nets.ddgan.generator import mask_generator, phase_generator
from hemolens.tasks.ddgan import MaskDDGANTask, PhaseDDGANTask
from hemolens.tasks.precision import cpu_has_fast_bf16

NAMES = ("background", "a", "b", "c", "d")
SAME_LOSS = {False: 1e-4, True: 5e-2}  # relative, by whether one side computes in half precision
SAME_PHASE_RAD = 1e-3


def comparisons(options: Options) -> Iterator[Comparison]:
    """Steps of the small mask generator at 64 px, batch 8; eight pairs in a batch and one by one."""
    width, batch = (8, 2) if options.quick else (32, 8)
    work = {"net": f"ddgan_mask_s, width {width}", "batch": f"{batch}×5×64×64"}
    order = {"dtype": "float32", "layout": "NCHW", "threads": options.threads}
    yield Comparison(
        "order of a step",
        Side("hemolens", {"made image": "without gradient", **order}, partial(step, mask_task(width), batch)),
        Side(
            "textbook order",
            {"made image": "the generator's gradient is computed and dropped", **order},
            partial(textbook_step, mask_task(width), batch),
        ),
        same_losses(half=False),
        f"both losses within {SAME_LOSS[False]:g}",
        target=1.2,
        work=work,
    )
    half = cpu_has_fast_bf16()
    yield Comparison(
        "precision of a step",
        Side(
            "hemolens as shipped",
            {"dtype": "bfloat16" if half else "float32", "layout": "NHWC" if half else "NCHW"},
            partial(step, mask_task(width, channels_last=half), batch, half=half),
        ),
        Side("hemolens in float32", order, partial(step, mask_task(width), batch)),
        same_losses(half=half),
        f"both losses within {SAME_LOSS[half]:g}",
        work=work,
    )
    phase, mask = heard(phase_task(width)), heard(mask_task(width))
    indices = range(2 if options.quick else 8)
    yield Comparison(
        "pairs",
        Side("hemolens", {"batch": len(indices), **order}, lambda: pairs(phase, mask, [indices])),
        Side("one by one", {"batch": 1, **order}, lambda: pairs(phase, mask, [[index] for index in indices])),
        same_phases,
        f"phases within {SAME_PHASE_RAD:g} rad",
        work={"pairs": len(indices), "side": "64 px", "steps": 4},
    )


def sizes(width: int) -> dict[str, Any]:
    """Of the small networks."""
    return {
        **{"num_classes": 5, "in_channels": 1, "image_px": 64, "width": width, "multipliers": [1, 2, 2, 4]},
        **{"blocks": 1, "attention_px": [8], "latent_dim": 64, "style_features": 128, "mapping_depth": 2},
    }


def mask_task(width: int, *, channels_last: bool = False) -> MaskDDGANTask:
    """With equal weights in every call, and a step that needs no trainer."""
    torch.manual_seed(0)
    task = MaskDDGANTask(
        net=mask_generator(**sizes(width)),
        discriminator=DDGANDiscriminator(channels=5, widths=[width, 2 * width, 4 * width, 4 * width]),
        schedule=DiffusionSchedule(),
        class_names=NAMES,
        l1_weight=0.5,
        channels_last=channels_last,
    )
    task.rng = torch.Generator()
    task.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, misc]
    if channels_last:  # as its setup does
        task.net.to(memory_format=torch.channels_last)
        task.discriminator.to(memory_format=torch.channels_last)
    return task


def phase_task(width: int) -> PhaseDDGANTask:
    """With random weights; sampling needs no discriminator."""
    torch.manual_seed(1)
    return PhaseDDGANTask(
        net=phase_generator(**sizes(width)),
        discriminator=DDGANDiscriminator(channels=1, widths=[8, 8]),
        schedule=DiffusionSchedule(),
        class_names=NAMES,
    ).eval()


@torch.no_grad()
def heard(task: Any) -> Any:
    """With branches that say something, as after training; they start as nearly nothing."""
    for parameter in task.net.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return task


def batch_of(count: int) -> tuple[Tensor, Tensor]:
    """Masks [N, 5, 64, 64] and phases [N, 1, 64, 64] in [-1, 1]."""
    rng = torch.Generator().manual_seed(0)
    classes = torch.randint(5, (count, 8, 8), generator=rng).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return 2 * torch.nn.functional.one_hot(classes, 5).movedim(-1, 1).float() - 1, classes[:, None] / 2.5 - 1


def step(task: MaskDDGANTask, count: int, *, half: bool = False) -> dict[str, float]:
    """Gradients of both networks by the task's own parts."""
    masks, phase = batch_of(count)
    task.rng.manual_seed(2)
    task.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        parts = task._discriminator_part(masks, phase, penalised=False)
        task.discriminator.requires_grad_(False)
        parts |= task._generator_part(masks, phase)
        task.discriminator.requires_grad_(True)
    return {name: float(parts[name]) for name in ("discriminator", "generator", "l1")}


def textbook_step(task: MaskDDGANTask, count: int) -> dict[str, float]:
    """The same losses, each network's gradient computed wherever it can be."""
    masks, phase = batch_of(count)
    schedule, judge, rng = task.schedule, task.discriminator, torch.Generator().manual_seed(2)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    def pair() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        t = torch.randint(0, schedule.num_timesteps, (count,), generator=rng)
        x_t, x_next = schedule.q_sample_pair(masks, t, noise(*masks.shape), noise(*masks.shape))
        return t, x_t, x_next, task.net(x_next, t, noise(count, task.net.latent_dim), phase)

    task.zero_grad()
    t, x_t, x_next, made = pair()
    fake = schedule.sample_posterior(made, x_next, t, noise(*masks.shape))
    against = discriminator_loss(judge(x_t, x_next, t), judge(fake, x_next, t))
    against.backward()
    t, _, x_next, made = pair()
    fooling = generator_loss(judge(schedule.sample_posterior(made, x_next, t, noise(*masks.shape)), x_next, t))
    l1 = torch.nn.functional.l1_loss(made, masks)
    (fooling + 0.5 * l1).backward()
    return {"discriminator": against.item(), "generator": fooling.item(), "l1": l1.item()}


def same_losses(*, half: bool) -> Callable[[Any, Any], dict[str, float]]:
    """A check that both sides found the same losses."""

    def check(ours: dict[str, float], peer: dict[str, float]) -> dict[str, float]:
        differences = {name: abs(ours[name] - peer[name]) / abs(peer[name]) for name in peer}
        assert max(differences.values()) <= SAME_LOSS[half], differences
        return differences

    return check


@torch.no_grad()
def pairs(phase: PhaseDDGANTask, mask: MaskDDGANTask, batches: Any) -> np.ndarray[Any, Any]:
    """Phases and masks of batches of indices, [N, 6, 64, 64]."""
    found = []
    for indices in batches:
        rng = generators(0, indices)
        made = phase.sampled(rng, (64, 64))
        found.append(torch.cat([made, mask.sampled(rng, (64, 64), made)], 1))
    return torch.cat(found).numpy()


def same_phases(ours: Any, peer: Any) -> dict[str, float]:
    """The largest difference of phases, which go from -1 to 5 rad, and of masks."""
    worst = [3 * float(np.abs(ours[:, :1] - peer[:, :1]).max()), float(np.abs(ours[:, 1:] - peer[:, 1:]).max())]
    assert worst[0] <= SAME_PHASE_RAD, worst
    return {"phase, rad": worst[0], "mask": worst[1]}
