"""Times of inference: ten whole images and ten patches, whatever there is."""

import torch

from hemolens.inference.timing import time_segmentation
from hemolens.nets.baselines import DeepResUNet
from hemolens.tasks.segmentation import SegmentationTask


def test_ten_images_and_ten_patches_go_through() -> None:
    task = SegmentationTask(net=DeepResUNet(3, 1, widths=(4, 8)), class_names=("background", "a", "b")).eval()
    seen: list[torch.Size] = []
    task.net.register_forward_hook(lambda module, given, output: seen.append(given[0].shape))
    found = time_segmentation(task, [torch.zeros(1, 41, 50)] * 3, dtype=None, patch_px=32)
    rounds = 4
    assert seen == [torch.Size([1, 1, 42, 50])] * (10 * rounds) + [torch.Size([10, 1, 32, 32])] * rounds
    assert found["images_10_s"] > 0 and found["patches_10_s"] > 0
    assert found["image_px"] == [41, 50] and found["patch_px"] == 32 and found["precision"] == "float32"
