"""The result of a detection test as a table, for the terminal and for Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hemolens.analysis.text_table import markdown_table, plain_table

# Defaults of VOCMeanAveragePrecision: the classes it flags as rare, and its limits between sizes.
RARE_BELOW_BOXES = 30
SIZE_LIMITS_PX = (32, 96)


_COLUMNS = ("class", "boxes", "AP", "missed", "spurious", "recall", "precision", "F1")


def detection_table(results: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """Plain-text report of a test.

    Recall, precision and F1 are those of matched cells (right class among the cells that were found); the
    column ``missed`` tells how many were not. A ``*`` marks a class with fewer than 30 test boxes.

    Args:
        results: ``average_precision`` (``VOCMeanAveragePrecision.compute()``), ``matched``
            (``MatchedClassification.compute()``) and ``report_score_threshold``, the score cut of the latter.
        class_names: name of label 0, 1, ….
    """
    table = plain_table([_COLUMNS, *_rows(results, class_names)], total=True)
    return "\n".join([table, "", *_summary(results, class_names)])


def detection_markdown(results: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """The report of :func:`detection_table` in Markdown."""
    items = [f"- {line}" for line in _summary(results, class_names)]
    text = "\n".join([markdown_table([_COLUMNS, *_rows(results, class_names)]), "", *items])
    return text.replace("*", "\\*")


def detection_results(results: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """The whole result as plain data for JSON: lists for arrays, None for not-a-number, no curves."""
    plain = {key: value for key, value in results.items() if key != "curves"}
    return {"class_names": list(class_names), **_plain(plain)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _rows(results: Mapping[str, Any], class_names: Sequence[str]) -> list[list[str]]:
    """Cells of the table without its head; the last row is the total."""
    precision, matched = results["average_precision"], results["matched"]
    rare = set(precision["rare_classes"])
    counts = [[int(value) for value in row] for row in matched["confusion_with_background"]]
    rows = [
        [
            f"{name} *" if label in rare else name,
            str(int(precision["gt_per_class"][label])),
            _number(precision["ap_per_class"][label]),
            str(counts[label][-1]),
            str(counts[-1][label]),
            *(_number(matched[key][label]) for key in ("recall", "precision", "f1")),
        ]
        for label, name in enumerate(class_names)
    ]
    boxes = sum(int(value) for value in precision["gt_per_class"])
    missed, spurious = int(matched["n_missed"]), int(matched["n_spurious"])
    total = ["all", str(boxes), _number(precision["map"]), str(missed), str(spurious), "", "", ""]
    return [*rows, total]


def _summary(results: Mapping[str, Any], class_names: Sequence[str]) -> list[str]:
    precision, matched = results["average_precision"], results["matched"]
    rare = [class_names[label] for label in precision["rare_classes"]]
    small, large = SIZE_LIMITS_PX
    sizes = {"small": f"< {small} px", "medium": f"{small} to {large} px", "large": f">= {large} px"}
    by_size = [f"{size} ({limits}) {_number(precision['recall_by_size'][size])}" for size, limits in sizes.items()]
    lines = [
        f"mAP (IoU >= 0.5, mean of the classes' AP): {_number(precision['map'])}",
        f"matched cells (IoU >= 0.5, score >= {results['report_score_threshold']:g}; recall, precision and "
        f"F1 above too): accuracy {_number(matched['accuracy'])}, "
        f"weighted F1 {_number(matched['weighted_f1'])}",
        f"recall at any score by box size: {', '.join(by_size)}",
    ]
    if rare:
        without = _number(precision["map_frequent"])
        lines.insert(
            1,
            f"* fewer than {RARE_BELOW_BOXES} test boxes, so an uncertain AP ({', '.join(rare)}); "
            f"mAP without: {without}",
        )
    return lines


def _number(value: Any) -> str:
    number = float(value)
    return "–" if math.isnan(number) else f"{number:.3f}"
