"""A small diffusion GAN covers all modes of a mixture in the plane."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from hemolens.callbacks.ema import EMA
from hemolens.diffusion.schedule import DiffusionSchedule, generators
from hemolens.tasks.ddgan import DDGANTask
from hemolens.tasks.schedules import cosine


class Points(nn.Module):
    """A generator of points [B, 2, 1, 1]."""

    channels, condition_channels, latent_dim, stride = 2, 0, 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2))

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        made: Tensor = self.layers(torch.cat([x.flatten(1), t[:, None] / 3, z], 1))[:, :, None, None]
        return made


class PointJudge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(5, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))
        )

    def forward(self, x_t: Tensor, x_next: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layers(torch.cat([x_t.flatten(1), x_next.flatten(1), t[:, None] / 3], 1))[:, 0]
        return logits


class PointTask(DDGANTask):
    def images_of(self, batch: Any) -> tuple[Tensor, None]:
        return batch["images"], None


@pytest.mark.slow
def test_a_small_generator_covers_all_modes_of_a_mixture(tmp_path: Path) -> None:
    """Eight narrow Gaussians on a circle, where a plain GAN leaves some out."""
    torch.manual_seed(0)
    angles = torch.arange(8) * (2 * math.pi / 8)
    centres = 0.7 * torch.stack([angles.cos(), angles.sin()], 1)
    points = centres[torch.randint(8, (256 * 1000,))] + 0.05 * torch.randn(256 * 1000, 2)
    batches = [{"images": part[:, :, None, None], "image_ids": ["x"]} for part in points.split(256)]
    task = PointTask(
        schedule=DiffusionSchedule(),
        class_names=("background", "a"),
        net=Points(),
        discriminator=PointJudge(),
        r1_gamma=0.02,
        r1_every=5,
        optimizer=partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9)),
        scheduler=partial(cosine, warmup_steps=0),
    )
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"enable_checkpointing": False, "callbacks": [EMA(0.99)]}
    trainer = L.Trainer(accelerator="cpu", default_root_dir=tmp_path, max_epochs=3, **quiet)
    trainer.fit(task, torch.utils.data.DataLoader(batches, batch_size=None))
    made = task.sampled(generators(0, range(2000)), (1, 1))[:, :, 0, 0]
    distances = torch.cdist(made, centres)
    nearest = distances.argmin(1)
    shares = torch.bincount(nearest[distances.min(1).values < 0.2], minlength=8) / len(made)  # four deviations
    assert float(shares.sum()) > 0.6, shares  # most are near a mode, where 18 % of a disc would be
    assert float(shares.min()) > 0.04, shares  # and each mode has at least a third of its share
