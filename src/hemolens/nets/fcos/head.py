"""Head of FCOS (Tian et al., arXiv:1904.01355), with the improvements of its section 3 and of its later code.

Shape suffixes: B batch, C classes, h w cells of a level, N_l = h·w cells of level l, row-major.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from hemolens.errors import UserError


class FCOSHead(nn.Module):
    """Two towers of 3×3 convolution, GroupNorm and ReLU, shared by all levels, and three 3×3 predictors.

    Centerness is predicted on the regression tower. Distances are relu(scale_l · raw) · stride_l: the net
    learns them in units of the stride, callers get pixels. All convolutions have a bias and start from
    Normal(0, 0.01); the class bias starts at −log((1 − p)/p), p the prior (arXiv:1708.02002, 3.3).

    Args:
        in_channels: Channels of each feature map.
        num_classes: Classes, without background.
        strides: Input pixels a cell, one for each level.
        feat_channels: Channels of the towers.
        stacked_convs: Convolutions in each tower.
        norm_groups: Groups of the GroupNorms; must divide ``feat_channels``.
        prior: Class probability everywhere before training.
        initial_distance: Bias of the distances before training, in strides. 0 is the published start, at which half
            of the distances are cut off by the relu; about the size of a cell saves a short training many steps.

    Raises:
        UserError: ``feat_channels`` is not a multiple of ``norm_groups``.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        strides: Sequence[int],
        feat_channels: int = 256,
        stacked_convs: int = 4,
        norm_groups: int = 32,
        prior: float = 0.01,
        initial_distance: float = 0.0,
    ) -> None:
        super().__init__()
        if feat_channels % norm_groups:
            raise UserError(
                f"the head has {feat_channels} channels in {norm_groups} groups: set "
                "net.head.norm_groups to a divisor of net.head.feat_channels"
            )
        self.num_classes = num_classes
        self.strides = tuple(int(s) for s in strides)
        self.cls_tower = _tower(in_channels, feat_channels, stacked_convs, norm_groups)
        self.reg_tower = _tower(in_channels, feat_channels, stacked_convs, norm_groups)
        width = feat_channels if stacked_convs else in_channels
        self.cls_logits = nn.Conv2d(width, num_classes, 3, padding=1)
        self.ltrb = nn.Conv2d(width, 4, 3, padding=1)
        self.centerness = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(self.strides)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # every convolution here has one
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]
        nn.init.constant_(self.ltrb.bias, initial_distance)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Predict at every cell of every level.

        Args:
            features: One [B, in_channels, h, w] for each stride.

        Returns:
            Class logits [B, N_l, C], distances to left, top, right, bottom in pixels, ≥ 0 [B, N_l, 4], and
            centerness logits [B, N_l]: lists with one float32 tensor a level, under autocast too (pixels in
            half precision would round large boxes to whole pixels and more).
        """
        cls_logits, ltrb, centerness = [], [], []
        for feature, scale, stride in zip(features, self.scales, self.strides, strict=True):
            reg_feature = self.reg_tower(feature)
            raw_BN4 = rearrange(self.ltrb(reg_feature).float(), "b d h w -> b (h w) d", d=4)
            ltrb.append(torch.relu(scale * raw_BN4) * stride)
            centerness.append(rearrange(self.centerness(reg_feature).float(), "b 1 h w -> b (h w)"))
            logits = self.cls_logits(self.cls_tower(feature)).float()
            cls_logits.append(rearrange(logits, "b c h w -> b (h w) c"))
        return cls_logits, ltrb, centerness


def _tower(in_channels: int, channels: int, depth: int, groups: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [
            nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1),
            nn.GroupNorm(groups, channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
