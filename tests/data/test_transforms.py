"""Geometry: a box must end where the pixels that it surrounds end."""

import math

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from hemolens.data import transforms
from hemolens.data.transforms import (
    DetectionAugmentation,
    DetectionTransform,
    crop_window,
    mosaic,
    resize,
    rotate90,
)
from hemolens.errors import UserError
from hemolens.io.images import to_float

BOXES = torch.tensor([[2.0, 3, 9, 8], [20, 1, 26, 12], [11, 15, 30, 20]])
LABELS = torch.tensor([0, 1, 2])


def painted(boxes=BOXES, size=(22, 32)):
    """An image whose pixels inside box i have value 50 * (i + 1); the boxes do not overlap."""
    image = torch.zeros(1, *size, dtype=torch.uint8)
    for i, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
        image[:, y0:y1, x0:x1] = 50 * (i + 1)
    return image


def extent(image, value):
    """xyxy of the pixels with this value, or None: the slow way to find a box."""
    found = [(x, y) for y, row in enumerate(image[0].tolist()) for x, v in enumerate(row) if v == value]
    if not found:
        return None
    xs, ys = zip(*found, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def assert_boxes_match_pixels(image, boxes, labels):
    for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
        assert box == extent(image, 50 * (label + 1))


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4])
def test_rotate90(turns):
    image, boxes = rotate90(painted(), BOXES, turns)
    assert image.shape == ((1, 32, 22) if turns % 2 else (1, 22, 32))
    assert_boxes_match_pixels(image, boxes, LABELS)
    back = rotate90(image, boxes, 4 - turns)
    assert torch.equal(back[0], painted()) and torch.equal(back[1], BOXES)


@pytest.mark.parametrize("window", [(0, 0, 22, 32), (2, 4, 12, 20), (-3, -5, 30, 40), (4, -6, 8, 60)])
@pytest.mark.parametrize("min_area_kept", [0.0, 0.3, 0.7])
def test_crop_window(window, min_area_kept):
    top, left, height, width = window
    image, boxes, labels = crop_window(painted(), BOXES, LABELS, window, min_area_kept=min_area_kept)
    assert image.shape == (1, height, width)
    for y in range(height):
        for x in range(width):
            inside = 0 <= y + top < 22 and 0 <= x + left < 32
            assert image[0, y, x] == (painted()[0, y + top, x + left] if inside else 0)
    assert_boxes_match_pixels(image, boxes, labels)
    for label in range(3):
        before, after = (int((i == 50 * (label + 1)).sum()) for i in (painted(), image))
        assert (label in labels.tolist()) == (after > 0 and after >= min_area_kept * before)


def test_resize_scales_boxes_with_the_pixels():
    image, boxes = resize(painted(), BOXES, (44, 96))
    assert image.shape == (1, 44, 96) and image.dtype == torch.uint8
    assert torch.equal(boxes, BOXES * torch.tensor([3.0, 2, 3, 2]))
    same, _ = resize(painted(), BOXES, (22, 32))
    assert torch.equal(same, painted())


def test_mosaic_shows_four_pictures_with_their_boxes():
    tiles = []
    for i in range(4):
        box = BOXES[i % 3 : i % 3 + 1]
        image = torch.full((1, 22, 32), 10 * (i + 1), dtype=torch.uint8)
        x0, y0, x1, y1 = box[0].int().tolist()
        image[:, y0:y1, x0:x1] = 50 * (i + 1)
        tiles.append((image, box, torch.tensor([i])))
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        image, boxes, labels = mosaic(tiles, min_area_kept=0.0)
        assert image.shape == (1, 22, 32)
        assert_boxes_match_pixels(image, boxes, labels)
        visible = {v // 50 - 1 for v in image.unique().tolist() if v % 50 == 0}
        assert visible == set(labels.tolist())
        seen |= visible
        assert all((image == 10 * (i + 1)).any() for i in range(4))
    assert seen == {0, 1, 2, 3}


def test_mosaic_of_unequal_pictures_and_types():
    small = (
        torch.full((1, 4, 4), 255, dtype=torch.uint8),
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
    )
    large = (torch.ones(1, 16, 16), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    image, boxes, _ = mosaic([large, small, small, large], min_area_kept=0.3)
    assert image.shape == (1, 16, 16) and image.dtype == torch.float32 and boxes.shape == (0, 4)
    assert set(image.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("flip", ["horizontal_flip", "vertical_flip"])
def test_flips(flip):
    transform = DetectionTransform(DetectionAugmentation(**{flip: 1.0}))
    image, target = transform(painted(), BOXES, LABELS)
    axis = -1 if flip == "horizontal_flip" else -2
    assert torch.equal(image, painted().flip(axis) / 255)
    assert_boxes_match_pixels((image * 255).round().int(), target["boxes"], target["labels"])


def test_all_geometry_together_on_many_draws():
    # one channel a box: resizing blurs its edges, and the half value marks them to about a pixel
    boxes = torch.tensor([[10.0, 10, 60, 40], [90, 12, 130, 80], [20, 70, 70, 110]])
    augmentation = DetectionAugmentation(
        horizontal_flip=0.5, vertical_flip=0.5, rotate90=0.5, crop=0.7, crop_zoom=(0.8, 1.5), crop_stretch=1.2
    )
    transform = DetectionTransform(augmentation)
    channels = torch.cat([painted(boxes[i : i + 1], (120, 160)) // 50 * 255 for i in range(3)])
    kept = 0
    for seed in range(40):
        torch.manual_seed(seed)
        image, target = transform(channels, boxes, LABELS)
        assert image.shape == (3, 120, 160) and image.dtype == torch.float32
        for box, label in zip(target["boxes"], target["labels"].tolist(), strict=True):
            found = extent(image[label : label + 1] > 0.5, True)
            assert found is not None
            assert (box - torch.tensor(found)).abs().max() <= 1
            kept += 1
        assert target["boxes"].min() >= 0
        assert (target["boxes"] <= torch.tensor([160, 120, 160, 120])).all()
    assert kept > 80


def test_quarter_turn_of_a_wide_picture_keeps_shapes():
    """A square stays square: the turned picture is cut to the old shape, not squeezed into it."""
    square = torch.tensor([[50.0, 40, 90, 80]])
    transform = DetectionTransform(DetectionAugmentation(rotate90=1.0))
    shapes = set()
    for seed in range(12):
        torch.manual_seed(seed)
        _, target = transform(painted(square, (120, 160)), square, LABELS[:1])
        for x0, y0, x1, y1 in target["boxes"].tolist():
            if y0 > 0 and y1 < 120:  # not cut
                assert math.isclose(x1 - x0, y1 - y0, rel_tol=1e-5)
                shapes.add(round(x1 - x0, 1))
    assert shapes == {40.0, 53.3}  # half turn, and quarter turn with its zoom of 160 / 120


def test_eval_only_scales():
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    out, target = DetectionTransform()(image, BOXES, LABELS)
    assert torch.equal(out, torch.from_numpy(to_float(image.numpy())))  # to the last bit
    assert torch.equal(target["boxes"], BOXES)
    phase = torch.randn(1, 8, 8)
    assert torch.equal(DetectionTransform()(phase, BOXES, LABELS)[0], phase)


def test_normalisation():
    transform = DetectionTransform(mean=[0.5, 0.25, 0.0], std=[0.5, 0.25, 2.0])
    out, _ = transform(torch.full((3, 4, 4), 255, dtype=torch.uint8), BOXES, LABELS)
    assert out[:, 0, 0].tolist() == [1.0, 3.0, 0.5]
    for mean, std in (([0.5], None), ([0.5], [0.0]), ([0.5], [1.0, 1.0])):
        with pytest.raises(UserError, match="normalize"):
            DetectionTransform(mean=mean, std=std)


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation", "hue"])
def test_jitter_changes_values_and_nothing_else(kind):
    image = (torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    transform = DetectionTransform(DetectionAugmentation(jitter=1.0, **{kind: 0.3}))
    torch.manual_seed(0)
    out, target = transform(image, BOXES / 2, LABELS)
    assert not torch.equal(out, image / 255) and out.min() >= 0 and out.max() <= 1
    assert torch.equal(target["boxes"], BOXES / 2)
    if kind == "brightness":
        factor = torch.median(out / (image / 255).clamp(min=1e-6))
        torch.testing.assert_close(out, F.adjust_brightness(image / 255, float(factor)), atol=1e-5, rtol=0)


def test_jitter_refuses_values_that_are_no_colours():
    transform = DetectionTransform(DetectionAugmentation(jitter=1.0, brightness=0.2))
    with pytest.raises(UserError, match=r"augment\.jitter=0"):
        transform(torch.full((1, 8, 8), 1.34), BOXES / 4, LABELS)


def test_no_boxes_at_all():
    everything = DetectionAugmentation(
        horizontal_flip=1, vertical_flip=1, rotate90=1, crop=1, crop_zoom=(0.5, 2), jitter=1, brightness=0.1
    )
    image, target = DetectionTransform(everything)(painted(), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert image.shape == (1, 22, 32)
    assert target["boxes"].shape == (0, 4) and target["boxes"].dtype == torch.float32
    assert target["labels"].shape == (0,) and target["labels"].dtype == torch.int64
    assert type(image) is type(target["boxes"]) is torch.Tensor


def test_zoom_is_log_uniform_and_stays_in_range(monkeypatch):
    a = DetectionAugmentation(crop=1.0, crop_zoom=(0.5, 2.0))
    torch.manual_seed(0)
    zooms = [100 / transforms._draw_window((1000, 1000), (1000, 1000), a)[2] * 10 for _ in range(400)]
    assert 0.49 < min(zooms) < 0.55 and 1.9 < max(zooms) < 2.01
    assert abs(sum(math.log(z) for z in zooms) / 400) < 0.06  # standard deviation 0.02


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"horizontal_flip": 1.5}, r"augment\.horizontal_flip=1\.5"),
        ({"horisontal_flip": 0.5}, r"no key horisontal_flip: choose from horizontal_flip"),
        ({"crop_zoom": [2.0, 1.0]}, r"augment\.crop_zoom"),
        ({"crop_stretch": 0.5}, r"augment\.crop_stretch"),
        ({"hue": 0.6}, "hue"),
    ],
)
def test_bad_configuration(values, message):
    with pytest.raises(UserError, match=message):
        DetectionAugmentation.from_config(values)


def test_configuration():
    assert DetectionAugmentation.from_config(None) is None
    built = DetectionAugmentation.from_config({"crop_zoom": [0.5, 2], "mosaic": 0.1})
    assert built == DetectionAugmentation(crop_zoom=(0.5, 2), mosaic=0.1)
