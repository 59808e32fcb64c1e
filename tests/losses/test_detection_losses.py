"""Detection losses against the papers' formulas, written out one number at a time."""

import math

import pytest
import torch

from hemolens.losses.detection import centerness_loss, centerness_target, focal_loss, giou_loss


def literal_focal(logits, labels, alpha, gamma):
    """arXiv:1708.02002, eq. 4 and 5."""
    rows = []
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        terms = []
        for c, logit in enumerate(row):
            p = 1 / (1 + math.exp(-logit))
            p_t, alpha_t = (p, alpha) if c == label else (1 - p, 1 - alpha)
            terms.append(-alpha_t * (1 - p_t) ** gamma * math.log(p_t))
        rows.append(terms)
    return torch.tensor(rows, dtype=torch.float64)


def literal_giou(a, b):
    """arXiv:1902.09630, algorithm 1."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return both / union - (hull - union) / hull


def random_boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 20
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 20], dim=1)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.75, 1.5)])
def test_focal_is_the_formula(alpha, gamma):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 4, generator=generator) * 3
    labels = torch.randint(-1, 4, (40,), generator=generator)
    expected = literal_focal(logits, labels, alpha, gamma).float()
    for reduction, reduce in (("none", lambda x: x), ("sum", torch.sum), ("mean", torch.mean)):
        torch.testing.assert_close(focal_loss(logits, labels, alpha, gamma, reduction), reduce(expected))


def test_focal_closed_form():
    logits = torch.zeros(2, 3)
    # p = 0.5 everywhere: alpha_t · 0.25 · ln 2
    loss = focal_loss(logits, torch.tensor([1, -1]), reduction="none") / (0.25 * math.log(2))
    torch.testing.assert_close(loss, torch.tensor([[0.75, 0.25, 0.75], [0.75, 0.75, 0.75]]))


def test_focal_with_gamma_zero_is_half_cross_entropy():
    logits = torch.randn(10, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(10) % 3 - 1
    one_hot = torch.stack([(labels == c).float() for c in range(2)], dim=1)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="sum")
    torch.testing.assert_close(focal_loss(logits, labels, alpha=0.5, gamma=0.0), bce / 2)


def test_focal_gradient_is_that_of_the_formula():
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(2)).requires_grad_()
    labels = torch.tensor([-1, 0, 1, 0, -1, 1])
    focal_loss(logits, labels).backward()
    step = 1e-5
    up, down = (literal_focal(logits.detach().double() + s, labels, 0.25, 2.0) for s in (step, -step))
    torch.testing.assert_close(logits.grad, ((up - down) / (2 * step)).float(), rtol=1e-4, atol=1e-5)


def test_giou_is_the_formula():
    pred, target = random_boxes(50, 0), random_boxes(50, 1)
    weight = torch.rand(50, generator=torch.Generator().manual_seed(2))
    expected = 1 - torch.tensor([literal_giou(a, b) for a, b in zip(pred.tolist(), target.tolist(), strict=True)])
    torch.testing.assert_close(giou_loss(pred, target, reduction="none"), expected)
    torch.testing.assert_close(giou_loss(target, pred, reduction="none"), expected)
    torch.testing.assert_close(giou_loss(pred, target), expected.sum())
    torch.testing.assert_close(giou_loss(pred, target, weight), (expected * weight).sum())
    torch.testing.assert_close(giou_loss(pred, target, weight, "mean"), (expected * weight).mean())


def test_giou_closed_form():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    assert giou_loss(boxes, boxes).item() == pytest.approx(0, abs=1e-6)
    # apart: IoU 0, hull 6 × 2, union 8: 1 − (0 − 4/12)
    assert giou_loss(boxes, boxes + torch.tensor([4.0, 0, 4.0, 0])).item() == pytest.approx(4 / 3)
    # half as wide: IoU 0.5, the hull is the union
    assert giou_loss(boxes, torch.tensor([[0.0, 0.0, 1.0, 2.0]])).item() == pytest.approx(0.5)
    # lengths in strides or in pixels: no difference
    pred, target = random_boxes(9, 3), random_boxes(9, 4)
    torch.testing.assert_close(giou_loss(pred * 8, target * 8), giou_loss(pred, target))


def test_giou_has_a_finite_gradient_at_an_empty_prediction():
    pred = torch.tensor([[5.0, 5.0, 5.0, 5.0]], requires_grad=True)
    giou_loss(pred, torch.tensor([[0.0, 0.0, 10.0, 10.0]])).backward()
    assert torch.isfinite(pred.grad).all()


def test_centerness_target_is_the_formula():
    ltrb = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) * 30
    expected = [
        math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
        for left, top, right, bottom in ltrb.tolist()
    ]
    found = centerness_target(ltrb)
    torch.testing.assert_close(found, torch.tensor(expected))
    torch.testing.assert_close(centerness_target(ltrb / 8), found)
    torch.testing.assert_close(centerness_target(ltrb[:, [2, 1, 0, 3]]), found)
    torch.testing.assert_close(centerness_target(ltrb[:, [1, 0, 3, 2]]), found)


def test_centerness_target_closed_form():
    ltrb = torch.tensor([[3, 5, 3, 5], [1, 1, 3, 3], [1, 4, 4, 4], [0, 1, 2, 1], [0, 0, 0, 0], [-1, 2, 5, 2]])
    torch.testing.assert_close(centerness_target(ltrb), torch.tensor([1, 1 / 3, 0.5, 0, 0, 0]))


def test_centerness_loss_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(20, generator=generator), torch.rand(20, generator=generator)
    p = [1 / (1 + math.exp(-x)) for x in logits.tolist()]
    terms = [-t * math.log(q) - (1 - t) * math.log(1 - q) for q, t in zip(p, targets.tolist(), strict=True)]
    torch.testing.assert_close(centerness_loss(logits, targets, "none"), torch.tensor(terms))
    torch.testing.assert_close(centerness_loss(logits, targets), torch.tensor(sum(terms)))
    torch.testing.assert_close(centerness_loss(logits, targets, "mean"), torch.tensor(sum(terms) / 20))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_nothing_to_learn_from_is_zero_with_a_gradient(reduction):
    """Images without objects: the graph must stay connected, for parallel training."""
    boxes = torch.rand(3, 4, requires_grad=True)
    logits = torch.rand(3, requires_grad=True)
    none = torch.zeros(3, dtype=torch.bool)
    loss = giou_loss(boxes[none], torch.zeros(0, 4), torch.zeros(0), reduction)
    loss = loss + centerness_loss(logits[none], torch.zeros(0), reduction)
    loss = loss + focal_loss(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), reduction=reduction)
    assert loss.item() == 0
    loss.backward()
    assert not boxes.grad.any() and not logits.grad.any()


def test_float32_under_autocast_and_for_half_inputs():
    logits, labels = torch.randn(8, 4).bfloat16(), torch.arange(8) % 5 - 1
    boxes = random_boxes(8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [
            focal_loss(logits, labels),
            giou_loss(boxes, boxes + 1, weight=torch.ones(8).bfloat16()),
            centerness_loss(logits[:, 0], torch.rand(8).bfloat16()),
            centerness_target(boxes),
        ]
    assert all(x.dtype == torch.float32 for x in losses)
    torch.testing.assert_close(losses[0], focal_loss(logits.float(), labels))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: focal_loss(torch.zeros(2, 3), torch.tensor([0, 3])), "label 3 is outside.*net.num_classes"),
        (lambda: focal_loss(torch.zeros(2, 3), torch.tensor([0, -2])), "label -2 is outside"),
        (lambda: focal_loss(torch.zeros(2, 3), torch.zeros(2)), "give integers"),
        (lambda: focal_loss(torch.zeros(1, 2, 3), torch.zeros(2)), r"expected \[N, C\]"),
        (lambda: focal_loss(torch.zeros(2, 3), torch.zeros(3)), r"expected \[N, C\]"),
        (
            lambda: focal_loss(torch.zeros(1, 3), torch.tensor([0]), reduction="avg"),
            "'sum', 'mean' or 'none'",
        ),
        (lambda: giou_loss(torch.zeros(2, 4), torch.zeros(3, 4)), r"expected \[N, 4\]"),
        (lambda: giou_loss(torch.zeros(4), torch.zeros(4)), r"expected \[N, 4\]"),
        (lambda: giou_loss(torch.zeros(2, 4), torch.zeros(2, 4), torch.ones(1)), "weight"),
        (lambda: centerness_target(torch.zeros(3)), r"expected \[N, 4\]"),
        (lambda: centerness_loss(torch.zeros(3), torch.zeros(2)), r"expected \[N\]"),
        (lambda: centerness_loss(torch.zeros(3, 1), torch.zeros(3, 1)), r"expected \[N\]"),
    ],
)
def test_bad_inputs_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
