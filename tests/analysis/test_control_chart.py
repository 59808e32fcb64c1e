"""Control charts: limits, the two rules, and when nothing can be judged."""

import numpy as np
import pytest

from hemolens.analysis.control_chart import Limits, control_chart, verdict
from hemolens.errors import UserError

FILES = list("abcdefg")


def test_the_first_files_give_the_limits() -> None:
    chart = control_chart("d", "um", FILES, [9, 10, 11, 10.5, 12.5, 6.5, 13.5], n_baseline=3)
    assert chart.limits == Limits(10.0, 1.0, 3)
    assert chart.judged.tolist() == [False] * 3 + [True] * 4
    assert chart.deviations.tolist() == [0, 0, 0, 0.5, 2.5, -3.5, 3.5]
    assert chart.outside(3) == ["f", "g"]
    assert verdict([chart], 3) == "out of control (1-3s): f (d), g (d)"
    inside = control_chart("d", "um", FILES[:5], [9, 10, 11, 10.5, 12.5], n_baseline=3)
    assert verdict([inside], 3) == "in control: 2 files judged; warning (1-2s): e (d)"


def test_a_baseline_of_another_time_judges_all() -> None:
    chart = control_chart("d", "", ["a", "b"], [10, 14], n_baseline=20, baseline=Limits(10, 1, 20))
    assert chart.outside(3) == ["b"]
    assert verdict([chart], 20) == "out of control (1-3s): b (d)"


def test_too_few_files_have_no_limits() -> None:
    chart = control_chart("d", "", ["a", "b"], [10, 14], n_baseline=5)
    assert chart.limits is None
    assert not chart.judged.any()
    assert not chart.deviations.any()
    assert verdict([chart], 5).startswith("no limits yet: 2 of 5 files")
    just = control_chart("d", "", FILES[:3], [1, 2, 4], n_baseline=3)
    assert verdict([just], 3) == "baseline of 3 files; none after it to judge"
    with pytest.raises(UserError, match="n_baseline=2"):
        control_chart("d", "", ["a", "b"], [10, 14], n_baseline=2)
    with pytest.raises(UserError, match="copies"):
        control_chart("d", "", FILES, np.ones(7), n_baseline=3)
