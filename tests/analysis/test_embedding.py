"""Order of cells in a detector's features, and how far annotators agree."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from hemolens.analysis.embedding import annotator_agreement, embed, rank_correlation
from hemolens.errors import UserError


def ordered_features(n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Features along one direction in 30 dimensions, with noise; and the places along it."""
    rng = np.random.default_rng(0)
    place = np.sort(rng.uniform(0, 1, n))
    return np.outer(place, rng.normal(size=30)) + 0.02 * rng.normal(size=(n, 30)), place


def test_the_main_axis_is_the_direction_that_was_put_in() -> None:
    features, place = ordered_features()
    for towards in (place > 0.7, place < 0.3):
        laid = embed(features, towards)
        sign = 1 if towards[-1] else -1
        assert np.corrcoef(laid.axis, sign * place)[0, 1] > 0.98
        assert laid.axis.std() == pytest.approx(1)
        assert laid.explained > 0.8
    assert laid.points.shape == (120, 2)
    assert np.array_equal(embed(features, towards).points, laid.points)


def test_two_groups_lie_apart_in_the_plane() -> None:
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1], 40)
    features = rng.normal(size=(80, 20)) + 8 * group[:, None]
    points = embed(features, group == 1).points
    centers = np.stack([points[group == k].mean(0) for k in (0, 1)])
    nearest = np.linalg.norm(points[:, None] - centers, axis=2).argmin(1)
    assert (nearest == group).all()


def test_slips_are_named() -> None:
    features, place = ordered_features(20)
    with pytest.raises(UserError, match="at least 10 cells"):
        embed(features[:9], place[:9] > 0)
    with pytest.raises(UserError, match="one value a cell"):
        embed(features, place[:-1] > 0)
    features[3, 3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        embed(features, place > 0)
    with pytest.raises(UserError, match="constant"):
        rank_correlation([1, 1, 1, 1], [1, 2, 3, 4])
    with pytest.raises(UserError, match="at least 4"):
        rank_correlation([1, 2, 3], [1, 2, 3])
    for bad in ([], ["RBC"], ["RBC/RBC", "RBC"]):
        with pytest.raises(UserError, match="annotations"):
            annotator_agreement(bad)


def test_rank_correlation_by_hand() -> None:
    found = rank_correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5])  # sum of squared rank differences is 4
    assert found["rho"] == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert found["rho_low"] <= found["rho"] <= found["rho_high"]
    assert rank_correlation([1, 2, 3, 4], [1, 8, 27, 64])["rho"] == pytest.approx(1)


def test_agreement_of_annotators_by_hand() -> None:
    votes = ["R/R/R", "R/R/A", "A/A/A", "R/A/A"]
    found = annotator_agreement(votes)
    assert found["n"] == 4
    assert found["unanimous"] == 0.5
    assert found["pairwise"] == pytest.approx((3 / 4 + 2 / 4 + 3 / 4) / 3)
    assert found["against_majority"] == pytest.approx((4 - 2 / 3) / 4)
    columns = list(zip(*(vote.split("/") for vote in votes), strict=True))
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean([cohen_kappa_score(columns[i], columns[j]) for i, j in pairs])
    assert found["kappa"] == pytest.approx(expected)
    assert annotator_agreement(["R/R"] * 3)["kappa"] == 1.0
