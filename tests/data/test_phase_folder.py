"""A lab's own folder of phase images and masks, in the formats that labs have."""

import csv
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from hemolens.data.modules.holograms import HologramDataModule
from hemolens.data.phase_images import CLASSES, INSTANCES, PHASE, map_phase_image
from hemolens.errors import UserError
from hemolens.io.labels import write_labels
from hemolens.io.phase import PhaseImage, write_phase

NAMES = ["background", "discocyte", "spherocyte"]
SIZE = (60, 90)


def field(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A phase and its classes: two discs of class 1 that touch, one of class 2 beside them."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    classes = np.zeros(SIZE, np.uint8)
    for cy, cx, kind in ((25, 25, 1), (25, 49, 1), (40 + seed, 70, 2)):
        classes[(y - cy) ** 2 + (x - cx) ** 2 <= 13**2] = kind
    noise = np.random.default_rng(seed).normal(0, 0.05, SIZE)
    return (classes + noise).astype(np.float32), classes


def write(root: Path, name: str, seed: int, *, phase: str = ".ome.tif", mask: str = ".ome.tif", **scale: Any) -> None:
    """A phase image and its mask as files of these kinds."""
    values, classes = field(seed)
    for folder in ("phase", "classes"):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    target = root / "phase" / f"{name}{phase}"
    if phase == ".ome.tif":
        write_phase(target, PhaseImage(values, **({"pixel_um": 0.144, "wavelength_um": 0.666} | scale)))
    elif phase == ".npy":
        np.save(target, values.astype(np.float64))
    else:
        tifffile.imwrite(target, values)
    target = root / "classes" / f"{name}{mask}"
    if mask == ".ome.tif":
        write_labels(target, classes)
    elif mask == ".tif":
        tifffile.imwrite(target, classes)
    else:
        picture = Image.fromarray(classes)
        if mask == ".PNG":  # numbers of a palette, whose colours are another matter
            picture = picture.convert("P")
            picture.putdata(classes.ravel().tolist())
            picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        picture.save(target)


def manifest(root: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def module(root: Path, **options: Any) -> HologramDataModule:
    given: dict[str, Any] = {"class_names": NAMES, "cache_dir": root.parent / "cache", "patch_px": 32, "manifest": None}
    return HologramDataModule(root=root, **(given | {"split": [2, 1, 1]} | options))


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Four images in four pairs of formats."""
    root = tmp_path / "lab"
    for seed, (phase, mask) in enumerate(
        [(".ome.tif", ".png"), (".npy", ".PNG"), (".tif", ".tif"), (".npy", ".ome.tif")]
    ):
        write(root, f"img{seed}", seed, phase=phase, mask=mask)
    return root


def all_records(data: HologramDataModule) -> dict[str, Any]:
    return {record.name: record for split in ("train", "val", "test") for record in data.records(split)}


def test_every_format_holds_the_same(lab: Path) -> None:
    data = module(lab)
    records = all_records(data)
    assert sorted(records) == ["img0", "img1", "img2", "img3"]
    for seed in range(4):
        values, classes = field(seed)
        planes = map_phase_image(records[f"img{seed}"].path)
        assert np.array_equal(planes[CLASSES], classes)
        assert np.abs(planes[PHASE] * 0.001 - values).max() < 0.00051
        # no instances are given: the discs that touch are parted, and each pixel of a cell is of one
        assert np.array_equal(planes[INSTANCES] > 0, classes > 0) and planes[INSTANCES].max() == 3
        sides = planes[INSTANCES][25, 25], planes[INSTANCES][25, 49]
        assert sides[0] != sides[1]
        middles = sorted((kind, round(x)) for kind, _, x in records[f"img{seed}"].cells)
        assert [kind for kind, _ in middles] == [1, 1, 2]
        assert [x for _, x in middles] == pytest.approx([24, 50, 70], abs=1.5)
    assert data.class_counts("train") == {"discocyte": 4, "spherocyte": 2}
    assert data.input_spec() == {"phase_limits_rad": [-1.0, 5.0], "pixel_um": 0.144, "wavelength_um": 0.666}
    assert module(lab, pixel_um=0.2).input_spec()["pixel_um"] == 0.2


def test_given_instances_are_taken(lab: Path) -> None:
    _, classes = field(0)
    own = (classes > 0) * np.where(np.arange(SIZE[1]) < 60, 7, 300)  # two cells, whatever the discs look like
    write_labels(lab / "instances" / "img0.ome.tif", own.astype(np.uint16))
    record = all_records(module(lab))["img0"]
    assert np.array_equal(map_phase_image(record.path)[INSTANCES], own)
    assert len(record.cells) == 2


def test_images_without_masks(lab: Path, caplog: pytest.LogCaptureFixture) -> None:
    (lab / "classes" / "img2.tif").unlink()
    data = module(lab)
    with caplog.at_level(logging.WARNING):
        assert sorted(all_records(data)) == ["img0", "img1", "img3"]
    assert "1 of 4 phase images have no mask and are left out, img2 first" in caplog.text
    for path in (lab / "classes").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="holds no mask of any of the 4 phase images"):
        module(lab).prepare_data()


def test_masks_of_nested_folders(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    for name in ("day1/a", "day2/a", "day2/b", "c"):
        write(root, name, 0)
    assert sorted(all_records(module(root))) == ["c", "day1/a", "day2/a", "day2/b"]
    # masks in one folder serve phase images in several: as of hemolens reconstruct, which keeps the holograms' folder
    (root / "phase").rename(root / "made")
    (root / "phase" / "holograms").mkdir(parents=True)
    (root / "made" / "c.ome.tif").rename(root / "phase" / "holograms" / "c.ome.tif")
    manifest(root, [{"file": "holograms/c.png", "sample": "s", "donor": "d"}])
    data = module(root, manifest="manifest.csv", split=[1, 0, 0])
    assert [(record.name, record.donor) for record in data.records("train")] == [("holograms/c", "d")]


def test_a_manifest_says_whose_blood_it_is(lab: Path) -> None:
    rows = [
        {"file": f"img{n}.{'npy' if n % 2 else 'tif'}", "sample": f"s{n // 2}", "donor": f"d{n // 2}", "day": 8 + n}
        for n in range(4)
    ]
    parts = ["train", "train", "val", "test"]
    manifest(lab, [row | {"split": part} for row, part in zip(rows, parts, strict=True)])
    data = module(lab, manifest="manifest.csv", split=[1, 1, 1])
    assert [[r.name for r in data.records(split)] for split in ("train", "val", "test")] == [
        ["img0", "img1"],
        ["img2"],
        ["img3"],
    ]
    record = data.records("val")[0]
    assert (record.sample, record.donor, record.day) == ("s1", "d1", 10.0)
    with pytest.raises(UserError, match="donor d1 lies in two splits of the manifest"):
        module(lab, manifest="manifest.csv", split_by="donor").prepare_data()
    manifest(lab, rows[:3])  # the others are left out
    data = module(lab, manifest="manifest.csv", split=[1, 1, 0], split_by="donor")
    groups = [{record.donor for record in data.records(split)} for split in ("train", "val")]
    assert sorted(map(sorted, groups)) == [["d0"], ["d1"]] and "img3" not in all_records(data)


def test_a_split_that_says_nothing_of_donors_cannot_be_checked_by_them(lab: Path) -> None:
    rows = [{"file": f"img{n}", "sample": f"s{n}", "split": part} for n, part in enumerate(("train", "val", "test"))]
    manifest(lab, rows)
    module(lab, manifest="manifest.csv", split_by="sample").prepare_data()
    with pytest.raises(UserError, match="no donor of img0"):
        module(lab, manifest="manifest.csv", split_by="donor").prepare_data()


@pytest.mark.parametrize("name", ["phase", "classes"])
def test_a_changed_file_is_read_again(lab: Path, name: str) -> None:
    before = {key: record.path for key, record in all_records(module(lab)).items()}
    assert {key: record.path for key, record in all_records(module(lab)).items()} == before
    path = next((lab / name).glob("img3.*"))
    path.unlink()
    values, classes = field(9)
    if name == "phase":
        np.save(path, values)
    else:
        write_labels(path, classes)
    after = {key: record.path for key, record in all_records(module(lab)).items()}
    assert after["img3"] != before["img3"] and {**after, "img3": 0} == {**before, "img3": 0}
    plane, expected = {"phase": (PHASE, np.rint(values * 1000.0)), "classes": (CLASSES, classes)}[name]
    assert np.abs(map_phase_image(after["img3"])[plane] - expected).max() <= 1


def test_the_cache_serves_without_the_decoders(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = all_records(module(lab))

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("hemolens.data.phase_folder.read_any_phase", refuse)
    assert all_records(module(lab)) == before
    assert module(lab).input_spec()["pixel_um"] == 0.144  # of the cache too


def test_all_bad_files_are_named_at_once(lab: Path) -> None:
    (lab / "phase" / "img0.ome.tif").write_bytes(b"nothing")
    np.save(lab / "phase" / "img1.npy", np.zeros(SIZE, np.uint8))
    tifffile.imwrite(lab / "classes" / "img2.tif", np.full(SIZE, 3, np.uint8))
    np.save(lab / "phase" / "img3.npy", np.zeros((60, 80)))
    write(lab, "img4", 0)
    with pytest.raises(UserError) as caught:
        module(lab).prepare_data()
    message = str(caught.value)
    assert message.startswith("4 of 5 phase images cannot be used: ") and caught.value.exit_code == 1
    for words in (
        "img0.ome.tif",
        "img1.npy holds uint8 [60, 90]; a phase image is floats [H, W] in rad",
        "img2.tif holds class 3, but the classes are 0 background, 1 discocyte, 2 spherocyte: see data.class_names",
        "img3.ome.tif is 60×90 px, its phase image 60×80 px",
    ):
        assert words in message
    assert "img4" not in message


def test_a_picture_of_colours_is_no_mask(lab: Path) -> None:
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(lab / "classes" / "img0.png")
    with pytest.raises(UserError, match=r"img0\.png is a colour picture"):
        module(lab).prepare_data()
    (lab / "classes" / "img0.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"img0\.png: corrupt"):
        module(lab).prepare_data()


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ({"pixel_um": 0.2}, r"pixel_um is 0\.144 in img0 and 0\.2 in img4: one data set has one scale"),
        ({"wavelength_um": 0.532}, r"wavelength_um is 0\.666 in img0 and 0\.532 in img4"),
    ],
)
def test_one_data_set_has_one_scale(lab: Path, scale: dict[str, float], words: str) -> None:
    write(lab, "img4", 4, **scale)
    with pytest.raises(UserError, match=words):
        module(lab).prepare_data()


def test_scales_within_a_hundredth_are_one(lab: Path) -> None:
    write(lab, "img4", 4, pixel_um=0.1445)
    assert module(lab).input_spec()["pixel_um"] == 0.144


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"file": "img9.tif", "sample": "s"}], r"the manifest lists img9\.tif, but .* holds no img9\.ome\.tif"),
        ([{"file": "img0.tif", "sample": "s", "day": "late"}], "day of img0 is 'late', no number"),
        ([{"file": "img0.tif", "sample": "s", "split": "training"}], "split 'training' is none of train, val, test"),
        (
            [{"file": "img0.tif", "sample": "s", "split": "train"}, {"file": "img1.npy", "sample": "s"}],
            "fill in all rows or none",
        ),
        ([{"file": "img0.tif", "split": "train"}], "columns file and sample"),
        ([{"file": "img0.tif", "sample": "s"}, {"file": "img0.tif", "sample": "t"}], "lists a file twice"),
        ([{"file": "a/img0.png", "sample": "s"}, {"file": "b/img0.png", "sample": "t"}], "img0"),
    ],
)
def test_slips_of_a_manifest(lab: Path, rows: list[dict[str, Any]], words: str) -> None:
    manifest(lab, rows)
    with pytest.raises(UserError, match=words):
        module(lab, manifest="manifest.csv").prepare_data()


def test_missing_folders_are_named(lab: Path) -> None:
    with pytest.raises(UserError, match=r"no folder at data\.root=.*nowhere"):
        module(lab.parent / "nowhere").prepare_data()
    with pytest.raises(UserError, match=r"manifest\.csv.*set manifest=null"):
        module(lab, manifest="manifest.csv").prepare_data()
    with pytest.raises(
        UserError, match=r"no folder of phase images at phases: check data\.root and data\.phase_folder"
    ):
        module(lab, phase_folder="phases").prepare_data()
    (lab / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no phase images"):
        module(lab, phase_folder="empty").prepare_data()
    with pytest.raises(TypeError, match="patch"):
        module(lab, patch=3)


def test_two_files_of_one_name_are_refused(lab: Path) -> None:
    tifffile.imwrite(lab / "phase" / "img3.tif", field(1)[0])
    with pytest.raises(UserError, match=r"img3\.npy and .*img3\.tif"):
        module(lab).prepare_data()
    os.remove(lab / "phase" / "img3.tif")
    Image.fromarray(field(1)[1]).save(lab / "classes" / "img3.png")
    with pytest.raises(UserError, match=r"img3\.ome\.tif and .*img3\.png"):
        module(lab).prepare_data()


def test_a_mask_is_of_one_image(lab: Path) -> None:
    (lab / "phase" / "a").mkdir()
    np.save(lab / "phase" / "a" / "img3.npy", field(1)[0])
    with pytest.raises(UserError, match=r"img3\.ome\.tif would be the mask of both a/img3 and img3"):
        module(lab).prepare_data()


def test_synthetic_images_are_for_training_alone(lab: Path, tmp_path: Path) -> None:
    made = tmp_path / "gan"
    for number in range(3):
        write(made, f"made{number}", number, mask=".png")
    options = {"synthetic_dir": made, "synthetic_ratio": 1.0, "patches": "grid", "batch_size": 4}
    data = module(lab, **options)
    data.setup("fit")
    batches = list(data.train_dataloader())
    names = {name for batch in batches for name in batch["image_ids"]}
    origins = [origin for batch in batches for origin in batch["origins"]]
    assert names == {"made0", "made1", "made2"} | {record.name for record in data.records("train")}
    assert origins.count("synthetic") == origins.count("acquired") == 2 * 6  # 2 images of 2 x 3 patches
    assert not any(
        name.startswith("made") for split in ("val", "test") for name in [r.name for r in data.records(split)]
    )
    (made / "classes" / "made1.png").unlink()
    with pytest.raises(UserError, match=r"1 synthetic phase images have no mask in classes/, made1 first"):
        module(lab, **options).prepare_data()


def test_a_quick_trial_is_small(lab: Path) -> None:
    config = {"root": str(lab), "patch_px": 256, "batch_size": 8, "patches_per_image": 9, "num_workers": 4}
    small = HologramDataModule.capped(config, batch_size=2, image_px=48, num_workers=0)
    assert small == config | {"patch_px": 48, "batch_size": 2, "patches_per_image": 1, "num_workers": 0}


def test_images_are_brought_to_a_scale(tmp_path: Path) -> None:
    """Twice the pixel, another wavelength: four times the pixels, the same optical path, masks still registered."""
    from hemolens.data.phase_folder import Scale, find_pairs, store_pairs
    from hemolens.data.phase_images import CLASSES, PHASE, map_phase_image
    from hemolens.io.labels import write_labels
    from hemolens.io.phase import PhaseImage, write_phase

    y, x = np.mgrid[:40, :48].astype(np.float32)
    phase = 2 * np.exp(-((y - 12) ** 2 + (x - 30) ** 2) / 60)
    write_phase(tmp_path / "phase" / "a.ome.tif", PhaseImage(phase, pixel_um=0.4, wavelength_um=0.5))
    write_labels(tmp_path / "classes" / "a.ome.tif", (phase > 1).astype(np.uint8), pixel_um=0.4)
    pairs, _ = find_pairs(tmp_path, tmp_path / "phase")
    names = ["background", "a"]
    (same,), scale = store_pairs(pairs, tmp_path / "cache", names)
    assert same.size == (40, 48) and (scale.pixel_um, scale.wavelength_um) == (pytest.approx(0.4), pytest.approx(0.5))
    (record,), scale = store_pairs(pairs, tmp_path / "cache", names, to=Scale(0.2, 0.625))
    assert record.size == (80, 96) and (scale.pixel_um, scale.wavelength_um) == (0.2, 0.625)
    planes = map_phase_image(record.path)
    y, x = np.arange(80)[:, None] / 2 - 0.25, np.arange(96) / 2 - 0.25  # middles of the fine pixels
    fine = 0.8 * 2 * np.exp(-((y - 12) ** 2 + (x - 30) ** 2) / 60)
    inside = (slice(6, -6), slice(6, -6))  # the border is mirrored
    np.testing.assert_allclose((planes[PHASE] * 0.001)[inside], fine[inside], atol=0.01)
    assert ((planes[PHASE] > 800) != (planes[CLASSES] > 0)).mean() < 0.01
