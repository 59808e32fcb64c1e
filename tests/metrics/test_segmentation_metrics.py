"""Scores of segmented cells against literal transcriptions and cases worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from hemolens.errors import UserError
from hemolens.metrics.segmentation import SegmentationScores, aggregated_jaccard_index, dice_score, touching_cells


def literal_aji(pred: Tensor, true: Tensor) -> float:
    """Kumar et al. 2017, Algorithm 1, cell by cell; a prediction may be used again."""
    predictions = [int(n) for n in pred.unique() if n > 0]
    used: set[int] = set()
    intersection = union = 0
    for number in [int(n) for n in true.unique() if n > 0]:
        own = true == number
        scores = {}
        for other in predictions:
            both, either = int((own & (pred == other)).sum()), int((own | (pred == other)).sum())
            if both:
                scores[other] = both / either
        if not scores:
            union += int(own.sum())
            continue
        best = max(scores, key=scores.__getitem__)
        used.add(best)
        intersection += int((own & (pred == best)).sum())
        union += int((own | (pred == best)).sum())
    union += sum(int((pred == other).sum()) for other in predictions if other not in used)
    return intersection / union if union else math.nan


def blobs(seed: int, count: int, side: int = 90) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image = torch.zeros(side, side, dtype=torch.long)
    for number in range(1, count + 1):
        cy, cx, r = (torch.rand(3, generator=generator) * torch.tensor([side, side, 8.0])).tolist()
        image[(y - cy) ** 2 + (x - cx) ** 2 < (r + 3) ** 2] = number * 7  # numbers need not be consecutive
    return image


@pytest.mark.parametrize("seed", range(6))
def test_aji_equals_the_literal_loop(seed: int) -> None:
    pred, true = blobs(seed, 3 * seed), blobs(seed + 100, 12)
    assert aggregated_jaccard_index(pred, true) == pytest.approx(literal_aji(pred, true), nan_ok=True)


def test_aji_by_hand() -> None:
    true = torch.zeros(4, 8, dtype=torch.long)
    true[:, :4], true[:, 4:] = 1, 2
    one = torch.ones(4, 8, dtype=torch.long)  # one prediction over both: used twice
    assert aggregated_jaccard_index(one, true) == pytest.approx((16 + 16) / (32 + 32))
    assert aggregated_jaccard_index(true, true) == 1
    assert aggregated_jaccard_index(torch.zeros_like(true), true) == 0
    assert aggregated_jaccard_index(true, torch.zeros_like(true)) == 0
    assert math.isnan(aggregated_jaccard_index(torch.zeros_like(true), torch.zeros_like(true)))
    huge = true * 10**12
    assert aggregated_jaccard_index(huge, true) == 1
    with pytest.raises(UserError, match="negative"):
        aggregated_jaccard_index(-true, true)
    with pytest.raises(UserError, match="one shape"):
        aggregated_jaccard_index(true[:2], true)


def test_dice_by_hand() -> None:
    target = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 2]])
    pred = torch.tensor([[0, 0, 1, 0], [0, 0, 3, 2]])
    scores = dice_score(pred, target, 5)
    assert scores.tolist() == pytest.approx([2 * 4 / (5 + 4), 2 * 1 / (1 + 3), 1.0, 0.0, math.nan], nan_ok=True)
    both = dice_score(torch.stack([pred, target]), torch.stack([target, target]), 5)
    assert both.shape == (2, 5)
    assert both[1, :3].tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="one shape"):
        dice_score(pred[:1], target, 5)
    with pytest.raises(UserError, match="classes from 0 to 3"):
        dice_score(pred, target, 3)


def test_touching_cells() -> None:
    image = torch.zeros(10, 30, dtype=torch.long)
    image[2:6, 2:6], image[2:6, 6:9], image[2:6, 10:13], image[8:, 20:] = 5, 3, 9, 2
    # by rising number: 2 alone, 3 touches 5, 5, 9 lies one pixel from 3
    assert touching_cells(image, 0).tolist() == [False, True, True, False]
    assert touching_cells(image, 1).tolist() == [False, True, True, True]
    diagonal = torch.eye(6, dtype=torch.long) * torch.arange(1, 7)
    assert touching_cells(diagonal, 0).all()


def scene() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two images of four cells; predictions: right, a type wrong, one missed, one mixed, one spurious."""
    target, true = torch.zeros(2, 40, 60, dtype=torch.long), torch.zeros(2, 40, 60, dtype=torch.long)
    for number, (image, y, x, kind) in enumerate(
        [(0, 2, 2, 1), (0, 2, 12, 2), (0, 20, 30, 1), (0, 20, 45, 3), (1, 5, 5, 1), (1, 5, 30, 4)], start=1
    ):
        target[image, y : y + 10, x : x + 10] = kind
        true[image, y : y + 10, x : x + 10] = number
    pred, pred_instances = target.clone(), true.clone()
    pred[0, 2:12, 12:22] = 3  # a wrong type
    pred[0, 20:30, 30:40] = pred_instances[0, 20:30, 30:40] = 0  # missed
    pred[1, 5:15, 5:8] = 2  # 30 % of another type
    pred_instances[1, 5:15, 5:8] = 50
    pred[1, 30:35, 50:55] = 1  # spurious
    pred_instances[1, 30:35, 50:55] = 51
    return pred, target, pred_instances, true


def test_scores_of_a_scene() -> None:
    pred, target, pred_instances, true = scene()
    metric = SegmentationScores(5)
    metric.update(pred, target, pred_instances, true)
    found = metric.compute()
    assert found["types"].tolist() == [[1, 2, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    assert found["type_accuracy"].tolist() == pytest.approx([2 / 3, 0, 1, 1])
    assert float(found["spurious"]) == 0.5
    assert float(found["mixed_type_rate"]) == pytest.approx(1 / 6)
    # discocytes: image 0 2 * 100 / (100 + 200), image 1 2 * 70 / (95 + 100)
    expected = [(200 / 300 + 140 / 195) / 2, 0.0, 200 / 300, 1.0]
    assert found["dice_skip"].tolist() == pytest.approx(expected)
    # `one`: echinocytes are not in image 1, stomatocytes not in image 0
    assert found["dice_one"].tolist() == pytest.approx([expected[0], 0.0, (200 / 300 + 1) / 2, 1.0])
    assert float(found["dice"]) == pytest.approx(sum(expected) / 4)
    assert found["dice_pooled"].tolist() == pytest.approx([2 * 170 / (195 + 300), 0, 2 * 100 / 300, 1])
    assert found["aji_skip"][3] == 1
    assert found["aji_skip"][0] == pytest.approx((100 / 200 + 70 / (100 + 25)) / 2)
    assert float(found["type_accuracy_touching"]) == pytest.approx(1 / 2)  # cells 1 and 2 touch
    assert float(found["cell_dice_isolated"]) == pytest.approx((0 + 1 + 2 * 70 / 170 + 1) / 4)


def test_updates_add_up_in_any_split() -> None:
    pred, target, pred_instances, true = scene()
    whole, parts = SegmentationScores(5), SegmentationScores(5)
    whole.update(pred, target, pred_instances, true)
    for n in range(2):
        parts.update(pred[n : n + 1], target[n : n + 1], pred_instances[n : n + 1], true[n : n + 1])
    for name, value in whole.compute().items():
        torch.testing.assert_close(parts.compute()[name], value, equal_nan=True)
    parts.reset()
    assert parts.cells == []


def test_images_without_cells() -> None:
    empty = torch.zeros(1, 20, 20, dtype=torch.long)
    metric = SegmentationScores(3)
    metric.update(empty, empty, empty, empty)
    found = metric.compute()
    assert found["dice_one"].tolist() == [1, 1]
    assert found["dice_skip"].isnan().all()
    assert found["types"].sum() == 0
