"""Detections as COCO JSON: the layout of a data set (images, categories, annotations) with a ``score`` each.

Layout: https://cocodataset.org/#format-data. With ``score`` the file serves as a result too, and labelling
tools that import COCO data sets show the boxes as a first draft to correct.
"""

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
    """Write :func:`coco_dict` to ``path``, whole or not at all.

    Raises:
        UserError: as :func:`coco_dict`; ``path`` exists and ``overwrite`` is false; disk full.
    """
    write_json(path, coco_dict(images, class_names, info), overwrite=overwrite)


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
    """The mask [H, W] of uncompressed run lengths."""
    height, width = segmentation["size"]
    values = np.arange(len(segmentation["counts"])) % 2 == 1
    return np.repeat(values, segmentation["counts"]).reshape(width, height).T


def read_coco(path: str | Path) -> tuple[list[ImageDetections], tuple[str, ...]]:
    """Read a COCO file: ours, or a hand-made ground truth (boxes without ``score`` get 1.0).

    Returns:
        images in file order, empty ones included, boxes in file order; and the class names by rising category
        id, so that the lowest id is label 0.

    Raises:
        UserError: missing or broken file, a missing key, an annotation of an unknown image or category, or a
            crowd region (``iscrowd`` 1), which is no single cell.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    try:
        return _parse(content, path)
    except KeyError as error:
        raise UserError(f"{path}: no key {error} where COCO JSON has one") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not COCO JSON: {error}") from error


def _parse(content: dict[str, Any], path: str | Path) -> tuple[list[ImageDetections], tuple[str, ...]]:
    categories = sorted(content["categories"], key=lambda category: category["id"])
    label_of = {category["id"]: label for label, category in enumerate(categories)}
    rows: dict[int, list[tuple[list[float], int, float]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        where = f"{path}: annotation {annotation['id']}"
        if annotation["image_id"] not in rows or annotation["category_id"] not in label_of:
            raise UserError(f"{where} points to an image or category that the file does not list")
        if annotation.get("iscrowd", 0):
            raise UserError(f"{where} is a crowd region: replace it by one box a cell")
        x, y, width, height = annotation["bbox"]
        box = [x, y, x + width, y + height]
        row = (box, label_of[annotation["category_id"]], annotation.get("score", 1.0))
        rows[annotation["image_id"]].append(row)
    images = []
    for image in content["images"]:
        found = rows[image["id"]]
        images.append(
            ImageDetections(
                file_name=image["file_name"],
                height=image["height"],
                width=image["width"],
                boxes=np.array([row[0] for row in found], dtype=np.float32),
                labels=np.array([row[1] for row in found], dtype=np.int64),
                scores=np.array([row[2] for row in found], dtype=np.float32),
            )
        )
    return images, tuple(category["name"] for category in categories)
