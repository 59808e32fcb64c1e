"""Pictures of segmented phase images: overlays, rows of phase, truth and predictions, and scores by type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import fill

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray
from skimage.segmentation import find_boundaries

from hemolens.analysis.figures import DPI, LEGEND_PX
from hemolens.io.colors import mask_colors

FILL = 0.28  # share of the class's colour inside a cell
TILE_INCHES = 2.6
TITLE_LETTERS = 32  # of a line over a tile
PALE = 170  # of 255: added to a third of a wrong pixel's colour; of black, a missed cell, it makes grey
BAND = 6  # predictions side by side
PAGE_INCHES = 11.5  # tiles get smaller where so many of them are wider than a page
BAR_INCHES = 0.36  # room for the number above a bar


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """A phase image with what is true and what was said of it.

    Attributes:
        name: of the image.
        phase: [H, W], any range.
        truth: class of each pixel, [H, W]; None where it is not known.
        predictions: class of each pixel by the name of who says so.
    """

    name: str
    phase: NDArray[np.floating]
    truth: NDArray[np.integer] | None
    predictions: Mapping[str, NDArray[np.integer]] = field(default_factory=dict)


def grey_levels(phase: NDArray[np.floating]) -> NDArray[np.uint8]:
    """uint8 [H, W] of a phase, from its background to its thickest cell."""
    low, high = np.percentile(phase, (1, 99.8))
    scaled = (np.asarray(phase, np.float32) - low) / max(high - low, 1e-6)
    return (np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def color_mask(classes: NDArray[np.integer], class_names: Sequence[str]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: each class in its colour."""
    return np.asarray(mask_colors(class_names), np.uint8)[classes]


def overlay(
    phase: NDArray[np.floating],
    classes: NDArray[np.integer],
    class_names: Sequence[str],
    instances: NDArray[np.integer] | None = None,
) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: the phase in grey, cells tinted by class with their outlines.

    Args:
        phase: [H, W].
        classes: of each pixel, [H, W].
        class_names: background first.
        instances: which cell each pixel belongs to; None: outlines of the classes.
    """
    colors = np.asarray(mask_colors(class_names), np.float32)[classes]
    grey = np.repeat(grey_levels(phase)[..., None], 3, axis=2).astype(np.float32)
    inside = (classes > 0)[..., None]
    shown = np.where(inside, (1 - FILL) * grey + FILL * colors, grey)
    rim = find_boundaries(classes if instances is None else instances, mode="inner") & (classes > 0)
    shown[rim] = colors[rim]
    return shown.round().astype(np.uint8)


def draw_overlay(pixels: NDArray[np.uint8], counts: Mapping[str, int], class_names: Sequence[str]) -> Figure:
    """An overlay at its own size with a legend that counts the cells.

    Args:
        pixels: of :func:`overlay`.
        counts: cells of each type.
        class_names: background first.
    """
    height, width = pixels.shape[:2]
    scale = max(1.0, 640 / width)
    size = (width * scale, height * scale + LEGEND_PX)
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, LEGEND_PX / size[1], 1, 1 - LEGEND_PX / size[1]))
    axes.imshow(pixels, aspect="auto")
    axes.set_axis_off()
    labels = [f"{name}  {counts.get(name, 0)}" for name in class_names[1:]]
    _legend(figure, labels, class_names, y=LEGEND_PX / 2 / size[1])
    return figure


def plot_segmentations(images: Sequence[SegmentedImage], class_names: Sequence[str]) -> Figure:
    """A row an image, as Figure 6 of paper B: phase, truth, and each prediction with its wrong pixels pale.

    More predictions than fit side by side stand in bands below each other, each with phase and truth.

    Args:
        images: at least one, all with the same predictions.
        class_names: background first.
    """
    names = list(images[0].predictions)
    bands = [names[start : start + BAND] for start in range(0, len(names), BAND)] or [[]]
    first = ["phase", *(["truth"] if images[0].truth is not None else [])]
    columns = len(first) + len(bands[0])
    tile = min(TILE_INCHES, PAGE_INCHES / columns)
    titles = {title: fill(title, round(TITLE_LETTERS * tile / TILE_INCHES)) for title in [*first, *names]}
    head = 0.15 + 0.15 * max(title.count("\n") + 1 for title in titles.values())
    height = tile * len(images) + head
    size = (tile * columns, height * len(bands) + 0.35)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for number, band in enumerate(bands):
        top = 1 - number * height / size[1]
        places = {"left": 0.03, "right": 0.995, "wspace": 0.03, "hspace": 0.03}
        places |= {"top": top - head / size[1], "bottom": top - height / size[1]}
        grid = figure.add_gridspec(len(images), columns, **places).subplots(squeeze=False)
        _band(grid, images, len(first), band, class_names)
        for axes, title in zip(grid[0], [*first, *band], strict=False):
            axes.set_title(titles[title], fontsize=9, parse_math=False)
    judged = names and images[0].truth is not None
    _legend(figure, list(class_names[1:]), class_names, y=0.15 / size[1], judged=bool(judged))
    return figure


def _band(
    grid: NDArray[np.object_],
    images: Sequence[SegmentedImage],
    first: int,
    names: Sequence[str],
    class_names: Sequence[str],
) -> None:
    """Draw a row an image: ``first`` columns of phase and truth, then the predictions of ``names``."""
    for row, image in zip(grid, images, strict=True):
        _show(row[0], grey_levels(image.phase))
        row[0].set_ylabel(image.name, fontsize=7, parse_math=False)
        if image.truth is not None:
            _show(row[1], color_mask(image.truth, class_names))
        for axes, name in zip(row[first:], names, strict=False):
            pixels = color_mask(image.predictions[name], class_names)
            if image.truth is not None:
                wrong = image.predictions[name] != image.truth
                pixels[wrong] = pixels[wrong] // 3 + PALE
            _show(axes, pixels)
        for axes in row[first + len(names) :]:
            axes.set_axis_off()


def plot_type_scores(scores: Mapping[str, ArrayLike], class_names: Sequence[str]) -> Figure:
    """Bars of scores by type, a group a type.

    Args:
        scores: [K - 1] by name, each from 0 to 1; NaN has no bar.
        class_names: background first.
    """
    beside = len(scores) > BAND // 2  # a legend of many names stands beside the bars
    inches = max(7.0, 1.5 + BAR_INCHES * len(scores) * (len(class_names) - 1))
    figure = Figure(
        figsize=(min(inches, 11.0) if beside else inches, 3.8), dpi=150, facecolor="white", layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = np.arange(len(class_names) - 1)
    width = 0.8 / len(scores)
    colors = mpl.colormaps["tab10" if len(scores) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    for number, (name, values) in enumerate(scores.items()):
        heights = np.asarray(values, float)
        at = places + (number - (len(scores) - 1) / 2) * width
        bars = axes.bar(at, np.nan_to_num(heights), width * 0.92, color=colors[number % len(colors)], label=name)
        told = ["–" if np.isnan(v) else f"{v:.2f}" for v in heights]
        axes.bar_label(bars, told, fontsize=7, padding=1, rotation=90 if beside else 0)
    axes.set_xticks(places, list(class_names[1:]))
    axes.set(ylim=(0, 1.15 if beside else 1.08), ylabel="score")
    axes.spines[["top", "right"]].set_visible(False)
    if beside:
        figure.legend(frameon=False, fontsize=8, loc="outside right center")
    else:
        columns = min(len(scores), max(1, int(inches // 2.6)))
        figure.legend(frameon=False, fontsize=8, ncols=columns, loc="outside upper center")
    return figure


def _show(axes: Axes, pixels: NDArray[np.uint8]) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _legend(
    figure: Figure, labels: Sequence[str], class_names: Sequence[str], *, y: float, judged: bool = False
) -> None:
    colors = np.asarray(mask_colors(class_names)[1:]) / 255
    handles = [Patch(color=tuple(color), label=label) for color, label in zip(colors, labels, strict=True)]
    if judged:
        for paled, label in ((np.zeros(3), "missed"), (colors[0], "pale: wrong")):
            red, green, blue = (float(part) / 3 + PALE / 255 for part in paled)
            handles.append(Patch(color=(red, green, blue), label=label))
    figure.legend(handles=handles, loc="center", bbox_to_anchor=(0.5, y), ncols=len(handles), frameon=False, fontsize=9)
