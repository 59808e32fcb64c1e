"""What the data modules of phase images share: patches to train on, whole fields to validate and test on."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemolens.data.modules.base import BatchDataModule
from hemolens.data.patches import MODES
from hemolens.data.phase_folder import PHASE_FOLDER, PROVENANCE, Scale, find_pairs, store_pairs
from hemolens.data.phase_images import PhaseRecord, cell_counts
from hemolens.data.sampling import distributed_rank, seed_sequence
from hemolens.data.segmentation import FieldDataset, PatchAugmentation, PatchDataset, PhaseSpec, collate_segmentation
from hemolens.data.splits import SPLITS, split_into_parts
from hemolens.errors import UserError

log = logging.getLogger(__name__)

PAPER_PATCH_PX = 256
SPLIT_BY = ("image", "sample", "donor", "day")


class PhaseImageDataModule(BatchDataModule):
    """Train, validation and test loaders over phase images with masks; a subclass says which.

    Training batches are ``contracts.PatchBatch``, the others ``contracts.FieldBatch`` of one whole image.

    Args:
        cache_dir: where images are kept as they are read from.
        class_names: ``background`` and the cell types in label order.
        phase_limits_rad: phases that become -1 and 1, see ``data.segmentation.PhaseSpec``.
        patches: where training patches lie: random, paper_3x3, centred_3x3, grid (``data.patches.patch_corners``).
        patch_px: side of a patch, before binning.
        binning: pixels that become one along each axis, of all images: for networks that see larger pixels.
        patches_per_image: an epoch, for random.
        augment: keys of ``data.segmentation.PatchAugmentation``; None trains without.
        balance_classes: cut random patches around cells of all types equally often.
        split: shares of train, val, test, in proportion; 0 leaves a part empty.
        split_by: what is kept in one part: image, sample, donor or day; patches of an image never part.
        split_seed: of that drawing.
        train_share: of the training images that are used, above 0: the first in an order that ``split_seed`` fixes,
            so that a smaller share is part of a larger one. For the curve of a score over the number of labels.
        synthetic_dir: folder of further phase images and masks (``phase/``, ``classes/``), for training only; they are
            brought to the pixel size and wavelength of the others where both are known.
        synthetic_ratio: synthetic patches an epoch for each other patch; None: ``synthetic_count``.
        synthetic_count: synthetic patches an epoch; None, without a ratio: each once.
        in_channels: 1, the phase; stated for the networks, which read it.
        batch_size: patches a batch and process.
        num_workers: loader processes; 0 loads in the main process.
        seed: source of the sample order and of every augmentation draw.

    Raises:
        UserError: bad arguments here; what cannot be read or made in ``prepare_data``.
    """

    def __init__(
        self,
        *,
        cache_dir: str | Path,
        class_names: Sequence[str],
        phase_limits_rad: Sequence[float] = (-1.0, 5.0),
        patches: str = "random",
        patch_px: int = 256,
        patches_per_image: int = 9,
        binning: int = 1,
        augment: Annotated[Mapping[str, Any] | None, PatchAugmentation] = None,
        balance_classes: bool = False,
        split: Sequence[float] = (159, 20, 40),
        split_by: str = "image",
        split_seed: int = 0,
        train_share: float = 1.0,
        synthetic_dir: str | Path | None = None,
        synthetic_ratio: float | None = None,
        synthetic_count: int | None = None,
        in_channels: int = 1,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            collate=collate_segmentation,
            batch_size=batch_size,
            eval_batch_size=1,  # fields may differ in size
            num_workers=num_workers,
            seed=seed,
        )
        self.class_names = _checked_names(class_names)
        if in_channels != 1:
            raise UserError(f"data.in_channels={in_channels}: a phase image has 1")
        if patches not in MODES:
            raise UserError(f"data.patches={patches}: choose from {', '.join(MODES)}")
        if split_by not in SPLIT_BY:
            raise UserError(f"data.split_by={split_by}: choose from {', '.join(SPLIT_BY)}")
        if len(split) != len(SPLITS) or min(split) < 0 or sum(split) <= 0:
            raise UserError(f"data.split={list(split)}: give three numbers, for {', '.join(SPLITS)}, in proportion")
        if patch_px < 32 or patches_per_image < 1:
            raise UserError(f"data.patch_px={patch_px}, data.patches_per_image={patches_per_image}: at least 32 and 1")
        if synthetic_ratio is not None and synthetic_count is not None:
            raise UserError("data.synthetic_ratio and data.synthetic_count are both given: leave one out")
        if binning < 1 or patch_px % binning:
            raise UserError(f"data.binning={binning}: give a positive number that divides data.patch_px={patch_px}")
        if not 0 < train_share <= 1:
            raise UserError(f"data.train_share={train_share}: give a share of the training images, above 0 to 1")
        for name, value in (("synthetic_ratio", synthetic_ratio), ("synthetic_count", synthetic_count)):
            if value is not None and synthetic_dir is None:
                raise UserError(f"data.{name}={value} needs data.synthetic_dir, the folder of the synthetic images")
            if value is not None and value < 0:
                raise UserError(f"data.{name}={value}: must not be negative")
        self.cache_dir = Path(cache_dir).expanduser()
        self.spec = PhaseSpec(phase_limits_rad=tuple(float(limit) for limit in phase_limits_rad))  # type: ignore[arg-type]
        self.patches, self.patch_px, self.patches_per_image = patches, int(patch_px), int(patches_per_image)
        self.binning = int(binning)
        self.augmentation, self.balance_classes = PatchAugmentation.from_config(augment), balance_classes
        self.split = tuple(float(share) / sum(split) for share in split)
        self.split_by, self.split_seed, self.train_share = split_by, split_seed, train_share
        self.synthetic_dir = None if synthetic_dir is None else Path(synthetic_dir).expanduser()
        self.synthetic_ratio, self.synthetic_count = synthetic_ratio, synthetic_count
        self.acquired_pixel_um: float | None = None
        self._records: dict[str, list[PhaseRecord]] = {}
        self._synthetic: list[PhaseRecord] = []
        self._told = False

    def prepare_data(self) -> None:
        """Make what the cache does not hold (Lightning calls this in one process)."""
        if self._records:
            return
        records = self._make()
        if self.synthetic_dir is not None:
            self._refuse_leak(self.synthetic_dir, records)
            self._synthetic = self._read_synthetic(self.synthetic_dir)
        records["train"] = self._share(records["train"])
        self._records = records

    def setup(self, stage: str) -> None:
        """Find the images, making them if ``prepare_data`` was not called, and log a line a split.

        Raises:
            UserError: a part that ``stage`` needs is empty.
        """
        self.prepare_data()
        for name in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ()):
            if not self._records[name]:
                remedy = ", or set test=false" if name == "test" else ""
                raise UserError(f"no image in the {name} part: give it a share of data.split{remedy}")
        if not self._told and distributed_rank()[0] == 0:
            for split in SPLITS:
                log.info("%s: %s", split, self.describe(split))
        self._told = True

    def describe(self, split: str) -> str:
        """One line about a split, e.g. ``40 images, 1,988 cells: 1,250 discocyte, …``."""
        counts = self.class_counts(split)
        listed = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        records = self._records[split]
        words = [f"{len(records)} images"]
        for name in ("donor", "sample"):
            several = {getattr(record, name) for record in records} - {""}
            if len(several) > 1:
                words.append(f"of {len(several)} {name}s")
                break
        more = f"; {len(self._synthetic)} synthetic images" if split == "train" and self._synthetic else ""
        return f"{' '.join(words)}, {sum(counts.values()):,} cells: {listed}{more}"

    def class_counts(self, split: str) -> dict[str, int]:
        """Cells of each type in a split; makes it where that has not been done."""
        self.prepare_data()
        return dict(zip(self.class_names[1:], cell_counts(self._records[split], len(self.class_names)), strict=True))

    def records(self, split: str) -> list[PhaseRecord]:
        """The images of a split, in the order of its loader without shuffling."""
        self.prepare_data()
        return list(self._records[split])

    def input_spec(self) -> dict[str, Any]:
        """How a phase becomes network input, kept in checkpoints (see ``data.segmentation.PhaseSpec``)."""
        self.prepare_data()
        return self.spec.to_dict()

    def example_image(self) -> Tensor:
        """A patch of paper B's size, whatever is trained on, [1, 1, 256, 256]; where images are binned, one of the
        training."""
        side = PAPER_PATCH_PX if self.binning == 1 else self.patch_px // self.binning
        return torch.zeros(1, 1, side, side)

    def fields(self, split: str) -> FieldDataset:
        """The whole images of a split."""
        return FieldDataset(self.records(split), spec=self.spec, binning=self.binning)

    def _set_scale(self, pixel_um: float | None, wavelength_um: float | None) -> None:
        """Say what the images' scale is, before binning."""
        self.acquired_pixel_um = pixel_um
        binned = None if pixel_um is None else pixel_um * self.binning
        self.spec = replace(self.spec, pixel_um=binned, wavelength_um=wavelength_um)

    def _make(self) -> dict[str, list[PhaseRecord]]:
        """The records of each split; what they point to exists afterwards, and ``spec`` holds the scale."""
        raise NotImplementedError

    def _parts(self, records: Sequence[PhaseRecord]) -> dict[str, list[PhaseRecord]]:
        """Records by split, drawn as ``split`` says, each part in an order of its own."""
        groups = self._groups(records)
        parts = split_into_parts(groups, self.split, seed=self.split_seed)
        return {name: [records[index] for index in _mixed(members)] for name, members in parts.items()}

    def _share(self, records: Sequence[PhaseRecord]) -> list[PhaseRecord]:
        """``train_share`` of the training images, in their order."""
        count = len(records)
        chosen = np.random.default_rng(seed_sequence(self.split_seed, count)).permutation(count)
        return [records[index] for index in sorted(chosen[: math.ceil(self.train_share * count)])]

    def _groups(self, records: Sequence[PhaseRecord]) -> list[Any]:
        """What ``split_by`` keeps in one part, of each image."""
        key = {"image": "name"}.get(self.split_by, self.split_by)
        groups = [getattr(record, key) for record in records]
        if unknown := [record.name for record, group in zip(records, groups, strict=True) if group in ("", None)]:
            raise UserError(
                f"data.split_by={self.split_by}, but the manifest has no {self.split_by} of {unknown[0]} "
                f"({len(unknown)} images in all): fill in that column, or choose another split_by"
            )
        return groups

    def _read_synthetic(self, folder: Path) -> list[PhaseRecord]:
        pairs, bare = find_pairs(folder, folder / PHASE_FOLDER)
        if bare:
            raise UserError(f"{folder}: {len(bare)} synthetic phase images have no mask in classes/, {bare[0]} first")
        to = Scale(self.acquired_pixel_um, self.spec.wavelength_um)
        records, scale = store_pairs(pairs, self.cache_dir, self.class_names, what="synthetic images", to=to)
        for name in ("pixel_um", "wavelength_um"):
            if None in (getattr(to, name), getattr(scale, name)):
                log.warning("%s: %s is not known of all images: they are taken to be alike", folder, name)
        return records

    def _refuse_leak(self, folder: Path, records: Mapping[str, Sequence[PhaseRecord]]) -> None:
        """Refuse images whose makers were trained on what is tested here."""
        note = folder / PROVENANCE
        seen = set(json.loads(note.read_text()).get("train_images", [])) if note.is_file() else set()
        for part in ("val", "test"):
            if shared := sorted(seen & {record.name for record in records[part]}):
                raise UserError(
                    f"{folder}: its networks were trained on {len(shared)} {part} images of these data ({shared[0]}, "
                    "…), whose copies would reach training: use the same data.split, split_by and split_seed for both"
                )

    def _synthetic_per_epoch(self, patches: int) -> int:
        if not self._synthetic:
            return 0
        if self.synthetic_ratio is not None:
            return round(self.synthetic_ratio * patches)
        return len(self._synthetic) if self.synthetic_count is None else self.synthetic_count

    def _samples(self, split: str) -> tuple[FieldDataset | PatchDataset, None]:
        if split != "train":
            return self.fields(split), None
        dataset = PatchDataset(
            self._records[split],
            spec=self.spec,
            patch_px=self.patch_px,
            mode=self.patches,
            patches_per_image=self.patches_per_image,
            binning=self.binning,
            augmentation=self.augmentation,
            balance_classes=self.balance_classes,
            synthetic=self._synthetic,
            seed=self.seed,
        )
        dataset.synthetic_count = self._synthetic_per_epoch(len(dataset))
        return dataset, None


def _mixed(members: Sequence[int]) -> NDArray[np.int64]:
    """In an order of its own, so that the first images, which figures show, are of all donors and days."""
    order = np.random.default_rng(seed_sequence(0, len(members))).permutation(len(members))
    return np.asarray(members, np.int64)[order]


def _checked_names(class_names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(class_names)
    if isinstance(class_names, str) or len(set(names)) != len(names) or len(names) < 2:
        raise UserError(f"data.class_names={class_names}: give different names, background first, at least two")
    if names[0] != "background":
        raise UserError(f"data.class_names={list(names)}: label 0 is the background; name it background")
    return names
