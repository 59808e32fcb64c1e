"""Detections as COCO JSON: the layout of a data set (images, categories, annotations) with a ``score`` each.

Layout: https://cocodataset.org/#format-data. With ``score`` the file serves as a result too, and labelling
tools that import COCO data sets show the boxes as a first draft to correct. Reading takes what such tools write back:
ids that are numbers or text, in any order, further categories and keys, and outlines in place of boxes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemolens.errors import UserError
from hemolens.io.atomic import write_json
from hemolens.io.detections import ImageDetections, check_labels

# Decimals kept: a thousandth of a pixel, a millionth of a score.
PIXEL_DECIMALS, SCORE_DECIMALS = 3, 6

# Where an export keeps a digest of its own content, so that it is known again if nobody has changed it.
DIGEST_KEY = "content_sha256"


def coco_dict(
    images: Sequence[ImageDetections], class_names: Sequence[str], info: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """COCO dictionary of ``images``; image, category and annotation ids count from 1.

    Args:
        images: one entry an image, empty ones included.
        class_names: name of label 0, 1, …; label ``c`` becomes category ``c + 1``.
        info: JSON-able facts about the run (checkpoint, thresholds) for the ``info`` section.

    Raises:
        UserError: a label has no name, or two images share a file name.
    """
    names = [image.file_name for image in images]
    if len(set(names)) < len(names):
        raise UserError(f"{max(names, key=names.count)} occurs twice: file names must be unique")
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, start=1):
        check_labels(image, class_names)
        for box, label, score in zip(image.boxes.tolist(), image.labels, image.scores, strict=True):
            x1, y1, x2, y2 = box
            width, height = x2 - x1, y2 - y1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(label) + 1,
                    "bbox": [round(value, PIXEL_DECIMALS) for value in (x1, y1, width, height)],
                    "area": round(width * height, PIXEL_DECIMALS),
                    "segmentation": [],  # boxes only; importers ask for the key
                    "iscrowd": 0,
                    "score": round(float(score), SCORE_DECIMALS),
                }
            )
    return {
        "info": dict(info or {}),
        "licenses": [],
        "images": [
            {"id": image_id, "file_name": image.file_name, "width": image.width, "height": image.height}
            for image_id, image in enumerate(images, start=1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)],
        "annotations": annotations,
    }


def write_coco(
    path: str | Path,
    images: Sequence[ImageDetections],
    class_names: Sequence[str],
    *,
    info: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write :func:`coco_dict` to ``path``, whole or not at all, with a digest that :func:`is_untouched_export` reads.

    Raises:
        UserError: as :func:`coco_dict`; ``path`` exists and ``overwrite`` is false; disk full.
    """
    content = coco_dict(images, class_names, info)
    content["info"][DIGEST_KEY] = _digest(content)
    write_json(path, content, overwrite=overwrite)


def run_lengths(
    mask: NDArray[np.bool_], corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None
) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths: column by column, zeros first.

    Args:
        mask: bool [h, w], a part of the image.
        corner: (top, left) of that part.
        size: (height, width) of the image; None: the mask is the image.
    """
    height, width = size or mask.shape
    top, left = corner
    # +1 where a run starts in a column and -1 behind its end
    steps = np.diff(np.pad(mask.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    starts_x, starts_y = np.nonzero(steps.T == 1)
    ends_x, ends_y = np.nonzero(steps.T == -1)
    if not len(starts_x):
        return {"size": [height, width], "counts": [height * width]}
    starts, ends = ((left + x) * height + top + y for x, y in ((starts_x, starts_y), (ends_x, ends_y)))
    # runs that go on from the foot of a column to the head of the next are one
    apart = starts[1:] > ends[:-1]
    starts, ends = starts[np.concatenate([[True], apart])], ends[np.concatenate([apart, [True]])]
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], edges, [height * width]])).tolist()
    return {"size": [height, width], "counts": counts if counts[-1] else counts[:-1]}


def mask_of(segmentation: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask [H, W] of run lengths, plain or compressed (``counts`` is text)."""
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def _uncompressed(text: str) -> list[int]:
    """Run lengths of COCO's compressed text.

    Each character carries five bits, lowest first, above 48; bit 5 says that more follow, bit 4 of the last one is the
    sign. From the fourth run on a number is the difference to the run two before (``rleFrString``, cocoapi).
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts


def content_digest(content: Any) -> str:
    """SHA-256 of plain data, whatever the order of keys and the layout of the file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_untouched_export(content: Any) -> bool:
    """Whether parsed JSON is what :func:`write_coco` wrote: no image, category or box was changed."""
    info = content.get("info") if isinstance(content, dict) else None
    return isinstance(info, dict) and DIGEST_KEY in info and info[DIGEST_KEY] == _digest(content)


def _digest(content: Mapping[str, Any]) -> str:
    return content_digest([content.get(key) for key in ("images", "categories", "annotations")])


def read_json(path: str | Path) -> Any:
    """Parsed JSON.

    Raises:
        UserError: missing, unreadable, or no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def read_coco(path: str | Path) -> tuple[list[ImageDetections], tuple[str, ...]]:
    """Read a COCO file: see :func:`parse_coco`.

    Raises:
        UserError: missing or broken file, or as :func:`parse_coco`.
    """
    return parse_coco(read_json(path), path)


def parse_coco(content: Any, path: str | Path) -> tuple[list[ImageDetections], tuple[str, ...]]:
    """Boxes of a parsed COCO file: ours, or of another tool.

    Boxes without ``score`` get 1.0. Where there is no ``bbox``, or an empty one, the box is that of the
    ``segmentation``: polygons, or run lengths, plain or compressed.

    Args:
        content: parsed JSON.
        path: of the file, for messages.

    Returns:
        images in file order, empty ones included, boxes in file order; and the class names by rising category
        id, so that the lowest id is label 0.

    Raises:
        UserError: a missing key, an annotation of an unknown image or category or without box and outline, or a
            crowd region (``iscrowd`` 1), which is no single cell.
    """
    try:
        return _parse(content, path)
    except KeyError as error:
        raise UserError(f"{path}: no key {error} where COCO JSON has one") from error
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is not COCO JSON: {error}") from error


def _parse(content: dict[str, Any], path: str | Path) -> tuple[list[ImageDetections], tuple[str, ...]]:
    categories = sorted(content["categories"], key=lambda category: _id_order(category["id"]))
    label_of = {str(category["id"]): label for label, category in enumerate(categories)}
    rows: dict[str, list[tuple[list[float], int, float]]] = {str(image["id"]): [] for image in content["images"]}
    for number, annotation in enumerate(content["annotations"], start=1):
        where = f"{path}: annotation {annotation.get('id', f'number {number}')}"
        image_id, category_id = str(annotation["image_id"]), str(annotation["category_id"])
        if image_id not in rows or category_id not in label_of:
            raise UserError(f"{where} points to an image or category that the file does not list")
        if int(annotation.get("iscrowd") or 0):
            raise UserError(f"{where} is a crowd region: replace it by one box a cell")
        box = _box_of(annotation, where)
        rows[image_id].append((box, label_of[category_id], float(annotation.get("score", 1.0))))
    images = []
    for image in content["images"]:
        found = rows[str(image["id"])]
        images.append(
            ImageDetections(
                file_name=image["file_name"],
                height=int(image["height"]),
                width=int(image["width"]),
                boxes=np.array([row[0] for row in found], dtype=np.float32),
                labels=np.array([row[1] for row in found], dtype=np.int64),
                scores=np.array([row[2] for row in found], dtype=np.float32),
            )
        )
    return images, tuple(category["name"] for category in categories)


def _id_order(value: Any) -> tuple[bool, int, str]:
    """Numbers, and text that holds one, by value; other text behind them."""
    text = str(value)
    number = text.removeprefix("-").isdecimal()
    return not number, int(text) if number else 0, text


def _box_of(annotation: Mapping[str, Any], where: str) -> list[float]:
    """Corners x1, y1, x2, y2 of an annotation's ``bbox``, or of its outline where that is missing or empty."""
    outline = annotation.get("segmentation")
    stated = annotation["bbox"] if not outline else annotation.get("bbox") or [0, 0, 0, 0]
    x, y, width, height = map(float, stated)
    if not outline or (width > 0 and height > 0):
        return [x, y, x + width, y + height]
    if isinstance(outline, Mapping):
        ys, xs = np.nonzero(mask_of(outline))
        if not len(xs):
            raise UserError(f"{where} has neither a box nor a pixel in its segmentation: remove it")
        return [float(xs.min()), float(ys.min()), float(xs.max()) + 1, float(ys.max()) + 1]
    points = np.array([value for polygon in outline for value in polygon], dtype=np.float64).reshape(-1, 2)
    return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
