"""What frozen features know: a linear classifier on them, and its scores with intervals over the test samples.

Scores are computed from confusion tables [K, K], rows = truth, so that thousands of resampled test sets cost nothing.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from hemolens.analysis.agreement import BOOTSTRAP_RESAMPLES, Interval
from hemolens.errors import UserError

Score = Callable[[NDArray[np.float64]], NDArray[np.float64]]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn, the inverse of the regularisation
FOLDS = 5
_MAX_STEPS = 1000  # of L-BFGS


@dataclass(frozen=True, eq=False)
class Probe:
    """What a linear probe said.

    Attributes:
        predictions: int64 [M], labels of the test samples.
        strength: C that was chosen.
    """

    predictions: NDArray[np.int64]
    strength: float


def linear_probe(
    train_features: ArrayLike, train_labels: ArrayLike, test_features: ArrayLike, *, groups: ArrayLike, seed: int = 0
) -> Probe:
    """Multinomial logistic regression on standardised features, every class of the same weight.

    Mean and standard deviation are those of the training samples. The strength C is the one of :data:`STRENGTHS` with
    the best macro-F1 over five folds of the training samples (their predictions together), in which no group is in two
    folds; of equals the smallest.

    Args:
        train_features: [N, F].
        train_labels: whole numbers [N], at least two different ones.
        test_features: [M, F].
        groups: [N], of each training sample, e.g. the image that it was cut from.
        seed: of the folds.

    Raises:
        UserError: shapes that do not fit, features that are not finite, one class, or a class of fewer than two groups.
    """
    train, test = np.asarray(train_features, np.float32), np.asarray(test_features, np.float32)
    labels, names = np.asarray(train_labels, np.int64), np.asarray(groups)
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise UserError(f"features {list(train.shape)} and {list(test.shape)}: give [N, F] and [M, F]")
    if labels.shape != (len(train),) or names.shape != (len(train),):
        raise UserError(f"{len(train)} training samples, labels {list(labels.shape)}, groups {list(names.shape)}")
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise UserError("features that are not finite: look at the network, or at the images")
    fewest = min((len(np.unique(names[labels == label])) for label in np.unique(labels)), default=0)
    if len(np.unique(labels)) < 2 or fewest < 2:
        raise UserError("a probe needs at least two classes, each of at least two groups (images)")
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    folds = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=seed)
    places, truth = np.unique(labels, return_inverse=True)
    held_out = np.zeros((len(STRENGTHS), len(train)), np.int64)
    for fitted, left in folds.split(train, truth, names):
        for row, strength in enumerate(STRENGTHS):
            held_out[row, left] = _fitted(train[fitted], truth[fitted], strength).predict(train[left])
    scores = [float(macro_f1(confusion(truth, row, len(places)).sum(0))) for row in held_out]
    best = STRENGTHS[int(np.argmax(scores))]
    return Probe(places[_fitted(train, truth, best).predict(test)], best)


def _fitted(features: NDArray[np.float32], labels: NDArray[np.int64], strength: float) -> LogisticRegression:
    with warnings.catch_warnings():  # the weakest regularisations may not converge, and are rarely the best
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, class_weight="balanced", max_iter=_MAX_STEPS).fit(features, labels)


def confusion(
    truth: ArrayLike, predictions: ArrayLike, num_classes: int, groups: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Confusion tables float64 [G, K, K] of each group, in the order of ``np.unique``; rows = truth.

    Args:
        truth: labels 0..K-1, [N].
        predictions: the same of the prediction.
        num_classes: K.
        groups: [N]; None: each sample is its own.

    Raises:
        UserError: no sample, other lengths, or a label out of range.
    """
    true, found = np.asarray(truth, np.int64), np.asarray(predictions, np.int64)
    names = np.arange(len(true)) if groups is None else np.asarray(groups)
    if true.ndim != 1 or not len(true) or found.shape != true.shape or names.shape != true.shape:
        raise UserError(f"truth {list(true.shape)}, predictions {list(found.shape)}, groups {list(names.shape)}")
    if min(true.min(), found.min()) < 0 or max(true.max(), found.max()) >= num_classes:
        raise UserError(f"labels must be 0 to {num_classes - 1}")
    unique, place = np.unique(names, return_inverse=True)
    tables = np.zeros((len(unique), num_classes, num_classes))
    np.add.at(tables, (place, true, found), 1)
    return tables


def balanced_accuracy(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean recall of the classes that occur in the truth, [...] of confusion tables [..., K, K]."""
    total = tables.sum(-1)
    recall = np.diagonal(tables, axis1=-2, axis2=-1) / np.maximum(total, 1)
    return np.asarray(recall.sum(-1) / np.maximum((total > 0).sum(-1), 1))


def macro_f1(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean F1 of the classes that occur in truth or prediction, [...] of confusion tables [..., K, K]."""
    total = tables.sum(-1) + tables.sum(-2)
    score = 2 * np.diagonal(tables, axis1=-2, axis2=-1) / np.maximum(total, 1)
    return np.asarray(score.sum(-1) / np.maximum((total > 0).sum(-1), 1))


@dataclass(frozen=True, eq=False)
class Bootstrapped:
    """A score over several runs on one test set.

    Attributes:
        runs: float64 [R], of each run.
        draws: float64 [B], mean over the runs on each resampled test set; with the same truth, groups and seed the
            same sets are drawn, so that draws of two results may be subtracted.
    """

    runs: NDArray[np.float64]
    draws: NDArray[np.float64]

    @property
    def value(self) -> float:
        """Mean over the runs."""
        return float(self.runs.mean())

    def interval(self, alpha: float = 0.05) -> Interval:
        """Percentiles of the draws: over test samples, not over trainings."""
        return percentiles(self.draws, alpha)

    def minus(self, other: "Bootstrapped", alpha: float = 0.05) -> tuple[float, Interval]:
        """This value minus another on the same test set, with the paired interval."""
        return self.value - other.value, percentiles(self.draws - other.draws, alpha)


def bootstrapped(
    score: Score,
    truth: ArrayLike,
    predictions: Sequence[ArrayLike],
    num_classes: int,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Bootstrapped:
    """A score and its bootstrap over groups of test samples (2000 resamples, with replacement).

    Args:
        score: :func:`macro_f1` or :func:`balanced_accuracy`.
        truth: labels 0..K-1, [N].
        predictions: of each run, [N].
        num_classes: K.
        groups: [N], e.g. the image of each sample, whose samples are drawn together; None: single samples.
        seed: of the resampling.

    Raises:
        UserError: as :func:`confusion`; no run.
    """
    if not len(predictions):
        raise UserError("no predictions to score: give those of at least one run")
    tables = [confusion(truth, run, num_classes, groups) for run in predictions]
    count = len(tables[0])
    weights = np.random.default_rng(seed).multinomial(count, [1 / count] * count, BOOTSTRAP_RESAMPLES).astype(float)
    draws = [score((weights @ run.reshape(count, -1)).reshape(-1, num_classes, num_classes)) for run in tables]
    runs = np.array([float(score(run.sum(0))) for run in tables])
    return Bootstrapped(runs, np.mean(draws, axis=0))


def percentiles(values: NDArray[np.float64], alpha: float) -> Interval:
    """The interval that leaves out alpha / 2 of the values on either side."""
    low, high = np.percentile(values, [50 * alpha, 100 - 50 * alpha])
    return float(low), float(high)
