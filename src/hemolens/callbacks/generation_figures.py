"""Pictures of a generator at work: real patches beside the ones it makes of the same noise in every validation."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hemolens.analysis.generation_figures import plot_floors, plot_samples


class GenerationPanel:
    """Real and generated patches; see :class:`hemolens.callbacks.figures.Panel`.

    Args:
        num_images: patches drawn of each kind, the first ones.
    """

    name = "samples"

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self.real: list[NDArray[np.float32]] = []
        self.fake: list[NDArray[np.float32]] = []

    def collect(self, outputs: Any, batch: Any) -> None:
        """Keep the first patches."""
        room = self.num_images - len(self.real)
        for kept, name in ((self.real, "real"), (self.fake, "fake")):
            kept.extend(outputs[name][: max(room, 0), 0].float().cpu().numpy())

    def images(self, class_names: tuple[str, ...]) -> list[Any]:
        """One picture of all."""
        import wandb

        return [wandb.Image(self._grid())] if self.real else []

    def figures(self, results: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Figure]:
        """The patches, and their distances over the floors."""
        figures = {"floors": plot_floors(results)}
        return figures | ({"samples": self._grid()} if self.real else {})

    def charts(self, results: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Any]:
        """Distances and floors as a table."""
        import wandb

        table = wandb.Table(columns=["distance", "generated", "real halves"])
        for name in [name for name in results if f"{name}_floor" in results]:
            table.add_data(name, results[name], results[f"{name}_floor"])
        return {"distances": table}

    def clear(self) -> None:
        """Forget the patches."""
        self.real, self.fake = [], []

    def _grid(self) -> Figure:
        return plot_samples(np.stack(self.real), np.stack(self.fake))
