"""Nearest neighbours against scikit-learn, votes by hand, and what leaves a sample out."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from hemolens.errors import UserError
from hemolens.metrics import neighbours
from hemolens.metrics.neighbours import NearestNeighbours, knn_predict


def samples(seed: int, count: int = 90, classes: int = 2, width: int = 6) -> tuple[Tensor, Tensor]:
    """Overlapping classes, the first the most frequent; with 2 classes and an odd k no vote is tied."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.5, count) - 1, classes - 1)
    features = rng.normal(size=(count, width)) + 0.7 * rng.normal(size=(classes, width))[labels]
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def at_angles(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


@pytest.mark.parametrize("chunk", [neighbours._SIMILARITIES, 7 * 90])
@pytest.mark.parametrize("k", [1, 5, 11])
def test_predictions_equal_sklearns(k: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_SIMILARITIES", chunk)
    (train, labels), (test, _) = samples(k), samples(100, 40)
    expected = KNeighborsClassifier(k, metric="cosine").fit(train, labels).predict(test)
    found = knn_predict(train, labels, test, k)
    assert found.dtype == torch.int64 and np.array_equal(found.numpy(), expected)
    assert knn_predict(train, labels, test[:0], k).shape == (0,)


@pytest.mark.parametrize(("k", "classes"), [(9, 2), (1, 4)])  # one neighbour: no vote is tied
def test_metric_equals_sklearns_leave_one_out(k: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = samples(7, 60, classes=classes)
    kept = [np.delete(np.arange(60), index) for index in range(60)]
    models = [KNeighborsClassifier(k, metric="cosine").fit(features[rest], labels[rest]) for rest in kept]
    said = [int(model.predict(features[index : index + 1])[0]) for index, model in enumerate(models)]
    expected = balanced_accuracy_score(labels, said)
    assert 0.3 < expected < 0.97
    metric = NearestNeighbours(k)
    for part in (slice(0, 1), slice(1, 50), slice(50, 60)):
        metric.update(features[part] * 3, labels[part])
    copied = pickle.loads(pickle.dumps(metric))
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(neighbours, "_SIMILARITIES", 7 * 60)
    assert float(copied.compute()) == pytest.approx(expected, abs=1e-12)


def test_the_nearest_of_the_tied_classes_wins() -> None:
    train, test = at_angles(10, 12, 14, 16, 30), at_angles(0)
    for labels, winner in (
        ([1, 0, 0, 1, 2], 1),  # two votes each: the nearest neighbour decides, not the lower number
        ([2, 0, 1, 1, 0], 0),  # the nearest is of a class that is not tied
        ([3, 2, 1, 0, 4], 3),  # all tied
    ):
        assert knn_predict(train, torch.tensor(labels), test, 5).tolist() == [winner]
        order = torch.tensor([3, 0, 4, 2, 1])
        assert knn_predict(train[order], torch.tensor(labels)[order], test, 5).tolist() == [winner]
    assert knn_predict(train, torch.tensor([1, 0, 0, 0, 0]), test, 1).tolist() == [1]
    assert knn_predict(train, torch.tensor([1, 0, 0, 0, 0]), test, 50).tolist() == [0]  # all there are


def test_samples_without_a_label_are_ignored() -> None:
    features, labels = samples(3, 60, classes=3)
    expected, metric = NearestNeighbours(5), NearestNeighbours(5)
    expected.update(features, labels)
    noise = torch.full((60, 6), torch.nan)
    mixed, unknown = torch.stack([features, noise], 1).flatten(0, 1), torch.full((60,), -1)
    metric.update(noise[:3], unknown[:3])
    metric.update(mixed, torch.stack([labels, unknown], 1).flatten())
    assert metric.compute() == expected.compute()
    metric.reset()
    metric.update(noise, unknown)
    assert math.isnan(metric.compute())


@pytest.mark.parametrize(("labels", "score"), [([0, 0, 0], None), ([0, 0, 1], None), ([0, 0, 1, 1, 5], 2 / 3)])
def test_too_few_samples_have_no_score(labels: list[int], score: float | None) -> None:
    """A class of one sample counts, with recall 0, as soon as two others have a score."""
    metric = NearestNeighbours(1)
    metric.update(at_angles(1, 2, 60, 61, 120)[: len(labels)], torch.tensor(labels))
    found = float(metric.compute())
    assert math.isnan(found) if score is None else found == pytest.approx(score)


def test_refusals() -> None:
    features, labels = samples(0, 10)
    metric = NearestNeighbours()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert math.isnan(metric.compute())
    metric.update(features, labels)
    for bad, numbers, message in (
        (features, labels[1:], r"give \[N, F\]"),
        (features[:, 1:], labels, "of 5 numbers after 6"),
        (features, labels - 2, "-1 is no class"),
        (features * torch.inf, labels, "not finite"),
    ):
        with pytest.raises(UserError, match=message):
            metric.update(bad, numbers)
    for train, numbers, test, k, message in (
        (features, labels, features, 0, "k=0"),
        (features, labels[1:], features, 1, r"labels \[9\]"),
        (features, labels, features[:, 1:], 1, r"give \[M, 6\]"),
        (features[:0], labels[:0], features, 1, "no training sample"),
        (features, labels, features * torch.nan, 1, "not finite"),
    ):
        with pytest.raises(UserError, match=message):
            knn_predict(train, numbers, test, k)
    with pytest.raises(UserError, match="k=0"):
        NearestNeighbours(0)


def test_what_is_kept_is_a_copy_that_can_be_gathered_and_merged() -> None:
    features, labels = samples(3, 60, classes=3)
    whole, first, second = NearestNeighbours(5), NearestNeighbours(5), NearestNeighbours(5)
    whole.update(features, labels)
    for metric, part in ((first, slice(0, 25)), (second, slice(25, 60))):
        batch = features[part].clone().requires_grad_()
        metric.update(batch, labels[part])
        batch.data.zero_()
    second.merge_state(first)
    assert second.compute() == whole.compute()
    for name in ("features", "labels"):  # what torchmetrics gathers also from a process without images
        assert {(x.ndim, x.dtype, x.requires_grad) for x in getattr(whole, name)} == {(1, torch.float32, False)}


def run_rank(rank: int, rendezvous: str, expected: float) -> None:
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    features, labels = samples(3, 60, classes=3)
    for stop in (23, 60):  # the second time a process without images
        mine, metric = slice(0, stop) if rank == 0 else slice(stop, 60), NearestNeighbours(5)
        if mine.stop > mine.start:
            metric.update(features[mine], labels[mine])
        for _ in range(2):
            assert float(metric.compute()) == pytest.approx(expected, abs=1e-12)
            metric._computed = None  # gather again: the local state must have survived
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")  # of the process without images
def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # spawned processes import metrics.<this module>
    metric = NearestNeighbours(5)
    metric.update(*samples(3, 60, classes=3))
    spawn(run_rank, args=(f"file://{tmp_path / 'rendezvous'}", float(metric.compute())), nprocs=2)
