"""Write what was detected in a set of images: tables, COCO JSON, GeoJSON and overlays, all or nothing."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from numpy.typing import NDArray

from hemolens.analysis.figures import draw_detections, save_figure
from hemolens.errors import UserError
from hemolens.io.coco import write_coco
from hemolens.io.detections import ImageDetections
from hemolens.io.geojson import write_geojson
from hemolens.io.tables import write_counts_csv, write_detections_csv

DETECTIONS_CSV = "detections.csv"
COUNTS_CSV = "counts.csv"
COCO_JSON = "detections_coco.json"
GEOJSON_FOLDER = "geojson"
OVERLAY_FOLDER = "overlays"
OUTPUT_NAMES = frozenset({DETECTIONS_CSV, COUNTS_CSV, COCO_JSON, GEOJSON_FOLDER, OVERLAY_FOLDER})


@dataclass(frozen=True, eq=False)
class DetectedImage:
    """Detections of one image and its pixels, ``[H, W]`` or ``[H, W, 3]``, for the overlay."""

    detections: ImageDetections
    pixels: NDArray[Any]


class MoreOutputs(Protocol):
    """What a pipeline writes into the same folder beside the detections."""

    def add(self, folder: Path, stem: PurePosixPath, result: DetectedImage) -> None:
        """Before an image's own files; ``stem`` is the name of its files.

        Raises:
            UserError: nothing can be made of this image; nothing of it was written.
        """

    def finish(self, folder: Path) -> None:
        """After the last image."""


def write_detection_outputs(
    folder: str | Path,
    results: Iterable[DetectedImage],
    class_names: Sequence[str],
    *,
    info: Mapping[str, Any] | None = None,
    overlays: bool = True,
    overwrite: bool = False,
    more: MoreOutputs | None = None,
    leave_out: Callable[[UserError], None] | None = None,
) -> list[ImageDetections]:
    """Write the results of a prediction to a new folder.

    The folder holds ``detections.csv`` (a row a cell), ``counts.csv`` (a row an image),
    ``detections_coco.json``, ``geojson/<image>.geojson`` and ``overlays/<image>.png``. Everything is written
    to a hidden folder beside it that takes its name at the end, so that a folder under that name is complete.
    ``results`` is consumed one image at a time: a generator may read and predict as it goes, and only one
    image is in memory.

    Args:
        folder: new or empty folder.
        results: images in the order of the tables.
        class_names: name of label 0, 1, ….
        info: JSON-able facts about the run (checkpoint, thresholds) for the COCO file.
        overlays: draw a picture of each image.
        overwrite: replace a folder that holds nothing but an earlier result.
        more: writes into the folder too.
        leave_out: is told why ``more`` cannot take an image, which is then left out of all results; None: the error
            goes through.

    Returns:
        The detections that were written.

    Raises:
        UserError: the folder exists and is not empty (with ``overwrite``: holds something else); two images
            share a file name; a label has no name; the disk is full. What ``results`` raises goes through.
    """
    check_output_folder(folder, overwrite=overwrite)
    with _new_folder(Path(folder)) as temporary:
        images: list[ImageDetections] = []
        stems: set[PurePosixPath] = set()
        for result in results:
            stem = _output_stem(result.detections.file_name, stems)
            if more is not None:
                try:
                    more.add(temporary, stem, result)
                except UserError as error:
                    if leave_out is None:
                        raise
                    leave_out(error)
                    continue
            write_geojson(temporary / GEOJSON_FOLDER / f"{stem}.geojson", result.detections, class_names)
            if overlays:
                _write_overlay(temporary / OVERLAY_FOLDER / f"{stem}.png", result, class_names)
            images.append(result.detections)
        write_detections_csv(temporary / DETECTIONS_CSV, images, class_names)
        write_counts_csv(temporary / COUNTS_CSV, images, class_names)
        write_coco(temporary / COCO_JSON, images, class_names, info=info)
        if more is not None:
            more.finish(temporary)
    return images


def check_output_folder(folder: str | Path, *, overwrite: bool = False) -> None:
    """Raise :class:`UserError` if ``folder`` can't take new results; call it before the work that makes them.

    Args:
        folder: see :func:`write_detection_outputs`.
        overwrite: see :func:`write_detection_outputs`.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output {folder} is a file: choose another name")
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not present:
        return
    if not overwrite:
        raise UserError(f"output folder {folder} exists and is not empty: choose another or remove it first")
    foreign = sorted(present - OUTPUT_NAMES)
    if foreign:
        raise UserError(f"output folder {folder} holds {foreign[0]}, which is no earlier result: not overwritten")


def _output_stem(file_name: str, taken: set[PurePosixPath]) -> PurePosixPath:
    """Name of an image's files: ``a/field`` for ``a/field.tif``, or ``a/field_tif`` if that is taken."""
    path = PurePosixPath(file_name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"image name {file_name} leads out of the output folder: give a relative one")
    stem = path.with_suffix("")
    if stem in taken:
        stem = path.with_name(path.name.replace(".", "_"))
    if stem in taken:
        raise UserError(f"{file_name} occurs twice: file names must be unique")
    taken.add(stem)
    return stem


def _write_overlay(path: Path, result: DetectedImage, class_names: Sequence[str]) -> None:
    found = result.detections
    save_figure(draw_detections(result.pixels, found.boxes, found.labels, found.scores, class_names), path)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that replaces ``folder`` if the block ends without error and vanishes otherwise."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:40]}-"))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}", exit_code=1) from error
    try:
        new, old = workplace / "new", workplace / "old"
        new.mkdir()  # within the workplace, which is private, so that it has the usual mode
        yield new
        try:
            if folder.exists():
                os.replace(folder, old)
            os.replace(new, folder)
        except OSError as error:
            if old.exists():
                os.replace(old, folder)
            raise UserError(f"cannot write {folder}: {error.strerror or error}", exit_code=1) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
