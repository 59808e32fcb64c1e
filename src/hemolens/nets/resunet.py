"""ResUnet of paper B: a ResNet encoder and a U-Net decoder, from segmentation-models-pytorch and timm.

Shapes: B images, C channels, H, W pixels, K classes (background included).
"""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from hemolens.errors import UserError
from hemolens.nets.pretrained import load_pretrained
from hemolens.nets.transfer import PARTS, load_parts


class ResUnet(nn.Module):
    """U-Net over a timm encoder; with the defaults and three input channels 73,688,197 parameters, as in paper B.

    Args:
        num_classes: K, with the background.
        in_channels: C; 1 for phase.
        encoder: any timm network with features at five strides (2 to 32), e.g. ``resnet18``.
        decoder_channels: of the five stages, from the deepest.
        pretrained: file of encoder weights, see :func:`hemolens.nets.pretrained.load_pretrained`; None or False for
            none.
        init_from: hemolens checkpoint that ``init_parts`` are taken from whole, self-supervised or of a segmentation,
            see :func:`hemolens.nets.transfer.load_parts`; None for none.
        init_parts: ``encoder``, ``decoder`` or both.

    Raises:
        UserError: no such encoder, one without five strides, weights that do not fit, or weights from two sources.
    """

    #: Height and width must be multiples of it.
    stride = 32

    def __init__(
        self,
        num_classes: int = 5,
        in_channels: int = 1,
        *,
        encoder: str = "resnet50",
        decoder_channels: Sequence[int] = (1024, 512, 256, 128, 64),
        pretrained: bool | str | PathLike[str] | None = None,
        init_from: str | PathLike[str] | None = None,
        init_parts: Sequence[str] = PARTS,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        try:
            whole: Any = smp.Unet(
                f"tu-{encoder}",
                encoder_weights=None,
                encoder_depth=len(decoder_channels),
                decoder_channels=tuple(decoder_channels),
                in_channels=in_channels,
                classes=num_classes,
            )
        except Exception as error:  # smp and timm each raise their own kinds
            raise UserError(
                f"can't build a U-Net over the timm network {encoder!r}: {error}; check net.encoder "
                "(timm.list_models()) and net.decoder_channels"
            ) from error
        self.encoder, self.decoder = whole.encoder, whole.decoder
        self.head = nn.Conv2d(decoder_channels[-1], num_classes, 1)
        if pretrained is True:
            raise UserError("net.pretrained=true: give a file of encoder weights, or null")
        if pretrained and init_from and "encoder" in init_parts:
            raise UserError("net.pretrained and net.init_from both give an encoder: leave one of them null")
        if pretrained:
            load_pretrained(self.encoder.model, pretrained, name=encoder, in_channels=in_channels, key="net", head=None)
        if init_from:
            load_parts(self, init_from, init_parts)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K, H, W] of images [B, C, H, W]; H and W are multiples of 32."""
        features = self.encoder(images)
        logits: Tensor = self.head(self.decoder(features))
        return logits.float()
