"""Paper B's Figures 5 and 10: generated pairs with a mask of each type, and the types in an image of the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from hemolens.analysis.segmentation_figures import color_mask, grey_levels
from hemolens.io.colors import mask_colors

CLEAR_PX = 3  # around a cell that is shown alone
MARGIN = 1.3  # side of its window over its longer side
SURFACE_PX = 48  # of the 3-D view


@dataclass(frozen=True, eq=False)
class PhaseWithClasses:
    """A phase image with its class map, both [H, W]."""

    name: str
    phase: NDArray[np.floating]
    classes: NDArray[np.integer]


def plot_generated_pairs(pairs: Sequence[PhaseWithClasses], class_names: Sequence[str]) -> Figure:
    """A row a pair: the phase, a mask of each class, and all in their colours, as Figure 5 of paper B.

    Args:
        pairs: at least one.
        class_names: background first.
    """
    titles = ["phase", *class_names, "all types"]
    figure = Figure(figsize=(1.5 * len(titles), 1.5 * len(pairs) + 0.3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(pairs), len(titles), squeeze=False)
    for row, pair in zip(axes, pairs, strict=True):
        row[0].imshow(grey_levels(pair.phase), cmap="gray", vmin=0, vmax=255)
        for label in range(len(class_names)):
            row[1 + label].imshow(pair.classes == label, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        row[-1].imshow(color_mask(pair.classes, class_names), interpolation="nearest")
        for place in row:
            place.set(xticks=[], yticks=[])
    for place, title in zip(axes[0], titles, strict=True):
        place.set_title(title, fontsize=9)
    return figure


def lone_cell(image: PhaseWithClasses, label: int) -> tuple[slice, slice] | None:
    """Window around a cell of a type, with nothing else in it; None where there is none.

    The cell is the one whose area is the median of such cells.

    Args:
        image: that it is sought in.
        label: of its class.
    """
    labels, number = ndimage.label(image.classes > 0)
    if not number:
        return None
    height, width = image.classes.shape
    found: list[tuple[int, tuple[slice, slice]]] = []
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[box] == index
        if not (image.classes[box][inside] == label).all():
            continue
        side = int(MARGIN * max(part.stop - part.start for part in box)) + 2 * CLEAR_PX
        starts = [(part.start + part.stop - side) // 2 for part in box]
        if min(starts) < 0 or starts[0] + side > height or starts[1] + side > width:
            continue
        window = slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)
        if not ((labels[window] > 0) & (labels[window] != index)).any():
            found.append((int(inside.sum()), window))
    found.sort(key=lambda entry: entry[0])
    return found[len(found) // 2][1] if found else None


def plot_data(images: Sequence[PhaseWithClasses], class_names: Sequence[str], pixel_um: float | None = None) -> Figure:
    """A cell of each type as a picture and as a surface, an image and its labels, as Figure 10 of paper B.

    Args:
        images: that the cells are taken from; the first is shown whole.
        class_names: background first.
        pixel_um: side of a pixel; None: axes are in pixels.
    """
    types, colors = class_names[1:], mask_colors(class_names)[1:]
    columns = len(types)
    cells: list[NDArray[np.floating] | None] = []
    for label in range(1, len(class_names)):
        windows = ((image, lone_cell(image, label)) for image in images)
        cells.append(next((image.phase[at].astype(float) for image, at in windows if at is not None), None))
    shown = [cell for cell in cells if cell is not None]
    low = min((float(cell.min()) for cell in shown), default=0.0)
    high = max((float(cell.max()) for cell in shown), default=1.0)
    figure = Figure(figsize=(2.4 * columns, 8.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2 * columns, height_ratios=[1, 1.2, 2])
    unit = "pixels" if pixel_um is None else "µm"
    flats = []
    for number, (name, color, phase) in enumerate(zip(types, colors, cells, strict=True)):
        place = slice(2 * number, 2 * number + 2)
        flats.append(flat := figure.add_subplot(grid[0, place]))
        flat.set_title(name, fontsize=10, color=tuple(0.8 * part / 255 for part in color))
        if phase is None:
            flat.text(0.5, 0.5, "no lone cell\nin these images", ha="center", va="center", fontsize=8)
            flat.set_axis_off()
            continue
        drawn = flat.imshow(phase, cmap="gray", vmin=low, vmax=high, extent=_extent(phase, pixel_um))
        flat.set_xlabel(unit, fontsize=7)
        flat.tick_params(labelsize=7)
        _surface(figure.add_subplot(grid[1, place], projection="3d"), phase, pixel_um, (low, high))
    if shown:
        bar = figure.colorbar(drawn, ax=flats, shrink=0.8, pad=0.01)
        bar.set_label("phase (rad)", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    first = images[0]
    for start, title, pixels in (
        (0, "phase", grey_levels(first.phase)),
        (columns, "labels", color_mask(first.classes, class_names)),
    ):
        whole = figure.add_subplot(grid[2, start : start + columns])
        whole.imshow(pixels, cmap="gray", extent=_extent(first.phase, pixel_um), interpolation="nearest")
        whole.set_title(title, fontsize=10)
        whole.set_xlabel(unit, fontsize=8)
        whole.tick_params(labelsize=8)
    return figure


def _extent(values: NDArray[Any], pixel_um: float | None) -> tuple[float, float, float, float]:
    height, width = (side * (pixel_um or 1) for side in values.shape)
    return 0, width, height, 0


def _surface(axes: Any, phase: NDArray[np.floating], pixel_um: float | None, limits: tuple[float, float]) -> None:
    """The phase as a surface over the plane."""
    step = max(1, -(-max(phase.shape) // SURFACE_PX))
    values = phase[::step, ::step]
    y, x = (np.arange(side) * step * (pixel_um or 1) for side in values.shape)
    axes.plot_surface(*np.meshgrid(x, y), values, cmap="viridis", linewidth=0, antialiased=False, rasterized=True)
    axes.set_zlim(*limits)
    axes.tick_params(labelsize=6, pad=-3)
    unit = "pixels" if pixel_um is None else "µm"
    for name, said in (("x", unit), ("y", unit), ("z", "rad")):
        getattr(axes, f"set_{name}label")(said, fontsize=6, labelpad=-8)
    axes.set_box_aspect((1, 1, 0.6))
    axes.view_init(elev=35, azim=-60)
