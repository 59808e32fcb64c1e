"""Measure holography against known truth, and on real holograms, and write results/holography.json.

    python scripts/measure_holography.py --real ../shared/data/holograms

Discs and spheres of known phase recorded as holograms and brought back, in focus and refocused; the same holograms by
qpretrieve and nrefocus; simulated fields of stored blood through `hemolens reconstruct`'s way; and, with --real, what
comes out of the holograms of a folder laid out as the project's real data.
"""

import argparse
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from scipy import ndimage

from hemolens.cli.run_guard import git_state
from hemolens.io.atomic import write_json
from hemolens.io.holograms import open_hologram
from hemolens.optics.cells import Pose, red_cell, render
from hemolens.optics.cells.stored import TYPE_NAMES, StoredBloodSettings, draw_bag
from hemolens.optics.hologram_fields import HologramFieldSettings, simulate_hologram
from hemolens.optics.holography import (
    HologramSettings,
    ReconstructionSettings,
    SaturationWarning,
    autofocus,
    find_sideband,
    flatten,
    form_hologram,
    level_field,
    reconstruct,
    refocus,
    retrieve_offaxis,
    unwrap,
)
from hemolens.tasks.precision import device_name

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both warn of backends that are not installed
    from nrefocus import RefocusNumpy
    from qpretrieve import OffAxisHologram

SETTINGS = HologramSettings()
OPTICS = {
    "numerical_aperture": SETTINGS.numerical_aperture,
    "wavelength_um": SETTINGS.wavelength_um,
    "pixel_um": SETTINGS.pixel_um,
}
LENGTHS = {"wavelength_um": SETTINGS.wavelength_um, "pixel_um": SETTINGS.pixel_um}
SIDE, PITCH_UM, STEP_UM = 900, 18.0, 0.1
HL60_UM = {"wavelength_um": 0.633, "pixel_um": 0.107}


def scene(kind: str, peak_rad: float) -> tuple[NDArray[np.float32], NDArray[np.bool_], list[tuple[float, float]]]:
    """Cells of one kind on a grid, all with the same largest phase: phase, where they are, and their centres in um."""
    pixel, count = SETTINGS.pixel_um, int(SIDE * SETTINGS.pixel_um / PITCH_UM)
    phase = np.zeros((SIDE, SIDE), np.float32)
    mask, centers = np.zeros((SIDE, SIDE), bool), []
    cell = red_cell(np.random.default_rng(0), kind, 90.0, 34.0, irregularity=float(kind == "spherocyte"))
    for number in range(count * count):
        y, x = (PITCH_UM * (part + 0.5) for part in divmod(number, count))
        patch = render(cell, Pose(x, y), (STEP_UM, pixel, pixel))
        own = patch.contrast.sum(0)
        at = np.s_[patch.top : patch.top + own.shape[0], patch.left : patch.left + own.shape[1]]
        phase[at] += own * (peak_rad / own.max())
        mask[at] |= own > 0
        centers.append((y, x))
    return phase, mask, centers


def rms(values: NDArray[np.floating]) -> float:
    """Root mean square, to 1e-5."""
    return round(float(np.sqrt((np.asarray(values, np.float64) ** 2).mean())), 5)


def to_phase(field: NDArray[np.complexfloating]) -> NDArray[np.float32]:
    """Unwrapped and flat."""
    return flatten(unwrap(np.angle(field)))


def round_trips() -> dict[str, Any]:
    """Errors of the phase against the truth behind the pupil, rad."""
    found: dict[str, Any] = {}
    for name, kind, peak, carrier in (
        ("discs, 1.8 rad", "discocyte", 1.8, SETTINGS.carrier),
        ("discs, 1.8 rad, carrier (0.331, 0.322)", "discocyte", 1.8, (0.331, 0.322)),
        ("spheres, 3.4 rad", "spherocyte", 3.4, SETTINGS.carrier),
    ):
        phase, mask, centers = scene(kind, peak)
        for defocus in (0.0, 8.0, 20.0):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SaturationWarning)  # stated in the results
                made = form_hologram(phase, settings=replace(SETTINGS, carrier=carrier), defocus_um=defocus, rng=0)
            field = retrieve_offaxis(made.image, **OPTICS)
            ways = {"angular_spectrum": field} if not defocus else {"not refocused": field}
            if defocus:
                for kernel in ("angular_spectrum", "fresnel"):
                    ways[kernel] = refocus(field, -defocus, kernel=kernel, **LENGTHS)
            entry: dict[str, Any] = {"saturated pixels, %": round(100 * made.saturated_fraction, 2)}
            for way, moved in ways.items():
                got = to_phase(moved)
                error = got - made.phase_rad
                sums = [_cell_sum(got, place) / _cell_sum(phase, place) - 1 for place in centers]
                entry[way if defocus else "in focus"] = {
                    "rmse": rms(error),
                    "rmse in cells": rms(error[mask]),
                    "rmse of the background": rms(error[~mask]),
                    "integrated phase of a cell, % off: mean and largest": [
                        round(100 * float(np.mean(sums)), 3),
                        round(100 * float(np.abs(sums).max()), 3),
                    ],
                }
            if defocus:
                sought = autofocus(field, (-30, 30), **LENGTHS).distance_um
                entry["autofocus finds, um"] = round(sought, 2)
            found[f"{name}, {defocus:g} um out of focus" if defocus else f"{name}, in focus"] = entry
    return found


def _cell_sum(phase: NDArray[np.floating], center: tuple[float, float]) -> float:
    y, x = (np.arange(SIDE) * SETTINGS.pixel_um - place for place in center)
    return float(phase[np.hypot(y[:, None], x) < 0.45 * PITCH_UM].sum(dtype=np.float64))


def against_peers() -> dict[str, Any]:
    """Largest differences from qpretrieve (same filter, no padding) and nrefocus (no padding)."""
    phase, _, _ = scene("discocyte", 1.8)
    image = form_hologram(phase, rng=0).image
    peer = OffAxisHologram(image.astype(float), padding=False)
    peer.run_pipeline(
        filter_name="disk",
        filter_size=1,
        filter_size_interpretation="physical radius",
        pixel_size=SETTINGS.pixel_um,
        numerical_aperture=SETTINGS.numerical_aperture,
        wavelength=SETTINGS.wavelength_um,
    )
    ours, theirs = to_phase(retrieve_offaxis(image, **OPTICS)), to_phase(np.squeeze(peer.field))
    field = retrieve_offaxis(image.astype(np.float64), **OPTICS)
    other = RefocusNumpy(
        field=field,
        wavelength=SETTINGS.wavelength_um,
        pixel_size=SETTINGS.pixel_um,
        medium_index=SETTINGS.medium_index,
        kernel="helmholtz",
        padding=False,
    ).propagate(8.0)
    moved = refocus(field, 8.0, medium_index=SETTINGS.medium_index, **LENGTHS)
    difference = min(float(np.abs(ours - sign * theirs).max()) for sign in (1, -1))
    return {
        "qpretrieve, rad": float(f"{difference:.2g}"),
        "nrefocus, of the largest value": float(f"{np.abs(moved - other).max() / np.abs(other).max():.2g}"),
    }


def stored_blood() -> dict[str, Any]:
    """Ten fields with speckle and defocus: error of the phase with and without the reference."""
    settings = HologramFieldSettings(
        blood=StoredBloodSettings(),
        holography=replace(SETTINGS, speckle=0.03),
        defocus_um=(-1.0, 1.0),
        tilt_waves=(-0.5, 0.5),
        curvature_rad=(-0.5, 0.5),
    )
    errors: dict[str, list[float]] = {"with the reference": [], "without": [], "refocused too": []}
    cells = dict.fromkeys(TYPE_NAMES, 0)
    inner, ground = np.s_[30:-30, 30:-30], None
    for number in track(range(10), "stored blood"):
        bag = draw_bag(np.random.default_rng(0), np.random.default_rng(1), settings.blood, None)
        bench = np.random.default_rng(3)  # one reference for all, as on disk
        made = simulate_hologram(np.random.default_rng([2, number]), bag, settings, bench_rng=bench)
        for entry in made.cells:
            cells[entry.cell.class_name] += 1
        truth = made.hologram.phase_rad[inner]
        plain = ReconstructionSettings(**OPTICS)
        moved = ReconstructionSettings(**OPTICS, refocus_um=-made.defocus_um)
        ground = made.hologram.reference if ground is None else ground
        for name, how, reference in (
            ("with the reference", plain, ground),
            ("without", plain, None),
            ("refocused too", moved, ground),
        ):
            got = reconstruct(made.hologram.image, how, reference=reference)
            errors[name].append(rms(got.phase_rad[inner] - truth))
    return {
        "cells": cells,
        "rmse, rad: median and largest of ten fields": {
            name: [round(float(np.median(values)), 4), round(max(values), 4)] for name, values in errors.items()
        },
    }


def real_holograms(folder: Path) -> dict[str, Any]:
    """What comes out of real holograms."""
    hl60 = folder / "hl60_dhm"
    image, empty = (open_hologram(hl60 / f"{name}.png").read() for name in ("hologram", "reference"))
    radius = find_sideband(image).distance / 2
    cell = reconstruct(image, ReconstructionSettings(**HL60_UM, radius=radius), reference=empty)
    inside = ndimage.binary_opening(cell.phase_rad > 2, iterations=3)
    red = reconstruct(open_hologram(folder / "pydhm" / "RBC.jpg").read(), ReconstructionSettings(degree=4, radius=0.06))
    labels, count = ndimage.label(ndimage.binary_opening(red.phase_rad > 1.5, iterations=5))
    outside = ~ndimage.binary_dilation(labels > 0, iterations=25)
    found: dict[str, Any] = {
        "hl60_dhm, against its reference": {
            "median phase inside, rad": round(
                float(np.median(cell.phase_rad[ndimage.binary_erosion(inside, iterations=15)])), 2
            ),
            "area, um^2": round(float(inside.sum()) * HL60_UM["pixel_um"] ** 2, 1),
            "dry mass, pg (0.19 mL/g; a tenth more or less by that alone)": round(cell.quality["dry_mass_pg"], 1),
        },
        "pydhm/RBC.jpg, no reference, degree 4": {
            "regions above 1.5 rad (two of the six cells touch)": count,
            "median phase in each, rad": [
                round(float(value), 2) for value in ndimage.median(red.phase_rad, labels, np.arange(1, count + 1))
            ],
            "background: median and standard deviation, rad": [
                round(float(np.median(red.phase_rad[outside])), 3),
                round(float(red.phase_rad[outside].std()), 3),
            ],
        },
    }
    for name in ("4cm_20x_usaf_square.tif", "minus4cm_20x_star_square.tif"):
        image = open_hologram(folder / "notele_dhm" / name).read()
        field = retrieve_offaxis(image)
        taken = unwrap(np.angle(field * level_field(field).conj()))
        flat = reconstruct(image).phase_rad
        ends = (np.s_[20:160], np.s_[-160:-20])
        found[f"notele_dhm/{name}"] = {
            "background taken away: range, rad": round(float(np.ptp(taken)), 1),
            "range between the four corners of what remains (20th percentiles), rad": round(
                float(np.ptp([np.percentile(flat[y, x], 20) for y in ends for x in ends])), 2
            ),
        }
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--real", type=Path, default=None, help="folder of real holograms [none]")
    parser.add_argument("--output", type=Path, default=root / "results" / "holography.json")
    arguments = parser.parse_args()
    optics = {key: value for key, value in vars(SETTINGS).items() if key not in ("static_speckle", "speckle_grain_um")}
    content = {
        "command": "python scripts/measure_holography.py" + " --real holograms" * bool(arguments.real),
        "commit": (git_state()["commit"] or "unknown")[:10],
        "seed": 0,
        "device": device_name(torch.device("cpu")),
        "microscope": {**optics, "field_px": [SIDE, SIDE]},
        "round trips, rad": round_trips(),
        "differences from other libraries": against_peers(),
        "stored blood": stored_blood(),
    }
    if arguments.real:
        content["real holograms"] = real_holograms(arguments.real)
    write_json(arguments.output, content, overwrite=True)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
