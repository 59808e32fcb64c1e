"""InfoNCE against its formula, its gradient, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from hemolens.errors import UserError
from hemolens.losses.contrastive import info_nce, info_nce_logits, info_nce_of_logits


def directions(count: int, features: int, seed: int) -> Tensor:
    return normalize(torch.randn(count, features, generator=torch.Generator().manual_seed(seed)), dim=1)


def literal(q: NDArray, k: NDArray, queue: NDArray, temperature: float) -> tuple[float, NDArray]:
    """Paper B, Eq. 10, sample by sample in float64, and its gradient to the queries."""
    terms, slopes = [], []
    for own, positive in zip(q.astype(np.float64), k.astype(np.float64), strict=True):
        keys = np.stack([positive, *queue.astype(np.float64)])
        weights = np.exp(keys @ own / temperature)
        terms.append(-math.log(weights[0] / weights.sum()))
        slopes.append(((weights / weights.sum()) @ keys - positive) / temperature)
    return float(np.mean(terms)), np.stack(slopes) / len(q)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_against_the_formula(temperature: float) -> None:
    q, k, queue = directions(5, 8, 0), directions(5, 8, 1), directions(11, 8, 2)
    q.requires_grad_(True)
    loss = info_nce(q, k, queue, temperature)
    loss.backward()
    expected, slope = literal(q.detach().numpy(), k.numpy(), queue.numpy(), temperature)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    assert q.grad is not None
    np.testing.assert_allclose(q.grad.numpy(), slope, atol=1e-5)


def test_closed_forms() -> None:
    axes = torch.eye(6)
    q = axes[:2]
    # own key equal, all others at a right angle
    assert float(info_nce(q, q, axes[2:], 0.5)) == pytest.approx(math.log(1 + 4 * math.exp(-2)), rel=1e-6)
    # nothing tells the own key from the others
    assert float(info_nce(q, axes[2:4], axes[2:], 0.5)) == pytest.approx(math.log(5), rel=1e-6)
    logits = info_nce_logits(q, q, axes[2:], 0.5)
    assert logits.shape == (2, 5) and torch.equal(logits[:, 0], torch.full((2,), 2.0))
    assert float(info_nce_of_logits(logits)) == float(info_nce(q, q, axes[2:], 0.5))


def test_keys_and_queue_get_no_gradient() -> None:
    q, k, queue = (directions(*shape, seed).requires_grad_(True) for seed, shape in enumerate([(3, 4), (3, 4), (7, 4)]))
    info_nce(q, k, queue).backward()
    assert q.grad is not None and q.grad.abs().sum() > 0
    assert k.grad is None and queue.grad is None


def test_float32_under_autocast() -> None:
    q, k, queue = directions(4, 64, 0), directions(4, 64, 1), directions(50, 64, 2)
    expected = info_nce(q, k, queue, 0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = info_nce(q, k, queue, 0.07)
        of_half = info_nce(q.bfloat16(), k.bfloat16(), queue)
    assert found.dtype == of_half.dtype == torch.float32
    assert float(found) == float(expected)


@pytest.mark.parametrize(
    ("shapes", "temperature", "says"),
    [
        (((3, 4), (2, 4), (5, 4)), 0.2, r"queries \[3, 4\], keys \[2, 4\]"),
        (((3, 4), (3, 4), (5, 3)), 0.2, r"queue \[5, 3\]"),
        (((3, 4), (3, 4), (5,)), 0.2, r"queue \[5\]"),
        (((3, 4, 1), (3, 4, 1), (5, 4)), 0.2, "N at least 1"),
        (((0, 4), (0, 4), (5, 4)), 0.2, "N at least 1"),
        (((3, 4), (3, 4), (5, 4)), 0.0, r"model\.temperature=0\.0: must be positive"),
        (((3, 4), (3, 4), (5, 4)), -1.0, r"model\.temperature=-1\.0"),
    ],
)
def test_refused(shapes: tuple[tuple[int, ...], ...], temperature: float, says: str) -> None:
    with pytest.raises(UserError, match=says):
        info_nce(*map(torch.ones, shapes), temperature)
