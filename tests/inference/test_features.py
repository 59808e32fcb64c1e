"""Features of single cells: read off the class tower where the cell is."""

from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from hemolens.errors import UserError
from hemolens.inference.detection import InputSpec
from hemolens.inference.features import FeatureOutputs, class_features, crop_cells, has_class_features
from hemolens.inference.load import DetectionPredictor
from hemolens.inference.outputs import DetectedImage
from hemolens.io.detections import ImageDetections
from hemolens.nets.fcos.backbone import TimmBackbone
from hemolens.nets.fcos.head import FCOSHead
from hemolens.nets.fcos.model import FCOS
from hemolens.nets.fcos.neck import FPN
from hemolens.tasks.detection import DetectionTask


@pytest.fixture(scope="module")
def predictor() -> DetectionPredictor:
    torch.manual_seed(0)
    net = FCOS(
        num_classes=2,
        in_channels=1,
        backbone=partial(TimmBackbone, name="resnet18", out_indices=(2, 3, 4)),
        neck=partial(FPN, out_channels=16),
        head=partial(FCOSHead, feat_channels=16, stacked_convs=1, norm_groups=4),
    )
    task = DetectionTask(net=net, class_names=("RBC", "ARBC"), channels_last=False).eval()
    return DetectionPredictor(task, InputSpec(in_channels=1), {}, "32-true")


def image_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((height, width), np.float32)


def tower(predictor: DetectionPredictor, array: np.ndarray, level: int) -> torch.Tensor:
    height, width = array.shape
    image = pad(torch.from_numpy(array)[None, None], (0, -width % 32, 0, -height % 32))
    net = predictor.task.net
    with torch.inference_mode():
        return net.head.cls_tower(net.neck(net.backbone(image))[level])[0]


def test_a_box_around_a_point_of_the_map_has_that_points_features(predictor: DetectionPredictor) -> None:
    array = image_of(150, 170)
    boxes = [[44 - 20, 28 - 9, 44 + 20, 28 + 9], [72 - 80, 88 - 30, 72 + 80, 88 + 30]]  # reach 20: P3; 80: P4
    found = class_features(predictor, array, boxes)
    assert found.shape == (2, 16) and found.dtype == np.float32
    fine, coarse = tower(predictor, array, 0), tower(predictor, array, 1)
    assert predictor.task.net.strides[:2] == (8, 16)
    assert found[0] == pytest.approx(fine[:, 3, 5].numpy(), abs=1e-5)  # cell (5, 3) has its centre at 44, 28
    assert found[1] == pytest.approx(coarse[:, 5, 4].numpy(), abs=1e-5)  # 4.5 * 16, 5.5 * 16
    between = class_features(predictor, array, [[48 - 9, 28 - 9, 48 + 9, 28 + 9]])[0]
    assert between == pytest.approx((fine[:, 3, 5] + fine[:, 3, 6]).numpy() / 2, abs=1e-5)
    assert class_features(predictor, array, np.zeros((0, 4))).shape == (0, 16)
    with pytest.raises(UserError, match=r"\[N, 4\]"):
        class_features(predictor, array, [[1.0, 2.0, 3.0]])


def test_tiles_are_read_where_a_cell_is_far_from_their_edge(predictor: DetectionPredictor) -> None:
    array = image_of(64, 128)  # tiles from x = 0, 32 and 64
    found = class_features(predictor, array, [[12, 12, 32, 32], [92, 20, 112, 40]], tile_px=64, tile_overlap_px=32)
    left, right = tower(predictor, array[:, :64], 0), tower(predictor, array[:, 64:], 0)
    at = [(22 / 8 - 0.5, 22 / 8 - 0.5), (30 / 8 - 0.5, (102 - 64) / 8 - 0.5)]
    for row, part, (y, x) in zip(found, (left, right), at, strict=True):
        i, j = int(y), int(x)
        p, q = y - i, x - j
        expected = (
            (1 - p) * (1 - q) * part[:, i, j]
            + (1 - p) * q * part[:, i, j + 1]
            + p * (1 - q) * part[:, i + 1, j]
            + p * q * part[:, i + 1, j + 1]
        )
        assert row == pytest.approx(expected.numpy(), abs=1e-5)


def test_networks_of_another_build_have_none(predictor: DetectionPredictor) -> None:
    assert has_class_features(predictor.task.net)
    assert not has_class_features(torch.nn.Linear(2, 2))
    other = FCOS(
        num_classes=2,
        in_channels=1,
        backbone=partial(TimmBackbone, name="resnet18", out_indices=(2, 3, 4)),
        neck=partial(FPN, out_channels=16),
        head=lambda **options: torch.nn.Identity(),
    )
    assert not has_class_features(other)


def test_crops_are_centred_and_dark_outside() -> None:
    array = np.zeros((40, 50), np.uint8)
    array[0:4, 46:50] = 200
    array[20, 25] = 90
    crops = crop_cells(array, [[24, 19, 27, 22], [46, 0, 50, 4]], 16)
    assert crops.shape == (2, 16, 16)
    assert crops[0][8, 8] == 90 and crops[0].sum() == 90
    assert crops[1][6:10, 6:10].min() == 200 and crops[1].astype(int).sum() == 16 * 200


def test_an_equal_share_of_each_file_is_kept(predictor: DetectionPredictor, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    outputs = FeatureOutputs(predictor, 2, ("ARBC",), most=6)
    for name, count in (("a.tcf", 9), ("b.tcf", 2)):
        corners = rng.uniform(0, 40, (2 * count, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + 12], axis=1)
        labels = np.arange(2 * count) % 2
        found = ImageDetections(name, 64, 64, boxes, labels, np.linspace(1, 0.5, 2 * count, dtype=np.float32))
        outputs.add(tmp_path, PurePosixPath(name), DetectedImage(found, image_of(64, 64)))
    outputs.finish(tmp_path)
    with np.load(tmp_path / "features.npz") as stored:
        kept = {name: stored[name] for name in stored.files}
    assert kept["image"].tolist() == ["a.tcf"] * 3 + ["b.tcf"] * 2
    assert set(kept["class"]) == {"ARBC"} and (kept["cell"] % 2 == 0).all()  # labels 1 are cells 2, 4, …
    assert kept["features"].shape == (5, 16) and kept["crops"].shape == (5, 72, 72)
    assert kept["features"].std() > 0
