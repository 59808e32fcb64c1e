"""What training by a Trainer, with our callbacks and logger, costs a step over a plain loop."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch import LightningDataModule
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness import Comparison, Options, Side
from hemolens.cli.app import compose_config
from hemolens.cli.build import build_trainer
from hemolens.data.classification import collate_classification
from hemolens.data.sampling import as_sample_key, batch_loader
from hemolens.tasks.classification import ClassificationTask

BATCH, SIDE, CLASSES, LR = 4, 8, 3, 1e-3
BAR_MS = 1.5
LOG_EVERY = 10


def comparisons(options: Options) -> Iterator[Comparison]:
    """2000 steps of a network of one small convolution."""
    steps = 30 if options.quick else 2000
    cfg = config()
    clip = float(cfg.trainer.gradient_clip_val)
    shared = {"optimizer": "SGD", "clip norm": clip, "dtype": "float32", "threads": options.threads}
    yield Comparison(
        "a step",
        Side(
            "hemolens train",
            {"callbacks": " ".join(cfg.callbacks), "logger": "csv", "log_every_n_steps": LOG_EVERY, **shared},
            trained(cfg, steps),
        ),
        Side("plain loop", {"callbacks": "none", "logger": "none", **shared}, looped(steps, clip)),
        check,
        "equal weights after the last step",
        steps=steps,
        most_extra_ms=BAR_MS,
        work={"net": f"convolution and linear, {BATCH}×1×{SIDE}×{SIDE}", "steps": steps},
    )


class Cells(Dataset[Any]):
    """Noise, in memory."""

    def __init__(self, count: int) -> None:
        self.images = torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Any) -> Any:
        index = as_sample_key(key).index
        return {"image": self.images[index], "label": index % CLASSES, "image_id": str(index)}


def loader(steps: int, *, training: bool) -> DataLoader:
    """The loader of our data modules."""
    given: dict[str, Any] = {"batch_size": BATCH, "num_workers": 0, "seed": 0}
    return batch_loader(Cells(BATCH * steps), training=training, collate=collate_classification, **given)


class Data(LightningDataModule):
    """One epoch of ``steps`` batches, and one batch to validate."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def train_dataloader(self) -> DataLoader:
        return loader(self.steps, training=True)

    def val_dataloader(self) -> DataLoader:
        return loader(1, training=False)


def small_net() -> nn.Module:
    """With equal weights in every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))


def config() -> DictConfig:
    """What ``hemolens train model=classification`` is run with, on one CPU in float32, for one epoch."""
    words = ["model=classification", "data=blood_cells", "trainer.max_epochs=1", "trainer.precision=32-true"]
    words += ["monitor.metric=val/f1_macro", "monitor.mode=max", f"trainer.log_every_n_steps={LOG_EVERY}"]
    return compose_config("train", words)


def trained(cfg: DictConfig, steps: int) -> Callable[[], list[Tensor]]:
    """A fit in a new run folder."""

    def run() -> list[Tensor]:
        net = small_net()
        names = [str(number) for number in range(CLASSES)]
        task = ClassificationTask(net=net, class_names=names, optimizer=lambda groups: torch.optim.SGD(groups, lr=LR))
        screen = io.StringIO()
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(screen),
            contextlib.redirect_stderr(screen),
        ):
            cfg.paths.run_dir = folder
            loggers = [instantiate(entry) for entry in cfg.logger.values()]
            build_trainer(cfg, loggers, {}, task=task).fit(task, datamodule=Data(steps))
            assert (Path(folder) / "metrics.csv").exists()
        return [parameter.detach() for parameter in net.parameters()]

    return run


def looped(steps: int, clip: float) -> Callable[[], list[Tensor]]:
    """The same by hand."""

    def run() -> list[Tensor]:
        net = small_net()
        optimizer = torch.optim.SGD(net.parameters(), lr=LR)
        for batch in loader(steps, training=True):
            optimizer.zero_grad()
            cross_entropy(net(batch["images"]), batch["labels"]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
        return [parameter.detach() for parameter in net.parameters()]

    return run


def check(ours: list[Tensor], peer: list[Tensor]) -> dict[str, float]:
    """The largest difference of a weight."""
    difference = float(np.max([float((a - b).abs().max()) for a, b in zip(ours, peer, strict=True)]))
    assert difference < 1e-6, difference
    return {"weights": difference}
