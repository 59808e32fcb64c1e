"""Two random crops of one image, each with changes of its own: what contrastive pretraining compares.

The changes are those of MoCo v2 (Chen et al. 2020, arXiv:2003.04297; ``--aug-plus`` of facebookresearch/moco), in a
faster form. A crop is cut and resized once, with antialiasing. Brightness, contrast, saturation, hue and loss of
colour, in the random order of torchvision's ``ColorJitter``, become one 3 x 3 matrix and an offset; values are cut off
at the range's ends once, after all of them. Hue is a rotation about the grey axis, not the shift of HSV: the mean of
the three channels stays, the largest does not. The blur is two passes of a kernel that ends at three standard
deviations.

Every draw comes from the generator that the caller hands in.

Shapes: C channels (1 or 3), S side of a crop, B images, N = 2 B crops.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, pad
from torchvision.transforms.v2 import functional as F

from hemolens.data.transforms import DetectionTransform, scale_to_float
from hemolens.errors import UserError
from hemolens.io.images import LUMA_WEIGHTS

VIEW_PX = 224  # side for which blur_px is stated: MoCo's
TRIALS = 10  # torchvision's: windows drawn until one lies inside the image
PAIRS = ("crop_scale", "crop_ratio", "blur_px")
FLIPS = ("horizontal_flip", "vertical_flip", "rotate90")
PROBABILITIES = (*FLIPS, "jitter", "greyscale", "blur", "offset", "noise")
LUMA = np.array(LUMA_WEIGHTS)


@dataclass(frozen=True, kw_only=True)
class TwoCropAugmentation:
    """What is done to each crop. The defaults do nothing.

    Attributes:
        crop_scale: lowest and highest share of the image's area that a crop holds.
        crop_ratio: lowest and highest width / height of it, drawn log-uniformly; it becomes a square.
        horizontal_flip, vertical_flip: probabilities.
        rotate90: probability of one to three quarter turns.
        jitter: probability of changing the colours by the four amounts below. Pictures only.
        brightness, contrast, saturation: largest relative change; the last without effect on one channel.
        hue: largest turn of the colour circle, at most 0.5; without effect on one channel.
        greyscale: probability of losing the colours; without effect on one channel. Pictures only.
        blur: probability.
        blur_px: lowest and highest standard deviation, in pixels of a view of 224 px; in proportion for another size.
        offset: probability of a constant added to the phase. Phase images only, as the next three.
        offset_rad: its largest amount, of either sign.
        noise: probability of white noise.
        noise_rad: its largest standard deviation, a pixel of the view.

    Raises:
        UserError: a value without meaning.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    rotate90: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    greyscale: float = 0.0
    blur: float = 0.0
    blur_px: tuple[float, float] = (0.1, 2.0)
    offset: float = 0.0
    offset_rad: float = 0.0
    noise: float = 0.0
    noise_rad: float = 0.0

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augment.{name}={getattr(self, name)}: give a probability, from 0 to 1")
        for name in PAIRS:
            values = getattr(self, name)
            if len(values) != 2 or not 0 < values[0] <= values[1]:
                raise UserError(f"augment.{name}={list(values)}: give [lowest, highest], both above 0")
        if self.crop_scale[1] > 1:
            raise UserError(f"augment.crop_scale={list(self.crop_scale)}: a crop holds at most 1, the whole image")
        for name in ("brightness", "contrast", "saturation", "offset_rad", "noise_rad"):
            if getattr(self, name) < 0:
                raise UserError(f"augment.{name}={getattr(self, name)}: must not be negative")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"augment.hue={self.hue}: give turns of the colour circle, from 0 to 0.5")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TwoCropAugmentation":
        """Build from plain configuration values; raises UserError on an unknown key."""
        known = [field.name for field in fields(cls)]
        if unknown := [str(key) for key in config if key not in known]:
            raise UserError(f"augment has no key {', '.join(unknown)}: choose from {', '.join(known)}")
        values: dict[str, Any] = {name: tuple(value) if name in PAIRS else value for name, value in config.items()}
        return cls(**values)


#: MoCo v2, ``--aug-plus``; its normalisation is the data module's.
MOCO_V2 = TwoCropAugmentation(
    crop_scale=(0.2, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    horizontal_flip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    greyscale=0.2,
    blur=0.5,
)
#: For phase images, whose values and sizes tell the types apart: no phase is changed but by the blur, no cell looks
#: more than 1.2 times as wide (0.7 of the area) or stretched, and every direction is as good. [choice]
PHASE_SAFE = TwoCropAugmentation(
    crop_scale=(0.7, 1.0),
    horizontal_flip=0.5,
    vertical_flip=0.5,
    rotate90=0.75,
    blur=0.5,
    offset_rad=0.1,
    noise_rad=0.05,
)


class Change(NamedTuple):
    """What happens to the values of one crop."""

    colour: NDArray[np.float32] | None
    """[C, C + 1], a matrix and, as its last column, an offset: of values in [0, 1] (phases: [-1, 1]); None: nothing."""
    blur_px: float
    """Standard deviation in pixels of the crop; 0: no blur."""
    noise: tuple[float, int] | None
    """Standard deviation, and the seed of the draws; None: no noise."""


class TwoCrops:
    """Draw two crops of an image and change their values.

    Args:
        augmentation: what is done.
        image_px: side S of a crop.
        mean, std: a number a channel, of values in [0, 1]; None for none.
        units_per_rad: of phase images, whose values lie in [-1, 1]: one radian in such units; None for pictures.

    Raises:
        UserError: colour changes of phase images, phase changes of pictures, or mean and std do not fit together.
    """

    def __init__(
        self,
        augmentation: TwoCropAugmentation,
        *,
        image_px: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        units_per_rad: float | None = None,
    ) -> None:
        if image_px < 1:
            raise UserError(f"image_px={image_px}: give a number of pixels above 0")
        phases = units_per_rad is not None
        for name in ("jitter", "greyscale") if phases else ("offset", "noise"):
            if getattr(augmentation, name):
                kind, instead = ("phase", "offset and noise") if phases else ("coloured", "jitter")
                raise UserError(
                    f"augment.{name}={getattr(augmentation, name)} is not for {kind} images: set it to 0 (there is "
                    f"{instead} instead)"
                )
        DetectionTransform(mean=mean, std=std)  # checks that they fit together
        self.augmentation, self.image_px = augmentation, image_px
        self.units_per_rad = 1.0 if units_per_rad is None else units_per_rad
        self.low = -1.0 if phases else 0.0
        self._scale = torch.tensor([mean, std], dtype=torch.float32)[..., None, None] if mean and std else None
        self._zoom = image_px / VIEW_PX
        self._radius = _radius(augmentation.blur_px[1] * self._zoom)

    def draw(self, image: Tensor, rng: np.random.Generator) -> tuple[list[Tensor], list[Change]]:
        """Two crops [C, S, S] of an image [C, H, W], of its type (uint8 or float32), and what is to happen to them."""
        crops = [self._crop(image, rng) for _ in range(2)]
        return crops, [self._draw_change(crop, rng) for crop in crops]

    def finished(self, crops: Sequence[Tensor], changes: Sequence[Change]) -> tuple[Tensor, Tensor]:
        """Views and targets, float32 [n, C, S, S] each, of n crops of :meth:`draw`."""
        plain = [scale_to_float(crop) for crop in crops]
        views = torch.stack([self._changed(crop, change) for crop, change in zip(plain, changes, strict=True)])
        return self._normalised(views), self._normalised(torch.stack(plain))

    def finished_batch(
        self, crops: Tensor, colour: Tensor, blur_px: Tensor, *, noise: Sequence[tuple[float, int] | None]
    ) -> tuple[Tensor, Tensor]:
        """The same of a batch, on its device and with whole-batch operations: equal but for rounding, and but for
        noise, which each kind of device draws in its own way.

        Args:
            crops: uint8 or float32 [N, C, S, S].
            colour: float32 [N, C, C + 1], see :class:`Change`.
            blur_px: float32 [N].
            noise: N.

        Returns:
            Views and targets, float32 [N, C, S, S] each.
        """
        plain = scale_to_float(crops)
        flat, colour = plain.flatten(2), colour.to(plain.dtype)
        views = torch.baddbmm(colour[..., -1:], colour[..., :-1], flat).clamp_(self.low, 1).view_as(plain)
        if self.augmentation.blur:
            views = blur_batch(views, blur_px.to(plain.dtype), self._radius)
        for index, drawn in enumerate(noise):
            if drawn is not None:
                views[index] = self._noisy(views[index], drawn)
        return self._normalised(views), self._normalised(plain.clone() if plain is crops else plain)

    def _crop(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        how, (height, width) = self.augmentation, image.shape[-2:]
        top, left, rows, columns = draw_window((height, width), rng, how)
        crop = F.resized_crop(image, top, left, rows, columns, [self.image_px] * 2, antialias=True)
        axes = [axis for axis, share in ((-1, how.horizontal_flip), (-2, how.vertical_flip)) if rng.random() < share]
        turns = int(rng.integers(1, 4)) if rng.random() < how.rotate90 else 0
        return torch.rot90(crop, turns, (-2, -1)).flip(axes).contiguous()

    def _draw_change(self, crop: Tensor, rng: np.random.Generator) -> Change:
        how = self.augmentation
        colour, blur_px, noise = draw_colour(crop, rng, how), 0.0, None
        if rng.random() < how.offset:
            units = rng.uniform(-1, 1) * how.offset_rad * self.units_per_rad
            colour = np.array([[1, units]], np.float32)
        if rng.random() < how.blur:
            blur_px = float(rng.uniform(*how.blur_px)) * self._zoom
        if rng.random() < how.noise:
            noise = float(rng.uniform()) * how.noise_rad * self.units_per_rad, int(rng.integers(2**62))
        return Change(colour, blur_px, noise)

    def _changed(self, crop: Tensor, change: Change) -> Tensor:
        """One crop, float32 [C, S, S]; a crop without a change is returned itself."""
        if change.colour is not None:
            colour = torch.from_numpy(change.colour)
            made = torch.addmm(colour[:, -1:], colour[:, :-1], crop.flatten(1))
            crop = made.clamp_(self.low, 1).view_as(crop)
        if change.blur_px:
            crop = blur(crop, change.blur_px)
        return crop if change.noise is None else self._noisy(crop, change.noise)

    def _noisy(self, crop: Tensor, noise: tuple[float, int]) -> Tensor:
        sd, seed = noise
        generator = torch.Generator(crop.device).manual_seed(seed)
        drawn = torch.randn(crop.shape, generator=generator, device=crop.device)
        return drawn.mul_(sd).add_(crop).clamp_(self.low, 1)

    def _normalised(self, crops: Tensor) -> Tensor:
        """In place."""
        if self._scale is None:
            return crops
        mean, std = self._scale.to(crops.device)
        return crops.sub_(mean).div_(std)


def draw_window(size: tuple[int, int], rng: np.random.Generator, how: TwoCropAugmentation) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop, drawn as torchvision's ``RandomResizedCrop`` does.

    Args:
        size: (height, width) of the image.
        rng: source of the draws.
        how: its ``crop_scale`` and ``crop_ratio``.
    """
    height, width = size
    lowest, highest = how.crop_ratio
    for _ in range(TRIALS):
        area = height * width * rng.uniform(*how.crop_scale)
        ratio = math.exp(rng.uniform(math.log(lowest), math.log(highest)))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            return top, left, rows, columns
    rows, columns = min(height, round(width / lowest)), min(width, round(height * highest))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def draw_colour(crop: Tensor, rng: np.random.Generator, how: TwoCropAugmentation) -> NDArray[np.float32] | None:
    """The matrix and offset, float32 [C, C + 1], of all colour changes of a crop [C, S, S]; None where there is none.

    For values in [0, 1]; contrast is about the crop's mean luma, as in torchvision.
    """
    channels = len(crop)
    luma = LUMA if channels == 3 else np.ones(1)
    jitter, grey = rng.random() < how.jitter, rng.random() < how.greyscale and channels == 3
    if not jitter and not grey:
        return None
    same, to_luma = np.eye(channels), np.tile(luma, (channels, 1))
    matrix, offset = same, np.zeros(channels)
    if jitter:
        amounts = (how.brightness, how.contrast, how.saturation)
        bright, contrast, colourful = (float(rng.uniform(max(0.0, 1 - amount), 1 + amount)) for amount in amounts)
        turn = 2 * math.pi * rng.uniform(-how.hue, how.hue)
        steps = (
            bright * same,
            contrast * same,
            colourful * same + (1 - colourful) * to_luma,
            hue_rotation(turn) if channels == 3 else same,
        )
        for step in rng.permutation(4).tolist():
            middle = luma @ (matrix @ _means(crop) + offset) if step == 1 else 0.0
            matrix, offset = steps[step] @ matrix, steps[step] @ offset + (1 - contrast) * middle
    if grey:
        matrix, offset = to_luma @ matrix, to_luma @ offset
    return np.concatenate([matrix, offset[:, None]], axis=1).astype(np.float32)


def hue_rotation(angle: float) -> NDArray[np.float64]:
    """[3, 3]: colours turned by an angle in rad about the grey axis, from red towards green."""
    cos, sin = math.cos(angle), math.sin(angle)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return cos * np.eye(3) + (1 - cos) / 3 + sin * cross


def blur(image: Tensor, sd_px: float) -> Tensor:
    """Gaussian blur of one image, float32 [C, S, S], mirrored at its border; as shifted sums, fast on one thread."""
    side, radius = image.shape[-1], _radius(sd_px, image.shape[-1])
    middle, *arm = blur_kernels(torch.tensor([sd_px]), radius)[0, radius:].tolist()
    padded = pad(image[None], [radius] * 4, mode="reflect")[0]
    for axis in (-2, -1):
        total = padded.narrow(axis, radius, side) * middle
        for step, weight in enumerate(arm, start=1):
            total.add_(padded.narrow(axis, radius - step, side), alpha=weight)
            total.add_(padded.narrow(axis, radius + step, side), alpha=weight)
        padded = total
    return padded


def blur_batch(images: Tensor, sd_px: Tensor, radius: int) -> Tensor:
    """The same of float32 [N, C, S, S], each with its own standard deviation, [N] (0: none), at most ``radius`` / 3."""
    count, channels, side, _ = images.shape
    radius = min(radius, side - 1)
    kernels = blur_kernels(sd_px, radius).repeat_interleave(channels, 0)[:, None]
    made = pad(images, [radius] * 4, mode="reflect").flatten(0, 1)[None]
    for kernel in (kernels[..., None], kernels[:, :, None]):
        made = conv2d(made, kernel, groups=count * channels)
    return made.view_as(images)


def blur_kernels(sd_px: Tensor, radius: int) -> Tensor:
    """Weights [N, 2 radius + 1] of Gaussians of standard deviations [N], cut off at three of them, with sum 1."""
    sd = sd_px.clamp(min=1e-3)[:, None]
    along = torch.arange(-radius, radius + 1, device=sd.device)
    weights = torch.exp(-0.5 * (along / sd) ** 2) * (along.abs() <= torch.ceil(3 * sd))
    return weights / weights.sum(1, keepdim=True)


def _radius(sd_px: float, side: int | None = None) -> int:
    radius = max(1, math.ceil(3 * sd_px))
    return radius if side is None else min(radius, side - 1)


def _means(crop: Tensor) -> NDArray[np.float64]:
    """Of each channel of a picture [C, S, S], in [0, 1]."""
    means: NDArray[np.float64] = crop.float().mean((1, 2)).double().numpy()
    return means / 255 if crop.dtype == torch.uint8 else means
