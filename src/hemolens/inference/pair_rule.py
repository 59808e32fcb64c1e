"""Which synthetic phase-mask pairs are plausible, and an explicit rule that chooses so that the types are balanced.

Paper B chose 500 of 5,000 generated pairs by hand, "a balanced and diverse representation of all four RBC types"; the
rule stands in for that, and an expert can correct what it chooses (see ``inference.pair_selection``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.transform import resize_local_mean

from hemolens.errors import UserError
from hemolens.metrics.segmentation import touching_cells
from hemolens.postprocess.instances import cells_of_classes

COARSE = 8  # pixels along each side of the phase in a descriptor
UTILITY_DECIMALS = 12  # so that ties are ties on any machine


@dataclass(frozen=True, kw_only=True)
class SelectionRule:
    """What makes a pair plausible, and what the choice weighs; the numbers are choices of ours.

    Args:
        count: pairs to choose; fewer where fewer are plausible.
        max_touching: largest share of the cells of a pair that touch another.
        min_cells: least cells of a pair.
        cell_area_um2: smallest and largest area of a cell. Cells that the border cuts may be smaller.
        cell_phase_rad: smallest and largest mean phase of a cell over the background. Cut cells may have less.
        background_rad: largest |median phase| of the background.
        foreground_rad: pixels with more phase over the background are cell by the phase alone.
        mask_phase_overlap: least IoU between those pixels and the mask.
        rare_weight: a type weighs (its share of the cells of plausible pairs)^-rare_weight in the balance.
        diversity: weight of the distance from the pairs chosen so far.
        quality: weight of the mean probability of a pair's classes.

    Raises:
        UserError: names the key and what it may be.
    """

    count: int = 500
    max_touching: float = 0.5
    min_cells: int = 1
    cell_area_um2: tuple[float, float] = (10.0, 120.0)
    cell_phase_rad: tuple[float, float] = (0.3, 5.0)
    background_rad: float = 0.5
    foreground_rad: float = 0.5
    mask_phase_overlap: float = 0.5
    rare_weight: float = 1.0
    diversity: float = 0.1
    quality: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("min_cells", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"select.{name}={value}: give a whole number of at least {least}")
        for name in ("cell_area_um2", "cell_phase_rad"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
                raise UserError(f"select.{name}={value}: give [lowest, highest]")
            if not all(map(_is_number, value)) or not value[0] < value[1]:
                raise UserError(f"select.{name}={list(value)}: give [lowest, highest], two rising numbers")
            object.__setattr__(self, name, (float(value[0]), float(value[1])))
        for name in ("max_touching", "mask_phase_overlap"):
            if not _is_number(value := getattr(self, name)) or not 0 <= value <= 1:
                raise UserError(f"select.{name}={value}: give a share, from 0 to 1")
        for name in ("background_rad", "foreground_rad", "rare_weight", "diversity", "quality"):
            if not _is_number(value := getattr(self, name)) or value < 0:
                raise UserError(f"select.{name}={value}: give a number of 0 or more")

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> "SelectionRule":
        """The rule of a config; what it lacks has its default.

        Raises:
            UserError: an unknown key or a wrong value.
        """
        known = [entry.name for entry in fields(cls)]
        if unknown := set(config or {}) - set(known):
            raise UserError(f"select has no key {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
        return cls(**dict(config or {}))


@dataclass(frozen=True, eq=False, kw_only=True)
class PairScore:
    """What the rule looks at in a pair.

    Attributes:
        cells: of each type, int64 [K - 1].
        touching: share of the cells that touch another; 0 without cells.
        overlap: IoU of the mask with the pixels whose phase is that of a cell; 1 where there are neither.
        background_rad: median phase of the background; NaN without one.
        descriptor: float64 [K - 1 + 64]: share of each type among the cells, and the phase over the background
            averaged to 8×8 px and divided by 8, so that distances are differences of phase (rms, in rad).
        reasons: why it is implausible, as ``kind: what is wrong``; empty where nothing is.
        name: of its files.
        confidence: mean probability of the classes of its cells' pixels; NaN where that is not known.
    """

    cells: NDArray[np.int64]
    touching: float
    overlap: float
    background_rad: float
    descriptor: NDArray[np.float64]
    reasons: list[str]
    name: str = ""
    confidence: float = math.nan


def score_pair(
    phase_rad: NDArray[np.floating],
    classes: NDArray[np.integer],
    num_classes: int,
    rule: SelectionRule,
    pixel_um: float,
    *,
    cells: Mapping[str, Any] | None = None,
    name: str = "",
    confidence: float = math.nan,
) -> PairScore:
    """Count the cells of a pair and look for what is implausible.

    Args:
        phase_rad: [H, W].
        classes: of each pixel, [H, W], 0 background.
        num_classes: K, with the background.
        rule: what is plausible.
        pixel_um: side of a pixel.
        cells: keys of ``postprocess.instances.cells_of_classes``, in pixels.
        name, confidence: see :class:`PairScore`.

    Raises:
        UserError: sizes that differ, a class that there is not, or a pixel size that is not positive.
    """
    if phase_rad.shape != classes.shape:
        raise UserError(f"{name}: phase {phase_rad.shape} and classes {classes.shape} differ in size: sample it again")
    if int(classes.max(initial=0)) >= num_classes:
        raise UserError(f"{name}: the mask holds class {classes.max()}, but there are {num_classes}: see class_names")
    if not pixel_um > 0:
        raise UserError(f"pixel_um={pixel_um}: give the side of a pixel in um, e.g. 0.144")
    instances = cells_of_classes(classes, **dict(cells or {}))
    count = int(instances.max(initial=0))
    kinds = np.zeros(count + 1, np.int64)
    kinds[instances[instances > 0]] = classes[instances > 0]  # all pixels of a cell are of one class
    found = np.bincount(kinds[1:], minlength=num_classes)[1:]
    phase = np.nan_to_num(np.asarray(phase_rad, np.float64), posinf=0, neginf=0)
    outside = phase[classes == 0]
    background = float(np.median(outside)) if outside.size else math.nan
    phase = phase - (background if outside.size else 0.0)
    thick, masked = phase > rule.foreground_rad, classes > 0
    either = int((thick | masked).sum())
    overlap = float((thick & masked).sum() / either) if either else 1.0
    touching = float(touching_cells(torch.from_numpy(instances)).double().mean()) if count else 0.0
    few, crowded, apart = count < rule.min_cells, touching > rule.max_touching, overlap < rule.mask_phase_overlap
    wrong = {
        "phase": "" if np.isfinite(phase_rad).all() else "is not finite",
        "cells": f"{count}, at least {rule.min_cells}" if few else "",
        **_wrong_cells(phase, instances, rule, pixel_um),
        "touching": f"{touching:.2f} of the cells, at most {rule.max_touching:g}" if crowded else "",
        "background": _wrong_background(background, rule),
        "overlap": f"{overlap:.2f} of mask and phase, at least {rule.mask_phase_overlap:g}" if apart else "",
    }
    coarse = resize_local_mean(phase, (COARSE, COARSE)) / COARSE
    return PairScore(
        cells=found,
        touching=touching,
        overlap=overlap,
        background_rad=background,
        descriptor=np.concatenate([found / max(1, count), coarse.ravel()]),
        reasons=[f"{kind}: {text}" for kind, text in wrong.items() if text],
        name=name,
        confidence=confidence,
    )


def select_pairs(scores: Sequence[PairScore], rule: SelectionRule) -> list[int]:
    """Choose pairs one after another, so that the cells of all types become equally many.

    Implausible pairs are left out. Of the others, each step takes the one of largest

        balance + quality * confidence + diversity * novelty

    - balance: from 1 for the candidate that makes the imbalance of all chosen cells least, to 0 for the one that makes
      it largest. The imbalance of t pairs with n_k cells of type k is sum_k w_k (n_k - t m / T)^2 over the T types that
      occur, with m the mean number of cells of a plausible pair and w_k = (share of type k among the cells of all
      plausible pairs)^-rare_weight. The goal t m / T keeps the rule from filling up with pairs of few cells, which
      disturb shares least.
    - novelty: d / (d + median of d), of the distance d of its descriptor from the nearest chosen one; 0 at first.

    Ties go to the first in order. There is no chance in it.

    Returns:
        Indices into ``scores`` in the order in which they were chosen, at most ``rule.count``.
    """
    plausible = np.array([index for index, score in enumerate(scores) if not score.reasons], np.int64)
    if not plausible.size:
        return []
    cells = np.array([scores[index].cells for index in plausible], np.float64)  # [P, K - 1]
    descriptors = np.array([scores[index].descriptor for index in plausible])
    worth = rule.quality * np.nan_to_num([scores[index].confidence for index in plausible])
    totals = cells.sum(0)
    occurs = totals > 0
    weights = np.zeros(len(totals))
    weights[occurs] = (totals[occurs] / totals.sum()) ** -rule.rare_weight
    goal = occurs * totals.sum() / len(cells) / max(1, int(occurs.sum()))  # cells a chosen pair, of each type
    held = np.zeros(len(totals))
    nearest = np.zeros(len(plausible))
    free = np.ones(len(plausible), bool)
    chosen: list[int] = []
    while len(chosen) < min(rule.count, len(plausible)):
        imbalance = ((held + cells - (len(chosen) + 1) * goal) ** 2 * weights).sum(1)
        least, most = imbalance[free].min(), imbalance[free].max()
        balance = (most - imbalance) / (most - least) if most > least else np.zeros(len(plausible))
        middle = float(np.median(nearest[free]))
        novelty = nearest / np.maximum(nearest + middle, 1e-12)
        utility = np.round(balance + worth + rule.diversity * novelty, UTILITY_DECIMALS)
        best = int(np.where(free, utility, -np.inf).argmax())
        distance = np.sqrt(((descriptors - descriptors[best]) ** 2).sum(1))
        nearest = np.minimum(nearest, distance) if chosen else distance
        held, free[best] = held + cells[best], False
        chosen.append(int(plausible[best]))
    return chosen


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong_background(background: float, rule: SelectionRule) -> str:
    if math.isnan(background):
        return "there is none"
    return f"{background:.2f} rad, at most {rule.background_rad:g}" if abs(background) > rule.background_rad else ""


def _wrong_cells(
    phase: NDArray[np.float64], instances: NDArray[np.integer], rule: SelectionRule, pixel_um: float
) -> dict[str, str]:
    """What is wrong with the sizes and with the mean phases of cells; empty where nothing is."""
    sizes = np.bincount(instances.ravel())[1:]
    means = np.bincount(instances.ravel(), phase.ravel())[1:] / np.maximum(sizes, 1)
    border = np.concatenate([instances[0], instances[-1], instances[:, 0], instances[:, -1]])
    whole = ~np.isin(np.arange(1, len(sizes) + 1), border)
    return {
        "area": _outliers(sizes * pixel_um**2, whole, rule.cell_area_um2, "um^2"),
        "thickness": _outliers(means, whole, rule.cell_phase_rad, "rad"),
    }


def _outliers(values: NDArray[np.floating], whole: NDArray[np.bool_], limits: tuple[float, float], unit: str) -> str:
    """What is wrong with values of cells, of which those that are not whole may be small; empty where nothing is."""
    low, high = limits
    wrong = values[(values > high) | (whole & (values < low))]
    if not wrong.size:
        return ""
    cells = "a cell of" if wrong.size == 1 else f"{wrong.size} cells, e.g. of"
    return f"{cells} {wrong[0]:.3g} {unit}, outside of {low:g} to {high:g}"
