"""Feature extractors of FCOS: any timm `features_only` network, at any input size and channel count.

Shape suffixes: B batch, C channels, H W pixels of the input, h w cells of a feature map.
"""

import math
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from hemolens.nets.pretrained import create_timm_model, load_pretrained


class TimmBackbone(nn.Module):
    """Pyramid of feature maps from a timm network.

    Args:
        name: timm model name, e.g. ``resnet18``.
        in_channels: Channels of the image; 1 and 3 are usual, any works.
        out_indices: Which of timm's feature levels to return, finest first.
        pretrained: False: random weights. True: timm's ImageNet weights from the Hugging Face hub. A path:
            a local state dict, see :func:`hemolens.nets.pretrained.load_pretrained`.
        out_norm: Put a LayerNorm over the channels of each returned map, as Swin detectors do (Liu et al.,
            arXiv:2103.14030, whose own final norm is dropped with the classifier).
        drop_path_rate: Stochastic depth, the probability at the last block (growing linearly to it).

    Attributes:
        channels: Channels of each returned map.
        strides: Input pixels a cell of each returned map.

    Raises:
        UserError: Unknown ``name`` or level, weights that can't be found or don't fit.
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        out_indices: Sequence[int],
        pretrained: bool | str | PathLike[str] = False,
        out_norm: bool = False,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = _create(name, in_channels, out_indices, pretrained is True, drop_path_rate)
        if not isinstance(pretrained, bool):
            load_pretrained(self.model, pretrained, name=name, in_channels=in_channels)
        self.channels: list[int] = list(self.model.feature_info.channels())
        self.strides: list[int] = list(self.model.feature_info.reduction())
        self.norms = nn.ModuleList(nn.LayerNorm(c) if out_norm else nn.Identity() for c in self.channels)
        # Convolutions pad by themselves; a patch embedding needs whole patches.
        patch_embed = getattr(self.model, "patch_embed", None)
        self._patch: tuple[int, int] = (1, 1) if patch_embed is None else tuple(patch_embed.patch_size)
        self._channels_last = str(getattr(self.model.output_fmt, "value", self.model.output_fmt)) == "NHWC"

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images [B, C, H, W] to one [B, channels, ceil(H/stride), ceil(W/stride)] a level.

        Where the network takes whole patches only, the image is padded with zeros on the right and below.
        """
        height, width = images.shape[-2:]
        pad_h, pad_w = -height % self._patch[0], -width % self._patch[1]
        if pad_h or pad_w:
            images = F.pad(images, (0, pad_w, 0, pad_h))
        features = []
        for feature, norm in zip(self.model(images), self.norms, strict=True):
            if not self._channels_last:
                feature = rearrange(feature, "b c h w -> b h w c")
            features.append(rearrange(norm(feature), "b h w c -> b c h w"))  # views: no copy is made
        return features


def _create(name: str, in_channels: int, out_indices: Sequence[int], pretrained: bool, drop_path_rate: float) -> Any:
    """Build the timm network, with Swin freed from its fixed image size."""
    is_swin = name.startswith("swin_")
    # always_partition: windows and shifts stay as published whatever the size of the image (timm would take
    # both from its default of 224×224, which leaves the last stage without a shift).
    swin_arguments: dict[str, Any] = {"strict_img_size": False, "always_partition": True} if is_swin else {}
    model = create_timm_model(
        name,
        kind="backbone",
        key="net.backbone",
        settings="out_indices",
        pretrained=pretrained,
        options=swin_arguments,
        features_only=True,
        in_chans=in_channels,
        out_indices=tuple(int(i) for i in out_indices),
        drop_path_rate=drop_path_rate,
    )
    for module in model.modules():
        if type(module) is SwinTransformerBlock:
            module.__class__ = PadThenShiftBlock
    return model


class PadThenShiftBlock(SwinTransformerBlock):
    """Swin block that pads the map to whole windows *before* the cyclic shift, as the published one does.

    timm shifts first and pads after, while its attention mask is made for the other order: on maps that are
    not a multiple of the window, cells at one border then attend to the opposite border. Padding first makes
    timm's own padding empty and its mask right. No parameters are added.
    """

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window_h, window_w = self.window_size
        padded_h = math.ceil(height / window_h) * window_h
        padded_w = math.ceil(width / window_w) * window_w
        x = F.pad(x, (0, 0, 0, padded_w - width, 0, padded_h - height))
        return super()._attn(x)[:, :height, :width]
