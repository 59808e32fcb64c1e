"""The COCO data module against the VOC one on the same pictures."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hemolens.data.detection import read_voc_records
from hemolens.data.modules.coco import CocoDetectionDataModule
from hemolens.data.modules.voc import VOCDetectionDataModule
from hemolens.errors import UserError
from hemolens.io.atomic import write_json
from hemolens.io.coco import coco_dict
from hemolens.io.detections import ImageDetections

CLASSES = ["RBC", "WBC", "Platelets"]
SPLITS = {"train_annotations": "train", "val_annotations": "val", "test_annotations": "test"}


@pytest.fixture
def coco_folder(voc_folder: Path, tmp_path: Path) -> Path:
    """The VOC folder's splits as COCO files; its images stay where they are."""
    everything = []
    for split in SPLITS.values():
        images = []
        for record in read_voc_records(voc_folder, split, CLASSES):
            scores = np.ones(len(record.labels), np.float32)
            found = ImageDetections(record.image_path.name, *record.size, record.boxes, record.labels, scores)
            images.append(found)
        write_json(tmp_path / f"{split}.json", coco_dict(images, CLASSES))
        everything += images
    write_json(tmp_path / "all.json", coco_dict(everything, CLASSES))
    return tmp_path


def make(voc_folder: Path, **options: Any) -> CocoDetectionDataModule:
    return CocoDetectionDataModule(image_folder=voc_folder / "JPEGImages", **{"class_names": CLASSES, **options})


def separate(coco_folder: Path) -> dict[str, Path]:
    return {key: coco_folder / f"{split}.json" for key, split in SPLITS.items()}


def test_batches_equal_those_of_the_voc_folder(voc_folder: Path, coco_folder: Path) -> None:
    common: dict[str, Any] = {"augment": {"horizontal_flip": 0.5}, "image_size": [64, 96], "batch_size": 2, "seed": 3}
    ours = make(voc_folder, **separate(coco_folder), **common)
    theirs = VOCDetectionDataModule(root=voc_folder, class_names=CLASSES, **common)
    for stage, loader in (("fit", "train_dataloader"), ("fit", "val_dataloader"), ("test", "test_dataloader")):
        ours.setup(stage)
        theirs.setup(stage)
        for a, b in zip(getattr(ours, loader)(), getattr(theirs, loader)(), strict=True):
            assert a["image_ids"] == b["image_ids"]
            assert torch.equal(a["images"], b["images"])
            for x, y in zip(a["targets"], b["targets"], strict=True):
                assert torch.equal(x["labels"], y["labels"])
                torch.testing.assert_close(x["boxes"], y["boxes"], atol=2e-3, rtol=0)  # COCO keeps three decimals
    assert ours.describe("test") == theirs.describe("test")


def test_one_file_is_split_and_groups_stay_together(voc_folder: Path, coco_folder: Path) -> None:
    module = make(voc_folder, annotations=coco_folder / "all.json", split=[0.5, 0.25, 0.25], split_seed=1)
    names = {part: [r.image_id for r in module._records(part)] for part in ("train", "val", "test")}
    assert sorted(i for part in names.values() for i in part) == sorted(f"smear_{n:03d}" for n in range(8))
    assert [len(part) for part in names.values()] == [4, 2, 2]
    again = make(voc_folder, annotations=coco_folder / "all.json", split=[0.5, 0.25, 0.25], split_seed=1, seed=9)
    assert [r.image_id for r in again._records("val")] == names["val"]
    grouped = make(voc_folder, annotations=coco_folder / "all.json", group_pattern="_")
    with pytest.raises(UserError, match="1 groups cannot be split into 3 parts"):
        grouped.setup("fit")


def test_bad_boxes_are_dropped_with_one_warning(
    voc_folder: Path, coco_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = coco_folder / "train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [5, 5, 0, 7]
    content["annotations"][1]["bbox"] = [500, 500, 20, 20]
    content["annotations"][2]["bbox"][:2] = [-3, -3]
    path.write_text(json.dumps(content))
    module = make(voc_folder, **separate(coco_folder))
    with caplog.at_level(logging.WARNING):
        module.setup("fit")
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    for part in ("1 zero-area boxes dropped", "1 boxes outside the image dropped", "clipped to the image"):
        assert part in warning
    with pytest.raises(UserError, match=r"unknown labels: 'Platelets' first in .*train\.json"):
        make(voc_folder, **{**separate(coco_folder), "class_names": CLASSES[:2]}).setup("fit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": "all.json"}, "give either annotations"),
        ({"test_annotations": None}, "give either annotations"),
        ({"split": [0.5, 0.5]}, "three shares"),
        ({"train_annotations": "none.json"}, "cannot read none.json"),
    ],
)
def test_wrong_arguments(voc_folder: Path, coco_folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(voc_folder, **{**separate(coco_folder), **change}).setup("fit")


def test_missing_and_resized_images_are_named(voc_folder: Path, coco_folder: Path) -> None:
    path = coco_folder / "val.json"
    content = json.loads(path.read_text())
    content["images"][0]["width"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"val.json: drawn on 129x96 pixels"):
        make(voc_folder, **separate(coco_folder)).setup("validate")
    content["images"][0]["file_name"] = "gone.jpg"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"gone.jpg: no such file"):
        make(voc_folder, **separate(coco_folder)).setup("validate")
