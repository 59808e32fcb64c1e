"""Learning-rate schedules, stepped once an optimizer step. All take ``(optimizer, total_steps)``."""

import math

import lightning as L
from lightning.pytorch.callbacks import Timer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def _warmup(step: int, warmup_steps: int, warmup_factor: float) -> float:
    return min(1.0, warmup_factor + (1.0 - warmup_factor) * step / max(1, warmup_steps))


def constant(
    optimizer: Optimizer, total_steps: int, *, warmup_steps: int = 0, warmup_factor: float = 1 / 3
) -> LambdaLR:
    """The optimizer's learning rate throughout, after a linear warm-up from ``warmup_factor``."""
    return LambdaLR(optimizer, lambda step: _warmup(step, warmup_steps, warmup_factor))


def cosine(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    warmup_factor: float = 1 / 3,
    final_factor: float = 0.0,
) -> LambdaLR:
    """Linear warm-up, then half a cosine down to ``final_factor`` at ``total_steps`` (Loshchilov & Hutter 2017, Eq. 5).

    Args:
        optimizer: its parameter groups' learning rates are the peak.
        total_steps: optimizer steps of the whole run.
        warmup_steps: steps of the linear rise; cut to a tenth of the run where the run is short.
        warmup_factor: share of the peak at step 0 (MMDetection 2.x uses 1/3).
        final_factor: share of the peak at the end.
    """
    warmup_steps = min(warmup_steps, total_steps // 10)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return _warmup(step, warmup_steps, warmup_factor)
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final_factor + (1.0 - final_factor) * 0.5 * (1.0 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


def multistep(
    optimizer: Optimizer,
    total_steps: int,
    *,
    milestones: tuple[float, ...] = (8 / 12, 11 / 12),
    gamma: float = 0.1,
    warmup_steps: int = 0,
    warmup_factor: float = 1 / 3,
) -> LambdaLR:
    """Step decay at shares ``milestones`` of the run (MMDetection's 1x schedule: epochs 8 and 11 of 12)."""

    def factor(step: int) -> float:
        decays = sum(step >= share * total_steps for share in milestones)
        return _warmup(step, warmup_steps, warmup_factor) * gamma**decays

    return LambdaLR(optimizer, factor)


def advance(scheduler: LRScheduler, total_steps: int, trainer: L.Trainer) -> None:
    """One step of a schedule, or as many as bring it level with the share of ``trainer.max_time`` that is used up.

    A run that its time limit will end before ``total_steps`` thus still comes down to the final learning rate, which
    is worth more than the steps (budgeted training, Li et al. 2020, arXiv:1905.04753). Without a limit, or with time
    to spare, each call is one step.
    """
    due = scheduler.last_epoch + 1
    for timer in (callback for callback in trainer.callbacks if isinstance(callback, Timer)):  # type: ignore[attr-defined]
        remaining = timer.time_remaining()
        if remaining is not None:
            elapsed = timer.time_elapsed()
            share = min(1.0, elapsed / max(elapsed + remaining, 1e-9))
            due = max(due, round(share * total_steps))
    while scheduler.last_epoch < due:
        scheduler.step()
