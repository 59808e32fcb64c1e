"""Random splits that keep groups (one donor, one blood bag, one slide) together."""

from collections.abc import Hashable, Sequence

import numpy as np

from hemolens.errors import UserError

SPLITS = ("train", "val", "test")


def split_by_group(groups: Sequence[Hashable], fractions: Sequence[float], *, seed: int) -> list[list[int]]:
    """Split items into parts so that no group is in two parts.

    Args:
        groups: the group of each item; give each item its own to split single items.
        fractions: share of the *groups* for each part, positive, sum 1. Counts are rounded by largest
            remainder, and each part gets at least one group.
        seed: seed of the drawing; the split is the same for the same groups in the same order.

    Returns:
        One list of item indices a part, in ascending order.

    Raises:
        UserError: fractions are not positive or do not sum to 1, or there are fewer groups than parts.
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if len(shares) == 0 or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise UserError(f"split fractions {list(fractions)} must be positive and sum to 1")
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    if len(members) < len(shares):
        raise UserError(
            f"{len(members)} groups cannot be split into {len(shares)} parts: add samples, or name fewer parts "
            "(a share of 0)"
        )
    names = list(members)
    order = np.random.default_rng(seed).permutation(len(names))
    ends = np.cumsum(_part_sizes(len(names), shares))
    parts = np.split(order, ends[:-1])
    return [sorted(index for number in part for index in members[names[number]]) for part in parts]


def _part_sizes(count: int, shares: np.ndarray) -> np.ndarray:
    """Whole numbers that sum to ``count``, in proportion to ``shares``, none of them 0."""
    exact = shares * count
    sizes = np.floor(exact + 1e-9).astype(int)
    for part in np.argsort(sizes - exact, kind="stable")[: count - sizes.sum()]:
        sizes[part] += 1
    while (sizes == 0).any():
        sizes[sizes.argmin()] += 1
        sizes[sizes.argmax()] -= 1
    return sizes


def split_by_class(labels: Sequence[Hashable], fractions: Sequence[float], *, seed: int) -> list[list[int]]:
    """Split single items into parts that hold each class in the same shares.

    Args:
        labels: the class of each item.
        fractions: as for :func:`split_by_group`, of each class; a class has at least one item in each part.
        seed: seed of the drawing.

    Returns:
        One list of item indices a part, in ascending order.

    Raises:
        UserError: as :func:`split_by_group`, or a class has fewer items than there are parts.
    """
    parts: list[list[int]] = [[] for _ in fractions]
    for name in dict.fromkeys(labels):
        members = [index for index, label in enumerate(labels) if label == name]
        if len(members) < len(parts):
            raise UserError(
                f"class {name} has {len(members)} images for {len(parts)} parts: add images or leave it out"
            )
        for part, chosen in zip(parts, split_by_group(members, fractions, seed=seed), strict=True):
            part += [members[index] for index in chosen]
    return [sorted(part) for part in parts]


def split_into_parts(groups: Sequence[Hashable], shares: Sequence[float], *, seed: int) -> dict[str, list[int]]:
    """:func:`split_by_group` into train, val and test; a share of 0 leaves a part empty.

    Raises:
        UserError: as :func:`split_by_group`.
    """
    wanted = [name for name, share in zip(SPLITS, shares, strict=True) if share != 0]
    parts = split_by_group(groups, [share for share in shares if share != 0], seed=seed)
    return {name: [] for name in SPLITS} | dict(zip(wanted, parts, strict=True))


def empty_part(place: str, name: str) -> UserError:
    """The error about a part that is needed and holds no image."""
    remedy = ", or set test=false" if name == "test" else ""
    return UserError(f"{place}: no image in the {name} part: annotate more, or give it a share of data.split{remedy}")
