"""What the data modules of phase images share: batches, parts, synthetic images, settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hemolens.data.modules.phase_images import PhaseImageDataModule
from hemolens.data.phase_images import PhaseRecord, store_phase_image
from hemolens.errors import UserError

NAMES = ("background", "a", "b", "c")


def stored(folder: Path, name: str, size: tuple[int, int], kinds: list[int], **facts: Any) -> PhaseRecord:
    """An image of squares side by side, one a kind, whose phase is the class."""
    classes = np.zeros(size, np.uint8)
    for number, kind in enumerate(kinds):
        classes[10 : 10 + 12, 4 + 16 * number : 16 + 16 * number] = kind
    about = {"name": name, "sample": "s", "donor": "d", "day": None} | facts
    instances = (classes > 0) * (1 + np.arange(size[1]) // 16)
    return store_phase_image(folder / f"{name}.npy", classes.astype(np.float32), classes, instances, about)


class StoredModule(PhaseImageDataModule):
    """Over records that lie there already."""

    def __init__(self, made: list[PhaseRecord], synthetic: list[PhaseRecord] | None = None, **options: Any) -> None:
        super().__init__(cache_dir="unused", class_names=NAMES, **({"patch_px": 48, "split": (2, 1, 1)} | options))
        self.made, self._synthetic = made, list(synthetic or [])

    def _make(self) -> dict[str, list[PhaseRecord]]:
        return self._parts(self.made)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[PhaseRecord]:
    """Eight images of four donors, two samples each; for reading only."""
    folder = tmp_path_factory.mktemp("many")
    return [
        stored(folder, f"d{donor}f{number}", (64, 70), [1, 2, 3], donor=f"d{donor}", sample=f"d{donor}s{number}")
        for donor in range(4)
        for number in range(2)
    ]


def test_loaders_give_the_batches_of_the_contract(many: list[PhaseRecord]) -> None:
    data = StoredModule(many, batch_size=4, patches_per_image=3, augment={"rotate90": 0.5})
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["images"].shape == (4, 1, 48, 48) and batch["classes"].shape == (4, 48, 48)
    assert (batch["images"].dtype, batch["classes"].dtype) == (torch.float32, torch.int64)
    assert set(batch) == {"images", "classes", "image_ids", "origins"}
    assert len(data.train_dataloader()) == 3  # 4 images of 3 patches
    names = [batch["image_ids"] for batch in data.val_dataloader()]
    assert names == [[record.name] for record in data.records("val")]
    parts = [{record.name for record in data.records(split)} for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [4, 2, 2] and len(set.union(*parts)) == 8
    assert data.class_counts("train") == {"a": 4, "b": 4, "c": 4}
    assert data.describe("val").startswith("2 images of 2 donors, 6 cells: 2 a, 2 b, 2 c")
    assert data.example_image().shape == (1, 1, 256, 256)
    assert data.input_spec() == {"phase_limits_rad": [-1.0, 5.0], "pixel_um": None, "wavelength_um": None}


@pytest.mark.parametrize(
    ("options", "count"),
    [({"synthetic_ratio": 0.5}, 6), ({"synthetic_count": 5}, 5), ({}, 2), ({"synthetic_ratio": 0}, 0)],
)
def test_shares_of_synthetic_patches(many: list[PhaseRecord], tmp_path: Path, options: dict, count: int) -> None:
    made = [stored(tmp_path, name, (48, 48), [1]) for name in ("g", "gg")]
    data = StoredModule(many, made, synthetic_dir=tmp_path, patches_per_image=3, batch_size=3, **options)
    data._records = data._make()  # the synthetic images are given here
    origins = [origin for batch in data.train_dataloader() for origin in batch["origins"]]
    assert (len(origins), origins.count("synthetic")) == (12 + count, count)
    for split in ("val", "test"):
        names = [name for batch in data._loader(split) for name in batch["image_ids"]]
        assert names == [record.name for record in data.records(split)] and not {"g", "gg"} & set(names)
    assert data.class_counts("train") == {"a": 4, "b": 4, "c": 4}  # of the others
    assert data.describe("train").endswith("; 2 synthetic images")


def test_the_same_batches_for_any_number_of_workers(many: list[PhaseRecord]) -> None:
    batches = []
    for workers in (0, 2):
        options = {"augment": {"rotate": 0.5, "rotate90": 0.5}, "patches_per_image": 2, "batch_size": 3}
        data = StoredModule(many, num_workers=workers, **options)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(2)
        batches.append(list(loader))
    assert len(batches[0]) == 3
    for one, other in zip(*batches, strict=True):
        assert one["image_ids"] == other["image_ids"]
        assert torch.equal(one["images"], other["images"]) and torch.equal(one["classes"], other["classes"])


def test_smaller_shares_of_the_training_images_are_part_of_larger_ones(many: list[PhaseRecord]) -> None:
    whole = StoredModule(many)
    names = [[record.name for record in whole.records(split)] for split in ("train", "val", "test")]
    before: set[str] = set()
    for share, count in ((0.2, 1), (0.5, 2), (0.75, 3), (1.0, 4)):
        data = StoredModule(many, train_share=share)
        found = [[record.name for record in data.records(split)] for split in ("train", "val", "test")]
        assert found[1:] == names[1:] and len(found[0]) == count
        assert before <= set(found[0]) <= set(names[0])
        before = set(found[0])
    assert found == names
    for wrong in (0.0, 1.5):
        with pytest.raises(UserError, match=r"data\.train_share"):
            StoredModule(many, train_share=wrong)


@pytest.mark.parametrize("by", ["donor", "sample"])
def test_groups_stay_together(many: list[PhaseRecord], by: str) -> None:
    for seed in range(3):
        data = StoredModule(many, split_by=by, split_seed=seed)
        groups = [{getattr(record, by) for record in data.records(split)} for split in ("train", "val", "test")]
        assert sum(map(len, groups)) == len(set.union(*groups)) == len({getattr(record, by) for record in many})
    with pytest.raises(UserError, match=r"split_by=day, but the manifest has no day of d0f0 \(8 images"):
        StoredModule(many, split_by="day").prepare_data()


def test_an_empty_part_is_said_before_training(many: list[PhaseRecord]) -> None:
    data = StoredModule(many, split=[3, 1, 0])
    data.setup("fit")
    with pytest.raises(UserError, match=r"no image in the test part.*set test=false"):
        data.setup("test")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"in_channels": 3}, r"data\.in_channels=3"),
        ({"patches": "tiles"}, r"data\.patches=tiles: choose from random"),
        ({"split_by": "bag"}, r"data\.split_by=bag: choose from image, sample, donor, day"),
        ({"split": [1, 2]}, r"data\.split=\[1, 2\]: give three numbers"),
        ({"split": [1, -1, 1]}, "three numbers"),
        ({"split": [0, 0, 0]}, "three numbers"),
        ({"patch_px": 16}, r"data\.patch_px=16.*at least 32"),
        ({"synthetic_ratio": 0.5}, r"data\.synthetic_ratio=0.5 needs data\.synthetic_dir"),
        ({"synthetic_ratio": 1, "synthetic_count": 2, "synthetic_dir": "x"}, "both given"),
        ({"synthetic_count": -1, "synthetic_dir": "x"}, "must not be negative"),
        ({"phase_limits_rad": [3]}, "phase_limits_rad"),
        ({"phase_limits_rad": [-1, 5, 9]}, "phase_limits_rad"),
        ({"phase_limits_rad": [5, -1]}, "phase_limits_rad"),
        ({"augment": {"flip": 1}}, "augment has no key flip"),
    ],
)
def test_slips_of_settings(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        StoredModule([], **options)


@pytest.mark.parametrize("names", [["a", "b"], ["background"], ["background", "a", "a"], "background"])
def test_slips_of_class_names(names: Any) -> None:
    with pytest.raises(UserError, match=r"data\.class_names"):
        PhaseImageDataModule(cache_dir="unused", class_names=names)
