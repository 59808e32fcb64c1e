"""What the data modules of single cells share: loaders over pictures with a class each."""

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from hemolens.data.classification import (
    CropDataset,
    CropRecord,
    CropSpec,
    collate_classification,
    count_classes,
    mean_and_std,
)
from hemolens.data.modules.base import BatchDataModule
from hemolens.data.sampling import distributed_rank, seed_sequence
from hemolens.data.splits import SPLITS
from hemolens.data.transforms import DetectionAugmentation
from hemolens.errors import UserError

log = logging.getLogger(__name__)


class CropDataModule(BatchDataModule):
    """Train, validation and test loaders over pictures of single cells; a subclass says which.

    Batches are ``contracts.ClassificationBatch`` and the same for any number of workers.

    Args:
        class_names: the classes in label order, at least two.
        image_px, crop_px, in_channels, minmax, projection: see ``data.classification.CropSpec``.
        normalize: ``{mean: [...], std: [...]}``, one number a channel; None for none.
        augment: keys of ``transforms.DetectionAugmentation`` that make sense for one cell (no ``mosaic``); None trains
            without.
        batch_size: pictures a batch and process.
        num_workers: loader processes; 0 loads in the main process.
        seed: source of the sample order and of every augmentation draw.

    Raises:
        UserError: bad arguments here; missing or unreadable files in ``setup``.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        image_px: int = 112,
        crop_px: int | None = None,
        in_channels: int = 3,
        minmax: bool = False,
        normalize: Mapping[str, Sequence[float]] | None = None,
        projection: str | None = None,
        augment: Annotated[Mapping[str, Any] | None, DetectionAugmentation] = None,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(collate=collate_classification, batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.class_names = _checked_names(class_names)
        mean, std = mean_and_std(normalize)
        self.spec = CropSpec(
            in_channels=in_channels,
            image_px=image_px,
            crop_px=crop_px,
            minmax=minmax,
            projection=projection,
            mean=mean,
            std=std,
        )
        self.augmentation = DetectionAugmentation.from_config(augment)
        if self.augmentation is not None and self.augmentation.mosaic:
            raise UserError("augment.mosaic joins pictures of several cells, which have no one class: leave it out")
        self._records: dict[str, list[CropRecord]] = {}
        self._told = False

    def prepare_data(self) -> None:
        """Find the pictures, or make them (Lightning calls this in one process)."""
        if self._records:
            return
        made = self._make()
        counts = {split: count_classes(made[split], len(self.class_names)) for split in SPLITS}
        for label, name in enumerate(self.class_names):
            if not counts["train"][label]:
                raise UserError(f"class {name} has no training picture ({self._place()}): add some or leave it out")
        for split in ("val", "test"):
            if lacking := [name for name, count in zip(self.class_names, counts[split], strict=True) if not count]:
                log.warning("%s: no picture of %s, so no score either", split, ", ".join(lacking))
        # In an order of its own, so that the first pictures, which figures show, are of all classes.
        for number, split in enumerate(SPLITS):
            order = np.random.default_rng(seed_sequence(0, number)).permutation(len(made[split]))
            self._records[split] = [made[split][index] for index in order]

    def setup(self, stage: str) -> None:
        """Find the pictures if ``prepare_data`` was not called, and log a line a split."""
        self.prepare_data()
        if not self._told and distributed_rank()[0] == 0:
            for split in SPLITS:
                log.info("%s: %s (%s)", split, self.describe(split), self._place())
        self._told = True

    def class_counts(self, split: str) -> list[int]:
        """Pictures of each class in "train", "val" or "test", in label order."""
        self.prepare_data()
        return count_classes(self._records[split], len(self.class_names))

    def describe(self, split: str) -> str:
        """One line about a split, e.g. ``380 pictures: 77 basophil, 76 eosinophil, ...``."""
        counts = self.class_counts(split)
        listed = ", ".join(f"{count} {name}" for count, name in zip(counts, self.class_names, strict=True))
        return f"{sum(counts)} pictures: {listed}"

    def input_spec(self) -> dict[str, Any]:
        """How a file becomes network input, kept in checkpoints (see ``data.classification.CropSpec``)."""
        return self.spec.to_dict()

    def _make(self) -> dict[str, list[CropRecord]]:
        """The records of each split; what they point to exists afterwards."""
        raise NotImplementedError

    def _place(self) -> str:
        """Where the data lie, for messages."""
        raise NotImplementedError

    def _samples(self, split: str) -> tuple[CropDataset, None]:
        augmentation = self.augmentation if split == "train" else None
        return CropDataset(self._records[split], spec=self.spec, augmentation=augmentation, seed=self.seed), None


def _checked_names(class_names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(class_names)
    if isinstance(class_names, str) or len(set(names)) != len(names):
        raise UserError(f"class_names={class_names}: give a list of different names")
    if len(names) < 2:
        raise UserError(f"class_names={list(names)}: a classifier needs at least two classes")
    return names
