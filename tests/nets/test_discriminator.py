"""The patch discriminator: shapes, reach and gradients."""

import pytest
import torch

from hemolens.nets.discriminator import PatchDiscriminator


@pytest.mark.parametrize(("stages", "reach"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch_of_the_published_size(stages: int, reach: int) -> None:
    """70 px for three stages (Isola et al. 2017, appendix 6.1.2: C64-C128-C256-C512), 34 and 16 for fewer."""
    torch.manual_seed(0)
    net = PatchDiscriminator(1, 5, width=8, stages=stages).eval()
    images = torch.zeros(1, 1, 192, 192, requires_grad=True)
    logits = net(images, torch.rand(1, 5, 192, 192))
    middle = logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2]
    (gradient,) = torch.autograd.grad(middle, images)
    rows = torch.nonzero(gradient[0, 0].abs().sum(1)).flatten()
    assert int(rows[-1] - rows[0]) + 1 == reach


def test_published_size() -> None:
    """2,768,705 parameters with 3 + 3 channels, as pix2pix's basic discriminator with batch normalisation."""
    assert sum(p.numel() for p in PatchDiscriminator(3, 3).parameters()) == 2_768_705


def test_every_weight_gets_a_gradient_and_both_inputs_count() -> None:
    torch.manual_seed(0)
    net = PatchDiscriminator(1, 3, width=8, stages=2)
    images, masks = torch.rand(2, 1, 64, 48, requires_grad=True), torch.rand(2, 3, 64, 48, requires_grad=True)
    logits = net(images, masks)
    assert logits.shape == (2, 1, 14, 10) and logits.dtype == torch.float32
    logits.pow(2).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())
    assert images.grad is not None and masks.grad is not None
    assert bool(images.grad.abs().sum() > 0) and bool(masks.grad.abs().sum() > 0)
