"""Both detection metrics: refused input, merged, gathered, pickled and reset states."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import spawn

from hemolens.metrics.detection import MatchedClassification, VOCMeanAveragePrecision

from .box_samples import TEN, assert_same, boxes_of, found_as, random_images, truth_of

METRICS = [VOCMeanAveragePrecision, MatchedClassification]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 4])}, r"preds\[1\]: labels must be in 0\.\.3"),
        ({"labels": torch.tensor([-1, 0])}, r"preds\[1\]: labels"),
        ({"labels": torch.tensor([0.0, 1.0])}, r"preds\[1\]\['labels'\] is torch.float32: pass int64"),
        ({"labels": torch.tensor([0])}, r"preds\[1\]\['labels'\] has shape \(1,\) for 2 boxes"),
        ({"scores": torch.tensor([0.5, torch.nan])}, r"preds\[1\]: scores must not be NaN; entry 1"),
        ({"scores": torch.tensor([1, 0])}, r"preds\[1\]\['scores'\] is torch.int64"),
        ({"boxes": torch.zeros(2, 5)}, r"preds\[1\]\['boxes'\] has shape \(2, 5\)"),
        ({"boxes": torch.zeros(0)}, r"preds\[1\]\['boxes'\] has shape \(0,\): pass \[N, 4\]"),
        ({"boxes": boxes_of((0, 0, 1, 1), (5, 5, 4, 6))}, r"preds\[1\]: boxes must be xyxy .* entry 1"),
        ({"boxes": boxes_of((0, 0, 1, 1), (0, 0, math.inf, 6))}, r"preds\[1\]: boxes must be finite"),
        ({"boxes": np.zeros((2, 4))}, r"preds\[1\]\['boxes'\] is a ndarray: pass a torch.Tensor"),
    ],
)
def test_bad_input_names_the_image_and_changes_nothing(change, message):
    good = found_as(TEN[:3], [0.9, 0.8, 0.7])
    for metric in [kind(4) for kind in METRICS]:
        metric.update([good], [truth_of(TEN)])
        before = metric.compute()
        with pytest.raises(ValueError, match=message):
            metric.update([good, {**found_as(TEN[:2], [0.5, 0.4]), **change}], [truth_of(TEN)] * 2)
        metric._computed = None  # forget the cached result
        torch.testing.assert_close(metric.compute(), before, equal_nan=True)


def test_bad_targets_and_lengths():
    metric = VOCMeanAveragePrecision(2)
    with pytest.raises(ValueError, match=r"targets\[0\] has no 'labels'"):
        metric.update([found_as(TEN, [0.5] * 10)], [{"boxes": TEN}])
    with pytest.raises(ValueError, match="1 preds and 2 targets"):
        metric.update([found_as(TEN, [0.5] * 10)], [truth_of(TEN)] * 2)


@pytest.mark.parametrize("kind", METRICS)
def test_merged_states_equal_one_metric(kind):
    preds, targets = random_images(9)
    whole, left, right = kind(4), kind(4), kind(4)
    whole.update(preds, targets)
    left.update(preds[:5], targets[:5])
    right.update(preds[5:], targets[5:])
    right.merge_state(left)  # torchmetrics puts the incoming state first
    assert_same(right.compute(), whole.compute())
    never_updated = kind(4)
    whole.merge_state(never_updated)
    assert_same(whole.compute(), right.compute())


@pytest.mark.parametrize("kind", METRICS)
def test_forward_reset_and_pickle(kind):
    preds, targets = random_images(10)
    metric, expected = kind(4), kind(4)
    first = metric(preds[:5], targets[:5])
    metric(preds[5:], targets[5:])
    expected.update(preds[:5], targets[:5])
    assert_same(first, expected.compute())
    expected.update(preds[5:], targets[5:])
    assert_same(pickle.loads(pickle.dumps(metric)).compute(), expected.compute())
    metric.reset()
    metric.update(preds[:5], targets[:5])
    assert_same(metric.compute(), first)


def run_rank(rank: int, rendezvous: str, stops: list[int], expected: list[dict]) -> None:
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    try:
        preds, targets = random_images(9)
        for stop in stops:
            mine = range(stop) if rank == 0 else range(stop, len(preds))
            for kind, whole in zip(METRICS, expected, strict=True):
                metric = kind(4)
                for image in mine:
                    metric.update([preds[image]], [targets[image]])
                for _ in range(2):
                    assert_same(metric.compute(), whole)
                    metric._computed = None  # gather again: the local state must have survived
                if kind is VOCMeanAveragePrecision:
                    single = kind(4, sync_on_compute=False)
                    single.update(preds, targets)
                    assert_same(metric.precision_recall_curves(), single.precision_recall_curves())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, monkeypatch):
    """Unequal shares, images without boxes (index 3, 4, 8, 9), and at stop 12 a process without images."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # spawned processes import metrics.<this module>
    preds, targets = random_images(9)
    expected = []
    for kind in METRICS:
        metric = kind(4)
        metric.update(preds, targets)
        expected.append(metric.compute())
    spawn(run_rank, args=(f"file://{tmp_path / 'rendezvous'}", [3, 9, 12], expected), nprocs=2)
