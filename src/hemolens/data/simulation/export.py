"""A simulated data set as a lab would hand it over: tomograms in instrument files, boxes, and a table of every cell."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemolens.data.simulation.plan import DataSetPlan, FieldRecord
from hemolens.data.simulation.run import FieldStore, simulate_fields
from hemolens.data.simulation.truth import PER_CELL, load_arrays, masks_of
from hemolens.errors import UserError
from hemolens.io.atomic import write_json
from hemolens.io.coco import run_lengths
from hemolens.io.tables import write_csv
from hemolens.optics.cells import CLASS_NAMES

FORMATS = {"tcf": ".tcf", "ome-tiff": ".ome.tif", "zarr": ".zarr"}
ANNOTATIONS, CELLS, SAMPLES = "annotations.json", "cells.csv", "manifest.csv"
SETTINGS = "simulation.json"
CELL_COLUMNS = (
    *("file", "split", "sample", "instance_id", "class", "true_class", "kind", "irregularity", "annotations"),
    *("volume_fl", "hemoglobin_pg", "mchc_g_dl"),
    *("x_um", "y_um", "z_um", "tilt_deg", "azimuth_deg", "roll_deg"),
    *("x1_px", "y1_px", "x2_px", "y2_px", "visible_fraction", "touching"),
)
SAMPLE_COLUMNS = ("file", "split", "sample", "mcv_fl", "rdw_percent", "mchc_g_dl", "hemoglobin_cv_percent", "cells")
_ARRAYS = (
    *("boxes", "labels", "annotations", "pose", "visible_fraction", "touching"),
    *("mask_corner", "mask_size", "mask_bits", "sample"),
    *PER_CELL,
)


def export_data_set(
    plan: DataSetPlan, folder: str | Path, *, volume_format: str = "tcf", workers: int | None = None
) -> list[FieldRecord]:
    """Simulate ``plan`` into ``folder``; a stopped call goes on where it was.

    - ``volumes/<name>.tcf`` (or ``.ome.tif``, ``.zarr``): the tomograms.
    - ``annotations.json``: COCO, with boxes and masks (run lengths) by the annotators' majority.
    - ``cells.csv``: one row a cell with everything that is known of it.
    - ``manifest.csv``: one row a tomogram, its blood sample and split.
    - ``simulation.json``: all settings. ``fields/``: the truth in arrays, see ``truth.truth_arrays``.

    Args:
        plan: what to simulate.
        folder: new, or one that the same plan was begun in.
        volume_format: ``tcf``, ``ome-tiff`` or ``zarr``.
        workers: see ``run.simulate_data_set``.

    Raises:
        UserError: an unknown format, a folder with something else in it, no space, or a process died.
    """
    if volume_format not in FORMATS:
        raise UserError(f"format={volume_format}: choose from {', '.join(FORMATS)}")
    folder = Path(folder)
    store = FieldStore(folder, FORMATS[volume_format])
    begun = {"fingerprint": plan.fingerprint(), "format": volume_format, "plan": asdict(plan)}
    _claim(folder, begun)
    records = simulate_fields(plan, store, workers=workers)
    truths = [load_arrays(store.truth(record.name), _ARRAYS) for record in records]
    files = [store.volume(record.name).relative_to(folder).as_posix() for record in records]
    write_csv(folder / CELLS, CELL_COLUMNS, _cell_rows(records, files, truths), overwrite=True)
    write_csv(folder / SAMPLES, SAMPLE_COLUMNS, _sample_rows(records, files, truths), overwrite=True)
    write_json(folder / ANNOTATIONS, _coco(plan, files, truths), overwrite=True)
    return records


def _claim(folder: Path, begun: dict[str, Any]) -> None:
    """Note the settings in a new folder, or check that the folder is ours."""
    settings = folder / SETTINGS
    if settings.is_file():
        found = json.loads(settings.read_text())
        if (found.get("fingerprint"), found.get("format")) != (begun["fingerprint"], begun["format"]):
            raise UserError(f"{folder} was begun with other settings or another version: choose a new output")
        return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and holds other files: choose a new output")
    write_json(settings, begun)


def _cell_rows(
    records: Sequence[FieldRecord], files: Sequence[str], truths: Sequence[dict[str, NDArray[Any]]]
) -> Iterator[list[Any]]:
    for record, file, truth in zip(records, files, truths, strict=True):
        for i in range(len(truth["labels"])):
            volume, mass = float(truth["volume_fl"][i]), float(truth["hemoglobin_pg"][i])
            x, y, z, *angles = truth["pose"][i].tolist()
            yield [
                file,
                record.split,
                record.sample,
                int(truth["instance_id"][i]),
                CLASS_NAMES[truth["labels"][i]],
                truth["true_class"][i],
                truth["kind"][i],
                round(float(truth["irregularity"][i]), 4),
                "/".join(truth["annotations"][i]),
                round(volume, 4),
                round(mass, 4),
                round(100 * mass / volume, 4),
                *(round(value, 4) for value in (x, y, z)),
                *(round(math.degrees(angle), 3) for angle in angles),
                *(round(float(value), 2) for value in truth["boxes"][i]),
                round(float(truth["visible_fraction"][i]), 4),
                int(truth["touching"][i]),
            ]


def _sample_rows(
    records: Sequence[FieldRecord], files: Sequence[str], truths: Sequence[dict[str, NDArray[Any]]]
) -> Iterator[list[Any]]:
    for record, file, truth in zip(records, files, truths, strict=True):
        indices = [round(float(value), 3) for value in truth["sample"]]
        yield [file, record.split, record.sample, *indices, len(truth["labels"])]


def _coco(plan: DataSetPlan, files: Sequence[str], truths: Sequence[dict[str, NDArray[Any]]]) -> dict[str, Any]:
    height, width = plan.fov.field_px
    annotations: list[dict[str, Any]] = []
    for image_id, truth in enumerate(truths, start=1):
        boxes = truth["boxes"].tolist()
        for i, (mask, (top, left)) in enumerate(zip(masks_of(truth), truth["mask_corner"].tolist(), strict=True)):
            whole = np.zeros((height, width), bool)
            whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            x1, y1, x2, y2 = boxes[i]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(truth["labels"][i]) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(mask.sum()),
                    "segmentation": run_lengths(whole),
                    "iscrowd": 0,
                    "instance_id": int(truth["instance_id"][i]),
                }
            )
    return {
        "info": {"description": "simulated tomograms with known truth", "fingerprint": plan.fingerprint()},
        "licenses": [],
        "images": [
            {"id": number, "file_name": file, "width": width, "height": height}
            for number, file in enumerate(files, start=1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES, start=1)],
        "annotations": annotations,
    }
