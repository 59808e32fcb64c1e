"""Measure how well each method recovers MCV and MCH of simulated samples, and write results/indices.json.

    python scripts/measure_indices.py
    python scripts/measure_indices.py --samples 4 --field 256 --output indices.json    # a minute

Samples come from data=sim_tomograms and from data=sim_tomograms_heldout (other instrument, other cells). Boxes are the
true ones: this judges the measurement, not the detector. Truth is the mean over the very cells that are measured; the
analyser reads the mean of the sample, with its own errors. How volumes and tilts come out at each true tilt is measured
on fields as scripts/fit_indices.py draws them, from another seed than those that the correction was fitted on.
"""

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fit_indices import SEED, TILT_BINS_DEG, measure_one
from hydra.utils import instantiate
from numpy.typing import NDArray
from rich.progress import track

from hemolens.analysis.agreement import summarize
from hemolens.analysis.calibration import read_calibration
from hemolens.analysis.indices import METHODS, corrected, measure_cells, measure_features
from hemolens.analysis.samples import measurable
from hemolens.cli.app import compose_config
from hemolens.cli.run_guard import git_state
from hemolens.data.simulation.analyser import analyse_sample
from hemolens.io.atomic import write_json
from hemolens.io.volumes import RIArray, Volume
from hemolens.optics.cells import draw_sample
from hemolens.optics.fields import FieldSettings, simulate_field
from hemolens.tasks.precision import device_name

ROOT = Path(__file__).resolve().parents[1]
DATA = ("sim_tomograms", "sim_tomograms_heldout")


def field_settings(data: str, side: int) -> tuple[FieldSettings, int]:
    """Settings of a field of that side with the optics of a data config, and its seed."""
    words = [f"data={data}", f"data.field_px=[{side},{side}]", "data.blood.wbc_fraction=0.0"]
    cfg = compose_config("train", words)
    cfg.paths.root_dir = str(ROOT)
    plan = instantiate(cfg.data).plan
    return plan.fov, plan.seed


def measure_sample(task: tuple[FieldSettings, int, int, int]) -> pd.DataFrame:
    """Cells of one sample with their truth, by every method."""
    settings, seed, sample, fields = task
    blood = draw_sample(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(sample,))), settings.blood)
    optics, tables = settings.tomography, []
    known = replace(optics, rolloff_per_um=0.0)  # an instrument states its apertures and wavelength, not its losses
    for number in range(fields):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(sample, number)))
        seen = simulate_field(rng, blood, settings)
        volume = Volume(
            array=RIArray(seen.volume, f"sample {sample}, field {number}"),
            voxel_um=optics.voxel_um,
            medium_index=optics.medium_index,
            wavelength_um=optics.wavelength_um,
            path=Path(f"s{sample}_f{number}"),
        )
        boxes = [entry.box for entry in seen.cells]
        classes = [entry.cell.class_name for entry in seen.cells]
        apart = measure_cells(volume, boxes, method="threshold", optics=known)
        used = (measurable(apart) & (np.array(classes) == "RBC")).to_numpy()
        truth = {
            "sample": sample,
            "true_cv": [entry.cell.volume_fl for entry in seen.cells],
            "true_ch": [entry.cell.hemoglobin_pg for entry in seen.cells],
            "true_tilt": [np.degrees(entry.pose.tilt_rad) for entry in seen.cells],
            "sample_mcv": blood.mcv_fl,
            "sample_mch": 0.01 * blood.mcv_fl * blood.mchc_g_dl,
        }
        half, values = measure_features(volume, boxes, optics=known, chosen=used)
        by_method = {"half_max": half, "regressor": corrected(half, values, read_calibration())}
        for method in METHODS:
            table = by_method.get(method)
            if table is None:
                table = measure_cells(volume, boxes, method=method, optics=known, chosen=used)
            tables.append(table.assign(method=method, **truth)[used])
    return pd.concat(tables, ignore_index=True)


def agreement(cells: pd.DataFrame, method: str) -> dict[str, Any]:
    """Of one method: cells and sample means against the truth, sample means against the analyser."""
    used = cells[measurable(cells)]
    means = used.groupby("sample")[["cv_fl", "ch_pg", "true_cv", "true_ch", "sample_mcv", "sample_mch"]].mean()
    read = pd.DataFrame(
        [
            analyse_sample(int(sample), {"mcv_fl": row.sample_mcv, "mch_pg": row.sample_mch})
            for sample, row in means.iterrows()
        ],
        index=means.index,
    )
    found: dict[str, Any] = {"cells": len(used), "samples": len(means), "extrapolated": int(used.extrapolated.sum())}
    for name, value, truth, analyser in (
        ("mcv_fl", "cv_fl", "true_cv", "mcv_fl"),
        ("mch_pg", "ch_pg", "true_ch", "mch_pg"),
    ):
        far = name == "mcv_fl" and method in ("threshold", "gp_threshold")  # the rule of 1983 takes slopes to be near 1
        found[name] = {
            "slope by": "equivariant Passing-Bablok" if far else "Passing-Bablok 1983",
            "cell r": round(float(np.corrcoef(used[value], used[truth])[0, 1]), 4),
            "cell median ratio": round(float((used[value] / used[truth]).median()), 4),
            "sample mean against truth": rounded(summarize(means[truth], means[value], equivariant=far)),
            "sample mean against analyser": rounded(summarize(read[analyser], means[value], equivariant=far)),
        }
    return found


def by_tilt(parts: list[tuple[pd.DataFrame, NDArray[np.float64]]]) -> dict[str, dict[str, float]]:
    """Measured over true volume, and the measured tilt, of cells whose true tilt lies in each range."""
    half = pd.concat([table for table, _ in parts], ignore_index=True)
    fixed = corrected(half, np.concatenate([values for _, values in parts]), read_calibration())
    found = {}
    for low, high in pairwise(TILT_BINS_DEG):
        inside = (half.true_tilt >= low) & (half.true_tilt < high)
        row: dict[str, float] = {"cells": int(inside.sum())}
        for method, table in (("half_max", half), ("regressor", fixed)):
            for name, value, truth in (("volume", "cv_fl", "true_cv"), ("hemoglobin", "ch_pg", "true_ch")):
                ratio = 100 * table[inside][value] / table[inside][truth]
                row[f"{method}, {name}, % of the truth"] = round(float(ratio.mean()), 1)
                row[f"{method}, {name}, sd"] = round(float(ratio.std()), 1)
        error = (half.tilt_deg - half.true_tilt)[inside & half.discocyte]  # a sphere does not lean
        row["tilt, mean error, deg"] = round(float(error.mean()), 1)
        row["tilt, median absolute error, deg"] = round(float(error.abs().median()), 1)
        found[f"{low} to {high} deg"] = row
    return found


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Four decimals."""
    return {name: value if isinstance(value, int) else round(value, 4) for name, value in row.items()}


def main() -> None:
    """Simulate, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=24, help="of each instrument [24]")
    parser.add_argument("--fields", type=int, default=1, help="a sample [1]")
    parser.add_argument("--field", type=int, default=512, help="side in pixels [512]")
    parser.add_argument("--tilt-fields", type=int, default=24, help="fields in which each tilt is judged [24]")
    parser.add_argument("--workers", type=int, default=2, help="processes [2]")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "indices.json", help="[results/indices.json]")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for data in DATA:
            settings, seed = field_settings(data, options.field)
            tasks = [(settings, seed, sample, options.fields) for sample in range(options.samples)]
            cells = pd.concat(list(track(pool.map(measure_sample, tasks), data, total=len(tasks))))
            results[data] = {method: agreement(group, method) for method, group in cells.groupby("method")}
        drawn = [(SEED + 1, number, 448) for number in range(options.tilt_fields)]
        tilts = by_tilt(list(track(pool.map(measure_one, drawn), "tilts", total=len(drawn))))
    content = {
        "command": f"python scripts/measure_indices.py --samples {options.samples} --fields {options.fields} "
        f"--field {options.field} --tilt-fields {options.tilt_fields}",
        "commit": (git_state()["commit"] or "unknown")[:10],
        "device": device_name(torch.device("cpu")),
        "boxes": "true",
        "calibration": dict(read_calibration().made_by),
        "results": results,
        "by true tilt": tilts,
    }
    write_json(options.output, content, overwrite=True)
    for data, methods in results.items():
        for method, found in methods.items():
            for index in ("mcv_fl", "mch_pg"):
                against = found[index]["sample mean against truth"]
                print(
                    f"{data:24} {method:13} {index:7} r {against['r']:.3f}  slope {against['slope']:.3f} "
                    f"[{against['slope_low']:.3f}, {against['slope_high']:.3f}]  bias {against['bias']:+.2f}"
                )
    print(json.dumps({"written": str(options.output)}))


if __name__ == "__main__":
    main()
