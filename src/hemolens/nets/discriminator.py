"""The discriminator of a conditional GAN: is a mask the mask of this image? (PatchGAN, Isola et al. 2017)

Shapes: B images, C image channels, K mask channels, F features of a stage.
"""

import torch
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Says of each overlapping patch of an image and a mask whether they belong together.

    With ``width=64`` and ``stages=3`` a patch is 70 px wide, as in pix2pix.

    Args:
        image_channels: C.
        mask_channels: K.
        width: F of the first stage; doubled by each, at most eightfold.
        stages: strided convolutions.
    """

    def __init__(self, image_channels: int = 1, mask_channels: int = 5, *, width: int = 64, stages: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**stage, 8) for stage in range(stages + 1)]
        layers: list[nn.Module] = [nn.Conv2d(image_channels + mask_channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for stage in range(1, stages + 1):
            step = 2 if stage < stages else 1
            layers += [
                nn.Conv2d(widths[stage - 1], widths[stage], 4, step, 1, bias=False),
                nn.BatchNorm2d(widths[stage]),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Logits float32 [B, 1, h, w] of images [B, C, H, W] and masks [B, K, H, W], one a patch."""
        logits: Tensor = self.layers(torch.cat([images, masks.to(images.dtype)], dim=1))
        return logits.float()
