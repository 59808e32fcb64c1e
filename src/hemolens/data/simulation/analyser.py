"""A simulated hematology analyser: what a laboratory would report of a blood sample, with its own errors."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hemolens.errors import UserError


@dataclass(frozen=True)
class Device:
    """One analyser.

    Args:
        name: of the device.
        bias_percent: systematic error of each index.
        cv_percent: coefficient of variation of one reading.
    """

    name: str
    bias_percent: Mapping[str, float] = field(default_factory=dict)
    cv_percent: Mapping[str, float] = field(default_factory=dict)

    def read(self, rng: np.random.Generator, truth: Mapping[str, float]) -> dict[str, float]:
        """One reading of each index; an index without a stated error is read exactly."""
        return {
            name: value
            * (1 + self.bias_percent.get(name, 0.0) / 100)
            * (1 + self.cv_percent.get(name, 0.0) / 100 * float(rng.standard_normal()))
            for name, value in truth.items()
        }


# Paper A's reference came from two analysers. Errors of the size that laboratories accept for these indices [choice].
DEVICES = (
    Device("first", {"mcv_fl": 0.8, "mch_pg": -0.7}, {"mcv_fl": 0.7, "mch_pg": 1.0}),
    Device("second", {"mcv_fl": -1.2, "mch_pg": 0.9}, {"mcv_fl": 0.9, "mch_pg": 1.2}),
)


def analyse_sample(
    sample: int, truth: Mapping[str, float], *, seed: int = 0, devices: tuple[Device, ...] = DEVICES
) -> dict[str, float | str]:
    """The reading of a sample by one of the devices, which take turns.

    Args:
        sample: number of the sample; with ``seed`` the source of the error.
        truth: true indices of the blood, e.g. ``mcv_fl``, ``mch_pg``.
        seed: of all readings.
        devices: analysers; a laboratory sends each sample to one.

    Returns:
        ``device`` and a reading of each index.

    Raises:
        UserError: no devices, or a value that is not positive.
    """
    if not devices:
        raise UserError("no analyser is given")
    if bad := [name for name, value in truth.items() if not value > 0]:
        raise UserError(f"sample {sample}: {bad[0]} is {truth[bad[0]]}, which no analyser reads: give positive values")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(sample,)))
    device = devices[sample % len(devices)]
    return {"device": device.name, **device.read(rng, truth)}
