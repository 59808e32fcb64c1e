"""A simulated data set handed over as files, and read back as a lab's own folder."""

import csv
import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemolens.data.modules.tomograms import TomogramDataModule
from hemolens.data.planes import map_planes
from hemolens.data.simulation.export import export_data_set
from hemolens.data.simulation.plan import DataSetPlan
from hemolens.data.simulation.run import simulate_data_set
from hemolens.errors import UserError
from hemolens.io.coco import mask_of, read_coco
from hemolens.io.detections import ImageDetections
from hemolens.io.geojson import write_geojson
from hemolens.io.labels import read_labels
from hemolens.io.volumes import open_volume, write_volume
from hemolens.optics.cells import CLASS_NAMES, BloodSettings
from hemolens.optics.fields import FieldSettings
from hemolens.optics.placement import PlacementSettings
from hemolens.optics.tomography import TomographySettings

PLAN = DataSetPlan(
    fov=FieldSettings(
        field_px=(96, 128),
        blood=BloodSettings(wbc_fraction=0.02),
        placement=PlacementSettings(density_per_mm2=12000.0),
        tomography=TomographySettings(slices=12, margin_slices=4, axial_oversampling=2),
    ),
    n_samples=3,
    fields_per_sample=2,
    split=(0.34, 0.33, 0.33),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan as TCF files; for reading only."""
    folder = tmp_path_factory.mktemp("exported") / "tomograms"
    export_data_set(PLAN, folder, workers=1)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def module(root: Path, cache: Path, **changes: Any) -> TomogramDataModule:
    arguments: dict[str, Any] = {"class_names": CLASS_NAMES, "batch_size": 1, "root": root, "cache_dir": cache}
    return TomogramDataModule(**(arguments | changes))


def test_files_tables_and_boxes_agree(exported: Path) -> None:
    manifest, cells = rows_of(exported / "manifest.csv"), rows_of(exported / "cells.csv")
    assert len(manifest) == 6
    assert {row["split"] for row in manifest} == {"train", "val", "test"}
    images, names = read_coco(exported / "annotations.json")
    assert names == CLASS_NAMES
    content = json.loads((exported / "annotations.json").read_text())
    masks = iter(content["annotations"])
    for image, row in zip(images, manifest, strict=True):
        assert image.file_name == row["file"]
        own = [cell for cell in cells if cell["file"] == image.file_name]
        assert len(own) == len(image.boxes) == int(row["cells"])
        with open_volume(exported / image.file_name) as volume:
            assert volume.shape == (12, 96, 128)
            assert volume.voxel_um == pytest.approx((0.731, 0.162, 0.162))
            assert volume.medium_index == pytest.approx(1.337)
            assert volume.wavelength_um == pytest.approx(0.45)
            highest = volume.array[:].max(0)
        labels = read_labels(exported / "labels" / f"{Path(image.file_name).stem}.ome.tif")
        assert labels.shape == (96, 128)
        assert set(np.unique(labels)) - {0} <= {int(cell["instance_id"]) for cell in own}
        for cell, box, label in zip(own, image.boxes, image.labels, strict=True):
            assert cell["class"] == CLASS_NAMES[label]
            assert [float(cell[f"{name}_px"]) for name in ("x1", "y1", "x2", "y2")] == pytest.approx(box)
            red = cell["true_class"] in ("RBC", "ARBC")
            assert (27 <= float(cell["mchc_g_dl"]) <= 45) == red
            annotation = next(masks)
            mask = mask_of(annotation["segmentation"])
            assert mask.shape == (96, 128)
            assert mask.sum() == annotation["area"]
            ys, xs = np.nonzero(mask)
            assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == pytest.approx(tuple(box))
            assert highest[mask].mean() > highest[~mask].mean()


def test_an_analyser_reads_each_sample(exported: Path) -> None:
    """Within its errors: at most 1.2 % of bias and 1.2 % of scatter."""
    manifest = {row["sample"]: row for row in rows_of(exported / "manifest.csv")}
    reference = rows_of(exported / "reference.csv")
    assert [row["sample"] for row in reference] == ["0", "1", "2"]
    assert [row["device"] for row in reference] == ["first", "second", "first"]
    for row in reference:
        mcv, mchc = (float(manifest[row["sample"]][name]) for name in ("mcv_fl", "mchc_g_dl"))
        assert float(row["mcv_fl"]) == pytest.approx(mcv, rel=0.06)
        assert float(row["mch_pg"]) == pytest.approx(0.01 * mcv * mchc, rel=0.06)
        assert float(row["mcv_fl"]) != pytest.approx(mcv, rel=1e-4)


def test_class_counts_are_those_of_the_table(exported: Path, tmp_path: Path) -> None:
    cells = rows_of(exported / "cells.csv")
    data = module(exported, tmp_path)
    for split in ("train", "val", "test"):
        expected = {name: sum(r["class"] == name and r["split"] == split for r in cells) for name in CLASS_NAMES}
        assert data.class_counts(split) == expected


def test_files_hold_the_same_fields_as_the_cache(exported: Path, tmp_path: Path) -> None:
    """The detector sees the same, whether fields are simulated into the cache or read from files (RI to 1e-4)."""
    records = simulate_data_set(PLAN, tmp_path, workers=1)
    data = module(exported, tmp_path)
    data.setup("fit")
    for record in records:
        part = [item for item in data._records[record.split] if item.image_id == f"volumes/{record.name}"]
        cached = next(tmp_path.glob(f"sim_*/fields/{record.name}.npz"))
        both = [map_planes(path) for path in (part[0].path, cached)]
        with np.load(cached) as stored:
            assert part[0].boxes == pytest.approx(stored["boxes"])
            assert part[0].labels.tolist() == stored["labels"].tolist()
        for plane in ("maximum", "mean"):  # rounding may make another of two slices the sharpest
            assert np.abs(both[0].values(plane) - both[1].values(plane)).max() < 1.1e-4
        assert both[0].volume_range == pytest.approx(both[1].volume_range, abs=1.1e-4)
        assert both[0].medium_index == pytest.approx(both[1].medium_index)


@pytest.mark.parametrize(("volume_format", "suffix"), [("ome-tiff", ".ome.tif"), ("zarr", ".zarr")])
def test_other_formats(tmp_path: Path, volume_format: str, suffix: str) -> None:
    plan = dataclasses.replace(PLAN, fields_per_sample=1)
    folder = tmp_path / "set"
    records = export_data_set(plan, folder, volume_format=volume_format, workers=1)
    with open_volume(folder / "volumes" / f"{records[0].name}{suffix}") as volume:
        assert volume.shape == (12, 96, 128)
        assert math.isfinite(volume.array[3].sum())


def test_a_stopped_export_goes_on(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(exported, folder)
    whole = {path.name: path.read_bytes() for path in folder.glob("*.*") if path.is_file()}
    records = json.loads((folder / "fields" / "records.json").read_text())["fields"]
    (folder / "fields" / "records.json").unlink()
    (folder / "fields" / f"{records[0]['name']}.npz").unlink()
    (folder / "volumes" / f"{records[1]['name']}.tcf").unlink()
    (folder / "cells.csv").unlink()
    (folder / "labels" / f"{records[3]['name']}.ome.tif").unlink()
    untouched = (folder / "volumes" / f"{records[2]['name']}.tcf").stat().st_mtime_ns
    export_data_set(PLAN, folder, workers=1)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*") if path.is_file()} == whole
    assert len(list((folder / "volumes").iterdir())) == 6
    assert (folder / "volumes" / f"{records[2]['name']}.tcf").stat().st_mtime_ns == untouched


def test_an_export_never_mixes_with_something_else(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="other settings"):
        export_data_set(dataclasses.replace(PLAN, seed=9), exported, workers=1)
    with pytest.raises(UserError, match="other settings"):
        export_data_set(PLAN, exported, volume_format="zarr", workers=1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        export_data_set(PLAN, tmp_path, workers=1)
    with pytest.raises(UserError, match="choose from tcf, ome-tiff, zarr"):
        export_data_set(PLAN, tmp_path / "x", volume_format="nifti")


def test_volumes_are_read_once(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(exported, tmp_path).setup("fit")

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a volume was opened again")

    monkeypatch.setattr("hemolens.data.modules.tomograms.open_volume", refuse)
    data = module(exported, tmp_path)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch["images"].shape == (1, 1, 96, 128)
    assert (float(batch["images"].min()), float(batch["images"].max())) == (0.0, 1.0)
    other = module(exported, tmp_path, projection="max_mean_focus", in_channels=3, norm="ri_window")
    other.setup("fit")  # from the same file
    assert next(iter(other.val_dataloader()))["images"].shape == (1, 3, 96, 128)
    with pytest.raises(AssertionError, match="opened again"):
        module(exported, tmp_path, volume={"medium_index": 1.34}).setup("fit")


def test_splits_by_sample_where_the_manifest_gives_none(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    shutil.copytree(exported, folder)
    rows = rows_of(folder / "manifest.csv")
    (folder / "manifest.csv").write_text("file,sample\n" + "".join(f"{r['file']},{r['sample']}\n" for r in rows))
    data = module(folder, tmp_path, split=[0.34, 0.33, 0.33])
    data.setup("fit")
    sample_of = {Path(r["file"]).stem: r["sample"] for r in rows}
    parts = [{sample_of[Path(i.image_id).name] for i in data._records[s]} for s in ("train", "val", "test")]
    assert [len(part) for part in parts] == [1, 1, 1]
    assert len(set.union(*parts)) == 3
    single = module(folder, tmp_path, manifest=None, split=[0.5, 0.25, 0.25])
    single.setup("fit")
    assert [len(single._records[s]) for s in ("train", "val", "test")] == [3, 2, 1]


def test_all_bad_volumes_are_named_at_once(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    shutil.copytree(exported, folder)
    files = sorted((folder / "volumes").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:5000])
    files[1].unlink()
    write_volume(files[1], np.full((12, 64, 64), 1.34, np.float32), voxel_um=(0.7, 0.16, 0.16), medium_index=1.337)
    with pytest.raises(UserError) as caught:
        module(folder, tmp_path).setup("fit")
    message = str(caught.value)
    assert caught.value.exit_code == 1
    assert message.startswith("2 of 6 tomograms cannot be used")
    assert files[0].name in message
    assert "64x64 pixels, but the boxes were drawn on 128x96" in message
    assert len(list((tmp_path / "projections").glob("*.npz"))) == 4  # the others are kept


def test_a_full_disk_leaves_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def full(path: Path, *arguments: Any, **options: Any) -> None:
        if len(written) == 2:
            raise UserError(f"cannot write {path}: No space left on device", exit_code=1)
        written.append(path)
        write_volume(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("hemolens.data.simulation.run.write_volume", full)
        with pytest.raises(UserError, match="No space left"):
            export_data_set(PLAN, tmp_path / "set", workers=1)
    assert len(list((tmp_path / "set" / "volumes").iterdir())) == 2
    assert not (tmp_path / "set" / "annotations.json").exists()
    before = [path.stat().st_mtime_ns for path in written]
    assert len(export_data_set(PLAN, tmp_path / "set", workers=1)) == 6
    assert [path.stat().st_mtime_ns for path in written] == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,sample\na,b\n", "columns file and sample"),
        ("file,sample\nvolumes/x.tcf,1\n", "has no row for"),
        ("", "columns file and sample"),
    ],
)
def test_bad_manifests(exported: Path, tmp_path: Path, text: str, message: str) -> None:
    folder = tmp_path / "lab"
    shutil.copytree(exported, folder)
    (folder / "manifest.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        module(folder, tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projection": "sum"}, "choose from maximum"),
        ({"split": [0.5, 0.5]}, "three shares"),
        ({"class_names": ["RBC", "WBC"]}, "unknown labels"),
        ({"manifest": "none.csv"}, "set manifest=null"),
        ({"annotations": "none.json"}, "cannot read"),
    ],
)
def test_bad_arguments(exported: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(exported, tmp_path, **changes).setup("fit")


def test_corrections_by_the_names_of_pictures(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes drawn on pictures of the volumes: COCO of a labelling tool, GeoJSON of QuPath, of some fields only."""
    truth = json.loads((exported / "annotations.json").read_text())
    rows = rows_of(exported / "manifest.csv")
    first = {row["sample"]: row["file"] for row in rows}  # one field of each sample, and so of each part
    kept = [image for image in truth["images"] if image["file_name"] in first.values()]
    boxes = {image["id"]: [a for a in truth["annotations"] if a["image_id"] == image["id"]] for image in kept}
    pictures = [image | {"file_name": f"{Path(image['file_name']).stem}.png"} for image in kept]
    corrected = {**truth, "images": pictures, "annotations": [a for own in boxes.values() for a in own]}
    monkeypatch.chdir(tmp_path)
    Path("corrected.json").write_text(json.dumps(corrected))
    for image in kept:
        found = ImageDetections(
            image["file_name"],
            96,
            128,
            np.array([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in boxes[image["id"]])]),
            np.array([a["category_id"] - 1 for a in boxes[image["id"]]]),
            np.ones(len(boxes[image["id"]])),
        )
        write_geojson(tmp_path / "qupath" / f"{Path(image['file_name']).stem}.geojson", found, CLASS_NAMES)
    whole = module(exported, tmp_path)
    whole.setup("fit")
    for place in ("corrected.json", str(tmp_path / "qupath")):
        data = module(exported, tmp_path, annotations=place)
        data.setup("fit")
        data.setup("test")
        for split in ("train", "val", "test"):
            (record,) = data._records[split]
            (same,) = [other for other in whole._records[split] if other.image_id == record.image_id]
            assert record.path == same.path  # the projection that is in the cache
            np.testing.assert_allclose(record.boxes, same.boxes, atol=1e-3)
            assert record.labels.tolist() == same.labels.tolist()
    without = module(exported, tmp_path, annotations="corrected.json", manifest=None)
    with pytest.raises(UserError, match=r"may be any of labels/.*\.ome\.tif, volumes/.*\.tcf"):
        without.setup("fit")


def test_a_part_without_corrections_is_named(exported: Path, tmp_path: Path) -> None:
    truth = json.loads((exported / "annotations.json").read_text())
    train = {row["file"] for row in rows_of(exported / "manifest.csv") if row["split"] == "train"}
    images = [image for image in truth["images"] if image["file_name"] in train]
    path = tmp_path / "corrected.json"
    path.write_text(json.dumps(truth | {"images": images, "annotations": []}))
    with pytest.raises(UserError, match=r"corrected\.json: no image in the val part.*data\.manifest=null"):
        module(exported, tmp_path, annotations=str(path)).setup("fit")
    by_field = module(exported, tmp_path, annotations=str(path), manifest=None, split=[0.5, 0.5, 0])
    by_field.setup("fit")
    assert [len(by_field._records[split]) for split in ("train", "val", "test")] == [1, 1, 0]
    with pytest.raises(UserError, match="no image in the test part"):
        by_field.setup("test")
