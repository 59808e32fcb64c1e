"""Pictures of a network that is pretrained to reconstruct: images beside what it makes of them."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hemolens.analysis.figures import DPI

TILE_INCHES = 1.15


class ReconstructionPanel:
    """Images and their reconstructions; see :class:`hemolens.callbacks.figures.Panel`.

    Args:
        num_images: drawn, the first ones.
    """

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self.pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        self.names: list[str] = []

    def collect(self, outputs: Any, batch: Any) -> None:
        """Keep the first images."""
        room = self.num_images - len(self.pairs)
        if room > 0:
            both = (images[:room].float().cpu().numpy() for images in (batch["images"], outputs["reconstructions"]))
            self.pairs.extend(zip(*both, strict=True))
            self.names.extend(batch["image_ids"][:room])

    def images(self, class_names: tuple[str, ...]) -> list[Any]:
        """One picture of all."""
        import wandb

        return [wandb.Image(plot_reconstructions(self.pairs))] if self.pairs else []

    def rows(self, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
        """The images, what was made of them, and the mean squared error."""
        import wandb

        rows = []
        for name, pair in zip(self.names, self.pairs, strict=True):
            image, made = (wandb.Image(_levels(pixels)) for pixels in displayable_pair(*pair))
            error = float(np.mean((pair[0] - pair[1]) ** 2))
            rows.append({"id": name, "picture": image, "reconstruction": made, "squared_error": error})
        return rows

    def figures(self, results: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Figure]:
        """The images and their reconstructions."""
        return {"reconstructions": plot_reconstructions(self.pairs)} if self.pairs else {}

    def charts(self, results: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Any]:
        """None."""
        return {}

    def clear(self) -> None:
        """Forget the images."""
        self.pairs, self.names = [], []


def _levels(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (pixels * 255).round().astype(np.uint8)


def plot_reconstructions(
    pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]], *, columns: int = 8, most: int = 32
) -> Figure:
    """Images in rows, each with its reconstruction below.

    Args:
        pairs: images and reconstructions, float [C, H, W] in any range, drawn in colour where C is 3, else the first
            channel in grey; at least one, of which ``most`` are drawn.
        columns: images in a row.
    """
    pairs = pairs[:most]
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=((columns + 0.9) * TILE_INCHES, (2.1 * rows + 0.1) * TILE_INCHES), dpi=DPI)
    FigureCanvasAgg(figure)
    left = 0.85 / (columns + 0.9)
    grid = figure.add_gridspec(rows, columns, left=left, right=0.99, top=0.98, bottom=0.02, wspace=0.05, hspace=0.08)
    for number, pair in enumerate(pairs):
        row, column = divmod(number, columns)
        cells = grid[row, column].subgridspec(2, 1, hspace=0.03)
        for below, pixels in enumerate(displayable_pair(*pair)):
            axes = figure.add_subplot(cells[below])
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if column == 0:
                axes.set_ylabel(("image", "recon-\nstructed")[below], rotation=0, ha="right", va="center")
    return figure


def displayable_pair(
    image: NDArray[np.float32], made: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both [C, H, W] as [H, W, 3] or [H, W] from 0 to 1; the image's range is that of its reconstruction too.

    Where all of the image lies in [0, 1], it is shown as it is.
    """
    low, high = (0.0, 1.0) if image.min() >= 0 and image.max() <= 1 else np.percentile(image, (0.1, 99.9))
    shown = [np.moveaxis(one, 0, -1) if len(one) == 3 else one[0] for one in (image, made)]
    first, second = (np.clip((one - low) / max(high - low, 1e-12), 0, 1).astype(np.float32) for one in shown)
    return first, second
