"""Detections of one image as GeoJSON for QuPath: drag the file onto the open image.

Keys as QuPath 0.4 and later reads and writes them (class ``QuPathTypeAdapters`` of qupath-core):
``measurements`` is a dictionary of numbers and colours are ``[r, g, b]``. Coordinates are pixels, y down.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hemolens.errors import UserError
from hemolens.io.atomic import write_json
from hemolens.io.coco import DIGEST_KEY, PIXEL_DECIMALS, SCORE_DECIMALS, content_digest, read_json
from hemolens.io.colors import class_color
from hemolens.io.detections import ImageDetections, check_labels

log = logging.getLogger(__name__)

# What may be a cell; "unknown" is an annotation to QuPath too. Its other kinds of object: root, tile, tma_core.
_CELL_KINDS = frozenset({"annotation", "detection", "cell", "unknown"})
_AREAS = frozenset({"Polygon", "MultiPolygon"})
_TYPES = ("Feature", "FeatureCollection")


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
    # RFC 7946, 6.1, allows further members; programs that write the file anew leave this one out
    return {"type": "FeatureCollection", "features": features, DIGEST_KEY: content_digest(features)}


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


@dataclass(frozen=True, eq=False)
class GeoJSONObjects:
    """The objects of one image.

    Attributes:
        names: class of each object as written, M strings; empty where it has none.
        boxes: float32 [M, 4], xyxy in pixels: the bounds of each outline.
        untouched: the file is as :func:`write_geojson` wrote it.
    """

    names: tuple[str, ...]
    boxes: NDArray[np.float32]
    untouched: bool


def read_geojson(path: str | Path) -> GeoJSONObjects:
    """Read what :func:`write_geojson` or QuPath (0.2 and later) wrote: a feature collection, a list, or one feature.

    Polygons and multipolygons of annotations, detections and cells are taken; other objects and shapes are counted in
    the log. A class is ``classification.name``, or its ``names`` joined by ``": "`` as QuPath shows derived classes.

    Raises:
        UserError: missing or broken file, or no GeoJSON.
    """
    return parse_geojson(read_json(path), path)


def is_geojson(content: Any) -> bool:
    """Whether parsed JSON may be GeoJSON: a list, a feature or a collection of them."""
    return isinstance(content, list) or (isinstance(content, dict) and content.get("type") in _TYPES)


def parse_geojson(content: Any, path: str | Path) -> GeoJSONObjects:
    """See :func:`read_geojson`; ``content`` is the parsed file."""
    if not is_geojson(content):
        raise UserError(f"{path} is not GeoJSON: expected a FeatureCollection, a list of features, or a Feature")
    features = content
    if isinstance(content, dict):
        features = content.get("features") if content["type"] == "FeatureCollection" else [content]
    names, boxes, left_out = [], [], Counter[str]()
    try:
        for feature in _flat(features):
            kind, shape = _kind(feature), str((feature["geometry"] or {}).get("type"))
            if kind not in _CELL_KINDS or shape not in _AREAS:
                left_out[shape if kind in _CELL_KINDS else kind] += 1
                continue
            points = np.array(list(_points(feature["geometry"]["coordinates"])), dtype=np.float64)
            boxes.append([*points.min(axis=0), *points.max(axis=0)])
            names.append(_class_name(feature))
    except KeyError as error:
        raise UserError(f"{path}: no key {error} where GeoJSON has one") from error
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is not GeoJSON: {error}") from error
    if left_out:
        log.info("%s: left out %s", path, ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items())))
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    if not np.isfinite(corners).all():
        raise UserError(f"{path}: object {int(np.argmin(np.isfinite(corners).all(axis=1))) + 1} has no finite outline")
    untouched = isinstance(content, dict) and content.get(DIGEST_KEY) == content_digest(features)
    return GeoJSONObjects(tuple(names), corners, untouched)


def _kind(feature: Mapping[str, Any]) -> str:
    """``objectType`` of QuPath 0.4, ``object_type`` before, the id of 0.2; other programs' features are annotations."""
    properties = feature.get("properties") or {}
    kind = properties.get("objectType") or properties.get("object_type")
    if kind:
        return str(kind)
    name = str(feature.get("id") or "")
    return name.removeprefix("Path").removesuffix("Object").lower() if name.endswith("Object") else "annotation"


def _flat(features: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Features and, after each, those inside it (``childObjects`` of QuPath's hierarchy)."""
    for feature in features:
        yield feature
        yield from _flat((feature.get("properties") or {}).get("childObjects") or ())


def _class_name(feature: Mapping[str, Any]) -> str:
    found = (feature.get("properties") or {}).get("classification") or {}
    if isinstance(found, str):
        return found
    return str(found["name"]) if found.get("name") else ": ".join(found.get("names") or ())


def _points(coordinates: Sequence[Any]) -> Iterator[tuple[float, float]]:
    """Every x, y of nested lists of positions."""
    if isinstance(coordinates[0], int | float):
        yield float(coordinates[0]), float(coordinates[1])
        return
    if isinstance(coordinates, str):
        raise ValueError(f"{coordinates!r} where coordinates are")
    for part in coordinates:
        yield from _points(part)
