"""A simulated data set as a lab would hand it over: tomograms in instrument files, boxes, and a table of every cell."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from hemolens.data.simulation.analyser import analyse_sample
from hemolens.data.simulation.claim import claim_folder
from hemolens.data.simulation.plan import DataSetPlan, FieldRecord
from hemolens.data.simulation.run import FieldStore, simulate_fields
from hemolens.data.simulation.truth import PER_CELL, load_arrays, masks_of
from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path
from hemolens.io.coco import run_lengths
from hemolens.io.labels import write_labels
from hemolens.io.tables import write_csv
from hemolens.optics.cells import CLASS_NAMES

FORMATS = {"tcf": ".tcf", "ome-tiff": ".ome.tif", "zarr": ".zarr"}
ANNOTATIONS, CELLS, SAMPLES, REFERENCE = "annotations.json", "cells.csv", "manifest.csv", "reference.csv"
LABELS = "labels"
CELL_COLUMNS = (
    *("file", "split", "sample", "instance_id", "class", "true_class", "kind", "irregularity", "annotations"),
    *("volume_fl", "hemoglobin_pg", "mchc_g_dl"),
    *("x_um", "y_um", "z_um", "tilt_deg", "azimuth_deg", "roll_deg"),
    *("x1_px", "y1_px", "x2_px", "y2_px", "visible_fraction", "touching"),
)
SAMPLE_COLUMNS = ("file", "split", "sample", "mcv_fl", "rdw_percent", "mchc_g_dl", "hemoglobin_cv_percent", "cells")
REFERENCE_COLUMNS = ("sample", "device", "mcv_fl", "mch_pg")
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
    - ``labels/<name>.ome.tif``: instance masks; where cells overlap, the later one.
    - ``cells.csv``: one row a cell with everything that is known of it.
    - ``manifest.csv``: one row a tomogram, its blood sample and split.
    - ``reference.csv``: one row a sample, what a hematology analyser reads of its RBC, see ``simulation.analyser``.
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
    claim_folder(folder, begun)
    records = simulate_fields(plan, store, workers=workers)
    fields = [_Field(record, store.volume(record.name).relative_to(folder).as_posix(), store) for record in records]
    # tables that are there are whole, and may have been corrected by hand
    if not (folder / CELLS).exists():
        write_csv(folder / CELLS, CELL_COLUMNS, _cell_rows(fields))
    if not (folder / SAMPLES).exists():
        write_csv(folder / SAMPLES, SAMPLE_COLUMNS, _sample_rows(fields))
    if not (folder / REFERENCE).exists():
        write_csv(folder / REFERENCE, REFERENCE_COLUMNS, _reference_rows(fields, plan.seed))
    if not (folder / ANNOTATIONS).exists():
        with atomic_path(folder / ANNOTATIONS) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(_coco_lines(plan, fields))
    _write_label_masks(plan, folder, fields)
    return records


@dataclass(frozen=True)
class _Field:
    """A stored field whose truth is read when it is needed, so that one at a time is held."""

    record: FieldRecord
    file: str
    store: FieldStore

    def truth(self) -> dict[str, NDArray[Any]]:
        return load_arrays(self.store.truth(self.record.name), _ARRAYS)


def _cell_rows(fields: Sequence[_Field]) -> Iterator[list[Any]]:
    for field in track(fields, "cells.csv", transient=True):
        truth = field.truth()
        for i in range(len(truth["labels"])):
            volume, mass = float(truth["volume_fl"][i]), float(truth["hemoglobin_pg"][i])
            x, y, z, *angles = truth["pose"][i].tolist()
            yield [
                field.file,
                field.record.split,
                field.record.sample,
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


def _sample_rows(fields: Sequence[_Field]) -> Iterator[list[Any]]:
    for field in fields:
        truth = field.truth()
        indices = [round(float(value), 3) for value in truth["sample"]]
        yield [field.file, field.record.split, field.record.sample, *indices, len(truth["labels"])]


def _reference_rows(fields: Sequence[_Field], seed: int) -> Iterator[list[Any]]:
    first = {field.record.sample: field for field in reversed(fields)}
    for sample, field in sorted(first.items()):
        mcv, _, mchc, _ = field.truth()["sample"].tolist()
        read = analyse_sample(sample, {"mcv_fl": mcv, "mch_pg": 0.01 * mcv * mchc}, seed=seed)
        yield [sample, read["device"], *(round(float(read[name]), 3) for name in REFERENCE_COLUMNS[2:])]


def _coco_lines(plan: DataSetPlan, fields: Sequence[_Field]) -> Iterator[str]:
    """A COCO file, one image and one annotation a line."""
    height, width = plan.fov.field_px
    info = {"description": "simulated tomograms with known truth", "fingerprint": plan.fingerprint()}
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES, start=1)]
    images = (
        {"id": number, "file_name": field.file, "width": width, "height": height}
        for number, field in enumerate(fields, start=1)
    )
    yield f'{{"info": {json.dumps(info)},\n"licenses": [],\n"categories": {json.dumps(categories)},\n"images": [\n'
    yield from _joined(images)
    yield '\n],\n"annotations": [\n'
    yield from _joined(_annotations(plan, fields))
    yield "\n]}\n"


def _joined(items: Iterable[dict[str, Any]]) -> Iterator[str]:
    for number, item in enumerate(items):
        yield (",\n" if number else "") + json.dumps(item)


def _annotations(plan: DataSetPlan, fields: Sequence[_Field]) -> Iterator[dict[str, Any]]:
    number = 0
    for image_id, field in enumerate(track(fields, "annotations.json", transient=True), start=1):
        truth = field.truth()
        boxes = truth["boxes"].tolist()
        for i, (mask, (top, left)) in enumerate(zip(masks_of(truth), truth["mask_corner"].tolist(), strict=True)):
            number += 1
            x1, y1, x2, y2 = boxes[i]
            yield {
                "id": number,
                "image_id": image_id,
                "category_id": int(truth["labels"][i]) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(mask.sum()),
                "segmentation": run_lengths(mask, (top, left), plan.fov.field_px),
                "iscrowd": 0,
                "instance_id": int(truth["instance_id"][i]),
            }


def _write_label_masks(plan: DataSetPlan, folder: Path, fields: Sequence[_Field]) -> None:
    """``labels/<name>.ome.tif``: the instance_id of each pixel; where cells overlap, of the later one."""
    missing = [f for f in fields if not (folder / LABELS / f"{f.record.name}.ome.tif").exists()]
    for field in track(missing, "labels", transient=True):
        truth = field.truth()
        labels = np.zeros(plan.fov.field_px, np.uint16)
        corners, ids = truth["mask_corner"].tolist(), truth["instance_id"].tolist()
        for mask, (top, left), number in zip(masks_of(truth), corners, ids, strict=True):
            labels[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = number
        pixel_um = plan.fov.tomography.voxel_um[2]
        write_labels(folder / LABELS / f"{field.record.name}.ome.tif", labels, pixel_um=pixel_um)
