"""The picture of a search shows every trial that has a score, and each setting."""

from typing import Any

from hemolens.analysis.search_figures import plot_search


def trial(number: int, state: str, value: float | None, last: float | None = None) -> dict[str, Any]:
    params = {"optimizer.lr": 10.0 ** -(number % 4 + 1), "net": ("unet_s", "resunet18")[number % 2]}
    return {"number": number, "state": state, "value": value, "last_report": last, "params": params}


def test_panels_marks_and_the_best_so_far() -> None:
    trials = [
        trial(0, "complete", 0.5),
        trial(1, "pruned", None, 0.2),
        trial(2, "fail", None),
        trial(3, "complete", 0.4),
    ]
    trials.append(trial(4, "complete", 0.7))
    figure = plot_search(trials, "val/dice", maximize=True)
    history, *settings = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_xlabel() for panel in settings] == ["net", "optimizer.lr"]
    assert sum(len(points.get_offsets()) for points in history.collections) == 4  # the failed one has no score
    assert list(history.lines[0].get_ydata()) == [0.5, 0.5, 0.7]
    assert settings[1].get_xscale() == "log" and settings[0].get_xticklabels()[0].get_text() == "resunet18"
    lower = plot_search(trials, "val/loss", maximize=False)
    assert list(lower.axes[0].lines[0].get_ydata()) == [0.5, 0.4, 0.4]
