"""A classifier of cell pictures: any timm network, at any channel count.

Shape suffixes: B batch, C channels, H W pixels of the input, K classes.
"""

from os import PathLike
from typing import Any

from torch import Tensor, nn

from hemolens.nets.pretrained import create_timm_model, load_pretrained


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
        self.model = create_timm_model(
            name,
            kind="network",
            key="net",
            settings="options",
            pretrained=pretrained is True,
            options=settings,
            num_classes=num_classes,
            in_chans=in_channels,
        )
        if not isinstance(pretrained, bool):
            head = self.model.default_cfg["classifier"]
            load_pretrained(self.model, pretrained, name=name, in_channels=in_channels, key="net", head=head)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to float32 logits [B, K]."""
        logits: Tensor = self.model(images)
        return logits.float()
