import json
from pathlib import Path

import numpy as np
import pytest

from hemolens.errors import UserError
from hemolens.io.coco import content_digest
from hemolens.io.colors import class_color
from hemolens.io.detections import ImageDetections
from hemolens.io.geojson import geojson_dict, write_geojson

NAMES = ("RBC", "WBC")


def example() -> ImageDetections:
    return ImageDetections("a.png", 48, 64, np.array([[1.5, 2, 11.25, 22]]), np.array([1]), np.array([0.875]))


def test_layout() -> None:
    content = geojson_dict(example(), NAMES)
    assert content.pop("content_sha256") == content_digest(content["features"])
    assert content == {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[1.5, 2.0], [11.25, 2.0], [11.25, 22.0], [1.5, 22.0], [1.5, 2.0]]],
                },
                "properties": {
                    "objectType": "detection",
                    "classification": {"name": "WBC", "color": [230, 159, 0]},
                    "measurements": {"score": 0.875},
                },
            }
        ],
    }


def test_file_is_plain_json_and_can_hold_annotations(tmp_path: Path) -> None:
    write_geojson(tmp_path / "a.geojson", example(), NAMES, object_type="annotation")
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert content == geojson_dict(example(), NAMES, "annotation")
    assert content["features"][0]["properties"]["objectType"] == "annotation"


def test_no_detections_give_an_empty_collection() -> None:
    empty = ImageDetections("a.png", 48, 64, np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    content = geojson_dict(empty, NAMES)
    assert (content["type"], content["features"]) == ("FeatureCollection", [])


def test_refusals_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="label 1 has no name"):
        write_geojson(tmp_path / "a.geojson", example(), ("RBC",))
    assert list(tmp_path.iterdir()) == []
    write_geojson(tmp_path / "a.geojson", example(), NAMES)
    with pytest.raises(UserError, match="exists"):
        write_geojson(tmp_path / "a.geojson", example(), NAMES)


def test_twelve_colours_differ_then_repeat() -> None:
    colours = [class_color(label) for label in range(12)]
    assert len(set(colours)) == 12
    assert class_color(12) == colours[0]
    assert all(0 <= part <= 255 for colour in colours for part in colour)
