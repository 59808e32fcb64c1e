"""Losses of adversarial networks."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Mean cross entropy of real logits with 1, and of fake ones with 0, added (Goodfellow et al. 2014, Eq. 1).

    Args:
        real, fake: logits of the discriminator, of any shape.
    """
    return softplus(-real).mean() + softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Cross entropy of fake logits with 1: the generator's loss that does not saturate (Goodfellow et al. 2014)."""
    return softplus(-fake).mean()


def r1_penalty(logits_of: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Half the mean squared norm of the discriminator's gradient at real images (Mescheder et al. 2018, Eq. 9).

    Args:
        logits_of: the discriminator, [B] or any shape with B first of images.
        images: [B, C, H, W].
    """
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(logits_of(images).sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2
