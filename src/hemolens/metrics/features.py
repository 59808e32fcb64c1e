"""How far features of images lie apart: what shows that a network says the same of every image.

Shapes: N images, F features.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics import Metric


def feature_spread(features: Tensor) -> Tensor:
    """How far features [N, F], brought to length 1, lie apart: sqrt(F) times the standard deviation over the samples,
    mean over the features (Chen & He 2021, arXiv:2011.10566, Figure 2). 0 where all are the same (collapse), at most 1;
    float32 []."""
    rows = normalize(features.detach().float(), dim=1)
    return rows.std(0, unbiased=False).mean() * math.sqrt(rows.shape[1])


class FeatureSpread(Metric):
    """:func:`feature_spread` of all samples of an epoch and of all processes.

    Args:
        num_features: F.
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("total", "squares"):
            self.add_state(name, torch.zeros(num_features, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Take features [N, F], normalised here."""
        rows = normalize(features.detach().double(), dim=1)
        self.count += len(rows)
        self.total += rows.sum(0)
        self.squares += rows.square().sum(0)

    def compute(self) -> Tensor:
        """The spread, float64 []; nan without a sample."""
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        return variance.sqrt().mean() * math.sqrt(len(mean))
