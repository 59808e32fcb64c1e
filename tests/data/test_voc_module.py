"""The VOC data module on a tiny folder, and on the real BCCD set."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hemolens.data.modules.voc import VOCDetectionDataModule
from hemolens.errors import UserError

CLASSES = ["RBC", "WBC", "Platelets"]
EVERYTHING = {
    "horizontal_flip": 0.5,
    "vertical_flip": 0.5,
    "rotate90": 0.5,
    "crop": 0.7,
    "crop_zoom": [0.8, 1.5],
    "crop_stretch": 1.2,
    "min_area_kept": 0.4,
    "mosaic": 0.3,
    "jitter": 0.8,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
    "hue": 0.05,
}


def make(root, **kwargs):
    return VOCDetectionDataModule(**{"root": root, "class_names": CLASSES, "batch_size": 3, **kwargs})


def batches_of(module, epochs=(0, 1)):
    """All training batches of some epochs as bytes, then those of validation."""
    module.setup("fit")
    train = module.train_dataloader()
    out = []
    for epoch in epochs:
        train.sampler.set_epoch(epoch)
        out += [flatten(batch) for batch in train]
    return out + [flatten(batch) for batch in module.val_dataloader()]


def flatten(batch):
    tensors = [batch["images"], batch["image_sizes"]]
    tensors += [t[key] for t in batch["targets"] for key in ("boxes", "labels")]
    return [*batch["image_ids"], *((t.dtype, t.shape, t.numpy().tobytes()) for t in tensors)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")  # on fewer cores
def test_batches_are_the_same_for_any_number_of_workers(voc_folder):
    # large enough that torch splits a sum over the image among threads
    settings = {"augment": EVERYTHING, "image_size": [240, 320], "seed": 11}
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        expected = batches_of(make(voc_folder, **settings))
    finally:
        torch.set_num_threads(before)
    assert len(expected) == 2 * 2 + 1 and expected[:2] != expected[2:4]
    assert batches_of(make(voc_folder, **settings, cache=True)) == expected
    assert batches_of(make(voc_folder, **settings, num_workers=1)) == expected
    assert batches_of(make(voc_folder, **settings, num_workers=3, cache=True)) == expected
    assert batches_of(make(voc_folder, **{**settings, "seed": 12}))[:4] != expected[:4]


def test_batch_keeps_the_contract(voc_folder):
    module = make(voc_folder, augment=EVERYTHING, image_size=[90, 120])
    module.setup("fit")
    assert module.class_names == ("RBC", "WBC", "Platelets") and module.in_channels == 3
    for batch in module.train_dataloader():
        assert batch["images"].shape[1:] == (3, 96, 128) and batch["images"].dtype == torch.float32
        assert (batch["image_sizes"] == torch.tensor([90, 120])).all()
        assert batch["images"][:, :, 90:].sum() == batch["images"][:, :, :, 120:].sum() == 0
        assert batch["images"].min() >= 0 and batch["images"].max() <= 1
        for target in batch["targets"]:
            boxes, labels = target["boxes"], target["labels"]
            assert type(boxes) is torch.Tensor and boxes.dtype == torch.float32 and labels.dtype == torch.int64
            assert len(boxes) == len(labels) and set(labels.tolist()) <= {0, 1, 2}
            assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= torch.tensor([120, 90])).all()
            assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()


def image_ids(loader):
    return [image_id for batch in loader for image_id in batch["image_ids"]]


def test_official_splits_are_logged_and_read_once(voc_folder, caplog):
    module = make(voc_folder)
    with caplog.at_level(logging.INFO, logger="hemolens"):
        for stage in ("fit", "validate", "test", "fit"):
            module.setup(stage)
    lines = [r.getMessage() for r in caplog.records]
    assert [line.split(" (")[0].split(":")[0] for line in lines] == ["train", "val", "test"]
    boxes = sum(len(t["labels"]) for b in module.test_dataloader() for t in b["targets"])
    assert f"2 images, {boxes} boxes: {boxes - 4} RBC, 2 WBC, 2 Platelets" in lines[2]
    assert sorted(image_ids(module.train_dataloader())) == [f"smear_{i:03d}" for i in range(4)]
    assert image_ids(module.val_dataloader()) == ["smear_004", "smear_005"]
    assert image_ids(module.test_dataloader()) == ["smear_006", "smear_007"]


def test_description_and_input_for_the_checkpoint(voc_folder):
    module = make(voc_folder, image_size=(48, 64), normalize={"mean": [0, 0, 0], "std": [1, 1, 1]})
    before = module.describe("test")
    module.setup("test")
    assert module.describe("test") == before and before.startswith("2 images, ")
    assert module.input_spec() == {
        "in_channels": 3,
        "resize_hw": [48, 64],
        "normalize": {"mean": [0.0] * 3, "std": [1.0] * 3},
        "projection": None,
        "norm": None,
        "ri_window": None,
    }
    plain = make(voc_folder).input_spec()
    assert plain["resize_hw"] is None and plain["normalize"] is None


def sliced(folder, **kwargs):
    settings = {"train_split": "trainval", "val_split": None, "validation_fraction": 0.33, **kwargs}
    module = make(folder, **settings)
    module.setup("fit")
    return set(image_ids(module.train_dataloader())), image_ids(module.val_dataloader())


def test_slice_of_the_training_images_validates(voc_folder):
    train, val = sliced(voc_folder)
    assert len(train) == 4 and len(val) == 2 and not train & set(val)
    assert train | set(val) == {f"smear_{i:03d}" for i in range(6)}
    assert sliced(voc_folder, seed=5)[1] == val  # every run validates on the same images
    assert any(sliced(voc_folder, split_seed=s)[1] != val for s in range(1, 5))
    alone = make(voc_folder, train_split="trainval", val_split=None, validation_fraction=0.33)
    alone.setup("validate")
    assert image_ids(alone.val_dataloader()) == val


def test_grey_and_normalised(voc_folder):
    module = make(voc_folder, in_channels=1, normalize={"mean": [0.5], "std": [0.25]})
    module.setup("test")
    plain = make(voc_folder, in_channels=1)
    plain.setup("test")
    (batch,), (unscaled,) = module.test_dataloader(), plain.test_dataloader()
    assert batch["images"].shape == (2, 1, 96, 128)
    torch.testing.assert_close(batch["images"], (unscaled["images"] - 0.5) / 0.25)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"validation_fraction": 0.1}, "either val_split or validation_fraction"),
        ({"val_split": None}, "either val_split or validation_fraction"),
        ({"val_split": None, "validation_fraction": 1.0}, "between 0 and 1"),
        ({"class_names": ["RBC", "RBC"]}, "list of different names"),
        ({"class_names": "RBC"}, "list of different names"),
        ({"image_size": [512]}, r"image_size=\[512\]"),
        ({"augment": {"flip": 0.5}}, "augment has no key flip"),
        ({"normalize": {"mean": [0.5], "std": [0.5]}}, "3 numbers each"),
        ({"normalize": {"mean": [0.5] * 3}}, "mean and std"),
    ],
)
def test_bad_arguments(voc_folder_made_once, values, message):
    with pytest.raises(UserError, match=message):
        make(voc_folder_made_once, **values)


def test_missing_root(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such data folder; set data\.root"):
        make(tmp_path / "nowhere").setup("fit")


@pytest.fixture
def bccd_config() -> dict:
    config = yaml.safe_load((Path(__file__).parents[2] / "configs" / "data" / "bccd.yaml").read_text())
    assert config.pop("_target_") == "hemolens.data.modules.voc.VOCDetectionDataModule"
    del config["_convert_"]
    return {**config, "seed": 0}


def boxes_per_class(loader):
    labels = torch.cat([t["labels"] for batch in loader for t in batch["targets"]])
    return torch.bincount(labels, minlength=3).tolist()


def test_real_bccd_in_its_official_split(shared_data, bccd_config, caplog):
    official = {"train_split": "train", "val_split": "val", "validation_fraction": None}
    no_pixels = {"cache": False, "image_size": [24, 32], "augment": None, "batch_size": 64}
    settings = {**bccd_config, **official, **no_pixels, "root": shared_data / "bccd"}
    module = VOCDetectionDataModule(**settings)
    with caplog.at_level(logging.INFO, logger="hemolens"):
        module.setup("fit")
        module.setup("test")
    # published counts less the two boxes of zero area, both RBC
    zero = {name: sum(f"BloodImage_{i}" in w for i in ("00338", "00343")) for name, w in warnings_by_split(caplog)}
    assert sum(zero.values()) == 2
    train, val = (boxes_per_class(loader) for loader in (module.train_dataloader(), module.val_dataloader()))
    assert train == [2382 - zero.get("train", 0), 214, 209]
    assert val == [968 - zero.get("val", 0), 87, 83]
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert [line.split(",")[0] for line in lines] == [
        "train: 205 images",
        "val: 87 images",
        "test: 54 images",
    ]


def warnings_by_split(caplog):
    for record in caplog.records:
        if record.levelno == logging.WARNING:
            message = record.getMessage()
            yield message.split(", ")[1].split(":")[0], message


def test_real_bccd_as_configured(shared_data, bccd_config, caplog):
    module = VOCDetectionDataModule(**{**bccd_config, "root": shared_data / "bccd"})
    module.setup("fit")
    warnings = [message for _, message in warnings_by_split(caplog)]
    assert len(warnings) == 1
    assert "2 zero-area boxes dropped (BloodImage_00338, BloodImage_00343)" in warnings[0]
    assert len(module.train_dataloader()) == -(-263 // 4) and len(module.val_dataloader().dataset) == 29
    batch = next(iter(module.train_dataloader()))
    assert batch["images"].shape == (4, 3, 384, 512)
    assert all(np.isfinite(t["boxes"].numpy()).all() and len(t["boxes"]) for t in batch["targets"])
