"""Command line of the benchmarks."""

import argparse
import importlib
import shlex
import sys
from pathlib import Path

import torch

from benchmarks.harness import Options, run_task
from benchmarks.machine import ROOT
from hemolens.io.atomic import write_json

# name -> module; each offers comparisons(options)
TASKS = {
    "voc_map": "benchmarks.voc_map",
    "fcos_infer": "benchmarks.fcos_infer",
    "fcos_train": "benchmarks.fcos_train",
    "assign_targets": "benchmarks.assign_targets",
    "simulate_field": "benchmarks.simulate_field",
    "project_volume": "benchmarks.project_volume",
    "measure_cells": "benchmarks.measure_cells",
    "full_field": "benchmarks.full_field",
    "unwrap": "benchmarks.unwrap",
    "offaxis": "benchmarks.offaxis",
    "aji": "benchmarks.aji",
    "export": "benchmarks.export",
    "segment_images": "benchmarks.segment_images",
    "ddgan": "benchmarks.ddgan",
    "two_crops": "benchmarks.two_crops",
    "moco": "benchmarks.moco",
    "collect_runs": "benchmarks.collect_runs",
    "loop": "benchmarks.loop",
    "help": "benchmarks.help",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen tasks; exit code 1 if the outputs of two sides differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("task", nargs="*", default="all", choices=["all", *TASKS], help="default: all")
    parser.add_argument("--pairs", type=_positive, default=None, help="interleaved pairs (10; 2 with --quick)")
    parser.add_argument("--threads", type=_positive, default=1, help="threads of torch (1)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run? The figures mean nothing")
    parser.add_argument(
        "--results",
        type=Path,
        default=None,
        help="folder of the JSON files (results, or outputs/bench with --quick)",
    )
    chosen = parser.parse_args(arguments)
    options = Options(chosen.pairs or (2 if chosen.quick else 10), chosen.threads, chosen.quick)
    folder = chosen.results or ROOT / ("outputs/bench" if chosen.quick else "results")
    torch.set_num_threads(options.threads)
    names = list(TASKS) if "all" in chosen.task else list(dict.fromkeys(chosen.task))
    failed = False
    for name in names:
        try:
            result = run_task(name, importlib.import_module(TASKS[name]).comparisons(options), options)
        except AssertionError as error:
            print(f"{name}: the two sides do not give the same output: {error}", file=sys.stderr)
            failed = True
            continue
        command = shlex.join(
            ["python", "-m", "benchmarks", name, f"--pairs={options.pairs}", f"--threads={options.threads}"]
        )
        target = folder / f"bench_{name}.json"
        write_json(target, {"command": command + " --quick" * options.quick, **result}, overwrite=True)
        print(f"  written: {target}")
    return int(failed)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("give a whole number from 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
