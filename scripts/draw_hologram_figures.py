"""Draw the figures of docs/holography.md: red cells by type, a field of stored blood, storage by day.

python scripts/draw_hologram_figures.py            # into docs/images/
python scripts/draw_hologram_figures.py --output figures
"""

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap

from hemolens.io.atomic import atomic_path
from hemolens.io.colors import STORAGE_COLORS
from hemolens.optics.cells.stored import (
    DROP_DAYS,
    STORAGE_DAYS,
    TYPE_NAMES,
    StoredBloodSettings,
    draw_bag,
    storage_fractions,
)
from hemolens.optics.hologram_fields import HologramFieldSettings, SimulatedHologram, simulate_hologram
from hemolens.optics.holography import HologramSettings, ReconstructionSettings, reconstruct
from hemolens.optics.placement import PlacementSettings

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SETTINGS = HologramSettings(speckle=0.03)
OPTICS = ReconstructionSettings(
    wavelength_um=SETTINGS.wavelength_um,
    pixel_um=SETTINGS.pixel_um,
    numerical_aperture=SETTINGS.numerical_aperture,
)
COLORS = ListedColormap([np.array(color) / 255 for color in STORAGE_COLORS])
LABELS = {"cmap": COLORS, "norm": BoundaryNorm(np.arange(-0.5, 5), 5), "interpolation": "nearest"}
HALF_PX = 38  # around a cell: 11 um


def simulated(composition: dict[str, float], *, density: float, side: int, seed: int) -> SimulatedHologram:
    """A hologram of one donor's blood."""
    blood = StoredBloodSettings(composition=composition, mixture_sd=0.0)
    crowding = PlacementSettings(
        density_per_mm2=density, touching_probability=0.0, border_probability=0.0, max_overlap=0.0
    )
    if density > 2500:
        crowding = replace(crowding, touching_probability=0.2, border_probability=0.1, max_overlap=0.15)
    settings = HologramFieldSettings(field_px=(side, side), blood=blood, placement=crowding, holography=SETTINGS)
    bag = draw_bag(np.random.default_rng(seed), np.random.default_rng(seed), blood, None)
    return simulate_hologram(np.random.default_rng(seed), bag, settings)


def by_type() -> plt.Figure:
    """Hologram, reconstructed phase, its surface, and label of a cell of each type (layout of paper B, Fig. 10)."""
    figure = plt.figure(figsize=(10.5, 11), layout="constrained")
    grid = figure.add_gridspec(len(TYPE_NAMES), 4, width_ratios=(1, 1.15, 1.25, 1))
    for row, name in enumerate(TYPE_NAMES):
        made = simulated({kind: float(kind == name) for kind in TYPE_NAMES}, density=1200.0, side=420, seed=3)
        phase = reconstruct(made.hologram.image, OPTICS, reference=made.hologram.reference).phase_rad
        whole = [cell for cell in made.cells if cell.visible_fraction == 1 and not cell.touching]
        chosen = min(whole, key=lambda cell: abs(cell.pose.x_um - 30) + abs(cell.pose.y_um - 30))
        y, x = (round(place / SETTINGS.pixel_um) for place in (chosen.pose.y_um, chosen.pose.x_um))
        y, x = (min(max(place, HALF_PX), 420 - HALF_PX) for place in (y, x))
        window = np.s_[y - HALF_PX : y + HALF_PX, x - HALF_PX : x + HALF_PX]
        extent = (0.0, 2 * HALF_PX * SETTINGS.pixel_um, 2 * HALF_PX * SETTINGS.pixel_um, 0.0)
        hologram = figure.add_subplot(grid[row, 0])
        hologram.imshow(made.hologram.image[window], cmap="gray", extent=extent)
        hologram.set_ylabel(f"{name} ({chosen.cell.kind})" if name != chosen.cell.kind else name, fontsize=10)
        flat = figure.add_subplot(grid[row, 1])
        shown = flat.imshow(phase[window], vmin=0, vmax=4, cmap="viridis", extent=extent)
        figure.colorbar(shown, ax=flat, shrink=0.8, label="rad")
        surface = figure.add_subplot(grid[row, 2], projection="3d")
        side = np.arange(2 * HALF_PX) * SETTINGS.pixel_um
        surface.plot_surface(
            *np.meshgrid(side, side), phase[window], cmap="viridis", vmin=0, vmax=4, rstride=1, cstride=1, lw=0
        )
        surface.set(zlim=(0, 4), xlabel="µm", ylabel="µm", box_aspect=(1, 1, 0.6))
        surface.tick_params(labelsize=7)
        label = figure.add_subplot(grid[row, 3])
        label.imshow(made.classes[window], extent=extent, **LABELS)
        for axis, title in (
            (hologram, "hologram"),
            (flat, "phase"),
            (surface, "phase as a surface (rad)"),
            (label, "label"),
        ):
            if row == 0:
                axis.set_title(title, fontsize=10)
        for axis in (hologram, flat, label):
            axis.tick_params(labelsize=7)
            axis.set_xlabel("µm", fontsize=7)
    return figure


def field() -> plt.Figure:
    """A whole hologram, its phase, and the labels."""
    made = simulated(dict(StoredBloodSettings().composition), density=2937.0, side=900, seed=1)
    found = reconstruct(made.hologram.image, OPTICS, reference=made.hologram.reference)
    extent = (0.0, 900 * SETTINGS.pixel_um, 900 * SETTINGS.pixel_um, 0.0)
    figure, axes = plt.subplots(1, 4, figsize=(17, 4.3), layout="constrained")
    axes[0].imshow(made.hologram.image, cmap="gray", extent=extent)
    axes[0].set_title("hologram")
    zoom = 120 * SETTINGS.pixel_um
    axes[1].imshow(made.hologram.image[:120, :120], cmap="gray", extent=(0.0, zoom, zoom, 0.0))
    axes[1].set_title("its upper left corner: fringes")
    shown = axes[2].imshow(found.phase_rad, vmin=0, vmax=4, extent=extent)
    figure.colorbar(shown, ax=axes[2], label="rad")
    axes[2].set_title("reconstructed phase")
    labels = axes[3].imshow(made.classes, extent=extent, **LABELS)
    bar = figure.colorbar(labels, ax=axes[3], ticks=range(5))
    bar.ax.set_yticklabels(["background", *TYPE_NAMES])
    axes[3].set_title("labels")
    for axis in axes:
        axis.set_xlabel("µm")
    return figure


def storage() -> plt.Figure:
    """Share of each type by day, for both readings of "after 40 d"."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained", sharey=True)
    days = np.linspace(STORAGE_DAYS[0], STORAGE_DAYS[-1], 200)
    for axis, drop in zip(axes, DROP_DAYS, strict=True):
        lines = np.array([list(storage_fractions(day, drop_day=drop).values()) for day in days.tolist()])
        points = np.array([list(storage_fractions(day, drop_day=drop).values()) for day in STORAGE_DAYS])
        for number, name in enumerate(TYPE_NAMES):
            color = COLORS(number + 1)
            axis.plot(days, 100 * lines[:, number], color=color, label=name, lw=2)
            axis.plot(STORAGE_DAYS, 100 * points[:, number], "o", color=color, ms=4, mec="black", mew=0.5)
        axis.set(title=f"drop_day={drop}", xlabel="days of storage")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("% of the cells")
    axes[0].legend(fontsize=8)
    return figure


def main() -> None:
    """Write all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--output", type=Path, default=root / "docs" / "images", help="folder [docs/images]")
    output = parser.parse_args().output
    for name, draw in (("hologram_types", by_type), ("hologram_field", field), ("hologram_storage", storage)):
        figure = draw()
        with atomic_path(output / f"{name}.png", overwrite=True) as temporary:
            figure.savefig(temporary, dpi=90)
        plt.close(figure)
        print(output / f"{name}.png")


if __name__ == "__main__":
    main()
