"""Write what was detected in a set of images: tables, COCO JSON, GeoJSON and overlays, all or nothing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from numpy.typing import NDArray

from hemolens.analysis.figures import draw_detections, save_figure
from hemolens.errors import UserError
from hemolens.inference.correction import Ranking
from hemolens.inference.ranking import ImageUncertainty
from hemolens.io.atomic import atomic_folder, write_json
from hemolens.io.coco import write_coco
from hemolens.io.detections import ImageDetections
from hemolens.io.geojson import write_geojson
from hemolens.io.tables import write_counts_csv, write_detections_csv

DETECTIONS_CSV = "detections.csv"
COUNTS_CSV = "counts.csv"
COCO_JSON = "detections_coco.json"
ABOUT_JSON = "prediction.json"
GEOJSON_FOLDER = "geojson"
OVERLAY_FOLDER = "overlays"
RANKING_CSV = "ranking.csv"
CORRECT_FOLDER = "to_correct"
OUTPUT_NAMES = frozenset(
    {
        *(DETECTIONS_CSV, COUNTS_CSV, COCO_JSON, ABOUT_JSON, GEOJSON_FOLDER, OVERLAY_FOLDER),
        *(RANKING_CSV, CORRECT_FOLDER),
    }
)


@dataclass(frozen=True, eq=False)
class DetectedImage:
    """Detections of one image, its pixels, ``[H, W]`` or ``[H, W, 3]``, and what ranks it; None leaves it unranked."""

    detections: ImageDetections
    pixels: NDArray[Any]
    uncertainty: ImageUncertainty | None = None


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
    to_correct: int = 0,
    more: Sequence[MoreOutputs] = (),
    leave_out: Callable[[UserError], None] | None = None,
) -> list[ImageDetections]:
    """Write the results of a prediction to a new folder.

    The folder holds ``detections.csv`` (a row a cell), ``counts.csv`` (a row an image), ``ranking.csv`` (the same, the
    most uncertain first), ``detections_coco.json``, ``prediction.json``, ``geojson/<image>.geojson`` and
    ``overlays/<image>.png``, and with ``to_correct`` a folder of that name, see
    ``correction.Ranking.write_pictures``. Everything is written to a hidden folder beside it that takes its name at
    the end, so that a folder under that name is complete. ``results`` is consumed one image at a time: a generator
    may read and predict as it goes, and only one
    image is in memory.

    Args:
        folder: new or empty folder.
        results: images in the order of the tables.
        class_names: name of label 0, 1, ….
        info: JSON-able facts about the run (checkpoint, thresholds) for the COCO file and ``prediction.json``.
        overlays: draw a picture of each image.
        overwrite: replace a folder that holds nothing but an earlier result.
        to_correct: how many of the most uncertain images are written as pictures with boxes to edit.
        more: write into the folder too.
        leave_out: is told why one of ``more`` cannot take an image, which is then left out of all results; None: the
            error goes through.

    Returns:
        The detections that were written.

    Raises:
        UserError: the folder exists and is not empty (with ``overwrite``: holds something else); two images
            share a file name; a label has no name; the disk is full. What ``results`` raises goes through.
    """
    check_output_folder(folder, overwrite=overwrite)
    with atomic_folder(folder) as temporary:
        images: list[ImageDetections] = []
        stems: set[PurePosixPath] = set()
        ranking = Ranking(to_correct)
        for result in results:
            stem = _output_stem(result.detections.file_name, stems)
            try:
                for output in more:
                    output.add(temporary, stem, result)
            except UserError as error:
                if leave_out is None:
                    raise
                leave_out(error)
                continue
            write_geojson(temporary / GEOJSON_FOLDER / f"{stem}.geojson", result.detections, class_names)
            if overlays:
                _write_overlay(temporary / OVERLAY_FOLDER / f"{stem}.png", result, class_names)
            if result.uncertainty is not None:
                ranking.add(stem, result.detections, result.uncertainty, result.pixels)
            images.append(result.detections)
        write_detections_csv(temporary / DETECTIONS_CSV, images, class_names)
        write_counts_csv(temporary / COUNTS_CSV, images, class_names)
        ranking.write_table(temporary / RANKING_CSV)
        write_coco(temporary / COCO_JSON, images, class_names, info=info)
        if info is not None:
            write_json(temporary / ABOUT_JSON, {"class_names": list(class_names), **info})
        if to_correct:
            ranking.write_pictures(temporary / CORRECT_FOLDER, class_names, info)
        for output in more:
            output.finish(temporary)
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
