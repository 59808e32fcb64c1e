"""The result of a test of generated phase images as a table, for the terminal, for Markdown and for JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hemolens.analysis.text_table import markdown_table, plain_table

_NAMES = {
    "histogram_rad": "histogram of phase, W1, rad",
    "spectrum_decades": "power spectrum, decades",
    "area_um2": "area of cells, W1, um2",
    "mean_phase_rad": "mean phase of cells, W1, rad",
    "covered_share": "share of covered pixels",
    "frechet": "Frechet distance of features",
    "kernel": "kernel distance of features",
}
_COLUMNS = ("distance from real patches", "generated", "real halves", "ratio")


def generation_table(results: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """Plain-text report of a test.

    Args:
        results: of ``metrics.generation.GenerationScores``.
        class_names: not used; every report of a test takes them.
    """
    return "\n".join([plain_table([_COLUMNS, *_rows(results)]), *_summary(results)])


def generation_markdown(results: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """The report of :func:`generation_table` in Markdown."""
    notes = [f"- {line}" for line in _summary(results)]
    return "\n".join([markdown_table([_COLUMNS, *_rows(results)]), "", *notes])


def generation_results(results: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """The result as plain data for JSON; None for not-a-number."""
    plain = {name: float(value) for name, value in results.items()}
    return {name: None if math.isnan(value) else value for name, value in plain.items()}


def _rows(results: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, words in _NAMES.items():
        if name not in results:
            continue
        value, floor = float(results[name]), float(results[f"{name}_floor"])
        ratio = f"{value / floor:.1f}" if floor > 0 and math.isfinite(value) else "-"
        rows.append([words, f"{value:.4g}", f"{floor:.4g}", ratio])
    return rows


def _summary(results: Mapping[str, Any]) -> list[str]:
    count = int(results["samples"])
    if not count:
        return ["no distances: they want patches of at least two images"]
    return [
        f"{count} generated and {count} real patches; real halves: mean of random divisions by image, of half as many",
        f"over the floor: {float(results['over_floor']):.2f} times (geometric mean)",
    ]
