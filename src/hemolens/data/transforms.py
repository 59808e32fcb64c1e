"""Image and box transforms for detection: torchvision v2 on tv_tensors, every value from the configuration.

Training and evaluation share the loading step (decode, channels, resize), so that training sees the scale
that testing sees; augmentation then keeps the size of its input. All draws come from torch's CPU generator,
which the data set seeds for each sample (``hemolens.data.sampling.sample_rng``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hemolens.data.contracts import DetectionTarget
from hemolens.errors import UserError

ROUNDING = 1e-5  # by which a resize of float values leaves [0, 1]

#: image [C, H, W] uint8 or float32, boxes float32 [M, 4] xyxy px, labels int64 [M]
Sample = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class DetectionAugmentation:
    """What is done to a training image, and how often. The defaults do nothing.

    Attributes:
        horizontal_flip: probability.
        vertical_flip: probability.
        rotate90: probability of a turn by 90, 180 or 270 degrees, each as likely. A quarter turn of a picture
            that is not square is followed by cutting the largest window of the original shape out of it and
            enlarging that to the original size, so that cells keep their shape.
        crop: probability of cutting a window at a random place and resizing it to the full size.
        crop_zoom: lowest and highest linear magnification of that window, drawn log-uniformly. Below 1 the
            window is larger than the picture and the outside is zero, as in a padded batch.
        crop_stretch: highest ratio of horizontal to vertical magnification (and of vertical to horizontal),
            >= 1.
        min_area_kept: a box that keeps less than this fraction of its area in a cut window is dropped.
        mosaic: probability of replacing the picture by parts of it and of three others around a random
            centre.
        jitter: probability of changing the colours by the four amounts below; needs values in [0, 1].
        brightness: largest relative change of brightness.
        contrast: largest relative change of contrast.
        saturation: largest relative change of saturation; without effect on one channel.
        hue: largest shift of hue in turns of the colour circle, at most 0.5; without effect on one channel.
            Slow: about 30 ms for 384 x 512 on one core, against 2 ms for the other three together.
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    rotate90: float = 0.0
    crop: float = 0.0
    crop_zoom: tuple[float, float] = (1.0, 1.0)
    crop_stretch: float = 1.0
    min_area_kept: float = 0.3
    mosaic: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values without meaning; raises UserError."""
        for name in (
            "horizontal_flip",
            "vertical_flip",
            "rotate90",
            "crop",
            "min_area_kept",
            "mosaic",
            "jitter",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augment.{name}={getattr(self, name)}: must be between 0 and 1")
        if len(self.crop_zoom) != 2 or not 0 < self.crop_zoom[0] <= self.crop_zoom[1]:
            raise UserError(f"augment.crop_zoom={self.crop_zoom}: must be [lowest, highest], both above 0")
        if self.crop_stretch < 1:
            raise UserError(f"augment.crop_stretch={self.crop_stretch}: must be 1 or more")
        if min(self.brightness, self.contrast, self.saturation) < 0 or not 0 <= self.hue <= 0.5:
            raise UserError("augment: brightness, contrast and saturation must be >= 0 and hue within 0..0.5")

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> "DetectionAugmentation | None":
        """Build from plain configuration values; None stays None. Raises UserError on an unknown key."""
        if config is None:
            return None
        known = [field.name for field in fields(cls)]
        unknown = [str(key) for key in config if key not in known]
        if unknown:
            raise UserError(f"augment has no key {', '.join(unknown)}: choose from {', '.join(known)}")
        values: dict[str, Any] = dict(config)
        if "crop_zoom" in values:
            values["crop_zoom"] = tuple(values["crop_zoom"])
        return cls(**values)


class DetectionTransform:
    """Loaded image -> network input: augmentation (training only), float32, optional normalisation.

    Args:
        augmentation: None for evaluation.
        mean: subtracted from each channel after scaling to [0, 1]; None leaves the values alone.
        std: divides each channel; given together with ``mean``.

    Raises:
        UserError: only one of ``mean`` and ``std`` is given, their lengths differ, or a std is not positive.
    """

    def __init__(
        self,
        augmentation: DetectionAugmentation | None = None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if (mean is None) != (std is None) or len(mean or ()) != len(std or ()) or min(std or (1.0,)) <= 0:
            raise UserError("normalize needs mean and std, one number a channel each, std above 0")
        self.augmentation = augmentation
        self.normalize = v2.Normalize(list(mean), list(std)) if mean and std else None
        a = augmentation or DetectionAugmentation()
        self._flips = v2.Compose([v2.RandomHorizontalFlip(a.horizontal_flip), v2.RandomVerticalFlip(a.vertical_flip)])
        self._jitter = v2.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue)
        # flips are exact, but a cut or a zoom can leave slivers that no one would annotate
        self._sanitize = v2.SanitizeBoundingBoxes(min_size=1)

    def __call__(self, image: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, DetectionTarget]:
        """Apply to one sample.

        Args:
            image: [C, H, W] uint8, or float32 (kept as it is).
            boxes: float32 [M, 4] xyxy px.
            labels: int64 [M].

        Returns:
            float32 [C, H, W] of the same size, and its target.

        Raises:
            UserError: colour jitter is on and the values leave [0, 1].
        """
        if self.augmentation is not None:
            image, boxes, labels = self._augment(image, boxes, labels, self.augmentation)
        image = scale_to_float(image)
        if self.normalize is not None:
            image = self.normalize(image)
        return image.contiguous(), {"boxes": boxes, "labels": labels}

    def _augment(self, image: Tensor, boxes: Tensor, labels: Tensor, a: DetectionAugmentation) -> Sample:
        height, width = image.shape[-2:]
        if _happens(a.rotate90):
            image, boxes = rotate90(image, boxes, int(torch.randint(1, 4, ())))
        window = _draw_window(tuple(image.shape[-2:]), (height, width), a)
        image, boxes, labels = crop_window(image, boxes, labels, window, min_area_kept=a.min_area_kept)
        image, boxes = resize(image, boxes, (height, width))
        target = {"boxes": _as_boxes(boxes, (height, width)), "labels": labels}
        image, target = self._sanitize(*self._flips(tv_tensors.Image(image), target))
        plain = image.as_subclass(Tensor)
        if _happens(a.jitter):
            plain = scale_to_float(plain)
            if plain.min() < -ROUNDING or plain.max() > 1 + ROUNDING:
                raise UserError("colour jitter needs values in [0, 1]: set augment.jitter=0 for this data")
            plain = self._jitter(plain.clamp(0, 1))
        return plain, target["boxes"].as_subclass(Tensor), target["labels"]


def scale_to_float(image: Tensor) -> Tensor:
    """uint8 to float32 by division by 255, bit for bit as ``io.images.to_float``; float32 is kept."""
    return image if image.is_floating_point() else image.to(torch.float32).div_(255)


def resize(image: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Bilinear, antialiased resize to (height, width); the boxes are scaled with it. Same size: unchanged.

    Args:
        image: [C, H, W] uint8 or float32.
        boxes: float32 [M, 4] xyxy px.
        size: (height, width) in pixels.
    """
    height, width = image.shape[-2:]
    if (height, width) == tuple(size):
        return image, boxes
    scaled = F.resize(_as_boxes(boxes, (height, width)), list(size)).as_subclass(Tensor)
    return F.resize(image, list(size), antialias=True), scaled


def rotate90(image: Tensor, boxes: Tensor, turns: int) -> tuple[Tensor, Tensor]:
    """Turn counter-clockwise by ``turns`` * 90 degrees, exactly: no interpolation, no trigonometry.

    A point (x, y) of a picture of width W goes to (y, W - x).
    """
    for _ in range(turns % 4):
        x0, y0, x1, y1 = boxes.unbind(-1)
        width = image.shape[-1]
        boxes = torch.stack([y0, width - x1, y1, width - x0], dim=-1)
        image = torch.rot90(image, 1, (-2, -1))
    return image, boxes


def crop_window(
    image: Tensor, boxes: Tensor, labels: Tensor, window: tuple[int, int, int, int], *, min_area_kept: float
) -> Sample:
    """Cut out (top, left, height, width); the part of the window outside the picture is zero.

    Boxes are shifted and clipped; those that keep less than ``min_area_kept`` of their area, or nothing, are
    dropped.
    """
    height, width = image.shape[-2:]
    if window == (0, 0, height, width):
        return image, boxes, labels
    inside = F.clamp_bounding_boxes(_as_boxes(boxes, (height, width)))
    cut = F.crop(inside, *window).as_subclass(Tensor)
    area = box_area(cut)
    kept = (area > 0) & (area >= min_area_kept * box_area(boxes))
    return F.crop(image, *window), cut[kept], labels[kept]


def mosaic(tiles: Sequence[Sample], *, min_area_kept: float) -> Sample:
    """Join windows of four pictures around a random centre; the result has the size of the first.

    Each quadrant shows a window at a random place of its picture at its own scale; a picture smaller than its
    quadrant leaves the rest zero. The centre lies in the middle half of each side. The idea is that of
    Bochkovskiy et al., YOLOv4, arXiv:2004.10934, without its rescaling.
    """
    images = [image for image, _, _ in tiles]
    if any(image.is_floating_point() for image in images):
        images = [scale_to_float(image) for image in images]
    height, width = images[0].shape[-2:]
    y, x = (int(torch.randint(side // 4, side - side // 4, ())) for side in (height, width))
    corners = [(0, 0, y, x), (0, x, y, width - x), (y, 0, height - y, x), (y, x, height - y, width - x)]
    canvas = torch.zeros_like(images[0])
    all_boxes, all_labels = [], []
    for image, (_, boxes, labels), (top, left, rows, columns) in zip(images, tiles, corners, strict=True):
        offsets = [
            int(torch.randint(max(side - part, 0) + 1, ()))
            for side, part in zip(image.shape[-2:], (rows, columns), strict=True)
        ]
        part_window = (offsets[0], offsets[1], rows, columns)
        part, boxes, labels = crop_window(image, boxes, labels, part_window, min_area_kept=min_area_kept)
        canvas[:, top : top + rows, left : left + columns] = part
        all_boxes.append(boxes + torch.tensor([left, top, left, top], dtype=boxes.dtype))
        all_labels.append(labels)
    return canvas, torch.cat(all_boxes), torch.cat(all_labels)


def box_area(boxes: Tensor) -> Tensor:
    """Area in px^2 of xyxy boxes [M, 4] -> [M]."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _as_boxes(boxes: Tensor, size: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)


def _happens(probability: float) -> bool:
    return bool(torch.rand(()) < probability)


def _draw_window(
    canvas: tuple[int, ...], shape: tuple[int, int], a: DetectionAugmentation
) -> tuple[int, int, int, int]:
    """Window (top, left, height, width) of the aspect ratio of ``shape`` in a picture of size ``canvas``."""
    height, width = canvas
    window_w = min(float(width), height * shape[1] / shape[0])
    window_h = window_w * shape[0] / shape[1]
    if _happens(a.crop):
        low, high = (math.log(z) for z in a.crop_zoom)
        zoom = math.exp(low + (high - low) * float(torch.rand(())))
        stretch = a.crop_stretch ** (float(torch.rand(())) - 0.5)  # horizontal zoom / vertical zoom is stretch^2
        window_w, window_h = window_w / (zoom * stretch), window_h / zoom * stretch
    rows, columns = max(1, round(window_h)), max(1, round(window_w))
    top, left = (_draw_offset(side, part) for side, part in ((height, rows), (width, columns)))
    return top, left, rows, columns


def _draw_offset(side: int, part: int) -> int:
    """Start of a part within a side, or (part longer than side) of a part that holds the whole side."""
    spare = side - part
    offset = int(torch.randint(abs(spare) + 1, ()))
    return offset if spare >= 0 else -offset
