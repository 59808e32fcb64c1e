"""A detector in miniature learns two pictures by heart: data, targets, losses, decoding and metric agree."""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

from hemolens.data.modules.voc import VOCDetectionDataModule
from hemolens.metrics.detection import VOCMeanAveragePrecision
from hemolens.nets.fcos.backbone import TimmBackbone
from hemolens.nets.fcos.head import FCOSHead
from hemolens.nets.fcos.model import FCOS
from hemolens.nets.fcos.neck import PAFPN
from hemolens.tasks.detection import DetectionTask


@pytest.mark.slow
def test_learns_two_pictures_by_heart(voc_folder: Path, tmp_path: Path) -> None:
    L.seed_everything(0, verbose=False)
    lists = voc_folder / "ImageSets" / "Main"
    two = "".join(f"{name}\n" for name in (lists / "train.txt").read_text().split()[:2])
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text(two)
    names = ["RBC", "WBC", "Platelets"]
    data = VOCDetectionDataModule(root=voc_folder, class_names=names, batch_size=2, image_size=(192, 256), augment=None)
    net = FCOS(
        num_classes=3,
        in_channels=3,
        backbone=partial(TimmBackbone, name="resnet18", out_indices=(1, 2, 3, 4)),
        neck=partial(PAFPN, out_channels=64, start_level=1, num_outs=5),
        head=partial(FCOSHead, feat_channels=64, stacked_convs=2),
    )
    task = DetectionTask(net=net, class_names=names, optimizer=partial(torch.optim.AdamW, lr=1e-3))
    trainer = L.Trainer(
        max_epochs=120,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        gradient_clip_val=35.0,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
    )
    trainer.fit(task, data)
    task.eval()
    metric = VOCMeanAveragePrecision(3)
    for batch in data.val_dataloader():
        with torch.no_grad():
            metric.update(task.detect(batch["images"], batch["image_sizes"]), batch["targets"])
    assert float(metric.compute()["map"]) >= 0.9
