"""Paper B's tables and figures from finished runs: what `hemolens report paper=storage` writes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hemolens.analysis import storage_paper as paper
from hemolens.analysis.paper_figures import NOT_COMPARABLE, OTHER_DATA
from hemolens.analysis.report_page import FigureBlock, Panel, Section, TableBlock
from hemolens.analysis.report_sources import SegmentationRun, Sources, group_runs
from hemolens.analysis.segmentation_figures import SegmentedImage, plot_segmentations, plot_type_scores
from hemolens.analysis.storage_series_report import calibration_section, data_section, pairs_section, series_sections

TITLE = "Stored red cells from off-axis holograms"
MAPS = "figures/test_maps.npz"  # what callbacks.segmentation_figures keeps of a test
FIGURE_IMAGES = 4
Group = tuple[str, list[SegmentationRun]]
Maps = dict[str, SegmentedImage]


def storage_report(sources: Sources) -> tuple[list[str], list[Section]]:
    """Lead paragraphs and sections of the report.

    Args:
        sources: with a tested segmentation at least.
    """
    runs = sources.segmentation
    names = runs[0].test["class_names"]
    chosen = [run for run in runs if run.test["class_names"] == names]
    others = sorted({run.path.name for run in runs} - {run.path.name for run in chosen})
    groups = group_runs(chosen, _name)
    remark = NOT_COMPARABLE if all(run.simulated for run in chosen) else OTHER_DATA
    maps = {name: found for name, members in groups if (found := _maps(members[0].path / MAPS))}
    sections = [
        pairs_section(sources.pairs),
        Section(
            "Dice (Table 1)",
            text=[
                "Mean over the test images that hold a type (in truth or prediction), then over the types; the "
                "background is left out. “paper's way” counts an image without the type as 1, which is how rare types "
                "can score above frequent ones; that the paper did so is our inference. “pooled” takes all pixels "
                f"together. Runs (seeds) a row: {', '.join(f'{name}: {len(members)}' for name, members in groups)}."
                + (f" Left out for other classes: {', '.join(others)}." if others else "")
            ],
            blocks=[_scores_table("dice", "Dice", groups, names, remark), _bars(groups, names, remark)],
        ),
        Section(
            "Aggregated Jaccard index (Table 2)",
            text=[
                "By cell: each true cell with the prediction of largest overlap; what is left over counts against the "
                "score (Kumar et al. 2017). Cells are connected parts of a class, parted by a watershed."
            ],
            blocks=[_scores_table("aji", "AJI", groups, names, remark)],
        ),
        Section("Cells", text=[_CELLS_TEXT], blocks=[_cells_table(groups, names)]),
        Section("Cost (Table 3)", text=[_COST_TEXT], blocks=[_cost_table(groups)]),
        _figure_section(groups, maps, names),
        *series_sections(sources.storage),
        calibration_section(groups),
        _data(groups, maps, names),
    ]
    return _lead(sources, chosen), sections


_CELLS_TEXT = (
    "Types of whole cells, by the class of most of their pixels; a cell most of which is called background is missed. "
    "“two types” are cells in which two types each hold a tenth of the pixels, the failure that Figure 6 of the paper "
    "shows."
)
_COST_TEXT = (
    "Seconds for ten test images in one pass each, and for ten patches of 256×256 pixels, from phase to class map, at "
    "the run's precision on its device. The paper gives one time for “10 test images” without saying which; its "
    "Quadro RTX 6000 is another device, so the times stand side by side but do not compare. Multiply-accumulates: "
    "ours by PyTorch's counter for one 256×256 patch of one channel (convolutions and matrix products alone), the "
    "paper's by thop for three channels, which counts a transposed convolution on its output and normalisation too. "
    "Of a diffusion GAN one step of denoising is counted, by the paper too; a mask takes several. By the paper's "
    "own table its ResUnet has more parameters than every network but the denoising diffusion GAN, and "
    "is slower than U-Net, FCN and GAN + Watershed."
)


def _name(run: SegmentationRun) -> str:
    method, binned = paper.method_of(run.net, run.arm), f", {run.binning}× larger pixels" if run.binning > 1 else ""
    if method is None:
        return f"{run.net}{binned}" + ("" if run.arm is None else f", {run.arm}")
    return f"{method} ({run.net}{binned})"


def _paper_row(members: Sequence[SegmentationRun]) -> str:
    """The row of the paper's tables that runs are to be held beside; "" for none."""
    return paper.method_of(members[0].net, members[0].arm) or ""


def _not_run(groups: Sequence[Group], known: Mapping[str, Any]) -> list[str]:
    """Rows of the paper without a run of ours."""
    there = {_paper_row(members) for _, members in groups}
    return [method for method in known if method not in there]


def _lead(sources: Sources, runs: Sequence[SegmentationRun]) -> list[str]:
    lines = [
        f"Made from {len(runs)} tested segmentations. The figures of Park et al. (Advanced Sensor Research, 2025, "
        '"paper B") stand beside ours.'
    ]
    if runs and all(run.simulated for run in runs):
        lines.append(
            "Everything here is measured on simulated blood: its difficulty is a setting, so that no figure is "
            "comparable with the paper's, neither better nor worse."
        )
    if sources.left_out:
        lines.append(f"Left out: {'; '.join(sources.left_out)}.")
    return lines


def _values(members: Sequence[SegmentationRun], key: str) -> np.ndarray:
    """[seeds] or [seeds, K - 1] of a score, NaN where there is none."""
    return np.array([_nan(run.test[key]) for run in members], float)


def _nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_nan(item) for item in value]
    return np.nan if value is None else value


def _scores_table(key: str, title: str, groups: Sequence[Group], names: Sequence[str], remark: str) -> TableBlock:
    known = {"dice": paper.DICE, "aji": paper.AJI}[key]
    rows: list[dict[str, Any]] = []
    for name, members in groups:
        by_type = _values(members, f"{key}_skip").mean(0)
        overall = _values(members, key)
        theirs = known.get(_paper_row(members), (np.nan,) * 5)
        rows.append(
            {
                "Method": name,
                **dict(zip(names[1:], by_type.tolist(), strict=True)),
                "Overall": float(overall.mean()),
                "SD of seeds": float(overall.std(ddof=1)) if len(overall) > 1 else np.nan,
                "Overall, paper's way": float(_values(members, f"{key}_paper").mean()),
                **({"Pooled": float(np.nanmean(_values(members, "dice_pooled")))} if key == "dice" else {}),
                "Paper B overall": theirs[-1],
            }
        )
    rows += [
        {"Method": f"{method} (not run)", "Paper B overall": known[method][-1]} for method in _not_run(groups, known)
    ]
    listed = "; ".join(
        f"{method} {', '.join(f'{value:.3f}' for value in values[:-1])}, overall {values[-1]:.3f}"
        for method, values in known.items()
    )
    more = (
        " Of ResUnet + SSL the four types of the paper's Table 2 average .8916, not the .8968 that it prints."
        if key == "aji"
        else ""
    )
    return TableBlock(
        f"table_{key}",
        f"{title} by type",
        pd.DataFrame(rows),
        paper=f"Paper B ({', '.join(paper.TYPES)}; {remark}): {listed}.{more}",
    )


def _bars(groups: Sequence[Group], names: Sequence[str], remark: str) -> FigureBlock:
    scores = {name: _values(members, "dice_skip").mean(0) for name, members in groups}
    panel = Panel("dice_by_type", plot_type_scores(scores, names), "Dice of each type as bars, one a method")
    return FigureBlock("Dice by type", [panel], "Mean over seeds.", remark)


def _cells_table(groups: Sequence[Group], names: Sequence[str]) -> TableBlock:
    columns: dict[str, tuple[str, Callable[[np.ndarray], Any]]] = {
        "two types": ("mixed_type_rate", np.mean),
        "spurious an image": ("spurious", np.mean),
        "right type, touching": ("type_accuracy_touching", np.mean),
        "right type, isolated": ("type_accuracy_isolated", np.mean),
        "Dice of a cell, touching": ("cell_dice_touching", np.mean),
        "Dice of a cell, isolated": ("cell_dice_isolated", np.mean),
    }
    rows = []
    for name, members in groups:
        counts = np.array([run.test["types"] for run in members], float).sum(0)
        right = np.diag(counts[:, 1:]) / np.maximum(counts.sum(1), 1)
        rows.append(
            {
                "Method": name,
                **{f"right type, {kind}": float(v) for kind, v in zip(names[1:], right, strict=True)},
                "missed": float(counts[:, 0].sum() / max(counts.sum(), 1)),
                **{column: float(how(_values(members, key))) for column, (key, how) in columns.items()},
            }
        )
    return TableBlock("cells", "Types of whole cells, shares of the true cells", pd.DataFrame(rows))


def _cost_table(groups: Sequence[Group]) -> TableBlock:
    rows = []
    for name, members in groups:
        test, known = members[0].test, paper.COST.get(_paper_row(members), (np.nan,) * 3)
        seconds = [run.seconds for run in members if run.seconds]
        first = seconds[0] if seconds else {}

        def median(key: str, seconds: list[dict[str, Any]] = seconds) -> float:
            return float(np.median([entry[key] for entry in seconds])) if seconds else np.nan

        rows.append(
            {
                "Method": name,
                "10 images (s)": median("images_10_s"),
                "10 patches (s)": median("patches_10_s"),
                "Image": "×".join(map(str, first.get("image_px", []))) or None,
                "Device": first.get("device"),
                "Parameters (M)": test["parameters"] / 1e6,
                "MACs (G)": np.nan if test.get("macs") is None else test["macs"] / 1e9,
                "Paper B (s)": known[0],
                "Paper B parameters (M)": known[1] / 1e6,
                "Paper B MACs (G)": known[2],
            }
        )
    for method in _not_run(groups, paper.COST):
        seconds_, parameters, macs = paper.COST[method]
        theirs = {"Paper B (s)": seconds_, "Paper B parameters (M)": parameters / 1e6, "Paper B MACs (G)": macs}
        rows.append({"Method": f"{method} (not run)", **theirs})
    return TableBlock("table3_cost", "Time, parameters and multiply-accumulates", pd.DataFrame(rows), decimals=2)


def _data(groups: Sequence[Group], maps: Mapping[str, Maps], names: Sequence[str]) -> Section:
    """The figure of the data, from the maps with the smallest pixels."""
    finest = _finest(groups, maps)
    if not finest:
        return data_section({}, names)
    (run,) = (members[0] for name, members in groups if maps.get(name) is finest[0])
    low, high = run.phase_limits_rad or (-1.0, 1.0)
    images = {
        name: replace(image, phase=(image.phase + 1) * (high - low) / 2 + low) for name, image in finest[0].items()
    }
    return data_section(images, names, pixel_um=run.pixel_um)


def _finest(groups: Sequence[Group], maps: Mapping[str, Maps]) -> list[Maps]:
    """Maps with the smallest pixels first."""
    binning = {name: members[0].binning for name, members in groups}
    return [maps[name] for name in sorted(maps, key=binning.__getitem__)]


def _figure_section(groups: Sequence[Group], maps: Mapping[str, Maps], names: Sequence[str]) -> Section:
    title = "Segmented images (Fig. 6)"
    if not maps:
        return Section(title, missing="No run kept its maps (callbacks.figures was off)")
    first = _finest(groups, maps)[0]  # the others are drawn on its images
    same = {name: found for name, found in maps.items() if set(first) <= set(found)}
    same = {name: same[name] for name, _ in groups if name in same}
    images = []
    for image_name, image in list(first.items())[:FIGURE_IMAGES]:
        said = {
            name: _enlarged(found[image_name].predictions["prediction"], image.phase.shape)
            for name, found in same.items()
        }
        images.append(SegmentedImage(image_name, image.phase, image.truth, said))
    note = f" Not of the same images: {', '.join(sorted(set(maps) - set(same)))}." if len(same) < len(maps) else ""
    block = FigureBlock(
        "Test images",
        [
            Panel(
                "fig6_segmentations", plot_segmentations(images, names), "phase, truth and predictions, a row an image"
            )
        ],
        f"Pixels that differ from the truth are pale; the first seed of each method.{note}",
        "Figure 6 of paper B shows one cell of several types, and background taken for cells, in white-red boxes.",
    )
    return Section(title, blocks=[block])


def _enlarged(classes: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A map of larger pixels, nearest ones, at a size [H, W]."""
    rows, columns = (np.arange(wanted) * had // wanted for wanted, had in zip(size, classes.shape, strict=True))
    return classes[np.ix_(rows, columns)]


def _maps(path: Path) -> Maps:
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        return {
            str(name): SegmentedImage(
                str(name),
                stored[f"phase_{number}"].astype(np.float32),
                stored[f"truth_{number}"],
                {"prediction": stored[f"prediction_{number}"]},
            )
            for number, name in enumerate(stored["names"])
        }
