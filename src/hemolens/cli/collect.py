"""``hemolens collect``: many run folders → one tidy CSV and one Markdown table."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hemolens.cli.compare import FILES, compare_runs, flatten
from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path, write_json


def main(arguments: Sequence[str]) -> int:
    """Parse the command line and write the two tables."""
    parser = argparse.ArgumentParser(
        prog="hemolens collect",
        description="Gather the results of finished and failed runs below the given folders: one row a run, with the "
        "config values that differ between them.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, help="run folders, or folders that hold some (searched deeply)"
    )
    parser.add_argument("--output", type=Path, help="where results.csv and results.md go (default: the first folder)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file, with their commands: for results/")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier tables there")
    parser.add_argument(
        "--all-metrics", action="store_true", help="every metric in the Markdown table too, not the main ones"
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        help="a further metric for the Markdown table, e.g. test/found_PLT; may be repeated",
    )
    parser.add_argument(
        "--compare",
        metavar="KEY=REFERENCE",
        help="compare tested segmentations that differ in a config key with those of one value, e.g. arm_name=plain: "
        "means over seeds, differences paired by seed and image; writes comparison.md, .json and .png",
    )
    parser.add_argument(
        "--by", metavar="KEY", help="with --compare: one comparison for each value of this key, e.g. data.train_share"
    )
    options = parser.parse_args(arguments)
    if options.compare and not all(options.compare.partition("=")):
        parser.error(f"--compare {options.compare}: give KEY=REFERENCE, e.g. arm_name=plain")
    if options.by and not options.compare:
        parser.error("--by needs --compare")
    try:
        rows = collect(options.folders)
        target = options.output or options.folders[0]
        unknown = [name for name in options.metric if not any(name in row for row in rows)]
        if unknown:
            raise UserError(f"no run has the metric {unknown[0]}: results.csv lists them")
        write_tables(rows, target, overwrite=options.overwrite, all_metrics=options.all_metrics, more=options.metric)
        compared = ""
        if options.compare:
            key, _, reference = options.compare.partition("=")
            runs = [Path(row["run"]) for row in rows]
            compared = compare_runs(runs, key, reference, target, by=options.by, overwrite=options.overwrite)
        if options.json:
            write_json(options.json, [publishable(row) for row in rows], overwrite=options.overwrite)
    except UserError as error:
        print(f"hemolens: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown(rows, all_metrics=options.all_metrics, more=options.metric))
    print(f"{len(rows)} runs → {target / 'results.csv'}, {target / 'results.md'}")
    if compared:
        print(f"\n{compared}\n{', '.join(str(target / name) for name in FILES)}")
    return 0


def collect(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One dict a run: folder, state, commit, the config values that differ between the runs, metrics.

    Raises:
        UserError: a folder does not exist or holds no run.
    """
    import yaml

    runs: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = []
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: give run or sweep folders, e.g. outputs/")
        found = sorted(folder.rglob("status.json"))
        if not found:
            raise UserError(f"no runs below {folder}: a run folder holds a status.json")
        for status_file in found:
            run = status_file.parent
            if run.resolve() in seen:  # folders given may lie in each other
                continue
            seen.add(run.resolve())
            status = json.loads(status_file.read_text())
            if status.get("superseded"):
                continue
            config = _without_paths(flatten(yaml.safe_load((run / "config_resolved.yaml").read_text())))
            metrics_file, git_file = run / "metrics.json", run / "git.json"
            metrics = json.loads(metrics_file.read_text()) if metrics_file.exists() else {}
            commit = json.loads(git_file.read_text()).get("commit") if git_file.exists() else None
            head = {
                "run": str(run),
                "state": status["state"],
                "job": status["job"],
                "commit": (commit or "")[:10],
                "epochs": status.get("last_epoch"),
                "wall_seconds": status.get("wall_seconds"),
                "cpu_seconds": status.get("cpu_seconds"),
                "device": status.get("device", ""),
                "error": status.get("error") or "",
                "command": "hemolens "
                + status["command"].partition(" ")[2],  # the first word is a path of this machine
            }
            runs.append((head, config, metrics))
    # a class (`_target_`) says no more than the choice of net and model that brought it
    keys = sorted({key for _, config, _ in runs for key in config if not key.rpartition(".")[2].startswith("_")})
    varying = [key for key in keys if len({repr(config.get(key)) for _, config, _ in runs}) > 1]
    names = sorted({name for _, _, metrics in runs for name in metrics})
    return [
        head | {key: config.get(key) for key in varying} | {name: metrics.get(name) for name in names}
        for head, config, metrics in runs
    ]


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """The values that are no folder of this run or machine: neither ``paths`` nor anything that was made from them."""
    paths = {str(value) for key, value in config.items() if key.startswith("paths.") and str(value) not in (".", "")}
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("paths.") and not any(f"{value}/".startswith(f"{path}/") for path in paths)
    }


def publishable(row: dict[str, Any]) -> dict[str, Any]:
    """A row without folders of this machine, and with null for not-a-number, which JSON does not know."""
    words = [word for word in row["command"].split() if not word.startswith(("hydra.run.dir=", "paths."))]
    plain = row | {"run": Path(row["run"]).name, "command": " ".join(words)}
    kept = {key: value for key, value in plain.items() if not (isinstance(value, str) and Path(value).is_absolute())}
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in kept.items()}


MAIN_METRICS = (
    *("val/map", "test/map", "test/map_frequent", "test/accuracy", "test/weighted_f1"),
    *("val/f1_macro", "test/f1_macro", "val/over_floor", "test/over_floor", "val/knn", "test/knn"),
    *("val/dice", "test/dice", "test/aji", "test/dice_paper"),
)


def markdown(rows: list[dict[str, Any]], *, all_metrics: bool = False, more: Sequence[str] = ()) -> str:
    """The rows as a Markdown table: run, state, what varies, and the main (``more``, or all) metrics."""
    columns = [
        key
        for key in rows[0]
        if key not in ("commit", "job", "error", "device", "command")
        and (all_metrics or "/" not in key or key in (*MAIN_METRICS, *more))
    ]

    def cell(key: str, value: Any) -> str:
        if key == "run":
            return Path(value).name
        return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", "\\|")

    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(key, row.get(key)) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def write_tables(
    rows: list[dict[str, Any]],
    folder: Path,
    *,
    overwrite: bool,
    all_metrics: bool = False,
    more: Sequence[str] = (),
) -> None:
    """Write ``results.csv`` and ``results.md`` into ``folder``."""
    import csv

    for name in ("results.csv", "results.md"):
        if (folder / name).exists() and not overwrite:
            raise UserError(f"{folder / name} exists: add --overwrite or choose another --output")
    with (
        atomic_path(folder / "results.csv", overwrite=overwrite) as temporary,
        temporary.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with atomic_path(folder / "results.md", overwrite=overwrite) as temporary:
        temporary.write_text(markdown(rows, all_metrics=all_metrics, more=more) + "\n")
