"""Panels of the hematology report, each legible at the width of a phone; colours as everywhere."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from hemolens.analysis.agreement import LinearAgreement, bland_altman, passing_bablok, pearson
from hemolens.analysis.figures import class_rgb

WIDTH, HEIGHT = 4.4, 3.9  # inches; a phone shows them at about 85 px an inch
TRUTH_GREY = "0.45"
Pair = tuple[str, str]


def panel(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty panel."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    return figure, axes


def draw_regression(
    reference: ArrayLike, values: ArrayLike, labels: tuple[str, str], *, equivariant: bool = False
) -> Figure:
    """Samples against a reference with the Passing-Bablok line.

    Args:
        reference, values: [N], one value a sample.
        labels: of the two axes.
        equivariant: see :func:`hemolens.analysis.agreement.passing_bablok`.
    """
    x, y = np.asarray(reference, float), np.asarray(values, float)
    line, r = passing_bablok(x, y, equivariant=equivariant), pearson(x, y)
    figure, axes = panel()
    ends = _ends(x, y)
    axes.plot(ends, ends, color="0.6", lw=1, ls="--", label="equal")
    seen = np.array([x.min(), x.max()])
    axes.plot(seen, line.intercept + line.slope * seen, color="#b3382c", lw=1.8, label=_slope_text(line))
    axes.plot(x, y, "o", ms=5, color="#0a558c", alpha=0.85, mew=0, label=f"{len(x)} samples, r = {r.r:.3f}")
    axes.set(xlim=ends, ylim=ends)
    axes.set_aspect("equal")
    axes.set_xlabel(labels[0], fontsize=10)
    axes.set_ylabel(labels[1], fontsize=10)
    axes.legend(fontsize=8.5, frameon=False, loc="upper left", borderaxespad=0.2)
    return figure


def _slope_text(line: LinearAgreement) -> str:
    low, high = line.slope_ci
    return f"slope {line.slope:.2f} [{low:.2f}, {high:.2f}]"


def _ends(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    pad = 0.06 * (high - low)
    return np.array([low - pad, high + 5 * pad])  # room for the legend above


def draw_differences(reference: ArrayLike, values: ArrayLike, label: str, unit: str = "") -> Figure:
    """Bland and Altman's plot: differences over means, bias and limits of agreement with their intervals.

    Args:
        reference, values: [N].
        label: of the quantity.
        unit: behind numbers; none for counts.
    """
    x, y = np.asarray(reference, float), np.asarray(values, float)
    found = bland_altman(x, y)
    figure, axes = panel()
    axes.axhline(0, color="0.75", lw=1)
    for value, (low, high), style, name in (
        (found.bias, found.bias_ci, "-", "bias"),
        (found.limits[1], found.upper_ci, "--", "upper limit"),
        (found.limits[0], found.lower_ci, "--", "lower limit"),
    ):
        axes.axhspan(low, high, color="#b3382c", alpha=0.10, lw=0)
        axes.axhline(value, color="#b3382c", lw=1.6, ls=style, label=f"{name} {value:+.2f} {unit}")
    axes.plot((x + y) / 2, y - x, "o", ms=5, color="#0a558c", alpha=0.85, mew=0)
    axes.set_xlabel(f"mean of both, {label} ({unit})" if unit else f"mean of both, {label}", fontsize=10)
    axes.set_ylabel(f"difference ({unit})" if unit else "difference", fontsize=10)
    low, high = axes.get_ylim() if np.ptp(y - x) else (y[0] - x[0] - 1, y[0] - x[0] + 1)
    axes.set_ylim(low, high + 0.42 * (high - low))
    axes.legend(fontsize=8.5, frameon=False, loc="upper left", borderaxespad=0.2)
    return figure


def draw_distributions(groups: Mapping[str, tuple[ArrayLike, ArrayLike]], label: str, colors: Sequence[int]) -> Figure:
    """Measured and true values of the same cells, by class: each class a pair of violins with its median and quartiles.

    Args:
        groups: by class name, measured and true values (the latter may be empty).
        label: of the axis.
        colors: label numbers of the classes, for their colours.
    """
    figure, axes = panel()
    ticks: list[tuple[float, str]] = []
    for number, ((name, (measured, true)), color) in enumerate(zip(groups.items(), colors, strict=True)):
        for offset, values, ink, kind in ((-0.21, measured, class_rgb(color), "measured"), (0.21, true, "0.7", "true")):
            array = np.asarray(values, float)
            if len(array) < 2:
                continue
            place = number + offset
            if np.ptp(array):
                body = axes.violinplot(array, [place], widths=0.38, showextrema=False)["bodies"]
                for part in body:  # type: ignore[attr-defined]  # a list, says matplotlib
                    part.set(facecolor=ink, alpha=0.75, edgecolor="0.3", linewidth=0.6)
            low, middle, high = np.percentile(array, (25, 50, 75))
            axes.vlines(place, low, high, color="black", lw=3)
            axes.plot(place, middle, "o", color="white", mec="black", ms=5)
            ticks.append((place, f"{name}\n{kind}\n(n = {len(array)})"))
    axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks], fontsize=9)
    axes.set_ylabel(label, fontsize=10)
    axes.set_ylim(bottom=0)
    return figure


def draw_scatter(points: ArrayLike, pairs: Sequence[Pair], styles: dict[Pair, tuple[str, str]]) -> Figure:
    """Cells in the plane of an embedding, a colour and a mark for each pair of predicted and true class.

    Args:
        points: [N, 2].
        pairs: (predicted, true) of each cell.
        styles: colour and marker of each pair, in the order of the legend.
    """
    places = np.asarray(points, float)
    figure, axes = panel(WIDTH, 4.3)
    for pair, (color, marker) in styles.items():
        own = np.array([entry == pair for entry in pairs])
        few = pair[0] != pair[1]
        if own.any():
            axes.plot(
                *places[own].T,
                marker,
                color=color,
                ms=5 if few else 3,
                mew=0,
                alpha=0.9 if few else 0.6,
                label=f"{pair[0]} / {pair[1]}  ({own.sum()})",
            )
    axes.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    axes.legend(
        title="predicted / true",
        fontsize=8.5,
        title_fontsize=8.5,
        ncols=2,
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        markerscale=1.6,
    )
    return figure


def draw_crops(crops: ArrayLike, values: ArrayLike, title: str, rows: int = 2, columns: int = 4) -> Figure:
    """Cells along an axis, from its low end (upper left) to its high end, with their places on it.

    Args:
        crops: uint8 [N, side, side], at least one.
        values: [N], places on the axis.
        title: of the panel.
        rows, columns: of the grid; the cells shown are spread evenly over the ranks.
    """
    pictures, places = np.asarray(crops), np.asarray(values, float)
    order = np.argsort(places)
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(rows * columns, len(order))).round().astype(int))]
    figure = Figure(figsize=(WIDTH, 2.75), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03)
    figure.suptitle(title, fontsize=10.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for axes, index in zip(grid.ravel(), chosen, strict=False):
        axes.imshow(pictures[index], cmap="gray", vmin=0, vmax=255)
        shade = {"facecolor": "black", "alpha": 0.45, "lw": 0, "pad": 1}
        axes.text(2, 3, f"{places[index]:+.1f}", color="white", fontsize=8.5, va="top", bbox=shade)
    return figure


def draw_ranks(irregularity: ArrayLike, axis: ArrayLike, labels: ArrayLike, text: str) -> Figure:
    """Place on the main axis of the features against the simulated irregularity.

    Args:
        irregularity, axis: [N].
        labels: [N] class number, for the colours.
        text: the correlation.
    """
    x, y, classes = np.asarray(irregularity, float), np.asarray(axis, float), np.asarray(labels)
    figure, axes = panel(WIDTH, 4.3)
    for label in np.unique(classes).tolist():
        axes.plot(x[classes == label], y[classes == label], "o", ms=3.2, mew=0, alpha=0.6, color=class_rgb(label))
    axes.set_xlabel("simulated irregularity (0 round disc, 1 most irregular)", fontsize=9.5)
    axes.set_ylabel("main axis of the features (SD)", fontsize=10)
    axes.set_title(text, fontsize=10)
    return figure
