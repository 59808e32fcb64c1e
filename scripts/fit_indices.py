"""Fit the correction that hematology.method=regressor makes, on simulated cells of known volume and hemoglobin.

    python scripts/fit_indices.py                                      # 7 minutes on two quiet cores
    python scripts/fit_indices.py --fields 4 --output calibration.json # a look: half a minute

Each field is of another sample on another instrument: apertures, wavelength, noise, background, loss of low
frequencies, height of the stack and of its slices are drawn around those of data=sim_tomograms, and concentrations,
volumes, thicknesses and tilts more widely than blood has them, so that the fit leans on no usual value. Red cells are
discs (Evans-Fung) and irregular cells; the disc of data=sim_tomograms_heldout and its relative, the target cell, stay
out. The increment of the simulated hemoglobin is the one that the measurement takes: it is no part of the fit.

Without --output the file that comes with hemolens is replaced; with it, give the file as hematology.calibration.
"""

import argparse
import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track

import hemolens.analysis
from hemolens.analysis.calibration import SHIPPED, IndexCalibration, fit_calibration
from hemolens.analysis.indices import ITERATIONS, RII_LITERATURE, THRESHOLD, measure_cells, measure_features
from hemolens.cli.run_guard import git_state
from hemolens.io.volumes import RIArray, Volume
from hemolens.optics.cells import BloodSettings, RedCellSettings, draw_sample
from hemolens.optics.fields import FieldSettings, simulate_field
from hemolens.optics.placement import PlacementSettings
from hemolens.optics.tomography import TomographySettings

SHIPPED_PATH = Path(hemolens.analysis.__file__).with_name(SHIPPED)
SEED = 77  # other than those of data=sim_tomograms (0) and sim_tomograms_heldout (1000)
TILTS_DEG = ((0.0, 8.0, 0.0, 25.0), (0.0, 20.0, 0.0, 60.0), (0.0, 90.0))  # settled, loosely settled, any
TILT_BINS_DEG = (0, 15, 30, 60, 90)
FOLDS = 8
# Ranges that instruments are drawn from, around those of data=sim_tomograms [choice]: uniform, or uniform logarithms.
WAVELENGTH_UM, CONDENSER_NA, OBJECTIVE_NA = (0.40, 0.56), (0.6, 0.9), (0.8, 1.1)
SLICE_UM, SLICES, ROLLOFF_PER_UM, FOCUS_UM = (0.55, 0.95), (36, 60), (0.0, 0.04), (2.0, 5.0)
BACKGROUND_PERIOD_UM = (25.0, 60.0)
LOG_NOISE_RI, LOG_BACKGROUND_RI = (2.5e-4, 1e-3), (1e-4, 5e-4)


def draw_instrument(rng: np.random.Generator) -> TomographySettings:
    """Another instrument; every other one loses low frequencies."""
    usual = TomographySettings()
    return replace(
        usual,
        wavelength_um=float(rng.uniform(*WAVELENGTH_UM)),
        condenser_na=float(rng.uniform(*CONDENSER_NA)),
        objective_na=float(rng.uniform(*OBJECTIVE_NA)),
        rolloff_per_um=float(rng.choice([0, 1]) * rng.uniform(*ROLLOFF_PER_UM)),
        noise_ri=float(np.exp(rng.uniform(*np.log(LOG_NOISE_RI)))),
        background_ri=float(np.exp(rng.uniform(*np.log(LOG_BACKGROUND_RI)))),
        background_period_um=float(rng.uniform(*BACKGROUND_PERIOD_UM)),
        slices=int(rng.integers(SLICES[0], SLICES[1] + 1)),
        voxel_um=(float(rng.uniform(*SLICE_UM)), *usual.voxel_um[1:]),
    )


def draw_field(rng: np.random.Generator, side: int) -> FieldSettings:
    """Other blood on another instrument."""
    kinds = {name: share for name, share in RedCellSettings().arbc_kinds.items() if name != "target"}
    total = math.fsum(kinds.values())
    red = RedCellSettings(
        sample_mcv_fl=(60.0, 115.0),
        sample_mchc_g_dl=(27.0, 39.0),
        alpha_dl_g=RII_LITERATURE,
        thickness_factor=(1.0, 0.15, 0.7, 1.5),
        arbc_kinds={name: share / total for name, share in kinds.items()},
        arbc_volume_factor=(0.5, 1.1),
        arbc_mchc_g_dl=(33.0, 3.0, 26.0, 40.0),
        tilt_deg=TILTS_DEG[int(rng.integers(len(TILTS_DEG)))],
    )
    placement = PlacementSettings(
        density_per_mm2=2300.0,
        touching_probability=0.1,
        border_probability=0.03,
        focus_above_glass_um=float(rng.uniform(*FOCUS_UM)),
    )
    return FieldSettings(
        field_px=(side, side),
        blood=BloodSettings(class_fractions={"RBC": 0.7, "PLT": 0.0, "WBC": 0.0, "ARBC": 0.3}, red_cells=red),
        placement=placement,
        tomography=draw_instrument(rng),
    )


def measure_one(task: tuple[int, int, int]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Cells of one field by half_max, their truth and their features; cut and clumped ones are left out."""
    seed, number, side = task
    rng = np.random.default_rng([seed, number])
    settings = draw_field(rng, side)
    optics = settings.tomography
    seen = simulate_field(rng, draw_sample(rng, settings.blood), settings)
    volume = Volume(
        array=RIArray(seen.volume, f"field {number}"),
        voxel_um=optics.voxel_um,
        medium_index=optics.medium_index,
        wavelength_um=optics.wavelength_um,
        path=Path(f"f{number}"),
    )
    known = replace(optics, rolloff_per_um=0.0)  # an instrument states its apertures and wavelength, not its losses
    boxes = [entry.box for entry in seen.cells]
    apart = measure_cells(volume, boxes, method="threshold")  # quick; tells which cells are cut or clumped
    chosen = (~apart.border_cut & ~apart.clumped).to_numpy()
    table, values = measure_features(volume, boxes, optics=known, chosen=chosen)
    table = table.assign(
        field=number,
        discocyte=[entry.cell.kind == "discocyte" for entry in seen.cells],
        true_cv=[entry.cell.volume_fl for entry in seen.cells],
        true_ch=[entry.cell.hemoglobin_pg for entry in seen.cells],
        true_tilt=[math.degrees(entry.pose.tilt_rad) for entry in seen.cells],
    )
    used = (table.cv_fl > 0).to_numpy()
    return table[used].reset_index(drop=True), values[used]


def judged(cells: pd.DataFrame, values: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Measured over true, % of the truth, before and after a correction fitted on other fields."""
    factors = np.ones((len(cells), 2))
    fold = (cells["field"] % FOLDS).to_numpy()
    ratio = (cells[["true_cv", "true_ch"]].to_numpy() / cells[["cv_fl", "ch_pg"]].to_numpy()).T
    for held in np.unique(fold):
        rest = fold != held
        fitted = fit_calibration(values[rest], ratio[0, rest], ratio[1, rest], threshold=THRESHOLD, iterations=30)
        volume, hemoglobin, _ = fitted.factors(values[~rest])
        factors[~rest] = np.stack([volume, hemoglobin], axis=1)
    tilt = pd.cut(cells.true_tilt, TILT_BINS_DEG, include_lowest=True, right=False)
    found: dict[str, dict[str, float]] = {}
    for place, name in enumerate(("volume", "hemoglobin")):
        for words, errors in (("before", 100 / ratio[place]), ("after", 100 / ratio[place] * factors[:, place])):
            by_tilt = pd.Series(errors).groupby(tilt.to_numpy(), observed=True).mean()
            found[f"{name} {words}"] = {"mean": errors.mean(), "sd": errors.std()} | {
                f"mean at {bin_.left:.0f} to {bin_.right:.0f} deg": value for bin_, value in by_tilt.items()
            }
    return {name: {key: round(float(value), 1) for key, value in row.items()} for name, row in found.items()}


def fit(cells: pd.DataFrame, values: NDArray[np.float64], command: str) -> IndexCalibration:
    """The calibration from all cells, with what it does on fields that it has not seen."""
    checked = judged(cells, values) if cells["field"].nunique() >= 2 * FOLDS else {}
    return fit_calibration(
        values,
        (cells.true_cv / cells.cv_fl).to_numpy(),
        (cells.true_ch / cells.ch_pg).to_numpy(),
        threshold=THRESHOLD,
        iterations=ITERATIONS["regressor"],
        made_by={
            "command": command,
            "commit": (git_state()["commit"] or "unknown")[:10],
            "cells": len(cells),
            "instruments": {
                "wavelength_um": WAVELENGTH_UM,
                "condenser_na": CONDENSER_NA,
                "objective_na": OBJECTIVE_NA,
                "slice_um": SLICE_UM,
                "slices": SLICES,
                "rolloff_per_um": ROLLOFF_PER_UM,
                "noise_ri": LOG_NOISE_RI,
                "background_ri": LOG_BACKGROUND_RI,
            },
            "measured over true, %, corrected by a fit on other fields": checked,
        },
    )


def main() -> None:
    """Simulate, measure, fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=int, default=100, help="[100], of about eight cells that count")
    parser.add_argument("--field", type=int, default=448, help="side in pixels [448]")
    parser.add_argument("--seed", type=int, default=SEED, help=f"[{SEED}]")
    parser.add_argument("--workers", type=int, default=2, help="processes [2]")
    parser.add_argument("--output", type=Path, help="[the file that comes with hemolens]")
    options = parser.parse_args()
    if options.output and options.output.exists():
        parser.error(f"{options.output} exists: choose another name or remove it first")
    tasks = [(options.seed, number, options.field) for number in range(options.fields)]
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = list(track(pool.map(measure_one, tasks), "fields", total=len(tasks)))
    cells = pd.concat([table for table, _ in parts], ignore_index=True)
    values = np.concatenate([part for _, part in parts])
    command = f"python scripts/fit_indices.py --fields {options.fields} --field {options.field} --seed {options.seed}"
    fitted = fit(cells, values, command)
    fitted.write(options.output or SHIPPED_PATH, overwrite=options.output is None)
    print(json.dumps({**fitted.made_by, "written": str(options.output or SHIPPED_PATH)}, indent=2))


if __name__ == "__main__":
    main()
