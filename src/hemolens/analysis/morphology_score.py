"""The published morphology score of stored red cells, as far as four types allow it.

3 times the percentage of discocytes, 2 times that of echinocytes I, 1 times that of echinocytes II and 0 times that of
spherocytes: 300 where all are discocytes, 0 where all are spherocytes (Journal of the Japan Society of Blood
Transfusion 32(6):523, 1986, https://www.jstage.jst.go.jp/article/jjtc1958/32/6/32_6_523/). Two things differ here:

- The networks do not tell the stages of echinocytes apart. They count 1.5; with 1 and with 2, as if all were of one
  stage, the score has a low and a high bound.
- The score does not know stomatocytes. Percentages are of the other three types.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hemolens.analysis.storage_series import ratio_variance

SOURCE = "https://www.jstage.jst.go.jp/article/jjtc1958/32/6/32_6_523/"
CITATION = "J. Japan Soc. Blood Transfusion 32(6):523, 1986"
HIGHEST = 300.0
WEIGHTS = {"discocyte": 3.0, "echinocyte": 1.5, "spherocyte": 0.0}
STAGES = (1.0, 2.0)  # weights of echinocytes II and I
DEFINITION = (
    "3 × % discocytes + 2 × % echinocytes I + 1 × % echinocytes II + 0 × % spherocytes, 0 to 300. Stages of "
    "echinocytes are not told apart here: they count 1.5, and the range has all of them as II (1) or as I (2). "
    "Stomatocytes, which the score does not know, are left out of the percentages."
)


@dataclass(frozen=True)
class MorphologyScore:
    """A score, 0 to 300; NaN where no cell counts.

    Attributes:
        value: with 1.5 for an echinocyte.
        low, high: with 1 and with 2: what the unknown stages leave open.
        cells: that count, stomatocytes left out.
        interval: of ``value`` with 95 % confidence, by how images differ; None for less than two images with cells.
    """

    value: float
    low: float
    high: float
    cells: int
    interval: tuple[float, float] | None = None


def morphology_score(
    counts: Mapping[str, int], *, images: Sequence[Mapping[str, int]] = (), alpha: float = 0.05
) -> MorphologyScore:
    """Score of a bag.

    The interval takes the score for what it is, a ratio of sums over images (Cochran, Sampling Techniques, 1977, 6.3),
    with Student's t. It is no shorter than if every cell was drawn alone, and ends at 0 and 300.

    Args:
        counts: cells by type; types that the score does not know are left out, those that lack count 0.
        images: the same counts by image, for the interval.
        alpha: 1 - confidence.
    """
    cells = _cells(counts)
    if not cells:
        return MorphologyScore(math.nan, math.nan, math.nan, 0)
    value, low, high = (100 * _points(counts, weight) / cells for weight in (WEIGHTS["echinocyte"], *STAGES))
    return MorphologyScore(value, low, high, cells, _interval(images, alpha))


def _cells(counts: Mapping[str, int]) -> int:
    return sum(int(counts.get(name, 0)) for name in WEIGHTS)


def _points(counts: Mapping[str, int], echinocyte: float) -> float:
    weights = WEIGHTS | {"echinocyte": echinocyte}
    return sum(weight * counts.get(name, 0) for name, weight in weights.items())


def _interval(images: Sequence[Mapping[str, int]], alpha: float) -> tuple[float, float] | None:
    used = [counts for counts in images if _cells(counts)]
    number = len(used)
    if number < 2:
        return None
    every = np.array([_cells(counts) for counts in used], float)
    points = np.array([_points(counts, WEIGHTS["echinocyte"]) for counts in used])
    cells, mean = every.sum(), points.sum() / every.sum()
    between = ratio_variance(points, every)
    squares = sum(weight**2 * counts.get(name, 0) for counts in used for name, weight in WEIGHTS.items())
    of_images = float(stats.t.ppf(1 - alpha / 2, number - 1)) * math.sqrt(between)
    of_cells = float(stats.norm.ppf(1 - alpha / 2)) * math.sqrt(max(squares / cells - mean**2, 0) / cells)
    reach = max(of_images, of_cells)
    return max(100 * (mean - reach), 0.0), min(100 * (mean + reach), HIGHEST)
