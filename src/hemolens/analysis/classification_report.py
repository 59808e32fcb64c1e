"""The result of a classification test as a table, for the terminal and for Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from hemolens.analysis.text_table import markdown_table, plain_table

_COLUMNS = ("class", "cells", "precision", "recall", "F1", "most taken for")
_LEFT = (0, len(_COLUMNS) - 1)


def classification_table(results: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """Plain-text report of a test.

    Args:
        results: ``confusion`` [K, K] (rows = truth), ``precision``, ``recall``, ``f1`` [K], ``accuracy``, ``f1_macro``.
        class_names: name of label 0, 1, ….

    A class without test cells has no scores of its own; F1 of all is the macro-F1, which leaves it out unless it was
    predicted.
    """
    return plain_table([_COLUMNS, *_rows(results, class_names)], left=_LEFT, total=True)


def classification_markdown(results: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """The report of :func:`classification_table` in Markdown."""
    return markdown_table([_COLUMNS, *_rows(results, class_names)], left=_LEFT)


def _rows(results: Mapping[str, Any], class_names: Sequence[str]) -> list[list[str]]:
    """Cells of the table without its head; the last row holds the macro-F1, and the accuracy as recall of all."""
    counts = [[int(value) for value in row] for row in results["confusion"]]
    rows = []
    for label, name in enumerate(class_names):
        others = [(count, class_names[other]) for other, count in enumerate(counts[label]) if other != label and count]
        taken = max(others, key=lambda pair: pair[0]) if others else None
        rows.append(
            [
                name,
                str(sum(counts[label])),
                *(
                    f"{float(results[key][label]):.3f}" if sum(counts[label]) else "–"
                    for key in ("precision", "recall", "f1")
                ),
                f"{taken[1]} ({taken[0]})" if taken else "",
            ]
        )
    accuracy = f"accuracy {float(results['accuracy']):.3f}"
    return [*rows, ["all", str(sum(map(sum, counts))), "", "", f"{float(results['f1_macro']):.3f}", accuracy]]
