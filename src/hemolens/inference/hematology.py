"""Paper A's pipeline after detection: volume and hemoglobin of each cell, and the indices of each blood sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hemolens.analysis.figures import save_figure
from hemolens.analysis.hematology_figures import draw_samples
from hemolens.analysis.indices import IndexSettings, instrument_of, measure_field
from hemolens.analysis.samples import sample_table
from hemolens.errors import UserError
from hemolens.inference.outputs import DetectedImage
from hemolens.inference.samples import SampleFile
from hemolens.io.atomic import atomic_path
from hemolens.io.labels import write_labels
from hemolens.io.volumes import open_volume
from hemolens.optics.tomography import TomographySettings

CELLS_CSV, SAMPLES_CSV, LABEL_FOLDER, SAMPLES_FIGURE = "cells.csv", "samples.csv", "labels", "samples.png"
LARGEST_NA = 2.0  # indices of media are below it; each volume's own is asked when it is measured
DECIMALS = {
    **dict.fromkeys(("x0", "y0", "x1", "y1"), 2),
    "score": 4,
    "cv_fl": 3,
    "ch_pg": 4,
    "concentration_g_dl": 3,
    "tilt_deg": 2,
    "footprint_um2": 3,
}


@dataclass
class HematologyOutputs:
    """Measures the cells of each detected tomogram and writes tables beside the detections.

    ``cells.csv`` (a row a cell), ``samples.csv`` (two rows a sample: RBC alone, RBC and ARBC), ``samples.png``, and
    ``labels/<tomogram>.ome.tif``, where pixel values are the ``cell`` of ``cells.csv``.

    Args:
        files: the tomograms, whose names are those of the detected images.
        class_names: of the detector.
        settings: how cells are measured.
        volume: what volumes do not state: keys of ``io.open_volume``.
        condenser_na, objective_na: apertures of the instrument.
        workers: cells that are measured at a time.

    Raises:
        UserError: an aperture that no instrument has.
    """

    files: Sequence[SampleFile]
    class_names: Sequence[str]
    settings: IndexSettings
    volume: Mapping[str, Any] = field(default_factory=dict)
    condenser_na: float = TomographySettings.condenser_na
    objective_na: float = TomographySettings.objective_na
    workers: int = 1
    _measured: list[tuple[SampleFile, pd.DataFrame]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        for name in ("condenser_na", "objective_na"):
            if not 0 < getattr(self, name) < LARGEST_NA:
                raise UserError(f"{name}={getattr(self, name)}: must be above 0 and below the medium's index")

    def add(self, folder: Path, stem: PurePosixPath, result: DetectedImage) -> None:
        """Measure one tomogram; see :class:`hemolens.inference.outputs.MoreOutputs`.

        A box of which nothing lies inside the field is a cell that the border cuts, without measurements.

        Raises:
            UserError: the volume cannot be read or measured; the message names the file.
        """
        found = result.detections
        file = next(entry for entry in self.files if entry.name == found.file_name)
        given = {name: value for name, value in self.volume.items() if value is not None}
        try:
            with open_volume(file.path, **given) as volume:
                height, width = volume.shape[1:]
                boxes = np.clip(found.boxes.astype(np.float64), 0, [width, height, width, height])
                inside = np.asarray((boxes[:, :2] < boxes[:, 2:]).all(1))
                optics = instrument_of(volume, condenser_na=self.condenser_na, objective_na=self.objective_na)
                table, labels = measure_field(volume, boxes[inside], self.settings, optics=optics, workers=self.workers)
                pixel_um = volume.voxel_um[2]
        except UserError as error:
            words = str(error)
            named_already = file.path.name in words
            raise UserError(words if named_already else f"{file.name}: {words}", exit_code=error.exit_code) from error
        table, labels = _with_all_cells(table, labels, boxes, inside)
        write_labels(folder / LABEL_FOLDER / f"{stem}.ome.tif", labels, pixel_um=pixel_um)
        named = {
            "sample": file.sample,
            "file": file.name,
            "cell": np.arange(1, len(table) + 1),
            "class": [self.class_names[label] for label in found.labels],
            "score": found.scores,
        }
        for place, (name, values) in enumerate(named.items()):
            table.insert(place, name, values)
        self._measured.append((file, table))

    def finish(self, folder: Path) -> None:
        """Write the tables and the figure."""
        cells = pd.concat([table for _, table in self._measured], ignore_index=True)
        samples = sample_table(cells, self.class_names, files={file.name: file.sample for file, _ in self._measured})
        for name, table in ((CELLS_CSV, cells.round(DECIMALS)), (SAMPLES_CSV, samples.round(4))):
            with atomic_path(folder / name, overwrite=False) as temporary:
                table.to_csv(temporary, index=False)
        save_figure(draw_samples(cells, samples), folder / SAMPLES_FIGURE)


def _with_all_cells(
    table: pd.DataFrame, labels: NDArray[np.int32], boxes: NDArray[np.float64], inside: NDArray[np.bool_]
) -> tuple[pd.DataFrame, NDArray[np.int32]]:
    """The rows of the cells inside the field, and empty ones for the others, in the order of the boxes."""
    if inside.all():
        return table, labels
    numbers = np.flatnonzero(inside)
    known = table.set_index(numbers)
    whole = known.reindex(range(len(boxes)))
    whole[["x0", "y0", "x1", "y1"]] = boxes
    for name, value in (("border_cut", True), ("clumped", False), ("extrapolated", False), ("contour_voxels", 0)):
        whole[name] = known[name].reindex(whole.index, fill_value=value)
    return whole, np.concatenate([[0], numbers + 1]).astype(np.int32)[labels]
