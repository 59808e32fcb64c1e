"""Boxes for the tests of the detection metrics."""

import torch
from torch import Tensor

Boxes = dict[str, Tensor]


def boxes_of(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def truth_of(boxes: Tensor, labels: list[int] | None = None) -> Boxes:
    return {"boxes": boxes, "labels": torch.tensor(labels or [0] * len(boxes), dtype=torch.int64)}


def found_as(boxes: Tensor, scores: list[float], labels: list[int] | None = None) -> Boxes:
    return {**truth_of(boxes, labels), "scores": torch.tensor(scores, dtype=torch.float32)}


def random_images(seed: int, images: int = 12, classes: int = 4) -> tuple[list[Boxes], list[Boxes]]:
    """Crowded integer boxes of all sizes, jittered copies as detections, tied scores, images without boxes.

    Class 2 never occurs as ground truth; class 3 is never detected.
    """
    generator = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    preds, targets = [], []
    for image in range(images):
        count = 0 if image % 5 == 3 else int(integers(15)) + 1
        corner = integers(60, count, 2)
        truth = torch.cat([corner, corner + 4 + integers(120, count, 2)], dim=1)
        labels = torch.tensor([0, 1, 3])[integers(3, count)]
        copies = integers(max(count, 1), 0 if image % 5 == 4 else 3 * count)
        jittered = truth[copies] + integers(13, len(copies), 4) - 6
        jittered[:, 2:] = torch.maximum(jittered[:, 2:], jittered[:, :2])
        guessed = torch.where(integers(4, len(copies)) == 0, integers(3, len(copies)), labels[copies])
        guessed[guessed == 3] = 0
        scores = integers(6, len(copies)).float() / 5
        preds.append({"boxes": jittered.float(), "labels": guessed, "scores": scores})
        targets.append({"boxes": truth.float(), "labels": labels})
    return preds, targets


def assert_same(actual: dict, expected: dict) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


TEN = boxes_of(*[(20 * i, 0, 20 * i + 10, 10) for i in range(10)])
NOWHERE = boxes_of((0, 500, 10, 510))
