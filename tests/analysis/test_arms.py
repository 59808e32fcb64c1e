"""Arms beside each other: the score as the metric has it, pairing, and intervals that cover what they should."""

import math

import numpy as np
import pytest
import torch

from hemolens.analysis.arms import arms_markdown, by_type, compare_arms
from hemolens.errors import UserError


def tables(rng: np.random.Generator, gain: float, *, seeds: int = 5, images: int = 40) -> dict[str, dict[int, object]]:
    """Images and seeds that differ much more than the arms do."""
    image = rng.normal(0.8, 0.1, size=(images, 3))
    plain, better = {}, {}
    for seed in range(seeds):
        shift = rng.normal(0, 0.02)
        plain[seed] = image + shift + rng.normal(0, 0.01, size=image.shape)
        better[seed] = image + shift + gain + rng.normal(0, 0.01, size=image.shape)
    return {"plain": plain, "better": better}


def test_the_score_is_that_of_the_metric() -> None:
    table = torch.rand(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table[2, 1] = table[:, 3] = math.nan
    assert compare_arms({"one": {0: table}}, "one")["one"].mean == pytest.approx(
        float(table.nanmean(0).nanmean()), abs=1e-12
    )


def test_differences_are_paired() -> None:
    found = compare_arms(tables(np.random.default_rng(0), 0.01), "plain")
    assert found["plain"].difference == found["plain"].low == found["plain"].high == 0
    better = found["better"]
    assert better.difference == pytest.approx(better.mean - found["plain"].mean)
    assert 0 < better.low < 0.01 < better.high < 0.02  # unpaired, the images alone would spread it over +-0.03
    assert better.seeds == 5 and better.sd > 0.005


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    for seeds in (3, 5):
        rng = np.random.default_rng(seeds)
        held = 0
        for _ in range(200):
            arms = tables(rng, 0.005, images=20, seeds=seeds)
            for table in arms["better"].values():
                table += rng.normal(0, 0.02)  # a seed does something else to each arm
            found = compare_arms(arms, "plain", resamples=200)["better"]
            held += found.low <= 0.005 <= found.high
        assert 183 <= held <= 198, seeds  # 190 expected; percentiles of a bootstrap hold 132 and 165


def test_images_that_one_arm_likes_count_once_for_all_seeds() -> None:
    """Five seeds on the same twenty images are no hundred images."""
    rng, held = np.random.default_rng(2), 0
    for _ in range(60):
        image, liked = rng.normal(0.8, 0.1, size=(20, 1)), rng.normal(0, 0.05, size=(20, 1))
        plain = {seed: image + rng.normal(0, 0.002, size=(20, 1)) for seed in range(5)}
        other = {seed: table + liked for seed, table in plain.items()}
        found = compare_arms({"plain": plain, "other": other}, "plain", resamples=200)["other"]
        held += found.low <= 0 <= found.high
    assert 51 <= held <= 60


def test_seeds_that_both_arms_have_are_compared() -> None:
    arms = tables(np.random.default_rng(0), 0.01)
    more = {"plain": arms["plain"], "better": {0: arms["better"][0], 9: np.zeros((40, 3))}}
    found = compare_arms(more, "plain", resamples=50)["better"]
    assert found.seeds == 2 and found.difference == pytest.approx(0.01, abs=0.005)
    with pytest.raises(UserError, match="no seed in common"):
        compare_arms({"plain": arms["plain"], "better": {9: np.zeros((40, 3))}}, "plain")


def test_wrong_arms() -> None:
    arms = tables(np.random.default_rng(0), 0.01)
    with pytest.raises(UserError, match="no arm 'none': choose from plain, better"):
        compare_arms(arms, "none")
    with pytest.raises(UserError, match="other images or types"):
        compare_arms({**arms, "short": {0: np.zeros((3, 3))}}, "plain")


def test_one_type_and_the_table() -> None:
    arms = {"plain": {0: [[0.5, 0.1], [0.7, 0.3]]}, "better": {0: [[0.6, 0.1], [0.8, 0.3]]}}
    first, second = (compare_arms(by_type(arms, number), "plain", resamples=20) for number in (0, 1))
    assert first["better"].difference == pytest.approx(0.1) and second["better"].difference == 0
    assert first["plain"].mean == pytest.approx(0.6)
    lines = arms_markdown(["disc", "sphere"], [first, second], "plain").splitlines()
    assert lines[0] == "| arm | seeds | disc | disc, less plain | sphere | sphere, less plain |"
    assert lines[2] == "| plain | 1 | 0.6000 |  | 0.2000 |  |"
    assert lines[3] == "| better | 1 | 0.7000 | +0.1000 [+0.1000, +0.1000] | 0.2000 | +0.0000 [+0.0000, +0.0000] |"
