"""Train torchvision's FCOS with the data, schedule, budget and metrics of a hemolens experiment, as its peer.

    python scripts/peer_torchvision_fcos.py experiment=det_fcos_r18_pafpn_bccd seed=0 hydra.run.dir=outputs/peer

The backbone is torchvision's ResNet-18 with its FPN, from scratch; losses, target assignment and decoding (score =
sqrt(class · centerness)) are its own; no resize and no normalisation, as in hemolens. The rest comes from the config.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from hemolens.cli import build
from hemolens.cli.app import run_verb
from hemolens.cli.report_run import report_test
from hemolens.cli.run_guard import guarded_run, resolved
from hemolens.data.contracts import DetectionBatch
from hemolens.io.run_folder import update_status
from hemolens.tasks.detection import DetectionTask
from hemolens.tasks.precision import device_name


def torchvision_fcos(num_classes: int, image_size: tuple[int, int], settings: dict[str, Any]) -> FCOS:
    """FCOS-R18-FPN on levels P3 to P7 with hemolens' post-processing values; nothing is resized or normalised."""
    levels = {"layer2": "0", "layer3": "1", "layer4": "2"}
    extra = LastLevelP6P7(256, 256)
    backbone = BackboneWithFPN(resnet18(weights=None), levels, [128, 256, 512], 256, extra_blocks=extra)
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    return FCOS(
        backbone,
        num_classes,
        min_size=min(image_size),
        max_size=max(image_size),
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        anchor_generator=anchors,
        score_thresh=settings["score_threshold"],
        nms_thresh=settings["nms_iou"],
        detections_per_img=settings["max_detections"],
        topk_candidates=settings["pre_nms_topk"],
    )


def _unpadded(images: Tensor, image_sizes: Tensor) -> list[Tensor]:
    return [image[:, :h, :w] for image, (h, w) in zip(images, image_sizes.tolist(), strict=True)]


class TorchvisionTask(DetectionTask):
    """The detection task around a network that computes its own losses and detections."""

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """Sum of torchvision's three losses."""
        images = _unpadded(batch["images"], batch["image_sizes"])
        losses = self.net(images, [dict(target) for target in batch["targets"]])
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total, batch_size=len(batch["targets"]))
        return total

    def detect(self, images: Tensor, image_sizes: Tensor) -> list[Any]:
        """Detections inside the valid part of each image."""
        found: list[Any] = self.net(_unpadded(images, image_sizes))
        return found

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> dict[str, list[Any]]:
        """Update ``val/map``."""
        detections = self.detect(batch["images"], batch["image_sizes"])
        self.val_map.update(detections, batch["targets"])  # type: ignore[arg-type]
        return {"detections": detections}


def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Fit, and test the best checkpoint; the steps of ``hemolens train``."""
    import lightning as L
    from hydra.utils import instantiate

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = build.build_datamodule(cfg)
    size = datamodule.image_size
    settings = {key: cfg.model[key] for key in ("score_threshold", "nms_iou", "max_detections", "pre_nms_topk")}
    task = TorchvisionTask(
        net=torchvision_fcos(len(datamodule.class_names), size, settings),
        class_names=datamodule.class_names,
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler),
        report_score_threshold=cfg.model.report_score_threshold,
    )
    trainer = build.build_trainer(cfg, build.build_loggers(cfg, run_dir, "train"), None)
    update_status(run_dir, device=device_name(trainer.strategy.root_device), precision=str(trainer.precision))
    trainer.fit(task, datamodule=datamodule)
    metrics = dict(trainer.callback_metrics)
    best = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    trainer.test(task, datamodule=datamodule, ckpt_path=best, verbose=False, weights_only=True)
    plain = {name: float(value) for name, value in (metrics | dict(trainer.callback_metrics)).items()}
    plain["parameters"] = sum(parameter.numel() for parameter in task.net.parameters())
    report_test(task, datamodule, run_dir, resolved(cfg), plain, checkpoint=None)
    return plain


if __name__ == "__main__":
    words = ["task_name=peer_torchvision_fcos", *sys.argv[1:]]
    sys.exit(run_verb("train", words, lambda cfg: guarded_run(cfg, "train", train)))
