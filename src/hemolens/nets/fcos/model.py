"""FCOS, the one-stage detector without anchors (Tian et al., ICCV 2019, arXiv:1904.01355).

Shape suffixes: B batch, C classes (image channels for ``images``), H W pixels, N_l cells of level l.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from torch import Tensor, nn

from hemolens.errors import UserError
from hemolens.nets.fcos.targets import points_for

# arXiv:1904.01355, 3.2: the largest of the four distances decides the level. −1 and 1e8 leave the ends open.
REGRESS_RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, 1e8))
_OPEN_END = 1e8


class FCOSOutput(TypedDict):
    """Raw predictions: lists with one entry a level, finest first; float32."""

    cls_logits: list[Tensor]  # [B, N_l, C]
    ltrb: list[Tensor]  # [B, N_l, 4] distances to left, top, right, bottom in pixels, ≥ 0
    centerness_logits: list[Tensor]  # [B, N_l]
    points: list[Tensor]  # [N_l, 2] (x, y) of the cells' centers in pixels


class FCOS(nn.Module):
    """Backbone, neck and head; images in, raw predictions out. Nothing is resized or normalised here.

    Args:
        num_classes: Classes, without background.
        in_channels: Channels of the image.
        backbone: Called with ``in_channels``; gives a module with ``channels`` and ``strides``.
        neck: Called with ``in_channels``, the backbone's channels; gives a module with ``out_channels`` and
            ``output_strides``.
        head: Called with ``in_channels``, ``num_classes`` and ``strides``.
        regress_ranges: For each level the least and greatest max(l, t, r, b) in pixels that it is trained on.
        regress_range_scale: Multiplies all finite limits. At 0.162 µm a pixel every blood cell (≤ 104 pixels)
            falls to the finest level; a scale below 1 spreads them over several.

    Attributes:
        strides: Input pixels a cell, one for each level.
        regress_ranges: The ranges in use, scaled.

    Raises:
        UserError: The number of ranges is not that of the neck's levels, or the scale is not positive.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        backbone: Callable[..., Any],
        neck: Callable[..., Any],
        head: Callable[..., Any],
        regress_ranges: Sequence[Sequence[float]] = REGRESS_RANGES,
        regress_range_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.backbone = backbone(in_channels=in_channels)
        self.neck = neck(in_channels=self.backbone.channels)
        self.strides: tuple[int, ...] = self.neck.output_strides(self.backbone.strides)
        self.head = head(in_channels=self.neck.out_channels, num_classes=num_classes, strides=self.strides)
        self.regress_ranges = _scaled(regress_ranges, regress_range_scale)
        if len(self.regress_ranges) != len(self.strides):
            raise UserError(
                f"net.regress_ranges has {len(self.regress_ranges)} entries, but the neck gives "
                f"{len(self.strides)} levels (strides {self.strides}): give one range a level"
            )

    def forward(self, images: Tensor) -> FCOSOutput:
        """Detect on images [B, in_channels, H, W] of any size; feature maps have ceil(H/stride) rows.

        Raises:
            ValueError: The images are not [B, in_channels, H, W].
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"images are {list(images.shape)}, expected [B, {self.in_channels}, H, W]: "
                "set net.in_channels to the channels that the data module gives"
            )
        features = self.neck(self.backbone(images))
        cls_logits, ltrb, centerness_logits = self.head(features)
        sizes = [(f.shape[-2], f.shape[-1]) for f in features]
        points = points_for(sizes, self.strides, images.device)
        return FCOSOutput(cls_logits=cls_logits, ltrb=ltrb, centerness_logits=centerness_logits, points=points)


def _scaled(ranges: Sequence[Sequence[float]], scale: float) -> tuple[tuple[float, float], ...]:
    if not scale > 0:
        raise UserError(f"net.regress_range_scale is {scale}: give a positive factor, 1.0 for the published ranges")

    def limit(value: float) -> float:
        return float(value) * scale if 0 < value < _OPEN_END else float(value)

    return tuple((limit(low), limit(high)) for low, high in ranges)
