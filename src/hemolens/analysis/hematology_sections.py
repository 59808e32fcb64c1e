"""Sections of paper A's report on measured cells: embedding, agreement of indices, RBC beside ARBC, counts."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hemolens.analysis import paper_figures as paper
from hemolens.analysis.agreement import summarize
from hemolens.analysis.counts import count_agreement
from hemolens.analysis.embedding import annotator_agreement, embed, rank_correlation
from hemolens.analysis.matching import common_files, match_cells
from hemolens.analysis.report_figures import (
    Pair,
    draw_crops,
    draw_differences,
    draw_distributions,
    draw_ranks,
    draw_regression,
    draw_scatter,
)
from hemolens.analysis.report_page import FigureBlock, Panel, Section, TableBlock
from hemolens.analysis.report_sources import HematologyPrediction, read_reference
from hemolens.analysis.samples import RED_CLASSES, measurable
from hemolens.errors import UserError

INDICES = {
    "mcv_fl": ("MCV", "fL", "cv_fl", "true_volume_fl"),
    "mch_pg": ("MCH", "pg", "ch_pg", "true_hemoglobin_pg"),
}
RED = RED_CLASSES["RBC+ARBC"]
PAIR_STYLES: dict[Pair, tuple[str, str]] = {
    ("RBC", "RBC"): ("#56b4e9", "o"),
    ("ARBC", "ARBC"): ("#cc79a7", "o"),
    ("RBC", "ARBC"): ("#d55e00", "^"),
    ("ARBC", "RBC"): ("#009e73", "v"),
}
FEW_SAMPLES, FEW_CELLS = 3, 10
COUNT_HEADS = {
    "class": "Class",
    "samples": "Samples",
    "found": "Cells found",
    "reference": "True cells",
    "mean_absolute_error": "Mean absolute error a sample",
    "relative_error": "Relative error of the total",
    "bias": "Bias",
    "bias_low": "Bias, from",
    "bias_high": "Bias, to",
    "limit_low": "Lower limit",
    "limit_high": "Upper limit",
}
FAR_FROM_ONE = ("threshold", "gp_threshold")  # their volumes: the rule of 1983 takes slopes to be near 1


def embedding_section(prediction: HematologyPrediction, truth: pd.DataFrame | None, remark: str) -> Section:
    """t-SNE of the detector's features (Fig. 3), and what irregularity and annotators say of them."""
    title = "What the detector sees in red cells (Fig. 3)"
    stored = prediction.features
    if stored is None:
        return Section(title, missing="No features were kept: predict with hematology.features=4000 (the default).")
    table = pd.DataFrame({"file": stored["image"], "cell": stored["cell"], "row": np.arange(len(stored["cell"]))})
    cells = prediction.cells.merge(table, on=["file", "cell"], how="inner")
    cells = cells[cells["class"].isin(RED) & ~cells.border_cut.astype(bool)].reset_index(drop=True)
    if truth is not None:
        cells = match_cells(cells, truth)
        cells = cells[cells.true_class.isin(RED)].reset_index(drop=True)
    else:
        cells["true_class"] = cells["class"]
    if len(cells) < FEW_CELLS:
        return Section(title, missing=f"{len(cells)} red cells with features: an embedding wants at least {FEW_CELLS}.")
    laid = embed(stored["features"][cells.row], cells["class"] == "ARBC")
    pairs = list(zip(cells["class"], cells.true_class, strict=True))
    crops = stored["crops"][cells.row]
    scatter = draw_scatter(laid.points, pairs, PAIR_STYLES)
    panels = [Panel("fig3_tsne", scatter, "t-SNE of red cells, by predicted and true class")]
    blocks: list[FigureBlock | TableBlock] = []
    if truth is not None and cells.true_irregularity.nunique() > 1:
        table, found = _irregularity_table(cells, laid.axis, remark)
        labels = np.where(cells["class"] == "ARBC", 3, 0)  # their colours everywhere
        text = f"Spearman {found['rho']:.2f} [{found['rho_low']:.2f}, {found['rho_high']:.2f}], {found['n']} cells"
        figure = draw_ranks(cells.true_irregularity, laid.axis, labels, text)
        panels.append(Panel("fig3_irregularity", figure, "Main axis of the features against irregularity"))
        blocks.append(table)
    for pair in PAIR_STYLES:
        own = np.array([entry == pair for entry in pairs])
        if own.any():
            head = f"{pair[0]} found" + (f", {pair[1]} true" if truth is not None else "")
            figure = draw_crops(crops[own], laid.axis[own], f"{head} ({own.sum()})")
            panels.append(Panel(f"fig3_crops_{pair[0].lower()}_{pair[1].lower()}", figure, f"Cells: {head}"))
    caption = (
        "Features of the class tower at the centre of each cell that lies wholly in the field, laid out by t-SNE; then "
        "cells of each pair of found and "
        "true class along the main axis of the features (first principal component, "
        f"{laid.explained:.0%} of the variance), from one end over the middle to the other, with their place on it."
    )
    said = f"Paper A, Fig. 3: two clusters with a grey area between them ({remark})."
    return Section(title, blocks=[FigureBlock("Features of red cells (Fig. 3)", panels, caption, said), *blocks])


def _irregularity_table(cells: pd.DataFrame, axis: Any, remark: str) -> tuple[TableBlock, dict[str, float]]:
    irregularity = cells.true_irregularity.to_numpy(float)
    found = rank_correlation(irregularity, axis)
    agreed = annotator_agreement(cells.true_annotations.tolist())
    correct = float((cells["class"] == cells.true_class).mean())
    rows = [("Spearman of the main axis with irregularity", *_rho(found))]
    irregular = (cells.true_class == "ARBC").to_numpy()
    if irregular.sum() >= FEW_CELLS:
        among = rank_correlation(irregularity[irregular], axis[irregular])
        rows.append(("The same among true ARBC alone", *_rho(among)))
    rows += [
        ("Detector agrees with the annotators' majority", correct, "matched red cells"),
        ("An annotator agrees with the majority (ceiling)", agreed["against_majority"], "own voice included"),
        ("Two annotators agree", agreed["pairwise"], f"Cohen's kappa {agreed['kappa']:.3f}"),
        ("All annotators agree", agreed["unanimous"], "share of the cells"),
    ]
    table = TableBlock(
        "fig3_irregularity",
        "Irregularity, detector and annotators",
        pd.DataFrame(rows, columns=["Measure", "Value", "Note"]),
        caption="Red cells that were found as RBC or ARBC and are one or the other. Most RBC differ too little in "
        "irregularity for anyone to see, which keeps the first correlation low. A detector cannot be asked to agree "
        "with the annotators better than they agree with each other.",
        paper="Paper A states no agreement between its three annotators; it says that the border is ambiguous "
        f"({remark}).",
    )
    return table, found


def _rho(found: dict[str, float]) -> tuple[float, str]:
    return found["rho"], f"{_interval(found['rho_low'], found['rho_high'])}, {found['n']} cells"


def agreement_section(
    prediction: HematologyPrediction, matched: pd.DataFrame | None, reference: Path | None, remark: str
) -> Section:
    """MCV and MCH of samples against an analyser and against the truth (Fig. 4)."""
    title = "Red-cell indices of blood samples (Fig. 4)"
    settings = prediction.about.get("hematology", {})
    method = str(settings.get("method", "?"))
    text = [
        f"Method {method}, refractive index increment {settings.get('rii', '?')} dL/g. Cells that the border cuts and "
        "clumped cells are left out. Indices of RBC alone, as in the paper, and of RBC and ARBC together, as an "
        "analyser counts. r depends on the spread of the cohort: it stands beside the SD, the RMSE and the bias."
    ]
    compared = {}
    if reference is not None:
        compared["analyser"] = _against_reference(prediction.samples, read_reference(reference))
    if matched is not None:
        compared["truth of the same cells"] = _against_truth(matched)
    rows, panels = [], []
    for index, (name, unit, *_) in INDICES.items():
        for against, by_cells in compared.items():
            for of, pairs in by_cells.items():
                pair = pairs.get(index)
                if pair is None or len(pair) < FEW_SAMPLES or (pair.nunique() < 2).any():
                    continue
                equivariant = index == "mcv_fl" and method in FAR_FROM_ONE
                rows.append(_agreement_row(name, unit, against, of, pair, equivariant))
                if of == "RBC":
                    short = "analyser" if against == "analyser" else "truth"
                    labels = (f"{name}, {against} ({unit})", f"{name}, {method} ({unit})")
                    line = draw_regression(pair.reference, pair.found, labels, equivariant=equivariant)
                    panels.append(Panel(f"fig4_{index}_{short}", line, f"{name} against the {against}"))
                    if against == next(iter(compared)):  # three panels an index, as in the paper
                        spread = draw_differences(pair.reference, pair.found, f"{name}, {short}", unit)
                        words = f"Differences of {name} to the {short}"
                        panels.append(Panel(f"fig4_{index}_{short}_differences", spread, words))
    if not rows:
        known = "no truth and no reference table (reference=<CSV with sample, mcv_fl, mch_pg>)"
        few = f"fewer than {FEW_SAMPLES} samples with two or more measured RBC each"
        return Section(title, text, missing=f"Not compared: {few if compared else known}.")
    figure = FigureBlock(
        "MCV and MCH (Fig. 4)",
        panels,
        "RBC alone. Passing-Bablok regression (reference on x) and differences after Bland and Altman.",
        paper="Paper A, Fig. 4, against DxH-800 and LH-780: MCV r 0.905, slope 1.04; MCH r 0.889, slope 0.97 "
        f"({remark}).",
    )
    table = TableBlock(
        "fig4_agreement",
        "Agreement of the indices",
        pd.DataFrame(rows),
        caption="Intervals of 95 %: Fisher's for r, Passing and Bablok's for the slope (for volumes of a fixed "
        "threshold the equivariant form with a bootstrap). The cusum test asks whether a line is enough.",
    )
    return Section(title, text, [figure, table])


def _agreement_row(
    name: str, unit: str, against: str, of: str, pair: pd.DataFrame, equivariant: bool
) -> dict[str, Any]:
    found = summarize(pair.reference, pair.found, equivariant=equivariant)
    known = paper.AGREEMENT["mcv_fl" if name == "MCV" else "mch_pg"]
    as_paper = against == "analyser" and of == "RBC"
    return {
        "Index": f"{name} ({unit})",
        "Cells": of,
        "Against": against,
        "Samples": found["n"],
        "SD of reference": found["sd_x"],
        "r": found["r"],
        "r, 95 %": _interval(found["r_low"], found["r_high"]),
        "Slope": found["slope"],
        "Slope, 95 %": _interval(found["slope_low"], found["slope_high"]),
        "Intercept": found["intercept"],
        "Bias": found["bias"],
        "Limits": _interval(found["limit_low"], found["limit_high"]),
        "RMSE": found["rmse"],
        "Cusum p": found["linearity_p"],
        "Paper A r": known["r"] if as_paper else None,
        "Paper A slope": known["slope"] if as_paper else None,
    }


def _interval(low: float, high: float) -> str:
    return f"[{low:.3f}, {high:.3f}]".replace("-", "−")


def _against_reference(samples: pd.DataFrame, reference: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """Pairs (reference, found) of each index, by which cells were taken."""
    joined = samples.merge(reference, on="sample", suffixes=("", "_reference"))
    if not len(joined):
        raise UserError(
            f"no sample of the reference ({reference['sample'].iloc[0]}, …) is among those measured "
            f"({samples['sample'].iloc[0]}, …): the column sample must name them alike"
        )
    made: dict[str, dict[str, pd.DataFrame]] = {}
    for of, rows in joined.groupby("indices_of", sort=False):
        made[str(of)] = {
            index: pd.DataFrame({"reference": rows[f"{index}_reference"], "found": rows[index]}).dropna()
            for index in INDICES
            if f"{index}_reference" in rows
        }
    return made


def _against_truth(matched: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    made: dict[str, dict[str, pd.DataFrame]] = {}
    usable = matched[measurable(matched)]
    for of, classes in RED_CLASSES.items():
        chosen = usable[usable["class"].isin(classes)]
        chosen = chosen[chosen.groupby("sample")["sample"].transform("size") >= 2]
        means = chosen.groupby("sample")[["cv_fl", "ch_pg", "true_volume_fl", "true_hemoglobin_pg"]].mean()
        made[of] = {
            index: pd.DataFrame({"reference": means[true], "found": means[found]})
            for index, (_, _, found, true) in INDICES.items()
        }
    return made


def classes_section(prediction: HematologyPrediction, matched: pd.DataFrame | None, remark: str) -> Section:
    """Volume and hemoglobin of RBC beside ARBC (Fig. 5)."""
    title = "RBC beside ARBC (Fig. 5)"
    cells = prediction.cells if matched is None else matched
    cells = cells[measurable(cells) & cells["class"].isin(RED)]
    if not len(cells):
        return Section(title, missing="No red cell was measured.")
    panels, rows = [], []
    for name, unit, found, true in (
        ("CV", "fL", "cv_fl", "true_volume_fl"),
        ("CH", "pg", "ch_pg", "true_hemoglobin_pg"),
    ):
        groups: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
        for label in RED:
            own = cells[cells["class"] == label]
            known = own[true].tolist() if matched is not None else []
            groups[label] = (own[found].tolist(), known)
            row: dict[str, Any] = {"Quantity": f"{name} ({unit})", "Found as": label, "Cells": len(own)}
            row |= {"Mean": float(own[found].mean()), "SD": float(own[found].std())}
            if matched is not None:
                errors = own[found] - own[true]
                row |= {"True mean": float(own[true].mean()), "True SD": float(own[true].std())}
                row |= {"Bias": float(errors.mean()), "RMSE a cell": float(np.sqrt((errors**2).mean()))}
            rows.append(row)
        words = "corpuscular volume" if name == "CV" else "corpuscular hemoglobin"
        figure = draw_distributions(groups, f"{words} ({unit})", (0, 3))
        panels.append(Panel(f"fig5_{name.lower()}", figure, f"{words} of RBC and ARBC"))
    caption = "Single cells by the class they were found as: median, quartiles and distribution"
    caption += ", beside the true values of the same cells." if matched is not None else "."
    block = FigureBlock(
        "Volume and hemoglobin by class (Fig. 5)",
        panels,
        caption,
        paper="Paper A, Fig. 5: ARBC lie clearly lower and scatter more. In simulation that is an input; the test is "
        f"the error against the truth ({remark}).",
    )
    return Section(title, blocks=[block, TableBlock("fig5_classes", "By class", pd.DataFrame(rows), decimals=2)])


def counts_section(prediction: HematologyPrediction, truth: pd.DataFrame | None, remark: str) -> Section:
    """Cells counted in each sample against the truth."""
    title = "Cell counts of each sample"
    samples = prediction.samples
    names = [name.removeprefix("fraction_") for name in samples if name.startswith("fraction_")]
    columns = [f"n_{name}" for name in names]
    table = TableBlock("samples", "Samples", samples, caption="samples.csv of the prediction.")
    if truth is None:
        return Section(title, missing="The true counts are not known.", blocks=[table])
    found = samples[["sample", *columns]].drop_duplicates().set_index("sample")
    if len(found) < FEW_SAMPLES:
        return Section(title, missing=f"Fewer than {FEW_SAMPLES} samples: nothing to compare.", blocks=[table])
    files = common_files(prediction.files, truth.file.unique().tolist())
    seen = zip(prediction.cells.file, prediction.cells["sample"], strict=True)
    sample_of = {files[file]: sample for file, sample in seen if file in files}
    known = truth[truth.file.isin(list(files.values()))]
    # a tomogram in which nothing was found belongs to the sample that the others of its true sample belong to
    by_truth = {row.sample: sample_of[row.file] for row in known.itertuples() if row.file in sample_of}
    known = known.assign(sample=known.file.map(sample_of).fillna(known["sample"].map(by_truth)).fillna(known["sample"]))
    true = known.groupby("sample")["class"].value_counts().unstack(fill_value=0).add_prefix("n_")
    true = true.reindex(index=found.index, columns=columns, fill_value=0)
    agreed = count_agreement(found.reset_index(), true.reset_index(), names).rename(columns=COUNT_HEADS)
    panels = []
    for name, column in zip(names, columns, strict=True):
        if found[column].any() or true[column].any():
            figure = draw_differences(true[column], found[column], f"{name} a sample")
            panels.append(Panel(f"counts_{re.sub(r'[^a-z0-9]+', '_', name.lower())}", figure, f"Counts of {name}"))
    blocks: list[FigureBlock | TableBlock] = [
        FigureBlock("Found less true", panels, "Differences of counts over their means, after Bland and Altman."),
        TableBlock("counts", "Agreement of counts", agreed, paper=f"Paper A gives no counts ({remark}).", decimals=2),
        table,
    ]
    return Section(title, blocks=blocks if panels else blocks[1:])
