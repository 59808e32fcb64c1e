"""Pictures of a detector at work: overlays on the same images in every run, PR curves, confusion matrix."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import WandbLogger
from matplotlib.figure import Figure

from hemolens.analysis.figures import (
    Picture,
    displayable,
    plot_confusion,
    plot_overlay_grid,
    plot_precision_recall,
    save_figure,
)


class DetectionFigures(L.Callback):
    """Collect the first images of the validation and test sets and draw what was found on them.

    Files go to ``<run_dir>/figures``; with a W&B logger the same images are logged with boxes that can be switched
    on and off, and the test's curves as W&B charts.

    Args:
        run_dir: the run folder.
        num_images: images drawn, the first ones of the set.
        score_threshold: detections below it are not drawn.
    """

    def __init__(self, run_dir: str, num_images: int = 8, score_threshold: float = 0.3) -> None:
        self.folder = Path(run_dir) / "figures"
        self.num_images = num_images
        self.score_threshold = score_threshold
        self.pictures: list[Picture] = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images."""
        self._collect(trainer, outputs, batch)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the overlays of this epoch to W&B; on disk the test's overlays are enough."""
        self._log_boxes(trainer, pl_module, "val/detections")
        self.pictures = []

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Draw overlays, precision-recall curves and the confusion matrix."""
        if not trainer.is_global_zero:
            return
        results: dict[str, Any] = pl_module.test_results
        names = pl_module.class_names
        curves = [(curve.recall, curve.precision) for curve in results["curves"]]
        figures = {
            "overlays": plot_overlay_grid(self.pictures, names, columns=4 if len(self.pictures) > 4 else 2),
            "precision_recall": plot_precision_recall(curves, names, results["average_precision"]["ap_per_class"]),
            "confusion": plot_confusion(results["matched"]["confusion_with_background"], names),
        }
        for name, figure in figures.items():
            save_figure(figure, self.folder / f"test_{name}.png", overwrite=True)
        self._log_boxes(trainer, pl_module, "test/detections")
        self._log_charts(trainer, results, names, figures)
        self.pictures = []

    def _collect(self, trainer: L.Trainer, outputs: Any, batch: Any) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
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

    def _log_boxes(self, trainer: L.Trainer, pl_module: Any, key: str) -> None:
        names = dict(enumerate(pl_module.class_names))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero and self.pictures:
                logger.experiment.log({key: [_wandb_image(picture, names) for picture in self.pictures]})

    def _log_charts(
        self, trainer: L.Trainer, results: dict[str, Any], names: tuple[str, ...], figures: dict[str, Figure]
    ) -> None:
        for logger in trainer.loggers:
            if not isinstance(logger, WandbLogger):
                continue
            import wandb

            table = wandb.Table(columns=["class", "recall", "precision", "score"])
            for name, curve in zip(names, results["curves"], strict=True):
                step = max(1, len(curve.recall) // 200)  # a few hundred points draw the same curve
                for row in zip(curve.recall[::step], curve.precision[::step], curve.score[::step], strict=True):
                    table.add_data(name, *map(float, row))
            matrix = results["matched"]["confusion_with_background"].tolist()
            labels = [*names, "background"]
            confusion = wandb.Table(columns=["truth", "predicted", "count"])
            for row_name, row in zip(labels, matrix, strict=True):
                for column_name, count in zip(labels, row, strict=True):
                    confusion.add_data(row_name, column_name, count)
            logger.experiment.log(
                {
                    "test/precision_recall": wandb.plot.line(table, "recall", "precision", stroke="class"),
                    "test/confusion_table": confusion,
                    **{f"test/{name}_figure": wandb.Image(figure) for name, figure in figures.items()},
                }
            )


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
