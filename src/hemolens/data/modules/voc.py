"""Detection data in PASCAL VOC folders, e.g. BCCD."""

from functools import cached_property
from pathlib import Path
from typing import Any

from hemolens.data.detection import DetectionRecord, read_voc_records
from hemolens.data.modules.images import ImageDetectionDataModule
from hemolens.data.splits import split_by_group
from hemolens.errors import UserError


class VOCDetectionDataModule(ImageDetectionDataModule):
    """Loaders over a PASCAL VOC folder with its split lists.

    Args:
        root: folder with JPEGImages, Annotations and ImageSets/Main.
        train_split: split list to train on.
        val_split: split list to validate on; None with ``validation_fraction``.
        test_split: split list to test on.
        validation_fraction: instead of ``val_split``, the share of ``train_split`` that is taken out of
            training and validated on.
        split_seed: seed of that slice, apart from ``seed`` so that runs with other seeds validate on the same
            images.
        options: see :class:`hemolens.data.modules.images.ImageDetectionDataModule`.

    Raises:
        UserError: bad arguments here; missing or unreadable files in ``setup``.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        train_split: str = "train",
        val_split: str | None = "val",
        test_split: str = "test",
        validation_fraction: float | None = None,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if (val_split is None) == (validation_fraction is None):
            raise UserError("give either val_split or validation_fraction, and null for the other")
        if validation_fraction is not None and not 0 < validation_fraction < 1:
            raise UserError(f"validation_fraction={validation_fraction}: must be between 0 and 1")
        self.root = Path(root).expanduser()
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.validation_fraction, self.split_seed = validation_fraction, split_seed

    def setup(self, stage: str) -> None:
        """Read what ``stage`` ("fit", "validate" or "test") needs, once, and log a line a split."""
        if not self.root.is_dir():
            raise UserError(
                f"{self.root}: no such data folder; set data.root, or the environment variable that the data "
                "config reads, to where the data set lies"
            )
        super().setup(stage)

    def _place(self) -> str:
        return str(self.root)

    def _records(self, name: str) -> list[DetectionRecord]:
        if name == "test":
            return self._read(self.test_split)
        if self.val_split is None:
            return self._sliced_records[name]
        return self._read(self.train_split if name == "train" else self.val_split)

    @cached_property
    def _sliced_records(self) -> dict[str, list[DetectionRecord]]:
        """The training list without, and only, the slice that is validated on."""
        assert self.validation_fraction is not None
        records = self._read(self.train_split)
        shares = (1 - self.validation_fraction, self.validation_fraction)
        parts = split_by_group([record.image_id for record in records], shares, seed=self.split_seed)
        return {name: [records[i] for i in part] for name, part in zip(("train", "val"), parts, strict=True)}

    def _read(self, split: str) -> list[DetectionRecord]:
        return read_voc_records(self.root, split, self.class_names, unknown_labels=self.unknown_labels)
