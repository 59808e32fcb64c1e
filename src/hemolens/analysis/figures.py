"""Pictures of detections and their scores, drawn on matplotlib's Agg canvas without pyplot's global state.

Every function returns a :class:`matplotlib.figure.Figure`; :func:`save_figure` writes it and :func:`to_array`
gives its pixels. Arrays may be lists, numpy arrays or tensors. Colours are those of
:mod:`hemolens.io.colors`, so a class looks the same here and in QuPath.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from hemolens.io.atomic import atomic_path
from hemolens.io.colors import class_color

DPI = 100
LONG_SIDE_PX = (1000, 3000)  # a picture is enlarged by a whole factor to the first, and shrunk to the second
LEGEND_PX = 36  # strip below a picture
SCORES_FROM_PX = 60  # boxes narrower than this on the drawn picture get no score written on them
RIM = (0.0, 0.0, 0.0, 0.6)  # dark rim of lines: readable on pale smears and on dark projections alike


class LabelledBoxes(TypedDict):
    """Ground truth: ``boxes`` ``[M, 4]`` xyxy px and ``labels`` ``[M]``."""

    boxes: ArrayLike
    labels: ArrayLike


class Picture(NamedTuple):
    """One tile of :func:`plot_overlay_grid`; fields as the arguments of :func:`draw_detections`."""

    image: ArrayLike
    boxes: ArrayLike
    labels: ArrayLike
    scores: ArrayLike | None = None
    truth: LabelledBoxes | None = None
    title: str = ""


def draw_detections(
    image: ArrayLike,
    boxes: ArrayLike,
    labels: ArrayLike,
    scores: ArrayLike | None,
    class_names: Sequence[str],
    truth: LabelledBoxes | None = None,
) -> Figure:
    """Boxes over their image, a colour a class, with a legend that counts them.

    The picture keeps the pixels of the image (enlarged by a whole factor if small); the legend lies below it.

    Args:
        image: ``[H, W]``, ``[H, W, 3]`` or ``[C, H, W]`` with C 1 or 3; uint8 is shown as it is, anything
            else is stretched between its 0.1st and 99.9th percentile.
        boxes: ``[N, 4]`` xyxy pixels of ``image``.
        labels: ``[N]``, 0 … C-1.
        scores: ``[N]`` or None; written above boxes that have room for them.
        class_names: name of label 0, 1, ….
        truth: ground truth, drawn dashed.
    """
    pixels = displayable(image)
    height, width = pixels.shape[:2]
    scale = _scale(height, width)
    figure_px = (width * scale, height * scale + LEGEND_PX)
    figure = Figure(figsize=(figure_px[0] / DPI, figure_px[1] / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, LEGEND_PX / figure_px[1], 1, 1 - LEGEND_PX / figure_px[1]))
    _draw(axes, pixels, Picture(pixels, boxes, labels, scores, truth), scale)
    counts = np.bincount(_array(labels).astype(np.int64), minlength=len(class_names))
    entries = [f"{name}  {count}" for name, count in zip(class_names, counts, strict=True)]
    _legend(figure, entries, figure_px, with_truth=truth is not None)
    return figure


def plot_overlay_grid(pictures: Sequence[Picture], class_names: Sequence[str], columns: int = 3) -> Figure:
    """Several :func:`draw_detections` pictures side by side with one legend."""
    shown = [displayable(picture.image) for picture in pictures]
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    cell_px, gap_px, title_px = 480, 8, 22 if any(picture.title for picture in pictures) else 0
    heights = [round(cell_px * pixels.shape[0] / pixels.shape[1]) for pixels in shown]
    row_px = [max(heights[row * columns : (row + 1) * columns]) + title_px + gap_px for row in range(rows)]
    figure_px = (columns * (cell_px + gap_px) + gap_px, sum(row_px) + gap_px + LEGEND_PX)
    figure = Figure(figsize=(figure_px[0] / DPI, figure_px[1] / DPI), dpi=DPI, facecolor="white")
    for index, (picture, pixels) in enumerate(zip(pictures, shown, strict=True)):
        row, column = divmod(index, columns)
        left = gap_px + column * (cell_px + gap_px)
        top = gap_px + sum(row_px[:row]) + title_px
        bottom = figure_px[1] - top - heights[index]
        place_px = np.array([left, bottom, cell_px, heights[index]])
        axes = figure.add_axes(tuple(place_px / np.tile(figure_px, 2)))
        _draw(axes, pixels, picture, cell_px / pixels.shape[1])
        axes.set_title(picture.title, fontsize=9, loc="left", pad=4)
    _legend(figure, class_names, figure_px, with_truth=any(p.truth is not None for p in pictures))
    return figure


def plot_precision_recall(
    curves: Sequence[tuple[ArrayLike, ArrayLike]], class_names: Sequence[str], ap: ArrayLike
) -> Figure:
    """Precision over recall, a line a class, with the average precision in the legend.

    Args:
        curves: ``(recall, precision)`` a class, by falling score; empty where a class has no ground truth.
        class_names: name of label 0, 1, ….
        ap: average precision ``[C]``; NaN where a class has no ground truth.
    """
    figure, axes = _plot_axes((6.4, 4.8))
    for label, (name, (recall, precision), value) in enumerate(
        zip(class_names, curves, _array(ap).astype(float), strict=True)
    ):
        text = f"{name}  (no test boxes)" if np.isnan(value) else f"{name}  AP {value:.3f}"
        axes.plot(_array(recall), _array(precision), color=class_rgb(label), lw=2, label=text)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.grid(color="0.9", lw=0.8)
    axes.legend(loc="lower left", frameon=False, fontsize=9)
    return figure


def plot_confusion(matrix: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Confusion matrix: counts, and shares of each row as shades.

    Args:
        matrix: ``[C, C]`` of matched cells, or ``[C + 1, C + 1]`` whose last row holds spurious detections
            and whose last column holds missed cells; rows = truth, columns = prediction.
        class_names: name of label 0, 1, ….
    """
    counts = _array(matrix).astype(float)
    extra = len(counts) - len(class_names)
    if extra not in (0, 1) or counts.shape != (len(counts), len(counts)):
        size = len(class_names)
        raise ValueError(f"{size} classes need a matrix of {size} or {size + 1} rows, not {counts.shape}")
    rows, columns = [*class_names, *["spurious"] * extra], [*class_names, *["missed"] * extra]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    share[len(class_names) :] = 0  # of spurious detections a share would say nothing about a true class
    side = 1.6 + 0.9 * len(counts)
    figure, axes = _plot_axes((side + 0.3, side))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        if row == column == len(class_names):
            continue  # neither true nor predicted
        ink = "white" if share[row, column] > 0.55 else "0.15"
        is_true_class = row < len(class_names)
        anchor = "bottom" if is_true_class else "center"
        axes.text(column, row, f"{count:,.0f}", ha="center", va=anchor, color=ink, fontsize=11)
        if is_true_class:
            percent = f"{share[row, column]:.1%}"
            axes.text(column, row + 0.07, percent, ha="center", va="top", color=ink, fontsize=8)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for edge in np.arange(0.5, len(counts) - 0.5):
        axes.axhline(edge, color="white", lw=2)
        axes.axvline(edge, color="white", lw=2)
    return figure


def save_figure(figure: Figure, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a figure (PNG, SVG, … by suffix), whole or not at all.

    Raises:
        UserError: ``path`` exists and ``overwrite`` is false; disk full.
    """
    with atomic_path(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, dpi=figure.dpi)


def to_array(figure: Figure) -> NDArray[np.uint8]:
    """Pixels of a figure, uint8 ``[H, W, 3]``."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def displayable(image: ArrayLike) -> NDArray[np.uint8]:
    """uint8 ``[H, W]`` or ``[H, W, 3]`` of any image; see :func:`draw_detections`."""
    array = _array(image)
    if array.ndim == 3 and array.shape[-1] not in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3):
        raise ValueError(f"an image is [H, W], [H, W, 3] or [C, H, W] with C 1 or 3, not {np.shape(image)}")
    if array.dtype == np.uint8:
        return array
    low, high = np.percentile(array, (0.1, 99.9))
    stretched = (array.astype(np.float32) - low) / max(high - low, np.finfo(np.float32).tiny)
    return (np.clip(stretched, 0, 1) * 255).round().astype(np.uint8)


def _array(values: Any) -> NDArray[Any]:
    """Numpy array of a list, an array or a tensor on any device."""
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values)


def _scale(height: int, width: int) -> float:
    enlarge, shrink = LONG_SIDE_PX
    longest = max(height, width)
    return max(1, round(enlarge / longest)) if longest <= shrink else shrink / longest


def class_rgb(label: int) -> tuple[float, float, float]:
    """Colour of a class as matplotlib takes it, 0 to 1."""
    red, green, blue = class_color(label)
    return red / 255, green / 255, blue / 255


def _is_light(label: int) -> bool:
    red, green, blue = class_rgb(label)
    return 0.299 * red + 0.587 * green + 0.114 * blue > 0.45  # luma (ITU-R BT.601)


def _plot_axes(size_inches: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size_inches, dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)  # inches
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw(axes: Axes, pixels: NDArray[np.uint8], picture: Picture, scale: float) -> None:
    """One image with its boxes; ``scale`` = drawn pixels an image pixel."""
    height, width = pixels.shape[:2]
    # The extent puts (0, 0) at the outer corner of the first pixel, as box coordinates have it.
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), aspect="auto")
    axes.set_axis_off()
    boxes = _array(picture.boxes).astype(float).reshape(-1, 4)
    labels = _array(picture.labels).astype(np.int64)
    _rectangles(axes, boxes, labels, dashed=False)
    if picture.truth is not None:
        true_boxes = _array(picture.truth["boxes"]).astype(float).reshape(-1, 4)
        _rectangles(axes, true_boxes, _array(picture.truth["labels"]).astype(np.int64), dashed=True)
    if picture.scores is None:
        return
    scores = _array(picture.scores).astype(float)
    for (x1, y1, x2, _), label, score in zip(boxes, labels, scores, strict=True):
        if (x2 - x1) * scale >= SCORES_FROM_PX:
            corner = (max(x1, 0.0), max(y1, 0.0))
            _write_score(axes, corner, f"{score:.2f}", label, below=y1 * scale < 16)


def _write_score(axes: Axes, corner: tuple[float, float], text: str, label: int, *, below: bool) -> None:
    """A chip in the colour of the class, on top of the box, or inside where the picture ends."""
    axes.annotate(
        text,
        corner,
        xytext=(1.5, -2.5 if below else 2.5),
        textcoords="offset points",
        va="top" if below else "bottom",
        color="black" if _is_light(label) else "white",
        fontsize=7.5,
        bbox={"boxstyle": "square,pad=0.2", "facecolor": class_rgb(label), "edgecolor": "none"},
    )


def _rectangles(axes: Axes, boxes: NDArray[Any], labels: NDArray[np.int64], *, dashed: bool) -> None:
    width = 2.0 if dashed else 3.0  # px
    for label in np.unique(labels):
        x1, y1, x2, y2 = boxes[labels == label].T
        outlines = np.stack([x1, y1, x2, y1, x2, y2, x1, y2, x1, y1], axis=1).reshape(-1, 5, 2)
        color = np.array(class_rgb(label))
        lines = LineCollection(
            list(outlines),
            colors=[0.6 * color + 0.4 if dashed else color],  # truth is paler: it shows on a detection
            linewidths=width * 72 / DPI,
            linestyles=(0, (5, 3)) if dashed else "solid",
            capstyle="butt",
        )
        lines.set_path_effects([patheffects.withStroke(linewidth=(width + 1.4) * 72 / DPI, foreground=RIM)])
        axes.add_collection(lines, autolim=False)


def _legend(figure: Figure, entries: Sequence[str], figure_px: tuple[float, float], *, with_truth: bool) -> None:
    handles = [Line2D([], [], color=class_rgb(label), lw=4, label=entry) for label, entry in enumerate(entries)]
    if with_truth:
        handles.append(Line2D([], [], color="0.3", lw=1.5, ls="--", label="ground truth"))
    figure.legend(
        handles=handles,
        loc="center",
        bbox_to_anchor=(0.5, LEGEND_PX / 2 / figure_px[1]),
        ncols=len(handles),
        frameon=False,
        fontsize=10,
        handlelength=1.4,
        columnspacing=1.8,
    )
