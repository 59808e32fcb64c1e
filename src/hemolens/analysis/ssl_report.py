"""The result of a test of a pretrained network as a table, for the terminal, for Markdown and for JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hemolens.analysis.text_table import markdown_table, plain_table

_NAMES = {
    "knn": "k nearest neighbours, balanced accuracy",
    "reconstruction": "reconstruction, mean squared error",
    "feature_sd": "spread of features (0: collapsed, 1: even)",
}


def ssl_table(results: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """Plain-text report of a test.

    Args:
        results: of ``tasks.moco.MoCoReconstructionTask``.
        class_names: of the labels that features were judged with.
    """
    return "\n".join([plain_table(_rows(results)), *_summary(results, class_names)])


def ssl_markdown(results: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """The report of :func:`ssl_table` in Markdown."""
    notes = [f"- {line}" for line in _summary(results, class_names)]
    return "\n".join([markdown_table(_rows(results)), "", *notes])


def ssl_results(results: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """The result as plain data for JSON; None for not-a-number."""
    return {name: None if math.isnan(value) else float(value) for name, value in results.items()}


def _rows(results: Mapping[str, Any]) -> list[list[str]]:
    known = [[words, f"{results[name]:.4g}"] for name, words in _NAMES.items() if name in results]
    return [["without labels", "test"], *known]


def _summary(results: Mapping[str, Any], class_names: Sequence[str]) -> list[str]:
    if "knn" not in results or math.isnan(results["knn"]):
        return ["no labels: how good the features are, no loss says; see the task that they are used for"]
    return [
        f"neighbours among the other test images, of {', '.join(class_names)} (chance: {1 / len(class_names):.2f}); "
        "what colours or sizes alone would give: scripts/measure_ssl.py"
    ]
