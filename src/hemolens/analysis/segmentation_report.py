"""The result of a segmentation test as a table, for the terminal, for Markdown and for JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hemolens.analysis.text_table import markdown_table, plain_table

_COLUMNS = ("type", "cells", "Dice", "AJI", "pooled Dice", "right type", "missed", "spurious", "most taken for")
_LEFT = (0, len(_COLUMNS) - 1)
_SCORES = {"Dice": "dice_skip", "AJI": "aji_skip", "pooled Dice": "dice_pooled", "right type": "type_accuracy"}


def segmentation_table(results: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """Plain-text report of a test.

    Args:
        results: of ``metrics.segmentation.SegmentationScores``.
        class_names: background first.
    """
    table = plain_table([_COLUMNS, *_rows(results, class_names)], left=_LEFT, total=True)
    return "\n".join([table, "", *_summary(results)])


def segmentation_markdown(results: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """The report of :func:`segmentation_table` in Markdown."""
    notes = [f"- {line}" for line in _summary(results)]
    return "\n".join([markdown_table([_COLUMNS, *_rows(results, class_names)], left=_LEFT), "", *notes])


def segmentation_results(results: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """The whole result as plain data for JSON: lists for arrays, None for not-a-number."""
    return {"class_names": list(class_names), **{name: _plain(value) for name, value in results.items()}}


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _rows(results: Mapping[str, Any], class_names: Sequence[str]) -> list[list[str]]:
    """Cells of the table without its head; the last row holds the means over the types."""
    types = class_names[1:]
    counts = [[int(value) for value in row] for row in results["types"]]
    spurious = [int(value) for value in results["spurious_types"]]
    rows = []
    for number, name in enumerate(types):
        seen = counts[number]
        others = [(count, types[other]) for other, count in enumerate(seen[1:]) if other != number and count]
        taken = max(others, default=None)
        rows.append(
            [
                name,
                str(sum(seen)),
                *(_number(results[key][number]) for key in _SCORES.values()),
                str(seen[0]),
                str(spurious[number]),
                f"{taken[1]} ({taken[0]})" if taken else "",
            ]
        )
    cells = sum(map(sum, counts))
    right = sum(row[number + 1] for number, row in enumerate(counts))
    means = [_number(results["dice"]), _number(results["aji"]), "", _number(right / cells if cells else math.nan)]
    missed = sum(row[0] for row in counts)
    return [*rows, ["all", str(cells), *means, str(missed), str(sum(spurious)), ""]]


def _summary(results: Mapping[str, Any]) -> list[str]:
    get = {name: _number(value) for name, value in results.items() if getattr(value, "ndim", 0) == 0}
    return [
        f"Dice and AJI: means over images that hold the type, then over types; {get['dice']} and {get['aji']}",
        f"with 1 for images that lack a type in truth and prediction (as paper B seems to): {get['dice_paper']} and "
        f"{get['aji_paper']}",
        f"cells with two types at once: {get['mixed_type_rate']}; spurious cells an image: {get['spurious']}",
        f"touching cells: Dice {get['cell_dice_touching']}, right type {get['type_accuracy_touching']}; isolated: "
        f"{get['cell_dice_isolated']}, {get['type_accuracy_isolated']}",
    ]


def _number(value: Any) -> str:
    number = float(value)
    return "–" if math.isnan(number) else f"{number:.3f}"
