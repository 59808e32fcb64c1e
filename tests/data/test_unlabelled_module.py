"""Pictures without labels: folders, classes, corrupt files, workers, the training device."""

import json
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from hemolens.cli.app import compose_config
from hemolens.cli.build import build_datamodule
from hemolens.data import image_folder
from hemolens.data.classification import CropSpec
from hemolens.data.image_folder import read_pixels, split_pictures
from hemolens.data.modules.unlabelled import BloodCellDataModule
from hemolens.errors import UserError
from hemolens.io.images import read_image

SPLITS = ("train", "val", "test")


def write_picture(path: Path, *, size: tuple[int, int] = (30, 36), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def pictures_made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of several kinds and sizes: 8 of class a, 8 of b (some deeper), 2 of c, 1 in no folder, hidden ones."""
    root = tmp_path_factory.mktemp("data") / "pictures"
    for number in range(8):
        write_picture(root / "a" / f"{number}.jpg", size=(30 + number, 36), seed=number)
        write_picture(root / "b" / ("deep" if number < 4 else ".") / f"{number}.png", size=(40, 28), seed=10 + number)
    for name in ("c/one.bmp", "c/two.tif", "alone.JPG", ".hidden.png", ".cache/x.png", "b/.deep/x.png"):
        write_picture(root / name, seed=len(name))
    (root / "a" / "notes.txt").write_text("no picture")
    return root


@pytest.fixture
def pictures(pictures_made_once: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(pictures_made_once, tmp_path / "pictures"))


def module(root: Path, **changes: Any) -> BloodCellDataModule:
    values = {"cache_dir": root.parent / "cache", "min_images": 4, "image_px": 16, "batch_size": 4}
    return BloodCellDataModule(root=root, **(values | {"split": (0.5, 0.25, 0.25)} | changes))


def ready(root: Path, **changes: Any) -> BloodCellDataModule:
    data = module(root, **changes)
    data.setup("fit")
    return data


def batches(data: BloodCellDataModule, split: str = "train", epoch: int = 0) -> list[Any]:
    """All batches of a split as the task gets them."""
    loader = getattr(data, f"{split}_dataloader")()
    loader.sampler.set_epoch(epoch)
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def ids(data: BloodCellDataModule, split: str) -> list[str]:
    return sorted(record.image_id for record in data.records(split))


def assert_same(first: list[Any], second: list[Any], atol: float = 0.0) -> None:
    for one, two in zip(first, second, strict=True):
        assert one["image_ids"] == two["image_ids"] and one["labels"].tolist() == two["labels"].tolist()
        for name in ("views", "targets"):
            torch.testing.assert_close(one[name], two[name], atol=atol, rtol=0)


def test_folders_are_labels_and_every_picture_is_used(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = ready(pictures)
    assert data.class_names == ("a", "b")
    assert "without a label, fewer than data.min_images=4 pictures: c (2)" in caplog.text
    assert [data.class_counts(split) for split in SPLITS] == [{"a": 4, "b": 4}, {"a": 2, "b": 2}, {"a": 2, "b": 2}]
    assert f"val: {data.describe('val')}" in caplog.text and data.describe("val").startswith("5 pictures: 2 a, 2 b, 1 ")
    everything = [name for split in SPLITS for name in ids(data, split)]
    assert len(everything) == len(set(everything)) == 19 and {"alone", "b/deep/0", "c/two"} <= set(everything)
    for split in SPLITS:
        for record in data.records(split):
            assert record.label == {"a": 0, "b": 1}.get(record.image_id.partition("/")[0], -1)


def test_training_yields_views_and_evaluation_whole_pictures(pictures: Path) -> None:
    scale = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.25, 0.2]}
    data = ready(pictures, normalize=scale)
    made = batches(data)
    assert [len(batch["image_ids"]) for batch in made] == [4, 4]  # of 9: what is left over waits for another epoch
    for batch in made:
        assert batch["views"].shape == batch["targets"].shape == (4, 2, 3, 16, 16)
        assert batch["views"].dtype == batch["targets"].dtype == torch.float32 and batch["labels"].dtype == torch.int64
        mean, std = (torch.tensor(scale[name])[:, None, None] for name in ("mean", "std"))
        pixels = torch.stack([batch["views"], batch["targets"]]) * std + mean
        assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6
        assert not torch.equal(batch["views"], batch["targets"])
    assert not torch.equal(made[0]["views"], batches(data, epoch=1)[0]["views"])
    (first, second) = batches(data, "val")
    assert len(first["image_ids"]) + len(second["image_ids"]) == 5
    spec = CropSpec.from_dict(data.input_spec())
    assert (spec.in_channels, spec.image_px, spec.crop_px, spec.mean) == (3, 16, None, (0.5, 0.4, 0.3))
    record = data.records("val")[0]
    pixels = torch.from_numpy(read_image(record.path)).permute(2, 0, 1)
    assert first["images"].shape == (4, 3, 16, 16)
    torch.testing.assert_close(first["images"][0], spec.finish(spec.square(pixels)), atol=1e-6, rtol=0)
    assert data.example_image().shape == (1, 3, 16, 16)


def test_the_split_is_fixed_by_the_files(pictures: Path) -> None:
    parts = {split: ids(ready(pictures), split) for split in SPLITS}
    assert parts == {split: ids(ready(pictures, seed=5, image_px=8, batch_size=2), split) for split in SPLITS}
    assert parts != {split: ids(ready(pictures, split_seed=1), split) for split in SPLITS}
    (pictures / "a" / "3.jpg").write_bytes(b"broken")
    after = {split: ids(ready(pictures), split) for split in SPLITS}
    assert {split: [name for name in part if name != "a/3"] for split, part in parts.items()} == after
    assert split_pictures([0, 1, 1, -1, -1, -1], (0.5, 0.25, 0.25), seed=0)["train"][:3] == [0, 1, 2]
    assert split_pictures([0] * 4, (0.5, 0.5, 0), seed=0)["test"] == []


def test_classes_can_be_chosen_or_ignored(pictures: Path) -> None:
    assert module(pictures, class_names=["c", "a"]).class_names == ("c", "a")
    nothing = ready(pictures, class_names=["unlabelled"])  # as a checkpoint of a folder without subfolders asks for
    assert nothing.class_names == ("unlabelled",) and nothing.class_counts("train") == {"unlabelled": 0}
    assert all((batch["labels"] == -1).all() for batch in batches(nothing))
    assert module(pictures, min_images=9).class_names == ("unlabelled",)
    flat = ready(pictures / "b")
    assert flat.class_names == ("deep",) and flat.class_counts("train") == {"deep": 2}
    assert ready(pictures / "a").class_names == ("unlabelled",)
    assert ready(pictures / "a").describe("val") == "2 pictures: 2 without a label"
    assert ready(pictures, split=(0.5, 0.0, 0.5)).describe("val") == "no pictures"


def test_names_stay_different(pictures: Path) -> None:
    write_picture(pictures / "a" / "3.png", seed=99)
    names = [name for split in SPLITS for name in ids(ready(pictures), split)]
    assert len(set(names)) == 20 and {"a/3.jpg", "a/3.png", "a/4"} <= set(names)


@pytest.mark.parametrize("place", ["loader", "device"])
def test_workers_change_nothing(pictures: Path, place: str) -> None:
    alone = ready(pictures, augment_on=place, batch_size=3)
    both = ready(pictures, augment_on=place, batch_size=3, num_workers=2)
    assert_same(batches(alone, epoch=2), batches(both, epoch=2))


def test_the_training_device_makes_what_the_loader_makes(pictures: Path) -> None:
    for changes in ({}, {"in_channels": 1}, {"normalize": {"mean": [0.5] * 3, "std": [0.2] * 3}, "crop_px": 24}):
        loader, device = ready(pictures, **changes), ready(pictures, augment_on="device", **changes)
        raw = next(iter(device.train_dataloader()))
        assert raw["crops"].dtype == torch.uint8
        assert_same(batches(loader), batches(device), atol=5e-5)


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_only_training_batches_change_on_the_device(pictures: Path, share: float) -> None:
    class Task(L.LightningModule):
        seen: list[tuple[str, Any]] = []  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, index: int) -> None:
            self.seen.append(("train", batch))

        def validation_step(self, batch: Any, index: int) -> None:
            self.seen.append(("val", batch))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = module(pictures, augment_on="device", batch_size=2, split=(0.75 - share, share, 0.25))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    L.Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1, accelerator="cpu", **quiet).fit(Task(), data)
    kinds = [(kind, sorted(batch)) for kind, batch in Task.seen]
    assert ("train", ["image_ids", "labels", "targets", "views"]) in kinds
    evaluated = (
        [] if share == 0 else [("val", ["image_ids", "images", "labels"])]
    )  # without validation where it has no share
    assert [kind for kind in kinds if kind[0] == "val"][:1] == evaluated and len({str(kind) for kind in kinds}) <= 2


def test_a_resumed_loader_goes_on_where_it_stopped(pictures: Path) -> None:
    data = ready(pictures, batch_size=3)
    loader = data.train_dataloader()
    whole = iter(loader)
    next(whole)
    state = loader.state_dict()
    again = ready(pictures, batch_size=3).train_dataloader()
    again.load_state_dict(state)
    assert_same(list(whole), list(again))


def test_few_pictures_make_one_small_batch(pictures: Path) -> None:
    assert [len(batch["image_ids"]) for batch in batches(ready(pictures, batch_size=50))] == [9]
    assert [len(batch["image_ids"]) for batch in batches(ready(pictures, batch_size=9))] == [9]


def test_corrupt_files_are_left_out_named_and_remembered(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (pictures / "a" / "1.jpg").read_bytes()
    (pictures / "a" / "1.jpg").write_bytes(whole[:-40])
    for name in ("a/2.jpg", "b/4.png", "b/5.png"):
        (pictures / name).write_bytes(b"broken")
    tifffile.imwrite(pictures / "c" / "two.tif", np.full((9, 9), 3.5, np.float32))
    data = ready(pictures)
    assert "5 of 19 pictures cannot be read and are left out" in caplog.text and "and 2 more" in caplog.text
    assert "a/1.jpg: corrupt or unreadable" in caplog.text and "a/2.jpg" in caplog.text
    names = {name for split in SPLITS for name in ids(data, split)}
    assert len(names) == 14 and not names & {"a/1", "a/2", "b/4", "b/5", "c/two"}
    checked: list[str] = []
    trouble = image_folder._trouble
    monkeypatch.setattr(image_folder, "_trouble", lambda path: (checked.append(path.name), trouble(path))[1])
    caplog.clear()
    assert ids(ready(pictures), "train") == ids(data, "train") and checked == []
    assert "5 of 19 pictures cannot be read" in caplog.text
    (pictures / "a" / "1.jpg").write_bytes(whole)  # repaired: looked at again, and nothing else is
    assert "a/1" in {name for split in SPLITS for name in ids(ready(pictures), split)} and checked == ["1.jpg"]
    (store,) = (pictures.parent / "cache" / "checked_images").iterdir()
    store.write_text(json.dumps({"a/0.jpg": 3}))  # damaged: everything is looked at again
    assert len(ids(ready(pictures), "train")) == len(ids(data, "train")) and len(checked) in (20, 21)


@pytest.mark.parametrize("place", ["loader", "device"])
def test_a_file_that_breaks_later_is_named(pictures: Path, place: str) -> None:
    data = ready(pictures, augment_on=place)
    for record in data.records("train"):
        record.path.write_bytes(record.path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"(jpg|png|bmp|tif|JPG): corrupt or unreadable image"):
        batches(data)


def test_bad_folders_and_settings_are_named(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty" / "below").mkdir(parents=True)
    write_picture(tmp_path / "one" / "a.png")
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "absent", {}, r"data\.root=.*absent is not a folder"),
        (tmp_path / "empty", {}, r"empty holds no picture: expected files ending in \.png"),
        (pictures, {"class_names": ["a", "d"]}, "no folder with pictures named d: its folders are a, b, c"),
        (pictures, {"class_names": ["a", "a"]}, "different names"),
        (pictures, {"split": (0.5, 0.5)}, r"data\.split=\[0\.5, 0\.5\]: give three shares"),
        (pictures, {"split": (0.5, 0.4, 0.4)}, "sum to 1"),
        (pictures, {"augment_on": "gpu"}, r"data\.augment_on=gpu: choose from loader, device"),
        (pictures, {"augment": {"noise": 0.5}}, r"augment\.noise=0\.5 is not for coloured"),
        (pictures, {"augment": {"mixup": 0.5}}, "augment has no key mixup"),
        (pictures, {"normalize": {"mean": [0.5]}}, "give mean and std, or null"),
        (pictures, {"in_channels": 2}, "in_channels=2"),
    ]
    for root, changes, words in cases:
        with pytest.raises(UserError, match=words):
            module(root, **changes)
    with pytest.raises(UserError, match="no image in the val part: add images"):
        ready(tmp_path / "one")
    (tmp_path / "one" / "a.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"none of 1 pictures can be read, the first because: .*a\.png"):
        ready(tmp_path / "one")


def test_pixels_are_read_as_they_are_stored(pictures: Path, tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/5.png", "c/two.tif"):
        pixels = read_pixels(pictures / name, 3)
        np.testing.assert_array_equal(pixels.permute(1, 2, 0), read_image(pictures / name))
        grey = read_pixels(pictures / name, 1)
        luma = read_image(pictures / name) @ np.array([0.299, 0.587, 0.114])
        assert grey.shape == (1, *pixels.shape[1:]) and np.abs(grey[0].numpy() - luma).max() < 2
    ramp = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5957
    tifffile.imwrite(tmp_path / "deep.tif", ramp)
    np.testing.assert_allclose(read_pixels(tmp_path / "deep.tif", 3), np.stack([ramp / 65535] * 3), rtol=1e-6)
    with pytest.raises(UserError, match=r"gone\.jpg: no such image file"):
        read_pixels(tmp_path / "gone.jpg", 3)


def test_eight_and_sixteen_bits_go_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(8):
        grey = rng.integers(0, 65535, (20, 20), np.uint16)
        tifffile.imwrite(tmp_path / f"{number}.tif", grey if number % 2 else (grey >> 8).astype(np.uint8))
    settings = {"in_channels": 1, "batch_size": 4, "cache_dir": tmp_path / "cache"}
    found = [batches(ready(tmp_path, augment_on=place, **settings)) for place in ("loader", "device")]
    assert_same(*found, atol=2e-5)


def test_the_config_builds_its_module(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEMOLENS_ROOT", str(tmp_path))
    words = [f"data.root={pictures}", "data=unlabelled"]
    whole, small = (build_datamodule(compose_config("train", [*words, *more])) for more in ([], ["debug=one_step"]))
    assert isinstance(whole, BloodCellDataModule) and whole.cache_dir.is_relative_to(tmp_path)
    assert (whole.two_crops.image_px, whole.batch_size, small.batch_size) == (112, 64, 2)


def test_real_blood_cells_load(shared_data: Path, tmp_path: Path) -> None:
    data = ready(shared_data / "acevedo_pbc", cache_dir=tmp_path, min_images=100, image_px=64, split=(0.8, 0.1, 0.1))
    assert data.class_names == ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
    counts = [data.class_counts(split) for split in SPLITS]
    assert [sum(part[name] for part in counts) for name in data.class_names] == [110, 108, 108, 110, 108]
    assert sum(len(data.records(split)) for split in SPLITS) == 574  # the 30 of small classes too
    assert data.describe("test").endswith(" 3 without a label")
    batch = next(iter(data.train_dataloader()))
    assert batch["views"].shape == (4, 2, 3, 64, 64)
    # stained cells are dark on light, in the views as in the crops
    assert 0.5 < float(batch["targets"].mean()) < 0.9 and 0.3 < float(batch["views"].mean()) < 0.95
    both = [batch[name].flatten(2).mean(-1).flatten() for name in ("views", "targets")]
    assert (both[0] - both[1]).abs().max() > 0.01
