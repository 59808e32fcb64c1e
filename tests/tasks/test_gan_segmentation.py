"""GAN + Watershed: both networks learn, each from its own loss; clipping is the task's own."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from hemolens.data.segmentation import collate_segmentation
from hemolens.errors import UserError
from hemolens.nets.baselines import DeepResUNet
from hemolens.nets.discriminator import PatchDiscriminator
from hemolens.tasks.gan_segmentation import GANSegmentationTask
from hemolens.tasks.schedules import cosine

NAMES = ("background", "a", "b")


def blocks(count: int = 8, side: int = 32) -> list[dict[str, Any]]:
    """Patches with a square of one of two types, the types told apart by their phase."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        classes = torch.zeros(side, side, dtype=torch.int64)
        y, x = torch.randint(2, side - 14, (2,), generator=generator).tolist()
        classes[y : y + 12, x : x + 12] = 1 + number % 2
        image = (classes.float() * 0.6 - 0.7 + 0.02 * torch.randn(side, side, generator=generator))[None]
        made.append({"image": image, "classes": classes, "image_id": f"p{number}", "origin": "acquired"})
    return made


def task(**options: Any) -> GANSegmentationTask:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "net": DeepResUNet(3, 1, widths=(8, 16, 32)),
        "discriminator": PatchDiscriminator(1, 3, width=8, stages=1),
        "class_names": NAMES,
        "optimizer": partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.999)),
        "cells": {"min_area_px": 20},
    }
    return GANSegmentationTask(**(given | options))


def fit(made: GANSegmentationTask, folder: Path, **options: Any) -> L.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    given = {"max_epochs": 1, "limit_val_batches": 0, "log_every_n_steps": 1}
    trainer = L.Trainer(accelerator="cpu", default_root_dir=folder, **(quiet | given | options))
    loader = DataLoader(blocks(), batch_size=4, collate_fn=collate_segmentation)  # type: ignore[arg-type]
    fields = [patch | {"instances": (patch["classes"] > 0).int()} for patch in blocks(2)]
    trainer.fit(made, loader, DataLoader(fields, collate_fn=collate_segmentation))  # type: ignore[arg-type]
    return trainer


def test_both_networks_are_trained_and_their_losses_logged(tmp_path: Path) -> None:
    made = task()
    before = {name: value.clone() for name, value in made.named_parameters()}
    logged = fit(made, tmp_path).callback_metrics
    moved = {name.split(".")[0] for name, value in made.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"net", "discriminator"}
    assert all(value.requires_grad for value in made.parameters())
    assert {"train/loss", "train/l1", "train/generator", "train/discriminator"} <= set(logged)
    assert float(logged["train/loss"]) == pytest.approx(
        float(logged["train/generator"] + 100 * logged["train/l1"]), rel=1e-5
    )


def test_the_discriminator_learns_from_its_own_loss_alone(tmp_path: Path) -> None:
    """The generator's step leaves no gradient in the discriminator."""
    made = task()
    gradients: list[float] = []
    step = made.optimizer_step_of

    def spy(optimizer: Any, net: Any) -> None:
        step(optimizer, net)
        if net is made.net:
            gradients.extend(float(p.grad.abs().sum()) for p in made.discriminator.parameters() if p.grad is not None)
        else:
            optimizer.zero_grad()

    made.optimizer_step_of = spy  # type: ignore[method-assign]
    fit(made, tmp_path)
    assert not any(gradients)


def test_schedules_step_once_a_batch(tmp_path: Path) -> None:
    made = task(scheduler=partial(cosine, warmup_steps=0))
    trainer = fit(made, tmp_path, max_epochs=3)
    assert made.total_steps == 6
    schedulers: Any = made.lr_schedulers()
    assert [scheduler.last_epoch for scheduler in schedulers] == [6, 6]
    assert all(group["lr"] == pytest.approx(0, abs=1e-9) for o in trainer.optimizers for group in o.param_groups)


def test_gradients_are_clipped_here(tmp_path: Path) -> None:
    made = task(gradient_clip_norm=1e-3, l1_weight=1000.0)
    fit(made, tmp_path)
    total = torch.cat([p.grad.flatten() for p in made.net.parameters() if p.grad is not None]).norm()
    assert float(total) <= 1.001e-3
    for setting in ({"gradient_clip_val": 5.0}, {"accumulate_grad_batches": 2}):
        with pytest.raises(Exception, match="not supported for manual optimization"):  # Lightning's own words
            fit(task(), tmp_path, **setting)


def test_wrong_settings() -> None:
    with pytest.raises(UserError, match=r"model\.l1_weight=-1"):
        task(l1_weight=-1)


def test_a_loss_that_is_not_finite_names_the_images(tmp_path: Path) -> None:
    made = task(net=DeepResUNet(3, 1, widths=(8, 16, 32)))
    with torch.no_grad():
        next(made.net.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=r"loss is not finite .* at epoch 0, batch 0, images p0, p1, p2, p3"):
        fit(made, tmp_path)


@pytest.mark.slow
def test_learns_a_batch_by_heart(tmp_path: Path) -> None:
    made = task()
    fit(made, tmp_path, max_epochs=60)
    batch = collate_segmentation(blocks())
    with torch.no_grad():
        found = made.eval()(batch["images"]).argmax(1)
    for kind in (1, 2):
        both = ((found == kind) & (batch["classes"] == kind)).sum()
        dice = 2 * both / ((found == kind).sum() + (batch["classes"] == kind).sum())
        assert float(dice) > 0.9
