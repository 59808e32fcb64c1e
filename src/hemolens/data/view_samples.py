"""Data sets without labels: two crops of a picture, or of a patch of a phase image; patches around cells to test on."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from hemolens.data.binning import binned_image
from hemolens.data.classification import CropRecord, CropSpec
from hemolens.data.contracts import ClassificationSample, ViewsBatch, ViewsSample
from hemolens.data.image_folder import UNKNOWN, read_pixels
from hemolens.data.patches import patch_corners
from hemolens.data.phase_images import PHASE, PHASE_STEP_RAD, PhaseRecord, map_phase_image
from hemolens.data.sampling import SampleKey, as_sample_key, one_thread, sample_rng
from hemolens.data.segmentation import PhaseSpec
from hemolens.data.two_crops import Change, TwoCrops
from hemolens.errors import UserError


class CropsSample(TypedDict):
    """What becomes a ``contracts.ViewsSample`` on the training device."""

    crops: Tensor
    """uint8 or float32 [2, C, S, S]."""
    changes: list[Change]
    """Two."""
    label: int
    image_id: str


class CropsBatch(TypedDict):
    """B of them: what :func:`finish_views` takes."""

    crops: Tensor
    """uint8 or float32 [B, 2, C, S, S]."""
    colour: Tensor
    """float32 [B, 2, C, C + 1], see ``two_crops.Change``."""
    blur_px: Tensor
    """float32 [B, 2]."""
    noise: list[tuple[float, int] | None]
    """2 B; stays on the host."""
    labels: Tensor
    image_ids: list[str]


class TwoCropDataset(Dataset[Any]):
    """Two crops of each image; a subclass gives the image.

    Args:
        two_crops: what is drawn and changed.
        seed: with epoch and index the source of every draw.
        on_device: leave the changes of values to :func:`finish_views`: samples are :class:`CropsSample`, not
            ``contracts.ViewsSample``.
    """

    def __init__(self, two_crops: TwoCrops, *, seed: int = 0, on_device: bool = False) -> None:
        self.two_crops, self.seed, self.on_device = two_crops, seed, on_device

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, key: SampleKey | int) -> ViewsSample | CropsSample:
        """The sample of a key (a plain index is that of epoch 0).

        Raises:
            UserError: the file is missing or damaged.
        """
        epoch, index = as_sample_key(key)
        with one_thread(), sample_rng(self.seed, epoch, index) as rng:
            image, label, image_id = self._image(index, rng)
            crops, changes = self.two_crops.draw(image, rng)
            if self.on_device:
                return {"crops": torch.stack(crops), "changes": changes, "label": label, "image_id": image_id}
            views, targets = self.two_crops.finished(crops, changes)
        return {"views": views, "targets": targets, "label": label, "image_id": image_id}

    def _image(self, index: int, rng: np.random.Generator) -> tuple[Tensor, int, str]:
        """Image [C, H, W], label and name."""
        raise NotImplementedError


class PictureViews(TwoCropDataset):
    """Two crops of each picture.

    Args:
        records: the pictures, with -1 for a label that is not known.
        spec: ``in_channels``, and ``crop_px``: the square that is cut out of the middle before, None for the whole.
        two_crops: see :class:`TwoCropDataset`.
        options: its ``seed`` and ``on_device``.
    """

    def __init__(self, records: Sequence[CropRecord], *, spec: CropSpec, two_crops: TwoCrops, **options: Any) -> None:
        super().__init__(two_crops, **options)
        self.records, self.channels = list(records), spec.in_channels
        # without a change of size, so that nothing is resized twice
        self._middle = None if spec.crop_px is None else CropSpec(image_px=spec.crop_px, crop_px=spec.crop_px)

    def __len__(self) -> int:
        return len(self.records)

    def _image(self, index: int, rng: np.random.Generator) -> tuple[Tensor, int, str]:
        record = self.records[index]
        image = read_pixels(record.path, self.channels)
        return image if self._middle is None else self._middle.square(image), record.label, record.image_id


class PhaseViews(TwoCropDataset):
    """Two crops of patches at random places of phase images.

    Args:
        records: the images.
        spec: how phase becomes network input.
        patch_px: side of a patch, before binning.
        binning: pixels that become one, along each axis.
        patches_per_image: an epoch.
        two_crops: see :class:`TwoCropDataset`.
        options: its ``seed`` and ``on_device``.

    Raises:
        UserError: an image is smaller than a patch.
    """

    def __init__(
        self,
        records: Sequence[PhaseRecord],
        *,
        spec: PhaseSpec,
        patch_px: int,
        binning: int,
        patches_per_image: int,
        two_crops: TwoCrops,
        **options: Any,
    ) -> None:
        super().__init__(two_crops, **options)
        self.records, self.spec, self.patches_per_image = list(records), spec, patches_per_image
        self.patch_px, self.binning = patch_px, binning
        _refuse_small(self.records, patch_px)

    def __len__(self) -> int:
        return len(self.records) * self.patches_per_image

    def _image(self, index: int, rng: np.random.Generator) -> tuple[Tensor, int, str]:
        record = self.records[index // self.patches_per_image]
        (corner,) = patch_corners(record.size, self.patch_px, mode="random", count=1, rng=rng)
        return phase_patch(record, corner, self.patch_px, self.spec, self.binning), UNKNOWN, record.name


class PhaseCells(Dataset[ClassificationSample]):
    """A patch around each cell of phase images, moved to lie inside the image; its label is the cell's type, from 0.

    Args:
        records: the images.
        spec, patch_px, binning: as for :class:`PhaseViews`.
        image_px: side to which a patch is resized.

    Raises:
        UserError: an image is smaller than a patch.
    """

    def __init__(
        self, records: Sequence[PhaseRecord], *, spec: PhaseSpec, patch_px: int, binning: int, image_px: int
    ) -> None:
        _refuse_small(records, patch_px)
        self.spec, self.patch_px, self.binning, self.image_px = spec, patch_px, binning, image_px
        self.cells = [(record, number) for record in records for number in range(len(record.cells))]

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, key: SampleKey | int) -> ClassificationSample:
        """The sample of a key.

        Raises:
            UserError: the file is missing or damaged.
        """
        record, number = self.cells[as_sample_key(key).index]
        kind, *middle = record.cells[number]
        top, left = (
            min(max(round(at - self.patch_px / 2), 0), side - self.patch_px)
            for at, side in zip(middle, record.size, strict=True)
        )
        with one_thread():
            image = phase_patch(record, (top, left), self.patch_px, self.spec, self.binning)
            if image.shape[-1] != self.image_px:
                image = F.resize(image, [self.image_px] * 2, antialias=True)
        return {"image": image, "label": kind - 1, "image_id": f"{record.name}_c{number:03d}"}


def phase_patch(record: PhaseRecord, corner: tuple[int, int], side: int, spec: PhaseSpec, binning: int) -> Tensor:
    """A window of a stored phase image as network input, float32 [1, side // binning, side // binning].

    Args:
        record: the image.
        corner: (top, left) in its pixels.
        side: of the window, before binning.
        spec: how phase becomes network input.
        binning: pixels that become one, along each axis.

    Raises:
        UserError: the file is missing or damaged.
    """
    top, left = corner
    window = map_phase_image(record.path)[PHASE, top : top + side, left : left + side]
    return binned_image(spec.scaled(window * np.float32(PHASE_STEP_RAD)), binning)


def collate_views(samples: list[ViewsSample]) -> ViewsBatch:
    """Stack samples to a batch."""
    return {
        "views": torch.stack([sample["views"] for sample in samples]),
        "targets": torch.stack([sample["targets"] for sample in samples]),
        "labels": torch.tensor([sample["label"] for sample in samples], dtype=torch.int64),
        "image_ids": [sample["image_id"] for sample in samples],
    }


def collate_crops(samples: list[CropsSample]) -> CropsBatch:
    """Stack samples to a batch; a crop whose colours stay gets the identity."""
    crops = [sample["crops"] for sample in samples]
    changes = [change for sample in samples for change in sample["changes"]]
    if len({crop.dtype for crop in crops}) > 1:  # 8 bits and more
        crops = [crop if crop.is_floating_point() else crop / 255 for crop in crops]
    channels = crops[0].shape[1]
    same = np.eye(channels, channels + 1, dtype=np.float32)
    colour = np.stack([same if change.colour is None else change.colour for change in changes])
    pairs = (len(samples), 2)
    return {
        "crops": torch.stack(crops),
        "colour": torch.from_numpy(colour).unflatten(0, pairs),
        "blur_px": torch.tensor([change.blur_px for change in changes], dtype=torch.float32).view(pairs),
        "noise": [change.noise for change in changes],
        "labels": torch.tensor([sample["label"] for sample in samples], dtype=torch.int64),
        "image_ids": [sample["image_id"] for sample in samples],
    }


def finish_views(batch: CropsBatch, two_crops: TwoCrops) -> ViewsBatch:
    """The views and targets of a batch, on the device where its crops are."""
    pairs = batch["crops"].shape[:2]
    flat = [part.flatten(0, 1) for part in (batch["crops"], batch["colour"], batch["blur_px"])]
    views, targets = two_crops.finished_batch(*flat, noise=batch["noise"])
    return {
        "views": views.unflatten(0, pairs),
        "targets": targets.unflatten(0, pairs),
        "labels": batch["labels"],
        "image_ids": batch["image_ids"],
    }


def _refuse_small(records: Sequence[PhaseRecord], patch_px: int) -> None:
    for record in records:
        if min(record.size) < patch_px:
            height, width = record.size
            raise UserError(
                f"{record.name} is {height}×{width} px: choose data.phase_images.patch_px of at most {min(record.size)}"
            )
