"""Segmentation data: how a phase image becomes network input, patches to train on, whole fields to test on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate
from torch.utils.data import Dataset

from hemolens.data.binning import binned_classes, binned_image, binned_instances
from hemolens.data.contracts import FieldSample, PatchSample
from hemolens.data.patches import patch_corners
from hemolens.data.phase_images import (
    CLASSES,
    INSTANCES,
    PHASE,
    PHASE_STEP_RAD,
    PhaseRecord,
    map_phase_image,
    turned_window_side,
)
from hemolens.data.plain import from_plain, to_plain
from hemolens.data.sampling import SampleKey, as_sample_key, one_thread, sample_rng
from hemolens.errors import UserError

ORIGINS = ("acquired", "synthetic")  # where a training patch comes from


@dataclass(frozen=True, kw_only=True)
class PhaseSpec:
    """How a phase image becomes network input; the checkpoint carries it.

    Args:
        phase_limits_rad: phases that become -1 and 1; what lies outside is cut off. Fixed, not of each image: the
            optical thickness is what tells a spherocyte.
        pixel_um: side of a pixel of the training images, binned; None where it is not known.
        wavelength_um: of the training images, in vacuum; None where it is not known.

    Raises:
        UserError: limits in the wrong order, or a length that is not positive.
    """

    phase_limits_rad: tuple[float, float] = (-1.0, 5.0)
    pixel_um: float | None = None
    wavelength_um: float | None = None

    def __post_init__(self) -> None:
        if len(self.phase_limits_rad) != 2 or not self.phase_limits_rad[0] < self.phase_limits_rad[1]:
            raise UserError(f"phase_limits_rad={list(self.phase_limits_rad)}: give [lowest, highest]")
        for name in ("pixel_um", "wavelength_um"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name}={value}: give a positive number, or null")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PhaseSpec":
        """Inverse of :meth:`to_dict`.

        Raises:
            UserError: a key is missing or unknown.
        """
        return cls(**from_plain(cls, values))

    def scaled(self, phase_rad: NDArray[Any]) -> Tensor:
        """float32 [1, H, W] in [-1, 1] of a phase [H, W] in rad."""
        low, high = self.phase_limits_rad
        phase = torch.from_numpy(np.asarray(phase_rad, np.float32))
        return ((phase - low) * (2 / (high - low)) - 1).clamp(-1, 1)[None]

    def in_rad(self, images: Tensor) -> Tensor:
        """Phases in rad of network input of any shape: the inverse of :meth:`scaled` within the limits."""
        low, high = self.phase_limits_rad
        return (images + 1) * ((high - low) / 2) + low


@dataclass(frozen=True, kw_only=True)
class PatchAugmentation:
    """What training does to a patch, phase and mask together; probabilities.

    Args:
        horizontal_flip, vertical_flip: of a mirror image.
        rotate90: of one to three quarter turns.
        rotate: of a turn by any angle: the phase by linear, the mask by nearest interpolation; what lies outside of
            the image is its mirror image.
        background: of an uneven, noisy background, as microscopes other than the simulated one have it.
        background_rad: largest standard deviation of the uneven part; the noise has a quarter of it.

    Raises:
        UserError: not a probability, or an unknown key.
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    rotate90: float = 0.0
    rotate: float = 0.0
    background: float = 0.0
    background_rad: float = 0.3

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "background_rad" and not 0 <= value <= 1:
                raise UserError(f"augment.{name}={value}: give a probability, from 0 to 1")
        if self.background_rad < 0:
            raise UserError(f"augment.background_rad={self.background_rad}: must not be negative")

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> "PatchAugmentation":
        """None is no augmentation."""
        known = [field.name for field in fields(cls)]
        if unknown := set(config or {}) - set(known):
            raise UserError(f"augment has no key {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
        return cls(**dict(config or {}))


class PatchDataset(Dataset[PatchSample]):
    """Square patches of stored phase images, augmented; an epoch has a fixed number of each image.

    Args:
        records: images to cut.
        spec: how phase becomes network input.
        patch_px: side, before binning.
        mode: where patches lie, see ``data.patches.patch_corners``.
        patches_per_image: of ``random``; the other modes have a number of their own.
        binning: pixels that become one, along each axis.
        augmentation: what is done to each.
        balance_classes: of ``random``: take a type, each as likely as the others, then one of its cells in all images,
            and cut around it; the number of patches an epoch stays.
        synthetic: further images, each a patch or larger; a patch is cut anywhere.
        synthetic_count: of their patches an epoch.
        seed: with epoch and index the source of every draw.

    Raises:
        UserError: an image is smaller than a patch, a wrong mode, or a binning that does not divide the patch.
    """

    def __init__(
        self,
        records: Sequence[PhaseRecord],
        *,
        spec: PhaseSpec,
        patch_px: int = 256,
        mode: str = "random",
        patches_per_image: int = 9,
        binning: int = 1,
        augmentation: PatchAugmentation | None = None,
        balance_classes: bool = False,
        synthetic: Sequence[PhaseRecord] = (),
        synthetic_count: int = 0,
        seed: int = 0,
    ) -> None:
        self.records, self.synthetic = list(records), list(synthetic)
        self.spec, self.patch_px, self.mode, self.seed = spec, patch_px, mode, seed
        self.augmentation, self.binning = augmentation or PatchAugmentation(), binning
        if patch_px % binning:
            raise UserError(f"data.patch_px={patch_px} is no multiple of data.binning={binning}")
        for record in [*self.records, *self.synthetic]:
            if min(record.size) < patch_px:
                height, width = record.size
                raise UserError(
                    f"{record.name} is {height}×{width} px: choose data.patch_px of at most {min(record.size)}"
                )
        if balance_classes and mode != "random":
            raise UserError(
                f"data.balance_classes=true cuts patches around cells: it needs data.patches=random, not {mode}"
            )
        self._places: list[tuple[int, tuple[int, int] | None]] = []
        for number, record in enumerate(self.records):
            if mode == "random":
                self._places += [(number, None)] * patches_per_image
            else:
                self._places += [(number, corner) for corner in patch_corners(record.size, patch_px, mode=mode)]
        self.synthetic_count = synthetic_count
        self._cells = self._cells_of_types() if balance_classes else []

    def _cells_of_types(self) -> list[list[tuple[int, float, float]]]:
        """(image, y, x) of every cell, a list a type."""
        found: dict[int, list[tuple[int, float, float]]] = {}
        for number, record in enumerate(self.records):
            for kind, y, x in record.cells:
                found.setdefault(kind, []).append((number, y, x))
        return [found[kind] for kind in sorted(found)]

    def __len__(self) -> int:
        return len(self._places) + self.synthetic_count

    def __getitem__(self, key: SampleKey | int) -> PatchSample:
        """The sample of a key (a plain index is that of epoch 0).

        Raises:
            UserError: the file is missing or damaged.
        """
        epoch, index = as_sample_key(key)
        with one_thread(), sample_rng(self.seed, epoch, index) as rng:
            if index < len(self._places):
                record, corner = self._place(index, rng)
                origin = ORIGINS[0]
            else:
                # each in turn, so that a part of them or several times all of them come equally often
                at = (index - len(self._places) + epoch * self.synthetic_count) % len(self.synthetic)
                record, origin = self.synthetic[at], ORIGINS[1]
                (corner,) = patch_corners(record.size, self.patch_px, mode="random", count=1, rng=rng)
            image, classes = self._cut(record, corner, rng)
        return {"image": image, "classes": classes, "image_id": record.name, "origin": origin}

    def _place(self, index: int, rng: np.random.Generator) -> tuple[PhaseRecord, tuple[int, int]]:
        """The image of an index, and the upper left corner (y, x) of the patch."""
        number, corner = self._places[index]
        if self._cells:
            cells = self._cells[int(rng.integers(len(self._cells)))]
            number, y, x = cells[int(rng.integers(len(cells)))]
            record, reach = self.records[number], self.patch_px / 2
            at = np.array([y - reach, x - reach]) + rng.uniform(-reach / 2, reach / 2, size=2)
            y0, x0 = np.clip(np.rint(at), 0, [side - self.patch_px for side in record.size]).astype(int).tolist()
            return record, (y0, x0)
        record = self.records[number]
        if corner is None:
            ((y0, x0),) = patch_corners(record.size, self.patch_px, mode="random", count=1, rng=rng)
            return record, (y0, x0)
        return record, corner

    def _cut(self, record: PhaseRecord, corner: tuple[int, int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """float32 [1, P, P] in [-1, 1] and int64 [P, P], binned."""
        planes, side, how = map_phase_image(record.path), self.patch_px, self.augmentation
        if rng.random() < how.rotate:
            image, classes = _turned(planes, corner, side, float(rng.uniform(0, 2 * math.pi)), self.spec)
        else:
            window = np.array(planes[:INSTANCES, corner[0] : corner[0] + side, corner[1] : corner[1] + side])
            image = self.spec.scaled(window[PHASE] * np.float32(PHASE_STEP_RAD))
            classes = torch.from_numpy(window[CLASSES].astype(np.int64))
        image, classes = binned_image(image, self.binning), binned_classes(classes, self.binning)
        turns = int(rng.integers(1, 4)) if rng.random() < how.rotate90 else 0
        axes = [axis for axis, share in ((-1, how.horizontal_flip), (-2, how.vertical_flip)) if rng.random() < share]
        image, classes = (torch.rot90(part, turns, (-2, -1)).flip(axes).contiguous() for part in (image, classes))
        if rng.random() < how.background:
            low, high = self.spec.phase_limits_rad
            sd = 2 / (high - low) * how.background_rad * float(rng.uniform())
            image = (image + sd * _uneven(side // self.binning, rng)).clamp(-1, 1)
        return image, classes


def _uneven(side: int, rng: np.random.Generator) -> Tensor:
    """float32 [1, side, side]: bumps of 8 px or more with a standard deviation near 1, and a quarter of it as noise."""
    coarse = max(2, side // int(rng.integers(8, 65)))
    bumps = torch.from_numpy(rng.standard_normal((1, 1, coarse, coarse), np.float32))
    bumps = interpolate(bumps, size=(side, side), mode="bicubic", align_corners=False)[0]
    return bumps + 0.25 * torch.from_numpy(rng.standard_normal((1, side, side), np.float32))


def _turned(
    planes: NDArray[np.int16], corner: tuple[int, int], side: int, angle: float, spec: PhaseSpec
) -> tuple[Tensor, Tensor]:
    """A patch around the middle of another, turned."""
    height, width = planes.shape[1:]
    reach = turned_window_side(side)
    bounds = [
        (max(0, start + side // 2 - reach // 2), min(length, start + side // 2 - reach // 2 + reach))
        for start, length in zip(corner, (height, width), strict=True)
    ]
    (y0, y1), (x0, x1) = bounds
    window = np.array(planes[:INSTANCES, y0:y1, x0:x1])
    along = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    dy, dx = torch.meshgrid(along, along, indexing="ij")
    y = corner[0] - y0 + (side - 1) / 2 + math.cos(angle) * dy - math.sin(angle) * dx
    x = corner[1] - x0 + (side - 1) / 2 + math.sin(angle) * dy + math.cos(angle) * dx
    size_y, size_x = y1 - y0, x1 - x0
    grid = torch.stack([(2 * x + 1) / size_x - 1, (2 * y + 1) / size_y - 1], dim=-1)[None]
    image = spec.scaled(window[PHASE] * np.float32(PHASE_STEP_RAD))[None]
    classes = torch.from_numpy(window[CLASSES].astype(np.float32))[None, None]
    options: dict[str, Any] = {"padding_mode": "reflection", "align_corners": False}
    turned = grid_sample(image, grid, mode="bilinear", **options)[0]
    return turned, grid_sample(classes, grid, mode="nearest", **options)[0, 0].long()


class FieldDataset(Dataset[FieldSample]):
    """Whole phase images with class and instance maps.

    Args:
        records: the images.
        spec: how phase becomes network input.
        binning: pixels that become one, along each axis.
    """

    def __init__(self, records: Sequence[PhaseRecord], *, spec: PhaseSpec, binning: int = 1) -> None:
        self.records, self.spec, self.binning = list(records), spec, binning

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: SampleKey | int) -> FieldSample:
        """The sample of a key.

        Raises:
            UserError: the file is missing or damaged.
        """
        record = self.records[as_sample_key(key).index]
        planes = np.array(map_phase_image(record.path))
        classes = torch.from_numpy(planes[CLASSES].astype(np.int64))
        instances = torch.from_numpy(planes[INSTANCES].astype(np.int32))
        return {
            "image": binned_image(self.spec.scaled(planes[PHASE] * np.float32(PHASE_STEP_RAD)), self.binning),
            "classes": binned_classes(classes, self.binning),
            "instances": binned_instances(instances, classes, self.binning),
            "image_id": record.name,
        }


def collate_segmentation(samples: list[Any]) -> dict[str, Any]:
    """Stack patches to a ``contracts.PatchBatch``, or fields of one size to a ``contracts.FieldBatch``."""
    batch: dict[str, Any] = {
        "images": torch.stack([sample["image"] for sample in samples]),
        "classes": torch.stack([sample["classes"] for sample in samples]),
        "image_ids": [sample["image_id"] for sample in samples],
    }
    if "instances" in samples[0]:
        batch["instances"] = torch.stack([sample["instances"] for sample in samples])
    else:
        batch["origins"] = [sample["origin"] for sample in samples]
    return batch
