"""MatchedClassification against a literal transcription of its rule and closed forms."""

import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from hemolens.metrics.detection import MatchedClassification

from .box_samples import (
    NOWHERE,
    TEN,
    Boxes,
    assert_same,
    boxes_of,
    found_as,
    random_images,
    truth_of,
)


def literal_confusion(
    preds: list[Boxes],
    targets: list[Boxes],
    num_classes: int,
    threshold: float,
    cut: float,
    nms_iou: float | None,
) -> np.ndarray:
    """One image and one detection at a time; the last row and column are the background."""
    table = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for pred, target in zip(preds, targets, strict=True):
        rows = [row for row, score in enumerate(pred["scores"].tolist()) if score >= cut]
        rows.sort(key=lambda row: -pred["scores"][row].item())
        between, overlap = box_iou(pred["boxes"], pred["boxes"]), box_iou(pred["boxes"], target["boxes"])
        kept: list[int] = []
        for row in rows:
            if nms_iou is None or not any(between[row, better] > nms_iou for better in kept):
                kept.append(row)
        free = set(range(len(target["boxes"])))
        for row in kept:
            candidates = [(-overlap[row, column].item(), column) for column in sorted(free)]
            best = min(candidates, default=(0, -1))
            if -best[0] >= threshold:
                free.remove(best[1])
                table[target["labels"][best[1]], pred["labels"][row]] += 1
            else:
                table[num_classes, pred["labels"][row]] += 1
        for column in free:
            table[target["labels"][column], num_classes] += 1
    return table


def compute(preds: list[Boxes], targets: list[Boxes], num_classes: int, **kwargs):
    metric = MatchedClassification(num_classes, **kwargs)
    metric.update(preds, targets)
    return metric.compute()


@pytest.mark.parametrize("nms_iou", [0.6, 0.3, None])
@pytest.mark.parametrize(("threshold", "cut"), [(0.5, 0.3), (0.3, 0.0), (0.75, 0.6)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_literal_transcription(seed, threshold, cut, nms_iou):
    preds, targets = random_images(seed)
    result = compute(preds, targets, 4, iou_threshold=threshold, score_threshold=cut, nms_iou=nms_iou)
    table = literal_confusion(preds, targets, 4, threshold, cut, nms_iou)
    np.testing.assert_array_equal(result["confusion_with_background"], table)
    np.testing.assert_array_equal(result["confusion"], table[:4, :4])
    assert result["n_missed"] == table[:4, 4].sum() and result["n_spurious"] == table[4, :4].sum()
    confusion, total = table[:4, :4], table[:4, :4].sum()
    with np.errstate(invalid="ignore"):  # a class without cells gives NaN
        np.testing.assert_allclose(result["found"].numpy(), np.diag(confusion) / table[:4].sum(axis=1), rtol=1e-6)
    assert result["accuracy"].item() == pytest.approx(np.trace(confusion) / total)
    weighted = 0.0
    for label in range(4):
        true_positive = confusion[label, label]
        false_negative = confusion[label].sum() - true_positive
        false_positive = confusion[:, label].sum() - true_positive
        true_negative = total - true_positive - false_negative - false_positive
        expected = {
            "precision": (true_positive, true_positive + false_positive),
            "recall": (true_positive, true_positive + false_negative),
            "f1": (2 * true_positive, 2 * true_positive + false_positive + false_negative),
            "one_vs_rest_accuracy": (true_positive + true_negative, total),
        }
        for name, (part, whole) in expected.items():
            value = part / whole if whole else math.nan
            assert result[name][label].item() == pytest.approx(value, nan_ok=True), name
        if true_positive + false_negative:
            part, whole = expected["f1"]
            weighted += part / whole * (true_positive + false_negative) / total
    assert result["weighted_f1"].item() == pytest.approx(weighted)


def test_class_is_compared_after_matching():
    truth = truth_of(TEN, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    found = found_as(torch.cat([TEN[:9], NOWHERE]), [0.9] * 10, [0, 0, 0, 1, 1, 1, 0, 2, 2, 2])
    result = compute([found], [truth], 3)
    assert result["confusion"].tolist() == [[3, 1, 0], [1, 2, 0], [0, 0, 2]]
    assert result["confusion_with_background"].tolist() == [
        [3, 1, 0, 0],
        [1, 2, 0, 0],
        [0, 0, 2, 1],
        [0, 0, 1, 0],
    ]
    assert result["n_missed"] == 1 and result["n_spurious"] == 1
    assert result["accuracy"].item() == pytest.approx(7 / 9)
    assert result["recall"].tolist() == pytest.approx([3 / 4, 2 / 3, 1])
    assert result["one_vs_rest_accuracy"].tolist() == pytest.approx([7 / 9, 7 / 9, 1])


def test_second_detection_takes_the_next_free_box():
    truth = truth_of(boxes_of((0, 0, 10, 10), (0, 0, 10, 12)), [0, 1])
    found = found_as(boxes_of((0, 0, 10, 10), (0, 0, 10, 10.5)), [0.9, 0.8], [0, 1])
    assert compute([found], [truth], 2, nms_iou=None)["confusion"].tolist() == [[1, 0], [0, 1]]


def test_nms_is_blind_to_the_class_and_stays_within_an_image():
    truth = truth_of(TEN[:1])
    both = found_as(TEN[[0, 0]], [0.8, 0.9], [1, 0])
    assert compute([both], [truth], 2)["n_spurious"] == 0
    assert compute([both], [truth], 2, nms_iou=None)["n_spurious"] == 1
    apart = [found_as(TEN[:1], [0.8], [1]), found_as(TEN[:1], [0.9], [0])]
    assert compute(apart, [truth, truth], 2)["confusion"].tolist() == [[1, 1], [0, 0]]


def test_score_threshold_is_inclusive():
    found = found_as(TEN[:2], [0.5, 0.499])
    result = compute([found], [truth_of(TEN[:2])], 1, score_threshold=0.5)
    assert result["confusion_with_background"].tolist() == [[1, 1], [0, 0]]
    assert result["confusion"].shape == (1, 1) and result["recall"].shape == (1,)


def test_classes_that_were_never_predicted_or_never_present():
    result = compute([found_as(TEN[:2], [0.9, 0.9], [1, 1])], [truth_of(TEN[:2], [0, 1])], 3)
    assert result["f1"][:2].tolist() == pytest.approx([0, 2 / 3]) and math.isnan(result["f1"][2])
    assert math.isnan(result["precision"][0]) and result["recall"][0] == 0
    assert result["weighted_f1"].item() == pytest.approx(1 / 3)


def test_order_is_irrelevant_without_ties():
    preds, targets = random_images(4)
    generator = torch.Generator().manual_seed(4)
    for pred in preds:
        pred["scores"] = torch.rand(len(pred["scores"]), generator=generator)
    expected = compute(preds, targets, 4)
    turned = [{key: value.flip(0) for key, value in pred.items()} for pred in preds]
    assert_same(compute(turned[::-1], targets[::-1], 4), expected)


def test_nothing_at_all():
    empty = found_as(boxes_of(), [])
    for samples in ([], [empty]):
        result = compute(samples, samples, 2)
        assert result["confusion_with_background"].sum() == 0
        assert math.isnan(result["accuracy"]) and math.isnan(result["weighted_f1"])
    assert compute([empty], [truth_of(TEN)], 1)["n_missed"] == 10
    assert compute([found_as(TEN, [0.9] * 10)], [empty], 1)["n_spurious"] == 10


@pytest.mark.parametrize("arguments", [{"score_threshold": 1.5}, {"nms_iou": 0.0}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        MatchedClassification(2, **arguments)
