"""Diffusion GANs: what a step does, resuming, divergence, sampling, and that a small one covers all modes."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from hemolens.callbacks.checkpoint_contents import CheckpointContents
from hemolens.callbacks.ema import EMA
from hemolens.data.sampling import batch_loader
from hemolens.data.segmentation import collate_segmentation
from hemolens.diffusion.schedule import DiffusionSchedule, generators
from hemolens.errors import UserError
from hemolens.nets.ddgan.discriminator import DDGANDiscriminator
from hemolens.nets.ddgan.generator import mask_generator, phase_generator
from hemolens.tasks.ddgan import MaskDDGANTask, PhaseDDGANTask, mask_logits, patches_of
from hemolens.tasks.schedules import cosine

NAMES = ("background", "a", "b")
TINY: dict[str, Any] = {
    "image_px": 16,
    "width": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_px": [8],
    "latent_dim": 4,
    "style_features": 8,
    "mapping_depth": 1,
}


class Blocks(torch.utils.data.Dataset):
    """Patches with a square of one of two types, the types told apart by their phase."""

    def __init__(self, count: int = 8, side: int = 16, instances: bool = False) -> None:
        self.count, self.side, self.instances = count, side, instances

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: Any) -> dict[str, Any]:
        number = getattr(key, "index", key)
        rng = torch.Generator().manual_seed(number)
        classes = torch.zeros(self.side, self.side, dtype=torch.int64)
        y, x = torch.randint(1, self.side - 8, (2,), generator=rng).tolist()
        classes[y : y + 7, x : x + 7] = 1 + number % 2
        image = (classes.float() * 0.6 - 0.7 + 0.02 * torch.randn(self.side, self.side, generator=rng))[None]
        made = {"image": image, "classes": classes, "image_id": f"p{number}", "origin": "acquired"}
        return made | ({"instances": (classes > 0).int()} if self.instances else {})


class Data(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return batch_loader(
            Blocks(), training=True, collate=collate_segmentation, batch_size=4, num_workers=0, seed=0, repeats=None
        )

    def val_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Blocks(3, 36, True), collate_fn=collate_segmentation)

    test_dataloader = val_dataloader

    def input_spec(self) -> dict[str, Any]:
        return {"phase_limits_rad": [-1.0, 5.0], "pixel_um": 0.5, "wavelength_um": None}


def options(**more: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "schedule": DiffusionSchedule(),
        "class_names": NAMES,
        "optimizer": partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.9)),
        "r1_every": 2,
    }
    return given | more


def mask_task(**more: Any) -> MaskDDGANTask:
    given = options(l1_weight=0.5, cells={"min_area_px": 4, "min_distance_px": 2}) | more
    given.setdefault("net", mask_generator(num_classes=3, in_channels=1, **TINY))
    given.setdefault("discriminator", DDGANDiscriminator(channels=3, widths=[8, 16], time_features=8))
    return MaskDDGANTask(**given)


def phase_task(**more: Any) -> PhaseDDGANTask:
    given = options(**more)
    of_mask = given.get("condition") == "mask"
    given.setdefault("net", phase_generator(num_classes=3, in_channels=1, of_mask=of_mask, **TINY))
    given.setdefault("discriminator", DDGANDiscriminator(channels=1, widths=[8, 16], time_features=8))
    return PhaseDDGANTask(**given)


def fit(task: L.LightningModule, folder: Path, *, ckpt_path: Path | None = None, **more: Any) -> L.Trainer:
    settings = {"max_epochs": 1, "limit_val_batches": 0, "log_every_n_steps": 1, "logger": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(accelerator="cpu", default_root_dir=folder, **(quiet | settings | more))
    trainer.fit(task, datamodule=Data(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_both_networks_are_trained_and_their_losses_logged(tmp_path: Path) -> None:
    task = mask_task()
    before = {name: value.clone() for name, value in task.named_parameters()}
    logged = fit(task, tmp_path).callback_metrics
    moved = {name.split(".")[0] for name, value in task.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"net", "discriminator"} and int(task.steps) == 2
    assert all(value.requires_grad for value in task.parameters())
    names = ("generator", "discriminator", "l1", "real_score", "fake_score", "r1")
    assert {f"train/{name}" for name in names} <= set(logged)


def test_the_order_of_a_step_and_where_gradients_go(tmp_path: Path) -> None:
    """Real, fake without a gradient of the generator, step, fresh pair, step of the generator alone."""
    task = mask_task(r1_gamma=0.0)
    told: list[Any] = []
    judge, denoise, step = task.discriminator.forward, task.net.forward, task.optimizer_step_of

    def judged(x_t: Tensor, *rest: Any) -> Tensor:
        told.append(("judge", x_t.requires_grad))
        return judge(x_t, *rest)

    def denoised(*inputs: Any) -> Tensor:
        told.append(("make", torch.is_grad_enabled(), inputs[0].clone()))
        return denoise(*inputs)

    def stepped(optimizer: Any, net: nn.Module) -> None:
        told.append("generator" if net is task.net else "discriminator")
        step(optimizer, net)

    task.discriminator.forward = judged  # type: ignore[method-assign]
    task.net.forward = denoised
    task.optimizer_step_of = stepped  # type: ignore[method-assign]
    fit(task, tmp_path, limit_train_batches=1)
    assert [event[:2] if isinstance(event, tuple) else event for event in told] == [
        ("judge", False),
        ("make", False),
        ("judge", False),
        "discriminator",
        ("make", True),
        ("judge", True),
        "generator",
    ]
    assert not torch.equal(told[1][2], told[4][2])  # a fresh pair


def test_the_penalty_is_lazy(tmp_path: Path) -> None:
    task = mask_task(r1_every=3)
    seen: list[bool] = []
    part = task._discriminator_part

    def spy(*inputs: Any, penalised: bool) -> dict[str, Tensor]:
        seen.append(penalised)
        found = part(*inputs, penalised=penalised)
        assert ("r1" in found) == penalised
        return found

    task._discriminator_part = spy  # type: ignore[method-assign]
    fit(task, tmp_path, max_epochs=3)
    assert seen == [True, False, False, True, False, False]


def test_chunks_are_one_batch(tmp_path: Path) -> None:
    """Two halves and one step, with draws that depend on the image alone, as one batch."""

    def after(chunks: int) -> list[Tensor]:
        torch.manual_seed(0)
        discriminator = DDGANDiscriminator(channels=3, widths=[8, 16], time_features=8, group=1)
        task = mask_task(chunks=chunks, discriminator=discriminator, r1_every=1, gradient_clip_norm=None)
        task.optimizer_factory = partial(torch.optim.SGD, lr=0.1)

        def drawn(x0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            t = x0[:, 1].mean((1, 2)).mul(1000).long() % 4
            return t, x0 * 0.5, x0 * 0.3 + 0.1, x0.flatten(1)[:, :4]

        task._pair = drawn  # type: ignore[method-assign]
        task.schedule.sample_posterior = lambda x0_hat, *_: x0_hat  # type: ignore[method-assign, misc]
        fit(task, tmp_path, limit_train_batches=1)
        return [parameter.detach() for parameter in task.parameters()]

    for one, two in zip(after(1), after(2), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match=r"model\.chunks=3 does not divide the batch of 4"):
        fit(mask_task(chunks=3), tmp_path)


class Losses(L.Callback):
    """The loss curve."""

    def __init__(self) -> None:
        self.curve: list[tuple[float, ...]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        names = ("train/generator", "train/discriminator", "train/l1")
        self.curve.append(tuple(float(trainer.logged_metrics[name]) for name in names))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")  # after the step is what is wanted
def test_a_run_resumed_at_any_step_goes_on_as_the_uninterrupted_one(tmp_path: Path) -> None:
    def run(ckpt_path: Path | None, saves: bool) -> tuple[Losses, MaskDDGANTask]:
        torch.manual_seed(0)
        task = mask_task(r1_every=3, scheduler=partial(cosine, warmup_steps=0))
        losses = Losses()
        callbacks: list[L.Callback] = [losses, EMA(0.9), CheckpointContents({"config": {}})]
        if saves:
            callbacks.append(ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=2))
        fit(task, tmp_path, ckpt_path=ckpt_path, max_epochs=3, callbacks=callbacks, enable_checkpointing=saves)
        return losses, task

    whole, end = run(None, saves=True)
    files = sorted(tmp_path.glob("*.ckpt"), key=lambda file: int(file.stem.partition("=")[2]))
    assert len(files) == len(whole.curve) == 6
    for number, file in enumerate(files[:-1], start=1):
        resumed, again = run(file, saves=False)
        assert resumed.curve == whole.curve[number:], file.name
        for (name, value), other in zip(end.state_dict().items(), again.state_dict().values(), strict=True):
            assert torch.equal(value, other), name


class Judge(nn.Module):
    """Always right, or always the same."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit, self.scale, self.calls = logit, nn.Parameter(torch.ones(1)), 0

    def forward(self, x_t: Tensor, x_next: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self.calls += 1
        sign = (1, -1, -1)[(self.calls - 1) % 3]  # real, fake, and the generator's
        return sign * self.logit * self.scale * torch.ones(len(x_t)) + 0 * x_t.mean((1, 2, 3))


@pytest.mark.parametrize(("logit", "says"), [(50.0, "knew every image"), (0.0, "said the same of every image")])
def test_a_discriminator_that_teaches_nothing_ends_the_run(tmp_path: Path, logit: float, says: str) -> None:
    task = mask_task(discriminator=Judge(logit), collapse_steps=5, r1_gamma=0.0)
    with pytest.raises(UserError, match=f"for 5 steps the discriminator {says}.*Best checkpoint so far: none yet"):
        fit(task, tmp_path, max_epochs=9)
    assert int(task.steps) == 4
    fit(mask_task(discriminator=Judge(logit), collapse_steps=0, r1_gamma=0.0), tmp_path, max_epochs=9)


def test_a_loss_that_is_not_finite_names_the_images_and_spoils_no_weights(tmp_path: Path) -> None:
    task = mask_task()
    before = [parameter.clone() for parameter in task.discriminator.parameters()]
    with torch.no_grad():
        next(task.net.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=r"loss is not finite .* at epoch 0, batch 0, images p"):
        fit(task, tmp_path)
    assert all(torch.equal(*pair) for pair in zip(before, task.discriminator.parameters(), strict=True))


def test_masks_are_judged_as_any_segmentation(tmp_path: Path) -> None:
    task = mask_task(samples=2)
    trainer = fit(task, tmp_path, limit_val_batches=3)
    assert {"val/dice", "val/aji", "val/loss"} <= set(trainer.callback_metrics)
    trainer.test(task, datamodule=Data(), verbose=False)
    assert task.test_results["types"].sum() == 3
    images = torch.randn(2, 1, 36, 20)
    with torch.no_grad():
        first, again, alone = task(images), task(images), task(images[1:])
    assert first.shape == (2, 3, 36, 20)
    assert torch.equal(first, again)
    torch.testing.assert_close(first[1:], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(first.exp().sum(1), torch.ones(2, 36, 20), atol=1.5, rtol=0)


def test_logits_of_masks_are_their_shares() -> None:
    masks = torch.tensor([[[[1.0]], [[-1.0]], [[-1.0]]], [[[0.0]], [[-0.5]], [[-0.5]]]])
    shares = mask_logits(masks).softmax(1)[:, :, 0, 0]
    torch.testing.assert_close(shares, torch.tensor([[1.0, 1e-4, 1e-4], [0.5, 0.25, 0.25]]), atol=3e-4, rtol=0)


@pytest.mark.parametrize("condition", [None, "mask"])
def test_phases_are_compared_with_real_ones(tmp_path: Path, condition: str | None) -> None:
    task = phase_task(condition=condition)
    trainer = fit(task, tmp_path, limit_val_batches=3)
    logged = trainer.callback_metrics
    assert {"val/over_floor", "val/histogram_rad", "val/spectrum_decades", "val/area_um2"} <= set(logged)
    assert float(logged["val/over_floor"]) > 1  # hardly trained
    assert "train/l1" not in logged
    trainer.test(task, datamodule=Data(), verbose=False)
    assert task.test_results["samples"] == 3 * 4  # of 36 px, 2 x 2 patches of 16


def test_made_phases_are_the_same_in_every_validation_and_depend_on_their_mask() -> None:
    task = phase_task(condition="mask").eval()
    masks = task.masks_of(torch.stack([Blocks()[0]["classes"], Blocks()[1]["classes"]]))
    assert masks.unique().tolist() == [-1, 1] and torch.equal(masks.sum(1), torch.full((2, 16, 16), -1.0))
    with torch.no_grad():
        for parameter in task.net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    first, again = (task.sampled(generators(3, [0, 0]), (16, 16), masks) for _ in range(2))
    assert torch.equal(first, again) and not torch.allclose(first[0], first[1], atol=1e-3)


def test_the_diffused_images_are_standardised_and_the_made_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, seen = phase_task(image_mean=-0.7, image_sd=0.3), []
    pair = task._pair
    monkeypatch.setattr(task, "_pair", lambda x0: seen.append(x0) or pair(x0))
    fit(task, tmp_path)
    for x0 in seen:  # background -0.7 and two types at -0.1 and 0.5
        assert x0.median() == pytest.approx(0.0, abs=0.05) and 1.5 < x0.max() < 4.5
    monkeypatch.setattr(task.net, "forward", lambda x, t, z: torch.full_like(x, 0.5))
    made = task.sampled([torch.Generator().manual_seed(0)], (16, 16))
    torch.testing.assert_close(made, torch.full((1, 1, 16, 16), 0.5))


def test_patches_are_edge_to_edge() -> None:
    image = torch.arange(2 * 5 * 7).view(2, 1, 5, 7)
    found = patches_of(image, 2)
    assert found.shape == (12, 1, 2, 2)
    assert torch.equal(found[0, 0], image[0, 0, :2, :2]) and torch.equal(found[11, 0], image[1, 0, 2:4, 4:6])
    with pytest.raises(UserError, match=r"5x7 px hold no patch of net\.image_px=6"):
        patches_of(image, 6)


@pytest.mark.parametrize(
    ("make", "wrong", "says"),
    [
        (mask_task, {"chunks": 0}, r"model\.chunks=0"),
        (mask_task, {"r1_every": 0}, r"model\.r1_every=0"),
        (mask_task, {"l1_weight": -1.0}, r"model\.l1_weight=-1"),
        (phase_task, {"image_sd": 0.0}, r"model\.image_sd=0"),
        (mask_task, {"samples": 0}, r"model\.samples=0"),
        (phase_task, {"condition": "phase"}, r"model\.condition=phase"),
        (mask_task, {"net": phase_generator(num_classes=3, in_channels=1, **TINY)}, "this task wants 3 and 1"),
        (phase_task, {"net": mask_generator(num_classes=3, in_channels=1, **TINY)}, "this task wants 1 and 0"),
    ],
)
def test_wrong_settings(make: Any, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make(**wrong)


def test_float16_with_clipping_is_refused(tmp_path: Path) -> None:
    task = mask_task(gradient_clip_norm=1.0)
    task._trainer = type("Half", (), {"precision": "16-mixed"})()  # type: ignore[assignment]
    with pytest.raises(UserError, match="bf16-mixed or 32-true"):
        task.setup("fit")
