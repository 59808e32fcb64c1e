"""Pictures of a search for good settings: how the scores came, and how they depend on each setting."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hemolens.analysis.figures import DPI

COLUMNS = 3
MARKS = {"complete": ("o", "#0072b2"), "pruned": ("x", "#999999")}  # Okabe & Ito's blue
BEST = "#d55e00"
LOG_FROM = 20.0  # times the least value: such a range is read on a logarithmic axis


def plot_search(trials: Sequence[Mapping[str, Any]], metric: str, *, maximize: bool) -> Figure:
    """The score by trial with the best so far, and a panel a setting with the score by its value.

    Args:
        trials: dicts with ``number``, ``state`` (complete or pruned; others are left out), ``value``, ``last_report``
            (of a pruned trial, its last score) and ``params``.
        metric: name of the score.
        maximize: whether more is better.
    """
    scores = [(trial, _score(trial)) for trial in trials if trial["state"] in MARKS]
    shown = [(trial, score) for trial, score in scores if score is not None]
    names = sorted({name for trial, _ in shown for name in trial["params"]})
    rows = math.ceil((1 + len(names)) / COLUMNS)
    figure = Figure(figsize=(4.0 * min(COLUMNS, 1 + len(names)), 3.0 * rows), dpi=DPI)
    FigureCanvasAgg(figure)
    panels: list[Axes] = list(np.ravel(figure.subplots(rows, min(COLUMNS, 1 + len(names)), squeeze=False)))
    history, *by_name = panels
    _points(history, shown, [trial["number"] for trial, _ in shown])
    ends = [(trial["number"], score) for trial, score in shown if trial["state"] == "complete"]
    better = np.maximum if maximize else np.minimum
    history.step(
        [number for number, _ in ends],
        better.accumulate([score for _, score in ends]),
        where="post",
        color=BEST,
        linewidth=1.2,
        label="best so far",
    )
    history.set_xlabel("trial", fontsize=8)
    history.legend(fontsize=7)
    for panel, name in zip(by_name, names, strict=False):
        _setting(panel, [(trial, score) for trial, score in shown if name in trial["params"]], name)
    for panel in panels[1 + len(names) :]:
        panel.set_visible(False)
    for panel in panels[: 1 + len(names)]:
        panel.set_ylabel(metric, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure.set_layout_engine("constrained")
    return figure


def _score(trial: Mapping[str, Any]) -> float | None:
    score = trial["value"] if trial["state"] == "complete" else trial["last_report"]
    return float(score) if score is not None and math.isfinite(score) else None


def _points(panel: Axes, shown: Sequence[tuple[Mapping[str, Any], Any]], places: Sequence[Any]) -> None:
    for state, (marker, color) in MARKS.items():
        chosen = [
            (place, score) for place, (trial, score) in zip(places, shown, strict=True) if trial["state"] == state
        ]
        if chosen:
            x, y = zip(*chosen, strict=True)
            panel.scatter(x, y, marker=marker, s=22, color=color, label=state, linewidths=1.0)


def _setting(panel: Axes, shown: Sequence[tuple[Mapping[str, Any], Any]], name: str) -> None:
    values = [trial["params"][name] for trial, _ in shown]
    if all(isinstance(value, int | float) for value in values):
        _points(panel, shown, values)
        if min(values) > 0 and max(values) / min(values) > LOG_FROM:
            panel.set_xscale("log")
    else:
        kinds = sorted({str(value) for value in values})
        _points(panel, shown, [kinds.index(str(value)) for value in values])
        long = max(map(len, kinds)) > 6
        panel.set_xticks(range(len(kinds)), kinds, rotation=15 if long else 0, ha="right" if long else "center")
        panel.set_xlim(-0.5, len(kinds) - 0.5)
    panel.set_xlabel(name, fontsize=8)
