"""Draw the figures of docs/data.md: each kind of cell as refractive-index slices and projections.

python scripts/draw_cell_figures.py            # into docs/images/
python scripts/draw_cell_figures.py --output figures
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np

from hemolens.io.atomic import atomic_path
from hemolens.optics.cells import (
    RED_KINDS,
    BloodSample,
    BloodSettings,
    Cell,
    Pose,
    draw_cell,
    draw_sample,
    red_cell,
    render,
)
from hemolens.optics.cells.white import draw_white_cell
from hemolens.optics.fields import FieldSettings, simulate_field
from hemolens.optics.placement import PlacementSettings
from hemolens.optics.tomography import TomographySettings, band_limit_axially, form_tomogram

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIDE = 120  # pixels around a cell: 19.4 um
OPTICS = TomographySettings(margin_slices=0)
VOLUME_FL, MCHC_G_DL = 90.0, 33.0
CHOSEN = {"discocyte": 0.0, "spherocyte": 1.0, "target": 1.0, "elliptocyte": 0.7, "folded": 0.8}  # irregularity; else 1


def tomogram(cell: Cell, optics: TomographySettings, tilt_deg: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """True and reconstructed n - n_medium [Z, SIDE, SIDE] of a cell in the middle of a stack."""
    fine = optics.fine_voxel_um
    middle = (SIDE / 2 + 0.5) * fine[1]
    pose = Pose(middle, middle, optics.stack_um / 2, math.radians(tilt_deg), 0.4)
    patch = render(cell, pose, fine)
    whole = np.zeros((optics.fine_depth, SIDE, SIDE), np.float32)
    d, h, w = patch.contrast.shape
    whole[patch.first : patch.first + d, patch.top : patch.top + h, patch.left : patch.left + w] = patch.contrast
    truth = band_limit_axially(whole, optics.axial_oversampling)
    return truth, form_tomogram(np.random.default_rng(0), truth, optics) - optics.medium_index


def cell_sheet(cells: Sequence[tuple[str, Cell]]) -> plt.Figure:
    """One column a cell: true slices across and along, the same of the tomogram, and two projections."""
    rows = ("true, xy", "true, xz", "tomogram, xy", "tomogram, xz", "maximum", "optical path")
    heights = (1, 0.83, 1, 0.83, 1, 1)
    figure, axes = plt.subplots(
        len(rows),
        len(cells),
        figsize=(1.15 * len(cells), 6.9),
        gridspec_kw={"height_ratios": heights, "hspace": 0.06, "wspace": 0.04},
        squeeze=False,
    )
    dz, dy, _ = OPTICS.voxel_um
    middle, reach = OPTICS.slices // 2, round(SIDE * dy * 0.415 / dz)
    for column, (name, cell) in enumerate(cells):
        truth, seen = tomogram(cell, OPTICS)
        z = int(truth.sum((1, 2)).argmax())
        along = np.s_[middle - reach : middle + reach, SIDE // 2]
        top = max(float(truth.max()), 0.03)
        views = (truth[z], truth[along], seen[z], seen[along], seen.max(0), seen.sum(0) * dz)
        limits = ((0, top), (0, top), (-top / 3, top), (-top / 3, top), (0, top), (0, None))
        for row, (view, (low, high)) in enumerate(zip(views, limits, strict=True)):
            axis = axes[row][column]
            axis.imshow(view, cmap="gray", vmin=low, vmax=high, aspect=dz / dy if row in (1, 3) else 1, origin="lower")
            axis.set_xticks([])
            axis.set_yticks([])
            if column == 0:
                axis.set_ylabel(rows[row], fontsize=6)
        axes[0][column].set_title(name.replace("_", " "), fontsize=6)
    return figure


def tilt_sheet() -> plt.Figure:
    """A discocyte at three tilts: true, linear tomogram, and after 12 iterations with n >= n_medium; along z."""
    cell = red_cell(np.random.default_rng(0), "discocyte", VOLUME_FL, MCHC_G_DL)
    figure, axes = plt.subplots(3, 3, figsize=(6, 3.4), gridspec_kw={"hspace": 0.08, "wspace": 0.04})
    dz, dy, _ = OPTICS.voxel_um
    middle, reach = OPTICS.slices // 2, round(SIDE * dy / 2.6 / dz)
    along = np.s_[middle - reach : middle + reach, SIDE // 2]
    for column, tilt in enumerate((0, 45, 90)):
        truth, linear = tomogram(cell, OPTICS, tilt)
        _, filled = tomogram(cell, replace(OPTICS, nonnegative_iterations=12), tilt)
        named = (("true", truth), ("linear", linear), ("n ≥ medium", filled))
        for row, (name, volume) in enumerate(named):
            axis = axes[row][column]
            axis.imshow(volume[along], cmap="gray", vmin=-0.02, vmax=0.063, aspect=dz / dy, origin="lower")
            axis.set_xticks([])
            axis.set_yticks([])
            if column == 0:
                axis.set_ylabel(name, fontsize=6)
            if row == 0:
                axis.set_title(f"tilt {tilt}°", fontsize=7)
    return figure


def field_sheet() -> plt.Figure:
    """A field: maximum and mean projection and the slice in the middle, with boxes on the first."""
    rng = np.random.default_rng(11)
    settings = FieldSettings(
        field_px=(384, 384),
        blood=BloodSettings(wbc_fraction=0.05),
        placement=PlacementSettings(density_per_mm2=5000.0),
    )
    field = simulate_field(rng, draw_sample(rng, settings.blood), settings)
    views = (
        ("maximum projection", field.volume.max(0)),
        ("mean projection", field.volume.mean(0)),
        ("middle slice", field.volume[24]),
    )
    figure, axes = plt.subplots(1, 3, figsize=(9.3, 3.3), gridspec_kw={"wspace": 0.03})
    for axis, (name, view) in zip(axes, views, strict=True):
        axis.imshow(view, cmap="gray")
        axis.set_title(name, fontsize=8)
        axis.set_axis_off()
    for entry in field.cells:
        x1, y1, x2, y2 = entry.box
        color = ("#4daf4a", "#ff7f00", "#377eb8", "#e41a1c")[entry.label]
        axes[0].add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=0.8))
        axes[0].text(x1, y1 - 3, entry.cell.kind.replace("_", " "), color=color, fontsize=4)
    return figure


def sheets() -> dict[str, plt.Figure]:
    """All figures by file name."""
    red = [
        (kind, red_cell(np.random.default_rng(3), kind, VOLUME_FL, MCHC_G_DL, irregularity=CHOSEN.get(kind, 1.0)))
        for kind in RED_KINDS
    ]
    blood, rng = BloodSettings(), np.random.default_rng(5)
    sample = BloodSample(
        mcv_fl=90.0, rdw_percent=13.0, mchc_g_dl=33.0, hemoglobin_cv_percent=4.0, fractions=(1.0, 0.0, 0.0, 0.0)
    )
    others = [
        (kind, draw_white_cell(rng, blood.white_cells, kind)) for kind in ("lymphocyte", "monocyte", "neutrophil")
    ]
    others += [("platelet", draw_cell(rng, "PLT", sample, blood)) for _ in range(2)]
    return {
        "cells_red.png": cell_sheet(red),
        "cells_white.png": cell_sheet(others),
        "missing_cone.png": tilt_sheet(),
        "field.png": field_sheet(),
    }


def main() -> None:
    """Write all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--output", type=Path, default=root / "docs" / "images", help="folder [docs/images]")
    output = parser.parse_args().output
    for name, figure in sheets().items():
        with atomic_path(output / name, overwrite=True) as temporary:
            figure.savefig(temporary, dpi=130, bbox_inches="tight")
        plt.close(figure)
        print(output / name)


if __name__ == "__main__":
    main()
