"""Pictures of a classifier at work: cells with truth and prediction, scores by class, confusion matrix."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hemolens.analysis.cell_figures import CellPicture, plot_cells, plot_class_scores
from hemolens.analysis.figures import displayable, plot_confusion
from hemolens.callbacks.wandb_tables import confusion_table

SCORES = {"precision": "precision", "recall": "recall", "F1": "f1"}


class ClassificationPanel:
    """Cells, scores by class and confusion matrix; see :class:`hemolens.callbacks.figures.Panel`.

    Args:
        num_cells: cells drawn, the first ones of the set; and of the wrong ones as many, the surest.
    """

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        self.cells: list[CellPicture] = []
        self.wrong: list[CellPicture] = []

    def collect(self, outputs: Any, batch: Any) -> None:
        """Keep the first cells, and the wrong ones with the highest probability."""
        probabilities = outputs["probabilities"].float().cpu().numpy()
        for index, (truth, given) in enumerate(zip(batch["labels"].tolist(), probabilities, strict=True)):
            is_wrong = int(given.argmax()) != truth
            if len(self.cells) >= self.num_cells and not is_wrong:
                continue
            pixels = batch["images"][index].float().cpu().numpy()
            cell = CellPicture(displayable(pixels), given, truth, batch["image_ids"][index])
            if len(self.cells) < self.num_cells:
                self.cells.append(cell)
            if is_wrong:
                self.wrong.append(cell)
        self.wrong = sorted(self.wrong, key=lambda cell: -float(np.max(cell.probabilities)))[: self.num_cells]

    def images(self, class_names: tuple[str, ...]) -> list[Any]:
        """The first cells, captioned."""
        import wandb

        return [wandb.Image(cell.image, caption=cell.caption(class_names)) for cell in self.cells]

    def rows(self, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
        """The first cells with their class, the one that was given and its probability."""
        return [
            {
                "id": cell.name,
                "picture": image,
                "truth": None if cell.truth is None else class_names[cell.truth],
                "predicted": class_names[cell.label],
                "probability": float(np.max(cell.probabilities)),
            }
            for cell, image in zip(self.cells, self.images(class_names), strict=True)
        ]

    def figures(self, results: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Figure]:
        """Cells, the wrong ones among all, scores by class, confusion matrix."""
        figures = {
            "cells": plot_cells(self.cells, class_names),
            "class_scores": plot_class_scores({name: results[key] for name, key in SCORES.items()}, class_names),
            "confusion": plot_confusion(results["confusion"], class_names),
        }
        if self.wrong:
            figures["wrong"] = plot_cells(self.wrong, class_names)
        return figures

    def charts(self, results: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Any]:
        """F1 of each class as bars, and the confusion matrix as a table."""
        import wandb

        table = wandb.Table(columns=["class", "f1"])
        for name, value in zip(class_names, results["f1"].tolist(), strict=True):
            table.add_data(name, value)
        return {
            "f1_bars": wandb.plot.bar(table, "class", "f1"),
            "confusion_table": confusion_table(results["confusion"], class_names),
        }

    def clear(self) -> None:
        """Forget the cells."""
        self.cells, self.wrong = [], []
