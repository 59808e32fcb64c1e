"""Records of a VOC folder, the data set, and the collate function."""

import logging

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from hemolens.data.detection import (
    DetectionDataset,
    DetectionRecord,
    collate_detection,
    load_image,
    read_voc_records,
)
from hemolens.data.sampling import SampleKey
from hemolens.data.transforms import DetectionAugmentation, DetectionTransform
from hemolens.errors import UserError
from hemolens.io.images import read_image, to_float

CLASSES = ("RBC", "WBC", "Platelets")


def edit_annotation(folder, image_id, old, new):
    path = folder / "Annotations" / f"{image_id}.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def add_box(folder, image_id, name, box):
    corners = "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    new = f"<object><name>{name}</name><bndbox>{corners}</bndbox></object></annotation>"
    edit_annotation(folder, image_id, "</annotation>", new)


def test_records_of_a_split(voc_folder, caplog):
    records = read_voc_records(voc_folder, "trainval", CLASSES)
    assert [r.image_id for r in records] == [f"smear_{i:03d}" for i in range(6)]
    first = records[0]
    assert first.image_path == voc_folder / "JPEGImages" / "smear_000.jpg" and first.size == (96, 128)
    assert first.boxes.dtype == np.float32 and first.labels.dtype == np.int64
    assert first.labels[0] == 1 and first.labels[1] == 2 and (first.labels[2:] == 0).all()
    assert not caplog.records


def test_unusable_boxes_are_counted_in_one_warning(voc_folder, caplog):
    clean = read_voc_records(voc_folder, "train", CLASSES)
    add_box(voc_folder, "smear_000", "RBC", (30, 30, 30, 30))
    add_box(voc_folder, "smear_001", "WBC", (40, 20, 30, 30))
    add_box(voc_folder, "smear_001", "RBC", (128, 10, 140, 20))
    add_box(voc_folder, "smear_002", "RBC", (-5, 90, 20, 110))
    add_box(voc_folder, "smear_003", "Blast", (1, 1, 9, 9))
    with caplog.at_level(logging.WARNING):
        records = read_voc_records(voc_folder, "train", CLASSES, unknown_labels="drop")
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    for part in (
        "train: ",
        "2 zero-area boxes dropped (smear_000, smear_001)",
        "1 boxes outside the image dropped (smear_001)",
        "1 boxes clipped to the image (smear_002)",
        "1 objects with unknown labels dropped (smear_003)",
    ):
        assert part in message
    for old, new, added in zip(clean, records, (0, 0, 1, 0), strict=True):
        np.testing.assert_array_equal(new.boxes[: len(old.boxes)], old.boxes)
        assert len(new.boxes) == len(new.labels) == len(old.boxes) + added
    np.testing.assert_array_equal(records[2].boxes[-1], [0, 90, 20, 96])


def test_long_lists_of_files_are_cut(tmp_path, voc_folder, caplog):
    for i in range(6):
        add_box(voc_folder, f"smear_{i:03d}", "RBC", (3, 3, 3, 9))
    read_voc_records(voc_folder, "trainval", CLASSES)
    assert "6 zero-area boxes dropped (smear_000, smear_001, smear_002, smear_003, smear_004 and 1 more files)" in (
        caplog.text
    )


def test_unknown_label_is_refused_with_a_remedy(voc_folder):
    add_box(voc_folder, "smear_001", "Blast", (1, 1, 9, 9))
    message = r"'Blast' first in .*smear_001\.xml\. Known are RBC, WBC, Platelets: .*unknown_labels=drop"
    with pytest.raises(UserError, match=message):
        read_voc_records(voc_folder, "train", CLASSES)
    with pytest.raises(UserError, match="choose error or drop"):
        read_voc_records(voc_folder, "train", CLASSES, unknown_labels="ignore")


def test_missing_files_are_named(voc_folder, tmp_path):
    (voc_folder / "JPEGImages" / "smear_002.jpg").unlink()
    with pytest.raises(UserError, match=r"smear_002: no image of this name, but train\.txt lists it"):
        read_voc_records(voc_folder, "train", CLASSES)
    (voc_folder / "Annotations" / "smear_004.xml").unlink()
    with pytest.raises(UserError, match=r"smear_004\.xml: no such annotation"):
        read_voc_records(voc_folder, "val", CLASSES)
    with pytest.raises(UserError, match=r"JPEGImages: no such folder"):
        read_voc_records(tmp_path, "train", CLASSES)


def test_two_images_of_one_name(voc_folder):
    Image.new("RGB", (128, 96)).save(voc_folder / "JPEGImages" / "smear_000.png")
    with pytest.raises(UserError, match=r"smear_000\.png and smear_000\.jpg have the same name"):
        read_voc_records(voc_folder, "train", CLASSES)


def test_annotation_of_another_size(voc_folder):
    edit_annotation(voc_folder, "smear_000", "<width>128</width>", "<width>256</width>")
    with pytest.raises(UserError, match=r"smear_000\.xml: drawn on 256x96 pixels, but smear_000\.jpg has 128x96"):
        read_voc_records(voc_folder, "train", CLASSES)
    edit_annotation(voc_folder, "smear_000", "<width>256</width>", "<width>0</width>")  # not stated
    assert read_voc_records(voc_folder, "train", CLASSES)[0].size == (96, 128)


def make_dataset(folder, split="train", *, image_size=None, in_channels=3, augmentation=None, **kwargs):
    return DetectionDataset(
        read_voc_records(folder, split, CLASSES),
        image_size=image_size,
        in_channels=in_channels,
        transform=DetectionTransform(augmentation),
        **kwargs,
    )


def test_sample_is_the_file(voc_folder):
    dataset = make_dataset(voc_folder)
    sample = dataset[2]
    expected = to_float(read_image(voc_folder / "JPEGImages" / "smear_002.jpg")).transpose(2, 0, 1)
    np.testing.assert_array_equal(sample["image"].numpy(), expected)
    np.testing.assert_array_equal(sample["target"]["boxes"], dataset.records[2].boxes)
    assert sample["image_id"] == "smear_002" and len(dataset) == 4
    assert torch.equal(dataset[SampleKey(7, 2)]["image"], sample["image"])  # nothing random in evaluation


def test_resized_sample(voc_folder):
    dataset = make_dataset(voc_folder, image_size=(48, 96), in_channels=1)
    sample = dataset[0]
    assert sample["image"].shape == (1, 48, 96)
    scaled = dataset.records[0].boxes * [0.75, 0.5, 0.75, 0.5]
    np.testing.assert_allclose(sample["target"]["boxes"], scaled, rtol=1e-6)


def test_draws_depend_on_seed_epoch_and_index_alone(voc_folder):
    augmentation = DetectionAugmentation(crop=1.0, crop_zoom=(1.0, 2.0), mosaic=0.5, jitter=1.0, brightness=0.3)
    dataset = make_dataset(voc_folder, augmentation=augmentation, seed=3)
    first = dataset[SampleKey(1, 0)]
    dataset[SampleKey(1, 3)]
    torch.manual_seed(99)
    again = dataset[SampleKey(1, 0)]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["target"]["boxes"], again["target"]["boxes"])
    assert not torch.equal(first["image"], dataset[SampleKey(2, 0)]["image"])
    other = make_dataset(voc_folder, augmentation=augmentation, seed=4)
    assert not torch.equal(first["image"], other[SampleKey(1, 0)]["image"])


def test_mosaic_takes_in_other_pictures(voc_folder):
    """Four flat pictures of different grey: a mosaic shows several of them, a plain sample exactly one."""
    for i in range(4):
        Image.new("RGB", (128, 96), (40 * i + 40,) * 3).save(voc_folder / "JPEGImages" / f"smear_{i:03d}.jpg")
    for probability, counts in ((0.0, {1}), (1.0, {1, 2, 3, 4})):
        dataset = make_dataset(voc_folder, augmentation=DetectionAugmentation(mosaic=probability))
        shown = [len(dataset[SampleKey(epoch, 0)]["image"].unique()) for epoch in range(20)]
        assert set(shown) <= counts and (probability == 0 or max(shown) > 2)


def test_cache_gives_the_same_samples_without_the_files(voc_folder):
    augmentation = DetectionAugmentation(rotate90=0.5, crop=0.5, crop_zoom=(0.8, 1.2), mosaic=0.3)
    settings = {"image_size": (64, 96), "augmentation": augmentation}
    plain = [make_dataset(voc_folder, **settings)[SampleKey(1, i)] for i in range(4)]
    cached = make_dataset(voc_folder, cache=True, **settings)
    for path in (voc_folder / "JPEGImages").iterdir():
        path.unlink()
    for _ in range(2):  # a transform must not write into the cache
        for i, sample in enumerate(plain):
            assert torch.equal(cached[SampleKey(1, i)]["image"], sample["image"])
            assert torch.equal(cached[SampleKey(1, i)]["target"]["boxes"], sample["target"]["boxes"])


def test_corrupt_image_is_named(voc_folder):
    path = voc_folder / "JPEGImages" / "smear_001.jpg"
    path.write_bytes(path.read_bytes()[:800])
    dataset = make_dataset(voc_folder)  # the header is whole
    with pytest.raises(UserError, match=r"smear_001\.jpg: corrupt or unreadable"):
        dataset[1]
    with pytest.raises(UserError, match=r"smear_001\.jpg: corrupt or unreadable"):
        make_dataset(voc_folder, cache=True)
    path.write_bytes(b"no header")
    with pytest.raises(UserError, match=r"smear_001\.jpg: corrupt or unreadable"):
        make_dataset(voc_folder)


def test_load_image_types(tmp_path):
    deep = np.array([[0, 65535], [256, 1]], dtype=np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", deep)
    image = load_image(tmp_path / "deep.tif", in_channels=3)
    assert image.dtype == torch.float32 and image.shape == (3, 2, 2)
    np.testing.assert_array_equal(image[1], deep.astype(np.float32) / np.float32(65535))


def flat_sample(size, value, boxes=0):
    target = {"boxes": torch.zeros(boxes, 4), "labels": torch.zeros(boxes, dtype=torch.int64)}
    return {"image": torch.full((2, *size), value), "target": target, "image_id": f"id{value}"}


def test_collate_pads_at_the_bottom_and_right():
    batch = collate_detection([flat_sample((40, 20), 1.0, 3), flat_sample((10, 65), 2.0)])
    assert batch["images"].shape == (2, 2, 64, 96) and batch["images"].dtype == torch.float32
    assert batch["image_sizes"].tolist() == [[40, 20], [10, 65]] and batch["image_sizes"].dtype == torch.int64
    assert (batch["images"][0, :, :40, :20] == 1).all() and batch["images"][0].sum() == 2 * 40 * 20
    assert (batch["images"][1, :, :10, :65] == 2).all() and batch["images"][1].sum() == 2 * 2 * 10 * 65
    assert [len(t["boxes"]) for t in batch["targets"]] == [3, 0] and batch["image_ids"] == ["id1.0", "id2.0"]
    assert collate_detection([flat_sample((32, 33), 1.0)], size_divisor=1)["images"].shape == (1, 2, 32, 33)
    assert collate_detection([flat_sample((32, 64), 1.0)])["images"].shape == (1, 2, 32, 64)


def test_record_is_plain_data():
    record = DetectionRecord("a", "a.png", (4, 4), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    dataset = DetectionDataset([record], image_size=None, in_channels=1, transform=DetectionTransform())
    with pytest.raises(UserError, match=r"a\.png: no such image file"):
        dataset[0]
