"""``hemolens collect --compare``: the arms of an experiment, seeds and images paired, as tables and a figure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hemolens.analysis.arms import ArmScore, arms_markdown, by_type, compare_arms
from hemolens.analysis.run_folders import RunFolder, read_json
from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path, write_json

SCORES = {"Dice": "dice_images", "AJI": "aji_images"}  # of test.json
FILES = ("comparison.md", "comparison.json", "comparison.png")
Arms = dict[str, dict[int, Any]]


def compare_runs(
    runs: Sequence[RunFolder], key: str, reference: str, folder: Path, *, by: str | None = None, overwrite: bool = False
) -> str:
    """Compare segmentation runs that differ in ``key``; returns the tables, and writes them, the numbers and a figure.

    Args:
        runs: those that are not finished are left out and named.
        key: of the config, e.g. ``arm_name``.
        reference: its value that the others are compared with.
        folder: for comparison.md, comparison.json and comparison.png.
        by: another key, a comparison for each of its values (a curve where they are numbers), e.g.
            ``data.train_share``.
        overwrite: replace earlier ones.

    Raises:
        UserError: files that are there, a key or value that no run has, two runs of an arm with one seed, or runs
            without scores of single images.
    """
    groups, left_out = _grouped(runs, key, by)
    found: dict[str, dict[str, dict[str, ArmScore]]] = {}
    lines: list[str] = []
    for value, arms in groups.items():
        types = arms.pop("types")
        scores = {name: compare_arms(arms[name], reference) for name in SCORES}
        each = {
            f"{name} {kind}": compare_arms(by_type(arms[name], number), reference)
            for name in SCORES
            for number, kind in enumerate(types)
        }
        found[value] = scores | each
        lines += [f"## {by}={value}\n"] if by else []
        lines += [arms_markdown(list(scores), list(scores.values()), reference), ""]
        for name in SCORES:
            own = {kind: each[f"{name} {kind}"] for kind in types}
            lines += [f"{name} by type:\n", arms_markdown(list(own), list(own.values()), reference), ""]
    lines.append(
        "Mean ± standard deviation over seeds; differences with 95 % intervals (t) of a bootstrap over seeds and test "
        f"images, paired by both. {reference} is the reference."
    )
    lines += [f"Left out, not finished: {', '.join(left_out)}."] if left_out else []
    text = "\n".join(lines) + "\n"
    from hemolens.analysis.arm_figures import plot_arm_curve, plot_arms
    from hemolens.analysis.figures import save_figure

    figure = plot_arms(found["all"], reference) if by is None else plot_arm_curve(found, by)
    save_figure(figure, folder / FILES[2], overwrite=overwrite)
    plain = {value: {name: _plain(table) for name, table in tables.items()} for value, tables in found.items()}
    write_json(folder / FILES[1], plain, overwrite=overwrite)
    with atomic_path(folder / FILES[0], overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def _plain(table: Mapping[str, ArmScore]) -> dict[str, dict[str, Any]]:
    return {
        arm: {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(score).items()
        }
        for arm, score in table.items()
    }


def _grouped(runs: Sequence[RunFolder], key: str, by: str | None) -> tuple[dict[str, Any], list[str]]:
    """For each value of ``by`` ("all" without): score → arm → seed → table, and ``types``; and runs left out."""
    groups: dict[str, Any] = {}
    left_out = []
    for found in runs:
        run, config = found.folder, found.config
        for name in (key, by, "seed"):
            if name is not None and name not in config:
                raise UserError(f"{run} has no config key {name}: --compare and --by take keys of config_resolved.yaml")
        if found.status["state"] != "finished":
            left_out.append(run.name)
            continue
        test = read_json(run / "test.json") if (run / "test.json").is_file() else {}
        if missing := [name for name in SCORES.values() if name not in test]:
            raise UserError(f"{run} has no {missing[0]} in test.json: --compare takes tested runs of segmentations")
        value = "all" if by is None else str(config[by])
        group = groups.setdefault(value, {"types": test["class_names"][1:], **{name: {} for name in SCORES}})
        if group["types"] != test["class_names"][1:]:
            raise UserError(f"{run} has other types than the runs before it: compare runs of one data set")
        for name, kept in SCORES.items():
            seeds = group[name].setdefault(str(config[key]), {})
            if config["seed"] in seeds:
                raise UserError(
                    f"{run} is a second run of {key}={config[key]}, seed={config['seed']}"
                    f"{'' if by is None else f', {by}={value}'}: give the folder of one sweep"
                )
            seeds[config["seed"]] = np.array(test[kept], np.float64)  # None becomes NaN
    if not groups:
        raise UserError(f"none of {len(runs)} runs is finished: nothing to compare")
    return groups, left_out
