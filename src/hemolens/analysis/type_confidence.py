"""How sure a segmentation is of a cell's type: temperature scaling, reliability, and what abstaining gains.

A cell's score of a class is the mean over its pixels of the logarithm of the class's probability. The types compete
among themselves (the background is left out); one temperature, fitted on cells that were not trained on, makes their
probabilities honest (Guo et al., On Calibration of Modern Neural Networks, ICML 2017).
"""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from hemolens.errors import UserError

BINS = 10
TEMPERATURES = (0.05, 50.0)  # that are looked through
FEWEST_CELLS = 50

Floats = NDArray[np.float64]


def type_probabilities(log_probability: ArrayLike, temperature: float = 1.0) -> Floats:
    """Probability of each type [N, K - 1] of cells' scores [N, K], background first.

    Args:
        log_probability: mean over a cell's pixels of the logarithm of each class's probability.
        temperature: above 1 makes them less sure.
    """
    scores = np.asarray(log_probability, np.float64)[:, 1:]
    probabilities: Floats = softmax(scores / temperature, axis=1) if len(scores) else scores
    return probabilities


def fit_temperature(log_probability: ArrayLike, types: ArrayLike) -> float:
    """The temperature under which the true types are likeliest.

    Args:
        log_probability: of cells, [N, K].
        types: true type of each, 0 … K - 2, [N].

    Raises:
        UserError: fewer than 50 cells.
    """
    scores, labels = np.asarray(log_probability, np.float64)[:, 1:], np.asarray(types, np.int64)
    if len(labels) < FEWEST_CELLS:
        raise UserError(f"{len(labels)} cells to fit a temperature on: at least {FEWEST_CELLS} are needed")

    def loss(logarithm: float) -> float:
        return -float(log_softmax(scores / np.exp(logarithm), axis=1)[np.arange(len(labels)), labels].mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(found.x))


def reliability(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> dict[str, Floats]:
    """Confidence and accuracy of cells in bins of equal width.

    Args:
        confidence: probability of the type that was said, [N].
        right: whether it was right, [N].
        bins: of [0, 1].

    Returns:
        ``cells``, ``confidence``, ``accuracy`` [bins]; NaN where a bin is empty.
    """
    sure, hit = np.asarray(confidence, float), np.asarray(right, float)
    place = np.clip((sure * bins).astype(int), 0, bins - 1)
    cells = np.bincount(place, minlength=bins).astype(float)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, weights=values, minlength=bins) / cells for values in (sure, hit)]
    return {"cells": cells, "confidence": means[0], "accuracy": means[1]}


def expected_calibration_error(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> float:
    """Mean distance of accuracy from confidence over the bins, weighted by their cells; NaN without cells."""
    table = reliability(confidence, right, bins)
    total = table["cells"].sum()
    if not total:
        return float("nan")
    return float(np.nansum(table["cells"] * np.abs(table["accuracy"] - table["confidence"])) / total)


def abstention(confidence: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """What is gained by leaving the least sure cells undecided.

    Returns:
        ``least`` probability that is asked for, share of the cells ``decided``, and ``accuracy`` of those, rising in
        ``least``, one entry a different confidence.
    """
    sure, hit = np.asarray(confidence, float), np.asarray(right, float)
    order = np.argsort(-sure, kind="stable")
    accuracy = np.cumsum(hit[order]) / np.arange(1, len(sure) + 1)
    last = np.append(np.flatnonzero(np.diff(sure[order])), len(sure) - 1) if len(sure) else np.zeros(0, int)
    return sure[order][last][::-1], ((last + 1) / max(len(sure), 1))[::-1], accuracy[last][::-1]


def plot_reliability(before: dict[str, Floats], after: dict[str, Floats]) -> Figure:
    """Accuracy over confidence, raw and calibrated, with the numbers of cells.

    Args:
        before, after: of :func:`reliability`.
    """
    figure = Figure(figsize=(5.2, 5.6), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color="0.6", ls="--", lw=1)
    width = 0.4 / len(before["cells"])
    for number, (name, table, color) in enumerate((("raw", before, "C1"), ("calibrated", after, "C0"))):
        axes.plot(table["confidence"], table["accuracy"], marker="o", ms=5, lw=1.4, color=color, label=name)
        middle = (np.arange(len(table["cells"])) + 0.5) / len(table["cells"])
        counts.bar(middle + (number - 0.5) * width, table["cells"], width, color=color)
    axes.set(ylabel="share of right types", ylim=(0, 1.02), xlim=(0, 1.02))
    counts.set(xlabel="probability of the type that was said", ylabel="cells", yscale="symlog")
    for place in (axes, counts):
        place.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    return figure


def plot_abstention(least: Floats, decided: Floats, accuracy: Floats) -> Figure:
    """Accuracy of decided cells over their share, with the probability that is asked for; see :func:`abstention`."""
    figure = Figure(figsize=(5.6, 4.0), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(100 * decided, 100 * accuracy, lw=1.6)
    for asked in (0.5, 0.7, 0.9, 0.99):
        at = int(np.searchsorted(least, asked))
        if at < len(least):
            axes.plot(100 * decided[at], 100 * accuracy[at], "o", ms=5, color="black")
            place = 100 * float(decided[at]), 100 * float(accuracy[at])
            axes.annotate(f"≥ {asked:g}", place, xytext=(4, -12), textcoords="offset points", fontsize=8)
    axes.set(xlabel="cells that are decided (%)", ylabel="right types among them (%)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
