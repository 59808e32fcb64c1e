"""The choice among synthetic pairs: what is implausible, and the rule against a slow transcription of it."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from hemolens.errors import UserError
from hemolens.inference.pair_rule import COARSE, PairScore, SelectionRule, score_pair, select_pairs

SIDE, PIXEL_UM = 64, 0.5
CELLS = {"min_area_px": 10, "min_distance_px": 4}
RADIUS = 6  # 113 px, 28 um^2
Disc = tuple[int, int, int, int]  # row, column, radius, class


def draw(discs: Sequence[Disc], thickness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Phase and classes of flat discs."""
    y, x = np.mgrid[:SIDE, :SIDE]
    classes = np.zeros((SIDE, SIDE), np.uint8)
    for row, column, radius, kind in discs:
        classes[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = kind
    return np.where(classes > 0, thickness, 0.0).astype(np.float32), classes


APART = ((12, 12, RADIUS, 1), (12, 40, RADIUS, 1), (44, 14, RADIUS, 3))


def score(phase: np.ndarray, classes: np.ndarray, **rule: Any) -> PairScore:
    return score_pair(phase, classes, 5, SelectionRule(**rule), PIXEL_UM, cells=CELLS, name="p", confidence=0.9)


def kinds_of(found: PairScore) -> list[str]:
    return [reason.split(":")[0] for reason in found.reasons]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("count", value) for value in (0, 2.5, True, "many")],
        *[("min_cells", value) for value in (-1, None)],
        *[("cell_area_um2", value) for value in ([120, 10], [10], "10", 10, [1, "2"], [5, 5])],
        *[("cell_phase_rad", value) for value in ([5, 0.3], [0, math.nan])],
        *[("max_touching", value) for value in (1.1, -0.1, "half")],
        *[("mask_phase_overlap", value) for value in (2, None)],
        *[(key, -1) for key in ("background_rad", "foreground_rad", "rare_weight", "diversity", "quality")],
        ("quality", math.inf),
    ],
)
def test_wrong_rules_name_their_key(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"select\.{key}=.*give"):
        SelectionRule(**{key: value})


def test_a_rule_of_a_config() -> None:
    assert SelectionRule.from_config(None) == SelectionRule()
    rule = SelectionRule.from_config({"count": 7, "cell_area_um2": [1, 2]})
    assert (rule.count, rule.cell_area_um2, rule.quality) == (7, (1.0, 2.0), 0.1)
    with pytest.raises(UserError, match="select has no key counts: choose from count, "):
        SelectionRule.from_config({"counts": 7})


def test_the_score_of_a_pair_by_hand() -> None:
    phase, classes = draw(APART)
    phase[:8, 56:] = 1.0  # 64 px that the mask lacks
    found = score(phase + np.float32(0.25), classes)
    assert found.cells.tolist() == [2, 0, 1, 0]
    assert found.touching == 0
    masked = int((classes > 0).sum())
    assert found.overlap == pytest.approx(masked / (masked + 64))
    assert found.background_rad == pytest.approx(0.25)
    assert (found.reasons, found.name, found.confidence) == ([], "p", 0.9)
    assert found.descriptor[:4] == pytest.approx([2 / 3, 0, 1 / 3, 0])
    blocks = phase.reshape(COARSE, 8, COARSE, 8).mean((1, 3))  # the offset of the background is taken away
    assert found.descriptor[4:] == pytest.approx(blocks.ravel() / 8, abs=1e-6)


def thin(phase: np.ndarray, classes: np.ndarray) -> None:
    phase[classes == 3] = 0.2


def offset(phase: np.ndarray, classes: np.ndarray) -> None:
    phase -= 0.6


def not_finite(phase: np.ndarray, classes: np.ndarray) -> None:
    phase[60, 60] = np.nan


def without_masks(phase: np.ndarray, classes: np.ndarray) -> None:
    classes[:, 32:] = 0
    classes[32:] = 0


def nothing(phase: np.ndarray, classes: np.ndarray) -> None:
    phase[:], classes[:] = 0, 0


def everything(phase: np.ndarray, classes: np.ndarray) -> None:
    phase[:], classes[:] = 2, 1


def fine(phase: np.ndarray, classes: np.ndarray) -> None:
    phase += 0.4  # all thicknesses are above the background


IMPLAUSIBLE: dict[str, tuple[Sequence[Disc], Callable[[np.ndarray, np.ndarray], None], list[str], str]] = {
    "fine": (APART, fine, [], ""),
    "not finite": (APART, not_finite, ["phase"], "not finite"),
    "no cells": (APART, nothing, ["cells"], "0, at least 1"),
    "a small cell": ((*APART, (44, 44, 2, 2)), fine, ["area"], "a cell of 3.25 um^2, outside of 10 to 120"),
    "a large cell": (((12, 12, RADIUS, 1), (44, 44, 14, 2)), fine, ["area"], "a cell of 153 um^2"),
    "a thin cell": (APART, thin, ["thickness"], "a cell of 0.2 rad, outside of 0.3 to 5"),
    "touching": (
        ((20, 12, 6, 1), (20, 25, 6, 3), (50, 50, 6, 1)),
        fine,
        ["touching"],
        "0.67 of the cells, at most 0.5",
    ),
    "no zero": (APART, offset, ["background"], "-0.60 rad, at most 0.5"),
    "a mask beside the phase": (APART, without_masks, ["overlap"], "0.33 of mask and phase, at least 0.5"),
    "no background": (APART, everything, ["area", "background"], "there is none"),
}


@pytest.mark.parametrize("case", IMPLAUSIBLE)
def test_implausible_pairs_are_rejected_for_their_reason(case: str) -> None:
    discs, change, expected, text = IMPLAUSIBLE[case]
    phase, classes = draw(discs)
    change(phase, classes)
    found = score(phase, classes)
    assert kinds_of(found) == expected, found.reasons
    assert text in " ".join(found.reasons)
    assert select_pairs([found], SelectionRule()) == ([] if expected else [0])


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        ("no cells", {"min_cells": 0}),
        ("a small cell", {"cell_area_um2": (3, 120)}),
        ("a large cell", {"cell_area_um2": (10, 160)}),
        ("a thin cell", {"cell_phase_rad": (0.1, 5)}),
        ("touching", {"max_touching": 0.7}),
        ("no zero", {"background_rad": 0.7}),
        ("a mask beside the phase", {"mask_phase_overlap": 0.3}),
    ],
)
def test_each_limit_can_be_moved(case: str, rule: dict[str, Any]) -> None:
    discs, change, _, _ = IMPLAUSIBLE[case]
    phase, classes = draw(discs)
    change(phase, classes)
    assert score(phase, classes, **rule).reasons == []


def test_other_limits_that_the_defaults_do_not_reach() -> None:
    phase, classes = draw(APART, thickness=6.0)
    assert kinds_of(score(phase, classes)) == ["thickness"]
    phase, classes = draw(APART)
    assert kinds_of(score(phase, classes, min_cells=4)) == ["cells"]
    assert kinds_of(score(phase, classes, foreground_rad=2.5)) == ["overlap"]


def test_cells_that_the_border_cuts_may_be_small() -> None:
    inside, cut = ((44, 44, 2, 2),), ((1, 40, 2, 2),)
    assert kinds_of(score(*draw((*APART[::2], *inside)))) == ["area"]
    found = score(*draw((*APART[::2], *cut)))
    assert found.reasons == [] and found.cells.tolist() == [1, 1, 1, 0]
    assert kinds_of(score(*draw([(10, 30, 16, 1)]))) == ["area"]  # but not too large


def test_pairs_that_do_not_fit() -> None:
    phase, classes = draw(APART)
    with pytest.raises(UserError, match=r"p: phase \(64, 64\) and classes \(60, 64\)"):
        score(phase, classes[:60])
    with pytest.raises(UserError, match="holds class 3, but there are 3"):
        score_pair(phase, classes, 3, SelectionRule(), PIXEL_UM, name="p")
    with pytest.raises(UserError, match="pixel_um=0"):
        score_pair(phase, classes, 5, SelectionRule(), 0)


def made_up(cells: Sequence[int], confidence: float = 0.5, at: float = 0.0, reasons: Sequence[str] = ()) -> PairScore:
    return PairScore(
        cells=np.array(cells),
        touching=0.0,
        overlap=1.0,
        background_rad=0.0,
        descriptor=np.array([at, 0.0]),
        reasons=list(reasons),
        confidence=confidence,
    )


def candidates(count: int, shares: Sequence[float], seed: int) -> list[PairScore]:
    """Pairs of one to nine cells, each with types of its own mixture."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        cells = rng.multinomial(rng.integers(1, 10), rng.dirichlet(6 * np.array(shares)))
        reasons = ["area: too small"] if rng.random() < 0.2 else []
        confidence = float("nan") if rng.random() < 0.1 else float(rng.uniform(0.5, 1))
        found.append(made_up(cells.tolist(), confidence, float(rng.normal()), reasons))
    return found


def chosen_slowly(scores: Sequence[PairScore], rule: SelectionRule) -> list[int]:
    """The rule as it is written in the docstring, a candidate and a type at a time."""
    plausible = [index for index, one in enumerate(scores) if not one.reasons]
    types = [kind for kind in range(len(scores[0].cells)) if sum(scores[index].cells[kind] for index in plausible)]
    every = sum(int(scores[index].cells.sum()) for index in plausible)
    chosen: list[int] = []
    while len(chosen) < min(rule.count, len(plausible)):
        free = [index for index in plausible if index not in chosen]
        imbalance, distance = {}, {}
        for index in free:
            imbalance[index] = 0.0
            for kind in types:
                share = sum(int(scores[other].cells[kind]) for other in plausible) / every
                goal = (len(chosen) + 1) * (every / len(plausible)) / len(types)
                held = sum(int(scores[other].cells[kind]) for other in [*chosen, index])
                imbalance[index] += share**-rule.rare_weight * (held - goal) ** 2
            apart = [math.dist(scores[index].descriptor, scores[other].descriptor) for other in chosen]
            distance[index] = min(apart, default=0.0)
        middle = statistics.median(distance.values())
        best, most = -1, -math.inf
        for index in free:
            spread = max(imbalance.values()) - min(imbalance.values())
            balance = (max(imbalance.values()) - imbalance[index]) / spread if spread else 0.0
            quality = 0.0 if math.isnan(scores[index].confidence) else scores[index].confidence
            novelty = distance[index] / (distance[index] + middle) if distance[index] else 0.0
            utility = balance + rule.quality * quality + rule.diversity * novelty
            if utility > most + 1e-11:
                best, most = index, utility
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "weights", [{}, {"rare_weight": 0.0}, {"rare_weight": 2.5, "diversity": 0.7}, {"quality": 2.0}, {"diversity": 3.0}]
)
def test_the_rule_is_what_its_docstring_says(seed: int, weights: dict[str, float]) -> None:
    scores = candidates(40, [0.6, 0.3, 0.1, 0.0], seed)
    rule = SelectionRule(count=15, **weights)  # type: ignore[arg-type]
    found = select_pairs(scores, rule)
    assert found == chosen_slowly(scores, rule)
    assert len(set(found)) == 15 and not any(scores[index].reasons for index in found)


def spread(scores: Sequence[PairScore], chosen: Sequence[int]) -> float:
    """Standard deviation of the shares of the types."""
    cells = np.sum([scores[index].cells for index in chosen], axis=0)
    return float(np.std(cells / cells.sum()))


def test_the_choice_is_balanced_as_no_random_one() -> None:
    scores = candidates(600, [0.64, 0.12, 0.15, 0.09], 0)
    plausible = [index for index, one in enumerate(scores) if not one.reasons]
    chosen = select_pairs(scores, SelectionRule(count=60))
    rng = np.random.default_rng(1)
    at_random = [spread(scores, rng.choice(plausible, 60, replace=False).tolist()) for _ in range(200)]
    assert spread(scores, chosen) < 0.02 < min(at_random) / 5
    # and not by taking pairs of hardly any cells
    mean = np.mean([scores[index].cells.sum() for index in plausible])
    assert np.mean([scores[index].cells.sum() for index in chosen]) == pytest.approx(mean, rel=0.1)


def test_quality_and_diversity_decide_among_alike() -> None:
    alike = [made_up([1, 1], confidence) for confidence in (0.6, 0.9, 0.7)]
    assert select_pairs(alike, SelectionRule(count=2)) == [1, 2]
    assert select_pairs(alike, SelectionRule(count=2, quality=0.0)) == [0, 1]  # ties go to the first
    places = [made_up([1, 1], at=at) for at in (0.0, 0.0, 0.1, 5.0, 5.0)]
    assert select_pairs(places, SelectionRule(count=3)) == [0, 3, 2]
    assert select_pairs(places, SelectionRule(count=3, diversity=0.0)) == [0, 1, 2]


def test_fewer_are_chosen_where_fewer_are_plausible() -> None:
    scores = [made_up([1, 0], reasons=["cells: 0"]), made_up([2, 0]), made_up([0, 0])]
    assert sorted(select_pairs(scores, SelectionRule(count=9))) == [1, 2]
    assert select_pairs(scores[:1], SelectionRule()) == []
