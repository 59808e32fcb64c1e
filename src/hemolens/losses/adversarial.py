"""Losses of conditional GANs."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Mean cross entropy of real logits with 1 and of fake ones with 0, halved (Goodfellow et al. 2014, Eq. 1).

    Args:
        real, fake: logits of the discriminator, of any shape.
    """
    return (_against(real, 1.0) + _against(fake, 0.0)) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """Cross entropy of fake logits with 1: the generator's loss that does not saturate (Goodfellow et al. 2014)."""
    return _against(fake, 1.0)


def _against(logits: Tensor, value: float) -> Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, value))
