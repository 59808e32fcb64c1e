"""Arms of an experiment beside each other: means over seeds, paired differences bootstrapped over seeds and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from hemolens.analysis.text_table import markdown_table
from hemolens.errors import UserError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ArmScore:
    """An arm's score, and how far it is from the reference.

    Attributes:
        mean: over seeds, of the score of all images.
        sd: over seeds (n - 1); NaN of one seed.
        seeds: how many.
        difference: mean over seeds minus that of the reference; 0 of the reference itself.
        low, high: its interval.
    """

    mean: float
    sd: float
    seeds: int
    difference: float
    low: float
    high: float


def compare_arms(
    arms: Mapping[str, Mapping[int, ArrayLike]],
    reference: str,
    *,
    alpha: float = 0.05,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, ArmScore]:
    """Every arm against one, on the same test images and with the same seeds.

    The score of a set of images is the mean over images by type, leaving NaN out, then over types.

    Seeds and images are drawn with replacement, each on its own: the same images for all seeds, since all were tested
    on the same (crossed, not nested), and the same draws for both arms, so that what an image or a seed does to both
    cancels. The variance of the difference is the sum of both (Owen 2007, Annals of Applied Statistics 1, 386), each
    brought from n to n - 1; the interval is that of Student's t with the degrees of freedom of such a sum
    (Satterthwaite 1946, Biometrics Bulletin 2, 110), since five seeds are not all seeds. Of one seed it says what other
    images would do, not other seeds.

    Args:
        arms: by name, by seed, float [N, K]: scores of each test image and type, the images in the same order;
            NaN where an image says nothing of a type.
        reference: name of the arm that the others are compared with.
        alpha: 1 - coverage.
        resamples: how many of the seeds, and of the images.
        seed: of the drawing.

    Returns:
        One :class:`ArmScore` an arm, the reference first. Differences are over the seeds that both arms have.

    Raises:
        UserError: no such reference, an arm without a seed in common with it, or other images.
    """
    if reference not in arms:
        raise UserError(f"no arm {reference!r}: choose from {', '.join(arms)}")
    tables = {name: {key: np.asarray(table, np.float64) for key, table in runs.items()} for name, runs in arms.items()}
    shapes = {table.shape for runs in tables.values() for table in runs.values()}
    if len(shapes) != 1:
        raise UserError(
            f"the arms were tested on other images or types: {sorted(shapes)}; compare runs of one test set"
        )
    found = {}
    for name, runs in sorted(tables.items(), key=lambda item: item[0] != reference):
        scores = _overall(np.stack(list(runs.values())))
        common = sorted(set(runs) & set(tables[reference]))
        if not common:
            raise UserError(f"{name} and {reference} have no seed in common: run both with the same seeds")
        pair = [np.stack([one[key] for key in common]) for one in (runs, tables[reference])]
        difference = float((_overall(pair[0]) - _overall(pair[1])).mean())
        wide = 0.0 if name == reference else _half_width(*pair, alpha=alpha, resamples=resamples, seed=seed)
        found[name] = ArmScore(
            mean=float(scores.mean()),
            sd=float(scores.std(ddof=1)) if len(scores) > 1 else float("nan"),
            seeds=len(scores),
            difference=difference,
            low=difference - wide,
            high=difference + wide,
        )
    return found


def by_type(arms: Mapping[str, Mapping[int, ArrayLike]], number: int) -> dict[str, dict[int, FloatArray]]:
    """The same arms with one type alone, to compare that."""
    return {
        name: {key: np.asarray(table, np.float64)[:, number : number + 1] for key, table in runs.items()}
        for name, runs in arms.items()
    }


def arms_markdown(names: Sequence[str], tables: Sequence[Mapping[str, ArmScore]], reference: str) -> str:
    """A table: a row an arm, two columns a score (mean ± sd; difference with its interval).

    Args:
        names: of the scores.
        tables: of :func:`compare_arms`, one a score.
        reference: the arm that differences are from.
    """
    head = ["arm", "seeds", *(title for name in names for title in (name, f"{name}, less {reference}"))]
    rows = [head]
    for arm, first in tables[0].items():
        cells = [arm, str(first.seeds)]
        for table in tables:
            score = table[arm]
            spread = "" if np.isnan(score.sd) else f" ± {score.sd:.4f}"
            cells.append(f"{score.mean:.4f}{spread}")
            cells.append("" if arm == reference else f"{score.difference:+.4f} [{score.low:+.4f}, {score.high:+.4f}]")
        rows.append(cells)
    return markdown_table(rows)


def _overall(tables: FloatArray) -> FloatArray:
    """Scores [...] of tables [..., N, K]; a type that no image holds is left out."""
    known = ~np.isnan(tables)
    counts = known.sum(-2)
    sums = np.where(known, tables, 0.0).sum(-2)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    held = ~np.isnan(means)
    total: FloatArray = np.where(held, means, 0.0).sum(-1) / np.where(held.any(-1), held.sum(-1), np.nan)
    return total


def _half_width(ours: FloatArray, theirs: FloatArray, *, alpha: float, resamples: int, seed: int) -> float:
    """Half the interval of the difference of tables [S, N, K]."""
    rng = np.random.default_rng(seed)
    seeds, images = ours.shape[:2]
    of_seeds = (_overall(ours) - _overall(theirs))[rng.integers(seeds, size=(resamples, seeds))].mean(1)
    of_images = np.empty(resamples)
    for number in range(resamples):
        drawn = rng.integers(images, size=images)
        of_images[number] = (_overall(ours[:, drawn]) - _overall(theirs[:, drawn])).mean()
    sums = [
        (np.nanvar(drawn) * count / (count - 1), count - 1)
        for drawn, count in ((of_seeds, seeds), (of_images, images))
        if count > 1
    ]
    total = sum(variance for variance, _ in sums)
    if not total > 0:
        return 0.0
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in sums)
    return float(t.ppf(1 - alpha / 2, freedom) * np.sqrt(total))
