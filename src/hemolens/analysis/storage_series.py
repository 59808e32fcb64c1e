"""Shares of cell types in stored blood by bag and day, with intervals that know cells of one image are alike."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hemolens.errors import UserError

GROUP = ["bag", "storage_day"]
#: How an interval came about, by the number of groups of cells it rests on.
INTERVALS = {"image": "t interval of images", "bag": "t interval of bags", "cells": "Wilson interval of one image"}


def share_interval(counts: ArrayLike, totals: ArrayLike, alpha: float = 0.05) -> tuple[float, float, float]:
    """A share of cells with its interval, from counts in several images (or bags).

    The share is that of all cells together. Its standard error is that of a ratio of sums over images (Cochran,
    Sampling Techniques, 1977, 6.3) with Student's t; the interval is no shorter than if every cell was drawn alone. It
    is taken on the logit, so that it stays between 0 and 1 and is asymmetric near them. Of a single image it is
    Wilson's (1927), which cannot know how images differ.

    Args:
        counts: cells of the type in each image, [N].
        totals: all cells of each image, [N].
        alpha: 1 - confidence.

    Returns:
        Share, lower and upper bound; NaN without cells.

    Raises:
        UserError: lengths that differ, or more cells of a type than cells.
    """
    some, every = np.asarray(counts, float), np.asarray(totals, float)
    if some.shape != every.shape or some.ndim != 1:
        raise UserError(f"counts {list(some.shape)} and totals {list(every.shape)}: give one of each an image")
    if (some > every).any() or (some < 0).any():
        raise UserError("an image has more cells of a type than cells, or fewer than none")
    some, every = some[every > 0], every[every > 0]
    number, cells = len(every), float(every.sum())
    if number == 0:
        return math.nan, math.nan, math.nan
    share = float(some.sum() / cells)
    if number == 1:
        low, high = stats.binomtest(int(some[0]), int(every[0])).proportion_ci(1 - alpha, method="wilson")
        return share, float(low), float(high)
    middle = (some.sum() + 0.5) / (cells + 1)  # logits of 0 and 1 are infinite
    between = ratio_variance(some, every)
    variance = middle * (1 - middle)
    of_images = stats.t.ppf(1 - alpha / 2, number - 1) * math.sqrt(between)
    of_cells = stats.norm.ppf(1 - alpha / 2) * math.sqrt(variance / cells)
    reach = max(of_images, of_cells) / variance  # on the logit
    low, high = (1 / (1 + math.exp(-(math.log(middle / (1 - middle)) + step))) for step in (-reach, reach))
    return share, min(low, share), max(high, share)


def ratio_variance(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> float:
    """Variance of sum(parts) / sum(wholes) over two or more images (Cochran 1977, 6.3), [N] each."""
    number, total = len(wholes), float(wholes.sum())
    apart = parts - parts.sum() / total * wholes
    return number / (number - 1) * float((apart**2).sum()) / total**2


def series_table(images: pd.DataFrame, types: Sequence[str], *, by: Sequence[str] = GROUP) -> pd.DataFrame:
    """Shares of each type, a row a group of images and a type.

    Args:
        images: a row an image: ``bag``, ``storage_day``, and cells of each type.
        types: columns of ``images``.
        by: what makes a group: bag and day, or the day alone; then several bags are what the interval rests on.

    Returns:
        Columns of ``by``, ``type``, ``images``, ``bags``, ``cells`` (of all types), ``count``, ``share``, ``low``,
        ``high``, ``interval`` (see ``INTERVALS``).
    """
    rows = []
    for key, group in images.groupby(list(by), dropna=False, sort=True):
        bags = group["bag"].nunique()
        units = group.groupby("bag")[list(types)].sum() if bags > 1 else group[list(types)]
        totals = units.sum(axis=1)
        kind = "bag" if bags > 1 else "image" if int((totals > 0).sum()) > 1 else "cells"
        for name in types:
            share, low, high = share_interval(units[name], totals)
            rows.append(
                {
                    **dict(zip(by, key, strict=True)),
                    "type": name,
                    "images": len(group),
                    "bags": bags,
                    "cells": int(totals.sum()),
                    "count": int(units[name].sum()),
                    "share": share,
                    "low": low,
                    "high": high,
                    "interval": kind,
                }
            )
    return pd.DataFrame(rows)


def with_truth(series: pd.DataFrame, images: pd.DataFrame, types: Sequence[str]) -> pd.DataFrame:
    """The table with ``true_share`` and ``error`` (share - true share), from the columns ``true_<type>`` of images.

    Args:
        series: of :func:`series_table`.
        images: the images that it was made from.
        types: as there.
    """
    by = [name for name in GROUP if name in series]
    true = images.groupby(by, dropna=False)[[f"true_{name}" for name in types]].sum()
    shares = true.div(true.sum(axis=1), axis=0)
    shares.columns = pd.Index(types, name="type")
    stacked = shares.stack().rename("true_share").reset_index()
    joined = series.merge(stacked, on=[*by, "type"], how="left", validate="one_to_one")
    joined["error"] = joined["share"] - joined["true_share"]
    return joined
