"""Schedules that a time limit shortens."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Timer
from torch.optim.lr_scheduler import LRScheduler

from hemolens.tasks.schedules import advance, cosine


def rates(seconds_a_step: float, limit: timedelta | None, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Learning rates of 100 planned steps, as many as the limit leaves time for."""
    now = 1000.0
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time.monotonic", lambda: now)
    timer = Timer(duration=limit)
    trainer: Any = SimpleNamespace(callbacks=[timer])
    timer.on_train_start(trainer, None)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler: LRScheduler = cosine(optimizer, 100, warmup_steps=10)
    seen = []
    for _ in range(100):
        optimizer.step()
        now += seconds_a_step
        advance(scheduler, 100, trainer)
        seen.append(scheduler.get_last_lr()[0])
        if limit and timer.time_elapsed() >= limit.total_seconds():
            break
    return seen


def test_a_slow_run_still_comes_down(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = rates(1.0, None, monkeypatch)
    slow = rates(2.0, timedelta(seconds=100), monkeypatch)
    assert len(slow) == 50
    assert slow == pytest.approx(planned[1::2])  # every second rate of the plan, down to its end
    assert slow[-1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("limit", [None, timedelta(seconds=100), timedelta(days=1)])
def test_a_run_with_time_enough_takes_each_step_of_the_plan(
    limit: timedelta | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rates(0.5, limit, monkeypatch) == rates(1.0, None, monkeypatch)
