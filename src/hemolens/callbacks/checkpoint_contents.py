"""What a checkpoint holds beside weights: everything `hemolens.load` needs, and the random state."""

import random
from typing import Any, cast

import lightning as L
import numpy as np
import torch

KEY = "hemolens"


class CheckpointContents(L.Callback):
    """Store the resolved config, class names and input description as plain data, and the random generators.

    The generators make a resumed run equal to the uninterrupted one where a network draws numbers itself
    (stochastic depth, dropout). Only tensors and plain containers are stored, so ``weights_only=True`` loads them.

    Args:
        description: plain dict with ``config``, ``class_names``, ``task``, ``input`` and ``version``.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the description and the random state."""
        _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        version, internal, gauss = random.getstate()
        checkpoint[KEY] = self.description
        loader: Any = trainer.train_dataloader
        if hasattr(loader, "state_dict"):
            checkpoint[f"{KEY}_loader"] = loader.state_dict()
        checkpoint[f"{KEY}_random"] = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, cached],
            "python": [version, list(internal), gauss],
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the random state until training starts; tests and sanity checks draw numbers before."""
        self._resume = checkpoint.get(f"{KEY}_random")
        self._loader = checkpoint.get(f"{KEY}_loader")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the loader's position and the random state of a resumed run.

        Lightning 2.6 restores the position too, except where ``trainer.estimated_stepping_batches`` (asked for by every
        schedule) has made the loader before the checkpoint was read.
        """
        position, loader = getattr(self, "_loader", None), cast(Any, trainer.train_dataloader)
        if position is not None and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(position)
            self._loader = None
        state = getattr(self, "_resume", None)
        if state is None:
            return
        torch.set_rng_state(state["torch"].cpu())
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])
        keys, index, has_gauss, cached = state["numpy"]
        np.random.set_state(("MT19937", keys.cpu().numpy().astype(np.uint32), index, has_gauss, cached))
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        self._resume = None
