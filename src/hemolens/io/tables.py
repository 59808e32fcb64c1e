"""Detections as CSV: one row a cell, and one row an image with the counts per class."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hemolens.io.atomic import atomic_path
from hemolens.io.coco import PIXEL_DECIMALS, SCORE_DECIMALS
from hemolens.io.detections import ImageDetections, check_labels

DETECTION_COLUMNS = (
    *("image", "class", "score"),
    *("x1", "y1", "x2", "y2", "width_px", "height_px"),
    "touches_border",
)


def write_csv(
    path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, overwrite: bool = False
) -> None:
    """Write a header and rows as UTF-8 CSV, whole or not at all.

    Raises:
        UserError: ``path`` exists and ``overwrite`` is false; disk full.
    """
    with (
        atomic_path(path, overwrite=overwrite) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_detections_csv(
    path: str | Path,
    images: Iterable[ImageDetections],
    class_names: Sequence[str],
    *,
    overwrite: bool = False,
) -> None:
    """Write one row a box with ``DETECTION_COLUMNS``: pixels, and ``touches_border`` 0 or 1.

    Raises:
        UserError: a label has no name; ``path`` exists and ``overwrite`` is false; disk full.
    """
    write_csv(path, DETECTION_COLUMNS, _detection_rows(images, class_names), overwrite=overwrite)


def _detection_rows(images: Iterable[ImageDetections], class_names: Sequence[str]) -> Iterable[Sequence[Any]]:
    for image in images:
        check_labels(image, class_names)
        per_box = (image.boxes.tolist(), image.labels, image.scores, image.touches_border)
        for (x1, y1, x2, y2), label, score, border in zip(*per_box, strict=True):
            pixels = [round(value, PIXEL_DECIMALS) for value in (x1, y1, x2, y2, x2 - x1, y2 - y1)]
            name = class_names[label]
            yield [image.file_name, name, round(float(score), SCORE_DECIMALS), *pixels, int(border)]


def write_counts_csv(
    path: str | Path,
    images: Iterable[ImageDetections],
    class_names: Sequence[str],
    *,
    overwrite: bool = False,
) -> None:
    """Write one row an image: its size in pixels, ``total`` and a column ``n_<class>`` a class.

    Raises:
        UserError: a label has no name; ``path`` exists and ``overwrite`` is false; disk full.
    """
    rows = []
    for image in images:
        check_labels(image, class_names)
        counts = np.bincount(image.labels, minlength=len(class_names)).tolist()
        rows.append([image.file_name, image.width, image.height, len(image), *counts])
    columns = ["image", "image_width_px", "image_height_px", "total", *(f"n_{name}" for name in class_names)]
    write_csv(path, columns, rows, overwrite=overwrite)
