"""What the data modules of tomograms share: loaders over stored projections."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from hemolens.data.detection import collate_detection, count_classes
from hemolens.data.modules.base import BatchDataModule
from hemolens.data.rare import RARE_CLASSES, CellBank, repeat_factors
from hemolens.data.sampling import distributed_rank
from hemolens.data.splits import SPLITS
from hemolens.data.tomograms import TomogramDataset
from hemolens.data.transforms import DetectionAugmentation, DetectionTransform
from hemolens.data.views import RI_WINDOW, ProjectionRecord, TomogramView
from hemolens.errors import UserError

log = logging.getLogger(__name__)


class ProjectionDataModule(BatchDataModule):
    """Train, validation and test loaders over projections of tomograms; a subclass says which.

    Batches are ``contracts.DetectionBatch`` with values in [0, 1] and are the same for any number of workers.

    Args:
        class_names: the classes in label order.
        projection, norm, ri_window: what is seen of a tomogram, see :class:`hemolens.data.views.TomogramView`.
        train_crop_px: (height, width) of random windows to train on; None trains on whole fields.
        augment: keys of ``transforms.DetectionAugmentation``; None trains without.
        in_channels: 1, or 3 to repeat the projection; 3 for ``max_mean_focus``.
        rare_classes: what is done in training for classes that few fields hold: ``repeat_factor`` shows their fields
            more often, ``copy_paste`` copies their cells into other fields (see ``data.rare``); None does nothing.
        rare_threshold: the share of the training fields below which a class is rare.
        rare_pastes: copies to try in each field, for ``copy_paste``.
        size_divisor: batch height and width are padded to multiples of it.
        batch_size: fields a batch and process.
        num_workers: loader processes; 0 loads in the main process.
        seed: source of the sample order and of every augmentation draw.

    Raises:
        UserError: bad arguments here; what cannot be read or written in ``prepare_data``.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        projection: str = "maximum",
        norm: str = "minmax_projection",
        ri_window: Sequence[float] = RI_WINDOW,
        train_crop_px: Sequence[int] | None = None,
        augment: Annotated[Mapping[str, Any] | None, DetectionAugmentation] = None,
        in_channels: int = 1,
        rare_classes: str | None = None,
        rare_threshold: float = 0.5,
        rare_pastes: int = 2,
        size_divisor: int = 32,
        batch_size: int = 4,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        collate = partial(collate_detection, size_divisor=size_divisor)
        super().__init__(collate=collate, batch_size=batch_size, num_workers=num_workers, seed=seed)
        if in_channels not in (1, 3):
            raise UserError(f"in_channels={in_channels}: choose 1, or 3 to repeat the projection")
        if train_crop_px is not None and (len(train_crop_px) != 2 or min(train_crop_px) < 1):
            raise UserError(f"train_crop_px={list(train_crop_px)}: give [height, width], or null for whole fields")
        if rare_classes is not None and rare_classes not in RARE_CLASSES:
            raise UserError(f"rare_classes={rare_classes}: choose from {', '.join(RARE_CLASSES)}, or null")
        if not 0 < rare_threshold <= 1 or rare_pastes < 1:
            raise UserError(
                f"rare_threshold={rare_threshold}, rare_pastes={rare_pastes}: give a share above 0 and at least 1 copy"
            )
        self.rare_classes, self.rare_threshold, self.rare_pastes = rare_classes, rare_threshold, rare_pastes
        self.class_names = tuple(class_names)
        self.view = TomogramView(projection=projection, norm=norm, ri_window=tuple(map(float, ri_window)))
        if len(self.view.channels) > in_channels:
            raise UserError(f"projection={projection} has three channels: set in_channels=3")
        self.train_crop_px = None if train_crop_px is None else (int(train_crop_px[0]), int(train_crop_px[1]))
        self.train_transform = DetectionTransform(DetectionAugmentation.from_config(augment))
        self.eval_transform = DetectionTransform()
        self.in_channels = in_channels
        self._records: dict[str, list[ProjectionRecord]] = {}
        self._told = False

    def prepare_data(self) -> None:
        """Make what the cache does not hold (Lightning calls this in one process)."""
        if not self._records:
            self._records = self._make()

    def setup(self, stage: str) -> None:
        """Find the projections, making them if ``prepare_data`` was not called, and log a line a split."""
        if self._told:
            return
        self.prepare_data()
        self._told = True
        if distributed_rank()[0] == 0:
            for split in SPLITS:
                log.info("%s: %s", split, self.describe(split))

    def describe(self, split: str) -> str:
        """One line about a split, for reports."""
        raise NotImplementedError

    def class_counts(self, split: str) -> dict[str, int]:
        """Labelled cells of each class in a split; makes it where that has not been done."""
        self.prepare_data()
        return count_classes([record.labels for record in self._records[split]], self.class_names)

    def input_spec(self) -> dict[str, Any]:
        """How a file becomes network input, kept in checkpoints (see ``inference.detection.InputSpec``)."""
        return {
            "in_channels": self.in_channels,
            "resize_hw": None,
            "normalize": None,
            "projection": self.view.projection,
            "norm": self.view.norm,
            "ri_window": list(self.view.ri_window) if self.view.norm == "ri_window" else None,
        }

    def _make(self) -> dict[str, list[ProjectionRecord]]:
        """The records of each split; what they point to exists afterwards."""
        raise NotImplementedError

    def _samples(self, split: str) -> tuple[TomogramDataset, NDArray[np.float64] | None]:
        training = split == "train"
        records = self._records[split]
        bank, repeats = self._more_of_the_rare(records) if training else (None, None)
        dataset = TomogramDataset(
            records,
            transform=self.train_transform if training else self.eval_transform,
            view=self.view,
            in_channels=self.in_channels,
            crop_px=self.train_crop_px if training else None,
            seed=self.seed,
            bank=bank,
            pastes=self.rare_pastes,
        )
        return dataset, repeats

    def _more_of_the_rare(
        self, records: Sequence[ProjectionRecord]
    ) -> tuple[CellBank | None, NDArray[np.float64] | None]:
        """The cells to paste, or how often each field is shown; says what that comes to."""
        classes = len(self.class_names)
        if self.rare_classes == "copy_paste":
            bank = CellBank.of(records, classes, self.rare_threshold)
            counts = np.bincount(bank.labels, minlength=classes).tolist()
            listed = ", ".join(f"{count} {name}" for count, name in zip(counts, self.class_names, strict=True) if count)
            log.log(logging.INFO if listed else logging.WARNING, "copy_paste: cells to copy: %s", listed or "none")
            return bank, None
        if self.rare_classes == "repeat_factor":
            factors = repeat_factors([record.labels for record in records], classes, self.rare_threshold)
            level = logging.INFO if factors.max() > 1 else logging.WARNING
            log.log(level, "repeat_factor: %d fields shown %.1f times an epoch", len(records), factors.sum())
            return None, factors
        return None, None
