"""Classification data: how a picture of a cell becomes network input, and the data set of such pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from hemolens.data.contracts import ClassificationBatch, ClassificationSample
from hemolens.data.plain import from_plain, to_plain
from hemolens.data.planes import map_planes
from hemolens.data.sampling import SampleKey, as_sample_key, one_thread, sample_rng
from hemolens.data.transforms import DetectionAugmentation, DetectionTransform, scale_to_float
from hemolens.data.views import TomogramView
from hemolens.errors import UserError
from hemolens.io.images import read_image, to_channels, to_float


@dataclass(frozen=True, kw_only=True)
class CropSpec:
    """How a picture becomes network input: in training, in tests and in prediction; the checkpoint carries it.

    A square is cut out of the middle, resized, and its values are scaled.

    Args:
        in_channels: 1 or 3; colour becomes luminance for 1, grey is repeated for 3.
        image_px: side of the input.
        crop_px: side of the square that is cut out, in pixels of the file; a smaller picture is continued by its
            border. None takes the largest square, so that the scale of the cell follows the size of the picture.
        minmax: stretch each picture to [0, 1] between its own lowest and highest value.
        mean, std: a number a channel, subtracted from and divided into values in [0, 1]; None for none.
        projection: what is seen of a tomogram, see ``data.views.TomogramView``; None for images.

    Raises:
        UserError: a value out of range.
    """

    in_channels: int = 3
    image_px: int = 112
    crop_px: int | None = None
    minmax: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    projection: str | None = None

    def __post_init__(self) -> None:
        if self.in_channels not in (1, 3):
            raise UserError(f"in_channels={self.in_channels}: choose 1 (grey) or 3 (colour)")
        for name in ("image_px", "crop_px"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: give a number of pixels above 0")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.in_channels:
                raise UserError(f"normalize.{name} has {len(values)} values for {self.in_channels} channels")
        if self.view is not None and len(self.view.channels) > self.in_channels:
            raise UserError(f"projection={self.projection} has {len(self.view.channels)} channels: set in_channels=3")
        DetectionTransform(mean=self.mean, std=self.std)  # checks that they fit together

    @property
    def view(self) -> TomogramView | None:
        """How a tomogram is seen, each projection between its own lowest and highest value; None for images."""
        return None if self.projection is None else TomogramView(projection=self.projection)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CropSpec":
        """Inverse of :meth:`to_dict`.

        Raises:
            UserError: a key is missing or unknown.
        """
        return cls(**from_plain(cls, values))

    def square(self, image: Tensor) -> Tensor:
        """Cut and resize an image [C, H, W], uint8 or float32, to [C, image_px, image_px] of the same type."""
        height, width = image.shape[-2:]
        side = min(height, width) if self.crop_px is None else self.crop_px
        missing_y, missing_x = max(0, side - height), max(0, side - width)
        if missing_y or missing_x:
            left, top = missing_x // 2, missing_y // 2
            image = F.pad(image, [left, top, missing_x - left, missing_y - top], padding_mode="edge")
        image = F.center_crop(image, [side, side])
        return F.resize(image, [self.image_px, self.image_px], antialias=True) if side != self.image_px else image

    def finish(self, image: Tensor, augmentation: DetectionAugmentation | None = None) -> Tensor:
        """Scale the values of a square; with an augmentation, draw from torch's generator what it says.

        Args:
            image: [C, S, S] of :meth:`square`.
            augmentation: of a training image, see ``transforms.DetectionAugmentation``.

        Returns:
            float32 [C, S, S].
        """
        if self.minmax:
            image = scale_to_float(image)
            low, high = image.amin(), image.amax()
            image = (image - low) / (high - low) if high > low else torch.zeros_like(image)
        transform = DetectionTransform(augmentation, mean=self.mean, std=self.std)
        return transform(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))[0]


@dataclass(frozen=True)
class CropRecord:
    """One picture of a cell, before loading.

    Attributes:
        image_id: its name, unique in the data set.
        label: 0..K-1.
        path: an image file; with a window, the .npz of a simulated field.
        window: (top, left, height, width) of the cell's part of a stored field; None for the whole image.
    """

    image_id: str
    label: int
    path: Path
    window: tuple[int, int, int, int] | None = None


class CropDataset(Dataset[ClassificationSample]):
    """Pictures of single cells, cut, scaled and, for training, augmented.

    Args:
        records: the pictures.
        spec: how they become network input.
        augmentation: of training; None for evaluation.
        seed: with epoch and index the source of every draw.
    """

    def __init__(
        self,
        records: Sequence[CropRecord],
        *,
        spec: CropSpec,
        augmentation: DetectionAugmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.records = list(records)
        self.spec, self.augmentation, self.seed = spec, augmentation, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: SampleKey | int) -> ClassificationSample:
        """The sample of a key (a plain index is that of epoch 0).

        Raises:
            UserError: the file is missing or damaged.
        """
        epoch, index = as_sample_key(key)
        record = self.records[index]
        with one_thread(), sample_rng(self.seed, epoch, index):
            image = self.spec.finish(self.spec.square(self._load(record)), self.augmentation)
        return {"image": image, "label": record.label, "image_id": record.image_id}

    def _load(self, record: CropRecord) -> Tensor:
        """[in_channels, H, W], uint8 or float32."""
        if record.window is None:
            array = read_image(record.path)
        else:
            top, left, height, width = record.window
            view = self.spec.view or TomogramView()
            seen = view.see(map_planes(record.path), window=(slice(top, top + height), slice(left, left + width)))
            array = seen[0] if len(seen) == 1 else seen.transpose(1, 2, 0)
        if array.dtype != np.uint8:
            array = to_float(array)
        channels = to_channels(array, self.spec.in_channels)
        return torch.from_numpy(np.ascontiguousarray(channels.transpose(2, 0, 1)))


def collate_classification(samples: list[ClassificationSample]) -> ClassificationBatch:
    """Stack samples to a batch."""
    return {
        "images": torch.stack([sample["image"] for sample in samples]),
        "labels": torch.tensor([sample["label"] for sample in samples], dtype=torch.int64),
        "image_ids": [sample["image_id"] for sample in samples],
    }


def count_classes(records: Sequence[CropRecord], num_classes: int) -> list[int]:
    """Pictures of each class, in label order."""
    counts: list[int] = np.bincount([record.label for record in records], minlength=num_classes).tolist()
    return counts


def mean_and_std(
    normalize: Mapping[str, Sequence[float]] | None,
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """What ``data.normalize`` says, a number a channel each; None and None for no normalisation.

    Raises:
        UserError: other keys than mean and std.
    """
    if normalize is None:
        return None, None
    if set(normalize) != {"mean", "std"}:
        raise UserError(f"normalize={dict(normalize)}: give mean and std, or null")
    mean, std = (tuple(map(float, normalize[name])) for name in ("mean", "std"))
    return mean, std
