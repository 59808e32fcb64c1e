"""What is stored of a simulated field: the truth of its cells; what detectors see of it is in ``data.planes``."""

import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path
from hemolens.optics.cells import BloodSample
from hemolens.optics.fields import SimulatedField

#: Arrays with one entry a cell that tables show as they are.
PER_CELL = ("instance_id", "kind", "true_class", "irregularity", "volume_fl", "hemoglobin_pg")


def truth_arrays(field: SimulatedField, sample: BloodSample) -> dict[str, NDArray[Any]]:
    """The truth as arrays with one entry a cell, M in all.

    - ``boxes`` float32 [M, 4] xyxy in pixels, ``labels`` int64 [M]: what a detector is taught.
    - ``annotations`` [M, A]: the class that each annotator gave; the majority is the label.
    - ``instance_id``, ``kind``, ``true_class``, ``irregularity``, ``volume_fl``, ``hemoglobin_pg``.
    - ``pose`` float64 [M, 6]: x, y, z in um; tilt, azimuth, roll in rad.
    - ``visible_fraction``, ``touching``: see ``optics.fields.CellTruth``.
    - ``mask_corner`` int32 [M, 2] (top, left), ``mask_size`` int32 [M, 2] and ``mask_bits``: the footprints, one after
      the other, as :func:`masks_of` reads them.
    - ``sample`` [4]: MCV (fL), RDW (%), MCHC (g/dL) and variation of hemoglobin (%); ``fractions`` of the classes.
    - ``left_out``: cells that found no room.
    """
    cells = field.cells
    bits = np.concatenate([entry.mask.ravel() for entry in cells]) if cells else np.zeros(0, bool)
    return {
        "boxes": np.array([entry.box for entry in cells], np.float32).reshape(-1, 4),
        "labels": np.array([entry.label for entry in cells], np.int64),
        "annotations": np.array([entry.annotations for entry in cells] or np.empty((0, 0)), "U8"),
        "instance_id": np.array([entry.instance_id for entry in cells], np.int32),
        "kind": np.array([entry.cell.kind for entry in cells], "U24"),
        "true_class": np.array([entry.cell.class_name for entry in cells], "U8"),
        "irregularity": np.array([entry.cell.irregularity for entry in cells]),
        "volume_fl": np.array([entry.cell.volume_fl for entry in cells]),
        "hemoglobin_pg": np.array([entry.cell.hemoglobin_pg for entry in cells]),
        "pose": np.array([astuple(entry.pose) for entry in cells]).reshape(-1, 6),
        "visible_fraction": np.array([entry.visible_fraction for entry in cells], np.float32),
        "touching": np.array([entry.touching for entry in cells], bool),
        "mask_corner": np.array([(entry.top, entry.left) for entry in cells], np.int32).reshape(-1, 2),
        "mask_size": np.array([entry.mask.shape for entry in cells], np.int32).reshape(-1, 2),
        "mask_bits": np.packbits(bits),
        "sample": np.array([sample.mcv_fl, sample.rdw_percent, sample.mchc_g_dl, sample.hemoglobin_cv_percent]),
        "fractions": np.array(sample.fractions),
        "left_out": np.array(field.left_out),
    }


def masks_of(arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[np.bool_]]:
    """The footprints inside the field, bool [h, w] each, with their upper left corners at ``mask_corner``."""
    sizes = arrays["mask_size"].tolist()
    bits = np.unpackbits(arrays["mask_bits"], count=sum(h * w for h, w in sizes)).astype(bool)
    ends = np.cumsum([h * w for h, w in sizes])
    return [part.reshape(size) for part, size in zip(np.split(bits, ends[:-1]), sizes, strict=True)] if sizes else []


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays, whole or not at all."""
    with atomic_path(path, overwrite=True) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle


def load_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Named arrays of a stored field; see :func:`truth_arrays` for what there is.

    Raises:
        UserError: the file is missing or damaged.
    """
    with stored_field(path), path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        # opened here: numpy leaves a damaged file open
        return {name: stored[name] for name in names}


@contextmanager
def stored_field(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a stored field into a UserError that names the file."""
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, struct.error, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not a stored field ({error}); remove this file and run again to simulate it anew",
            exit_code=1,
        ) from error
