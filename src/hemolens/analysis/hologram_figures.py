"""Pictures of phase images: contact sheets, and cells with their surface."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

THUMBNAIL_PX = 256
SHEET_COLUMNS = 4


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A small picture with its name and a line below it."""

    name: str
    pixels: NDArray[np.floating]
    caption: str = ""


def thumbnail(image: NDArray[np.floating], side: int = THUMBNAIL_PX) -> NDArray[np.floating]:
    """Means over blocks, so that no side is longer than ``side`` px."""
    factor = max(1, math.ceil(max(image.shape) / side))
    height, width = (length // factor * factor for length in image.shape)
    blocks = image[:height, :width].reshape(height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean((1, 3)))


def contact_sheet(pictures: Sequence[Thumbnail], *, title: str = "", unit: str = "rad") -> Figure:
    """Phase images side by side, each with its own colour scale.

    Args:
        pictures: at least one.
        title: of the sheet.
        unit: of the scales.
    """
    columns = min(SHEET_COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    figure = Figure(figsize=(3.1 * columns, 3.0 * rows + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis, picture in zip(axes, pictures, strict=False):
        finite = picture.pixels[np.isfinite(picture.pixels)]
        low, high = np.percentile(finite, (0.5, 99.8)) if finite.size else (0.0, 1.0)
        shown = axis.imshow(picture.pixels, cmap="viridis", vmin=low, vmax=max(high, low + 1e-6))
        bar = figure.colorbar(shown, ax=axis, shrink=0.8, pad=0.02)
        bar.ax.tick_params(labelsize=7)
        bar.set_label(unit, fontsize=7)
        axis.set_title(_shortened(picture.name), fontsize=8, parse_math=False)
        axis.set_xlabel(picture.caption, fontsize=7, parse_math=False)
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[len(pictures) :]:
        axis.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def _shortened(name: str, length: int = 38) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"
