"""Classify pictures of single cells, and write what was found."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemolens.analysis.cell_figures import CellPicture, plot_cells
from hemolens.analysis.figures import displayable, save_figure
from hemolens.data.classification import CropSpec
from hemolens.inference.detection import prepare_image
from hemolens.io.atomic import atomic_folder
from hemolens.io.tables import write_csv
from hemolens.tasks.classification import ClassificationTask

CLASSES_CSV = "classes.csv"
CONTACT_SHEET = "contact_sheet.png"
SHEET_CELLS = 64  # pictures on the contact sheet, those to look at first
DECIMALS = 4  # of a probability


@torch.inference_mode()
def predict_probabilities(task: ClassificationTask, array: NDArray[Any], spec: CropSpec) -> NDArray[np.float32]:
    """Probabilities float32 [K] of the cell in the middle of a picture.

    Args:
        task: in evaluation mode.
        array: ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]`` or ``[H, W, 4]`` (alpha is dropped), uint8, uint16 or float.
        spec: how the picture becomes network input.

    Raises:
        UserError: another shape or pixel type, or values that are not finite.
    """
    image = spec.finish(spec.square(prepare_image(array, spec.in_channels)))
    probabilities: NDArray[np.float32] = task(image[None].to(task.device)).softmax(dim=1)[0].float().cpu().numpy()
    return probabilities


@dataclass(frozen=True, eq=False)
class ClassifiedImage:
    """What a file shows: its name, pixels ``[H, W]`` or ``[H, W, 3]``, and probabilities ``[K]``."""

    name: str
    pixels: NDArray[Any]
    probabilities: NDArray[np.float32]


def write_classes(
    folder: str | Path, results: Iterable[ClassifiedImage], class_names: Sequence[str], *, pictures: bool = True
) -> dict[str, int]:
    """Write the results of a classification to a new folder, whole or not at all.

    The folder holds ``classes.csv`` (``file``, ``class`` and a column ``probability_<class>`` a class) and
    ``contact_sheet.png``: the pictures whose class is least certain, at most 64, the least certain first.

    Args:
        folder: new or empty folder.
        results: consumed one picture at a time.
        class_names: name of label 0, 1, ….
        pictures: draw the contact sheet.

    Returns:
        How many pictures each class was found in.

    Raises:
        UserError: the disk is full. What ``results`` raises goes through.
    """
    with atomic_folder(folder) as temporary:
        rows: list[list[Any]] = []
        counts = dict.fromkeys(class_names, 0)
        unsure: list[tuple[float, int, CellPicture]] = []  # a heap: the surest of them on top
        for number, result in enumerate(results):
            name = class_names[int(result.probabilities.argmax())]
            counts[name] += 1
            rows.append([result.name, name, *(round(float(value), DECIMALS) for value in result.probabilities)])
            cell = CellPicture(displayable(result.pixels), result.probabilities, None, result.name)
            heapq.heappush(unsure, (-float(result.probabilities.max()), -number, cell))
            if len(unsure) > SHEET_CELLS:
                heapq.heappop(unsure)
        write_csv(temporary / CLASSES_CSV, ["file", "class", *(f"probability_{name}" for name in class_names)], rows)
        if pictures:
            cells = [cell for _, _, cell in sorted(unsure, key=lambda entry: (-entry[0], -entry[1]))]
            title = (
                f"the {len(cells)} least certain of {len(rows)}" if len(cells) < len(rows) else f"{len(rows)} pictures"
            )
            save_figure(plot_cells(cells, class_names, title=title), temporary / CONTACT_SHEET)
    return counts
