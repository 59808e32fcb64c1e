"""Pictures of measured blood samples; conventions as in :mod:`hemolens.analysis.figures`."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hemolens.analysis.figures import class_rgb
from hemolens.analysis.samples import RED_CLASSES, measurable

AXES = {"cv_fl": ("corpuscular volume (fL)", "mcv_fl"), "ch_pg": ("corpuscular hemoglobin (pg)", "mch_pg")}


def draw_samples(cells: pd.DataFrame, samples: pd.DataFrame) -> Figure:
    """Each sample's cells: how many of each class, and volume and hemoglobin of its red cells with their mean.

    Args:
        cells, samples: see :func:`hemolens.analysis.samples.sample_table`.
    """
    once = samples[samples.indices_of == "RBC"].reset_index(drop=True)
    names = [column.removeprefix("n_") for column in once if column.startswith("n_") and not _is_meta(column)]
    figure = Figure(figsize=(max(6.4, 2.5 + 0.32 * len(once)), 8.0), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    counts, *indices = figure.subplots(1 + len(AXES), 1, sharex=True)
    place, base = np.arange(len(once)), np.zeros(len(once))
    for label, name in enumerate(names):
        values = once[f"n_{name}"].to_numpy(float)
        counts.bar(place, values, bottom=base, color=class_rgb(label), label=f"{name} ({int(values.sum())})", width=0.7)
        base += values
    counts.set_ylabel("cells")
    counts.legend(fontsize=7, ncols=len(names), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    usable = cells[measurable(cells)]
    for axes, (value, (title, mean)) in zip(indices, AXES.items(), strict=True):
        _strip(axes, usable, once, names, value, mean)
        axes.set_ylabel(title)
    ticks = once["sample"].astype(str)
    indices[-1].set_xticks(place, ticks, rotation=90 if ticks.str.len().max() > 3 else 0, fontsize=7)
    indices[-1].set_xlabel("blood sample")
    for axes in (counts, *indices):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _is_meta(column: str) -> bool:
    return column in ("n_files", "n_measured")


def _strip(axes: Axes, cells: pd.DataFrame, once: pd.DataFrame, names: list[str], value: str, mean: str) -> None:
    rng = np.random.default_rng(0)  # spreads the points sideways
    for place, sample in enumerate(once["sample"]):
        for name in RED_CLASSES["RBC+ARBC"]:
            chosen = cells[(cells["sample"] == sample) & (cells["class"] == name)][value].to_numpy(float)
            if name in names:
                x = place + rng.uniform(-0.25, 0.25, size=len(chosen))
                axes.plot(x, chosen, ".", markersize=2.5, color=class_rgb(names.index(name)), alpha=0.7)
    spread = np.abs(once[[f"{mean}_low", f"{mean}_high"]].to_numpy(float).T - once[mean].to_numpy(float))
    axes.errorbar(
        *(np.arange(len(once)), once[mean].to_numpy(float)),
        yerr=spread,
        fmt="_",
        color="black",
        markersize=12,
        capsize=3,
        label="mean of RBC, 95 % interval",
    )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, frameon=False, loc="lower left")
