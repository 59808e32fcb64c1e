"""Pictures of the arms of an experiment: scores with their spread, differences with their intervals, and curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hemolens.analysis.arms import ArmScore
from hemolens.analysis.figures import DPI

COLORS = ("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito


def plot_arms(tables: Mapping[str, Mapping[str, ArmScore]], reference: str) -> Figure:
    """A row a score: each arm's mean over seeds ± sd on the left, its difference with its interval on the right.

    Args:
        tables: by score, of :func:`hemolens.analysis.arms.compare_arms`.
        reference: the arm that differences are from.
    """
    figure = Figure(figsize=(9.0, 0.6 + len(tables) * (0.5 + 0.22 * len(next(iter(tables.values()))))), dpi=DPI)
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(tables), 2, sharey=True, squeeze=False)
    for (left, right), (name, table) in zip(axes, tables.items(), strict=True):
        arms = list(table)
        places = np.arange(len(arms))[::-1]
        for place, arm, color in zip(places, arms, _colors(len(arms)), strict=True):
            score = table[arm]
            left.errorbar(score.mean, place, xerr=np.nan_to_num(score.sd), fmt="o", color=color, capsize=3)
            if arm != reference:
                reach = [[score.difference - score.low], [score.high - score.difference]]
                right.errorbar(score.difference, place, xerr=np.maximum(reach, 0), fmt="o", color=color, capsize=3)
        left.set_yticks(places, arms)
        left.set_ylim(-0.6, len(arms) - 0.4)
        left.set_title(f"{name}, mean ± sd over seeds", fontsize=9)
        right.set_title(f"{name}, less {reference}, 95 %", fontsize=9)
        right.axvline(0, color="0.6", linewidth=0.8)
        for one in (left, right):
            _quiet(one)
    figure.set_layout_engine("constrained")
    return figure


def plot_arm_curve(tables: Mapping[str, Mapping[str, Mapping[str, ArmScore]]], title: str) -> Figure:
    """A panel a score of all types together: each arm's mean ± sd over another setting.

    Args:
        tables: by the value of that setting, then by score; those of single types ("Dice discocyte") are left out where
            there are others.
        title: of that setting.
    """
    values = list(tables)
    every = list(next(iter(tables.values())))
    names = [name for name in every if " " not in name] or every  # "Dice", not "Dice discocyte"
    places = _places(values)
    order = np.argsort(places)
    figure = Figure(figsize=(4.5 * len(names), 3.6), dpi=DPI)
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, len(names), squeeze=False)[0]
    arms = list(dict.fromkeys(arm for table in tables.values() for arm in table[names[0]]))
    for panel, name in zip(axes, names, strict=True):
        for number, (arm, color) in enumerate(zip(arms, _colors(len(arms)), strict=True)):
            held = [index for index in order if arm in tables[values[index]][name]]
            scores = [tables[values[index]][name][arm] for index in held]
            at = places[held] * 1.02 ** (number - (len(arms) - 1) / 2)  # side by side, so that bars do not hide others
            bars = np.nan_to_num([score.sd for score in scores])
            panel.errorbar(at, [score.mean for score in scores], yerr=bars, fmt="o-", color=color, capsize=3, label=arm)
        panel.set_xscale("log")
        panel.set_xticks(places, values)
        panel.minorticks_off()
        panel.set_xlabel(title)
        panel.set_title(f"{name}, mean ± sd over seeds", fontsize=9)
        _quiet(panel)
    axes[0].legend(fontsize=8, frameon=False)
    figure.set_layout_engine("constrained")
    return figure


def _places(values: Sequence[str]) -> np.ndarray:
    try:
        found = np.array([float(value) for value in values])
    except ValueError:
        found = np.arange(1.0, len(values) + 1)
    return found if (found > 0).all() else np.arange(1.0, len(values) + 1)


def _colors(count: int) -> list[str]:
    return [COLORS[number % len(COLORS)] for number in range(count)]


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.tick_params(labelsize=8)
