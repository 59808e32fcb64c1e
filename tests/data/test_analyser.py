"""The simulated analyser errs as it says, alike every time, and apart from the truth."""

import numpy as np
import pytest

from hemolens.data.simulation.analyser import DEVICES, Device, analyse_sample
from hemolens.errors import UserError

TRUTH = {"mcv_fl": 90.0, "mch_pg": 30.0}


def test_readings_repeat_and_devices_take_turns():
    readings = [analyse_sample(sample, TRUTH) for sample in range(6)]
    assert readings == [analyse_sample(sample, TRUTH) for sample in range(6)]
    assert [reading["device"] for reading in readings] == ["first", "second"] * 3
    assert readings[0] != analyse_sample(0, TRUTH, seed=1)


@pytest.mark.parametrize("number", [0, 1])
def test_bias_and_spread_are_those_of_the_device(number):
    device = DEVICES[number]
    readings = [analyse_sample(sample, TRUTH) for sample in range(number, 4000, 2)]
    assert {reading["device"] for reading in readings} == {device.name}
    for name, value in TRUTH.items():
        seen = np.array([reading[name] for reading in readings])
        assert 100 * (seen.mean() / value - 1) == pytest.approx(device.bias_percent[name], abs=0.1)
        assert 100 * seen.std() / value == pytest.approx(device.cv_percent[name], rel=0.06)


def test_a_device_without_errors_tells_the_truth():
    assert analyse_sample(3, TRUTH, devices=(Device("exact"),)) == {"device": "exact", **TRUTH}


def test_impossible_input_is_named():
    with pytest.raises(UserError, match="mcv_fl is 0"):
        analyse_sample(0, {"mcv_fl": 0.0})
    with pytest.raises(UserError, match="no analyser"):
        analyse_sample(0, TRUTH, devices=())
