"""Arms of an experiment beside each other: means over seeds, paired differences bootstrapped over seeds and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
        low, high: its bootstrap interval.
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

    A resample draws seeds with replacement, and images with replacement: the same images for all seeds, since all were
    tested on the same (crossed, not nested: Owen 2007, Annals of Applied Statistics 1, 386), and the same of both for
    both arms, so that what an image or a seed does to both cancels. The interval is that of the percentiles. With few
    seeds it is too narrow: five are not all seeds.

    Args:
        arms: by name, by seed, float [N, K]: scores of each test image and type, the images in the same order;
            NaN where an image says nothing of a type.
        reference: name of the arm that the others are compared with.
        alpha: 1 - coverage.
        resamples: how many.
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
        differences = np.zeros(1) if name == reference else _resampled(*pair, resamples=resamples, seed=seed)
        low, high = np.nanquantile(differences, [alpha / 2, 1 - alpha / 2])
        found[name] = ArmScore(
            mean=float(scores.mean()),
            sd=float(scores.std(ddof=1)) if len(scores) > 1 else float("nan"),
            seeds=len(scores),
            difference=float((_overall(pair[0]) - _overall(pair[1])).mean()),
            low=float(low),
            high=float(high),
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


def _resampled(ours: FloatArray, theirs: FloatArray, *, resamples: int, seed: int) -> FloatArray:
    """Differences of the means over seeds, one a resample, of tables [S, N, K]."""
    rng = np.random.default_rng(seed)
    seeds, images = ours.shape[:2]
    found = np.empty(resamples)
    for number in range(resamples):
        rows = rng.integers(seeds, size=(seeds, 1))
        columns = rng.integers(images, size=(1, images))
        found[number] = (_overall(ours[rows, columns]) - _overall(theirs[rows, columns])).mean()
    return found
