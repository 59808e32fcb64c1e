"""Temperature, reliability and abstention against cells whose probabilities are known."""

import numpy as np
import pytest

from hemolens.analysis.type_confidence import (
    abstention,
    expected_calibration_error,
    fit_temperature,
    plot_abstention,
    plot_reliability,
    reliability,
    type_probabilities,
)
from hemolens.errors import UserError


def cells(count: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a network that is too sure (temperature above 1) or too unsure, and the true types."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 1.5, (count, 4))
    chances = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    types = (chances.cumsum(1) > rng.random((count, 1))).argmax(1)
    return np.concatenate([rng.normal(0, 5, (count, 1)), honest * temperature], axis=1), types


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_found_and_makes_probabilities_honest(temperature: float) -> None:
    found = fit_temperature(*cells(4000, temperature))
    assert found == pytest.approx(temperature, rel=0.1)
    scores, types = cells(4000, temperature, seed=1)
    said = scores[:, 1:].argmax(1)
    raw, sure = (type_probabilities(scores, value).max(1) for value in (1.0, found))
    after = expected_calibration_error(sure, said == types)
    assert after < 0.03
    if temperature != 1:
        assert expected_calibration_error(raw, said == types) > 2 * after


def test_probabilities_leave_the_background_out() -> None:
    scores = np.log([[0.5, 0.3, 0.1, 0.05, 0.05]])
    assert type_probabilities(scores)[0] == pytest.approx([0.6, 0.2, 0.1, 0.1])
    assert type_probabilities(scores, 0.5)[0] == pytest.approx(np.array([9, 1, 0.25, 0.25]) / 10.5)
    assert type_probabilities(np.zeros((0, 5))).shape == (0, 4)


def test_bins_and_their_error_by_hand() -> None:
    sure, right = [0.95, 0.95, 0.55, 1.0], [1, 0, 1, 1]
    table = reliability(sure, right)
    assert table["cells"].tolist() == [0] * 5 + [1, 0, 0, 0, 3]
    assert table["confidence"][[5, 9]] == pytest.approx([0.55, 2.9 / 3]) and np.isnan(table["accuracy"][0])
    assert expected_calibration_error(sure, right) == pytest.approx((0.45 + 3 * (2.9 / 3 - 2 / 3)) / 4)
    assert np.isnan(expected_calibration_error([], []))


def test_abstaining_by_hand() -> None:
    least, decided, accuracy = abstention([0.9, 0.5, 0.9, 0.7], [1, 0, 0, 1])
    assert least.tolist() == [0.5, 0.7, 0.9]
    assert decided.tolist() == [1.0, 0.75, 0.5]
    assert accuracy == pytest.approx([0.5, 2 / 3, 0.5])


def test_pictures_and_too_few_cells() -> None:
    scores, types = cells(200, 2.0)
    sure, right = type_probabilities(scores).max(1), scores[:, 1:].argmax(1) == types
    table = reliability(sure, right)
    assert [len(line.get_xdata()) for line in plot_reliability(table, table).axes[0].lines] == [2, 10, 10]
    drawn = plot_abstention(*abstention(sure, right)).axes[0]
    assert len(drawn.lines[0].get_xdata()) == 200 and len(drawn.texts) >= 2
    with pytest.raises(UserError, match="at least 50"):
        fit_temperature(scores[:10], types[:10])
