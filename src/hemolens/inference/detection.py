"""Detect cells in an image of any size and pixel type, in the pixels of that image."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from hemolens.data.plain import check_keys
from hemolens.data.transforms import DetectionTransform, resize
from hemolens.data.views import RI_WINDOW, TomogramView
from hemolens.errors import UserError
from hemolens.io.images import to_channels, to_float
from hemolens.nets.fcos.decode import Detections
from hemolens.postprocess.tiles import join_tiles, tile_grid

log = logging.getLogger(__name__)

TILE_PX, TILE_OVERLAP_PX = 2048, 256  # a field of 1444 px goes through in one pass; 256 px hold the largest cell
SIZE_DIVISOR = 32  # as the batches in training: the stride of a ResNet's last stage
ASPECT_TOLERANCE = 0.05  # stretch of one side against the other beyond which a resize is worth a warning


class Detector(Protocol):
    """What :func:`predict_detections` needs; :class:`hemolens.tasks.detection.DetectionTask` has it."""

    decode_settings: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the network is."""

    def detect(self, images: Tensor, image_sizes: Tensor) -> list[Detections]:
        """Detections of float32 ``[B, C, H, W]`` with valid sizes int64 ``[B, 2]``."""


@dataclass(frozen=True)
class InputSpec:
    """How a data module turned files into network input; the checkpoint carries it.

    Args:
        in_channels: 1 or 3.
        resize_hw: ``(height, width)`` in pixels to which every image was resized, aspect ratio not kept; None
            if images were left at their size.
        mean, std: per channel, subtracted from and divided into values in [0, 1]; None without normalisation.
        projection, norm, ri_window: what was seen of a tomogram, see :class:`hemolens.data.views.TomogramView`; None
            for images (``ri_window`` also for the other norms).

    Raises:
        UserError: the values do not fit together.
    """

    in_channels: int
    resize_hw: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    projection: str | None = None
    norm: str | None = None
    ri_window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.in_channels not in (1, 3):
            raise UserError(f"input: in_channels is {self.in_channels}; 1 and 3 can be predicted from images")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.in_channels:
                raise UserError(f"input: {name} has {len(values)} values for {self.in_channels} channels")
        if (self.projection is None) != (self.norm is None):
            raise UserError(f"input: projection is {self.projection} and norm {self.norm}: both or neither are given")
        if self.view is not None and len(self.view.channels) > self.in_channels:
            raise UserError(f"input: {self.projection} has three channels, in_channels is {self.in_channels}")

    @property
    def view(self) -> TomogramView | None:
        """What is seen of a tomogram; None for detectors that were trained on images."""
        if self.projection is None or self.norm is None:
            return None
        return TomogramView(projection=self.projection, norm=self.norm, ri_window=self.ri_window or RI_WINDOW)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint: the arguments, with ``mean`` and ``std`` under ``normalize``."""
        normalize = None
        if self.mean is not None and self.std is not None:
            normalize = {"mean": list(self.mean), "std": list(self.std)}
        return {
            "in_channels": self.in_channels,
            "resize_hw": None if self.resize_hw is None else list(self.resize_hw),
            "normalize": normalize,
            "projection": self.projection,
            "norm": self.norm,
            "ri_window": None if self.ri_window is None else list(self.ri_window),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "InputSpec":
        """Inverse of :meth:`to_dict`.

        Raises:
            UserError: a key is missing or unknown.
        """
        check_keys(values, ("in_channels", "resize_hw", "normalize", "projection", "norm", "ri_window"))
        size, normalize, window = values["resize_hw"], values["normalize"], values["ri_window"]
        return cls(
            in_channels=int(values["in_channels"]),
            resize_hw=None if size is None else (int(size[0]), int(size[1])),
            mean=None if normalize is None else tuple(map(float, normalize["mean"])),
            std=None if normalize is None else tuple(map(float, normalize["std"])),
            projection=values["projection"],
            norm=values["norm"],
            ri_window=None if window is None else (float(window[0]), float(window[1])),
        )

    def apply(self, array: NDArray[Any]) -> tuple[Tensor, tuple[float, float]]:
        """Network input of an image, as the data module makes it.

        Args:
            array: ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]`` or ``[H, W, 4]`` (alpha is dropped), uint8, uint16
                or float. What a detector of tomograms sees is read by ``inference.pictures.read_picture``: with
                ``minmax_projection`` any picture is stretched, with the other norms it lies in [0, 1] already.

        Returns:
            float32 ``[in_channels, H', W']`` and ``(W' / W, H' / H)``: a point x, y of the array lies at that
            multiple in the tensor.

        Raises:
            UserError: another shape or pixel type, values that are not finite, or a picture that cannot stand for the
                tomogram that the detector was trained on.
        """
        image = prepare_image(array, self.in_channels)
        height, width = image.shape[1:]
        if self.resize_hw is not None:
            _warn_if_stretched((height, width), self.resize_hw)
            image = resize(image, image.new_zeros(0, 4), self.resize_hw)[0]
        if self.view is not None:
            image = _as_view(image, np.ndim(array), self.view)
        image, _ = DetectionTransform(mean=self.mean, std=self.std)(
            image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        )
        return image, (image.shape[2] / width, image.shape[1] / height)

    def to_original(self, boxes: Tensor, scale_xy: tuple[float, float], size: tuple[int, int]) -> Tensor:
        """Boxes ``[N, 4]`` of the network input in pixels of the image of ``size`` (height, width)."""
        height, width = size
        scale = boxes.new_tensor([*scale_xy, *scale_xy])
        limit = boxes.new_tensor([width, height, width, height])
        return torch.minimum(boxes / scale, limit).clamp(min=0)


def prepare_image(array: NDArray[Any], in_channels: int) -> Tensor:
    """Tensor ``[in_channels, H, W]`` of an array: uint8 stays uint8, anything else becomes float32.

    Grey becomes three equal channels and RGB one of luminance where the network was trained so; the log says
    so once.

    Raises:
        UserError: as :meth:`InputSpec.apply`.
    """
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[2] == 4:
        array = array[..., :3]
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[2] != 3):
        raise UserError(
            f"image of shape {list(array.shape)}: give [height, width] or [height, width, 3], channels last"
        )
    if array.ndim == 2 and in_channels == 3:
        _say_once("grey image: the detector was trained on three channels, so the plane is repeated")
    if array.ndim == 3 and in_channels == 1:
        _say_once("colour image: the detector was trained on one channel, so its luminance is used")
    if array.dtype != np.uint8:
        array = to_float(array)
        if not np.isfinite(array).all():
            raise UserError("image holds NaN or infinite values: replace them before prediction")
    array = to_channels(array, in_channels)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


@torch.inference_mode()
def predict_detections(
    detector: Detector,
    array: NDArray[Any],
    input_spec: InputSpec,
    *,
    tile_px: int = TILE_PX,
    overlap_px: int = TILE_OVERLAP_PX,
) -> dict[str, NDArray[Any]]:
    """Detect cells in one image.

    The image is brought to the scale and values of the training data, padded with zeros at the right and
    bottom to multiples of 32, and detections are mapped back to its own pixels. Where that input is longer
    than ``tile_px`` it goes through the network in overlapping tiles (:mod:`hemolens.postprocess.tiles`), so
    that memory does not grow with the image: at 2048² a process with a ResNet-50 detector takes about 2 GB.

    Args:
        detector: a detection task in evaluation mode.
        array: see :meth:`InputSpec.apply`.
        input_spec: what the network takes.
        tile_px: longest side of a tile, in pixels of the network input.
        overlap_px: least overlap of tiles; cells larger than it may be cut.

    Returns:
        ``boxes`` float32 ``[N, 4]`` xyxy in pixels of ``array``, inside it, ``scores`` float32 ``[N]``
        descending, ``labels`` int64 ``[N]``, and what else the detector says of each: ``probabilities`` float32
        ``[N, C]`` of :class:`hemolens.nets.fcos.decode.Detections`.

    Raises:
        UserError: the array is no image, or the overlap is negative or not below the tile.
    """
    if not 0 <= overlap_px < tile_px:
        raise UserError(f"tile_overlap_px={overlap_px}: must be at least 0 and below tile_px={tile_px}")
    image, scale_xy = input_spec.apply(array)
    height, width = image.shape[1:]
    tiles = tile_grid(height, width, tile_px, overlap_px)
    found = [_detect(detector, image[:, tile.y1 : tile.y2, tile.x1 : tile.x2]) for tile in tiles]
    if len(tiles) > 1:
        found = [join_tiles(tiles, found, height, width, detector.decode_settings["nms_iou"])]
    boxes = input_spec.to_original(found[0]["boxes"], scale_xy, np.shape(array)[:2])
    return {key: values.numpy() for key, values in (found[0] | {"boxes": boxes}).items()}


def padded(image: Tensor) -> Tensor:
    """An image [C, H, W] with zeros at the right and bottom, up to multiples of 32."""
    return pad(image, (0, -image.shape[2] % SIZE_DIVISOR, 0, -image.shape[1] % SIZE_DIVISOR))


def _detect(detector: Detector, image: Tensor) -> dict[str, Tensor]:
    """Detections on the CPU of one image ``[C, H, W]`` that fits the network at once."""
    height, width = image.shape[1:]
    sizes = torch.tensor([[height, width]])
    found = detector.detect(padded(image)[None].to(detector.device), sizes)[0]
    limit = detector.decode_settings["max_detections"]
    if len(found["boxes"]) >= limit:
        log.warning("reached the limit of %d detections and may miss cells: raise max_detections", limit)
    values: dict[str, Any] = dict(found)
    return {key: (value.float() if value.is_floating_point() else value).cpu() for key, value in values.items()}


def _as_view(image: Tensor, ndim: int, view: TomogramView) -> Tensor:
    """Stretch each channel ``[C, H, W]`` to [0, 1], or check that this was done by what the picture does not hold."""
    if len(view.channels) > 1 and ndim == 2:
        raise UserError(
            f"the detector was trained on {', '.join(view.channels)} of a tomogram: give the tomogram, or a picture of "
            "those three channels"
        )
    image = image.float()
    low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
    if view.norm == "minmax_projection":
        return (image - low) / torch.where(high > low, high - low, 1.0)
    if low.min() < 0 or high.max() > 1:
        raise UserError(
            f"the detector was trained with norm={view.norm}, and this picture has values outside of [0, 1]: give the "
            "tomogram"
        )
    return image


def _warn_if_stretched(size: tuple[int, int], target: tuple[int, int]) -> None:
    stretch = (target[0] / size[0]) / (target[1] / size[1])
    if abs(stretch - 1) > ASPECT_TOLERANCE:
        _say_once(
            f"an image of {size[0]}x{size[1]} pixels is stretched to the {target[0]}x{target[1]} (height x "
            "width) that the detector was trained at; cells change shape, so crop images to that ratio"
        )


@cache
def _say_once(message: str) -> None:
    log.warning(message)
