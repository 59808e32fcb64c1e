"""Sections of paper B's report beyond segmentation scores: generated pairs, the storage series, the data."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hemolens.analysis import storage_paper as paper
from hemolens.analysis.figures import plot_confusion
from hemolens.analysis.report_page import FigureBlock, Panel, Section, TableBlock
from hemolens.analysis.report_sources import SegmentationRun
from hemolens.analysis.segmentation_figures import SegmentedImage
from hemolens.analysis.storage_figures import plot_errors, plot_gallery, plot_morphology, plot_trend
from hemolens.analysis.storage_paper_figures import PhaseWithClasses, plot_data, plot_generated_pairs
from hemolens.analysis.storage_sources import GeneratedPairs, StorageSeries

EXAMPLES = 4
CALIBRATION = ("calibration.json", "checkpoints/calibration.json")  # of an eval, and beside a checkpoint
ASKED = "0.9"  # least probability of the table
SERIES_COMMAND = "hemolens predict pipeline=storage ckpt_path=<run>/checkpoints/best.ckpt input=<simulated series>"


def pairs_section(pairs: Sequence[GeneratedPairs]) -> Section:
    """Figure 5: generated pairs with a mask of each type."""
    title = "Generated pairs (Fig. 5)"
    if not pairs:
        return Section(title, missing="no generated pairs: hemolens generate phase_ckpt=… mask_ckpt=… n=200")
    found = pairs[0]
    examples, types = found.examples(EXAMPLES), found.class_names[1:]
    chosen = found.pairs[found.pairs["accept"] == 1]
    if not examples:
        return Section(title, missing=f"none of the {len(found.pairs)} pairs in {found.path.name} was chosen")
    rows = [
        {"Pairs": words, "pairs": len(part), **{name: int(part[name].sum()) for name in types}}
        for words, part in (("all", found.pairs), ("chosen", chosen))
    ]
    panel = Panel(
        "fig5_generated",
        plot_generated_pairs(examples, found.class_names),
        "Generated phase images, a row each, with a mask of each class and all classes in colour",
    )
    caption = "Chosen pairs with the most types in them; both networks began with noise. White is where a class is."
    shown = FigureBlock("Generated pairs", [panel], caption, paper.FIGURE_5)
    table = TableBlock("generated_cells", "Cells of each type in generated pairs", pd.DataFrame(rows))
    return Section(title, blocks=[shown, table])


def series_sections(series: Sequence[StorageSeries]) -> list[Section]:
    """Figures 7 to 9: an image of each day, the shares over the days, and the types of the cells."""
    if not series:
        words = f"no assessed series: {SERIES_COMMAND}"
        return [Section("Blood in storage (Figs 7 to 9)", missing=words)]
    first = series[0]
    names = ["background", *dict.fromkeys(first.days["type"])]
    dated = first.days.dropna(subset=["storage_day"])
    simulated = "error" in dated
    many = "" if len(series) == 1 else f" Drawn are those of {first.path.name}; the table has all {len(series)}."
    gallery = first.gallery()
    one = Section("Days of storage (Fig. 7)", missing="the folder holds no gallery.npz: predict again")
    if gallery:
        panel = Panel("fig7_gallery", plot_gallery(gallery, names), "An image of each day above its class map")
        caption = f"The middle of an image of each day, and its class map.{many}"
        one = Section(one.title, blocks=[FigureBlock("An image of each day", [panel], caption, paper.FIGURE_7)])
    trend = Section("Types over the days (Fig. 8)", missing="the images have less than two days")
    if dated["storage_day"].nunique() > 1:
        cells = pd.read_csv(first.path / "cells.csv")
        cells = cells[(cells["cut"] == 0) & cells["storage_day"].notna()]
        panels = [Panel("fig8_trend", plot_trend(dated, names), "Shares of the types over the days of storage")]
        if simulated:
            panels.append(Panel("fig8_errors", plot_errors(dated, names), "Share minus true share over the days"))
        if len(cells):
            panels.append(Panel("morphology", plot_morphology(cells, names), "Measures of the cells over the days"))
        caption = "Shares of all cells of a day with 95 % intervals" + (
            "; dashed: the simulated truth, from which the errors are taken." if simulated else "; no truth is known."
        )
        block = FigureBlock("Shares of the types", panels, caption, paper.FIGURE_8)
        trend = Section(trend.title, text=[_TREND_TEXT], blocks=[block, _series_table(series, names[1:])])
    types = Section("Types of the cells (Fig. 9)", missing="no truth beside the images (classes/ and instances/)")
    if matrix := first.summary.get("confusion"):
        panel = Panel("fig9_confusion", plot_confusion(matrix, names[1:]), "True types in rows, predicted in columns")
        caption = f"Whole cells; missed ones in the last column, spurious ones below.{many}"
        block = FigureBlock("Confusion of the types", [panel], caption, paper.FIGURE_9)
        types = Section(types.title, blocks=[block])
    return [one, trend, types]


_TREND_TEXT = (
    "In a simulated series the composition of each day is an input, so that only the error against it says anything; "
    "with one bag a day, as in the paper, a day cannot be told from its bag."
)


def _series_table(series: Sequence[StorageSeries], types: Sequence[str]) -> TableBlock:
    rows = []
    for found in series:
        summary = found.summary
        right = summary.get("right_type") or {}
        rows.append(
            {
                "Series": found.path.name,
                "images": summary["images"],
                "flagged": summary["flagged_images"],
                "undecided cells": summary["undecided_cells"],
                **{f"right, {name}": _number(right.get(name)) for name in types},
                "spurious an image": _number(summary.get("spurious_an_image")),
                "mean |error of shares|": _number(summary.get("mean_absolute_error_of_shares")),
            }
        )
    words = "Paper B: 66 images; discocytes nearly all, each other type more than 95 % right."
    return TableBlock("storage_series", "Assessed series", pd.DataFrame(rows), paper=words)


def calibration_section(groups: Sequence[tuple[str, list[SegmentationRun]]]) -> Section:
    """How honest the probabilities of the types are, of runs that were calibrated."""
    title = "Probabilities of the types"
    rows: list[dict[str, Any]] = []
    for name, members in groups:
        for run in members:
            files = [run.path / place for place in CALIBRATION if (run.path / place).is_file()]
            if not files:
                continue
            content = json.loads(files[0].read_text(encoding="utf-8"))
            asked = content["abstention"].get(ASKED) or {}
            rows.append(
                {
                    "Method": name,
                    "seed": run.test["seed"],
                    "test cells": content["tested_on"],
                    "temperature": content["temperature"],
                    "error, raw": content["calibration_error_raw"],
                    "error, calibrated": content["calibration_error"],
                    "right type": content["accuracy"],
                    f"decided at {ASKED}": _number(asked.get("decided")),
                    "right of these": _number(asked.get("accuracy")),
                }
            )
    if not rows:
        return Section(title, missing="no run was calibrated: hemolens eval ckpt_path=<best.ckpt> calibrate=true")
    text = (
        "The temperature is fitted on cells of validation images; errors (expected calibration error, 15 bins) and "
        f"accuracy are of cells of test images. In the last two columns cells below a probability of {ASKED} are left "
        "undecided. The paper has nothing of the kind."
    )
    table = TableBlock("calibration", "Calibration of the types", pd.DataFrame(rows))
    return Section(title, text=[text], blocks=[table])


def data_section(
    found: dict[str, SegmentedImage], class_names: Sequence[str], *, pixel_um: float | None = None
) -> Section:
    """Figure 10: the types, alone and in an image with its labels.

    Args:
        found: images by name, phases in rad.
        class_names: background first.
        pixel_um: side of a pixel.
    """
    title = "The data (Fig. 10)"
    images = [
        PhaseWithClasses(name, image.phase, image.truth) for name, image in found.items() if image.truth is not None
    ]
    if not images:
        return Section(title, missing="No run kept its maps (callbacks.figures was off)")
    images.sort(key=lambda image: -np.unique(image.classes).size)
    words = "One cell of each type with its phase as a surface; an image with its labels"
    panel = Panel("fig10_data", plot_data(images, class_names, pixel_um), words)
    caption = "Cells that touch no other, of median area, and a test image with its labels."
    return Section(title, blocks=[FigureBlock("Types in the data", [panel], caption, paper.FIGURE_10)])


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)
