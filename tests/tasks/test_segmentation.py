"""The segmentation task: what it trains, what it logs, and that its scores are those of the metric."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader

from hemolens.cli.app import config_dir
from hemolens.data.segmentation import collate_segmentation
from hemolens.errors import UserError
from hemolens.losses.segmentation import soft_dice_loss
from hemolens.metrics.segmentation import SegmentationScores
from hemolens.nets.baselines import DeepResUNet
from hemolens.postprocess.instances import cells_of_classes
from hemolens.tasks.segmentation import BY_TYPE, SCALARS, SegmentationTask

NAMES = ("background", "a", "b", "c")
TYPES = NAMES[1:]
SMALL_NETS = ("resunet18", "unet_s", "deeplabv3plus_s", "fcn_s", "pspnet_s", "gan_watershed_s")


class Reader(nn.Module):
    """Knows the classes by the phase, which is 0.5 x class - 1; sees multiples of 8 only."""

    stride = 8

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(30.0))

    def forward(self, images: Tensor) -> Tensor:
        assert all(side % 8 == 0 for side in images.shape[-2:])
        levels = torch.arange(4.0)[:, None, None] * 0.5 - 1
        return -self.sharpness * (images - levels).abs()


def discs(height: int, width: int, places: list[tuple[int, int, int, int]]) -> tuple[Tensor, Tensor]:
    """Classes and instances of discs (y, x, radius, class)."""
    y, x = np.mgrid[:height, :width]
    classes, instances = np.zeros((height, width), np.int64), np.zeros((height, width), np.int32)
    for number, (cy, cx, radius, kind) in enumerate(places, start=1):
        inside = (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
        classes[inside], instances[inside] = kind, number
    return torch.from_numpy(classes), torch.from_numpy(instances)


def fields() -> list[dict[str, Any]]:
    """Two fields of odd sizes: truth, and an image that says something else in places."""
    made = []
    for name, size, places in (
        ("first", (61, 90), [(20, 20, 9, 1), (20, 60, 9, 2), (45, 37, 9, 1), (45, 54, 9, 1)]),
        ("second", (50, 75), [(20, 20, 9, 1), (25, 55, 9, 2)]),
    ):
        classes, instances = discs(*size, places)
        seen = classes.clone()
        if name == "first":
            seen[:, 60:][seen[:, 60:] == 2] = 3  # half a cell of another type
        else:
            seen[25:, :30] = 0  # a cell of which the lower part is not seen
        image = (seen.float() * 0.5 - 1)[None]
        made.append({"image": image, "classes": classes, "instances": instances, "image_id": name})
    return made


def field_loader() -> DataLoader:
    return DataLoader(fields(), batch_size=1, collate_fn=collate_segmentation)  # type: ignore[arg-type]


def patches(count: int = 4, side: int = 32) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        classes = torch.randint(0, 4, (side, side), generator=generator)
        image = (classes.float() * 0.5 - 1 + 0.1 * torch.randn(side, side, generator=generator))[None]
        made.append({"image": image, "classes": classes, "image_id": f"p{number}", "origin": "acquired"})
    return made


def task(net: nn.Module | None = None, **options: Any) -> SegmentationTask:
    given = {"optimizer": partial(torch.optim.AdamW, lr=1e-2), "cells": {"min_area_px": 20}}
    return SegmentationTask(net=net or Reader(), class_names=NAMES, **(given | options))


def trainer(folder: Path, **options: Any) -> L.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(accelerator="cpu", default_root_dir=folder, **(quiet | {"log_every_n_steps": 1} | options))


def by_hand() -> dict[str, Tensor]:
    scores = SegmentationScores(4)
    for field in fields():
        seen = ((field["image"][0] + 1) * 2).round().long()
        cells = torch.from_numpy(cells_of_classes(seen.numpy(), min_area_px=20))
        scores.update(seen[None], field["classes"][None], cells[None], field["instances"][None])
    return scores.compute()


def test_a_step_changes_every_weight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = DeepResUNet(4, 1, widths=(4, 8))
    before = {name: value.clone() for name, value in net.named_parameters()}
    loader = DataLoader(patches(), batch_size=4, collate_fn=collate_segmentation)  # type: ignore[arg-type]
    running = trainer(tmp_path, max_steps=1, limit_val_batches=0, num_sanity_val_steps=0)
    running.fit(task(net), loader, field_loader())
    logged = {name: float(value) for name, value in running.callback_metrics.items()}
    assert {"train/loss", "train/cross_entropy", "train/dice"} <= set(logged)
    assert logged["train/loss"] == pytest.approx(logged["train/cross_entropy"] + logged["train/dice"], rel=1e-6)
    # a bias before a normalisation has no gradient; all others move
    still = {name for name, value in net.named_parameters() if torch.equal(value, before[name])}
    assert len(still) < len(before) / 3 and all(name.endswith("bias") for name in still), still


def test_losses_of_logits_by_hand() -> None:
    torch.manual_seed(1)
    logits, target = torch.randn(2, 4, 8, 8), torch.randint(0, 3, (2, 8, 8))
    weights = [0.5, 1.0, 2.0, 4.0]
    found = task(class_weights=weights, dice_weight=0.25).losses(logits, target)
    picked = -logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    of_pixel = torch.tensor(weights)[target]
    assert found["cross_entropy"] == pytest.approx(float((picked * of_pixel).sum() / of_pixel.sum()), rel=1e-5)
    assert found["cross_entropy"] == pytest.approx(float(cross_entropy(logits, target, torch.tensor(weights))))
    truth, shares = one_hot(target, 4).movedim(-1, 1).float(), logits.softmax(1)
    dice = [
        (2 * (shares * truth)[:, k].sum() + 1) / (shares[:, k].sum() + truth[:, k].sum() + 1) for k in range(3)
    ]  # class 3 is not there
    assert found["dice"] == pytest.approx(1 - float(sum(dice)) / 3, rel=1e-5)
    assert found["dice"] == pytest.approx(float(soft_dice_loss(logits, target)))
    assert found["loss"] == pytest.approx(float(found["cross_entropy"] + 0.25 * found["dice"]))
    plain = task().losses(logits, target)
    assert plain["cross_entropy"] == pytest.approx(float(picked.mean()), rel=1e-5)


def test_class_weights_go_with_the_checkpoint() -> None:
    weighted = task(class_weights=[1, 2, 3, 4])
    assert weighted.state_dict()["class_weight"].tolist() == [1, 2, 3, 4]
    assert "class_weight" not in task().state_dict()


def test_a_loss_that_is_not_finite_names_the_images(tmp_path: Path) -> None:
    bad = patches()
    bad[2]["image"][0, 0, 0] = float("nan")
    loader = DataLoader(bad, batch_size=2, collate_fn=collate_segmentation)  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=r"not finite .* at epoch 0, batch 1, images p2, p3: look at these files"
    ) as caught:
        trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(task(), loader, field_loader())
    assert caught.value.exit_code == 1


def test_validation_logs_the_scores_of_whole_images(tmp_path: Path) -> None:
    running, expected = trainer(tmp_path), by_hand()
    for _ in range(2):  # the second time nothing of the first is left
        (logged,) = running.validate(task(), field_loader(), verbose=False)
        names = {f"val/{kind}_{name}" for kind in ("dice", "aji") for name in TYPES}
        assert set(logged) == {"val/loss", "val/dice", "val/aji"} | names
        assert logged["val/dice"] == pytest.approx(float(expected["dice"]))
        assert logged["val/aji"] == pytest.approx(float(expected["aji"]))
        for kind in ("dice", "aji"):
            found = [logged[f"val/{kind}_{name}"] for name in TYPES]
            assert found == pytest.approx(expected[f"{kind}_skip"].tolist(), nan_ok=True)
    assert 0.2 < logged["val/dice"] < 0.99  # neither all nor nothing


def test_a_test_keeps_the_whole_result(tmp_path: Path) -> None:
    running, model, expected = trainer(tmp_path), task(), by_hand()
    (logged,) = running.test(model, field_loader(), verbose=False)
    assert set(model.test_results) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(model.test_results[name], value, equal_nan=True)
    assert set(logged) == {f"test/{name}" for name in SCALARS} | {
        f"test/{name}_{kind}" for name in BY_TYPE for kind in TYPES
    }
    for name in SCALARS:
        assert logged[f"test/{name}"] == pytest.approx(float(expected[name]), nan_ok=True)
    for name in BY_TYPE:
        found = [logged[f"test/{name}_{kind}"] for kind in TYPES]
        assert found == pytest.approx(expected[name].tolist(), nan_ok=True)
    assert model.test_scores.cells == []


def test_steps_return_the_maps_that_are_drawn() -> None:
    model = task()
    batch: Any = collate_segmentation(fields()[:1])
    with torch.no_grad():
        found = model.test_step(batch, 0)
        logits = model(batch["images"])
    assert logits.shape == (1, 4, 61, 90)  # of a size that the stride does not divide
    assert torch.equal(found["classes"], logits.argmax(1))
    expected = cells_of_classes(found["classes"][0].numpy(), min_area_px=20)
    assert np.array_equal(found["instances"][0], expected)
    assert found["instances"].dtype == torch.int32 and expected.max() == 5  # half a cell is another
    whole = task(cells={"min_area_px": 20, "split": False}).cells(batch["classes"])[0]
    assert int(whole.max()) == 3 and int(model.cells(batch["classes"])[0].max()) == 4  # two touch


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dice_weight": -1}, r"model\.dice_weight=-1"),
        ({"class_weights": [1, 2]}, r"model\.class_weights=\[1, 2\]: give 4 numbers"),
        ({"class_weights": [1, 2, 3, -1]}, "none negative"),
    ],
)
def test_slips(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        task(**options)


def small_net(name: str) -> nn.Module:
    content: Any = OmegaConf.load(config_dir() / "net" / f"{name}.yaml")
    net: nn.Module = instantiate(content, num_classes=4, in_channels=1)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_NETS)
def test_small_networks_learn_a_batch_by_heart(name: str) -> None:
    L.seed_everything(0, verbose=False)
    made = []
    for number, places in enumerate([[(18, 18, 13, 1), (46, 46, 13, 2)], [(20, 44, 14, 3), (46, 18, 14, 1)]]):
        classes, instances = discs(64, 64, places)
        image = (classes.float() * 0.5 - 1 + 0.05 * torch.randn(64, 64))[None]
        made.append({"image": image, "classes": classes, "instances": instances, "image_id": f"{number}"})
    batch: Any = collate_segmentation(made)
    model = task(small_net(name), optimizer=partial(torch.optim.AdamW, lr=3e-3), channels_last=False)
    optimizer = model.configure_optimizers()
    best = 0.0
    for step in range(1, 121):
        model.train()
        loss = model.losses(model(batch["images"]), batch["classes"])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 and best <= 0.9:
            best = eval_dice(model, batch)
        if best > 0.9:
            return
    pytest.fail(f"{name}: Dice {best:.3f} after 120 steps on the same two patches")


def eval_dice(model: SegmentationTask, batch: Any) -> float:
    model.eval()
    with torch.no_grad():
        found = model(batch["images"]).argmax(1)
    scores = SegmentationScores(4)
    scores.update(found, batch["classes"], model.cells(found), batch["instances"])
    return float(scores.compute()["dice"])
