"""Pictures of generated phase images beside real ones, and their distances."""

from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hemolens.analysis.figures import DPI

TILE_INCHES = 1.15
COLORS = "viridis"  # perceptually even
PHASES_SHOWN = (-0.5, 4.0)  # rad


def plot_samples(
    real_rad: NDArray[np.floating], fake_rad: NDArray[np.floating], *, columns: int = 8, rows: int = 4
) -> Figure:
    """Real patches on the left, generated ones on the right, with one scale in rad.

    Args:
        real_rad, fake_rad: float [N, H, W]; the first ``columns * rows`` are drawn.
        columns, rows: of each side.
    """
    count = min(len(real_rad), len(fake_rad))
    columns = min(columns, max(1, count))
    rows = min(rows, -(-count // columns))
    figure = Figure(figsize=((2 * columns + 1.2) * TILE_INCHES, (rows + 0.5) * TILE_INCHES), dpi=DPI)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        rows,
        2 * columns + 2,
        left=0.01,
        right=0.94,
        top=0.9,
        bottom=0.02,
        wspace=0.06,
        hspace=0.06,
        width_ratios=[1] * columns + [0.25] + [1] * columns + [0.3],
    )
    drawn = None
    for start, images in ((0, real_rad), (columns + 1, fake_rad)):
        for number in range(min(count, rows * columns)):
            axes = figure.add_subplot(grid[number // columns, start + number % columns])
            drawn = axes.imshow(images[number], cmap=COLORS, vmin=PHASES_SHOWN[0], vmax=PHASES_SHOWN[1])
            axes.set_axis_off()
    for start, title in ((0, "real"), (columns + 1, "generated")):
        over = figure.add_subplot(grid[:, start : start + columns], frameon=False)
        over.set(xticks=[], yticks=[])
        over.set_title(title)
    if drawn is not None:
        scale = figure.colorbar(drawn, cax=figure.add_subplot(grid[:, -1]), extend="both")
        scale.set_label("phase, rad")
    return figure


def plot_floors(results: Mapping[str, float]) -> Figure:
    """How many times as far generated patches are from real ones as real ones are from each other.

    Args:
        results: of ``metrics.generation.GenerationScores``: distances, and each with ``_floor``.
    """
    names = [name for name in results if results.get(f"{name}_floor", 0) > 0 and results[name] > 0]  # kernel: about 0
    ratios = [results[name] / results[f"{name}_floor"] for name in names]
    figure = Figure(figsize=(6.4, 0.45 * len(names) + 1.2), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.barh(names, ratios, color="#3182bd")
    axes.axvline(1, color="black", linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("distance / distance of two halves of the real patches")
    for place, ratio in enumerate(ratios):
        axes.annotate(f"{ratio:.1f}", (ratio, place), xytext=(3, 0), textcoords="offset points", va="center")
    axes.margins(x=0.15)
    return figure
