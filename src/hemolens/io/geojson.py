"""Detections of one image as GeoJSON for QuPath: drag the file onto the open image.

Keys as QuPath 0.4 and later reads and writes them (class ``QuPathTypeAdapters`` of qupath-core):
``measurements`` is a dictionary of numbers and colours are ``[r, g, b]``. Coordinates are pixels, y down.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hemolens.io.atomic import write_json
from hemolens.io.coco import PIXEL_DECIMALS, SCORE_DECIMALS
from hemolens.io.colors import class_color
from hemolens.io.detections import ImageDetections, check_labels


def geojson_dict(
    detections: ImageDetections,
    class_names: Sequence[str],
    object_type: Literal["detection", "annotation"] = "detection",
) -> dict[str, Any]:
    """Feature collection with one closed rectangle a box.

    Args:
        detections: boxes of one image.
        class_names: name of label 0, 1, ….
        object_type: QuPath's ``detection`` (light, for measuring) or ``annotation`` (can be edited by hand).

    Raises:
        UserError: a label has no name.
    """
    check_labels(detections, class_names)
    features = []
    per_box = (detections.boxes.tolist(), detections.labels.tolist(), detections.scores)
    for box, label, score in zip(*per_box, strict=True):
        x1, y1, x2, y2 = (round(value, PIXEL_DECIMALS) for value in box)
        features.append(
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]],
                },
                "properties": {
                    "objectType": object_type,
                    "classification": {"name": class_names[label], "color": list(class_color(label))},
                    "measurements": {"score": round(float(score), SCORE_DECIMALS)},
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def write_geojson(
    path: str | Path,
    detections: ImageDetections,
    class_names: Sequence[str],
    *,
    object_type: Literal["detection", "annotation"] = "detection",
    overwrite: bool = False,
) -> None:
    """Write :func:`geojson_dict` to ``path``, whole or not at all.

    Raises:
        UserError: a label has no name; ``path`` exists and ``overwrite`` is false; disk full.
    """
    write_json(path, geojson_dict(detections, class_names, object_type), overwrite=overwrite)
