"""Pictures of a detector at work: overlays on the same images in every run, PR curves, confusion matrix."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from hemolens.analysis.figures import (
    Picture,
    displayable,
    plot_confusion,
    plot_overlay_grid,
    plot_precision_recall,
)
from hemolens.callbacks.wandb_tables import confusion_table


class DetectionPanel:
    """Overlays, precision-recall curves and confusion matrix; see :class:`hemolens.callbacks.figures.Panel`.

    Args:
        num_images: images drawn, the first ones of the set.
        score_threshold: detections below it are not drawn.
    """

    def __init__(self, num_images: int, score_threshold: float) -> None:
        self.num_images = num_images
        self.score_threshold = score_threshold
        self.pictures: list[Picture] = []

    def collect(self, outputs: Any, batch: Any) -> None:
        """Keep the first images."""
        for index, found in enumerate(outputs["detections"]):
            if len(self.pictures) >= self.num_images:
                return
            height, width = batch["image_sizes"][index].tolist()
            image = batch["images"][index, :, :height, :width].float().cpu().permute(1, 2, 0).squeeze(-1)
            keep = found["scores"] >= self.score_threshold
            truth = {key: batch["targets"][index][key].cpu() for key in ("boxes", "labels")}
            self.pictures.append(
                Picture(
                    image=image.numpy(),
                    boxes=found["boxes"][keep].float().cpu(),
                    labels=found["labels"][keep].cpu(),
                    scores=found["scores"][keep].float().cpu(),
                    truth=truth,  # type: ignore[arg-type]
                    title=batch["image_ids"][index],
                )
            )

    def images(self, class_names: tuple[str, ...]) -> list[Any]:
        """The images with their boxes, which W&B can switch on and off."""
        return [_wandb_image(picture, dict(enumerate(class_names))) for picture in self.pictures]

    def rows(self, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
        """The images with the numbers of true and of found cells."""
        return [
            {
                "id": picture.title,
                "picture": image,
                "true_cells": _count(picture.truth),
                "found": len(np.asarray(picture.boxes)),
            }
            for picture, image in zip(self.pictures, self.images(class_names), strict=True)
        ]

    def figures(self, results: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Figure]:
        """Overlays, precision-recall curves and the confusion matrix."""
        curves = [(curve.recall, curve.precision) for curve in results["curves"]]
        return {
            "overlays": plot_overlay_grid(self.pictures, class_names, columns=4 if len(self.pictures) > 4 else 2),
            "precision_recall": plot_precision_recall(
                curves, class_names, results["average_precision"]["ap_per_class"]
            ),
            "confusion": plot_confusion(results["matched"]["confusion_with_background"], class_names),
        }

    def charts(self, results: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Any]:
        """Precision-recall curves and the confusion matrix as a table."""
        import wandb

        table = wandb.Table(columns=["class", "recall", "precision", "score"])
        for name, curve in zip(class_names, results["curves"], strict=True):
            step = max(1, len(curve.recall) // 200)  # a few hundred points draw the same curve
            for row in zip(curve.recall[::step], curve.precision[::step], curve.score[::step], strict=True):
                table.add_data(name, *map(float, row))
        return {
            "precision_recall": wandb.plot.line(table, "recall", "precision", stroke="class"),
            "confusion_table": confusion_table(
                results["matched"]["confusion_with_background"], [*class_names, "background"]
            ),
        }

    def clear(self) -> None:
        """Forget the images."""
        self.pictures = []


def _count(truth: Any) -> int:
    return 0 if truth is None else len(truth["boxes"])


def _wandb_image(picture: Picture, names: dict[int, str]) -> Any:
    import wandb

    def boxes(corners: Any, labels: Any, scores: Any) -> dict[str, Any]:
        return {
            "class_labels": names,
            "box_data": [
                {
                    "position": dict(zip(("minX", "minY", "maxX", "maxY"), map(float, corner), strict=True)),
                    "domain": "pixel",
                    "class_id": int(label),
                    "box_caption": names[int(label)] if score is None else f"{names[int(label)]} {float(score):.2f}",
                    **({} if score is None else {"scores": {"score": float(score)}}),
                }
                for corner, label, score in zip(corners, labels, scores, strict=True)
            ],
        }

    truth = picture.truth
    shown = {"predictions": boxes(picture.boxes, picture.labels, picture.scores)}
    if truth is not None:
        true_boxes = torch.as_tensor(np.asarray(truth["boxes"]))
        shown["ground_truth"] = boxes(true_boxes, truth["labels"], [None] * len(true_boxes))
    return wandb.Image(displayable(picture.image), boxes=shown, caption=picture.title)
