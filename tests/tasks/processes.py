"""The same training in one process and in two, which are started once for all the cases of a test module.

Each process of two has every second sample of a batch, as hemolens' samplers deal them.
"""

import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from hemolens.data.sampling import batch_loader

Case = Callable[[str, int], dict[str, Any]]
"""``case(folder, world)`` trains in one of ``world`` processes and returns what is to be compared."""
TESTS = Path(__file__).parents[1]
LONGEST_S = 240


class Samples(torch.utils.data.Dataset):
    """Samples in memory, picked by the samplers' keys."""

    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Any) -> dict[str, Any]:
        return self.samples[key.index]


class Data(L.LightningDataModule):
    """Batches of ``batch_size`` samples over all processes."""

    def __init__(
        self, train: list[Any], val: list[Any], collate: Callable[[list[Any]], Any], *, world: int, batch_size: int = 4
    ) -> None:
        super().__init__()
        self.train, self.val = Samples(train), Samples(val)
        self.collate = self.val_collate = collate
        self.batch_size = batch_size // world

    def train_dataloader(self) -> Any:
        sizes: Any = {"batch_size": self.batch_size, "num_workers": 0, "seed": 0}
        return batch_loader(self.train, training=True, collate=self.collate, **sizes)

    def val_dataloader(self) -> Any:
        sizes: Any = {"batch_size": 1, "num_workers": 0, "seed": 0}
        return batch_loader(self.val, training=False, collate=self.val_collate, **sizes)

    def class_counts(self, split: str) -> list[int]:
        return torch.bincount(torch.tensor([sample["label"] for sample in self.train.samples])).tolist()

    def input_spec(self) -> dict[str, Any]:
        return {"phase_limits_rad": [-1.0, 5.0], "pixel_um": 0.5, "wavelength_um": None}


class Record(L.Callback):
    """What each step saw and found."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []
        self.validated: list[str] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.losses: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        mine = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        named = [(name, p) for name, p in pl_module.named_parameters() if p in mine and p.grad is not None]
        self.gradients.append({name: p.grad.clone() for name, p in named})

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(list(batch["image_ids"]))
        logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
        self.losses.append({name: value for name, value in logged.items() if name.startswith("train/")})

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.validated += batch["image_ids"]


def train(task: L.LightningModule, data: L.LightningDataModule, folder: str, world: int, **more: Any) -> dict[str, Any]:
    """Train in one of ``world`` processes, with batch statistics left alone, since those of half a batch are others."""
    record = Record()
    strategy = "ddp" if task.automatic_optimization else "ddp_find_unused_parameters_true"  # as cli.build has it
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    given: dict[str, Any] = {"max_epochs": 1, "log_every_n_steps": 1, "num_sanity_val_steps": 0} | more
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=strategy if world > 1 else "auto",
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_model_summary=False,
        callbacks=[record],
        **(quiet | given),
    )
    trainer.fit(task.eval(), datamodule=data)
    assert not task.training
    scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    kept = {name: getattr(record, name) for name in ("seen", "validated", "gradients", "losses")}
    return kept | {"scores": scores, "state": task.state_dict()}


def serve(module: str, folder: str) -> None:
    """What each of the two processes does: all cases, in their order."""
    torch.set_num_threads(1)
    for name, case in importlib.import_module(module).CASES.items():
        torch.save(case(folder, 2), f"{folder}/{name}_{os.environ['LOCAL_RANK']}.pt")


def in_two_processes(module: str, cases: dict[str, Case], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What both processes found, by case.

    Args:
        module: name of the module that has ``cases`` as ``CASES``, seen from the tests' folder.
        cases: by name.
        folder: for their results.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    code = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
    code += f"from tasks.processes import serve; serve({module!r}, {str(folder)!r})"
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment | {"LOCAL_RANK": str(rank), "NODE_RANK": "0"})
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=LONGEST_S) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return {name: [torch.load(folder / f"{name}_{rank}.pt", weights_only=True) for rank in range(2)] for name in cases}
