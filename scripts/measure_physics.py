"""Measure the simulator against known truth and write results/physics.json.

    python scripts/measure_physics.py

Volume and hemoglobin of every kind of cell on voxels, the integral along the axis behind the model of tomography, and
volume and hemoglobin behind a threshold, each over tilts.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from scipy import ndimage

from hemolens.analysis.indices import METHODS, measure_cells
from hemolens.cli.run_guard import git_state
from hemolens.io.atomic import write_json
from hemolens.io.volumes import RIArray, Volume
from hemolens.optics.cells import RED_KINDS, Cell, Pose, red_cell, render
from hemolens.optics.cells.solids import Ellipsoid
from hemolens.optics.tomography import TomographySettings, band_limit_axially, form_tomogram
from hemolens.tasks.precision import device_name

TILTS_DEG = (0, 45, 90)
VOLUME_FL, MCHC_G_DL, ALPHA_DL_G = 94.0, 33.0, 0.0019
SIDE = 128
THRESHOLD = 0.005
ROLLOFFS_PER_UM = (0.0, 0.03, 0.06)
OPTICS = {  # condenser NA, objective NA, wavelength in um
    "1.2/1.2, 532 nm": (1.2, 1.2, 0.532),
    "0.72/0.95, 450 nm": (0.72, 0.95, 0.45),
    "0.8/0.8, 450 nm": (0.8, 0.8, 0.45),
    "0.72/0.72, 530 nm": (0.72, 0.72, 0.53),
}


def of_truth(value: float, truth: float) -> float:
    """Percent of the truth, to a tenth."""
    return round(100 * value / truth, 1)


def on_voxels() -> dict[str, dict[str, float]]:
    """Volume on the simulator's voxels as % of the stated one; hemoglobin is the same share."""
    fine = TomographySettings().fine_voxel_um
    found = {}
    for kind in track(RED_KINDS, "cells on voxels"):
        cell = red_cell(np.random.default_rng(0), kind, VOLUME_FL, MCHC_G_DL, irregularity=0.8)
        found[kind] = {
            f"{tilt} deg": round(
                100 * float(render(cell, pose(tilt), fine).inside.sum(dtype=np.float64)) * math.prod(fine) / VOLUME_FL,
                2,
            )
            for tilt in TILTS_DEG
        }
    return found


def binary_phantom() -> float:
    """A sphere of 2.8 um on voxels of 0.05 um that are in or out: volume as % of the closed form."""
    ball = Ellipsoid(semi_axes_um=(2.8,) * 3)
    axis = (np.arange(120) + 0.5) * 0.05 - 3.0
    inside = ball.level(axis[None, None], axis[None, :, None], axis[:, None, None]) > 0
    return of_truth(inside.sum() * 0.05**3, ball.volume_fl)


def pose(tilt_deg: float, x: float = 10.03, z: float = 8.11) -> Pose:
    """A cell in the middle of a box, at no special place on the voxels."""
    return Pose(x, x - 0.05, z, math.radians(tilt_deg), 0.4, 0.2)


def truth_of(cell: Cell, tilt: float, optics: TomographySettings) -> NDArray[np.float32]:
    """True n - n_medium, band-limited along z, [Z, SIDE, SIDE]."""
    patch = render(cell, pose(tilt, SIDE / 2 * optics.voxel_um[1] + 0.03, optics.stack_um / 2), optics.fine_voxel_um)
    whole = np.zeros((optics.fine_depth, SIDE, SIDE), np.float32)
    d, h, w = patch.contrast.shape
    whole[patch.first : patch.first + d, patch.top : patch.top + h, patch.left : patch.left + w] = patch.contrast
    return band_limit_axially(whole, optics.axial_oversampling)


def behind_the_model() -> dict[str, dict[str, dict[str, float]]]:
    """Of a discocyte: the integral along the axis over its surroundings, and volume and content above a threshold."""
    cell = red_cell(np.random.default_rng(0), "discocyte", VOLUME_FL, MCHC_G_DL, alpha_dl_g=ALPHA_DL_G)
    content = cell.components[0].delta_n * VOLUME_FL
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, (condenser, objective, wavelength) in track(OPTICS.items(), "behind the model"):
        optics = TomographySettings(
            condenser_na=condenser,
            objective_na=objective,
            wavelength_um=wavelength,
            noise_ri=0.0,
            background_ri=0.0,
            margin_slices=0,
        )
        step = math.prod(optics.voxel_um)
        found[name] = {}
        for tilt in TILTS_DEG:
            seen = form_tomogram(np.random.default_rng(0), truth_of(cell, tilt, optics), optics) - optics.medium_index
            parts, _ = ndimage.label(seen > THRESHOLD)
            inside = parts == parts[np.unravel_index(seen.argmax(), seen.shape)]
            middle = np.s_[:, SIDE // 6 : -SIDE // 6, SIDE // 6 : -SIDE // 6]
            found[name][f"{tilt} deg"] = {
                "column integral %": of_truth(float(seen[middle].sum(dtype=np.float64)) * step, content),
                "volume above threshold %": of_truth(inside.sum() * step, VOLUME_FL),
                "hemoglobin above threshold %": of_truth(float(seen[inside].sum(dtype=np.float64)) * step, content),
                "largest dn": round(float(seen.max()), 4),
            }
    return found


def behind_the_rolloff() -> dict[str, float]:
    """Of a flat discocyte: the integral along the axis within 5 um over its mean from 5 to 7 um, % of the truth."""
    cell = red_cell(np.random.default_rng(0), "discocyte", VOLUME_FL, MCHC_G_DL, alpha_dl_g=ALPHA_DL_G)
    y, x = np.indices((SIDE, SIDE)) - SIDE / 2
    found = {}
    for rolloff in ROLLOFFS_PER_UM:
        optics = TomographySettings(noise_ri=0.0, background_ri=0.0, margin_slices=0, rolloff_per_um=rolloff)
        seen = form_tomogram(np.random.default_rng(0), truth_of(cell, 0, optics), optics) - optics.medium_index
        column = seen.sum(0, dtype=np.float64)
        radius = np.hypot(y, x) * optics.voxel_um[1]
        column -= column[(radius > 5) & (radius < 7)].mean()
        content = float(column[radius <= 5].sum()) * math.prod(optics.voxel_um)
        found[f"{rolloff} /um"] = of_truth(content, cell.components[0].delta_n * VOLUME_FL)
    return found


def by_method() -> dict[str, dict[str, dict[str, float]]]:
    """Volume and hemoglobin of a discocyte by each method of pipeline=hematology, % of the truth."""
    cell = red_cell(np.random.default_rng(0), "discocyte", VOLUME_FL, MCHC_G_DL, alpha_dl_g=ALPHA_DL_G)
    optics = TomographySettings(noise_ri=0.0, background_ri=0.0, margin_slices=0)
    found: dict[str, dict[str, dict[str, float]]] = {method: {} for method in METHODS}
    for tilt in track(TILTS_DEG, "by method"):
        truth = truth_of(cell, tilt, optics)
        seen = form_tomogram(np.random.default_rng(0), truth, optics)
        ys, xs = np.nonzero(truth.max(0) > THRESHOLD)
        volume = Volume(
            array=RIArray(seen, "a discocyte"),
            voxel_um=optics.voxel_um,
            medium_index=optics.medium_index,
            wavelength_um=optics.wavelength_um,
            path=Path("a discocyte"),
        )
        box = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]
        for method in METHODS:
            row = measure_cells(volume, box, method=method, rii=ALPHA_DL_G, optics=optics).iloc[0]
            found[method][f"{tilt} deg"] = {
                "volume %": of_truth(row.cv_fl, VOLUME_FL),
                "hemoglobin %": of_truth(row.ch_pg, 0.01 * MCHC_G_DL * VOLUME_FL),
            }
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--output", type=Path, default=root / "results" / "physics.json", help="[results/physics.json]")
    output = parser.parse_args().output
    content = {
        "command": "python scripts/measure_physics.py",
        "commit": (git_state()["commit"] or "unknown")[:10],
        "seed": 0,
        "device": device_name(torch.device("cpu")),
        "discocyte": {"volume_fl": VOLUME_FL, "mchc_g_dl": MCHC_G_DL, "threshold": THRESHOLD},
        "volume on voxels, % of the truth": on_voxels(),
        "binary sphere of 2.8 um, % of the closed form": binary_phantom(),
        "behind the model of tomography": behind_the_model(),
        "column integral over its surroundings behind the roll-off, %": behind_the_rolloff(),
        "measured by method, % of the truth": by_method(),
    }
    write_json(output, content, overwrite=True)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
