"""FCOS detection: losses of a batch, validation and test with the metrics of both reading conventions."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hemolens.data.contracts import DetectionBatch, DetectionTarget
from hemolens.losses.detection import centerness_loss, centerness_target, focal_loss, giou_loss
from hemolens.metrics.detection import MatchedClassification, VOCMeanAveragePrecision
from hemolens.nets.fcos.decode import Detections, decode_detections
from hemolens.nets.fcos.targets import assign_targets, valid_points
from hemolens.tasks.base import Task


def _identity(value: Tensor) -> Tensor:
    return value


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
    mean_over_ranks: Callable[[Tensor], Tensor] = _identity,
) -> dict[str, Tensor]:
    """Losses of FCOS (Tian et al. 2019, Eq. 2, with the improvements of its final version).

    Focal loss over all cells that belong to an image, GIoU loss of the positives weighted by centerness, binary
    cross-entropy of the centerness of the positives. The focal and centerness sums are divided by the number of
    positives, the GIoU sum by the sum of centerness targets (MMDetection 2.24), each averaged over ranks and at least 1
    (1e-6 for the centerness sum).

    Args:
        output: what ``FCOS.forward`` returns: a list with one entry a level for ``cls_logits`` [B, N_l, C],
            ``ltrb`` [B, N_l, 4] px, ``centerness_logits`` [B, N_l] and ``points`` [N_l, 2] px.
        targets: B dicts of ``boxes`` float32 [M, 4] xyxy px and ``labels`` int64 [M].
        image_sizes: int64 [B, 2], (H, W) before padding; cells in the padding take no part.
        strides: px a cell, one a level.
        regress_ranges: px, (low, high) a level.
        center_radius: half side of the center box in strides.
        mean_over_ranks: averages a scalar over processes.

    Returns:
        Scalars ``loss``, ``loss_cls``, ``loss_box``, ``loss_centerness``.
    """
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
        num_positive = mean_over_ranks(positive.sum().float()).clamp(min=1.0)
        sum_center = mean_over_ranks(center.sum()).clamp(min=1e-6)

    loss_cls = focal_loss(cls_logits[valid], labels[valid]) / num_positive
    if bool(positive.any()):
        at = points.expand(len(targets), -1, -1)[positive]
        predicted_box = torch.cat([at - ltrb[positive][:, :2], at + ltrb[positive][:, 2:]], dim=1)
        true_box = torch.cat([at - ltrb_target[positive][:, :2], at + ltrb_target[positive][:, 2:]], dim=1)
        loss_box = giou_loss(predicted_box, true_box, weight=center) / sum_center
        loss_centerness = centerness_loss(centerness_logits[positive], center) / num_positive
    else:  # keep every parameter in the graph (DDP), with zero gradient
        loss_box, loss_centerness = ltrb.sum() * 0.0, centerness_logits.sum() * 0.0
    return {
        "loss": loss_cls + loss_box + loss_centerness,
        "loss_cls": loss_cls.detach(),
        "loss_box": loss_box.detach(),
        "loss_centerness": loss_centerness.detach(),
    }


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
        self.val_map = VOCMeanAveragePrecision(num_classes)
        self.test_map = VOCMeanAveragePrecision(num_classes)
        self.test_matched = MatchedClassification(num_classes, score_threshold=report_score_threshold)
        self.capped_images = 0

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        """Raw output of the network for images [B, C, H, W]; see ``FCOS.forward``."""
        output: dict[str, list[Tensor]] = self.net(self.in_memory_format(images))
        return output

    def losses(self, output: dict[str, list[Tensor]], batch: DetectionBatch) -> dict[str, Tensor]:
        """:func:`detection_losses` of a batch."""
        return detection_losses(
            output,
            batch["targets"],
            batch["image_sizes"],
            strides=self.net.strides,
            regress_ranges=self.net.regress_ranges,
            center_radius=self.center_radius,
            mean_over_ranks=self._mean_over_ranks,
        )

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        return torch.as_tensor(self.all_gather(value)).mean() if self.trainer.world_size > 1 else value

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
        losses = self.losses(self(batch["images"]), batch)
        self.refuse_not_finite(losses, batch_idx, batch["image_ids"])
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=len(batch["targets"]))
        self.log("train/loss_bar", losses["loss"], prog_bar=True, logger=False)
        return losses["loss"]

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> dict[str, list[Detections]]:
        """Update ``val/map`` and log ``val/loss``."""
        output = self(batch["images"])
        size = len(batch["targets"])
        self.log("val/loss", self.losses(output, batch)["loss"], batch_size=size, sync_dist=True)
        detections = self._decode(output, batch["image_sizes"])
        self.val_map.update(_mappings(detections), _mappings(batch["targets"]))
        return {"detections": detections}

    def on_validation_epoch_end(self) -> None:
        """Log ``val/map`` and the AP of each class."""
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
