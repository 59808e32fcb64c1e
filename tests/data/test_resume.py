"""A Lightning run continued from a checkpoint sees the samples that the uninterrupted run saw."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import Dataset

from hemolens.data.sampling import EpochSampler, ResumableDataLoader

EPOCHS, LENGTH, BATCH = 3, 9, 2  # 5 batches an epoch, the last one short

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # the resumed run saves nothing
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


class Keys(Dataset):
    def __len__(self):
        return LENGTH

    def __getitem__(self, key):
        return torch.tensor(key)


class Recorder(LightningModule):
    """Remembers the keys of each step; its only weight depends on their order."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.seen: list[tuple[int, list]] = []
        self.validated: list[list] = []

    def training_step(self, batch, _):
        self.seen.append((self.global_step, batch.tolist()))
        return ((self.weight - batch[:, 1].double().mean()) ** 2).mean()

    def validation_step(self, batch, _):
        self.validated.append(batch[:, 1].tolist())
        self.log("val/x", batch[:, 1].double().mean(), batch_size=len(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def loader(workers, shuffle):
    return ResumableDataLoader(
        Keys(),
        sampler=EpochSampler(LENGTH, seed=5, shuffle=shuffle),
        batch_size=BATCH,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def fit(folder: Path, workers=0, ckpt_path=None, **kwargs) -> Recorder:
    module = Recorder()
    settings = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 1,
        "callbacks": [],
        "enable_checkpointing": bool(kwargs.get("callbacks")),
        "default_root_dir": folder,
    }
    trainer = Trainer(**{**settings, **kwargs})
    trainer.fit(module, loader(workers, True), loader(0, False), ckpt_path=ckpt_path, weights_only=True)
    return module


def checkpoints(folder: Path, **kwargs) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{epoch}-{step}", save_top_k=-1, **kwargs)


def assert_continues(folder: Path, whole: Recorder, workers: int, count: int) -> None:
    files = sorted(folder.glob("*.ckpt"))
    assert len(files) == count
    for file in files:
        steps_done = torch.load(file, weights_only=True)["global_step"]
        resumed = fit(folder, workers, ckpt_path=file)
        assert resumed.seen == whole.seen[steps_done:], file.name
        assert torch.equal(resumed.weight, whole.weight), file.name


@pytest.mark.parametrize(
    ("when", "count"),
    [
        ({"every_n_train_steps": 1}, 15),  # after each step: inside an epoch, and at its last batch
        ({"every_n_epochs": 1}, 3),  # after validation, which Lightning runs within the epoch
        ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, 3),
    ],
    ids=["steps", "validation", "epochs"],
)
def test_resumed_run_equals_the_uninterrupted(tmp_path, when, count):
    whole = fit(tmp_path, callbacks=[checkpoints(tmp_path, **when)])
    assert [step for step, _ in whole.seen] == list(range(15))
    for epoch in range(EPOCHS):
        keys = [tuple(key) for _, batch in whole.seen[5 * epoch : 5 * epoch + 5] for key in batch]
        assert sorted(keys) == [(epoch, i) for i in range(LENGTH)]
    assert_continues(tmp_path, whole, 0, count)


def test_with_persistent_workers(tmp_path):
    whole = fit(tmp_path, 2, callbacks=[checkpoints(tmp_path, every_n_train_steps=4)])
    assert whole.seen == fit(tmp_path, 0).seen
    assert_continues(tmp_path, whole, 2, 3)


def test_run_limited_by_steps_and_batches(tmp_path):
    limits = {"max_epochs": -1, "max_steps": 10, "limit_train_batches": 3}
    whole = fit(tmp_path, callbacks=[checkpoints(tmp_path, every_n_train_steps=1)], **limits)
    assert [batch[0][0] for _, batch in whole.seen] == [0] * 3 + [1] * 3 + [2] * 3 + [3]
    for file in sorted(tmp_path.glob("*.ckpt")):
        steps_done = torch.load(file, weights_only=True)["global_step"]
        assert fit(tmp_path, ckpt_path=file, **limits).seen == whole.seen[steps_done:], file.name


def test_validation_sees_every_image_in_order(tmp_path):
    module = fit(tmp_path)
    epoch = [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    assert module.validated == [[0, 1], *epoch * EPOCHS]  # one sanity batch first


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled")
def test_overfit_batches_repeats_the_same_samples(tmp_path):
    module = fit(tmp_path, overfit_batches=2)
    assert [[key[1] for key in batch] for _, batch in module.seen] == [[0, 1], [2, 3]] * EPOCHS
