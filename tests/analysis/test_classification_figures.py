"""The report of a classification test, and the pictures that go with it."""

import numpy as np
import torch

from hemolens.analysis.cell_figures import CellPicture, plot_cells, plot_class_scores
from hemolens.analysis.classification_report import classification_markdown, classification_table
from hemolens.analysis.figures import to_array

NAMES = ["monocyte", "neutrophil", "basophil"]
RESULTS = {
    "confusion": torch.tensor([[6, 2, 1], [0, 5, 0], [0, 0, 0]]),
    "precision": torch.tensor([1.0, 5 / 7, 0.0]),
    "recall": torch.tensor([6 / 9, 1.0, 0.0]),
    "f1": torch.tensor([0.8, 10 / 12, 0.0]),
    "accuracy": torch.tensor(11 / 14),
    "f1_macro": torch.tensor((0.8 + 10 / 12) / 3),
}


def test_table() -> None:
    lines = classification_table(RESULTS, NAMES).splitlines()
    assert lines[0].split() == ["class", "cells", "precision", "recall", "F1", "most", "taken", "for"]
    assert lines[2].split() == ["monocyte", "9", "1.000", "0.667", "0.800", "neutrophil", "(2)"]
    assert lines[3].split() == ["neutrophil", "5", "0.714", "1.000", "0.833"]
    assert lines[4].split() == ["basophil", "0", "–", "–", "–"]
    assert lines[6].split() == ["all", "14", "0.544", "accuracy", "0.786"]


def test_markdown_has_the_same_cells() -> None:
    rows = [line.strip("|").split("|") for line in classification_markdown(RESULTS, NAMES).splitlines()]
    assert {len(row) for row in rows} == {6} and len(rows) == 6
    assert [cell.strip() for cell in rows[2]] == ["monocyte", "9", "1.000", "0.667", "0.800", "neutrophil (2)"]


def test_cells_show_their_pixels_and_what_is_wrong_in_red() -> None:
    grey = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    sure = np.array([0.9, 0.1, 0.0])
    right = to_array(plot_cells([CellPicture(grey, sure, 0, "a/right")], NAMES)).astype(int)
    wrong = to_array(plot_cells([CellPicture(grey, sure, 1, "a/wrong")], NAMES)).astype(int)
    assert right.shape == wrong.shape == (256, 626, 3)

    def red_below(pixels: np.ndarray) -> int:  # in the lines below the picture and its bar
        text = pixels[182:226]
        return int(((text[..., 0] > 150) & (text[..., 1] < 90)).sum())

    assert red_below(wrong) > 20 and red_below(right) == 0
    picture = right[26:170, 10:154, 0]
    assert picture[70, 5] < 20 and picture[70, 138] > 235 and abs(picture[70, 72] - 128) < 8
    caption = CellPicture(grey, sure, 1, "x").caption(NAMES)
    assert caption == "monocyte 0.90, true: neutrophil"


def test_rows_and_columns_of_cells() -> None:
    cell = CellPicture(np.zeros((9, 9), np.uint8), np.array([1.0, 0, 0]), None, "a_name_that_is_too_long_for_its_place")
    height, width, _ = to_array(plot_cells([cell] * 9, NAMES, columns=4, title="nine")).shape
    assert width == 4 * 154 + 10 and height == 3 * 216 + 34 + 30


def test_bars_are_as_high_as_the_scores() -> None:
    scores = {"precision": [0.2, 0.5, 1.0], "F1": torch.tensor([0.25, 0.75, 0.0])}
    axes = plot_class_scores(scores, NAMES).axes[0]
    assert [round(bar.get_height(), 6) for bar in axes.patches] == [0.2, 0.5, 1.0, 0.25, 0.75, 0.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES
