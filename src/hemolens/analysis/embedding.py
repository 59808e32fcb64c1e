"""How a detector orders red cells: t-SNE of its features (paper A, Fig. 3), and irregularity along their main axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from hemolens.errors import UserError

PCA_COMPONENTS = 50  # before t-SNE, as van der Maaten and Hinton 2008 (JMLR 9) do
PERPLEXITY = 30.0
BOOTSTRAP_RESAMPLES = 1000


@dataclass(frozen=True)
class Embedding:
    """Cells in the plane, and along the main axis of their features.

    Attributes:
        points: float64 [N, 2], t-SNE.
        axis: float64 [N], first principal component, in units of its standard deviation; its sign is such that cells
            called ``towards`` lie on the positive side.
        explained: share of the features' variance along the axis.
    """

    points: NDArray[np.float64]
    axis: NDArray[np.float64]
    explained: float


def embed(features: ArrayLike, towards: ArrayLike, *, seed: int = 0) -> Embedding:
    """Lay cells out by their features.

    Features are standardised, reduced to 50 principal components and laid out by t-SNE (van der Maaten and Hinton
    2008; scikit-learn, perplexity 30 or a third of the cells, start by PCA).

    Args:
        features: [N, C].
        towards: bool [N], e.g. which cells were called ARBC.
        seed: of t-SNE.

    Raises:
        UserError: fewer than ten cells, or features that are not finite.
    """
    values, called = np.asarray(features, np.float64), np.asarray(towards, bool)
    if values.ndim != 2 or len(values) < 10:
        raise UserError(f"features have shape {list(values.shape)}: an embedding wants [N, C] of at least 10 cells")
    if called.shape != (len(values),):
        raise UserError(f"towards has shape {list(called.shape)}: one value a cell is needed, {len(values)} in all")
    if not np.isfinite(values).all():
        raise UserError("features hold values that are not finite: was the detector trained in half precision?")
    spread = values.std(0)
    values = (values - values.mean(0)) / np.where(spread > 0, spread, 1)
    pca = PCA(min(PCA_COMPONENTS, *values.shape), random_state=seed)
    reduced = pca.fit_transform(values)
    axis = reduced[:, 0] / max(float(reduced[:, 0].std()), np.finfo(float).tiny)
    if called.any() and not called.all() and axis[called].mean() < axis[~called].mean():
        axis = -axis
    layout = TSNE(perplexity=min(PERPLEXITY, (len(values) - 1) / 3), init="pca", random_state=seed)
    points = np.asarray(layout.fit_transform(reduced), np.float64)
    return Embedding(points, axis, float(pca.explained_variance_ratio_[0]))


def rank_correlation(x: ArrayLike, y: ArrayLike, *, alpha: float = 0.05, seed: int = 0) -> dict[str, float]:
    """Spearman's rank correlation with a bootstrap interval.

    Returns:
        ``rho``, ``rho_low``, ``rho_high`` and ``n``.

    Raises:
        UserError: different lengths, fewer than four pairs, or a constant.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if xs.shape != ys.shape or xs.ndim != 1 or len(xs) < 4:
        raise UserError(f"shapes {list(xs.shape)} and {list(ys.shape)}: give two equal lists of at least 4 values")
    if np.ptp(xs) == 0 or np.ptp(ys) == 0:
        raise UserError("one of the two is constant: ranks say nothing")
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    while len(drawn) < BOOTSTRAP_RESAMPLES:
        index = rng.integers(len(xs), size=len(xs))
        if np.ptp(xs[index]) and np.ptp(ys[index]):
            drawn.append(float(spearmanr(xs[index], ys[index]).statistic))
    low, high = np.percentile(drawn, [50 * alpha, 100 - 50 * alpha]).tolist()
    return {"rho": float(spearmanr(xs, ys).statistic), "rho_low": low, "rho_high": high, "n": len(xs)}


def annotator_agreement(annotations: Sequence[str]) -> dict[str, float]:
    """How far annotators agree, the ceiling of any detector that learns from them.

    Args:
        annotations: of each cell what every annotator called it, e.g. ``RBC/ARBC/ARBC``.

    Returns:
        ``pairwise``: mean share of cells on which two annotators agree; ``kappa``: mean of Cohen's kappa over pairs;
        ``against_majority``: mean share of cells on which an annotator agrees with the majority, its own voice
        included; ``unanimous``: share of cells on which all agree; ``n``.

    Raises:
        UserError: no cells, one annotator, or cells with different numbers of annotators.
    """
    votes = [text.split("/") for text in annotations]
    if not votes or len(votes[0]) < 2 or len({len(vote) for vote in votes}) != 1:
        raise UserError("annotations: give at least one cell, and the same two or more annotators for each")
    table = np.array(votes)
    names = np.unique(table)
    shares = np.stack([(table == name).mean(0) for name in names])  # [class, annotator]
    agreeing, kappas = [], []
    for i, j in combinations(range(table.shape[1]), 2):
        observed, chance = float((table[:, i] == table[:, j]).mean()), float((shares[:, i] * shares[:, j]).sum())
        agreeing.append(observed)
        kappas.append((observed - chance) / (1 - chance) if chance < 1 else 1.0)
    majority = names[np.stack([(table == name).sum(1) for name in names]).argmax(0)]
    return {
        "pairwise": float(np.mean(agreeing)),
        "kappa": float(np.mean(kappas)),
        "against_majority": float((table == majority[:, None]).mean()),
        "unanimous": float((table == table[:, :1]).all(1).mean()),
        "n": len(votes),
    }
