"""Folders that paper B's report is made from, as the verbs leave them, made up in a moment."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from hemolens.analysis import storage_paper as paper
from hemolens.analysis.storage_figures import DayImage
from hemolens.analysis.storage_sources import read_gallery, write_gallery
from hemolens.io.labels import write_labels
from hemolens.io.phase import PhaseImage, write_phase

NAMES = ["background", *paper.TYPES]


def segmentation_run(folder: Path, net: str, seed: int = 0, dice: float = 0.9, **changes: Any) -> Path:
    """A finished training of a segmentation with its test; ``changes`` are keys of test.json."""
    types = np.diag([90, 20, 25, 10])
    missed = np.array([[1], [0], [2], [0]])
    test = {
        "tested": "40 images",
        "task_name": f"seg_{net}_simholo_quick",
        "seed": seed,
        "backbone": "resnet18",
        "network": "ResUnet on resnet18",
        "parameters": 14_321_877 - len(net),  # the smallest comes first
        "macs": 5.29e9,
        "data": "SimulatedHologramDataModule",
        "class_counts": {"test": dict.fromkeys(paper.TYPES, 40)},
        "class_names": NAMES,
        "dice_skip": [dice, dice - 0.1, dice - 0.2, None],
        "aji_skip": [0.8, 0.7, 0.6, None],
        "dice_pooled": [dice] * 4,
        "dice": dice,
        "aji": 0.7,
        "dice_paper": 0.95,
        "aji_paper": 0.85,
        "types": np.concatenate([missed, types], axis=1).tolist(),
        "mixed_type_rate": 0.02,
        "spurious": 0.5,
        "type_accuracy_touching": 0.9,
        "type_accuracy_isolated": 0.95,
        "cell_dice_touching": 0.9,
        "cell_dice_isolated": None,
        "inference": {"images_10_s": 4.0 + seed, "patches_10_s": 0.5, "image_px": [900, 900], "device": "a CPU"},
    }
    folder.mkdir(parents=True)
    (folder / "test.json").write_text(json.dumps(test | changes))
    config = {"seed": seed, "data": {"seed": seed}, "net": {"name": net}}
    (folder / "config_resolved.yaml").write_text(yaml.safe_dump(config))
    (folder / "status.json").write_text(json.dumps({"state": "finished", "job": "train", "exit_code": 0}))
    maps: dict[str, Any] = {"names": np.array(["one", "two"])}
    for number in range(2):
        truth = np.zeros((40, 40), np.uint8)
        truth[5:20, 5:20] = 1 + number
        said = truth.copy()
        said[5:20, 5:10] = 3
        phase = truth.astype(np.float16)
        maps |= {f"phase_{number}": phase, f"truth_{number}": truth, f"prediction_{number}": said}
    (folder / "figures").mkdir()
    np.savez_compressed(folder / "figures" / "test_maps.npz", **maps)
    return folder


def calibrate(run: Path) -> None:
    """What `hemolens eval calibrate=true` leaves beside the checkpoint."""
    calibrated: dict[str, Any] = {
        "temperature": 1.5,
        "tested_on": 900,
        "calibration_error_raw": 0.1,
        "calibration_error": 0.02,
    }
    calibrated |= {"accuracy": 0.9, "abstention": {"0.9": {"decided": 0.8, "accuracy": 0.97}}}
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "calibration.json").write_text(json.dumps(calibrated))


def stored_series(folder: Path, *, truth: bool = True) -> Path:
    """What `predict pipeline=storage` leaves, of two days."""
    folder.mkdir(parents=True)
    rows = [
        {"storage_day": day, "type": name, "images": 6, "bags": 1, "cells": 300, "count": 75, "share": 0.25}
        | {"low": 0.2, "high": 0.3, "interval": "image"}
        | ({"true_share": 0.2, "error": 0.05} if truth else {})
        for day in (8.0, 57.0)
        for name in paper.TYPES
    ]
    pd.DataFrame(rows).to_csv(folder / "days.csv", index=False)
    cells = {"storage_day": [8.0, 57.0] * 5, "type": ["discocyte", "spherocyte"] * 5, "cut": 0}
    measures = ("area_um2", "projected_circularity", "center_rim_ratio", "mean_phase_rad", "dry_mass_pg")
    pd.DataFrame(cells | {name: np.linspace(1, 2, 10) for name in measures}).to_csv(folder / "cells.csv", index=False)
    summary = {"images": 12, "flagged_images": 3, "undecided_cells": 7}
    if truth:
        right = dict(zip(paper.TYPES, (0.99, 0.9, 0.8, None), strict=True))
        summary |= {"confusion": np.diag([90, 20, 25, 10, 0]).tolist(), "right_type": right}
        summary |= {"spurious_an_image": 0.5, "mean_absolute_error_of_shares": 0.05}
    (folder / "storage.json").write_text(json.dumps(summary))
    (folder / "prediction.json").write_text(json.dumps({"pipeline": "storage", "input": "stored"}))
    classes = np.zeros((60, 60), np.uint8)
    classes[20:40, 20:40] = 1
    images = [DayImage(f"day {day}", 2.0 * classes, classes, pixel_um) for day, pixel_um in ((8, 0.25), (57, None))]
    write_gallery(folder / "gallery.npz", images)
    assert [image.title for image in read_gallery(folder / "gallery.npz")] == ["day 8", "day 57"]
    assert [image.pixel_um for image in read_gallery(folder / "gallery.npz")] == [0.25, None]
    return folder


def generated_pairs(folder: Path) -> Path:
    """What `hemolens generate` leaves: five pairs, of which four are chosen."""
    rows = []
    for number in range(5):
        classes = np.zeros((64, 64), np.uint8)
        for label in range(1, number + 1):
            classes[4 + 12 * label : 12 + 12 * label, 10:20] = label
        write_labels(folder / "sampled" / "classes" / f"pair_{number}.ome.tif", classes)
        write_phase(folder / "sampled" / "phase" / f"pair_{number}.ome.tif", PhaseImage(1.0 * (classes > 0)))
        counts = {name: int(label <= number) for label, name in enumerate(paper.TYPES, start=1)}
        rows.append({"name": f"pair_{number}", "accept": int(number != 3), **counts})
    (folder / "sampled" / "sampling.json").write_text(json.dumps({"class_names": NAMES}))
    (folder / "selected").mkdir()
    pd.DataFrame(rows).to_csv(folder / "selected" / "accept.csv", index=False)
    return folder
