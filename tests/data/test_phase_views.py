"""Patches of phase images without labels: where they come from, what they are tested with, workers, the config."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hemolens.cli.app import compose_config
from hemolens.cli.build import build_datamodule
from hemolens.data import view_samples
from hemolens.data.modules.holograms import HologramDataModule
from hemolens.data.modules.phase_images import PhaseImageDataModule
from hemolens.data.modules.phase_views import PhaseViewsDataModule
from hemolens.data.phase_images import PhaseRecord, store_phase_image
from hemolens.data.segmentation import PhaseSpec
from hemolens.data.splits import SPLITS
from hemolens.errors import UserError

LEVELS = {"train": 0.5, "val": 1.5, "test": 2.5}  # rad of the background, which tells where a patch comes from


class StoredImages(PhaseImageDataModule):
    """Phase images of one background a split, with two cells each."""

    def _make(self) -> dict[str, list[PhaseRecord]]:
        made: dict[str, list[PhaseRecord]] = {split: [] for split in SPLITS}
        classes, instances = np.zeros((80, 96), np.uint8), np.zeros((80, 96), np.int32)
        classes[30:42, 40:52], classes[0:10, 84:96] = 2, 1
        instances[30:42, 40:52], instances[0:10, 84:96] = 1, 2
        for split, level in LEVELS.items():
            for number in range(3):
                facts = {"name": f"{split}{number}", "sample": "s", "donor": "d", "day": None}
                path = self.cache_dir / f"{split}{number}.npy"
                made[split].append(store_phase_image(path, level + classes * 1.0, classes, instances, facts))
        self._set_scale(0.144, 0.666)
        return made


def module(folder: Path, **changes: Any) -> PhaseViewsDataModule:
    images = StoredImages(
        cache_dir=folder, class_names=["background", "x", "y"], patch_px=32, binning=2, patches_per_image=5
    )
    return PhaseViewsDataModule(**({"phase_images": images, "batch_size": 4} | changes))


def batches(data: PhaseViewsDataModule, split: str = "train", epoch: int = 0) -> list[Any]:
    """All batches of a split as the task gets them."""
    loader = getattr(data, f"{split}_dataloader")()
    loader.sampler.set_epoch(epoch)
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def test_patches_come_from_training_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = view_samples.map_phase_image

    def spy(path: Path) -> Any:
        opened.append(path.stem)
        return original(path)

    monkeypatch.setattr(view_samples, "map_phase_image", spy)
    data = module(tmp_path)
    data.setup("fit")
    spec = PhaseSpec(phase_limits_rad=(-1.0, 5.0))
    for epoch in range(3):
        made = batches(data, epoch=epoch)
        assert [len(batch["image_ids"]) for batch in made] == [4, 4, 4]  # of 3 images x 5 patches
        for batch in made:
            assert batch["views"].shape == (4, 2, 1, 16, 16) and (batch["labels"] == -1).all()
            phases = spec.in_rad(batch["targets"])
            assert (phases.flatten(1).amin(1) - LEVELS["train"]).abs().max() < 1e-3
    assert set(opened) == {"train0", "train1", "train2"}
    assert data.describe("train") == "3 images, 15 patches an epoch"
    assert data.describe("val") == "6 patches around cells: 3 x, 3 y"


def test_evaluation_sees_a_patch_around_each_cell(tmp_path: Path) -> None:
    data = module(tmp_path)
    data.setup("test")
    assert data.class_names == ("x", "y") and data.class_counts("test") == {"x": 3, "y": 3}
    first, second = batches(data, "test")
    images, labels = torch.cat([first["images"], second["images"]]), [*first["labels"], *second["labels"]]
    assert images.shape == (6, 1, 16, 16) and first["image_ids"][:2] == ["test0_c000", "test0_c001"]
    phases = PhaseSpec(phase_limits_rad=(-1.0, 5.0)).in_rad(images) - LEVELS["test"]
    for phase, label in zip(phases[:, 0], labels, strict=True):
        at = (8, 8) if label == 1 else (1, 14)  # cells in the corner stay there: a patch does not leave its image
        torch.testing.assert_close(phase[at], 1.0 + label.float(), atol=1e-3, rtol=0)
    larger = module(tmp_path, image_px=32)
    assert batches(larger, "val")[0]["images"].shape == (4, 1, 32, 32)
    assert larger.input_spec()["pixel_um"] == pytest.approx(0.144) and larger.input_spec()["image_px"] == 32
    spec = data.input_spec()
    assert spec["pixel_um"] == pytest.approx(0.288) and spec["phase_limits_rad"] == [-1.0, 5.0]
    assert (spec["in_channels"], spec["image_px"], spec["wavelength_um"]) == (1, 16, 0.666)


def test_patches_repeat_with_workers_and_on_the_device(tmp_path: Path) -> None:
    changes = {"augment": {"crop_scale": [0.7, 1.0], "noise": 0.5, "noise_rad": 0.1, "blur": 0.5}}
    made = []
    for more in ({}, {"num_workers": 2}, {"augment_on": "device"}):
        data = module(tmp_path, **changes, **more)
        data.setup("fit")
        made.append(batches(data, epoch=1))
    for other, atol in ((made[1], 0.0), (made[2], 2e-5)):
        for one, two in zip(made[0], other, strict=True):
            assert one["image_ids"] == two["image_ids"]
            for name in ("views", "targets"):
                torch.testing.assert_close(one[name], two[name], atol=atol, rtol=0)


def test_settings_that_cannot_be_are_named(tmp_path: Path) -> None:
    synthetic = StoredImages(cache_dir=tmp_path, class_names=["background", "x"], synthetic_dir=tmp_path)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"phase_images": tmp_path}, "data.phase_images is a PosixPath: give a data set of phase images"),
        ({"phase_images": synthetic}, "synthetic_dir is not used here"),
        ({"class_names": ["background", "x", "y"]}, r"the types of data\.phase_images are \['x', 'y'\]"),
        ({"in_channels": 3}, "a phase image has 1"),
        ({"augment": {"jitter": 0.8}}, r"augment\.jitter=0\.8 is not for phase images"),
    ]
    for changes, words in cases:
        with pytest.raises(UserError, match=words):
            module(tmp_path, **changes)
    large = module(tmp_path)
    large.phase_images.patch_px = 96
    with pytest.raises(UserError, match=r"train0 is 80×96 px: choose data\.phase_images\.patch_px of at most 80"):
        large.train_dataloader()


def test_the_config_builds_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEMOLENS_ROOT", str(tmp_path))
    cfg = compose_config("train", ["data=sim_hologram_views", "data.phase_images.binning=2"])
    small = compose_config("train", ["data=sim_hologram_views", "debug=one_step", "data.image_px=64"])
    own = ["data=sim_hologram_views", "data@data.phase_images=holograms", f"data.phase_images.root={tmp_path}"]
    own_cfg = compose_config("train", [*own, "data.class_names=null"])
    assert (cfg.net.in_channels, cfg.net.num_classes) == (1, 4)
    whole, trial, lab = (build_datamodule(one) for one in (cfg, small, own_cfg))
    assert (whole.two_crops.image_px, whole.phase_images.binning, whole.batch_size) == (128, 2, 64)
    assert (trial.two_crops.image_px, trial.phase_images.patch_px, trial.batch_size) == (64, 160, 2)
    assert trial.phase_images.plan.fov.field_px == (160, 160)
    assert isinstance(lab.phase_images, HologramDataModule) and lab.class_names == lab.phase_images.class_names[1:]
