"""Pretraining: the loss against a literal transcription, gradients, resuming, collapse, several processes."""

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss, normalize
from torchmetrics import Metric

from hemolens.callbacks.checkpoint_contents import CheckpointContents
from hemolens.callbacks.figures import Figures
from hemolens.callbacks.ssl_figures import displayable_pair, plot_reconstructions
from hemolens.data.sampling import batch_loader
from hemolens.errors import UserError
from hemolens.metrics.features import FeatureSpread, feature_spread
from hemolens.nets.moco import MoCo
from hemolens.tasks.moco import MoCoReconstructionTask
from hemolens.tasks.schedules import cosine

TINY: dict[str, Any] = {
    "num_classes": 2,
    "in_channels": 1,
    "encoder": "test_resnet",
    "decoder_channels": (16, 16, 8, 8, 8),
    "projection_features": 8,
    "hidden_features": 16,
    "queue_size": 14,
    "momentum": 0.9,
}
SIDE = 64


def pictures(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


class Pairs(torch.utils.data.Dataset):
    """Two views of each of some pictures, and the pictures that they were made of."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: Any) -> dict[str, Any]:
        number = getattr(key, "index", key)
        targets = pictures(2, seed=number) * 0.1 + pictures(seed=100 + number)
        return {"views": targets.square(), "targets": targets, "labels": number % 2, "image_ids": f"p{number}"}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    batch = {name: [sample[name] for sample in samples] for name in samples[0]}
    tensors: dict[str, Any] = {name: torch.stack(batch[name]) for name in batch if name not in ("labels", "image_ids")}
    return batch | tensors | {"labels": torch.tensor(batch["labels"])}


def as_they_are(batches: list[dict[str, Any]]) -> Any:
    rows: Any = batches
    return torch.utils.data.DataLoader(rows, batch_size=None)


class Data(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return batch_loader(Pairs(), training=True, collate=collate, batch_size=4, num_workers=0, seed=0)

    def val_dataloader(self) -> Any:
        names = ["a", "b", "c"]
        whole = {"images": pictures(3, seed=7), "labels": torch.tensor([0, 1, -1]), "image_ids": names}
        last = {"images": pictures(1, seed=8), "labels": torch.tensor([1]), "image_ids": ["d"]}
        return as_they_are([whole, last])

    test_dataloader = val_dataloader


def task_of(net: dict[str, Any] | None = None, **more: Any) -> MoCoReconstructionTask:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "net": MoCo(**(TINY | (net or {}))),
        "class_names": ["a", "b"],
        "optimizer": partial(torch.optim.SGD, lr=0.03, momentum=0.9),
    }
    return MoCoReconstructionTask(**(given | more))


QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}


def fit(task: L.LightningModule, folder: Path, *, ckpt_path: Path | None = None, **more: Any) -> L.Trainer:
    settings = {"max_epochs": 1, "limit_val_batches": 0, "log_every_n_steps": 1, "enable_checkpointing": False}
    trainer = L.Trainer(accelerator="cpu", default_root_dir=folder, **(QUIET | settings | more))
    trainer.fit(task, datamodule=Data(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_losses_queue_and_momentum_against_a_transcription() -> None:
    """24 steps; batches of 5 do not divide the queue of 14."""
    task = task_of()
    net: MoCo = task.net
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)

    def keys_of(parameters: dict[str, np.ndarray], module: nn.Module, inputs: Tensor) -> Any:
        state = {name: torch.from_numpy(value).float() for name, value in parameters.items()}
        buffers = {name: value.clone() for name, value in module.named_buffers()}
        with torch.no_grad():
            return functional_call(module, state | buffers, (inputs,))

    def numbers(module: nn.Module) -> dict[str, np.ndarray]:
        return {name: value.detach().double().numpy().copy() for name, value in module.named_parameters()}

    encoder, projection = numbers(net.query.encoder), numbers(net.projection)  # of the momentum networks
    queue, place = list(net.queue.keys.double().numpy().copy()), 0
    for step in range(24):
        targets = pictures(5, 2, seed=step)
        views = targets.square()
        for mine, theirs in ((encoder, net.query.encoder), (projection, net.projection)):
            for name, value in numbers(theirs).items():
                mine[name] = 0.9 * mine[name] + 0.1 * value
        twin = copy.deepcopy(net)
        q, maps = twin.encode(views[:, 0])
        key_maps = keys_of(encoder, twin.query.encoder, views[:, 1])
        k = normalize(keys_of(projection, twin.projection, key_maps[-1].mean((2, 3))), dim=1).double().numpy()
        terms, hits = [], []
        for query, key in zip(q.detach().double().numpy(), k, strict=True):
            scores = [math.exp(query @ key / 0.2), *(math.exp(query @ other / 0.2) for other in queue)]
            terms.append(-math.log(scores[0] / sum(scores)))
            hits.append(scores[0] == max(scores))
        errors = [float(mse_loss(twin.reconstruct(maps), targets[:, 0]).detach())]
        errors.append(float(mse_loss(twin.reconstruct(key_maps), targets[:, 1]).detach()))
        for key in k:
            queue[place] = key
            place = (place + 1) % 14

        found = task.losses(views, targets)
        assert float(found["contrastive"].detach()) == pytest.approx(np.mean(terms), abs=1e-5)
        assert float(found["reconstruction"].detach()) == pytest.approx(np.mean(errors), abs=1e-5)
        expected = np.mean(terms) + np.mean(errors)
        assert float(found["loss"].detach()) == pytest.approx(expected, abs=2e-5)
        assert float(found["contrastive_accuracy"]) == pytest.approx(np.mean(hits))
        np.testing.assert_allclose(net.queue.keys.numpy(), np.stack(queue), atol=1e-5)
        assert int(net.queue.pointer) == place
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()


def test_where_gradients_go() -> None:
    """c and contrast reach the query encoder, c and c' the decoder, nothing the momentum networks."""
    task = task_of(temperature=0.5, contrastive_weight=2.0, reconstruction_weight=3.0)
    net: MoCo = copy.deepcopy(task.net)
    targets = pictures(4, 2, seed=1)
    views = targets.square()
    task.losses(views, targets)["loss"].backward()
    net.update_momentum()
    q, maps = net.encode(views[:, 0])
    k, key_maps = net.encode_keys(views[:, 1])
    scores = torch.cat([(q * k).sum(1, keepdim=True), q @ net.queue.keys.T], 1) / 0.5
    contrast = 2.0 * -scores.log_softmax(1)[:, 0].mean()
    own = 1.5 * (net.reconstruct(maps) - targets[:, 0]).square().mean()
    other = 1.5 * (net.reconstruct(key_maps) - targets[:, 1]).square().mean()
    groups = {"query.encoder": contrast + own, "projection": contrast}
    groups |= {"query.decoder": own + other, "query.head": own + other}
    for name, loss in groups.items():
        parameters = list(net.get_submodule(name).parameters())
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        for found, expected in zip(task.net.get_submodule(name).parameters(), gradients, strict=True):
            torch.testing.assert_close(found.grad, expected, atol=1e-5, rtol=1e-4)
    assert all(p.grad is None for name, p in task.net.named_parameters() if name.startswith("key_"))


def test_the_optimizer_has_the_query_networks_alone(tmp_path: Path) -> None:
    task = task_of()
    before = {name: value.clone() for name, value in task.net.named_parameters()}
    trainer = fit(task, tmp_path)
    optimized = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    wanted = {id(p) for part in (task.net.query, task.net.projection) for p in part.parameters()}
    assert optimized == wanted and int(task.steps) == 2
    # at the second step the momentum networks followed the first
    assert all(not torch.equal(p, before[name]) for name, p in task.net.named_parameters() if "key_projection" in name)
    names = ("loss", "contrastive", "reconstruction", "contrastive_accuracy", "feature_sd")
    assert {f"train/{name}" for name in names} <= set(trainer.callback_metrics)
    assert int(task.net.queue.pointer) == 8


class Seen(Metric):
    """What a score of features is given."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, labels: Tensor) -> None:
        self.rows.append(features)  # type: ignore[operator, union-attr]
        self.labels.append(labels)  # type: ignore[operator, union-attr]

    def compute(self) -> float:
        assert [len(part) for part in self.rows] == [3, 1]  # type: ignore[union-attr]
        return float(torch.cat(list(self.labels)).sum())  # type: ignore[arg-type]


def test_evaluation_of_plain_images(tmp_path: Path) -> None:
    task = task_of(metric=Seen())
    trainer = fit(task, tmp_path, limit_val_batches=2, callbacks=[Figures(str(tmp_path))])
    names = {"reconstruction", "feature_sd", "knn"}
    assert {f"val/{name}" for name in names} <= set(trainer.callback_metrics)
    trainer.test(task, datamodule=Data(), verbose=False)
    assert set(task.test_results) == names and task.test_results["knn"] == 1.0
    images = torch.cat([batch["images"] for batch in Data().val_dataloader()])
    with torch.no_grad():
        made, features = task.eval()(images), task.net.features(images)
        outputs = task.validation_step({"images": images, "labels": torch.zeros(4), "image_ids": []}, 0)
    torch.testing.assert_close(outputs["reconstructions"], made, atol=1e-5, rtol=1e-5)
    assert task.test_results["reconstruction"] == pytest.approx(float((made - images).square().mean()), rel=1e-4)
    assert task.test_results["feature_sd"] == pytest.approx(float(feature_spread(features)), rel=1e-4)
    assert (tmp_path / "figures" / "test_reconstructions.png").stat().st_size > 1000


def test_without_a_metric_no_neighbours(tmp_path: Path) -> None:
    trainer = fit(task_of(), tmp_path, limit_val_batches=2)
    assert "val/feature_sd" in trainer.callback_metrics and "val/knn" not in trainer.callback_metrics


def test_spread_of_features() -> None:
    same = torch.ones(5, 16)
    assert float(feature_spread(same)) == pytest.approx(0, abs=1e-6)
    even = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0)) * 7
    rows = even.double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = rows.std(axis=0).mean() * 4
    assert 0.97 < expected < 1
    assert float(feature_spread(even)) == pytest.approx(expected, rel=1e-5)
    over = FeatureSpread(16)
    for part in even.split(700):
        over.update(part)
    assert float(over.compute()) == pytest.approx(expected, rel=1e-9)


class Losses(L.Callback):
    """The loss curve."""

    def __init__(self) -> None:
        self.curve: list[tuple[float, ...]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        names = ("train/contrastive", "train/reconstruction", "train/contrastive_accuracy")
        self.curve.append(tuple(float(trainer.logged_metrics[name]) for name in names))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_resumed_at_any_step_goes_on_as_the_uninterrupted_one(tmp_path: Path) -> None:
    def run(ckpt_path: Path | None, saves: bool) -> tuple[Losses, MoCoReconstructionTask]:
        task, losses = task_of(scheduler=partial(cosine, warmup_steps=0)), Losses()
        torch.manual_seed(1 if saves else 2)
        callbacks: list[L.Callback] = [losses, CheckpointContents({"config": {}})]
        if saves:
            callbacks.append(ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1))
        fit(task, tmp_path, ckpt_path=ckpt_path, max_epochs=3, callbacks=callbacks, enable_checkpointing=saves)
        return losses, task

    whole, end = run(None, saves=True)
    files = sorted(tmp_path.glob("*.ckpt"), key=lambda file: int(file.stem.partition("=")[2]))
    assert len(files) == len(whole.curve) == 6
    for number, file in enumerate(files[:-1], start=1):
        state = torch.load(file, weights_only=True)["state_dict"]
        assert int(state["net.queue.pointer"]) == 4 * number % 14 and int(state["steps"]) == number
        resumed, again = run(file, saves=False)
        assert resumed.curve == whole.curve[number:], file.name
        for (name, value), other in zip(end.state_dict().items(), again.state_dict().values(), strict=True):
            assert torch.equal(value, other), name


def collapsed(**more: Any) -> MoCoReconstructionTask:
    """All queries are the bias of the projection."""
    task = task_of(optimizer=partial(torch.optim.SGD, lr=0.0), **more)
    nn.init.zeros_(task.net.projection[2].weight)
    return task


def test_a_collapse_ends_the_run(tmp_path: Path) -> None:
    task = collapsed(collapse_steps=3)
    says = r"for 3 steps all queries .*Lower optimizer\.lr.*net\.momentum.*Best checkpoint so far: none yet"
    with pytest.raises(UserError, match=says):
        fit(task, tmp_path, max_epochs=9)
    assert int(task.steps) == 2
    fit(collapsed(collapse_steps=0), tmp_path, max_epochs=3)
    healthy = task_of(collapse_steps=3)
    healthy.trouble.fill_(2)
    fit(healthy, tmp_path, max_epochs=3)
    assert int(healthy.trouble) == 0


def test_a_loss_that_is_not_finite_names_the_images(tmp_path: Path) -> None:
    task = task_of()
    with torch.no_grad():
        task.net.query.head.bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"loss is not finite .*reconstruction.* at epoch 0, batch 0, images p"):
        fit(task, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"temperature": 0.0}, r"model\.temperature=0\.0"),
        ({"contrastive_weight": -1.0}, r"model\.contrastive_weight=-1"),
        ({"reconstruction_weight": -1.0}, r"model\.reconstruction_weight=-1"),
        ({"collapse_steps": -1}, r"model\.collapse_steps=-1"),
        ({"draw_seed": -1}, r"model\.draw_seed=-1"),
    ],
)
def test_wrong_settings(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        task_of(**wrong)


def test_pictures_share_the_range_of_the_image() -> None:
    image, made = np.zeros((1, 4, 4), np.float32), np.full((1, 4, 4), 2.0, np.float32)
    image[0, 0, 0] = 0.5
    shown, beside = displayable_pair(image, made)  # in [0, 1]: as it is
    assert shown.shape == (4, 4) and shown[0, 0] == 0.5 and (beside == 1).all()
    wide = np.linspace(-3, 5, 48, dtype=np.float32).reshape(3, 4, 4)
    shown, beside = displayable_pair(wide, wide)
    assert shown.shape == (4, 4, 3) and shown.min() == 0 and shown.max() == 1 and (shown == beside).all()
    assert len(plot_reconstructions([(wide, wide)] * 3, columns=2).axes) == 6
