"""Phase images and masks with fewer, larger pixels.

Shapes: H and W pixels before, F the factor.
"""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import one_hot


def binned_image(image: Tensor, factor: int) -> Tensor:
    """Means of squares of pixels, float32 [C, H // F, W // F] of an image [C, H, W]; a rest at the border goes."""
    if factor == 1:
        return image
    return _squares(image, factor).mean(-1)


def binned_classes(classes: Tensor, factor: int) -> Tensor:
    """The class that most pixels of a square have, int64 [H // F, W // F] of [H, W]; the lowest of several."""
    if factor == 1:
        return classes
    count = int(classes.max()) + 1
    return one_hot(_squares(classes[None], factor)[0], count).sum(-2).argmax(-1)


def binned_instances(instances: Tensor, classes: Tensor, factor: int) -> Tensor:
    """The cell that most pixels of a square have, of those with the square's class; 0 where that is the background.

    Args:
        instances: int32 [H, W].
        classes: int64 [H, W], before.
        factor: F.

    Returns:
        int32 [H // F, W // F].
    """
    if factor == 1:
        return instances
    kept = binned_classes(classes, factor)
    cells, kinds = (_squares(values[None], factor)[0] for values in (instances, classes))
    counted = (kinds == kept[..., None]) & (cells > 0)
    votes = ((cells[..., :, None] == cells[..., None, :]) & counted[..., None, :]).sum(-1) * counted
    chosen = cells.gather(-1, votes.argmax(-1, keepdim=True))[..., 0]
    return torch.where((kept > 0) & counted.any(-1), chosen, 0).to(torch.int32)


def _squares(values: Tensor, factor: int) -> Tensor:
    """[C, H // F, W // F, F * F]."""
    height, width = (side // factor * factor for side in values.shape[-2:])
    return rearrange(values[..., :height, :width], "c (y f) (x g) -> c y x (f g)", f=factor, g=factor)
