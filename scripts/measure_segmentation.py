"""How whole images go through a trained segmentation: one pass, windows and paper B's patches; bfloat16 and float32.

    python scripts/measure_segmentation.py best.ckpt [--json results/segmentation_modes.json]

Dice and AJI are those of the checkpoint's own test images.
"""

import argparse
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from rich.progress import track

import hemolens
from hemolens.cli.app import register_resolvers
from hemolens.cli.run_guard import git_state
from hemolens.data.phase_images import CLASSES, INSTANCES, PHASE, PHASE_STEP_RAD, map_phase_image
from hemolens.inference.load import SegmentationPredictor
from hemolens.io.atomic import write_json
from hemolens.metrics.segmentation import SegmentationScores
from hemolens.tasks.precision import cpu_has_fast_bf16, device_name

MODES = ("whole", "windows", "paper")
WINDOWS = {"window_px": 512, "overlap_px": 96}  # so that an image of 900 px is four windows


def main() -> None:
    """Print and, with ``--json``, keep the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--json", type=Path, help="file to write; refuses to overwrite")
    parser.add_argument("--images", type=int, help="only so many test images")
    chosen = parser.parse_args()
    register_resolvers()
    precisions = ["32-true", *(["bf16-mixed"] if cpu_has_fast_bf16() else [])]
    predictors = {precision: _load(chosen.checkpoint, precision) for precision in precisions}
    first = predictors[precisions[0]]
    records = instantiate(first.config["data"]).records("test")[: chosen.images]
    names = [f"{mode}, {precision}" for mode in MODES for precision in precisions]
    scores = {name: SegmentationScores(len(first.class_names)) for name in names}
    seconds = dict.fromkeys(names, 0.0)
    same: dict[str, list[float]] = {}
    for record in track(records, description="test images"):
        planes = np.array(map_phase_image(record.path))
        phase = planes[PHASE] * np.float32(PHASE_STEP_RAD)
        found: dict[str, dict[str, Any]] = {}
        for name in names:
            mode, precision = name.split(", ")
            start = time.perf_counter()
            found[name] = predictors[precision].predict(phase, mode=mode, **WINDOWS)
            seconds[name] += time.perf_counter() - start
            maps = [found[name]["classes"], planes[CLASSES], found[name]["instances"], planes[INSTANCES]]
            scores[name].update(*(torch.from_numpy(part.astype(np.int64))[None] for part in maps))
        pairs = [*((f"{mode}, {a}", f"{mode}, {b}") for mode in MODES for a, b in pairwise(precisions))]
        pairs += [(f"whole, {precisions[-1]}", f"{mode}, {precisions[-1]}") for mode in MODES[1:]]
        for a, b in pairs:
            share = float((found[a]["classes"] == found[b]["classes"]).mean())
            same.setdefault(f"{a} = {b}", []).append(share)
    rows = []
    for name in names:
        result = scores[name].compute()
        rows.append({"way": name, "dice": float(result["dice"]), "aji": float(result["aji"]), "seconds": seconds[name]})
        print(f"{name:24} Dice {rows[-1]['dice']:.4f}  AJI {rows[-1]['aji']:.4f}  {seconds[name]:.1f} s")
    agreement = {pair: float(np.mean(shares)) for pair, shares in same.items()}
    for pair, share in agreement.items():
        print(f"{pair}: {share:.4%} of the pixels")
    if chosen.json:
        content = {
            "command": f"python scripts/measure_segmentation.py best.ckpt --images={len(records)}",
            "task_name": first.config["task_name"],
            "seed": first.config["seed"],
            "images": len(records),
            "windows": WINDOWS,
            "ways": rows,
            "same_class": agreement,
            "device": device_name(torch.device("cpu")),
            "threads": torch.get_num_threads(),
            "commit": git_state()["commit"],
        }
        write_json(chosen.json, content)


def _load(checkpoint: Path, precision: str) -> SegmentationPredictor:
    predictor = hemolens.load(checkpoint, precision=precision)
    assert isinstance(predictor, SegmentationPredictor), f"{checkpoint} is no segmentation"
    return predictor


if __name__ == "__main__":
    main()
