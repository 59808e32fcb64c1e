"""The contrastive loss of MoCo: InfoNCE against a queue of keys (paper B, Eq. 10).

Shapes: N samples, D features, K keys in the queue.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hemolens.errors import UserError


def info_nce_logits(q: Tensor, k: Tensor, queue: Tensor, temperature: float = 0.2) -> Tensor:
    """[q·k⁺, q·queue] / T, the positive key first; computed in float32 under autocast too.

    Args:
        q: queries [N, D] of length 1.
        k: the positive key of each, [N, D] of length 1; gets no gradient.
        queue: the negative keys, [K, D] of length 1; gets no gradient. It is kept for the backward pass: give a copy
            if it is to be written before.
        temperature: T; 0.2 in MoCo v2 (Chen et al. 2020, arXiv:2003.04297).

    Returns:
        float32 [N, 1 + K].

    Raises:
        UserError: shapes that do not fit, no sample, or a temperature that is not positive.
    """
    if q.ndim != 2 or k.shape != q.shape or queue.ndim != 2 or queue.shape[1] != q.shape[1] or not len(q):
        raise UserError(
            f"queries {list(q.shape)}, keys {list(k.shape)} and queue {list(queue.shape)}: give [N, D], [N, D] and "
            "[K, D], N at least 1"
        )
    if temperature <= 0:
        raise UserError(f"model.temperature={temperature}: must be positive, e.g. 0.2")
    with torch.autocast(q.device.type, enabled=False):
        q, k, queue = q.float(), k.detach().float(), queue.detach().float()
        positive = (q * k).sum(1, keepdim=True)
        return torch.cat([positive, q @ queue.T], dim=1) / temperature


def info_nce_of_logits(logits: Tensor) -> Tensor:
    """Mean cross entropy, in nats, of :func:`info_nce_logits` [N, 1 + K] with the positive key, a scalar."""
    return cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float = 0.2) -> Tensor:
    """-log exp(q·k⁺/T) / (exp(q·k⁺/T) + sum over the queue of exp(q·k/T)), mean over the samples.

    He et al. 2020 (arXiv:1911.05722), Eq. 1; paper B, Eq. 10. Arguments and errors are those of
    :func:`info_nce_logits`.
    """
    return info_nce_of_logits(info_nce_logits(q, k, queue, temperature))
