"""``hemolens collect``: many run folders → one tidy CSV, one Markdown table and one page that compares them."""

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hemolens.analysis.run_folders import RunFolder, find_runs
from hemolens.cli.compare import FILES, compare_runs
from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path, write_json

PAGE = "runs.html"
IMAGES = ("all", "test", "none")  # figures in the page


def main(arguments: Sequence[str]) -> int:
    """Parse the command line and write the tables and the page."""
    options = _parse(arguments)
    try:
        target = options.output or options.folders[0]
        runs = find_runs(options.folders)
        rows = rows_of(runs)
        unknown = [name for name in options.metric if not any(name in row for row in rows)]
        if unknown:
            raise UserError(f"no run has the metric {unknown[0]}: results.csv lists them")
        written = ["results.csv", "results.md", *(() if options.no_page else (PAGE,))]
        for name in [*written, *(FILES if options.compare else ())]:  # before anything is written
            if (target / name).exists() and not options.overwrite:
                raise UserError(f"{target / name} exists: add --overwrite or choose another --output")
        if options.json and options.json.exists() and not options.overwrite:
            raise UserError(f"{options.json} exists: add --overwrite or choose another --json")
        write_tables(rows, target, overwrite=options.overwrite, all_metrics=options.all_metrics, more=options.metric)
        compared = ""
        if options.compare:
            key, _, reference = options.compare.partition("=")
            compared = compare_runs(runs, key, reference, target, by=options.by, overwrite=options.overwrite)
        if options.json:
            write_json(options.json, [publishable(row) for row in rows], overwrite=options.overwrite)
        if not options.no_page:
            _write_page(runs, target, options, arguments)
    except UserError as error:
        print(f"hemolens: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown(rows, all_metrics=options.all_metrics, more=options.metric))
    print(f"{len(rows)} runs → {', '.join(str(target / name) for name in written)}")
    if compared:
        print(f"\n{compared}\n{', '.join(str(target / name) for name in FILES)}")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hemolens collect",
        description="Gather the results of finished and failed runs below the given folders: one row a run, with the "
        "config values that differ between them, and a page that compares them in any browser.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, help="run folders, or folders that hold some (searched deeply)"
    )
    parser.add_argument(
        "--output", type=Path, help=f"where results.csv, results.md and {PAGE} go (default: the first folder)"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file, with their commands: for results/")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier tables and an earlier page there")
    parser.add_argument(
        "--all-metrics", action="store_true", help="every metric in the Markdown table too, not the main ones"
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        help="a further metric for the Markdown table and the page's, e.g. test/found_PLT; may be repeated",
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
    page = parser.add_argument_group(
        f"the page, {PAGE}", "table, scatter, curves, configs and figures; docs/compare.md"
    )
    page.add_argument("--no-page", action="store_true", help="write the tables alone")
    page.add_argument("--title", help="of the page (default: the folder's name)")
    page.add_argument(
        "--images", choices=IMAGES, default="all", help="figures in it: all, those of the test, or none (default: all)"
    )
    page.add_argument(
        "--images-mb", type=_positive, default=24.0, metavar="MB", help="of figures at most (default: 24)"
    )
    page.add_argument(
        "--image-px", type=_pixels, metavar="PX", help="width of figures at most (default: 960 of few, 480 of many)"
    )
    options = parser.parse_args(arguments)
    if options.compare and not all(options.compare.partition("=")):
        parser.error(f"--compare {options.compare}: give KEY=REFERENCE, e.g. arm_name=plain")
    if options.by and not options.compare:
        parser.error("--by needs --compare")
    return options


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("give a number above 0")
    return value


def _pixels(text: str) -> int:
    value = int(text)
    if value < 16:
        raise argparse.ArgumentTypeError("give a whole number from 16")
    return value


def _write_page(runs: Sequence[RunFolder], folder: Path, options: argparse.Namespace, arguments: Sequence[str]) -> None:
    from hemolens.analysis.run_page import PageOptions, write_run_page

    chosen = PageOptions(
        title=options.title,
        images=options.images,
        images_mb=options.images_mb,
        image_px=options.image_px,
        metrics=[*options.metric, *MAIN_METRICS],
        command=shlex.join(["hemolens", "collect", *arguments]),
        quiet=not sys.stderr.isatty(),
    )
    write_run_page(folder / PAGE, runs, chosen, overwrite=options.overwrite)


def rows_of(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """One dict a run: folder, state, commit, the config values that differ between the runs, metrics."""
    heads, configs = [], [run.choices for run in runs]
    for run in runs:
        heads.append(
            {
                "run": str(run.folder),
                "state": run.status["state"],
                "job": run.status["job"],
                "commit": (run.git.get("commit") or "")[:10],
                "epochs": run.status.get("last_epoch"),
                "wall_seconds": run.status.get("wall_seconds"),
                "cpu_seconds": run.status.get("cpu_seconds"),
                "device": run.status.get("device", ""),
                "error": run.status.get("error") or "",
                "command": run.command,
            }
        )
    # a class (`_target_`) says no more than the choice of net and model that brought it
    keys = sorted({key for config in configs for key in config if not key.rpartition(".")[2].startswith("_")})
    varying = [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]
    names = sorted({name for run in runs for name in run.metrics})
    return [
        head | {key: config.get(key) for key in varying} | {name: run.metrics.get(name) for name in names}
        for head, config, run in zip(heads, configs, runs, strict=True)
    ]


def publishable(row: dict[str, Any]) -> dict[str, Any]:
    """A row without folders of this machine, and with null for what is no finite number, which JSON does not know."""
    words = [word for word in row["command"].split() if not word.startswith(("hydra.run.dir=", "paths."))]
    plain = row | {"run": Path(row["run"]).name, "command": " ".join(words)}
    kept = {key: value for key, value in plain.items() if not (isinstance(value, str) and Path(value).is_absolute())}
    odd = {key for key, value in kept.items() if isinstance(value, float) and not math.isfinite(value)}
    return kept | dict.fromkeys(odd)


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
        if isinstance(value, float):
            return f"{value:.4f}" if "/" in key or key.endswith("_seconds") else f"{value:.6g}"
        return "" if value is None else str(value).replace("|", "\\|")

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

    with (
        atomic_path(folder / "results.csv", overwrite=overwrite) as temporary,
        temporary.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with atomic_path(folder / "results.md", overwrite=overwrite) as temporary:
        temporary.write_text(markdown(rows, all_metrics=all_metrics, more=more) + "\n")
