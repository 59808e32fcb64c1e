"""The loss of a batch against a slow transcription, and what padding and empty images must not change."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hemolens.losses.ranks import Ranks
from hemolens.nets.fcos.targets import assign_targets, points_for
from hemolens.tasks.detection import DetectionLoss, DetectionTask, detection_losses

STRIDES = (8, 16)
RANGES = ((-1.0, 24.0), (24.0, 1e8))


def make_output(batch: int, height: int, width: int, classes: int, seed: int) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(math.ceil(height / s), math.ceil(width / s)) for s in STRIDES]
    cells = [rows * columns for rows, columns in sizes]
    return {
        "cls_logits": [torch.randn(batch, n, classes, generator=generator) for n in cells],
        "ltrb": [torch.rand(batch, n, 4, generator=generator) * 30 for n in cells],
        "centerness_logits": [torch.randn(batch, n, generator=generator) for n in cells],
        "points": points_for(sizes, STRIDES, "cpu"),
    }


def literal_loss(output: dict[str, list[Tensor]], targets: list[Any], sizes: list[tuple[int, int]]) -> dict[str, float]:
    """Loops over images and cells, formulas as printed in the papers."""
    focal = box = center = 0.0
    positives, weight = 0, 0.0
    points = torch.cat(output["points"])
    stride_of = [s for s, level in zip(STRIDES, output["points"], strict=True) for _ in level]
    for index, target in enumerate(targets):
        logits = torch.cat([level[index] for level in output["cls_logits"]])
        ltrb = torch.cat([level[index] for level in output["ltrb"]])
        centers = torch.cat([level[index] for level in output["centerness_logits"]])
        labels, goal = assign_targets(output["points"], STRIDES, RANGES, target["boxes"], target["labels"])
        for i, (x, y) in enumerate(points.tolist()):
            if x - stride_of[i] / 2 >= sizes[index][1] or y - stride_of[i] / 2 >= sizes[index][0]:
                continue
            for c in range(logits.shape[1]):
                p = 1 / (1 + math.exp(-float(logits[i, c])))
                if int(labels[i]) == c:
                    focal -= 0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    focal -= 0.75 * p**2 * math.log(1 - p)
            if int(labels[i]) < 0:
                continue
            left, top, right, bottom = goal[i].tolist()
            ctr = math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
            pl, pt, pr, pb = ltrb[i].tolist()
            inter = (min(left, pl) + min(right, pr)) * (min(top, pt) + min(bottom, pb))
            union = (left + right) * (top + bottom) + (pl + pr) * (pt + pb) - inter
            hull = (max(left, pl) + max(right, pr)) * (max(top, pt) + max(bottom, pb))
            box += ctr * (1 - (inter / union - (hull - union) / hull))
            p = 1 / (1 + math.exp(-float(centers[i])))
            center -= ctr * math.log(p) + (1 - ctr) * math.log(1 - p)
            positives, weight = positives + 1, weight + ctr
    count = max(positives, 1)
    return {"loss_cls": focal / count, "loss_box": box / max(weight, 1e-6), "loss_centerness": center / count}


def targets_of(*boxes: list[list[float]]) -> list[Any]:
    return [{"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.arange(len(b)) % 3} for b in boxes]


def test_equals_the_literal_formula_on_a_padded_batch_with_an_empty_image() -> None:
    output = make_output(3, 64, 96, 3, seed=1)
    targets = targets_of([[4, 6, 40, 44], [30, 10, 50, 28]], [], [[60, 20, 95, 60], [10, 10, 26, 30]])
    sizes = [(50, 60), (64, 96), (61, 96)]
    got = detection_losses(output, targets, torch.tensor(sizes), strides=STRIDES, regress_ranges=RANGES)
    for name, value in literal_loss(output, targets, sizes).items():
        assert float(got[name]) == pytest.approx(value, rel=1e-5), name
    assert float(got["loss"]) == pytest.approx(sum(float(got[n]) for n in got if n != "loss"), rel=1e-6)


def test_the_values_in_the_padding_do_not_matter() -> None:
    targets = targets_of([[4, 6, 40, 44]])
    size = torch.tensor([(50, 60)])
    output = make_output(1, 64, 96, 3, seed=2)
    first = detection_losses(output, targets, size, strides=STRIDES, regress_ranges=RANGES)
    for level, points in zip(output["cls_logits"], output["points"], strict=True):
        level[0, points[:, 0] > 72] += 5.0
    second = detection_losses(output, targets, size, strides=STRIDES, regress_ranges=RANGES)
    assert torch.equal(first["loss"], second["loss"])


def test_a_batch_without_boxes_has_a_finite_loss_and_gradients_everywhere() -> None:
    output = make_output(2, 64, 64, 3, seed=3)
    for key in ("cls_logits", "ltrb", "centerness_logits"):
        output[key] = [level.requires_grad_() for level in output[key]]
    losses = detection_losses(
        output, targets_of([], []), torch.tensor([(64, 64)] * 2), strides=STRIDES, regress_ranges=RANGES
    )
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"]) and float(losses["loss_box"]) == 0
    for key in ("cls_logits", "ltrb", "centerness_logits"):
        assert all(level.grad is not None and torch.isfinite(level.grad).all() for level in output[key])


def test_two_processes_without_a_box_have_the_loss_of_their_batch() -> None:
    """At least one positive is counted in the whole batch, not in each process's part."""
    output, size = make_output(2, 64, 64, 3, seed=5), torch.tensor([(64, 64)])
    places: dict[str, Any] = {"strides": STRIDES, "regress_ranges": RANGES}
    whole = detection_losses(output, targets_of([], []), size.expand(2, 2), **places)
    halves = []
    for image in range(2):
        part = {name: [level[image : image + 1] for level in levels] for name, levels in output.items()}
        part["points"] = output["points"]
        halves.append(detection_losses(part, targets_of([]), size, **places, ranks=Ranks(2, lambda counts: counts)))
    for name, value in whole.items():
        assert sum(float(half[name]) for half in halves) / 2 == pytest.approx(float(value), rel=1e-5), name


def test_the_loss_of_a_set_does_not_depend_on_its_batches() -> None:
    output, targets = make_output(3, 64, 64, 3, seed=6), targets_of([[4, 6, 40, 44]], [], [[10, 10, 26, 30]])
    size = torch.tensor([(64, 64)])
    whole = detection_losses(output, targets, size.expand(3, 2), strides=STRIDES, regress_ranges=RANGES)
    task, metric = DetectionTask(net=Canned(output), class_names=["a", "b", "c"]), DetectionLoss()
    for images in (slice(0, 2), slice(2, 3)):
        part = {name: [level[images] for level in levels] for name, levels in output.items()} | {
            "points": output["points"]
        }
        count = len(targets[images])
        batch: Any = {"targets": targets[images], "image_sizes": size.expand(count, 2)}
        metric.update(*task._sums(part, batch))
    assert float(metric.compute()) == pytest.approx(float(whole["loss"]), rel=1e-5)


class Canned(torch.nn.Module):
    """A 'network' that answers with fixed output."""

    strides, regress_ranges = STRIDES, RANGES

    def __init__(self, output: dict[str, list[Tensor]]) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        return self.output


def test_nothing_is_detected_in_the_padding() -> None:
    output = make_output(1, 64, 96, 3, seed=4)
    output["cls_logits"] = [level + 3 for level in output["cls_logits"]]
    task = DetectionTask(net=Canned(output), class_names=["a", "b", "c"], score_threshold=0.3)
    found = task.detect(torch.zeros(1, 1, 64, 96), torch.tensor([(40, 50)]))[0]
    assert len(found["boxes"]) > 3
    assert (found["boxes"][:, 2] <= 50).all() and (found["boxes"][:, 3] <= 40).all()
