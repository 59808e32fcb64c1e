"""Pictures of a storage series: shares of the types by day, what the cells measure, and an image of each day."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hemolens.analysis.segmentation_figures import color_mask, grey_levels
from hemolens.io.colors import mask_colors

#: Columns of the table of cells that are drawn over the days, with their axis labels.
MORPHOLOGY = {
    "area_um2": "projected area (µm²)",
    "projected_circularity": "projected circularity",
    "center_rim_ratio": "centre / rim phase",
    "mean_phase_rad": "mean phase (rad)",
    "dry_mass_pg": "dry mass (pg)",
}
GALLERY_PX = 320  # side of what is shown of an image
SPREAD = 0.5  # days by which the types are drawn apart, so that their intervals do not cover each other


@dataclass(frozen=True, eq=False)
class DayImage:
    """An image of a day with its class map, both [H, W]; ``pixel_um`` is the side of a pixel, None where not known."""

    title: str
    phase: NDArray[np.floating]
    classes: NDArray[np.integer]
    pixel_um: float | None = None


def plot_trend(series: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Shares over the days of storage with their intervals, as Figure 8 of paper B; dashed: the truth, where known.

    Args:
        series: of ``storage_series.series_table`` by day, or of one bag; ``true_share`` where it is known.
        class_names: background first.
    """
    figure, axes = _figure((7.6, 4.4))
    types, colors = class_names[1:], _colors(class_names)
    known = "true_share" in series
    for number, (name, color) in enumerate(zip(types, colors, strict=True)):
        part = series[series["type"] == name].sort_values("storage_day")
        days = part["storage_day"].to_numpy(float)
        at = days + SPREAD * (number - (len(types) - 1) / 2)
        share = part["share"].to_numpy(float)
        reach = np.clip([share - part["low"], part["high"] - share], 0, None)
        axes.errorbar(at, share, yerr=reach, color=color, marker="o", ms=4, lw=1.4, elinewidth=1, capsize=2, label=name)
        if known:
            axes.plot(at, part["true_share"], color=color, ls="--", lw=1)
    if known:
        axes.plot([], [], color="0.4", ls="--", lw=1, label="truth")
    axes.set(xlabel="days of storage", ylabel="share of the cells", ylim=(-0.03, 1.03))
    axes.set_xticks(sorted(series["storage_day"].unique()))
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="y", color="0.92")
    figure.legend(loc="outside upper center", ncols=len(types) + known, frameon=False, fontsize=9)
    return figure


def plot_errors(series: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Share minus true share over the days, a line a type.

    Args:
        series: of ``storage_series.with_truth`` by day.
        class_names: background first.
    """
    figure, axes = _figure((7.6, 3.6))
    axes.axhline(0, color="0.3", lw=1)
    for name, color in zip(class_names[1:], _colors(class_names), strict=True):
        part = series[series["type"] == name].sort_values("storage_day")
        axes.plot(part["storage_day"], 100 * part["error"], color=color, marker="o", ms=4, lw=1.4, label=name)
    axes.set(xlabel="days of storage", ylabel="share − true share (percentage points)")
    axes.set_xticks(sorted(series["storage_day"].unique()))
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="y", color="0.92")
    figure.legend(loc="outside upper center", ncols=len(class_names) - 1, frameon=False, fontsize=9)
    return figure


def plot_morphology(cells: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Median and quartiles of what the cells measure over the days: all whole cells in black, each type in its colour.

    Args:
        cells: a row a cell: ``storage_day``, ``type`` and the keys of ``MORPHOLOGY``; what has no number is left out.
        class_names: background first.
    """
    shown = [name for name in MORPHOLOGY if name in cells and cells[name].notna().any()]
    figure = Figure(figsize=(10.5, 3.0 * -(-len(shown) // 3)), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(-(-len(shown) // 3), 3, squeeze=False)).ravel()
    types, colors = class_names[1:], _colors(class_names)
    for place, name in zip(axes, shown, strict=False):
        for kind, color in zip(types, colors, strict=True):
            _quartiles(place, cells[cells["type"] == kind], name, color=color, label=kind, least=5)
        _quartiles(place, cells, name, color="black", label="all", filled=True)
        place.set(xlabel="days of storage", ylabel=MORPHOLOGY[name])
        place.spines[["top", "right"]].set_visible(False)
        place.tick_params(labelsize=8)
    for place in axes[len(shown) :]:
        place.set_axis_off()
    handles = {
        label: handle for place in axes for handle, label in zip(*place.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9
    )
    return figure


def _quartiles(
    axes: Axes, cells: pd.DataFrame, name: str, *, color: object, label: str, least: int = 1, filled: bool = False
) -> None:
    """Median by day of days with enough cells; quartiles as a band."""
    values = cells.dropna(subset=[name]).groupby("storage_day")[name]
    table = values.quantile([0.25, 0.5, 0.75]).unstack()
    table = table[values.size() >= least] if len(table) else table
    if not len(table):
        return
    axes.plot(table.index, table[0.5], color=color, marker="o", ms=3, lw=1.6 if filled else 1.0, label=label)
    if filled:
        axes.fill_between(table.index, table[0.25], table[0.75], color="black", alpha=0.12, lw=0)


def plot_gallery(images: Sequence[DayImage], class_names: Sequence[str]) -> Figure:
    """An image of each day above its class map, as Figure 7 of paper B: the middle of larger images.

    Args:
        images: in order.
        class_names: background first.
    """
    columns = min(6, max(len(images), 1))
    rows = 2 * -(-len(images) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.0 * rows + 0.5), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.ravel():
        place.set_axis_off()
    for number, image in enumerate(images):
        row, column = 2 * (number // columns), number % columns
        phase, classes = (middle(values) for values in (image.phase, image.classes))
        axes[row, column].imshow(grey_levels(phase), cmap="gray", vmin=0, vmax=255)
        axes[row, column].set_title(image.title, fontsize=9)
        if image.pixel_um is not None:
            _scale_bar(axes[row, column], phase.shape, image.pixel_um)
        axes[row + 1, column].imshow(color_mask(classes, class_names), interpolation="nearest")
    handles = [
        axes[0, 0].plot([], [], "s", color=color, label=name)[0]
        for name, color in zip(class_names[1:], _colors(class_names), strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def _scale_bar(axes: Axes, shape: tuple[int, ...], pixel_um: float) -> None:
    """A bar of 10 µm in the lower left corner."""
    height, width = shape[0], shape[1]
    start, length, y = 0.05 * width, 10.0 / pixel_um, 0.94 * height
    axes.plot([start, start + length], [y, y], color="white", lw=2, solid_capstyle="butt")
    axes.text(start + length / 2, y - 0.03 * height, "10 µm", color="white", fontsize=6, ha="center", va="bottom")
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def middle(values: NDArray[Any]) -> NDArray[Any]:
    """What a gallery shows of an image or a map [H, W]."""
    top, left = (max((side - GALLERY_PX) // 2, 0) for side in values.shape)
    return values[top : top + GALLERY_PX, left : left + GALLERY_PX]


def _colors(class_names: Sequence[str]) -> list[tuple[float, ...]]:
    return [tuple(part / 255 for part in color) for color in mask_colors(class_names)[1:]]


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
