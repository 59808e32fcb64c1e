"""Pictures of a generator at work: real patches beside the ones it makes of the same noise in every validation."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hemolens.analysis.generation_figures import PHASES_SHOWN, plot_floors, plot_samples


class GenerationPanel:
    """Real and generated patches; see :class:`hemolens.callbacks.figures.Panel`.

    Args:
        num_images: patches drawn of each kind, the first ones.
    """

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

    def rows(self, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
        """What was made of each noise, the same in every run of one ``sampling_seed``, beside a real patch."""
        import wandb

        return [
            {"id": f"noise {number}", "picture": wandb.Image(_grey(fake)), "real": wandb.Image(_grey(real))}
            for number, (real, fake) in enumerate(zip(self.real, self.fake, strict=True))
        ]

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


def _grey(phase: NDArray[np.float32]) -> NDArray[np.uint8]:
    """With one scale in rad for all, as in the figures."""
    low, high = PHASES_SHOWN
    return (np.clip((phase - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
