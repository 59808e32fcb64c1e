"""Pictures of a choice among synthetic pairs: the chosen ones by type, and the cells of each type before and after."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from skimage.transform import resize

from hemolens.analysis.figures import DPI
from hemolens.analysis.segmentation_figures import overlay
from hemolens.io.colors import mask_colors

COLUMNS, MIN_COLUMNS = 10, 5  # pairs in a row; a sheet is at least as wide as its title
TILE_PX, GAP_PX, NAME_PX = 192, 6, 17  # side of a pair, space around it, line with its name below
TITLE_PX, HEAD_PX = 64, 40  # strip above all pairs, and above those of a type
NAME_LETTERS = 30
PALE = 0.35  # strength of the colours of all candidates' bars


@dataclass(frozen=True, eq=False)
class PairPicture:
    """A pair on a contact sheet.

    Attributes:
        name: of its files, under which ``accept.csv`` lists it.
        phase_rad: [H, W].
        classes: of each pixel, [H, W], 0 background.
        instances: which cell each pixel belongs to, [H, W], 0 background.
        kind: label of the type that it is shown with; 0: without cells.
    """

    name: str
    phase_rad: NDArray[np.floating]
    classes: NDArray[np.integer]
    instances: NDArray[np.integer]
    kind: int


def plot_contact_sheet(pairs: Sequence[PairPicture], class_names: Sequence[str], totals: Sequence[int]) -> Figure:
    """Pairs in rows under the name of their type, all with one scale of grey, their cells tinted and outlined.

    Args:
        pairs: those that are shown, at least one, in the order in which they are shown.
        class_names: background first.
        totals: chosen pairs by ``kind``, also those that are not shown, [K].
    """
    groups = [[pair for pair in pairs if pair.kind == kind] for kind in range(len(class_names))]
    columns = min(COLUMNS, max(MIN_COLUMNS, *map(len, groups)))
    width = columns * (TILE_PX + GAP_PX) + GAP_PX
    places: list[tuple[PairPicture, int, int]] = []  # with the row and the column of its upper left pixel
    heads: list[tuple[int, int]] = []  # type, and the pixel row in the middle of its head
    top = TITLE_PX
    for kind in (*range(1, len(class_names)), 0):
        if not groups[kind]:
            continue
        heads.append((kind, top + HEAD_PX // 2))
        top += HEAD_PX
        for number, pair in enumerate(groups[kind]):
            row, column = divmod(number, columns)
            places.append((pair, top + row * (TILE_PX + NAME_PX + GAP_PX), GAP_PX + column * (TILE_PX + GAP_PX)))
        top += math.ceil(len(groups[kind]) / columns) * (TILE_PX + NAME_PX + GAP_PX)
    height = top + GAP_PX
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(_mosaic(places, (height, width), class_names), aspect="auto", interpolation="nearest")
    axes.set_axis_off()

    def write(x: float, y: float, text: str, **style: Any) -> float:
        """Write at a pixel, and say where the text ends."""
        written = figure.text(x / width, 1 - y / height, text, va="center", parse_math=False, **style)
        return float(written.get_window_extent().x1)

    hidden = sum(totals) - len(pairs)
    more = f"  ·  {hidden:,} more are not shown" if hidden else ""
    write(GAP_PX, 17, f"{len(pairs):,} of {sum(totals):,} chosen pairs{more}", fontsize=13)
    remark = "sorted by the type of most of their cells; phase in grey, on one scale for all pairs"
    write(GAP_PX, 43, remark, fontsize=9, color="0.35")
    colors = np.asarray(mask_colors(class_names)) / 255
    for kind, middle in heads:
        shown = len(groups[kind])
        name = class_names[kind] if kind else "no cells"
        end = write(GAP_PX, middle, "■", fontsize=15, color=tuple(colors[kind]))
        end = write(end + 5, middle, name, fontsize=12, weight="bold")
        count = f"{shown:,} pairs" if shown == totals[kind] else f"{shown:,} of {totals[kind]:,} pairs"
        write(end + 10, middle, count, fontsize=10, color="0.35")
    for pair, y, x in places:
        write(x + 1, y + TILE_PX + NAME_PX / 2, _shortened(pair.name), fontsize=7, color="0.3")
    return figure


def plot_class_counts(
    before: Sequence[int], after: Sequence[int], class_names: Sequence[str], pairs: tuple[int, int]
) -> Figure:
    """Bars of each type's share of all cells, of all candidates beside the chosen pairs, with the numbers of cells.

    Args:
        before: cells of each type in all candidates, [K - 1].
        after: the same in the chosen pairs.
        class_names: background first.
        pairs: number of candidates and of chosen pairs.
    """
    types = list(class_names[1:])
    figure = Figure(figsize=(1.8 + 1.5 * max(3, len(types)), 4.2), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colors = np.asarray(mask_colors(class_names)[1:]) / 255
    at, width, highest = np.arange(len(types)), 0.38, 0.0
    for side, counts, strength in ((-1, before, PALE), (1, after, 1.0)):
        shares = np.asarray(counts, float) / max(1, sum(counts))
        highest = max(highest, float(shares.max(initial=0)))
        bars = axes.bar(at + side * width / 2, shares, width * 0.94, color=1 - strength * (1 - colors))
        labels = [f"{count:,}\n{share:.0%}" for count, share in zip(counts, shares, strict=True)]
        for label in axes.bar_label(bars, labels, fontsize=8, padding=2, color="0.2"):
            label.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])  # over the dashed line
    axes.axhline(1 / len(types), color="0.3", lw=1, ls=(0, (4, 3)), zorder=0)
    places: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate("equal", (1, 1 / len(types)), (3, 0), fontsize=8, color="0.3", va="center", **places)
    axes.set_xticks(at, types)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set(ylabel="share of the cells", ylim=(0, max(highest, 1 / len(types)) * 1.2), xlim=(-0.6, len(types) - 0.4))
    axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Patch(color=str(1 - strength * 0.75), label=f"{name}: {number:,} pairs, {sum(counts):,} cells")
        for name, number, counts, strength in (
            ("all candidates", pairs[0], before, PALE),
            ("chosen", pairs[1], after, 1.0),
        )
    ]
    axes.legend(handles=handles, frameon=False, fontsize=9, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.01))
    return figure


def _mosaic(
    places: Sequence[tuple[PairPicture, int, int]], size: tuple[int, int], class_names: Sequence[str]
) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: each pair with its upper left pixel at (row, column), white between them.

    One overlay of all together gives them one scale of grey. Each has a rim of its outermost pixels while it is drawn,
    so that a cell that the border cuts gets no outline there.
    """
    phase, shown = np.zeros(size, np.float32), np.zeros(size, bool)
    classes, instances = np.zeros(size, np.int32), np.zeros(size, np.int32)
    for pair, top, left in places:
        height, width = pair.phase_rad.shape
        scale = TILE_PX / max(height, width)
        rows, columns = (max(1, round(side * scale)) for side in (height, width))
        rim = np.s_[top - 1 : top + rows + 1, left - 1 : left + columns + 1]
        finite = np.nan_to_num(pair.phase_rad.astype(np.float32), posinf=0, neginf=0)
        small = resize(finite, (rows, columns), order=1, mode="edge", anti_aliasing=scale < 1)
        at = np.ix_(*(((np.arange(n) + 0.5) * side / n).astype(int) for n, side in ((rows, height), (columns, width))))
        for canvas, tile in ((phase, small), (classes, pair.classes[at]), (instances, pair.instances[at])):
            canvas[rim] = np.pad(tile, 1, mode="edge")
        shown[top : top + rows, left : left + columns] = True
    pixels = overlay(phase, classes, class_names, instances)
    pixels[~shown] = 255
    return pixels


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else f"…{name[1 - NAME_LETTERS :]}"
