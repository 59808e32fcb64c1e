"""Features of phase images by a network trained here: what generated images are compared in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hemolens.errors import UserError
from hemolens.inference.load import SegmentationPredictor, load

Features = Callable[[Tensor], Tensor]
BATCH = 64


def encoder_features(
    checkpoint: str | Path, *, pixel_um: float | None = None, device: str | torch.device = "cpu"
) -> Features:
    """The mean over pixels of the last maps of a segmentation's encoder; not Inception's features.

    Args:
        checkpoint: of a run with a ``resunet`` network.
        pixel_um: side of a pixel of the images, which are brought to that of the checkpoint's training images; None: it
            is the same.
        device: to compute on.

    Returns:
        A function from phases in rad, float32 [N, 1, H, W], to features float32 [N, D].

    Raises:
        UserError: no such file, or a network without an encoder.
    """
    predictor = load(checkpoint, precision="32-true")
    encoder: Any = getattr(predictor.task.net, "encoder", None)
    if not isinstance(predictor, SegmentationPredictor) or encoder is None:
        raise UserError(f"model.feature_checkpoint={checkpoint} has no encoder: give one of a run with net=resunet18")
    encoder = encoder.to(device).eval()
    spec, stride = predictor.input_spec, predictor.task.net.stride
    zoom = 1.0 if pixel_um is None or spec.pixel_um is None else pixel_um / spec.pixel_um

    @torch.inference_mode()
    def features(phase_rad: Tensor) -> Tensor:
        found = []
        for part in phase_rad.split(BATCH):
            images = spec.scaled(np.asarray(part.detach().cpu()[:, 0]))[0][:, None].to(device)
            size = [max(1, round(length * zoom / stride)) * stride for length in images.shape[-2:]]
            if size != list(images.shape[-2:]):
                images = interpolate(images, size=size, mode="bicubic", antialias=True)
            maps = encoder(images)
            last = maps[-1] if isinstance(maps, list | tuple) else maps
            found.append(last.mean((2, 3)).float().to(phase_rad.device))
        return torch.cat(found)

    return features
