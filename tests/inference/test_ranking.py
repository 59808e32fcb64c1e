"""The measure of uncertainty against hand-computed values, and the files that it orders."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemolens.inference.outputs import DetectedImage, write_detection_outputs
from hemolens.inference.ranking import ImageUncertainty, image_uncertainty, margins
from hemolens.io.detections import ImageDetections

NAMES = ("RBC", "PLT", "ARBC")


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([1.0, 0.0, 0.0], 0.0),  # certain
        ([0.0, 0.0, 0.0], 0.0),  # certainly nothing
        ([0.5, 0.0, 0.0], 1.0),  # a cell or none
        ([0.9, 0.0, 0.8], 0.81),  # two classes: 1 - (0.9 - 0.8), squared
        ([0.9, 0.05, 0.0], 0.04),  # against no cell: 1 - (0.9 - 0.1), squared
        ([0.1, 0.0, 0.05], 0.04),  # no cell 0.9 against 0.1
    ],
)
def test_margins_by_hand(probabilities: list[float], expected: float) -> None:
    assert margins(np.array([probabilities]))[0] == pytest.approx(expected)


def test_a_cell_of_two_classes_is_counted_once() -> None:
    found = {
        "boxes": np.array([[0, 0, 10, 10], [0, 0, 10, 11], [30, 30, 40, 40], [60, 60, 70, 70]], np.float32),
        "scores": np.array([0.6, 0.5, 0.35, 0.1], np.float32),
        "probabilities": np.array([[0.7, 0, 0.6], [0.6, 0, 0.65], [0, 0.9, 0], [0.2, 0, 0.1]], np.float32),
    }
    result = image_uncertainty(found, NAMES, score_threshold=0.3, nms_iou=0.6)
    assert (result.n_cells, result.n_ambiguous, result.n_near_misses) == (2, 1, 1)
    assert result.most_confused == "RBC/ARBC"
    assert result.total == pytest.approx(0.9**2 + 0.2**2 + 0.4**2, abs=1e-6)
    assert result.mean == pytest.approx(result.total / 3)
    empty = {key: values[:0] for key, values in found.items()}
    nothing = image_uncertainty(empty, NAMES, score_threshold=0.3, nms_iou=0.6)
    assert nothing == ImageUncertainty(0.0, 0, 0, 0, "") and nothing.mean == 0


def test_parts_of_a_cell_are_no_near_misses() -> None:
    found = {
        "boxes": np.array([[0, 0, 10, 10], [5, 0, 15, 10], [4, 0, 14, 10], [7, 0, 17, 10]], np.float32),
        "scores": np.array([0.9, 0.8, 0.2, 0.1], np.float32),  # two touching cells with IoU 1/3, and two faint boxes
        "probabilities": np.array([[1, 0, 0], [1, 0, 0], [0.5, 0, 0], [0.5, 0, 0]], np.float32),
    }
    result = image_uncertainty(found, NAMES, score_threshold=0.3, nms_iou=0.6)
    assert (result.n_cells, result.n_near_misses, result.total) == (2, 0, 0)
    found["boxes"][3] = [12, 0, 22, 10]  # IoU 3/17 with the nearest cell
    result = image_uncertainty(found, NAMES, score_threshold=0.3, nms_iou=0.6)
    assert (result.n_cells, result.n_near_misses, result.total) == (2, 1, 1)
    found["scores"][3] = 0.04
    assert image_uncertainty(found, NAMES, score_threshold=0.3, nms_iou=0.6).n_near_misses == 0


def test_one_class_has_no_second() -> None:
    found = {"boxes": np.array([[0, 0, 9, 9.0]]), "scores": np.array([0.5]), "probabilities": np.array([[0.75]])}
    result = image_uncertainty(found, ("cell",), score_threshold=0.3, nms_iou=0.6)
    assert (result.total, result.n_cells, result.n_ambiguous) == (0.25, 1, 0)


def test_table_and_pictures_are_in_order(tmp_path: Path) -> None:
    totals = {"a.tcf": 0.5, "b.tcf": 3.0, "sub/c.tcf": 2.0, "d.tcf": 3.0, "e.tcf": 0.0}
    images = []
    for number, (name, total) in enumerate(totals.items()):
        found = ImageDetections(name, 40, 60, np.array([[number, 5, 20, 20]]), np.array([2]), np.array([0.5]))
        pixels = np.full((40, 60), 1.337, np.float32)
        pixels[:, :number] = 1.36
        images.append(DetectedImage(found, pixels, ImageUncertainty(total, 1, 1, 0, "RBC/ARBC")))
    write_detection_outputs(tmp_path / "out", iter(images), NAMES, overlays=False, to_correct=3)
    with (tmp_path / "out" / "ranking.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["b.tcf", "d.tcf", "sub/c.tcf", "a.tcf", "e.tcf"]
    assert rows[0] == {
        "rank": "1",
        "image": "b.tcf",
        "uncertainty": "3.0",
        "uncertainty_per_cell": "3.0",
        "n_cells": "1",
        "n_ambiguous": "1",
        "n_near_misses": "0",
        "most_confused": "RBC/ARBC",
    }
    folder = tmp_path / "out" / "to_correct"
    content = json.loads((folder / "annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["b.png", "d.png", "sub/c.png"]
    assert [a["bbox"][0] for a in content["annotations"]] == [1, 3, 2]
    assert sorted(path.name for path in (folder / "geojson").rglob("*.geojson")) == [
        "b.geojson",
        "c.geojson",
        "d.geojson",
    ]
    (feature,) = json.loads((folder / "geojson" / "sub" / "c.geojson").read_text())["features"]
    assert feature["properties"]["objectType"] == "annotation"  # QuPath lets these be edited
    with Image.open(folder / "images" / "sub" / "c.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.dtype == np.uint8 and pixels.shape == (40, 60)
    assert (pixels[:, :2] == 255).all() and (pixels[:, 2:] == 0).all()
    write_detection_outputs(tmp_path / "none", iter(images), NAMES, overlays=False)
    assert not (tmp_path / "none" / "to_correct").exists()
