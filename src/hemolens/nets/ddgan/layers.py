"""Layers of the generator and the discriminator: antialiased resampling, embeddings, modulated norms, attention.

Shapes: B images, C channels, H and W pixels, E features of an embedding.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, interpolate, silu

FIR = (1.0, 3.0, 3.0, 1.0)  # binomial low pass (Zhang 2019; Karras et al. 2020, StyleGAN2)
MAX_GROUPS = 32


def group_count(channels: int) -> int:
    """Groups of a group norm: at most 32, of at least 4 channels each, all alike."""
    return max(
        groups for groups in range(1, MAX_GROUPS + 1) if channels % groups == 0 and 4 * groups <= max(channels, 4)
    )


class FIRFilter(nn.Module):
    """Halve or double the size of feature maps with a low pass, so that nothing is aliased."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(FIR)
        self.register_buffer("taps", torch.outer(taps, taps)[None, None] / taps.sum() ** 2, persistent=False)

    def smooth(self, x: Tensor, padding: int, stride: int = 1) -> Tensor:
        """Low-passed [B, C, H', W'] of maps [B, C, H, W]."""
        taps = self.taps.expand(x.shape[1], 1, -1, -1)
        with torch.autocast(x.device.type, enabled=False):  # CPUs are eight times slower at it in bfloat16
            return conv2d(x.float(), taps.float(), stride=stride, padding=padding, groups=x.shape[1]).to(x.dtype)

    def halved(self, x: Tensor) -> Tensor:
        """Maps [B, C, H / 2, W / 2]."""
        return self.smooth(x, padding=1, stride=2)

    def doubled(self, x: Tensor) -> Tensor:
        """Maps [B, C, 2 H, 2 W]."""
        return interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)  # the same filter


class SmoothedDownConv(nn.Module):
    """A strided 3×3 convolution after a low pass."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2)
        self.filter = FIRFilter()

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, out_channels, H / 2, W / 2]."""
        out: Tensor = self.conv(self.filter.smooth(x, padding=2))
        return out


def sinusoidal_embedding(t: Tensor, features: int) -> Tensor:
    """Sines and cosines of time steps at geometric frequencies, float32 [B, features] (Vaswani et al. 2017, 3.5).

    Args:
        t: [B].
        features: even.
    """
    half = features // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(10_000) / max(half - 1, 1)))
    angles = t.float()[:, None] * frequencies[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class LatentMapping(nn.Module):
    """Normalised latents through dense layers: the style that modulates every block (Karras et al. 2019).

    Args:
        latent_dim: of z.
        features: of the style.
        depth: dense layers after the first.
    """

    def __init__(self, latent_dim: int, features: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(latent_dim, features), nn.SiLU()]
        for _ in range(depth):
            layers += [nn.Linear(features, features), nn.SiLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Style [B, features] of latents [B, latent_dim]."""
        style: Tensor = self.layers(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())
        return style


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift come from a style."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.groups = group_count(channels)
        self.style = nn.Linear(features, 2 * channels)
        with torch.no_grad():
            self.style.bias.copy_(torch.cat([torch.ones(channels), torch.zeros(channels)]))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Maps [B, C, H, W] with the statistics that the style [B, features] asks for."""
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        return scale * group_norm(x, self.groups, eps=1e-6) + shift


class ResidualBlock(nn.Module):
    """Two modulated 3×3 convolutions and a skip, resampled between where asked (Brock et al. 2019, BigGAN).

    Args:
        in_channels, out_channels: of the maps.
        time_features, style_features: of the embeddings.
        resample: ``up``, ``down`` or None.
        dropout: before the second convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_features: int,
        style_features: int,
        resample: str | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_in = AdaptiveGroupNorm(in_channels, style_features)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_features, out_channels)
        self.norm_out = AdaptiveGroupNorm(out_channels, style_features)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        changes = in_channels != out_channels or resample is not None
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if changes else nn.Identity()
        self.filter = FIRFilter()
        self.resample = resample
        start_small(self.conv_out)

    def forward(self, x: Tensor, time: Tensor, style: Tensor) -> Tensor:
        """Maps of maps [B, C, H, W], a time embedding [B, E] and a style [B, E']."""
        h = silu(self.norm_in(x, style))
        if self.resample is not None:
            change = self.filter.halved if self.resample == "down" else self.filter.doubled
            h, x = change(h), change(x)
        h = self.conv_in(h) + self.time(silu(time))[:, :, None, None]
        h = self.conv_out(self.dropout(silu(self.norm_out(h, style))))
        out: Tensor = (self.skip(x) + h) / math.sqrt(2)
        return out


class SelfAttention(nn.Module):
    """Each pixel looks at all others, in one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(group_count(channels), channels, eps=1e-6)
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        start_small(self.out)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] of the same."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        found = nn.functional.scaled_dot_product_attention(self.query(tokens), self.key(tokens), self.value(tokens))
        attended = self.out(found).transpose(1, 2).reshape(x.shape)
        out: Tensor = (x + attended) / math.sqrt(2)
        return out


class MinibatchStd(nn.Module):
    """A further channel: how much images of a group differ, which tells a collapsed generator (Karras et al. 2018).

    Args:
        group: images that are compared, at most: the largest number that divides the batch is taken.
    """

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C + 1, H, W]."""
        batch, channels, height, width = x.shape
        group = max(number for number in range(1, self.group + 1) if batch % number == 0)
        members = x.float().view(group, -1, channels, height, width)
        spread = (members.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # of each of B / group groups
        return torch.cat([x, spread.to(x.dtype).repeat(group).view(batch, 1, 1, 1).expand(-1, -1, height, width)], 1)


def start_small(layer: nn.Conv2d | nn.Linear) -> None:
    """Let a branch start as nearly nothing, so that a block starts as its skip."""
    with torch.no_grad():
        layer.weight.mul_(1e-5)
        if layer.bias is not None:
            layer.bias.zero_()
