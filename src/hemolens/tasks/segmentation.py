"""Segmentation of cells by type: cross entropy and Dice, and scores of whole images by pixel and by cell."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from hemolens.data.contracts import FieldBatch, PatchBatch
from hemolens.errors import UserError
from hemolens.losses.ranks import ALONE, Ranks
from hemolens.losses.segmentation import segmentation_loss
from hemolens.metrics.segmentation import SegmentationScores
from hemolens.postprocess.instances import cells_of_classes
from hemolens.postprocess.windows import whole_pass
from hemolens.tasks.base import Task

# Scalars of a test that are logged; the others are by type or by type and prediction.
SCALARS = (
    *("dice", "aji", "dice_paper", "aji_paper", "mixed_type_rate", "spurious"),
    *("cell_dice_touching", "cell_dice_isolated", "type_accuracy_touching", "type_accuracy_isolated"),
)
SCORES = {"val/dice": "max", "val/dice_*": "max", "val/aji": "max", "val/aji_*": "max"}
BY_TYPE = ("dice_skip", "aji_skip", "dice_one", "aji_one", "dice_pooled", "type_accuracy")


class SegmentationTask(Task):
    """Train, validate and test a network that gives each pixel a class.

    Training sees patches; validation and test see whole images in one pass, mirrored at the border to the network's
    stride, and count cells: connected parts of a class, parted where they touch.

    Args:
        net: maps images [B, C, H, W] to logits [B, K, H, W], and says its ``stride``.
        class_names: background first.
        optimizer, scheduler, channels_last: see :class:`hemolens.tasks.base.Task`.
        dice_weight: of the Dice loss beside the cross entropy.
        class_weights: of each class in the cross entropy, [K]; None: equal.
        cells: keys of ``postprocess.instances.cells_of_classes``, in pixels of the training images.

    Raises:
        UserError: a setting out of range.
    """

    family = "segmentation"
    metrics: ClassVar[dict[str, str]] = {
        **{f"train/{name}": "min" for name in ("loss", "cross_entropy", "dice")},
        **{"val/loss": "min", **SCORES},
    }
    class_weight: Tensor | None

    def __init__(
        self,
        *,
        net: nn.Module,
        class_names: Iterable[str],
        optimizer: Callable[[Any], Optimizer] | None = None,
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        dice_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
        cells: Annotated[Mapping[str, Any] | None, cells_of_classes] = None,
        channels_last: bool | None = None,
    ) -> None:
        super().__init__(net, class_names, optimizer, scheduler, channels_last)
        count = len(self.class_names)
        if dice_weight < 0:
            raise UserError(f"model.dice_weight={dice_weight}: must not be negative")
        if class_weights is not None and (len(class_weights) != count or min(class_weights) < 0):
            raise UserError(f"model.class_weights={list(class_weights)}: give {count} numbers, none negative")
        self.dice_weight = dice_weight
        weight = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weight", weight)
        self.cell_settings = dict(cells or {})
        try:
            cells_of_classes(np.zeros((1, 1), np.uint8), **self.cell_settings)
        except TypeError as error:  # now, not at the first validation
            raise UserError(f"model.cells={self.cell_settings}: {error}; see postprocess.instances") from error
        self.val_loss = MeanMetric()  # self.log(sync_dist=True) errs where a process has an image more
        self.val_scores = SegmentationScores(count)
        self.test_scores = SegmentationScores(count)

    def forward(self, images: Tensor) -> Tensor:
        """Logits float32 [B, K, H, W] of images [B, C, H, W] of any size."""
        return whole_pass(self._logits, images, self.net.stride)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(self.in_memory_format(images))
        return logits

    def losses(self, logits: Tensor, classes: Tensor, ranks: Ranks = ALONE) -> dict[str, Tensor]:
        """See ``losses.segmentation.segmentation_loss``."""
        return segmentation_loss(
            logits, classes, dice_weight=self.dice_weight, class_weight=self.class_weight, ranks=ranks
        )

    def training_step(self, batch: PatchBatch, batch_idx: int) -> Tensor:
        """Loss of a batch; a loss that is not finite ends the run and names the images."""
        parts = self.losses(self(batch["images"]), batch["classes"], self.ranks())
        loss = parts["loss"]
        self.refuse_not_finite(parts, batch_idx, batch["image_ids"])
        self.log_step(parts, loss, len(batch["image_ids"]))
        return loss

    def cells(self, classes: Tensor) -> Tensor:
        """The cells of class maps [B, H, W], int32 [B, H, W] on the CPU."""
        maps = classes.cpu().numpy()
        return torch.stack([torch.from_numpy(cells_of_classes(one, **self.cell_settings)) for one in maps])

    def _evaluate(self, batch: FieldBatch, scores: SegmentationScores) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self(batch["images"])
        classes = logits.argmax(1)
        instances = self.cells(classes)
        scores.update(classes, batch["classes"], instances, batch["instances"].cpu())
        return logits, {"classes": classes, "instances": instances}

    def validation_step(self, batch: FieldBatch, batch_idx: int) -> dict[str, Tensor]:
        """Update the loss and the scores; returns ``classes`` and ``instances`` [B, H, W]."""
        logits, found = self._evaluate(batch, self.val_scores)
        self.val_loss.update(self.losses(logits, batch["classes"])["loss"], len(batch["image_ids"]))
        return found

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss``, a mean over the images, ``val/dice``, ``val/aji`` and both of each type."""
        self.log("val/loss", float(self.val_loss.compute()))
        self.val_loss.reset()
        scores = self.val_scores.compute()
        self.log("val/dice", float(scores["dice"]), prog_bar=True)
        self.log("val/aji", float(scores["aji"]))
        self.log_per_type("val/dice", scores["dice_skip"])
        self.log_per_type("val/aji", scores["aji_skip"])
        self.val_scores.reset()

    def test_step(self, batch: FieldBatch, batch_idx: int) -> dict[str, Tensor]:
        """Update the scores; returns ``classes`` and ``instances`` [B, H, W]."""
        return self._evaluate(batch, self.test_scores)[1]

    def on_test_epoch_end(self) -> None:
        """Log the scalars; ``test_results`` keeps the whole tables for the report and the figures."""
        self.test_results = self.test_scores.compute()
        for name in SCALARS:
            self.log(f"test/{name}", float(self.test_results[name]))
        for name in BY_TYPE:
            self.log_per_type(f"test/{name}", self.test_results[name])
        self.test_scores.reset()

    def log_per_type(self, prefix: str, values: Tensor) -> None:
        """Log values [K - 1] as ``<prefix>_<type>``."""
        types = self.class_names[1:]
        self.log_dict({f"{prefix}_{name}": float(value) for name, value in zip(types, values, strict=True)})
