"""Group-wise splits."""

import pytest

from hemolens.data.splits import split_by_class, split_by_group, split_into_parts
from hemolens.errors import UserError


def test_groups_stay_together_and_every_item_is_in_one_part():
    groups = [f"donor{i % 10}" for i in range(57)]
    parts = split_by_group(groups, (0.7, 0.2, 0.1), seed=3)
    assert sorted(i for part in parts for i in part) == list(range(57))
    donors = [{groups[i] for i in part} for part in parts]
    assert [len(d) for d in donors] == [7, 2, 1]
    assert not donors[0] & donors[1] and not donors[0] & donors[2] and not donors[1] & donors[2]


def test_split_repeats_and_depends_on_the_seed():
    groups = list(range(40))
    assert split_by_group(groups, (0.5, 0.5), seed=1) == split_by_group(groups, (0.5, 0.5), seed=1)
    assert split_by_group(groups, (0.5, 0.5), seed=1) != split_by_group(groups, (0.5, 0.5), seed=2)


@pytest.mark.parametrize(
    ("count", "fractions", "sizes"),
    [
        (292, (0.9, 0.1), [263, 29]),
        (10, (0.7, 0.2, 0.1), [7, 2, 1]),
        (7, (0.5, 0.5), [4, 3]),
        (3, (0.98, 0.01, 0.01), [1, 1, 1]),  # no part is empty
    ],
)
def test_sizes_by_largest_remainder(count, fractions, sizes):
    assert [len(part) for part in split_by_group(range(count), fractions, seed=0)] == sizes


def test_every_group_is_as_likely_in_each_part():
    hits = [0] * 5
    for seed in range(500):
        for i in split_by_group(range(5), (0.6, 0.4), seed=seed)[1]:
            hits[i] += 1
    assert all(abs(h - 200) < 50 for h in hits)  # mean 200, standard deviation 11


def test_bad_requests():
    with pytest.raises(UserError, match="sum to 1"):
        split_by_group([1, 2], (0.5, 0.4), seed=0)
    with pytest.raises(UserError, match="positive"):
        split_by_group([1, 2], (1.0, 0.0), seed=0)
    with pytest.raises(UserError, match="2 groups cannot be split into 3"):
        split_by_group([1, 1, 2], (0.7, 0.2, 0.1), seed=0)


def test_each_part_holds_each_class_in_the_same_shares():
    labels = ["a"] * 40 + ["b"] * 20 + ["a"] * 60
    parts = split_by_class(labels, (0.7, 0.2, 0.1), seed=5)
    assert sorted(i for part in parts for i in part) == list(range(120))
    assert [[sum(labels[i] == name for i in part) for name in "ab"] for part in parts] == [[70, 14], [20, 4], [10, 2]]
    assert parts == split_by_class(labels, (0.7, 0.2, 0.1), seed=5) != split_by_class(labels, (0.7, 0.2, 0.1), seed=6)


def test_a_class_too_small_to_split_is_named():
    with pytest.raises(UserError, match="class b has 2 images for 3 parts"):
        split_by_class(["a"] * 9 + ["b"] * 2, (0.7, 0.2, 0.1), seed=0)


def test_a_share_of_nothing_is_an_empty_part():
    parts = split_into_parts(range(5), (0.8, 0.2, 0), seed=1)
    assert {name: len(part) for name, part in parts.items()} == {"train": 4, "val": 1, "test": 0}
    assert split_into_parts(range(5), (0, 0, 1), seed=1) == {"train": [], "val": [], "test": [0, 1, 2, 3, 4]}
    with pytest.raises(UserError, match=r"2 groups cannot be split into 3 parts.*share of 0"):
        split_into_parts([1, 2], (0.7, 0.2, 0.1), seed=0)
