import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from hemolens.data.detection import DetectionDataset, DetectionRecord
from hemolens.data.transforms import DetectionTransform
from hemolens.errors import UserError
from hemolens.inference import detection
from hemolens.inference.detection import InputSpec, predict_detections, prepare_image
from hemolens.io.images import list_images, read_image
from hemolens.nets.fcos.backbone import TimmBackbone
from hemolens.nets.fcos.head import FCOSHead
from hemolens.nets.fcos.model import FCOS
from hemolens.nets.fcos.neck import FPN
from hemolens.tasks.detection import DetectionTask


@pytest.fixture(autouse=True)
def say_again() -> Iterator[None]:
    detection._say_once.cache_clear()
    yield


class BlobDetector:
    """Exact boxes around connected pixels brighter than one half, so that results can be foretold."""

    def __init__(self, max_detections: int = 300) -> None:
        self.decode_settings: dict[str, Any] = {"nms_iou": 0.6, "max_detections": max_detections}
        self.device = torch.device("cpu")
        self.shapes: list[tuple[int, ...]] = []

    def detect(self, images: Tensor, image_sizes: Tensor) -> list[dict[str, Tensor]]:
        self.shapes.append(tuple(images.shape))
        height, width = image_sizes[0].tolist()
        assert not images[..., height:, :].any() and not images[..., width:].any()
        labelled, _ = ndimage.label(images[0, 0].numpy() > 0.5)
        slices = ndimage.find_objects(labelled)
        boxes = [[x.start, y.start, x.stop, y.stop] for y, x in slices]
        return [
            {
                "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                "scores": torch.linspace(1, 0.5, len(boxes)),
                "labels": torch.zeros(len(boxes), dtype=torch.int64),
            }
        ]


def picture(height: int, width: int, boxes: list[list[int]]) -> np.ndarray:
    array = np.zeros((height, width), dtype=np.uint8)
    for x1, y1, x2, y2 in boxes:
        array[y1:y2, x1:x2] = 255
    return array


def sorted_rows(boxes: Any) -> list[list[float]]:
    return sorted(np.asarray(boxes).tolist())


def test_boxes_come_back_in_the_pixels_of_the_image() -> None:
    boxes = [[0, 0, 8, 12], [40, 20, 60, 44], [84, 52, 100, 72]]
    array = picture(72, 100, boxes)
    for spec in (
        InputSpec(1),
        InputSpec(3),
        InputSpec(1, resize_hw=(144, 200)),
        InputSpec(1, resize_hw=(36, 50)),
    ):
        detector = BlobDetector()
        found = predict_detections(detector, array, spec)
        assert sorted_rows(found["boxes"]) == boxes
        assert found["boxes"].dtype == np.float32
        assert found["labels"].dtype == np.int64
        assert (np.diff(found["scores"]) <= 0).all()
        ((_, channels, padded_height, padded_width),) = detector.shapes
        assert channels == spec.in_channels
        assert padded_height % 32 == 0 and padded_width % 32 == 0


@pytest.mark.parametrize(("size", "target"), [((480, 640), (384, 512)), ((100, 73), (64, 96)), ((7, 5), (333, 129))])
def test_mapping_to_input_and_back_is_exact(size: tuple[int, int], target: tuple[int, int]) -> None:
    spec = InputSpec(3, resize_hw=target)
    tensor, (scale_x, scale_y) = spec.apply(np.zeros((*size, 3), np.uint8))
    assert tensor.shape == (3, *target)
    assert (scale_x, scale_y) == (target[1] / size[1], target[0] / size[0])
    height, width = size
    boxes = torch.tensor([[0, 0, width, height], [1, 2, width - 1, height - 2]], dtype=torch.float32)
    there = boxes * torch.tensor([scale_x, scale_y, scale_x, scale_y])
    torch.testing.assert_close(there[0], torch.tensor([0.0, 0, target[1], target[0]]))
    back = spec.to_original(there, (scale_x, scale_y), size)
    torch.testing.assert_close(back, boxes, rtol=1e-6, atol=1e-4)
    outside = spec.to_original(there + torch.tensor([-9.0, -9, 9, 9]), (scale_x, scale_y), size)
    assert outside[0].tolist() == [0, 0, width, height]


def test_values_by_pixel_type() -> None:
    spec = InputSpec(1)
    assert spec.apply(np.full((2, 2), 255, np.uint8))[0].unique().tolist() == [1.0]
    assert spec.apply(np.full((2, 2), 65535, np.uint16))[0].unique().tolist() == [1.0]
    assert spec.apply(np.full((2, 2), -2.5, np.float64))[0].unique().tolist() == [-2.5]
    stretching = InputSpec(1, projection="maximum", norm="minmax_projection")
    stretched, _ = stretching.apply(np.array([[3.0, 5.0], [4.0, 7.0]]))
    assert stretched.tolist() == [[[0.0, 0.5], [0.25, 1.0]]]
    assert not stretching.apply(np.full((2, 2), 7.0))[0].any()
    three = InputSpec(3, projection="max_mean_focus", norm="minmax_projection")
    stretched, _ = three.apply(np.array([[[3.0, 1.0, 9.0], [5.0, 1.0, 8.0]]]))  # each channel by itself
    assert stretched.tolist() == [[[0.0, 1.0]], [[0.0, 0.0]], [[1.0, 0.0]]]
    with pytest.raises(UserError, match="maximum, mean, focus of a tomogram"):
        three.apply(np.zeros((4, 4)))
    window = InputSpec(1, projection="maximum", norm="ri_window", ri_window=(0.0, 0.1))
    assert window.apply(np.array([[0.25, 0.5]]))[0].tolist() == [[[0.25, 0.5]]]
    with pytest.raises(UserError, match=r"norm=ri_window, and this picture has values outside of \[0, 1\]"):
        window.apply(np.array([[1.337, 1.4]]))
    normalised, _ = InputSpec(3, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0)).apply(np.full((1, 1, 3), 255, np.uint8))
    assert normalised[:, 0, 0].tolist() == [1.0, 3.0, 0.5]


def test_channels_are_adapted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    grey, colour = np.array([[10, 20]], np.uint8), np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert prepare_image(grey, 3).tolist() == [[[10, 20]]] * 3
            assert prepare_image(colour, 1).tolist() == [[[76, 150]]]  # 0.299 R, 0.587 G
        prepare_image(grey, 1), prepare_image(colour, 3)
    assert [record.message.split(":")[0] for record in caplog.records] == ["grey image", "colour image"]
    assert prepare_image(grey[..., None], 1).tolist() == [[[10, 20]]]
    with_alpha = np.concatenate([colour, colour[..., :1]], axis=2)
    assert torch.equal(prepare_image(with_alpha, 3), prepare_image(colour, 3))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"shape \[5\]"),
        (np.zeros((3, 20, 30)), r"channels last"),
        (np.zeros((0, 4)), "shape"),
        (np.zeros((4, 4), dtype=complex), "complex128"),
        (np.full((4, 4), np.nan), "NaN"),
    ],
)
def test_what_is_no_image_is_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        predict_detections(BlobDetector(), array, InputSpec(3))


def test_stretch_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    spec = InputSpec(1, resize_hw=(48, 64))
    with caplog.at_level(logging.WARNING):
        spec.apply(np.zeros((96, 128)))
        spec.apply(np.zeros((97, 127)))
        assert not caplog.records
        spec.apply(np.zeros((128, 96)))
        spec.apply(np.zeros((128, 96)))
    assert len(caplog.records) == 1 and "128x96" in caplog.records[0].message


def test_dictionary_round_trip() -> None:
    specs = [
        InputSpec(1),
        InputSpec(3, (384, 512), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)),
        InputSpec(1, projection="maximum", norm="minmax_projection"),
        InputSpec(3, projection="max_mean_focus", norm="ri_window", ri_window=(-0.002, 0.08)),
    ]
    for spec in specs:
        assert InputSpec.from_dict(spec.to_dict()) == spec
    assert specs[1].to_dict() == {
        "in_channels": 3,
        "resize_hw": [384, 512],
        "normalize": {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]},
        "projection": None,
        "norm": None,
        "ri_window": None,
    }
    with pytest.raises(UserError, match="input description has keys"):
        InputSpec.from_dict({"in_channels": 3})
    older = {"in_channels": 1, "resize_hw": None, "normalize": None, "minmax": True, "projection": "maximum"}
    with pytest.raises(UserError, match="written by another version of hemolens"):
        InputSpec.from_dict(older)
    with pytest.raises(UserError, match="max_mean_focus has three channels"):
        InputSpec(1, projection="max_mean_focus", norm="minmax_projection")
    with pytest.raises(UserError, match="both or neither"):
        InputSpec(1, projection="maximum")
    with pytest.raises(UserError, match="in_channels is 2"):
        InputSpec(2)
    with pytest.raises(UserError, match="mean has 1 values for 3"):
        InputSpec(3, mean=(0.5,), std=(0.5,))


def test_tiles_give_what_the_whole_image_gives() -> None:
    rng = np.random.default_rng(0)
    boxes = [
        [x, y, x + int(rng.integers(6, 20)), y + int(rng.integers(6, 20))]
        for x in range(0, 380, 25)
        for y in range(0, 280, 25)
    ]
    array = picture(300, 400, boxes)
    whole, tiled = BlobDetector(), BlobDetector()
    expected = predict_detections(whole, array, InputSpec(1))
    found = predict_detections(tiled, array, InputSpec(1), tile_px=128, overlap_px=48)
    assert len(whole.shapes) == 1 and len(tiled.shapes) == 20
    assert max(max(shape) for shape in tiled.shapes) == 128
    assert sorted_rows(expected["boxes"]) == sorted_rows(found["boxes"]) == sorted(boxes)
    assert (np.diff(found["scores"]) <= 0).all()


class JitteredDetector(BlobDetector):
    """As a network does: the same cell comes out a little otherwise in another tile; overlapping boxes for one cell."""

    def detect(self, images: Tensor, image_sizes: Tensor) -> list[dict[str, Tensor]]:
        (found,) = super().detect(images, image_sizes)
        rng = np.random.default_rng(len(self.shapes))
        found["boxes"] += torch.from_numpy(rng.uniform(-0.5, 0.5, found["boxes"].shape).astype(np.float32))
        return [found]


def test_a_field_in_tiles_gives_the_boxes_of_one_pass() -> None:
    """A field of paper A: one pass by default; tiles give each of its 94 cells once, to the jitter of the detector."""
    rng = np.random.default_rng(3)
    corners = [(x, y) for x in range(20, 1380, 136) for y in range(20, 1380, 136)][:94]
    boxes = [[x, y, x + int(rng.integers(12, 100)), y + int(rng.integers(12, 100))] for x, y in corners]
    array = picture(1444, 1444, boxes)
    whole, tiled = JitteredDetector(), JitteredDetector()
    expected = predict_detections(whole, array, InputSpec(1))["boxes"]
    assert whole.shapes == [(1, 1, 1472, 1472)]
    found = predict_detections(tiled, array, InputSpec(1), tile_px=512, overlap_px=128)["boxes"]
    assert len(tiled.shapes) == 16 and max(max(shape) for shape in tiled.shapes) == 512
    assert len(found) == len(expected) == 94
    distance = np.abs(expected[:, None] - found[None]).max(axis=2)
    assert (distance.min(axis=1) <= 1).all() and (distance.min(axis=0) <= 1).all()


def test_tiles_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="tile_overlap_px=128: must be at least 0 and below tile_px=128"):
        predict_detections(BlobDetector(), picture(9, 9, []), InputSpec(1), tile_px=128, overlap_px=128)


def test_limit_of_detections_is_said(caplog: pytest.LogCaptureFixture) -> None:
    array = picture(64, 64, [[0, 0, 9, 9], [20, 0, 29, 9]])
    with caplog.at_level(logging.WARNING):
        predict_detections(BlobDetector(max_detections=3), array, InputSpec(1))
        assert not caplog.records
        predict_detections(BlobDetector(max_detections=2), array, InputSpec(1))
    assert "limit of 2 detections" in caplog.text


def test_no_cell() -> None:
    found = predict_detections(BlobDetector(), np.zeros((40, 50), np.uint8), InputSpec(1))
    assert found["boxes"].shape == (0, 4) and found["scores"].shape == (0,) and found["labels"].shape == (0,)


@pytest.mark.parametrize("resize_hw", [None, (96, 128)])
def test_network_sees_what_it_was_trained_on(shared_data: Path, resize_hw: tuple[int, int] | None) -> None:
    path = list_images(shared_data / "bccd" / "JPEGImages")[0]
    statistics = {"mean": (0.6, 0.5, 0.4), "std": (0.2, 0.3, 0.4)}
    record = DetectionRecord(path.stem, path, (480, 640), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    dataset = DetectionDataset(
        [record], image_size=resize_hw, in_channels=3, transform=DetectionTransform(None, **statistics)
    )
    tensor, _ = InputSpec(3, resize_hw, **statistics).apply(read_image(path))
    assert torch.equal(tensor, dataset[0]["image"])


@pytest.fixture(scope="module")
def tiny_task() -> DetectionTask:
    """An untrained detector with a narrow neck and head, moved off its prior so that it finds something."""
    torch.manual_seed(0)
    net = FCOS(
        num_classes=3,
        in_channels=1,
        backbone=partial(TimmBackbone, name="resnet18", out_indices=(2, 3, 4)),
        neck=partial(FPN, out_channels=16),
        head=partial(FCOSHead, feat_channels=16, stacked_convs=1, norm_groups=4, prior=0.5),
    )
    with torch.no_grad():
        for parameter in net.head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return DetectionTask(net=net, class_names=("a", "b", "c"), max_detections=50).eval()


@pytest.mark.parametrize("size", [(64, 96), (50, 77)])
def test_padding_does_not_show(tiny_task: DetectionTask, size: tuple[int, int]) -> None:
    """What comes out is what the network says of the image in a batch padded by hand."""
    array = np.random.default_rng(0).random(size, dtype=np.float32)
    batch = torch.zeros(1, 1, 64, 96)
    batch[0, 0, : size[0], : size[1]] = torch.from_numpy(array)
    with torch.no_grad():
        (expected,) = tiny_task.detect(batch, torch.tensor([size]))
    found = predict_detections(tiny_task, array, InputSpec(1))
    assert len(found["boxes"]) > 5
    for key in ("boxes", "scores", "labels"):
        np.testing.assert_allclose(found[key], expected[key].numpy(), rtol=1e-5, atol=1e-5)
    assert found["boxes"].min() >= 0
    assert (found["boxes"][:, 2:] <= [size[1], size[0]]).all()
