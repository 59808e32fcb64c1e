"""The table of a segmentation test, in three forms of the same numbers."""

import json
import math

import torch

from hemolens.analysis.segmentation_report import segmentation_markdown, segmentation_results, segmentation_table
from hemolens.metrics.segmentation import SegmentationScores

NAMES = ["background", "discocyte", "spherocyte", "echinocyte"]
NAN = math.nan
RESULTS = {
    # rows: true types; columns: missed, then taken for each type
    "types": torch.tensor([[3, 40, 2, 5], [0, 0, 6, 0], [0, 0, 0, 0]]),
    "spurious_types": torch.tensor([1.0, 0.0, 4.0]),
    "dice_skip": torch.tensor([0.9123, 0.8, NAN]),
    "aji_skip": torch.tensor([0.7, 0.65, NAN]),
    "dice_pooled": torch.tensor([0.93, 0.81, 0.0]),
    "type_accuracy": torch.tensor([0.8, 1.0, NAN]),
    "dice": torch.tensor(0.85615),
    "aji": torch.tensor(0.675),
    "dice_paper": torch.tensor(0.95),
    "aji_paper": torch.tensor(0.9),
    "mixed_type_rate": torch.tensor(0.125),
    "spurious": torch.tensor(1.25),
    "cell_dice_touching": torch.tensor(0.75),
    "cell_dice_isolated": torch.tensor(0.875),
    "type_accuracy_touching": torch.tensor(NAN),
    "type_accuracy_isolated": torch.tensor(0.9),
}
ROWS = [
    ["discocyte", "50", "0.912", "0.700", "0.930", "0.800", "3", "1", "echinocyte (5)"],
    ["spherocyte", "6", "0.800", "0.650", "0.810", "1.000", "0", "0", ""],
    ["echinocyte", "0", "–", "–", "0.000", "–", "0", "4", ""],
    ["all", "56", "0.856", "0.675", "", "0.821", "3", "5", ""],  # 46 of 56 have their type
]


def test_table() -> None:
    lines = segmentation_table(RESULTS, NAMES).splitlines()
    assert lines[0].split("  ")[0] == "type" and lines[0].split() == [
        *(
            "type",
            "cells",
            "Dice",
            "AJI",
            "pooled",
            "Dice",
            "right",
            "type",
            "missed",
            "spurious",
            "most",
            "taken",
            "for",
        )
    ]
    assert lines[1] == lines[5] == "-" * max(map(len, lines[:7]))
    for line, row in zip([*lines[2:5], lines[6]], ROWS, strict=True):
        assert line.split() == " ".join(row).split()
    # columns end at one place, where their heads end
    for head, cells in (("missed", 6), ("spurious", 7), ("AJI", 3)):
        end = lines[0].index(head) + len(head)
        for line, row in zip([*lines[2:5], lines[6]], ROWS, strict=True):
            assert line[:end].endswith(row[cells]) and line[end : end + 1] in ("", " ")
    assert lines[7] == "" and len(lines) == 12
    assert lines[8].endswith("then over types; 0.856 and 0.675")
    assert "0.950 and 0.900" in lines[9]
    assert lines[10] == "cells with two types at once: 0.125; spurious cells an image: 1.250"
    assert lines[11] == "touching cells: Dice 0.750, right type –; isolated: 0.875, 0.900"


def test_markdown_has_the_same_cells() -> None:
    lines = segmentation_markdown(RESULTS, NAMES).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:6]]
    assert rows[0][:4] == ["type", "cells", "Dice", "AJI"] and {len(row) for row in rows} == {9}
    assert rows[1] == ["---", *["---:"] * 7, "---"]
    assert rows[2:] == ROWS
    assert lines[6] == "" and all(line.startswith("- ") for line in lines[7:]) and len(lines) == 11


def test_plain_data_has_none_for_what_is_no_number() -> None:
    plain = segmentation_results(RESULTS, NAMES)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert set(plain) == {"class_names", *RESULTS}
    assert plain["class_names"] == NAMES
    assert plain["types"] == [[3, 40, 2, 5], [0, 0, 6, 0], [0, 0, 0, 0]]
    assert plain["dice_skip"][2] is None and abs(plain["dice_skip"][0] - 0.9123) < 1e-6
    assert plain["type_accuracy_touching"] is None and plain["mixed_type_rate"] == 0.125


def test_scores_as_they_are_computed_fit_the_report() -> None:
    target = torch.zeros(1, 30, 40, dtype=torch.long)
    target[0, 5:15, 5:15], target[0, 5:15, 25:35] = 1, 2
    instances = (target > 0) * torch.where(torch.arange(40) < 20, 1, 2)
    metric = SegmentationScores(4)
    metric.update(target, target, instances, instances)
    lines = segmentation_table(metric.compute(), NAMES).splitlines()
    assert lines[2].split() == ["discocyte", "1", "1.000", "1.000", "1.000", "1.000", "0", "0"]
    assert lines[4].split() == ["echinocyte", "0", "–", "–", "–", "–", "0", "0"]
    assert lines[6].split() == ["all", "2", "1.000", "1.000", "1.000", "0", "0"]
    empty = torch.zeros_like(target)
    metric = SegmentationScores(4)
    metric.update(empty, empty, empty, empty)
    lines = segmentation_table(metric.compute(), NAMES).splitlines()
    assert lines[6].split() == ["all", "0", "–", "–", "–", "0", "0"]
    json.dumps(segmentation_results(metric.compute(), NAMES), allow_nan=False)
