"""Pictures of classified cells and scores by class, in the manner of :mod:`hemolens.analysis.figures`."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from hemolens.analysis.figures import DPI, class_rgb, displayable

CELL_PX, GAP_PX, TEXT_PX = 144, 10, 46  # of a picture, between pictures, of the lines below one
LEGEND_PX = 30
LEAST_COLUMNS = 4  # room for the legend below a single cell
NAME_LETTERS = 22  # that fit over a picture
RIGHT, WRONG = "0.15", "#b2182b"


class CellPicture(NamedTuple):
    """One cell and what was said of it.

    Attributes:
        image: as ``draw_detections`` takes it.
        probabilities: ``[K]``.
        truth: true label, or None.
        name: its file.
    """

    image: ArrayLike
    probabilities: NDArray[np.floating]
    truth: int | None
    name: str

    @property
    def label(self) -> int:
        """The likeliest class."""
        return int(np.argmax(self.probabilities))

    def caption(self, class_names: Sequence[str]) -> str:
        """E.g. ``monocyte 0.93, true: neutrophil``."""
        said = f"{class_names[self.label]} {float(np.max(self.probabilities)):.2f}"
        return said if self.truth is None else f"{said}, true: {class_names[self.truth]}"


def plot_cells(
    cells: Sequence[CellPicture], class_names: Sequence[str], *, columns: int = 8, title: str = ""
) -> Figure:
    """Cells side by side, each with its file, the likeliest class, its probability and, if known, the true class.

    What is wrong is red; a bar below a cell shows the probabilities in the colours of the classes.

    Args:
        cells: at least one.
        class_names: name of label 0, 1, ….
        columns: most cells in a row.
        title: of the whole.
    """
    columns = max(1, min(columns, max(len(cells), LEAST_COLUMNS)))
    rows = -(-len(cells) // columns)
    top_px = 34 if title else GAP_PX
    name_px, row_px = 16, 16 + CELL_PX + TEXT_PX
    figure_px = np.array([columns * (CELL_PX + GAP_PX) + GAP_PX, rows * (row_px + GAP_PX) + top_px + LEGEND_PX])
    figure = Figure(figsize=tuple(figure_px / DPI), dpi=DPI, facecolor="white")
    if title:
        figure.text(GAP_PX / figure_px[0], 1 - 10 / figure_px[1], title, fontsize=11, va="top")
    handles = [Patch(color=class_rgb(label), label=name) for label, name in enumerate(class_names)]
    place_px = (0.5, LEGEND_PX / 2 / figure_px[1])
    figure.legend(handles=handles, loc="center", bbox_to_anchor=place_px, ncols=len(handles), frameon=False, fontsize=9)
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        left = GAP_PX + column * (CELL_PX + GAP_PX)
        bottom = figure_px[1] - top_px - row * (row_px + GAP_PX) - name_px - CELL_PX
        place = np.array([left, bottom, CELL_PX, CELL_PX]) / np.tile(figure_px, 2)
        axes = figure.add_axes(tuple(place))
        axes.imshow(displayable(cell.image), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        axes.set_title(_shortened(cell.name), fontsize=7, loc="left", pad=2, color="0.4")
        bar = figure.add_axes((place[0], (bottom - 8) / figure_px[1], place[2], 6 / figure_px[1]))
        start = 0.0
        for label, share in enumerate(np.asarray(cell.probabilities, dtype=float)):
            bar.barh(0, share, left=start, color=class_rgb(label))
            start += share
        bar.set(xlim=(0, 1))
        bar.set_axis_off()
        wrong = cell.truth is not None and cell.truth != cell.label
        text = cell.caption(class_names).replace(", true: ", "\ntrue: ")
        ink = WRONG if wrong else RIGHT
        figure.text(place[0], (bottom - 11) / figure_px[1], text, fontsize=8, va="top", color=ink)
    return figure


def plot_class_scores(scores: Mapping[str, ArrayLike], class_names: Sequence[str]) -> Figure:
    """Bars of each score by class, with their values.

    Args:
        scores: name → ``[K]`` from 0 to 1, e.g. precision, recall and F1.
        class_names: name of label 0, 1, ….
    """
    figure = Figure(figsize=(1.6 + 1.5 * len(class_names), 4), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(scores)
    shades = np.linspace(0.8, 0.3, len(scores))
    at = np.arange(len(class_names))
    for number, ((name, values), shade) in enumerate(zip(scores.items(), shades, strict=True)):
        heights = np.asarray(values, dtype=float)
        bars = axes.bar(
            at + (number - (len(scores) - 1) / 2) * width, heights, width * 0.92, label=name, color=str(shade)
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=2)
    axes.set_xticks(at, class_names)
    axes.set(ylim=(0, 1.08), ylabel="score")
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(scores), loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
    return figure


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else f"…{name[1 - NAME_LETTERS :]}"
