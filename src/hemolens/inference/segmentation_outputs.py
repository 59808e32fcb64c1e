"""Write what was segmented in phase images: label maps, a table of cells, counts and overlays, all or nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hemolens.analysis.figures import save_figure
from hemolens.analysis.red_cells import MEASURES, measure_red_cells
from hemolens.analysis.segmentation_figures import draw_overlay, overlay
from hemolens.inference.outputs import ABOUT_JSON, COUNTS_CSV, OVERLAY_FOLDER
from hemolens.io.atomic import atomic_folder, write_json
from hemolens.io.labels import write_labels
from hemolens.io.phase import PhaseImage, write_phase
from hemolens.io.tables import write_csv

CLASSES_FOLDER, INSTANCES_FOLDER, PHASE_FOLDER, CELLS_CSV = "classes", "instances", "phase", "cells.csv"
DECIMALS = 4


@dataclass(frozen=True, eq=False)
class SegmentedField:
    """A phase image and what was found in it.

    Attributes:
        name: of its results, a path without suffix.
        file: that it was read from.
        image: the phase and its scale.
        maps: see ``inference.segmentation.predict_segmentation``.
        made: whether the phase was reconstructed here, and is written too.
        quality: of the reconstruction, a row of ``quality.csv``; None where it is not known.
    """

    name: str
    file: str
    image: PhaseImage
    maps: Mapping[str, NDArray[Any]]
    made: bool = False
    quality: Mapping[str, Any] | None = None


class MoreSegmentationOutputs(Protocol):
    """Measures more of each image, and writes it into the folder of results.

    Attributes:
        columns: that it adds to the table of cells.
    """

    columns: tuple[str, ...]

    def add(self, result: SegmentedField, cells: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """Take in an image and its measured cells; returns the values of ``columns`` for each cell."""

    def finish(self, folder: Path) -> None:
        """Write what was measured."""


def write_segmentations(
    folder: str | Path,
    results: Iterable[SegmentedField],
    class_names: Sequence[str],
    *,
    info: Mapping[str, Any],
    alpha_um3_pg: float,
    overlays: bool = True,
    more: MoreSegmentationOutputs | None = None,
) -> list[dict[str, int]]:
    """Write the results to a new folder.

    - ``classes/<name>.ome.tif``, ``instances/<name>.ome.tif``: label maps with their pixel size.
    - ``phase/<name>.ome.tif``: of holograms that were reconstructed here.
    - ``cells.csv``: a row a cell, see ``analysis.red_cells.measure_red_cells``; ``counts.csv``: a row an image.
    - ``overlays/<name>.png``; ``prediction.json``: what it was made with.

    Args:
        folder: new or empty.
        results: consumed one image at a time.
        class_names: background first.
        info: JSON-able facts for ``prediction.json``.
        alpha_um3_pg: of the dry mass.
        overlays: draw them.
        more: what else is to be measured and written.

    Returns:
        Cells of each type, an entry an image.

    Raises:
        UserError: the disk is full. What ``results`` raises goes through.
    """
    types = class_names[1:]
    counts: list[dict[str, int]] = []
    with atomic_folder(folder) as temporary:
        rows, totals = [], []
        for result in results:
            image, maps = result.image, result.maps
            for place, labels in ((CLASSES_FOLDER, maps["classes"]), (INSTANCES_FOLDER, maps["instances"])):
                write_labels(temporary / place / f"{result.name}.ome.tif", labels, pixel_um=image.pixel_um)
            if result.made:
                write_phase(temporary / PHASE_FOLDER / f"{result.name}.ome.tif", image)
            cells = measure_red_cells(
                image.phase_rad,
                maps["classes"],
                maps["instances"],
                class_names,
                probability=maps["probability"],
                pixel_um=image.pixel_um,
                wavelength_um=image.wavelength_um,
                alpha_um3_pg=alpha_um3_pg,
            )
            found = {name: sum(cell["type"] == name for cell in cells) for name in types}
            extra = [[]] * len(cells) if more is None else more.add(result, cells)
            for cell, added in zip(cells, extra, strict=True):
                rows.append([result.file, *added, *(_shown(cell[column]) for column in MEASURES)])
            totals.append([result.file, *found.values(), len(cells)])
            counts.append(found)
            if overlays:
                pixels = overlay(image.phase_rad, maps["classes"], class_names, maps["instances"])
                save_figure(draw_overlay(pixels, found, class_names), temporary / OVERLAY_FOLDER / f"{result.name}.png")
        write_csv(temporary / CELLS_CSV, ["file", *([] if more is None else more.columns), *MEASURES], rows)
        write_csv(temporary / COUNTS_CSV, ["file", *types, "all"], totals)
        if more is not None:
            more.finish(temporary)
        write_json(temporary / ABOUT_JSON, {"class_names": list(class_names), **info})
    return counts


def _shown(value: Any) -> Any:
    """A value in a table: nothing for None, numbers rounded."""
    if value is None:
        return ""
    return round(float(value), DECIMALS) if isinstance(value, float | np.floating) else value
