"""VOC 11-point mean average precision: vectorised matching against a plain loop over detections."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Comparison, Options, Side
from hemolens.metrics.detection import VOCMeanAveragePrecision

Boxes = dict[str, Tensor]
FIELD_PX = 1444
THRESHOLD = 0.5
TOLERANCE = 1e-6
# Share of each class: three equal ones, and the mix of a blood field (red, abnormal red, platelet, white).
MIXES = {"equal_classes": (1.0, 1.0, 1.0), "blood_classes": (0.81, 0.09, 0.098, 0.002)}


def comparisons(options: Options) -> Iterator[Comparison]:
    """1,000 images of 100 ground-truth boxes and 100 detections."""
    images, boxes = (20, 20) if options.quick else (1000, 100)
    for variant, mix in MIXES.items():
        preds, targets = made_up(images, boxes, mix)
        classes = len(mix)
        common = {
            "classes": classes,
            "iou_threshold": THRESHOLD,
            "interpolation": "11point",
            "dtype": "float32",
        }
        yield Comparison(
            variant,
            Side("VOCMeanAveragePrecision", common, lambda p=preds, t=targets, c=classes: ours(p, t, c)),
            Side("loop over detections", common, lambda p=preds, t=targets, c=classes: loop(p, t, c)),
            equal,
            f"average precision of each class within {TOLERANCE}",
            target=7.0,
            work={"images": images, "truth and detections an image": boxes, "class shares": mix},
        )


def ours(preds: list[Boxes], targets: list[Boxes], num_classes: int) -> np.ndarray:
    """One update with all images, then compute."""
    metric = VOCMeanAveragePrecision(num_classes, THRESHOLD)
    metric.update(preds, targets)
    return metric.compute()["ap_per_class"].numpy()


def loop(preds: list[Boxes], targets: list[Boxes], num_classes: int) -> np.ndarray:
    """The rule as it is usually written down: for each class, detections by score, each against its image."""
    pred_arrays = [{key: value.numpy() for key, value in pred.items()} for pred in preds]
    truth_arrays = [{key: value.numpy() for key, value in target.items()} for target in targets]
    precisions = []
    for label in range(num_classes):
        truth = [target["boxes"][target["labels"] == label] for target in truth_arrays]
        taken = [np.zeros(len(boxes), dtype=bool) for boxes in truth]
        mine = [pred["labels"] == label for pred in pred_arrays]
        boxes = np.concatenate([pred["boxes"][rows] for pred, rows in zip(pred_arrays, mine, strict=True)])
        scores = np.concatenate([pred["scores"][rows] for pred, rows in zip(pred_arrays, mine, strict=True)])
        image = np.concatenate([np.full(rows.sum(), index) for index, rows in enumerate(mine)])
        order = np.argsort(-scores, kind="stable")
        hits = np.zeros(len(order))
        for place, row in enumerate(order):
            candidates = truth[image[row]]
            if not len(candidates):
                continue
            box = boxes[row]
            width = np.minimum(box[2], candidates[:, 2]) - np.maximum(box[0], candidates[:, 0])
            height = np.minimum(box[3], candidates[:, 3]) - np.maximum(box[1], candidates[:, 1])
            overlap = np.maximum(width, 0) * np.maximum(height, 0)
            area = (candidates[:, 2] - candidates[:, 0]) * (candidates[:, 3] - candidates[:, 1])
            iou = overlap / ((box[2] - box[0]) * (box[3] - box[1]) + area - overlap)
            best = iou.argmax()
            if iou[best] >= THRESHOLD and not taken[image[row]][best]:
                taken[image[row]][best] = True
                hits[place] = 1
        precisions.append(eleven_points(hits, sum(len(boxes) for boxes in truth)))
    return np.array(precisions)


def eleven_points(hits: np.ndarray, num_truth: int) -> float:
    """11-point average precision of detections in order of score."""
    if num_truth == 0:
        return float("nan")
    found = np.cumsum(hits)
    recall, precision = found / num_truth, found / np.arange(1, len(found) + 1)
    grid = [precision[recall >= tenth / 10 - 1e-9] for tenth in range(11)]
    return sum(beyond.max() if len(beyond) else 0.0 for beyond in grid) / 11


def equal(ours: np.ndarray, peer: np.ndarray) -> dict[str, float]:
    """Largest difference between classes."""
    np.testing.assert_allclose(ours, peer, rtol=0, atol=TOLERANCE)
    return {"largest difference": float(np.nanmax(np.abs(ours - peer)))}


def made_up(images: int, boxes: int, mix: tuple[float, ...]) -> tuple[list[Boxes], list[Boxes]]:
    """Detections that are jittered copies of the truth, some of another class, with one in ten anywhere."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    preds, targets = [], []
    for _ in range(images):
        corner, size = uniform(boxes, 2) * (FIELD_PX - 100), 20 + uniform(boxes, 2) * 80
        truth = torch.cat([corner, corner + size], dim=1)
        labels = torch.multinomial(torch.tensor(mix), boxes, replacement=True, generator=generator)
        found = truth + (uniform(boxes, 4) - 0.5) * 0.3 * size.repeat(1, 2)
        anywhere = (uniform(boxes) < 0.1)[:, None] * torch.tensor([37.0, 61.0, 37.0, 61.0])
        guessed = torch.where(uniform(boxes) < 0.05, labels.flip(0), labels)
        preds.append({"boxes": found + anywhere, "labels": guessed, "scores": uniform(boxes)})
        targets.append({"boxes": truth, "labels": labels})
    return preds, targets
