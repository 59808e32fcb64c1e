"""VOCMeanAveragePrecision against a literal transcription of the VOC rule, closed forms and symmetries."""

import math

import numpy as np
import pytest
import torch

from hemolens.metrics.detection import VOCMeanAveragePrecision

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


def literal_iou(a: np.ndarray, b: np.ndarray) -> np.float32:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), np.float32(0))
    height = max(min(a[3], b[3]) - max(a[1], b[1]), np.float32(0))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return np.float32(0) if union == 0 else np.float32(width * height / union)


def literal_voc(preds: list[Boxes], targets: list[Boxes], num_classes: int, threshold: float, rule: str):
    """One class at a time, one detection at a time, one ground-truth box at a time."""
    precisions, found = [], set()
    for label in range(num_classes):
        truth = {
            (image, row): box
            for image, target in enumerate(targets)
            for row, (box, of) in enumerate(zip(target["boxes"].numpy(), target["labels"], strict=True))
            if of == label
        }
        detections = [
            (float(score), image, box)
            for image, pred in enumerate(preds)
            for box, score, of in zip(pred["boxes"].numpy(), pred["scores"], pred["labels"], strict=True)
            if of == label
        ]
        detections.sort(key=lambda detection: -detection[0])
        taken, hits = set(), []
        for _, image, box in detections:
            best, best_key = np.float32(-1), None
            for key, truth_box in truth.items():
                if key[0] == image and literal_iou(box, truth_box) > best:
                    best, best_key = literal_iou(box, truth_box), key
            hit = best_key is not None and best >= threshold and best_key not in taken
            if hit:
                taken.add(best_key)
            hits.append(hit)
        found |= taken
        precisions.append(literal_ap(hits, len(truth), rule))
    known = [value for value in precisions if not math.isnan(value)]
    return precisions, (sum(known) / len(known) if known else math.nan), found


def literal_ap(hits: list[bool], num_truth: int, rule: str) -> float:
    if num_truth == 0:
        return math.nan
    recall = [sum(hits[: n + 1]) / num_truth for n in range(len(hits))]
    precision = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
    if rule == "11point":
        total = 0.0
        for tenth in range(11):
            beyond = [p for r, p in zip(recall, precision, strict=True) if r >= tenth / 10 - 1e-9]
            total += max(beyond, default=0.0) / 11
        return total
    recall, precision = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for n in range(len(precision) - 2, -1, -1):
        precision[n] = max(precision[n], precision[n + 1])
    return sum((recall[n + 1] - recall[n]) * precision[n + 1] for n in range(len(recall) - 1))


def compute(preds: list[Boxes], targets: list[Boxes], num_classes: int = 4, *args, **kwargs):
    metric = VOCMeanAveragePrecision(num_classes, *args, **kwargs)
    metric.update(preds, targets)
    return metric.compute()


@pytest.mark.parametrize("rule", ["11point", "area"])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("seed", range(4))
def test_equals_literal_transcription(seed, threshold, rule):
    preds, targets = random_images(seed)
    result = compute(preds, targets, 4, threshold, rule, min_boxes=10)
    precisions, mean, found = literal_voc(preds, targets, 4, threshold, rule)
    np.testing.assert_allclose(result["ap_per_class"], precisions, rtol=1e-6)
    np.testing.assert_allclose(result["map"], mean, rtol=1e-6)
    assert math.isnan(result["ap_per_class"][2]) and result["ap_per_class"][3] == 0
    assert 2 in result["rare_classes"]

    sizes = {"small": [], "medium": [], "large": []}
    for image, target in enumerate(targets):
        for row, box in enumerate(target["boxes"].tolist()):
            side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
            name = "small" if side < 32 else "medium" if side < 96 else "large"
            sizes[name].append((image, row) in found)
    for name, hits in sizes.items():
        assert result["recall_by_size"][name].item() == pytest.approx(sum(hits) / len(hits))


def test_result_does_not_depend_on_batches():
    preds, targets = random_images(7)
    whole = VOCMeanAveragePrecision(4)
    whole.update(preds, targets)
    parts = VOCMeanAveragePrecision(4)
    for start, stop in [(0, 1), (1, 1), (1, 6), (6, 12)]:
        parts.update(preds[start:stop], targets[start:stop])
    assert_same(whole.compute(), parts.compute())


def test_many_boxes_fill_several_blocks(monkeypatch):
    preds, targets = random_images(11)
    expected = compute(preds, targets)
    monkeypatch.setattr("hemolens.metrics.box_matching.PAIRS_PER_BLOCK", 50)
    assert_same(compute(preds, targets), expected)


def test_order_of_boxes_and_images_is_irrelevant_without_ties():
    preds, targets = random_images(5)
    generator = torch.Generator().manual_seed(5)
    for pred in preds:
        pred["scores"] = torch.rand(len(pred["scores"]), generator=generator)
    expected = compute(preds, targets)

    def shuffled(sample: Boxes) -> Boxes:
        order = torch.randperm(len(sample["boxes"]), generator=generator)
        return {key: value[order] for key, value in sample.items()}

    order = torch.randperm(len(preds), generator=generator).tolist()
    mixed = compute([shuffled(preds[i]) for i in order], [targets[i] for i in order])
    assert_same(mixed, expected)


def test_renaming_classes_renames_results():
    preds, targets = random_images(6)
    renamed = torch.tensor([3, 0, 1, 2])
    moved = [[{**sample, "labels": renamed[sample["labels"]]} for sample in samples] for samples in (preds, targets)]
    torch.testing.assert_close(
        compute(*moved)["ap_per_class"][renamed], compute(preds, targets)["ap_per_class"], equal_nan=True
    )


def test_perfect_detections():
    for rule in ("11point", "area"):
        result = compute([found_as(TEN, [0.9] * 10)], [truth_of(TEN)], 1, 0.5, rule)
        assert result["map"] == 1 and result["recall_by_size"]["small"] == 1
        assert math.isnan(result["recall_by_size"]["large"])


def test_recall_on_the_grid_counts_at_its_grid_point():
    """3 of 10 found reaches the grid point 0.3, which as 3 * 0.1 is a little more than the double 0.3."""
    boxes = torch.cat([TEN[:3], NOWHERE, TEN[3:4]])
    result = compute([found_as(boxes, [0.9, 0.8, 0.7, 0.6, 0.5])], [truth_of(TEN)], 1)
    assert result["map"].item() == pytest.approx((4 * 1.0 + 4 / 5) / 11)  # recall 0, .1, .2, .3 | .4


def test_area_rule_closed_form():
    boxes = torch.cat([TEN[:1], NOWHERE, TEN[1:2]])
    result = compute([found_as(boxes, [0.9, 0.8, 0.7])], [truth_of(TEN[:2])], 1, 0.5, "area")
    assert result["map"].item() == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_duplicate_is_a_false_positive():
    boxes = torch.cat([TEN[:1], TEN[:1], TEN[1:2]])
    result = compute([found_as(boxes, [0.9, 0.8, 0.7])], [truth_of(TEN[:2])], 1)
    assert result["map"].item() == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_no_fall_through_to_the_second_best_box():
    truth = boxes_of((0, 0, 10, 10), (0, 0, 10, 12))
    boxes = boxes_of((0, 0, 10, 10), (0, 0, 10, 10.5))  # both overlap the first box most, the second above 0.5
    result = compute([found_as(boxes, [0.9, 0.8])], [truth_of(truth)], 1)
    assert result["map"].item() == pytest.approx(6 / 11)
    assert result["recall_by_size"]["small"] == 0.5


def test_iou_equal_to_the_threshold_matches_and_no_extra_pixel_is_counted():
    truth, half = boxes_of((0, 0, 10, 10)), boxes_of((0, 0, 10, 5))
    assert compute([found_as(half, [0.9])], [truth_of(truth)], 1, 0.5)["map"] == 1
    assert compute([found_as(half, [0.9])], [truth_of(truth)], 1, 0.501)["map"] == 0


def test_other_classes_and_images_do_not_match():
    truth = [truth_of(TEN[:1], [0]), truth_of(TEN[1:2], [1])]
    swapped_images = [found_as(TEN[1:2], [0.9], [1]), found_as(TEN[:1], [0.9], [0])]
    swapped_classes = [found_as(TEN[:1], [0.9], [1]), found_as(TEN[1:2], [0.9], [0])]
    assert compute(swapped_images, truth, 2)["map"] == 0
    assert compute(swapped_classes, truth, 2)["map"] == 0


@pytest.mark.parametrize(("first", "expected"), [("hit", 1.0), ("miss", 0.5)])
def test_ties_keep_the_order_of_update(first, expected):
    hit, miss = TEN[:1], NOWHERE
    boxes = [hit, miss] if first == "hit" else [miss, hit]
    in_one_image = compute([found_as(torch.cat(boxes), [0.5, 0.5])], [truth_of(hit)], 1, 0.5, "area")
    over_images = compute(
        [found_as(box, [0.5]) for box in boxes],
        [truth_of(hit if box is hit else boxes_of()) for box in boxes],
        1,
        0.5,
        "area",
    )
    assert in_one_image["map"] == over_images["map"] == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    preds, targets = random_images(3)
    for pred in preds:
        pred["scores"] = (pred["scores"] * 4).round() / 4  # exact in every dtype
    cast = [{**pred, "scores": pred["scores"].to(dtype), "boxes": pred["boxes"].to(dtype)} for pred in preds]
    rounded = [{**pred, "boxes": pred["boxes"].to(dtype).float()} for pred in preds]
    assert_same(compute(cast, targets), compute(rounded, targets))


def test_rare_classes_and_the_mean_without_them():
    boxes = torch.cat([TEN, TEN + 100])
    truth = truth_of(boxes, [0] * 10 + [1] * 8 + [2] * 2)
    found = found_as(boxes, [0.9] * 20, [0] * 10 + [1] * 4 + [3] * 6)
    result = compute([found], [truth], 4, 0.5, "area", min_boxes=8)
    assert result["gt_per_class"].tolist() == [10, 8, 2, 0]
    assert result["rare_classes"] == [2, 3]
    assert result["map_frequent"].item() == pytest.approx((1 + 0.5) / 2)
    assert result["map"].item() == pytest.approx((1 + 0.5 + 0) / 3)


def test_size_limits():
    truth = truth_of(boxes_of((0, 0, 31, 31), (0, 0, 32, 32), (200, 0, 296, 96), (0, 200, 1, 1224)))
    found = found_as(truth["boxes"][1:2], [0.9])
    recall = compute([found], [truth], 1)["recall_by_size"]  # sides 31 | 32, 32 | 96
    assert {name: value.item() for name, value in recall.items()} == {"small": 0, "medium": 0.5, "large": 0}


def test_nothing_at_all():
    empty = found_as(boxes_of(), [])
    for samples in ([], [empty]):
        result = compute(samples, samples, 2)
        assert math.isnan(result["map"]) and math.isnan(result["map_frequent"])
        assert result["rare_classes"] == [0, 1] and result["ap_per_class"].isnan().all()
    assert compute([empty], [truth_of(TEN)], 1)["map"] == 0
    assert math.isnan(compute([found_as(TEN, [0.5] * 10)], [truth_of(boxes_of())], 1)["map"])


def test_one_class_keeps_its_axis():
    metric = VOCMeanAveragePrecision(1)
    metric.update([found_as(TEN, [0.9] * 10)], [truth_of(TEN)])
    for _ in range(2):  # computed, then cached
        assert metric.compute()["ap_per_class"].shape == (1,) and metric.compute()["map"].shape == ()


def test_curves():
    metric = VOCMeanAveragePrecision(2)
    boxes = torch.cat([NOWHERE, TEN[:2]])
    metric.update([found_as(boxes, [0.6, 0.9, 0.3])], [truth_of(TEN[:4])])
    present, absent = metric.precision_recall_curves()
    assert present.recall.tolist() == [0.25, 0.25, 0.5]
    assert present.precision.tolist() == [1, 0.5, 2 / 3]
    assert present.score.tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert all(len(column) == 0 for column in absent)


def test_zero_area_boxes_never_match():
    flat = boxes_of((5, 5, 5, 9))
    assert compute([found_as(flat, [0.9])], [truth_of(flat)], 1)["map"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 0},
        {"num_classes": 2, "iou_threshold": 0.0},
        {"num_classes": 2, "interpolation": "101point"},
        {"num_classes": 2, "size_limits_px": (96.0, 32.0)},
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=list(arguments)[-1]):
        VOCMeanAveragePrecision(**arguments)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_torchmetrics_where_the_rules_agree(seed):
    """Well separated ground truth leaves no choice of match, so COCO's matching gives the same pairs."""
    pytest.importorskip("faster_coco_eval", reason="torchmetrics' MeanAveragePrecision needs a COCO backend")
    from torchmetrics.detection import MeanAveragePrecision

    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(torch.arange(6), torch.arange(6)).repeat(1, 2) * 100.0
    preds, targets = [], []
    for _ in range(8):
        boxes = grid[torch.rand(36, generator=generator) < 0.7] + torch.tensor([10.0, 10.0, 60.0, 60.0])
        labels = torch.randint(3, (len(boxes),), generator=generator)
        twice = torch.randint(len(boxes), (50,), generator=generator)
        moved = boxes[twice] + torch.rand(50, 4, generator=generator) * 24 - 12
        guessed = torch.where(torch.rand(50, generator=generator) < 0.2, 0, labels[twice])
        preds.append({"boxes": moved, "labels": guessed, "scores": torch.rand(50, generator=generator)})
        targets.append({"boxes": boxes, "labels": labels})
    peer = MeanAveragePrecision(
        iou_thresholds=[0.5],
        rec_thresholds=(np.arange(11) / 10 - 1e-9).tolist(),  # COCO's code has no slack of its own
        class_metrics=True,
        backend="faster_coco_eval",
    )
    peer.update(preds, targets)
    theirs, ours = peer.compute(), compute(preds, targets, 3)
    assert 0.1 < ours["map"] < 0.95
    torch.testing.assert_close(ours["map"], theirs["map"], rtol=0, atol=1e-6)
    torch.testing.assert_close(ours["ap_per_class"], theirs["map_per_class"], rtol=0, atol=1e-6)
