"""Decoding against a literal transcription of both published rules, and against torchvision's own."""

import math
from types import SimpleNamespace

import pytest
import torch
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.fcos import FCOS as TorchvisionFCOS

from hemolens.nets.fcos.decode import boxes_from_ltrb, decode_detections
from hemolens.nets.fcos.targets import points_for

STRIDES = (8, 16, 32)
SETTINGS = {"score_threshold": 0.3, "pre_nms_topk": 40, "nms_iou": 0.5, "max_detections": 300}


def predictions(seed, height=96, width=128, classes=3, quantum=0.0):
    """Random raw predictions of one image; a ``quantum`` rounds the logits, so that scores tie."""
    generator = torch.Generator().manual_seed(seed)
    points = points_for([(math.ceil(height / s), math.ceil(width / s)) for s in STRIDES], STRIDES, "cpu")
    cls_logits, ltrb, centerness = [], [], []
    for level, stride in zip(points, STRIDES, strict=True):
        cls_logits.append(torch.randn(len(level), classes, generator=generator) * 2 - 2)
        ltrb.append(torch.randn(len(level), 4, generator=generator).mul(2).add(1).relu() * stride)
        centerness.append(torch.randn(len(level), generator=generator))
    if quantum:
        cls_logits = [(x / quantum).round() * quantum for x in cls_logits]
        centerness = [(x / quantum).round() * quantum for x in centerness]
    return cls_logits, ltrb, centerness, points


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def sigmoid(x):
    return float(torch.sigmoid(x))


def literal(
    cls_logits,
    ltrb,
    centerness,
    points,
    size,
    *,
    score_threshold,
    pre_nms_topk,
    nms_iou,
    max_detections,
    score,
):
    candidates = []
    for level in range(len(points)):
        mine = []
        for n in range(len(points[level])):
            for c in range(cls_logits[level].shape[1]):
                p, q = sigmoid(cls_logits[level][n, c]), sigmoid(centerness[level][n])
                ranking = p if score == "product" else math.sqrt(p * q)
                if ranking > score_threshold:
                    every = [sigmoid(x) for x in cls_logits[level][n]]
                    mine.append((ranking, n, c, p * q if score == "product" else ranking, every))
        mine.sort(key=lambda item: -round(item[0], 6))  # Python's sort is stable
        for _, n, c, final, every in mine[:pre_nms_topk]:
            x, y = points[level][n].tolist()
            left, top, right, bottom = ltrb[level][n].tolist()
            box = (
                min(max(x - left, 0.0), size[1]),
                min(max(y - top, 0.0), size[0]),
                min(max(x + right, 0.0), size[1]),
                min(max(y + bottom, 0.0), size[0]),
            )
            if box[2] - box[0] > 0 and box[3] - box[1] > 0:
                candidates.append((final, c, box, every))
    candidates.sort(key=lambda item: -round(item[0], 6))
    kept = []
    for final, c, box, every in candidates:
        if all(c != other_c or iou(box, other) <= nms_iou for _, other_c, other, _ in kept):
            kept.append((final, c, box, every))
    return kept[:max_detections]


def assert_like_the_literal(raw, size, settings, score):
    found = decode_detections(*raw, size, **settings, score=score)
    wanted = literal(*raw, size, **settings, score=score)
    assert found["labels"].dtype == torch.int64
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    assert found["boxes"].shape == (len(wanted), 4)
    assert found["labels"].tolist() == [c for _, c, _, _ in wanted]
    torch.testing.assert_close(found["scores"], torch.tensor([s for s, _, _, _ in wanted]).float())
    torch.testing.assert_close(found["boxes"], torch.tensor([b for _, _, b, _ in wanted]).float().view(-1, 4))
    every = torch.tensor([p for *_, p in wanted]).float().view(-1, raw[0][0].shape[1])
    torch.testing.assert_close(found["probabilities"], every)
    return found


@pytest.mark.parametrize("score", ["product", "sqrt"])
@pytest.mark.parametrize("quantum", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_both_scores(score, quantum, seed):
    found = assert_like_the_literal(predictions(seed, quantum=quantum), (96, 128), SETTINGS, score)
    assert len(found["boxes"]) > 20
    assert (found["scores"].diff() <= 0).all()


@pytest.mark.parametrize("score", ["product", "sqrt"])
@pytest.mark.parametrize(
    "change",
    [
        {"pre_nms_topk": 3},
        {"max_detections": 5},
        {"nms_iou": 0.1},
        {"nms_iou": 1.0},
        {"score_threshold": 0.0},
        {"score_threshold": 0.999},
    ],
)
def test_each_setting(score, change):
    found = assert_like_the_literal(predictions(7), (96, 128), {**SETTINGS, **change}, score)
    assert len(found["boxes"]) <= change.get("max_detections", 10_000)
    if change == {"score_threshold": 0.999}:
        assert found["boxes"].shape == (0, 4) and found["labels"].shape == found["scores"].shape == (0,)


def test_one_class_and_an_empty_level():
    raw = [list(part) for part in predictions(3, classes=1)]
    for part in raw:
        part[1] = part[1][:0]
    assert_like_the_literal(raw, (96, 128), SETTINGS, "product")


def test_many_candidates_take_the_same_way():
    """torchvision's class-wise NMS has another code path for many boxes."""
    raw = predictions(11, height=256, width=256)
    settings = {**SETTINGS, "score_threshold": 0.05, "pre_nms_topk": 1000}
    found = decode_detections(*raw, (256, 256), **settings)
    assert sum(int((x.sigmoid() > 0.05).sum()) for x in raw[0]) > 1000
    wanted = literal(*raw, (256, 256), **settings, score="product")
    assert found["labels"].tolist() == [c for _, c, _, _ in wanted]


@pytest.mark.parametrize("seed", range(3))
def test_sqrt_is_torchvision_s(seed):
    """The same raw predictions through torchvision's own post-processing."""
    height, width = 96, 128
    cls_logits, ltrb, centerness, points = predictions(seed, height, width)
    ltrb = [x + 1 for x in ltrb]  # torchvision keeps boxes without area
    halves = [torch.full((len(p), 1), s / 2) for p, s in zip(points, STRIDES, strict=True)]
    peer = SimpleNamespace(
        score_thresh=SETTINGS["score_threshold"],
        topk_candidates=SETTINGS["pre_nms_topk"],
        nms_thresh=SETTINGS["nms_iou"],
        detections_per_img=SETTINGS["max_detections"],
        box_coder=BoxLinearCoder(normalize_by_size=True),
    )
    (wanted,) = TorchvisionFCOS.postprocess_detections(
        peer,
        {
            "cls_logits": [x[None] for x in cls_logits],
            "bbox_regression": [x[None] / s for x, s in zip(ltrb, STRIDES, strict=True)],
            "bbox_ctrness": [x[None, :, None] for x in centerness],
        },
        [[torch.cat([p - h, p + h], 1) for p, h in zip(points, halves, strict=True)]],
        [(height, width)],
    )
    found = decode_detections(cls_logits, ltrb, centerness, points, (height, width), **SETTINGS, score="sqrt")
    assert len(found["boxes"]) > 20
    for key in ("boxes", "scores", "labels"):
        torch.testing.assert_close(found[key], wanted[key])


def one_cell(logit, center_logit, distances, size=(100, 100), score="product", **settings):
    return decode_detections(
        [torch.tensor([[logit, -9.0]])],
        [torch.tensor([distances])],
        [torch.tensor([center_logit])],
        [torch.tensor([[50.0, 40.0]])],
        size,
        **{**SETTINGS, **settings},
        score=score,
    )


def test_closed_form():
    found = one_cell(0.0, 0.0, [10.0, 20.0, 30.0, 5.0], score_threshold=0.4)
    assert found["boxes"].tolist() == [[40, 20, 80, 45]]
    assert found["scores"].tolist() == [0.25]  # below the threshold: that is on the class alone
    assert found["labels"].tolist() == [0]
    assert one_cell(0.0, 0.0, [10.0, 20.0, 30.0, 5.0], score="sqrt")["scores"].tolist() == [0.5]
    # sqrt(0.5 · 0.119) = 0.24 is below 0.3
    assert len(one_cell(0.0, -2.0, [10.0, 20.0, 30.0, 5.0], score="sqrt")["boxes"]) == 0


def test_threshold_is_strict():
    assert len(one_cell(0.0, 0.0, [1.0] * 4, score_threshold=0.5)["boxes"]) == 0


def test_boxes_are_clipped_and_empty_ones_dropped():
    found = one_cell(2.0, 2.0, [60.0, 60.0, 60.0, 60.0], size=(80, 90))
    assert found["boxes"].tolist() == [[0, 0, 90, 80]]
    for score in ("product", "sqrt"):
        assert len(one_cell(2.0, 2.0, [0.0, 3.0, 0.0, 3.0], score=score)["boxes"]) == 0
        # a cell of the padding, right of the image
        assert len(one_cell(2.0, 2.0, [5.0, 5.0, 5.0, 5.0], size=(100, 40), score=score)["boxes"]) == 0


def test_classes_do_not_suppress_each_other():
    raw = (
        [torch.tensor([[3.0, 2.0]])],
        [torch.full((1, 4), 9.0)],
        [torch.zeros(1)],
        [torch.full((1, 2), 50.0)],
    )
    found = decode_detections(*raw, (100, 100), **SETTINGS)
    assert found["labels"].tolist() == [0, 1]


def test_half_precision_is_decoded_in_float32():
    raw = [[x.bfloat16() for x in part] for part in predictions(1)[:3]] + [predictions(1)[3]]
    found = decode_detections(*raw, (96, 128), **SETTINGS)
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32


def test_boxes_from_ltrb():
    boxes = boxes_from_ltrb(torch.tensor([[10.0, 20.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert boxes.tolist() == [[9, 18, 13, 24]]


def test_unknown_score_is_refused():
    with pytest.raises(ValueError, match=r"'product' .* 'sqrt'"):
        decode_detections(*predictions(0), (96, 128), **SETTINGS, score="cls")
