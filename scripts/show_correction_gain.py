"""Show what correcting a few fields of another instrument gains, and write results/correction.json.

    python scripts/show_correction_gain.py --checkpoint outputs/demo/<run>/checkpoints/best.ckpt

A detector that was trained on data=sim_tomograms (e.g. by `hemolens train experiment=demo`) looks at fields of another
instrument: data=sim_tomograms_heldout at a coarser sampling. `hemolens predict` ranks the fields of half of its blood
samples by uncertainty. The truth then stands for a person who corrects the N most uncertain of them, or N others drawn
at random, and three fields of one more sample to validate on; `experiment=finetune_corrected` trains on them and
tests before and after on all fields of the other samples. Every step is a hemolens command; a stopped script goes on.
"""

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.cli.run_guard import git_state
from hemolens.inference.load import read_checkpoint
from hemolens.io.atomic import write_json
from hemolens.io.run_folder import read_status
from hemolens.tasks.precision import device_name

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("RBC", "PLT", "WBC", "ARBC")
VALIDATION_FIELDS = 3
# The small full fields of experiment=demo, by another instrument.
SIMULATION = [
    "data=sim_tomograms_heldout",
    "data.tomography.voxel_um=[0.731,0.22,0.22]",  # cells look a quarter smaller than at 0.162 um
    "data.field_px=[256,256]",
    "data.n_samples=10",
    "data.fields_per_sample=8",
    "data.split=[0.5,0.1,0.4]",
    "data.test_floor=null",
    "data.blood.wbc_fraction=0.02",
    "data.placement.density_per_mm2=7000",
    "data.placement.touching_probability=0",
    "data.placement.border_probability=0.1",
    "data.placement.focus_above_glass_um=5",
    "data.tomography.slices=28",
    "data.tomography.margin_slices=4",
]


def hemolens(*words: str, cwd: Path) -> None:
    """Run a verb in ``cwd``; a failure ends the script."""
    print("hemolens", shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "hemolens.cli.main", *words], cwd=cwd, check=True)


def simulated(folder: Path) -> dict[str, list[str]]:
    """Volume files of each split, relative to the data set; simulated where they are missing."""
    if not (folder / "manifest.csv").exists():
        hemolens("simulate", f"output={folder.name}", *SIMULATION, cwd=folder.parent)
    files: dict[str, list[str]] = {}
    with (folder / "manifest.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            files.setdefault(row["split"], []).append(row["file"])
    return files


def ranked(folder: Path, pool: list[str], checkpoint: Path, fields: int) -> list[str]:
    """The pool's files, the most uncertain first, by ``hemolens predict``."""
    place = folder.parent / "pool"
    if not place.exists():
        place.mkdir()
        for file in pool:
            os.symlink(folder / file, place / Path(file).name)
    if not (folder.parent / "found").exists():
        words = ["predict", f"ckpt_path={checkpoint}", "input=pool", "output=found"]
        hemolens(*words, f"to_correct={fields}", "overlays=false", cwd=folder.parent)
    with (folder.parent / "found" / "ranking.csv").open(newline="") as file:
        order = [row["image"] for row in csv.DictReader(file)]
    by_name = {Path(file).name: file for file in pool}
    return [by_name[name] for name in order]


def correct(folder: Path, chosen: list[str], path: Path) -> dict[str, int]:
    """Write the true boxes of the chosen fields as a labelling tool would; returns the corrected cells by class."""
    truth = json.loads((folder / "annotations.json").read_text())
    images = [image for image in truth["images"] if image["file_name"] in chosen]
    ids = {image["id"] for image in images}
    annotations = [a for a in truth["annotations"] if a["image_id"] in ids]
    pictures = [image | {"file_name": f"{Path(image['file_name']).stem}.png"} for image in images]
    write_json(
        path, {"images": pictures, "categories": truth["categories"], "annotations": annotations}, overwrite=True
    )
    names = {category["id"]: category["name"] for category in truth["categories"]}
    classes = [names[annotation["category_id"]] for annotation in annotations]
    return {name: classes.count(name) for name in CLASSES}


def finetuned(name: str, folder: Path, checkpoint: Path, epochs: int) -> dict[str, float]:
    """Metrics of a fine-tuning on ``corrected_<name>.json``, ``before/…`` and ``test/…``."""
    run = folder.parent / name
    if not (run / "metrics.json").exists():
        words = [
            "experiment=finetune_corrected",
            "data=tomograms",
            f"data.root={folder.name}",
            f"data.annotations=corrected_{name}.json",
            f"ckpt_path={checkpoint}",
            f"trainer.max_epochs={epochs}",
            "trainer.enable_progress_bar=false",
            f"hydra.run.dir={name}",
        ]
        hemolens("train", *words, cwd=folder.parent)
    found: dict[str, float] = json.loads((run / "metrics.json").read_text())
    return found


def scores(metrics: dict[str, float], part: str) -> dict[str, float]:
    """mAP, AP by class and accuracy of ``before`` or ``test``."""
    keys = ["map", *(f"ap_{name}" for name in CLASSES), "accuracy", "n_missed", "n_spurious"]
    return {key: round(metrics[f"{part}/{key}"], 4) for key in keys}


def main() -> None:
    """Simulate, predict, correct, fine-tune, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.ckpt of a detector of simulated cells")
    parser.add_argument("--fields", type=int, default=8, help="that are corrected to train on [8]")
    parser.add_argument("--draws", type=int, default=3, help="of as many fields at random, to compare with [3]")
    parser.add_argument("--epochs", type=int, default=30, help="of fine-tuning [30]")
    parser.add_argument("--work", type=Path, default=Path("outputs/correction"), help="folder for data and runs")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "correction.json")
    arguments = parser.parse_args()
    work, checkpoint = arguments.work.resolve(), arguments.checkpoint.resolve()
    work.mkdir(parents=True, exist_ok=True)
    folder = work / "tomograms"
    files = simulated(folder)
    order = ranked(folder, files["train"], checkpoint, arguments.fields)
    choices = {"uncertain": order[: arguments.fields]}
    for seed in range(arguments.draws):
        drawn = np.random.default_rng(seed).permutation(sorted(files["train"]))[: arguments.fields]
        choices[f"random_{seed}"] = drawn.tolist()
    config = read_checkpoint(checkpoint)[KEY]["config"]
    results: dict[str, Any] = {}
    for name, chosen in choices.items():
        others = [*files["val"][:VALIDATION_FIELDS], *files["test"]]
        correct(folder, [*chosen, *others], work / f"corrected_{name}.json")
        metrics = finetuned(name, folder, checkpoint, arguments.epochs)
        results.setdefault("before", scores(metrics, "before"))
        cells = correct(folder, chosen, work / f"only_{name}.json")
        seconds = round(read_status(work / name)["cpu_seconds"])
        results[name] = scores(metrics, "test") | {"corrected_cells": cells, "cpu_seconds": seconds}
    drawn_maps = [results[name]["map"] for name in choices if name != "uncertain"]
    report = {
        "command": f"python scripts/show_correction_gain.py --checkpoint <run>/checkpoints/{checkpoint.name} "
        f"--fields {arguments.fields} --draws {arguments.draws} --epochs {arguments.epochs}",
        "checkpoint": {key: config[key] for key in ("task_name", "seed")},
        "commit": (git_state()["commit"] or "unknown")[:10],
        "device": device_name(torch.device("cpu")),
        "simulation": SIMULATION,
        "fields": {"corrected": arguments.fields, "validation": VALIDATION_FIELDS, "test": len(files["test"])},
        "seed": 0,
        "results": results,
        "random, mean map": round(float(np.mean(drawn_maps)), 4) if drawn_maps else None,
    }
    write_json(arguments.output, report, overwrite=True)
    for name, row in results.items():
        print(f"{name:12} " + "  ".join(f"{key} {value:.3f}" for key, value in row.items() if key[:2] in ("ma", "ap")))
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
