"""The generator: x_0 from x_{t+1}, the step, a latent and, where there is one, a condition.

A U-Net of residual blocks as NCSN++ (Song et al. 2021, arXiv:2011.13456), whose every norm a latent modulates (Xiao,
Kreis & Vahdat 2022, arXiv:2112.07804).

Shapes: B images, C channels of what is made, K of the condition, H and W pixels, E features of an embedding.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from hemolens.errors import UserError
from hemolens.nets.ddgan.layers import (
    LatentMapping,
    ResidualBlock,
    SelfAttention,
    SmoothedDownConv,
    group_count,
    sinusoidal_embedding,
    start_small,
)


class _Down(nn.Module):
    """A level on the way down."""

    def __init__(self, blocks: Sequence[ResidualBlock], attentions: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.smaller: ResidualBlock | None = None
        self.pyramid: SmoothedDownConv | None = None

    def forward(
        self, h: Tensor, pyramid: Tensor, time: Tensor, style: Tensor, kept: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Maps and input pyramid of the next level; what the way up needs is added to ``kept``."""
        for residual, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(residual(h, time, style))
            kept.append(h)
        if self.smaller is not None and self.pyramid is not None:
            pyramid = h = (self.pyramid(pyramid) + self.smaller(h, time, style)) / math.sqrt(2)
            kept.append(h)
        return h, pyramid


class _Up(nn.Module):
    """A level on the way up."""

    def __init__(self, blocks: Sequence[ResidualBlock], attention: nn.Module, larger: ResidualBlock | None) -> None:
        super().__init__()
        self.blocks, self.attention, self.larger = nn.ModuleList(blocks), attention, larger

    def forward(self, h: Tensor, time: Tensor, style: Tensor, kept: list[Tensor]) -> Tensor:
        """Maps of the next level, [B, C, H, W]; takes from ``kept``, the last first."""
        for residual in self.blocks:
            h = residual(torch.cat([h, kept.pop()], dim=1), time, style)
        h = self.attention(h)
        return h if self.larger is None else self.larger(h, time, style)


class DDGANGenerator(nn.Module):
    """Denoise in one large step; the latent says which of the many possible images.

    With ``width=128``, ``multipliers=[1, 1, 2, 2, 4, 4]``, 5 + 1 channels in and 5 out it is the network of paper B,
    142,318,341 parameters (the paper's 135,891,461 is what ``thop`` counts: it leaves out attention, norms and the
    input pyramid).

    Args:
        channels: C, of what is made, in [-1, 1].
        condition_channels: K; 0 for none.
        image_px: side of the training images; says at which level a resolution of ``attention_px`` lies.
        width: channels of the first level.
        multipliers: of the width, one a level; each halves the resolution.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention_px: sides of the maps that have attention.
        latent_dim: length of z.
        style_features, mapping_depth: of the latent's mapping.
        dropout: in the residual blocks.

    Raises:
        UserError: an image that the levels cannot halve, or an attention where no level lies.
    """

    num_classes: int
    in_channels: int

    def __init__(
        self,
        *,
        channels: int = 1,
        condition_channels: int = 0,
        image_px: int = 256,
        width: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4, 4),
        blocks: int = 2,
        attention_px: Sequence[int] = (16,),
        latent_dim: int = 100,
        style_features: int = 256,
        mapping_depth: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stride = 2 ** (len(multipliers) - 1)
        sides = [image_px // 2**level for level in range(len(multipliers))]
        if not multipliers or image_px % self.stride:
            raise UserError(
                f"net.image_px={image_px}: {len(multipliers)} levels (net.multipliers) take multiples of {self.stride}"
            )
        if missing := sorted(set(attention_px) - set(sides)):
            raise UserError(f"net.attention_px={missing}: the levels have {', '.join(map(str, sides))} px")
        if width % 2 or width < 4:
            raise UserError(f"net.width={width}: give an even number, at least 4")
        self.channels, self.condition_channels = channels, condition_channels
        self.latent_dim, self.width, self.image_px = latent_dim, width, image_px
        entering = channels + condition_channels
        self.time_embedding = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.mapping = LatentMapping(latent_dim, style_features, mapping_depth)

        def block(before: int, after: int, resample: str | None = None) -> ResidualBlock:
            return ResidualBlock(
                before,
                after,
                time_features=4 * width,
                style_features=style_features,
                resample=resample,
                dropout=dropout,
            )

        def attention(side: int, features: int) -> nn.Module:
            return SelfAttention(features) if side in attention_px else nn.Identity()

        self.first = nn.Conv2d(entering, width, 3, padding=1)
        self.down = nn.ModuleList()
        kept, now, pyramid = [width], width, entering
        for level, (side, multiplier) in enumerate(zip(sides, multipliers, strict=True)):
            wide = width * multiplier
            residuals = [block(now if number == 0 else wide, wide) for number in range(blocks)]
            now = wide
            kept += [now] * blocks
            stage = _Down(residuals, [attention(side, now) for _ in residuals])
            if level < len(multipliers) - 1:
                stage.smaller, stage.pyramid = block(now, now, "down"), SmoothedDownConv(pyramid, now)
                pyramid = now
                kept.append(now)
            self.down.append(stage)
        self.middle = nn.ModuleList([block(now, now), SelfAttention(now), block(now, now)])
        self.up = nn.ModuleList()
        for level in reversed(range(len(multipliers))):
            wide = width * multipliers[level]
            residuals = [block((wide if number else now) + kept.pop(), wide) for number in range(blocks + 1)]
            now = wide
            self.up.append(_Up(residuals, attention(sides[level], now), block(now, now, "up") if level else None))
        self.last_norm = nn.GroupNorm(group_count(now), now, eps=1e-6)
        self.last = nn.Conv2d(now, channels, 3, padding=1)
        start_small(self.last)

    def forward(self, x: Tensor, t: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """x_0 in [-1, 1], [B, C, H, W].

        Args:
            x: x_{t+1}, float [B, C, H, W], H and W multiples of ``stride``.
            t: int64 [B], the step.
            z: float [B, latent_dim], standard normal.
            condition: float [B, K, H, W] in [-1, 1]; None where there is none.

        Raises:
            UserError: a condition that is missing, or that this network does not take.
        """
        given = 0 if condition is None else condition.shape[1]
        if given != self.condition_channels:
            raise UserError(f"a condition of {given} channels, where this generator takes {self.condition_channels}")
        entering = x if condition is None else torch.cat([x, condition.to(x.dtype)], dim=1)
        time = self.time_embedding(sinusoidal_embedding(t, self.width))
        style = self.mapping(z)
        h = self.first(entering)
        pyramid, kept = entering, [h]
        for stage in self.down:
            h, pyramid = stage(h, pyramid, time, style, kept)
        before, attention, after = self.middle
        h = after(attention(before(h, time, style)), time, style)
        for stage in self.up:
            h = stage(h, time, style, kept)
        return torch.tanh(self.last(silu(self.last_norm(h))).float())


def phase_generator(*, num_classes: int, in_channels: int, of_mask: bool = False, **options: Any) -> DDGANGenerator:
    """A generator of phase images.

    Args:
        num_classes: channels of the mask, where it is the condition.
        in_channels: of a phase image, which is what this network makes.
        of_mask: whether it sees a mask.
        options: see :class:`DDGANGenerator`.
    """
    net = DDGANGenerator(channels=in_channels, condition_channels=num_classes if of_mask else 0, **options)
    net.num_classes, net.in_channels = num_classes, in_channels
    return net


def mask_generator(*, num_classes: int, in_channels: int, **options: Any) -> DDGANGenerator:
    """A generator of masks, one channel a class, of phase images.

    Args:
        num_classes: channels of the mask.
        in_channels: of the phase image that it sees.
        options: see :class:`DDGANGenerator`.
    """
    net = DDGANGenerator(channels=num_classes, condition_channels=in_channels, **options)
    net.num_classes, net.in_channels = num_classes, in_channels
    return net
