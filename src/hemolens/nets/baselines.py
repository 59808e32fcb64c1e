"""The networks that paper B compares with, built to the sizes that its tables give (for three input channels).

Each is found in the literature: the U-Net generator of pix2pix (Isola et al. 2017), DeepLabv3+ (Chen et al. 2018), FCN
over VGG-16 (Long et al. 2015), PSPNet over a ResNet-101 with a deep stem (Zhao et al. 2017), and the Deep ResUNet
(Zhang et al. 2018) as the generator of GAN + Watershed. Widths and depths are arguments, so that small ones can be
trained on a CPU. Logits are float32 under autocast too.

Shapes: B images, C channels, H, W pixels, K classes (background included), F features of a stage.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hemolens.nets.pretrained import create_timm_model


class UNet(nn.Module):
    """The U-Net generator of pix2pix: strided convolutions down to one pixel and back, with skips.

    Args:
        num_classes: K.
        in_channels: C.
        width: F of the first stage; the paper's 64 gives 54,424,581 parameters.
        depth: stages; H and W are multiples of 2 ** depth.
    """

    def __init__(self, num_classes: int = 5, in_channels: int = 1, *, width: int = 64, depth: int = 8) -> None:
        super().__init__()
        self.num_classes, self.in_channels, self.stride = num_classes, in_channels, 2**depth
        widths = [width * min(2**stage, 8) for stage in range(depth)]
        self.down = nn.ModuleList(
            nn.Sequential(
                *([nn.LeakyReLU(0.2)] if stage else []),
                nn.Conv2d(widths[stage - 1] if stage else in_channels, widths[stage], 4, 2, 1),
                *([nn.BatchNorm2d(widths[stage])] if stage else []),
            )
            for stage in range(depth)
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.ConvTranspose2d(
                    widths[stage] * (1 if stage == depth - 1 else 2),
                    widths[stage - 1] if stage else num_classes,
                    4,
                    2,
                    1,
                ),
                *([nn.BatchNorm2d(widths[stage - 1])] if stage else []),
            )
            for stage in reversed(range(depth))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K, H, W] of images [B, C, H, W]; in training at least two images where the middle is one pixel."""
        skips = [images]
        for block in self.down:
            skips.append(block(skips[-1]))
        features = skips.pop()
        for number, block in enumerate(self.up):
            features = block(features if number == 0 else torch.cat([features, skips.pop()], dim=1))
        return features.float()


class DeepLabV3Plus(nn.Module):
    """DeepLabv3+ over a ResNet: atrous spatial pyramid, and a decoder with the features of stride 4.

    Args:
        num_classes: K.
        in_channels: C.
        encoder: a timm network; ``resnet50`` gives 39,757,733 parameters.
        output_stride: 8, 16 or 32; the paper's multiply-accumulates fit 32.
        rates: of the pyramid's three dilated convolutions.
        width: F of the pyramid.
    """

    stride = 32

    def __init__(
        self,
        num_classes: int = 5,
        in_channels: int = 1,
        *,
        encoder: str = "resnet50",
        output_stride: int = 32,
        rates: Sequence[int] = (6, 12, 18),
        width: int = 256,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.encoder = _encoder(encoder, in_channels, (1, 4), output_stride=output_stride)
        low, high = self.encoder.feature_info.channels()
        self.branches = nn.ModuleList(
            [_conv(high, width, 1), *(_conv(high, width, 3, dilation=rate) for rate in rates)]
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), _conv(high, width, 1))
        self.project = nn.Sequential(_conv(width * (len(rates) + 2), width, 1), nn.Dropout(0.1))
        self.low = _conv(low, 48, 1)
        self.classify = nn.Sequential(_conv(width + 48, width, 3), nn.Conv2d(width, num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K, H, W] of images [B, C, H, W]; in training a batch of at least two."""
        low, high = self.encoder(images)
        pooled = self.pooled(high).expand(-1, -1, *high.shape[-2:])
        pyramid = self.project(torch.cat([*(branch(high) for branch in self.branches), pooled], dim=1))
        joined = torch.cat([self.low(low), _resized(pyramid, low)], dim=1)
        return _resized(self.classify(joined).float(), images)


class FCN(nn.Module):
    """FCN-8s over VGG: transposed convolutions with normalisation; skips are added where widths agree.

    Args:
        num_classes: K.
        in_channels: C.
        encoder: a timm VGG; ``vgg16`` gives 18,643,845 parameters.
        widths: F of the five steps up.
    """

    stride = 32

    def __init__(
        self,
        num_classes: int = 5,
        in_channels: int = 1,
        *,
        encoder: str = "vgg16",
        widths: Sequence[int] = (512, 256, 128, 64, 32),
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.encoder = _encoder(encoder, in_channels, None)
        channels = [info["num_chs"] for info in self.encoder.feature_info]
        self.reductions = [info["reduction"] for info in self.encoder.feature_info]
        ins = [channels[-1], *widths[:-1]]
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1), nn.ReLU(), nn.BatchNorm2d(b)
            )
            for a, b in zip(ins, widths, strict=True)
        )
        self.classify = nn.Conv2d(widths[-1], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K, H, W] of images [B, C, H, W]; H and W are multiples of 32."""
        by_stride = dict(zip(self.reductions, self.encoder(images), strict=True))
        features, stride = by_stride[32], 32
        for block in self.up:
            features, stride = block(features), stride // 2
            skip = by_stride.get(stride)
            if stride in (16, 8) and skip is not None and skip.shape[1] == features.shape[1]:
                features = features + skip
        return self.classify(features).float()


class PSPNet(nn.Module):
    """Pyramid scene parsing over a dilated ResNet with a deep stem.

    Args:
        num_classes: K.
        in_channels: C.
        encoder: a timm ResNet; ``resnet101`` gives 65,700,293 parameters.
        bins: sides of the pooled grids.
        width: F of the last convolution.
    """

    stride = 8

    def __init__(
        self,
        num_classes: int = 5,
        in_channels: int = 1,
        *,
        encoder: str = "resnet101",
        bins: Sequence[int] = (1, 2, 3, 6),
        width: int = 512,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.encoder = _encoder(encoder, in_channels, (4,), output_stride=8, stem_width=64, stem_type="deep")
        (high,) = self.encoder.feature_info.channels()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), _conv(high, high // len(bins), 1)) for side in bins
        )
        self.classify = nn.Sequential(_conv(2 * high, width, 3), nn.Dropout2d(0.1), nn.Conv2d(width, num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K, H, W] of images [B, C, H, W]; in training a batch of at least two."""
        (high,) = self.encoder(images)
        pooled = [_resized(pool(high), high) for pool in self.pools]
        return _resized(self.classify(torch.cat([high, *pooled], dim=1)).float(), images)


class DeepResUNet(nn.Module):
    """Residual U-Net without pooling: the generator of GAN + Watershed.

    Args:
        num_classes: K.
        in_channels: C.
        widths: F of the four stages; 64, 128, 256, 512 give 13,043,269 parameters.
    """

    def __init__(
        self, num_classes: int = 5, in_channels: int = 1, *, widths: Sequence[int] = (64, 128, 256, 512)
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels, self.stride = num_classes, in_channels, 2 ** (len(widths) - 1)
        first = widths[0]
        self.enter = nn.Sequential(
            nn.Conv2d(in_channels, first, 3, padding=1),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, first, 3, padding=1),
        )
        self.enter_skip = nn.Conv2d(in_channels, first, 3, padding=1)
        self.down = nn.ModuleList(_Residual(a, b, 2) for a, b in pairwise(widths))
        backwards = list(reversed(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, a, 2, stride=2) for a in backwards[:-1])
        self.join = nn.ModuleList(_Residual(a + b, b, 1) for a, b in pairwise(backwards))
        self.classify = nn.Conv2d(first, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K, H, W] of images [B, C, H, W]."""
        skips = [self.enter(images) + self.enter_skip(images)]
        for block in self.down:
            skips.append(block(skips[-1]))
        features = skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            features = join(torch.cat([up(features), skips.pop()], dim=1))
        return self.classify(features).float()


class _Residual(nn.Module):
    """Normalised, activated convolutions beside a convolution: [B, a, H, W] to [B, b, H / stride, W / stride]."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(a),
            nn.ReLU(),
            nn.Conv2d(a, b, 3, stride=stride, padding=1),
            nn.BatchNorm2d(b),
            nn.ReLU(),
            nn.Conv2d(b, b, 3, padding=1),
        )
        self.skip = nn.Sequential(nn.Conv2d(a, b, 3, stride=stride, padding=1), nn.BatchNorm2d(b))

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = self.body(features) + self.skip(features)
        return added


def _encoder(name: str, in_channels: int, out_indices: Sequence[int] | None, **options: Any) -> Any:
    """A timm network that gives features."""
    chosen = {} if out_indices is None else {"out_indices": tuple(out_indices)}
    return create_timm_model(
        name,
        kind="encoder",
        key="net",
        settings="encoder",
        pretrained=False,
        options=options,
        features_only=True,
        in_chans=in_channels,
        **chosen,
    )


def _conv(a: int, b: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias, normalisation, ReLU; size kept."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(a, b, kernel, padding=padding, dilation=dilation, bias=False), nn.BatchNorm2d(b), nn.ReLU()
    )


def _resized(features: Tensor, like: Tensor) -> Tensor:
    return interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)
