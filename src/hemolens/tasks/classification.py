"""Classification of single cells: cross entropy, and scores by class over whole epochs."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from hemolens.data.contracts import ClassificationBatch
from hemolens.errors import UserError
from hemolens.losses.ranks import ALONE, Ranks, mean_cross_entropy
from hemolens.tasks.base import Task


def balanced_weights(counts: Sequence[int]) -> Tensor:
    """Weight of each class: N / (K n_k), so that the classes weigh the same and the mean over samples is 1.

    The rule of King and Zeng (Logistic Regression in Rare Events Data, 2001), scikit-learn's ``balanced``.

    Args:
        counts: training samples n_k of each of the K classes, none of them 0.

    Returns:
        float32 [K].
    """
    total = sum(counts)
    return torch.tensor([total / (len(counts) * count) for count in counts], dtype=torch.float32)


def classification_metrics(num_classes: int) -> MetricCollection:
    """Scores of single-label predictions: ``accuracy``, ``f1_macro``, by class ``f1 precision recall``, ``confusion``.

    ``f1_macro`` is the mean of F1 = 2 TP / (2 TP + FP + FN) over the classes that occur in truth or prediction; a class
    that is never right has 0. ``confusion`` is [K, K], rows = truth.
    """
    by_class: dict[str, Any] = {"num_classes": num_classes, "average": "none"}
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "f1_macro": MulticlassF1Score(num_classes, average="macro"),
            "f1": MulticlassF1Score(**by_class),
            "precision": MulticlassPrecision(**by_class),
            "recall": MulticlassRecall(**by_class),
            "confusion": MulticlassConfusionMatrix(num_classes),
        }
    )


class ClassificationTask(Task):
    """Train, validate and test a classifier of cell pictures.

    Args:
        net: maps images [B, C, H, W] to logits [B, K].
        class_names, optimizer, scheduler, channels_last: see :class:`hemolens.tasks.base.Task`.
        label_smoothing: share of the target spread evenly over the classes (Szegedy et al.,
            arXiv:1512.00567, section 7).
        class_weights: ``balanced`` weighs the loss by :func:`balanced_weights` of the training set; None does not.

    Raises:
        UserError: a setting out of range.
    """

    family = "classification"
    metrics: ClassVar[dict[str, str]] = {
        **{"train/loss": "min", "val/loss": "min"},
        **{"val/accuracy": "max", "val/f1_macro": "max", "val/f1_*": "max"},
    }
    class_weight: Tensor | None

    def __init__(
        self,
        *,
        net: nn.Module,
        class_names: Iterable[str],
        optimizer: Callable[[Any], Optimizer] | None = None,
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        label_smoothing: float = 0.0,
        class_weights: str | None = None,
        channels_last: bool | None = None,
    ) -> None:
        super().__init__(net, class_names, optimizer, scheduler, channels_last)
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing={label_smoothing}: give a share from 0 to below 1")
        if class_weights not in (None, "balanced"):
            raise UserError(f"model.class_weights={class_weights}: choose balanced or null")
        self.label_smoothing, self.class_weights = label_smoothing, class_weights
        # Kept in checkpoints, so that the loss of a test is that of the training; ones until the data are known.
        weight = torch.ones(len(self.class_names)) if class_weights else None
        self.register_buffer("class_weight", weight)
        self.val_loss = MeanMetric()
        self.val_scores = classification_metrics(len(self.class_names))
        self.test_scores = classification_metrics(len(self.class_names))

    def setup(self, stage: str) -> None:
        """Weigh the classes by the training set."""
        super().setup(stage)
        if stage == "fit" and self.class_weight is not None:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            self.class_weight.copy_(balanced_weights(data.class_counts("train")))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W]."""
        logits: Tensor = self.net(self.in_memory_format(images))
        return logits

    def loss(self, logits: Tensor, labels: Tensor, ranks: Ranks = ALONE) -> Tensor:
        """Cross entropy of logits [B, K] with labels int64 [B], in nats; the mean is weighted as the classes are."""
        smoothing = self.label_smoothing
        return mean_cross_entropy(logits, labels, weight=self.class_weight, ranks=ranks, label_smoothing=smoothing)

    def training_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        """Loss of a batch; a loss that is not finite ends the run and names the pictures."""
        loss = self.loss(self(batch["images"]), batch["labels"], self.ranks())
        self.refuse_not_finite({"loss": loss}, batch_idx, batch["image_ids"])
        self.log_step({"loss": loss}, loss, len(batch["labels"]))
        return loss

    def validation_step(self, batch: ClassificationBatch, batch_idx: int) -> dict[str, Tensor]:
        """Update the loss and the scores; returns ``probabilities`` float32 [B, K]."""
        logits, labels = self(batch["images"]), batch["labels"]
        weight = len(labels) if self.class_weight is None else self.class_weight[labels].sum()
        self.val_loss.update(self.loss(logits, labels), weight)
        self.val_scores.update(logits, labels)
        return {"probabilities": logits.softmax(dim=1)}

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss``, of the whole set at once, ``val/accuracy``, ``val/f1_macro`` and F1 of each class."""
        self.log("val/loss", float(self.val_loss.compute()))
        self.val_loss.reset()
        scores = self.val_scores.compute()
        self.log("val/f1_macro", float(scores["f1_macro"]), prog_bar=True)
        self.log("val/accuracy", float(scores["accuracy"]))
        self.log_per_class("val/f1", scores["f1"])
        self.val_scores.reset()

    def test_step(self, batch: ClassificationBatch, batch_idx: int) -> dict[str, Tensor]:
        """Update the scores; returns ``probabilities`` float32 [B, K]."""
        logits = self(batch["images"])
        self.test_scores.update(logits, batch["labels"])
        return {"probabilities": logits.softmax(dim=1)}

    def on_test_epoch_end(self) -> None:
        """Log the scalars; ``test_results`` keeps the whole tables for the report and the figures."""
        self.test_results = self.test_scores.compute()
        for name in ("accuracy", "f1_macro"):
            self.log(f"test/{name}", float(self.test_results[name]))
        for name in ("f1", "precision", "recall"):
            self.log_per_class(f"test/{name}", self.test_results[name])
        self.test_scores.reset()
