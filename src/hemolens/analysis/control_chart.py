"""Control charts: whether an instrument still measures a bead as it did.

Levey and Jennings (Am J Clin Pathol 1950;20:1059) put control measurements in order of time beside limits at two and
three standard deviations; Westgard et al. (Clin Chem 1981;27:493) named the rules: 1-2s is a warning, 1-3s is out of
control. Of their rules these two alone are applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hemolens.errors import UserError

WARNING_SD, REJECTION_SD = 2.0, 3.0
FEWEST = 3  # measurements that can give a standard deviation worth the name


@dataclass(frozen=True)
class Limits:
    """Target and standard deviation of a measurand, and the number of measurements they were taken from."""

    target: float
    sd: float
    n: int


@dataclass(frozen=True, eq=False)
class ControlChart:
    """A measurand over files.

    Attributes:
        name, unit: of the measurand.
        files: in order of time.
        values: [N].
        limits: None where there are too few measurements.
        judged: [N], false for those that the limits were taken from.
    """

    name: str
    unit: str
    files: Sequence[str]
    values: NDArray[np.float64]
    limits: Limits | None
    judged: NDArray[np.bool_]

    @property
    def deviations(self) -> NDArray[np.float64]:
        """[N], from the target, in standard deviations; 0 where nothing is judged."""
        if self.limits is None:
            return np.zeros(len(self.values))
        return np.where(self.judged, (self.values - self.limits.target) / self.limits.sd, 0.0)

    def outside(self, deviations: float) -> list[str]:
        """Judged files that lie further than this many standard deviations from the target."""
        far = np.abs(self.deviations) > deviations
        return [file for file, is_far in zip(self.files, far, strict=True) if is_far]


def control_chart(
    name: str,
    unit: str,
    files: Sequence[str],
    values: ArrayLike,
    *,
    n_baseline: int,
    baseline: Limits | None = None,
) -> ControlChart:
    """Judge values by a baseline, or by limits from the first ``n_baseline`` of them, which are then not judged.

    Args:
        name, unit: of the measurand.
        files: in order of time.
        values: [N].
        n_baseline: how many of the first values give the limits; fewer give none.
        baseline: limits of another time.

    Raises:
        UserError: a baseline of fewer than three, or without spread.
    """
    if n_baseline < FEWEST:
        raise UserError(f"n_baseline={n_baseline}: a standard deviation wants at least {FEWEST} files")
    numbers = np.asarray(values, np.float64)
    judged = np.ones(len(numbers), bool)
    limits = baseline
    if limits is None and len(numbers) >= n_baseline:
        first = numbers[:n_baseline]
        limits = Limits(float(first.mean()), float(first.std(ddof=1)), n_baseline)
        judged[:n_baseline] = False
    if limits is None:
        judged[:] = False
    elif not limits.sd > 0:
        raise UserError(f"the {limits.n} files of the baseline agree in {name} to the last digit: they are copies")
    return ControlChart(name, unit, files, numbers, limits, judged)


def verdict(charts: Sequence[ControlChart], n_baseline: int) -> str:
    """One line: in control, out of control and by which file, or no limits yet."""
    if any(chart.limits is None for chart in charts):
        count = len(charts[0].values)
        return f"no limits yet: {count} of {n_baseline} files of a baseline (n_baseline=, or baseline=calibration.json)"
    if not any(chart.judged.any() for chart in charts):
        return f"baseline of {n_baseline} files; none after it to judge"
    out = [f"{file} ({chart.name})" for chart in charts for file in chart.outside(REJECTION_SD)]
    if out:
        return f"out of control (1-3s): {', '.join(out)}"
    warned = [f"{file} ({chart.name})" for chart in charts for file in chart.outside(WARNING_SD)]
    judged = int(charts[0].judged.sum())
    return f"in control: {judged} files judged" + (f"; warning (1-2s): {', '.join(warned)}" if warned else "")
