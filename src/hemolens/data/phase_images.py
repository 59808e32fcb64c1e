"""Phase images with masks as they are kept in a cache: one file an image, of which a window can be read alone.

Free of torch, so that processes which simulate start quickly.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path, write_json

PHASE_STEP_RAD = 0.001  # of the stored whole numbers: far below any camera's noise; they reach to 32.7 rad
PHASE, CLASSES, INSTANCES = range(3)  # planes of a stored image


@dataclass(frozen=True)
class PhaseRecord:
    """A stored phase image.

    Attributes:
        name: without folder and suffix; unique in its data set.
        path: the file, see :func:`map_phase_image`.
        size: (height, width).
        sample, donor: whose blood; empty where that is not known.
        day: of storage; None where that is not known.
        cells: (class, y, x) of the middle of each cell, y and x in pixels.
    """

    name: str
    path: Path
    size: tuple[int, int]
    sample: str = ""
    donor: str = ""
    day: float | None = None
    cells: tuple[tuple[int, float, float], ...] = ()


def store_phase_image(
    path: Path,
    phase_rad: NDArray[np.floating],
    classes: NDArray[np.integer],
    instances: NDArray[np.integer],
    facts: Mapping[str, Any],
) -> PhaseRecord:
    """Write an image, and beside it its record, which comes last: where it lies, the image is whole.

    Args:
        path: ends in ``.npy``.
        phase_rad: [H, W]; what is not finite is stored as 0.
        classes: of each pixel, [H, W], 0 background.
        instances: which cell each pixel belongs to, [H, W], 0 background; cells that have no class are left out.
        facts: name, sample, donor and day of the record.

    Raises:
        UserError: more than 32,767 cells, or no space.
    """
    if int(instances.max(initial=0)) > np.iinfo(np.int16).max:
        raise UserError(f"{facts['name']}: an image of more than 32,767 cells: cut it into several")
    stacked = np.empty((3, *phase_rad.shape), np.int16)
    steps = np.nan_to_num(np.asarray(phase_rad, np.float64) / PHASE_STEP_RAD, posinf=0, neginf=0)
    stacked[PHASE] = np.clip(np.rint(steps), -32767, 32767)
    stacked[CLASSES], stacked[INSTANCES] = classes, instances
    with atomic_path(path, overwrite=True) as temporary, temporary.open("wb") as file:
        np.save(file, stacked)
    height, width = phase_rad.shape
    record = PhaseRecord(path=path, size=(height, width), cells=_middles(classes, instances), **facts)
    content = {key: value for key, value in asdict(record).items() if key != "path"}
    write_json(path.with_suffix(".json"), content, overwrite=True)
    return record


def stored_record(path: Path) -> PhaseRecord | None:
    """The record of a stored image; None where it is not whole."""
    try:
        content = json.loads(path.with_suffix(".json").read_text())
        content["size"] = tuple(content["size"])
        content["cells"] = tuple((int(kind), float(y), float(x)) for kind, y, x in content["cells"])
        return PhaseRecord(path=path, **content) if path.is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def map_phase_image(path: Path) -> NDArray[np.int16]:
    """Planes ``PHASE`` (in steps of ``PHASE_STEP_RAD``), ``CLASSES`` and ``INSTANCES`` of a stored image, [3, H, W];
    they are read from the disk as they are used.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        planes: NDArray[np.int16] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path}: not a stored phase image ({error}); remove it, it is made anew", exit_code=1
        ) from error
    if planes.ndim != 3 or planes.shape[0] != 3 or planes.dtype != np.int16:
        raise UserError(f"{path}: not a stored phase image; remove it, it is made anew", exit_code=1)
    return planes


def _middles(classes: NDArray[np.integer], instances: NDArray[np.integer]) -> tuple[tuple[int, float, float], ...]:
    numbers = np.unique(instances[instances > 0])
    if not numbers.size:
        return ()
    middles = ndimage.center_of_mass(np.ones_like(instances), instances, numbers)
    kinds = ndimage.median(classes, instances, numbers)
    return tuple(
        (int(kind), round(float(y), 1), round(float(x), 1))
        for kind, (y, x) in zip(kinds, middles, strict=True)
        if kind > 0
    )


def cell_counts(records: list[PhaseRecord], num_classes: int) -> list[int]:
    """Cells of each class but the background, [K - 1]."""
    kinds = np.array([kind for record in records for kind, _, _ in record.cells], np.int64)
    counts: list[int] = np.bincount(kinds, minlength=num_classes).tolist()[1:]
    return counts


def turned_window_side(side: int) -> int:
    """Side of the window that holds a square of ``side`` px at any angle."""
    return math.ceil(side * math.sqrt(2)) + 2
