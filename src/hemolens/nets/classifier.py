"""A classifier of cell pictures: any timm network, at any channel count.

Shape suffixes: B batch, C channels, H W pixels of the input, K classes.
"""

from os import PathLike
from typing import Any

import timm
from torch import Tensor, nn

from hemolens.errors import UserError
from hemolens.nets.pretrained import load_pretrained


class TimmClassifier(nn.Module):
    """Class logits of an image from a timm network.

    Args:
        num_classes: K.
        in_channels: Channels of the image; 1 and 3 are usual, any works.
        name: timm model name, e.g. ``resnet18``.
        pretrained: False: random weights. True: timm's ImageNet weights from the Hugging Face hub. A path: a local
            state dict, see :func:`hemolens.nets.pretrained.load_pretrained`; its classifier is left out.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth, the probability at the last block (growing linearly to it).
        options: More of ``timm.create_model``, e.g. ``{img_size: 128}`` for transformers.

    Raises:
        UserError: Unknown ``name`` or option, weights that can't be found or don't fit.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        name: str,
        pretrained: bool | str | PathLike[str] = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        settings = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate} | dict(options or {})
        self.model = _create(name, num_classes, in_channels, pretrained is True, settings)
        if not isinstance(pretrained, bool):
            head = self.model.default_cfg["classifier"]
            load_pretrained(self.model, pretrained, name=name, in_channels=in_channels, key="net", head=head)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to float32 logits [B, K]."""
        logits: Tensor = self.model(images)
        return logits.float()


def _create(name: str, num_classes: int, in_channels: int, pretrained: bool, settings: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **settings)
    except Exception as error:  # timm, the hub and the HTTP stack each raise their own kinds
        remedy = (
            "check the network, or give a local file: net.pretrained=<path>"
            if pretrained
            else "check net.name (timm.list_models()) and net.options"
        )
        what = "download weights for" if pretrained else "build"
        raise UserError(f"can't {what} the timm network {name!r}: {error}; {remedy}") from error
