"""``metrics.csv`` of a run, thinned for drawing: highs and lows stay."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hemolens.errors import UserError

MOST_POINTS = 500  # of a curve: as many as a chart is wide in half pixels


@dataclass(frozen=True)
class History:
    """Curves of a run.

    Args:
        curves: metric → (steps, values), both ``[N]``, N at most ``most``; without values that are not finite.
        epochs: ``[(step, epoch), …]``: the first step of each epoch, and last the step after the last with the number
            of epochs; empty without epochs.
    """

    curves: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = field(default_factory=dict)
    epochs: list[tuple[int, int]] = field(default_factory=list)


def read_history(path: Path, most: int = MOST_POINTS) -> History:
    """Read the history; a file that is not there yet, or is empty, gives none.

    Raises:
        UserError: the file is no table with a column ``step``.
    """
    if not path.exists() or not path.stat().st_size:
        return History()
    try:
        table = pd.read_csv(path, low_memory=False)
        step = table["step"].to_numpy(np.int64)
    except (pd.errors.ParserError, KeyError, ValueError) as error:
        raise UserError(f"{path} is no history ({error}): it starts with step,epoch,…; move the file away") from error
    curves = {}
    for name in table.columns.drop(["step", "epoch"], errors="ignore"):
        values = table[name].to_numpy()
        if values.dtype.kind not in "fiu":  # words
            continue
        kept = np.isfinite(values)
        if kept.sum() > 1:  # a single value is no curve; metrics.json has it
            curves[name] = thin(step[kept], values[kept].astype(np.float64), most)
    epoch = table["epoch"].to_numpy(np.float64) if "epoch" in table else np.full(len(step), np.nan)
    return History(curves, _epochs(step, epoch, most))


def thin(
    steps: NDArray[np.int64], values: NDArray[np.float64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """At most ``most`` points: the first, the last, and of equal stretches between them the lowest and the highest.

    Means would hide the peaks that a look at curves is for.

    Args:
        steps: ``[N]``, rising.
        values: ``[N]``, finite.
        most: points kept, at least 4.
    """
    count = len(values)
    if count <= most:
        return steps, values
    stretches = (most - 2) // 2
    length = -(-(count - 2) // stretches)
    inner = np.minimum(np.arange(stretches * length), count - 3).reshape(stretches, length) + 1  # the last is repeated
    rows, inside = np.arange(stretches), values[inner]
    chosen = np.concatenate([[0, count - 1], inner[rows, inside.argmin(1)], inner[rows, inside.argmax(1)]])
    kept = np.unique(chosen)
    return steps[kept], values[kept]


def _epochs(steps: NDArray[np.int64], epochs: NDArray[np.float64], most: int) -> list[tuple[int, int]]:
    known = np.isfinite(epochs)
    if not known.any():
        return []
    numbers, first = np.unique(epochs[known].astype(np.int64), return_index=True)
    starts = steps[known][first]
    if len(numbers) > most:
        kept = np.linspace(0, len(numbers) - 1, most).astype(int)
        numbers, starts = numbers[kept], starts[kept]
    marks = [*zip(starts.tolist(), numbers.tolist(), strict=True), (int(steps.max()) + 1, int(numbers[-1]) + 1)]
    # A validation's row may carry the step at which the next epoch starts: steps must rise, or nothing can lie between.
    return [mark for place, mark in enumerate(marks) if place == 0 or mark[0] > marks[place - 1][0]]
