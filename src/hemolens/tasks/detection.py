"""FCOS detection: losses of a batch, validation and test with the metrics of both reading conventions."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from hemolens.data.contracts import DetectionBatch, DetectionTarget
from hemolens.losses.detection import centerness_loss, centerness_target, focal_loss, giou_loss
from hemolens.losses.ranks import ALONE, Ranks
from hemolens.metrics.detection import MatchedClassification, VOCMeanAveragePrecision
from hemolens.nets.fcos.decode import Detections, decode_detections
from hemolens.nets.fcos.targets import assign_targets, valid_points
from hemolens.tasks.base import Task


def _mappings(samples: list[Any]) -> list[Mapping[str, Tensor]]:
    """TypedDicts as the mappings that the metrics take (they are; a type checker does not see it)."""
    return samples


def detection_losses(
    output: dict[str, list[Tensor]],
    targets: list[DetectionTarget],
    image_sizes: Tensor,
    *,
    strides: tuple[int, ...],
    regress_ranges: tuple[tuple[float, float], ...],
    center_radius: float = 1.5,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Losses of FCOS (Tian et al. 2019, Eq. 2, with the improvements of its final version).

    Focal loss over all cells that belong to an image, GIoU loss of the positives weighted by centerness, binary
    cross-entropy of the centerness of the positives. The focal and centerness sums are divided by the number of
    positives, the GIoU sum by the sum of centerness targets (MMDetection 2.24), each of the whole batch, on all
    processes, and at least 1 (1e-6 for the centerness sum).

    Args:
        output: what ``FCOS.forward`` returns: a list with one entry a level for ``cls_logits`` [B, N_l, C],
            ``ltrb`` [B, N_l, 4] px, ``centerness_logits`` [B, N_l] and ``points`` [N_l, 2] px.
        targets: B dicts of ``boxes`` float32 [M, 4] xyxy px and ``labels`` int64 [M].
        image_sizes: int64 [B, 2], (H, W) before padding; cells in the padding take no part.
        strides: px a cell, one a level.
        regress_ranges: px, (low, high) a level.
        center_radius: half side of the center box in strides.
        ranks: the processes that share the batch; the mean of their gradients is the gradient of the whole batch.

    Returns:
        Scalars ``loss``, ``loss_cls``, ``loss_box``, ``loss_centerness``.
    """
    given = (output, targets, image_sizes, strides, regress_ranges, center_radius)
    return _divided(*_loss_sums(*given), ranks)


def _loss_sums(
    output: dict[str, list[Tensor]],
    targets: list[DetectionTarget],
    image_sizes: Tensor,
    strides: tuple[int, ...],
    regress_ranges: tuple[tuple[float, float], ...],
    center_radius: float,
) -> tuple[Tensor, Tensor]:
    """Sums of the class, box and centerness losses [3], and the number of positives and sum of their centerness [2]."""
    cls_logits = torch.cat(output["cls_logits"], dim=1).float()
    ltrb = torch.cat(output["ltrb"], dim=1).float()
    centerness_logits = torch.cat(output["centerness_logits"], dim=1).float()
    points, device = torch.cat(output["points"]), cls_logits.device

    with torch.no_grad():
        assigned = [
            assign_targets(
                output["points"],
                strides,
                regress_ranges,
                target["boxes"].to(device),
                target["labels"].to(device),
                center_radius,
            )
            for target in targets
        ]
        labels = torch.stack([image_labels for image_labels, _ in assigned])
        ltrb_target = torch.stack([image_ltrb for _, image_ltrb in assigned])
        valid = torch.stack(
            [torch.cat(valid_points(output["points"], strides, (int(h), int(w)))) for h, w in image_sizes.tolist()]
        )
        positive = (labels >= 0) & valid
        center = centerness_target(ltrb_target[positive])
        counts = torch.stack([positive.sum().float(), center.sum()])

    loss_cls = focal_loss(cls_logits[valid], labels[valid])
    if bool(positive.any()):
        at = points.expand(len(targets), -1, -1)[positive]
        predicted_box = torch.cat([at - ltrb[positive][:, :2], at + ltrb[positive][:, 2:]], dim=1)
        true_box = torch.cat([at - ltrb_target[positive][:, :2], at + ltrb_target[positive][:, 2:]], dim=1)
        loss_box = giou_loss(predicted_box, true_box, weight=center)
        loss_centerness = centerness_loss(centerness_logits[positive], center)
    else:  # keep every parameter in the graph (DDP), with zero gradient
        loss_box, loss_centerness = ltrb.sum() * 0.0, centerness_logits.sum() * 0.0
    return torch.stack([loss_cls, loss_box, loss_centerness]), counts


def _divided(sums: Tensor, counts: Tensor, ranks: Ranks = ALONE) -> dict[str, Tensor]:
    """The losses of sums [3] and counts [2]."""
    num_positive, sum_center = ranks.mean(counts)
    num_positive = num_positive.clamp(min=1.0 / ranks.count)  # 1 in the whole batch
    sum_center = sum_center.clamp(min=1e-6 / ranks.count)
    loss_cls, loss_box, loss_centerness = sums / torch.stack([num_positive, sum_center, num_positive])
    return {
        "loss": loss_cls + loss_box + loss_centerness,
        "loss_cls": loss_cls.detach(),
        "loss_box": loss_box.detach(),
        "loss_centerness": loss_centerness.detach(),
    }


class DetectionLoss(Metric):
    """:func:`detection_losses` of a whole set at once, however it is cut into batches and dealt to processes."""

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", default=torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", default=torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, sums: Tensor, counts: Tensor) -> None:
        """Add those of a batch."""
        self.sums += sums.detach()
        self.counts += counts

    def compute(self) -> Tensor:
        """The loss, a scalar."""
        return _divided(self.sums, self.counts)["loss"]


class DetectionTask(Task):
    """Train, validate and test an FCOS detector.

    Args:
        net: a network with the interface of :class:`hemolens.nets.fcos.model.FCOS`.
        class_names, optimizer, scheduler, channels_last: see :class:`hemolens.tasks.base.Task`.
        center_radius: center sampling, in strides (1.5 in the paper's detector).
        score_threshold, pre_nms_topk, nms_iou, max_detections, score: see
            :func:`hemolens.nets.fcos.decode.decode_detections`.
        report_score_threshold: score cut of the counted detections behind the confusion matrix.
    """

    family = "detection"
    metrics: ClassVar[dict[str, str]] = {
        **{f"train/{name}": "min" for name in ("loss", "loss_cls", "loss_box", "loss_centerness")},
        **{"val/loss": "min", "val/map": "max", "val/ap_*": "max"},
    }

    def __init__(
        self,
        *,
        net: nn.Module,
        class_names: Iterable[str],
        optimizer: Callable[[Any], Optimizer] | None = None,
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        center_radius: float = 1.5,
        score_threshold: float = 0.05,
        pre_nms_topk: int = 1000,
        nms_iou: float = 0.6,
        max_detections: int = 300,
        score: str = "product",
        report_score_threshold: float = 0.3,
        channels_last: bool | None = None,
    ) -> None:
        super().__init__(net, class_names, optimizer, scheduler, channels_last)
        self.center_radius = center_radius
        self.decode_settings: dict[str, Any] = {
            "score_threshold": score_threshold,
            "pre_nms_topk": pre_nms_topk,
            "nms_iou": nms_iou,
            "max_detections": max_detections,
            "score": score,
        }
        self.report_score_threshold = report_score_threshold
        num_classes = len(self.class_names)
        self.val_loss = DetectionLoss()
        self.val_map = VOCMeanAveragePrecision(num_classes)
        self.test_map = VOCMeanAveragePrecision(num_classes)
        self.test_matched = MatchedClassification(num_classes, score_threshold=report_score_threshold)
        self.capped_images = 0

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        """Raw output of the network for images [B, C, H, W]; see ``FCOS.forward``."""
        output: dict[str, list[Tensor]] = self.net(self.in_memory_format(images))
        return output

    def losses(self, output: dict[str, list[Tensor]], batch: DetectionBatch, ranks: Ranks = ALONE) -> dict[str, Tensor]:
        """:func:`detection_losses` of a batch."""
        return _divided(*self._sums(output, batch), ranks)

    def _sums(self, output: dict[str, list[Tensor]], batch: DetectionBatch) -> tuple[Tensor, Tensor]:
        places = (self.net.strides, self.net.regress_ranges, self.center_radius)
        return _loss_sums(output, batch["targets"], batch["image_sizes"], *places)

    def detect(self, images: Tensor, image_sizes: Tensor) -> list[Detections]:
        """Detections of padded images.

        Args:
            images: float32 [B, C, H, W].
            image_sizes: int64 [B, 2], (H, W) before padding.

        Returns:
            For each image ``boxes`` float32 [N, 4] xyxy px, ``scores`` float32 [N] descending, ``labels`` int64 [N].
        """
        return self._decode(self(images), image_sizes)

    def _decode(self, output: dict[str, list[Tensor]], image_sizes: Tensor) -> list[Detections]:
        detections = []
        for index, (height, width) in enumerate(image_sizes.tolist()):
            keep = valid_points(output["points"], self.net.strides, (height, width))
            cls_logits, ltrb, centerness_logits = (
                [level[index][cells] for level, cells in zip(output[key], keep, strict=True)]
                for key in ("cls_logits", "ltrb", "centerness_logits")
            )
            points = [level[cells] for level, cells in zip(output["points"], keep, strict=True)]
            size = (height, width)
            found = decode_detections(cls_logits, ltrb, centerness_logits, points, size, **self.decode_settings)
            self.capped_images += len(found["boxes"]) >= self.decode_settings["max_detections"]
            detections.append(found)
        return detections

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """Loss of a batch; a loss that is not finite ends the run and names the images."""
        losses = self.losses(self(batch["images"]), batch, self.ranks())
        self.refuse_not_finite(losses, batch_idx, batch["image_ids"])
        self.log_step(losses, losses["loss"], len(batch["targets"]))
        return losses["loss"]

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> dict[str, list[Detections]]:
        """Update the loss and the metric."""
        output = self(batch["images"])
        self.val_loss.update(*self._sums(output, batch))
        detections = self._decode(output, batch["image_sizes"])
        self.val_map.update(_mappings(detections), _mappings(batch["targets"]))
        return {"detections": detections}

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss``, of the whole set at once, ``val/map`` and the AP of each class."""
        self.log("val/loss", float(self.val_loss.compute()))
        self.val_loss.reset()
        result = self.val_map.compute()
        self.log("val/map", float(result["map"]), prog_bar=True)
        self.log_per_class("val/ap", result["ap_per_class"])
        self.val_map.reset()
        self._warn_if_capped("validation")

    def test_step(self, batch: DetectionBatch, batch_idx: int) -> dict[str, list[Detections]]:
        """Update the test metrics."""
        detections = self.detect(batch["images"], batch["image_sizes"])
        self.test_map.update(_mappings(detections), _mappings(batch["targets"]))
        self.test_matched.update(_mappings(detections), _mappings(batch["targets"]))
        return {"detections": detections}

    def on_test_epoch_end(self) -> None:
        """Log the scalars; ``test_results`` keeps the whole tables for the report and the figures."""
        average_precision, matched = self.test_map.compute(), self.test_matched.compute()
        self.test_results = {
            "average_precision": average_precision,
            "matched": matched,
            "curves": self.test_map.precision_recall_curves(),
            "report_score_threshold": self.report_score_threshold,
        }
        self.log("test/map", float(average_precision["map"]))
        self.log("test/map_frequent", float(average_precision["map_frequent"]))
        self.log_per_class("test/ap", average_precision["ap_per_class"])
        for name in ("recall", "precision", "f1", "found"):
            self.log_per_class(f"test/{name}", matched[name])
        for name in ("accuracy", "weighted_f1", "n_missed", "n_spurious"):
            self.log(f"test/{name}", float(matched[name]))
        self.test_map.reset()
        self.test_matched.reset()
        self._warn_if_capped("test")

    def _warn_if_capped(self, stage: str) -> None:
        if self.capped_images:
            limit = self.decode_settings["max_detections"]
            self.print(
                f"warning: {self.capped_images} {stage} images reached the limit of {limit} detections and may miss "
                f"cells: raise model.max_detections"
            )
        self.capped_images = 0
