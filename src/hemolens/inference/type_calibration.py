"""Fit and keep the temperature of a segmentation's cell types, beside its checkpoint."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from hemolens.analysis.figures import save_figure
from hemolens.analysis.type_confidence import (
    abstention,
    expected_calibration_error,
    fit_temperature,
    plot_abstention,
    plot_reliability,
    reliability,
    type_probabilities,
)
from hemolens.data.contracts import FieldSample
from hemolens.errors import UserError
from hemolens.inference.segmentation import mean_of_cells
from hemolens.io.atomic import write_json
from hemolens.metrics.segmentation import class_counts
from hemolens.postprocess.instances import cells_of_classes
from hemolens.tasks.segmentation import SegmentationTask

CALIBRATION_JSON = "calibration.json"
ASKED = (0.5, 0.7, 0.9, 0.95, 0.99)


@torch.inference_mode()
def cells_with_truth(
    task: SegmentationTask, fields: Sequence[FieldSample]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Scores [N, K], said and true types 0 … K - 2 [N] of the predicted cells that lie on a true one.

    A cell is what most of its pixels are, and is one whatever types its pixels are called; cells on the background are
    left out, since no type of theirs is right.

    Args:
        task: in evaluation mode.
        fields: whole images with their masks.
    """
    found, count = [], len(task.class_names)
    for field in track(fields, "cells", transient=True):
        log_probability = task(field["image"][None].to(task.device))[0].float().log_softmax(0).cpu()
        classes = log_probability.argmax(0)
        instances = cells_of_classes(classes.numpy(), **task.cell_settings | {"across_types": True})
        scores = mean_of_cells(log_probability.numpy(), instances)
        cells = torch.from_numpy(instances)
        said, true = (class_counts(cells, values, count).argmax(1).numpy() for values in (classes, field["classes"]))
        found.append((scores[true > 0], said[true > 0] - 1, true[true > 0] - 1))
    scores, said, true = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scores, said, true


def calibrate_types(task: SegmentationTask, datamodule: Any, folder: Path, checkpoint: Path) -> dict[str, Any]:
    """Fit the temperature on validation images, measure it on test images, and keep it beside the checkpoint.

    Writes ``calibration.json`` in ``folder`` and beside the checkpoint (where an earlier one is replaced), and
    ``reliability.png`` and ``abstention.png``, of the test images, in ``folder/figures``.

    Args:
        task: in evaluation mode.
        datamodule: with ``fields("val")`` and ``fields("test")``.
        folder: run folder.
        checkpoint: that the task is of.

    Returns:
        What the file holds: ``temperature``, ``fitted_on`` and ``tested_on`` (cells), ``calibration_error_raw`` and
        ``calibration_error``, ``accuracy``, and ``abstention``: by least probability the share of cells that are
        decided and their accuracy.

    Raises:
        UserError: too few validation cells.
    """
    parts = {}
    for split in ("val", "test"):
        fields = datamodule.fields(split)
        if not len(fields):
            raise UserError(f"no {split} images to calibrate with: give data.split a share of them")
        parts[split] = cells_with_truth(task, [fields[number] for number in range(len(fields))])
    scores, _, true = parts["val"]
    temperature = fit_temperature(scores, true)
    tested, said, true = parts["test"]
    right = said == true
    rows = np.arange(len(said))
    raw, sure = (type_probabilities(tested, value)[rows, said] for value in (1.0, temperature))
    least, decided, accuracy = abstention(sure, right)
    at = {asked: int(np.searchsorted(least, asked)) for asked in ASKED if len(least) and asked <= least[-1]}
    content = {
        "temperature": round(temperature, 4),
        "fitted_on": len(scores),
        "tested_on": len(said),
        "calibration_error_raw": round(expected_calibration_error(raw, right), 4),
        "calibration_error": round(expected_calibration_error(sure, right), 4),
        "accuracy": round(float(right.mean()), 4),
        "abstention": {
            str(asked): {"decided": round(float(decided[i]), 4), "accuracy": round(float(accuracy[i]), 4)}
            for asked, i in at.items()
        },
    }
    save_figure(
        plot_reliability(reliability(raw, right), reliability(sure, right)),
        folder / "figures" / "reliability.png",
        overwrite=True,
    )
    save_figure(plot_abstention(least, decided, accuracy), folder / "figures" / "abstention.png", overwrite=True)
    for place in (folder, checkpoint.parent):
        write_json(place / CALIBRATION_JSON, content, overwrite=True)
    return content


def read_temperature(path: Path) -> float:
    """The temperature that a ``calibration.json`` holds.

    Raises:
        UserError: missing, damaged, or no positive number.
    """
    try:
        value = float(json.loads(path.read_text(encoding="utf-8"))["temperature"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no calibration ({type(error).__name__}): hemolens eval ckpt_path=… calibrate=true writes one"
        ) from error
    if not 0 < value < float("inf"):
        raise UserError(f"{path}: a temperature of {value:g}: calibrate again")
    return value
