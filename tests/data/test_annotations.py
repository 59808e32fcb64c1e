"""Annotations as other tools write them, beside what they mean; and our own predictions read back."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hemolens.data.detection import DetectionRecord, read_image_records
from hemolens.data.modules.coco import CocoDetectionDataModule
from hemolens.errors import UserError
from hemolens.inference.outputs import DetectedImage, write_detection_outputs
from hemolens.inference.ranking import ImageUncertainty
from hemolens.io.detections import ImageDetections

CLASSES = ("RBC", "PLT", "WBC", "ARBC")
FILES = ("a.png", "sub/b.png", "c.png")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three pictures of 64x48 pixels."""
    folder = tmp_path / "images"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(folder / name)
    return folder


def records(path: Path, images: Path, **options: Any) -> dict[str, DetectionRecord]:
    return {record.image_id: record for record in read_image_records(path, images, CLASSES, **options)}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco(annotations: list[dict], categories: list[dict] | None = None, names: tuple[str, ...] = FILES) -> dict:
    return {
        "images": [{"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)],
        "categories": categories or [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": annotations,
    }


def predicted(output: Path) -> dict[str, ImageDetections]:
    """Random detections of the three pictures, none on the last, written as ``hemolens predict`` does."""
    rng = np.random.default_rng(0)
    results = []
    for name, count in zip(FILES, (9, 5, 0), strict=True):
        corners = np.sort(rng.uniform(0, [[[64], [48]]], (count, 2, 2)), axis=2).astype(np.float32)
        boxes = corners.transpose(0, 2, 1).reshape(-1, 4)
        results.append(ImageDetections(name, 48, 64, boxes, rng.integers(0, 4, count), rng.random(count)))
    pixels = np.zeros((48, 64), np.uint8)
    wavers = [ImageUncertainty(total, len(one), 0, 0, "") for one, total in zip(results, (0.5, 2.0, 0.1), strict=True)]
    images = [DetectedImage(one, pixels, wavering) for one, wavering in zip(results, wavers, strict=True)]
    write_detection_outputs(output, images, CLASSES, overlays=False, to_correct=2)
    return {one.file_name.removesuffix(".png"): one for one in results}


@pytest.mark.parametrize(
    "what", ["detections_coco.json", "geojson", "to_correct/annotations.json", "to_correct/geojson"]
)
def test_predictions_come_back_as_they_were(
    images: Path, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    written = predicted(tmp_path / "out")
    found = records(tmp_path / "out" / what, images)
    assert set(found) == ({"a", "sub/b"} if what.startswith("to_correct") else {"a", "sub/b", "c"})
    for name, record in found.items():
        np.testing.assert_allclose(record.boxes, written[name].boxes, atol=1.1e-3)  # three decimals are written
        assert record.labels.tolist() == written[name].labels.tolist()
        assert record.size == (48, 64)
        assert record.image_path == images / f"{name}.png"
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert "as hemolens predict wrote it" in warning and what in warning


def test_one_moved_box_is_a_correction(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predicted(tmp_path / "out")
    path = tmp_path / "out" / "detections_coco.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] -= 0.5
    write(path, content)
    records(path, images)
    one = next((tmp_path / "out" / "geojson").rglob("*.geojson"))
    features = json.loads(one.read_text())["features"]
    write(one, {"type": "FeatureCollection", "features": features})  # as another program writes it
    records(tmp_path / "out" / "geojson", images)
    assert not caplog.records


def test_coco_of_other_tools(images: Path) -> None:
    """Text as ids in another order, categories that nobody uses, names in other case, outlines, further keys."""
    categories = [
        {"id": "7", "name": "wbc ", "supercategory": "cells", "color": "#fff"},
        {"id": "0", "name": "cells", "supercategory": "none"},
        {"id": "3", "name": "Rbc"},
        {"id": "9", "name": "background"},
    ]
    annotations = [
        {"image_id": 1, "category_id": 3, "bbox": [1.25, 2.5, 10, 20], "iscrowd": 0, "score": 0.5, "attributes": {}},
        {
            "id": "x",
            "image_id": "1",
            "category_id": "7",
            "segmentation": [[5, 6, 9, 6, 7, 12.5], [20, 8, 21, 9, 20, 9]],
        },
        {
            "id": 2,
            "image_id": 1,
            "category_id": "7",
            "bbox": [0, 0, 0, 0],
            # three pixels from row 2 in column 3, two from row 3 in column 4
            "segmentation": {"size": [48, 64], "counts": [48 * 3 + 2, 3, 46, 2, 48 * 59 + 43]},
        },
        {
            "id": 3,
            "image_id": 1,
            "category_id": "7",
            "bbox": None,
            "segmentation": {"size": [48, 64], "counts": "j7d0l00bR1DjmN000\\Y10dfN00000"},
        },
    ]
    path = write(images.parent / "edited.json", coco(annotations, categories))
    found = records(path, images)
    assert found["sub/b"].labels.tolist() == [0, 2, 2, 2]
    assert found["sub/b"].boxes.tolist() == [[1.25, 2.5, 11.25, 22.5], [5, 6, 21, 12.5], [3, 2, 5, 5], [5, 10, 64, 48]]
    assert len(found["a"].boxes) == len(found["c"].boxes) == 0


@pytest.mark.parametrize(
    "name",
    ["b.png", "other/folder/b.png", "sub\\b.png", "sub/b.jpg", "b", "1a2b3c4d-b.png", "b_png.rf.0a1B2c.jpg"],
)
def test_names_that_tools_give(images: Path, name: str) -> None:
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4]}
    found = records(write(images.parent / "x.json", coco([box], names=(name,))), images)
    assert list(found) == ["sub/b"]
    assert found["sub/b"].image_path == images / "sub" / "b.png"


def test_names_that_are_not_clear(images: Path) -> None:
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(images / "b.png")
    with pytest.raises(UserError, match=r"x\.json: over/b\.png may be any of b\.png, sub/b\.png in .*write the one"):
        records(write(images.parent / "x.json", coco([], names=("over/b.png",))), images)
    with pytest.raises(UserError, match=r"x\.json: a\.png, a\.jpg are one image, .*a\.png: keep one"):
        records(write(images.parent / "x.json", coco([], names=("a.png", "a.jpg"))), images)
    with pytest.raises(UserError, match=r"gone\.png: no such file, but .*x\.json lists it"):
        records(write(images.parent / "x.json", coco([], names=("a.png", "gone.png"))), images)


def feature(outline: list, name: str | None = "RBC", kind: str = "Polygon", **more: Any) -> dict:
    """As QuPath 0.5 writes an annotation (``QuPathTypeAdapters``, File > Export objects as GeoJSON)."""
    properties: dict[str, Any] = {"objectType": "annotation", "isLocked": True, **more}
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    return {
        "type": "Feature",
        "id": "0fb2b2f1-4d2a-43a5-a4a6-1e6f4b0e4c11",
        "geometry": {"type": kind, "coordinates": outline},
        "properties": properties,
    }


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list:
    return [[[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]]


def test_geojson_of_qupath(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "qupath"
    ring_with_hole = [[[2, 3], [12, 5.5], [7, 20], [2, 3]], [[5, 6], [6, 6], [6, 7], [5, 6]]]
    two_parts = [rectangle(20, 20, 25, 25), rectangle(30, 18, 33, 22)]
    nucleus = {"type": "Polygon", "coordinates": rectangle(0, 0, 60, 40)}
    whole = {
        "type": "FeatureCollection",
        "features": [
            feature(ring_with_hole, "rbc"),
            feature(two_parts, "WBC", kind="MultiPolygon", measurements={"score": 0.4}),
            feature(rectangle(1, 1, 9, 9), "ARBC", objectType="cell") | {"nucleusGeometry": nucleus},
            feature(rectangle(0, 0, 64, 48), None, objectType="tile"),
            feature([[1, 2], [3, 4]], None, kind="LineString"),
            feature(rectangle(0, 0, 64, 48), None, objectType="tma_core"),
        ],
    }
    write(folder / "a.png.geojson", whole)
    old = feature(rectangle(4, 5, 6, 7), "PLT") | {"id": "PathDetectionObject"}
    del old["properties"]["objectType"]
    older = feature(rectangle(5, 5, 6, 7), "PLT", object_type="annotation")
    del older["properties"]["objectType"]
    write(folder / "sub" / "b.geojson", [old, older, {**old, "id": "PathRootObject"}])
    write(folder / "c.geojson", feature(rectangle(7, 8, 9, 10), None) | {"properties": {"classification": "PLT"}})
    with caplog.at_level(logging.INFO):
        found = records(folder, images)
    assert found["a"].boxes.tolist() == [[2, 3, 12, 20], [20, 18, 33, 25], [1, 1, 9, 9]]
    assert found["a"].labels.tolist() == [0, 2, 3]
    assert found["sub/b"].boxes.tolist() == [[4, 5, 6, 7], [5, 5, 6, 7]]
    assert found["c"].labels.tolist() == [1]
    messages = [entry.getMessage() for entry in caplog.records]
    assert any("a.png.geojson: left out 1 LineString, 1 tile, 1 tma_core" in message for message in messages)
    assert any("b.geojson: left out 1 root" in message for message in messages)
    only = records(folder / "a.png.geojson", images)
    assert list(only) == ["a"]
    inside = feature(rectangle(0, 0, 64, 48), "PLT", childObjects=[feature(rectangle(2, 2, 4, 4))])
    assert len(records(write(tmp_path / "a.geojson", [inside]), images)["a"].boxes) == 2


def test_unknown_classes_are_named_with_their_neighbour(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "qupath"
    write(folder / "a.geojson", [feature(rectangle(1, 1, 9, 9), "RBCs"), feature(rectangle(1, 1, 9, 9), None)])
    with pytest.raises(UserError) as caught:
        records(folder, images)
    message = str(caught.value)
    assert f"objects without a class in {folder / 'a.geojson'}" in message
    assert f"'RBCs' first in {folder / 'a.geojson'} (nearest: RBC)" in message
    assert len(records(folder, images, unknown_labels="drop")["a"].boxes) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"type": "Topology"}, "no key 'categories'"),
        ([{"type": "Feature"}], "no key 'geometry'"),
        ([feature([])], "is not GeoJSON"),
        ([feature([[["x", "y"]]])], "is not GeoJSON"),
        (["feature"], "is not GeoJSON"),
        (coco([{"id": 5, "image_id": 0, "category_id": 0, "segmentation": [[1, 2, 3]]}]), "is not COCO JSON"),
        (coco([{"id": 5, "image_id": 0, "category_id": 0, "bbox": []}]), "is not COCO JSON"),
        (
            coco([{"id": 5, "image_id": 0, "category_id": 0, "segmentation": {"size": [2, 2], "counts": [4]}}]),
            "annotation 5 has neither a box nor a pixel",
        ),
        (
            coco([{"image_id": 0, "category_id": 0, "bbox": [0, 0, 1, 1], "iscrowd": 1}]),
            "annotation number 1 is a crowd",
        ),
    ],
)
def test_broken_files_are_named(images: Path, tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        records(write(tmp_path / "a.json", content), images)
    assert "a.json" in str(caught.value)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none holds no \.geojson file"):
        records(tmp_path / "none", images)


def test_parts_without_images_are_named(images: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "edited.json", coco([]))
    arguments: dict[str, Any] = {"image_folder": images, "annotations": path, "class_names": CLASSES}
    module = CocoDetectionDataModule(**arguments, split=[0.7, 0.3, 0])
    module.setup("fit")
    with pytest.raises(UserError, match=r"edited\.json: no image in the test part: .*data\.split, or set test=false"):
        module.setup("test")
    everything = CocoDetectionDataModule(**arguments, split=[0, 0, 1])
    everything.setup("test")
    assert everything.describe("test").startswith("3 images, 0 boxes")
    with pytest.raises(UserError, match="no image in the train part"):
        everything.setup("fit")
