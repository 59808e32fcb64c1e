"""The discriminator: is x_t the image that one step of noise made x_{t+1} of? (Xiao, Kreis & Vahdat 2022)

Shapes: B images, C channels of an image, K of the condition, H and W pixels.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from hemolens.errors import UserError
from hemolens.nets.ddgan.layers import FIRFilter, MinibatchStd, sinusoidal_embedding

SLOPE = 0.2


class DownBlock(nn.Module):
    """Two 3×3 convolutions with the step between them, a skip, and half the size."""

    def __init__(self, in_channels: int, out_channels: int, time_features: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_features, out_channels)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.filter = FIRFilter()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Maps [B, out_channels, H / 2, W / 2]."""
        h = self.conv_in(leaky_relu(x, SLOPE)) + self.time(time)[:, :, None, None]
        h = self.conv_out(self.filter.halved(leaky_relu(h, SLOPE)))
        out: Tensor = (h + self.skip(self.filter.halved(x))) / math.sqrt(2)
        return out


class DDGANDiscriminator(nn.Module):
    """Judges pairs (x_t, x_{t+1}), knowing t.

    Its default is the network of the cited paper for 256 px, 27,737,729 parameters with ``channels=5``.

    Args:
        channels: C.
        condition_channels: K, of a condition that it sees too; 0: it does not (paper B says nothing of it; SynDiff,
            Özbey et al. 2023, does not show it).
        widths: channels before the first block and after each; each block halves the size.
        time_features: of the embedding of t; even.
        group: images that are compared, see ``layers.MinibatchStd``.

    Raises:
        UserError: fewer than two widths.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        condition_channels: int = 0,
        widths: Sequence[int] = (128, 256, 512, 512, 512, 512, 512),
        time_features: int = 256,
        group: int = 4,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise UserError(f"discriminator.widths={list(widths)}: give at least two")
        self.condition_channels, self.time_features = condition_channels, time_features
        self.time_embedding = nn.Sequential(
            nn.Linear(time_features, time_features), nn.LeakyReLU(SLOPE), nn.Linear(time_features, time_features)
        )
        self.first = nn.Conv2d(2 * channels + condition_channels, widths[0], 1)
        self.blocks = nn.ModuleList(DownBlock(before, after, time_features) for before, after in pairwise(widths))
        self.spread = MinibatchStd(group)
        self.last_conv = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.last = nn.Linear(widths[-1], 1)

    def forward(self, x_t: Tensor, x_next: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Logits float32 [B]: above 0 for pairs that it takes for real.

        Args:
            x_t, x_next: x_t and x_{t+1}, float [B, C, H, W].
            t: int64 [B].
            condition: float [B, K, H, W]; left aside by a network that was made without.
        """
        parts = [x_t, x_next]
        if self.condition_channels:
            if condition is None:
                raise UserError(f"this discriminator wants a condition of {self.condition_channels} channels")
            parts.append(condition.to(x_t.dtype))
        time = leaky_relu(self.time_embedding(sinusoidal_embedding(t, self.time_features)), SLOPE)
        h = self.first(torch.cat(parts, dim=1))
        for block in self.blocks:
            h = block(h, time)
        h = leaky_relu(self.last_conv(self.spread(leaky_relu(h, SLOPE))), SLOPE)
        logits: Tensor = self.last(h.sum((2, 3)))
        return logits.float()[:, 0]
