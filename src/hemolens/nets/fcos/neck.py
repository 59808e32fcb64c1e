"""Necks of FCOS: FPN (Lin et al., arXiv:1612.03144) and PAFPN (Liu et al., PANet, arXiv:1803.01534).

Shape suffixes: B batch, C channels, h w cells of a feature map.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from hemolens.errors import UserError


class FPN(nn.Module):
    """Feature pyramid with extra levels on its coarsest output.

    1×1 laterals with bias, nearest top-down sums, 3×3 convolutions with bias; then 3×3 stride-2 convolutions,
    the first on the coarsest output itself, each further one after a ReLU (P6 and P7 of FCOS). No norm, no
    other activation. Xavier-uniform weights, zero biases.

    Args:
        in_channels: Channels of each backbone map, finest first.
        out_channels: Channels of every output.
        start_level: First backbone map to use; 1 leaves the finest out.
        num_outs: Levels returned; what the backbone doesn't give is added as extra levels.

    Raises:
        UserError: Fewer outputs asked than maps used, or a ``start_level`` that leaves none.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int = 256, start_level: int = 0, num_outs: int = 5
    ) -> None:
        super().__init__()
        used = [int(c) for c in in_channels][start_level:]
        if not 0 < len(used) <= num_outs:
            raise UserError(
                f"the neck takes {len(used)} of {len(in_channels)} backbone maps for num_outs={num_outs}: "
                "set net.neck.start_level below the number of maps, net.neck.num_outs to at least those used"
            )
        self.start_level = start_level
        self.num_outs = num_outs
        self.out_channels = out_channels
        self.pyramid = FeaturePyramidNetwork(used, out_channels)
        self.extra = nn.ModuleList(_downsample(out_channels) for _ in range(num_outs - len(used)))
        self.apply(_init_xavier)

    def output_strides(self, strides: Sequence[int]) -> tuple[int, ...]:
        """Strides (input pixels a cell) of the outputs, from those of the backbone's maps."""
        outputs = [int(s) for s in strides][self.start_level :]
        for _ in self.extra:
            outputs.append(2 * outputs[-1])
        return tuple(outputs)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map backbone maps [B, C_i, h_i, w_i] to ``num_outs`` maps [B, out_channels, h_l, w_l]."""
        levels = self._levels(features)
        # Not under autocast: on processors with AVX512-BF16 torch's weight gradient of a strided convolution over a map
        # of one or two cells reads memory that nobody wrote (torch 2.15), and the extra levels cost next to nothing.
        with torch.autocast(levels[-1].device.type, enabled=False):
            for i, convolution in enumerate(self.extra):
                coarse = levels[-1].to(next(convolution.parameters()).dtype)
                levels.append(convolution(coarse if i == 0 else F.relu(coarse)))
        return levels

    def _levels(self, features: Sequence[Tensor]) -> list[Tensor]:
        named = OrderedDict((str(i), f) for i, f in enumerate(features[self.start_level :]))
        return list(self.pyramid(named).values())


class PAFPN(FPN):
    """FPN followed by a bottom-up path; arguments as in :class:`FPN`.

    From the finest level up, each level gets the 3×3 stride-2 convolution of the finer one added; then all
    but the finest pass one more 3×3 convolution. Extra levels stand on the last output.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int = 256, start_level: int = 0, num_outs: int = 5
    ) -> None:
        super().__init__(in_channels, out_channels, start_level, num_outs)
        steps = len(in_channels) - start_level - 1
        self.down = nn.ModuleList(_downsample(out_channels) for _ in range(steps))
        self.smooth = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in range(steps))
        self.down.apply(_init_xavier)
        self.smooth.apply(_init_xavier)

    def _levels(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = super()._levels(features)
        for i, down in enumerate(self.down):
            levels[i + 1] = levels[i + 1] + down(levels[i])
        return levels[:1] + [smooth(x) for smooth, x in zip(self.smooth, levels[1:], strict=True)]


def _downsample(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride=2, padding=1)


def _init_xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
