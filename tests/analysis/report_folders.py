"""Run folders and predictions as the verbs leave them, made up in a moment."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from hemolens.analysis.samples import sample_table

NAMES = ("RBC", "PLT", "WBC", "ARBC")
CONFUSION = {
    "RBC": (900, 0, 0, 12),
    "PLT": (0, 120, 0, 1),
    "WBC": (1, 0, 38, 0),
    "ARBC": (25, 0, 0, 90),
}


def detection_run(folder: Path, backbone: str = "resnet18", seed: int = 0, lr: float = 1e-3, **changes: object) -> Path:
    """A finished training with its test; ``changes`` are keys of test.json."""
    confusion = np.array([CONFUSION[name] for name in NAMES])
    confusion[0, 3] += seed  # seeds differ
    whole = np.zeros((5, 5), int)
    whole[:4, :4] = confusion
    whole[:4, 4], whole[4, :4] = (5, 2, 1, 3), (4, 6, 0, 2)
    support, predicted, hits = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    f1 = 2 * hits / (support + predicted)
    total = confusion.sum()
    test = {
        "tested": "40 fields of 2 samples",
        "task_name": f"det_{backbone}",
        "seed": seed,
        "backbone": backbone,
        "parameters": 21_456_590,
        "data": "SimulatedTomogramDataModule",
        "class_counts": {key: dict(zip(NAMES, (917, 122, 39, 118), strict=True)) for key in ("train", "val", "test")},
        "class_names": list(NAMES),
        "average_precision": {
            "map": 0.91 + 0.01 * seed,
            "map_frequent": 0.91,
            "ap_per_class": [0.99, 0.9, None, 0.85],
            "gt_per_class": [917, 122, 39, 118],
            "recall_by_size": {"small": 0.9, "medium": 0.99, "large": None},
            "rare_classes": [],
        },
        "matched": {
            "confusion": confusion.tolist(),
            "confusion_with_background": whole.tolist(),
            "precision": (hits / predicted).tolist(),
            "recall": (hits / support).tolist(),
            "f1": f1.tolist(),
            "one_vs_rest_accuracy": ((total - support - predicted + 2 * hits) / total).tolist(),
            "weighted_f1": float((f1 * support).sum() / total),
            "accuracy": float(hits.sum() / total),
            "n_missed": 11,
            "n_spurious": 12,
        },
        "report_score_threshold": 0.3,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "test.json").write_text(json.dumps(test | changes))
    config = {
        "seed": seed,
        "data": {"seed": seed},
        "optimizer": {"lr": lr},
        "trainer": {"default_root_dir": str(folder)},
    }
    (folder / "config_resolved.yaml").write_text(yaml.safe_dump(config))
    (folder / "status.json").write_text(json.dumps({"state": "finished", "job": "train", "exit_code": 0}))
    return folder


def truth_folder(folder: Path, n_samples: int = 8, cells: int = 30) -> Path:
    """Tables of `hemolens simulate` without its tomograms."""
    rng = np.random.default_rng(0)
    rows = []
    for sample in range(n_samples):
        mcv = 78 + 3.0 * sample
        for i in range(cells):
            name = "ARBC" if i % 4 == 0 else "PLT" if i % 15 == 1 else "RBC"
            irregularity = rng.uniform(0.2, 1) if name == "ARBC" else rng.uniform(0, 0.06)
            volume = 8.0 if name == "PLT" else mcv * rng.normal(1, 0.1) * (0.7 if name == "ARBC" else 1)
            x, y = 60 * (i % 6), 60 * (i // 6)
            votes = "/".join([name, name, "RBC" if i == 8 else name])
            rows.append((f"volumes/s{sample}.tcf", sample, name, name, irregularity, votes, volume,
                         0.335 * volume, x + 5.0, y + 5.0, x + 50.0, y + 50.0))  # fmt: skip
    columns = ("file", "sample", "class", "true_class", "irregularity", "annotations", "volume_fl",
               "hemoglobin_pg", "x1_px", "y1_px", "x2_px", "y2_px")  # fmt: skip
    folder.mkdir(parents=True)
    pd.DataFrame(rows, columns=columns).to_csv(folder / "cells.csv", index=False)
    reference = [
        (i, 78 + 3.0 * i + (-1) ** i * 0.5, 0.335 * (78 + 3.0 * i) + (-1) ** i * 0.2) for i in range(n_samples)
    ]
    pd.DataFrame(reference, columns=["sample", "mcv_fl", "mch_pg"]).to_csv(folder / "reference.csv", index=False)
    (folder / "simulation.json").write_text("{}")
    return folder


def prediction(folder: Path, truth: Path, source: str | None = None) -> Path:
    """What `predict pipeline=hematology` leaves behind of those tomograms: all found, one in ten wrongly called."""
    rng = np.random.default_rng(1)
    known = pd.read_csv(truth / "cells.csv", dtype={"sample": str})
    calls = known["class"].where(rng.uniform(size=len(known)) > 0.1, "RBC")
    cells = pd.DataFrame(
        {
            "sample": known["sample"],
            "file": known.file.str.removeprefix("volumes/"),
            "cell": known.groupby("file").cumcount() + 1,
            "class": calls,
            "score": 0.9,
            **{f"{a}{b}": known[f"{a}{b + 1}_px"] for b in (0, 1) for a in ("x", "y")},
            "cv_fl": 1.05 * known.volume_fl + rng.normal(0, 2, len(known)),
            "ch_pg": known.hemoglobin_pg + rng.normal(0, 0.5, len(known)),
            "border_cut": known.x1_px < 10,
            "clumped": False,
        }
    )
    folder.mkdir(parents=True)
    cells.to_csv(folder / "cells.csv", index=False)
    sample_table(cells, NAMES).to_csv(folder / "samples.csv", index=False)
    pd.DataFrame({"image": cells.file.unique()}).to_csv(folder / "counts.csv", index=False)
    about = {
        "class_names": NAMES,
        "pipeline": "hematology",
        "input": source or str(truth / "volumes"),
        "hematology": {"method": "half_max", "rii": 0.0019},
    }
    (folder / "prediction.json").write_text(json.dumps(about))
    red = cells["class"].isin(["RBC", "ARBC"]).to_numpy()
    features = np.outer(known.irregularity, rng.normal(size=24)) + 0.05 * rng.normal(size=(len(known), 24))
    np.savez_compressed(
        folder / "features.npz",
        image=cells.file[red].to_numpy(str),
        cell=cells.cell[red].to_numpy(),
        features=features[red].astype(np.float16),
        crops=rng.integers(0, 255, (red.sum(), 72, 72), np.uint8),
    )
    return folder
