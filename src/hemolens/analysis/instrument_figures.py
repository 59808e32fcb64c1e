"""Figures of an instrument check: fitted beads, control charts, and how far repeated fields agree."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hemolens.analysis.beads import BeadFit
from hemolens.analysis.control_chart import REJECTION_SD, WARNING_SD, ControlChart

MEASURED, MODEL, WARNING, REJECTION = "#0a558c", "#b3382c", "#c98a1b", "#b3382c"
MOST_TICKS = 30


def draw_fits(fits: Sequence[tuple[str, BeadFit]]) -> Figure:
    """A row a bead: measured, model, residual, and the profile through the middle.

    Args:
        fits: at least one, with its title.
    """
    figure = Figure(figsize=(11.5, 2.75 * len(fits) + 0.3), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    grid = figure.subplots(len(fits), 4, squeeze=False, width_ratios=[1, 1, 1, 1.35])
    for line, (title, fit) in zip(grid, fits, strict=True):
        step_y, step_x = fit.pixel_um
        height, width = fit.image.shape
        extent = (-width * step_x / 2, width * step_x / 2, height * step_y / 2, -height * step_y / 2)
        low, high = (float(value) for value in (min(np.nanmin(fit.image), fit.model.min()), np.nanmax(fit.image)))
        left = fit.image - fit.model
        most = float(np.nanmax(np.abs(left)))
        axis = "y" if fit.unit == "rad" else "z"
        for axes, picture, name, (bottom, top), colors in (
            (line[0], fit.image, "measured", (low, high), "viridis"),
            (line[1], fit.model, "model", (low, high), "viridis"),
            (line[2], left, "measured - model", (-most, most), "RdBu_r"),
        ):
            shown = axes.imshow(picture, cmap=colors, vmin=bottom, vmax=top, extent=extent, interpolation="nearest")
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("x (µm)", fontsize=8)
            axes.set_ylabel(f"{axis} (µm)", fontsize=8)
            axes.tick_params(labelsize=7.5)
            bar = figure.colorbar(shown, ax=axes, shrink=0.8)
            bar.ax.tick_params(labelsize=7)
            bar.set_label(fit.unit, fontsize=8)
        middle = int(np.abs(fit.model).max(axis=1).argmax())
        x = (np.arange(width) + 0.5) * step_x - width * step_x / 2
        line[3].plot(x, fit.image[middle], "o", ms=2.5, color=MEASURED, mew=0, label="measured")
        line[3].plot(x, fit.model[middle], color=MODEL, lw=1.3, label="model")
        line[3].plot(x, left[middle], color="0.5", lw=0.9, label="residual")
        line[3].set_title(title, fontsize=8.5)
        line[3].set_xlabel("x (µm)", fontsize=8)
        line[3].set_ylabel("phase over background (rad)" if fit.unit == "rad" else "RI over background", fontsize=8)
        line[3].tick_params(labelsize=7.5)
        line[3].spines[["top", "right"]].set_visible(False)
        ends = line[3].get_ylim()
        line[3].set_ylim(ends[0], ends[1] + 0.3 * (ends[1] - ends[0]))
        line[3].legend(fontsize=7.5, frameon=False, loc="upper center", ncols=3, columnspacing=1.0, handlelength=1.4)
    return figure


def draw_drift(charts: Sequence[ControlChart], labels: Sequence[str]) -> Figure:
    """Levey-Jennings charts, one below the other: files in order of time, target, 2 and 3 SD, and what lies outside.

    Args:
        charts: of the same files.
        labels: of the files, e.g. their dates.
    """
    figure = Figure(figsize=(8.6, 2.6 * len(charts) + 0.7), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    rows = figure.subplots(len(charts), 1, squeeze=False, sharex=True)[:, 0]
    places = np.arange(len(labels))
    for axes, chart in zip(rows, charts, strict=True):
        if (limits := chart.limits) is not None:
            axes.axhline(limits.target, color="0.35", lw=1)
            _name(axes, limits.target, "target", "0.35")
            for far, color in ((WARNING_SD, WARNING), (REJECTION_SD, REJECTION)):
                for sign in (-1, 1):
                    level = limits.target + sign * far * limits.sd
                    axes.axhline(level, color=color, lw=1, ls="--")
                    _name(axes, level, f"{'+' if sign > 0 else '-'}{far:.0f} SD", color)
        axes.plot(places, chart.values, "-", color="0.75", lw=0.9, zorder=1)
        far_off = np.abs(chart.deviations)
        for own, face, edge, marker, name in (
            (~chart.judged, "white", MEASURED, "o", "baseline" if chart.limits is not None else "no limits yet"),
            (chart.judged & (far_off <= WARNING_SD), MEASURED, MEASURED, "o", "in control"),
            (
                chart.judged & (far_off > WARNING_SD) & (far_off <= REJECTION_SD),
                WARNING,
                "black",
                "D",
                "warning (1-2s)",
            ),
            (chart.judged & (far_off > REJECTION_SD), REJECTION, "black", "s", "out of control (1-3s)"),
        ):
            if own.any():
                axes.plot(places[own], chart.values[own], marker, ms=6, color=face, mec=edge, mew=0.9, label=name)
        name = chart.name.removesuffix("_um").replace("_", " ")
        axes.set_ylabel(f"{name} ({chart.unit})" if chart.unit else name, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.legend(fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.1)
    every = math.ceil(len(labels) / MOST_TICKS)
    rows[-1].set_xticks(places[::every], list(labels)[::every], rotation=40, ha="right", fontsize=8)
    rows[-1].set_xlim(-0.6, len(labels) - 0.4)
    return figure


def _name(axes: Axes, level: float, text: str, color: str) -> None:
    """Words beside a line, at the right end of the panel."""
    axes.annotate(
        text,
        (1.0, level),
        xycoords=("axes fraction", "data"),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        color=color,
        annotation_clip=False,
    )


def draw_repeatability(values: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """A panel a measurand: each file in its run, the mean of each sample, and what chance alone would spread.

    Args:
        values: a row a file and measurand, see ``analysis.repeatability.repeatability_table``.
        table: its result.
    """
    names = list(dict.fromkeys(table["measurand"]))
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.0 * columns, 2.9 * lines + 0.4), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid, names, strict=False):
        own = values[values["measurand"] == name]
        counted = name == "cells" or name.startswith("share of ")
        ticks, labels = [], []
        start = 0
        for record in table[table["measurand"] == name].to_dict("records"):
            of_sample = own[own["sample"] == record["sample"]]
            begin = start
            for number, (_, run) in enumerate(of_sample.groupby(["day", "run"], sort=False)):
                spots = np.arange(start, start + len(run))
                axes.plot(spots, run["value"], "o", ms=4.5, color=MEASURED if number % 2 == 0 else "#6a9cc4", mew=0)
                axes.hlines(run["value"].mean(), spots[0] - 0.3, spots[-1] + 0.3, color=MEASURED, lw=1.2)
                start += len(run)
            ends = (begin - 0.5, start - 0.5)
            axes.hlines(record["mean"], *ends, color=MODEL, lw=1)
            reach = 1.96 * record["chance_sd"]
            low = record["mean"] - reach
            if counted:
                low = max(low, 0.0)
            axes.fill_between(ends, low, record["mean"] + reach, color=MODEL, alpha=0.12, lw=0)
            ticks.append((begin + start - 1) / 2)
            labels.append(str(record["sample"]))
            start += 1
        first = table[table["measurand"] == name].iloc[0]
        total = first["within_laboratory_cv_percent"]
        text = f"CV within runs {first['repeatability_cv_percent']:.1f} %"
        text += "" if math.isnan(total) else f", in the laboratory {total:.1f} %"
        axes.set_title(f"{name}\n{text if len(labels) == 1 else ''}".strip(), fontsize=8.5)
        axes.set_ylabel(
            first["unit"] or ("cells a field" if name == "cells" else "share" if counted else ""), fontsize=8.5
        )
        axes.set_xticks(ticks, labels, fontsize=8, rotation=0 if len(labels) < 4 else 40)
        axes.tick_params(axis="y", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        "fields in order, shaded by run; short lines: means of runs; band: 95 % of what chance alone spreads",
        fontsize=8.5,
    )
    return figure
