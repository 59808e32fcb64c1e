"""Pictures of single cells: cutting, scaling, folders a class, simulated white cells, real Acevedo pictures."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hemolens.data.classification import CropDataset, CropRecord, CropSpec
from hemolens.data.modules.cell_folder import CellFolderDataModule
from hemolens.data.modules.sim_white_cells import SimulatedWhiteCellsDataModule, window_around
from hemolens.data.planes import map_planes
from hemolens.data.sampling import SampleKey
from hemolens.data.simulation.run import FieldStore, data_set_folder
from hemolens.data.simulation.truth import load_arrays
from hemolens.data.transforms import DetectionAugmentation
from hemolens.errors import UserError


def test_the_middle_square_is_cut_and_kept_at_its_scale() -> None:
    image = torch.arange(6 * 9, dtype=torch.float32).reshape(1, 6, 9)
    cut = CropSpec(in_channels=1, image_px=4, crop_px=4).square(image)
    np.testing.assert_array_equal(cut[0], image[0, 1:5, 2:6])  # 5 columns to spare: 2 left, 3 right
    whole = CropSpec(in_channels=1, image_px=6).square(image)
    np.testing.assert_array_equal(whole[0], image[0, :, 2:8])


def test_a_picture_smaller_than_the_square_is_continued_by_its_border() -> None:
    image = torch.tensor([[[1, 2], [3, 4]]], dtype=torch.uint8)
    cut = CropSpec(in_channels=1, image_px=4, crop_px=4).square(image)
    assert cut[0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


def test_values_are_scaled_as_asked() -> None:
    image = torch.tensor([[[10, 60], [110, 35]]], dtype=torch.uint8)
    plain = CropSpec(in_channels=1, image_px=2).finish(image)
    torch.testing.assert_close(plain, image / 255)
    stretched = CropSpec(in_channels=1, image_px=2, minmax=True).finish(image)
    torch.testing.assert_close(stretched, (image - 10) / 100)
    normal = CropSpec(in_channels=1, image_px=2, mean=(0.5,), std=(0.25,)).finish(image)
    torch.testing.assert_close(normal, (image / 255 - 0.5) / 0.25)
    flat = CropSpec(in_channels=1, image_px=2, minmax=True).finish(torch.full((1, 2, 2), 7, dtype=torch.uint8))
    assert not flat.any()


def test_flips_and_turns_only_move_pixels_and_repeat_with_the_epoch(cell_folder: Path) -> None:
    record = CropRecord("one", 2, sorted((cell_folder / "WBC").iterdir())[0])
    augmentation = DetectionAugmentation(horizontal_flip=0.5, vertical_flip=0.5, rotate90=0.75)
    data = CropDataset([record], spec=CropSpec(image_px=40), augmentation=augmentation, seed=1)
    plain = CropDataset([record], spec=CropSpec(image_px=40))[0]["image"]
    positions = set()
    for epoch in range(40):
        sample = data[SampleKey(epoch, 0)]
        assert sample["label"] == 2 and sample["image_id"] == "one"
        image = sample["image"]
        same = [
            (turns, flip)
            for turns in range(4)
            for flip in (False, True)
            if torch.equal(torch.rot90(plain.flip(-1) if flip else plain, turns, (-2, -1)), image)
        ]
        assert len(same) == 1
        positions.add(same[0])
    assert len(positions) == 8
    torch.testing.assert_close(data[SampleKey(7, 0)]["image"], data[SampleKey(7, 0)]["image"], rtol=0, atol=0)


def module(root: Path, **changes: object) -> CellFolderDataModule:
    values: dict = {"min_images": 4, "image_px": 32, "batch_size": 4, "split": (0.5, 0.25, 0.25)}
    return CellFolderDataModule(root=root, **{**values, **changes})


def test_folders_are_classes_and_each_part_holds_all(cell_folder: Path) -> None:
    data = module(cell_folder)
    data.setup("fit")
    assert data.class_names == ("Platelets", "RBC", "WBC")
    assert [data.class_counts(split) for split in ("train", "val", "test")] == [[4] * 3, [2] * 3, [2] * 3]
    seen = [
        name
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        for name in ids(loader)
    ]
    assert len(seen) == len(set(seen)) == 24
    assert data.describe("val") == "6 pictures: 2 Platelets, 2 RBC, 2 WBC"
    batch = next(iter(data.val_dataloader()))
    assert batch["images"].shape == (4, 3, 32, 32) and batch["images"].dtype == torch.float32
    for name, label in zip(batch["image_ids"], batch["labels"].tolist(), strict=True):
        assert name.startswith(data.class_names[label] + "/")


def ids(loader: torch.utils.data.DataLoader) -> list[str]:
    return [name for batch in loader for name in batch["image_ids"]]


def test_the_split_stays_when_the_seed_of_training_changes(cell_folder: Path) -> None:
    parts = []
    for changes in ({"seed": 0}, {"seed": 9}, {"split_seed": 1}):
        data = module(cell_folder, **changes)
        data.setup("test")
        parts.append(ids(data.test_dataloader()))
    assert parts[0] == parts[1] and set(parts[0]) != set(parts[2])


def test_a_group_is_in_one_part(cell_folder: Path) -> None:
    data = module(cell_folder, group_pattern="_")
    data.setup("fit")
    groups = [
        {name.partition("/")[2].split("_")[0] for name in ids(loader)}
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    ]
    assert [len(part) for part in groups] == [2, 1, 1] and len(set.union(*groups)) == 4
    assert any("one donor" in line for line in module(cell_folder).limits)
    assert not any("one donor" in line for line in data.limits)


def test_small_and_unwanted_classes_are_left_out_and_named(cell_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for path in sorted((cell_folder / "RBC").iterdir())[2:]:
        path.unlink()
    (cell_folder / "empty").mkdir()
    assert module(cell_folder).class_names == ("Platelets", "WBC")
    assert "fewer than data.min_images=4 pictures: RBC (2)" in caplog.text
    caplog.clear()
    assert module(cell_folder, class_names=["WBC", "Platelets"]).class_names == ("WBC", "Platelets")
    assert "not in data.class_names: RBC (2)" in caplog.text


def test_bad_folders_and_classes_are_named(cell_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty" / "class").mkdir(parents=True)
    for root, changes, message in (
        (tmp_path / "absent", {}, r"data\.root=.*absent is not a folder"),
        (tmp_path / "empty", {}, r"empty holds no class folder with pictures.*\.png"),
        (cell_folder, {"min_images": 9}, r"at least two classes.*RBC \(8\).*min_images"),
        (cell_folder, {"class_names": ["WBC"]}, "at least two classes"),
        (cell_folder, {"class_names": ["WBC", "blast"]}, "no pictures of blast: its classes are Platelets, RBC, WBC"),
        (cell_folder, {"augment": {"mosaic": 0.5}}, "mosaic"),
        (cell_folder, {"augment": {"flip": 0.5}}, "augment has no key flip"),
        (cell_folder, {"normalize": {"mean": [0.5], "std": [0.5]}}, "1 values for 3 channels"),
        (cell_folder, {"in_channels": 2}, "in_channels=2"),
    ):
        with pytest.raises(UserError, match=message):
            module(root, **changes)
    (cell_folder / "WBC" / "s00_c000.png").write_bytes(b"no picture")
    data = module(cell_folder)
    data.setup("fit")
    with pytest.raises(UserError, match=r"s00_c000\.png"):
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            list(loader)


def test_grey_and_colour_pictures_meet_the_channels_asked_for(cell_folder: Path) -> None:
    path = sorted((cell_folder / "RBC").iterdir())[0]
    colour = np.asarray(Image.open(path))
    Image.fromarray(colour[..., 0]).save(cell_folder / "grey.tif")
    grey = CropDataset([CropRecord("g", 0, cell_folder / "grey.tif")], spec=CropSpec(image_px=40))[0]["image"]
    assert grey.shape == (3, 40, 40) and torch.equal(grey[0], grey[2])
    luma = CropDataset([CropRecord("c", 0, path)], spec=CropSpec(in_channels=1, image_px=40))[0]["image"]
    expected = np.rint(colour[:, 3:43] @ np.array([0.299, 0.587, 0.114])) / 255
    np.testing.assert_allclose(luma[0], expected, atol=1.5 / 255)


def test_windows_lie_inside_the_field() -> None:
    assert window_around(np.array([10, 20, 30, 44]), 16, (100, 80)) == (24, 12, 16, 16)
    assert window_around(np.array([0, 90, 6, 100]), 16, (100, 80)) == (84, 0, 16, 16)


def white_cells(cache_dir: Path, **changes: object) -> SimulatedWhiteCellsDataModule:
    values: dict = {
        "field_px": (160, 192),
        "crop_px": 96,
        "image_px": 96,
        "n_samples": 3,
        "fields_per_sample": 3,
        "split": (0.34, 0.33, 0.33),
        "in_channels": 1,
        "minmax": True,
        "blood": {
            "wbc_fraction": 0.9,
            "white_cells": {  # as many of each, and small enough for a thin stack
                "kind_fractions": {"neutrophil": 0.4, "lymphocyte": 0.3, "monocyte": 0.3},
                "monocyte_diameter_um": [7.0, 9.0],
            },
        },
        "placement": {"density_per_mm2": 15000.0, "border_probability": 0.2, "focus_above_glass_um": 3.0},
        "tomography": {"slices": 20, "margin_slices": 4, "axial_oversampling": 2},
        "simulation_workers": 1,
    }
    return SimulatedWhiteCellsDataModule(cache_dir=cache_dir, **{**values, **changes})


def test_simulated_white_cells_are_windows_of_the_fields(tmp_path: Path) -> None:
    data = white_cells(tmp_path)
    data.setup("fit")
    store = FieldStore(data_set_folder(data.plan, tmp_path))
    samples = {}
    for split, loader in (
        ("train", data.train_dataloader()),
        ("val", data.val_dataloader()),
        ("test", data.test_dataloader()),
    ):
        samples[split] = {name.split("_")[0] for name in ids(loader)}
    assert not samples["train"] & samples["val"] and not samples["val"] & samples["test"]
    checked = 0
    for batch in data.val_dataloader():
        for image, label, name in zip(batch["images"], batch["labels"].tolist(), batch["image_ids"], strict=True):
            field, _, number = name.rpartition("_c")
            arrays = load_arrays(store.truth(field), ("instance_id", "kind", "boxes", "visible_fraction"))
            cell = arrays["instance_id"].tolist().index(int(number))
            assert arrays["kind"][cell] == data.class_names[label] and arrays["visible_fraction"][cell] == 1
            top, left, *_ = window_around(arrays["boxes"][cell], 96, (160, 192))
            crop = map_planes(store.truth(field)).values("maximum")[top : top + 96, left : left + 96]
            np.testing.assert_allclose(image[0], (crop - crop.min()) / (crop.max() - crop.min()), atol=1e-4)
            checked += 1
    assert checked == sum(data.class_counts("val")) > 2
    written = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz"))
    again = white_cells(tmp_path, class_names=["neutrophil", "lymphocyte"])
    again.setup("fit")  # the same fields, fewer classes
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")) == written
    assert again.class_counts("val") == data.class_counts("val")[::-2]


def test_simulated_white_cells_refuse_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"knows no basophil; it has lymphocyte, monocyte, neutrophil"):
        white_cells(tmp_path, class_names=["basophil", "monocyte"])
    with pytest.raises(UserError, match=r"crop_px=161 is more than field_px=\[160, 192\]"):
        white_cells(tmp_path, crop_px=161, field_px=[160, 192])
    with pytest.raises(UserError, match=r"data\.tomography has no key slice"):
        white_cells(tmp_path, tomography={"slice": 3})


def test_real_acevedo_pictures_load_with_the_right_counts(shared_data: Path, tmp_path: Path) -> None:
    data = CellFolderDataModule(root=shared_data / "acevedo_pbc", min_images=100, image_px=64, split=(0.7, 0.15, 0.15))
    data.setup("fit")
    assert data.class_names == ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
    total = np.sum([data.class_counts(split) for split in ("train", "val", "test")], axis=0)
    assert total.tolist() == [110, 108, 108, 110, 108]
    assert data.class_counts("test") == [16] * 5
    batch = next(iter(data.train_dataloader()))
    assert batch["images"].shape == (16, 3, 64, 64)
    assert 0 <= float(batch["images"].min()) < 0.4 < 0.7 < float(batch["images"].max()) <= 1
    prefixes = {"BA": 0, "EO": 1, "LY": 2, "MO": 3}  # the set's own names say the class; neutrophils have several
    for name, label in zip(batch["image_ids"], batch["labels"].tolist(), strict=True):
        assert prefixes.get(name.partition("/")[2].split("_")[0], 4) == label
    one = shutil.copytree(shared_data / "acevedo_pbc" / "ig", tmp_path / "set" / "ig")
    assert len(list(one.iterdir())) == 10
    with pytest.raises(UserError, match="at least two classes"):
        CellFolderDataModule(root=tmp_path / "set", min_images=5)
