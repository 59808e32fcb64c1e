"""Start from another run's checkpoint: refuse other classes unless asked, and say what was loaded."""

import logging
from pathlib import Path
from typing import Any

import lightning as L

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.errors import UserError
from hemolens.inference.load import read_checkpoint

log = logging.getLogger("hemolens")


def check_same_classes(checkpoint: dict[str, Any], path: str | Path, class_names: tuple[str, ...]) -> None:
    """Refuse to resume or test a checkpoint on data with other classes."""
    stored = tuple(checkpoint[KEY]["class_names"])
    if stored != tuple(class_names):
        raise UserError(
            f"{path} was trained for {len(stored)} classes ({', '.join(stored)}), the data has {len(class_names)} "
            f"({', '.join(class_names)}): add finetune=true to keep the weights and replace the head"
        )


def load_for_finetuning(task: L.LightningModule, path: str | Path) -> None:
    """Load every weight whose name and shape fit; the rest (the classifier of other classes) starts anew.

    Prints what was loaded and what was replaced. Nothing fitting at all is an error.
    """
    stored = {name: weight for name, weight in read_checkpoint(path)["state_dict"].items() if name.startswith("net.")}
    own = {name: weight for name, weight in task.state_dict().items() if name.startswith("net.")}
    fitting = {name: weight for name, weight in stored.items() if name in own and own[name].shape == weight.shape}
    if not fitting:
        raise UserError(f"no weight of {path} fits this network: choose the net it was trained with (net=…)")
    task.load_state_dict(fitting, strict=False)
    replaced = [
        f"{name} {tuple(stored[name].shape)} -> {tuple(own[name].shape)}"
        for name in stored
        if name in own and name not in fitting
    ]
    unused = sorted(set(stored) - set(own))
    new = sorted(set(own) - set(stored))
    log.info("fine-tuning from %s: loaded %d of %d tensors", path, len(fitting), len(own))
    for label, names in (
        ("replaced, starts anew", replaced),
        ("not in the checkpoint, starts anew", new),
        ("in the checkpoint, not used", unused),
    ):
        if names:
            log.info("  %s: %s", label, "; ".join(names))
