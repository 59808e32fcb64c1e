"""Linear probes, scores from confusion tables, and their bootstrap, against scikit-learn and literal loops."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score
from sklearn.preprocessing import StandardScaler

from hemolens.analysis import probes
from hemolens.analysis.probes import balanced_accuracy, bootstrapped, confusion, linear_probe, macro_f1
from hemolens.errors import UserError


def samples(seed: int, count: int = 160, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [N, 8] of three unequal classes, labels 2, 5, 7 and 20 groups, which shift the features."""
    rng, centers = np.random.default_rng(seed), 2 * np.random.default_rng(99).normal(size=(3, 8))
    kind, group = rng.choice(3, count, p=[0.6, 0.3, 0.1]), rng.integers(20, size=count)
    features = centers[kind] + noise * rng.normal(size=(count, 8)) + rng.normal(size=(20, 8))[group] / 2
    return 100 + 10 * features, np.array([2, 5, 7])[kind], group


def test_a_probe_is_the_weighted_regression_of_its_strength() -> None:
    (train, labels, groups), (test, truth, _) = samples(0), samples(1)
    probe = linear_probe(train, labels, test, groups=groups, seed=3)
    assert probe.strength in probes.STRENGTHS and probe.predictions.dtype == np.int64
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(C=probe.strength, class_weight="balanced", max_iter=1000)
    expected = model.fit(scaler.transform(train), labels).predict(scaler.transform(test))
    assert (probe.predictions == expected).mean() > 0.99  # float32 there
    assert f1_score(truth, probe.predictions, average="macro") > 0.85
    moved = linear_probe(3 * train - 7, labels, 3 * test - 7, groups=groups, seed=3)
    assert (moved.predictions == probe.predictions).mean() > 0.99


def test_folds_keep_groups_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that only name the group: within groups they look perfect, across groups they are worth nothing."""
    train, labels, groups = samples(2)
    parts: list[tuple[np.ndarray, np.ndarray]] = []

    class Spied(probes.StratifiedGroupKFold):  # type: ignore[misc]
        def split(self, *data: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
            parts.extend(super().split(*data))
            return parts

    monkeypatch.setattr(probes, "StratifiedGroupKFold", Spied)
    linear_probe(train, labels, train, groups=groups)
    assert len(parts) == 5
    assert sorted(np.concatenate([left for _, left in parts])) == list(range(len(train)))
    assert all(not set(groups[fitted]) & set(groups[left]) for fitted, left in parts)


def test_few_groups_and_refusals() -> None:
    train, labels, groups = samples(4, 40)
    two = np.arange(40) // 20  # two groups: two folds
    assert linear_probe(train, (np.arange(40) // 5) % 2, train, groups=two).predictions.shape == (40,)
    for bad, message in (
        ((train, labels, train[:, 1:], groups), r"give \[N, F\]"),
        ((train, labels[1:], train, groups), r"labels \[39\]"),
        ((train, labels, train, groups[1:]), r"groups \[39\]"),
        ((train * np.nan, labels, train, groups), "not finite"),
        ((train, 0 * labels, train, groups), "at least two classes"),
        ((train, labels, train, labels), "at least two groups"),
        ((train[:0], labels[:0], train, groups[:0]), "at least two classes"),
    ):
        with pytest.raises(UserError, match=message):
            linear_probe(*bad[:3], groups=bad[3])


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_sklearns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = rng.integers(seed, 4, 30), rng.integers(4, size=30)  # seed 3: one class in the truth
    table = confusion(truth, found, 5).sum(0)
    assert np.array_equal(table, confusion_matrix(truth, found, labels=range(5)))
    recalls = [np.mean(found[truth == label] == label) for label in np.unique(truth)]
    assert balanced_accuracy(table) == pytest.approx(np.mean(recalls))
    assert macro_f1(table) == pytest.approx(f1_score(truth, found, average="macro"))
    if seed == 0:
        assert balanced_accuracy(table) == pytest.approx(balanced_accuracy_score(truth, found))
    groups = rng.choice(["a", "b", "c"], 30)
    tables = confusion(truth, found, 5, groups)
    for row, name in zip(tables, "abc", strict=True):
        assert np.array_equal(row, confusion_matrix(truth[groups == name], found[groups == name], labels=range(5)))


def test_bootstrap_draws_whole_groups() -> None:
    """Against a literal loop; groups of 40 samples of one fate give wider intervals than single samples."""
    rng = np.random.default_rng(0)
    truth, groups = rng.integers(3, size=800), np.repeat(np.arange(20), 40)
    found = np.where(rng.random(20)[groups] < 0.7, truth, (truth + 1) % 3)
    row = bootstrapped(macro_f1, truth, [found], 3, groups=groups, seed=1)
    drawn = []
    for _ in range(500):
        index = np.concatenate([np.flatnonzero(groups == group) for group in rng.integers(20, size=20)])
        hits = np.array([[(truth[index] == c).sum(), (found[index] == c).sum()] for c in range(3)])
        both = [((truth[index] == c) & (found[index] == c)).sum() for c in range(3)]
        drawn.append(np.mean(2 * np.array(both) / hits.sum(1)))
    assert row.value == pytest.approx(f1_score(truth, found, average="macro"))
    assert row.draws.shape == (2000,)
    assert row.draws.std() == pytest.approx(np.std(drawn), rel=0.15)
    np.testing.assert_allclose(row.interval(), np.percentile(drawn, [2.5, 97.5]), atol=0.04)
    single = bootstrapped(macro_f1, truth, [found], 3, seed=1)
    assert np.diff(single.interval()) < np.diff(row.interval()) / 3


def test_differences_are_paired_and_runs_are_averaged() -> None:
    rng = np.random.default_rng(5)
    truth = rng.integers(2, size=200)
    worse = np.where(rng.random(200) < 0.5, truth, 1 - truth)
    better = np.where(np.arange(200) % 20 == 0, truth, worse)  # right where the other is, and on a few more
    first, second = (bootstrapped(balanced_accuracy, truth, [run], 2) for run in (better, worse))
    gain, (low, high) = first.minus(second)
    assert gain == pytest.approx(first.value - second.value)
    assert 0 < low < gain < high
    assert low > first.interval()[0] - second.interval()[1]
    assert first.minus(first) == (0.0, (0.0, 0.0))
    both = bootstrapped(balanced_accuracy, truth, [better, worse], 2)
    assert both.runs.tolist() == [first.value, second.value]
    np.testing.assert_allclose(both.draws, (first.draws + second.draws) / 2)
    assert both.interval(0.5)[0] > both.interval(0.05)[0]


def test_refused_scores() -> None:
    with pytest.raises(UserError, match="no predictions"):
        bootstrapped(macro_f1, [0, 1], [], 2)
    for truth, found, groups, message in (
        ([0, 1], [0], None, r"predictions \[1\]"),
        ([], [], None, r"truth \[0\]"),
        ([0, 1], [0, 2], None, "0 to 1"),
        ([0, -1], [0, 1], None, "0 to 1"),
        ([0, 1], [0, 1], ["a"], r"groups \[1\]"),
    ):
        with pytest.raises(UserError, match=message):
            confusion(truth, found, 2, groups)
