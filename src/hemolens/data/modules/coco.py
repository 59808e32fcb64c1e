"""Detection data in COCO JSON or GeoJSON with a folder of images."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hemolens.data.detection import DetectionRecord, read_image_records
from hemolens.data.modules.images import ImageDetectionDataModule
from hemolens.data.splits import SPLITS, empty_part, split_into_parts
from hemolens.errors import UserError


class CocoDetectionDataModule(ImageDetectionDataModule):
    """Loaders over COCO or GeoJSON annotations: one for each part, or one that is split at random.

    Args:
        image_folder: folder of the images, see ``data.annotations.read_annotations``.
        annotations: COCO JSON, GeoJSON, or a folder of GeoJSON files, of all images, split by ``split``; None with the
            next three.
        train_annotations, val_annotations, test_annotations: the same of each part.
        split: shares of train, validation and test; 0 leaves a part empty.
        group_pattern: images whose names agree up to this text stay in one part (a donor, a slide), e.g. ``_`` for
            ``s003_f012.png``; None splits single images.
        split_seed: seed of the split, apart from ``seed`` so that runs with other seeds share the parts.
        options: see :class:`hemolens.data.modules.images.ImageDetectionDataModule`.

    Raises:
        UserError: bad arguments here; missing or unreadable files in ``setup``.
    """

    def __init__(
        self,
        *,
        image_folder: str | Path,
        annotations: str | Path | None = None,
        train_annotations: str | Path | None = None,
        val_annotations: str | Path | None = None,
        test_annotations: str | Path | None = None,
        split: Sequence[float] = (0.7, 0.2, 0.1),
        group_pattern: str | None = None,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        separate = (train_annotations, val_annotations, test_annotations)
        if (annotations is None) == (None in separate) or (annotations is not None and any(separate)):
            raise UserError(
                "give either annotations (one file, split at random) or all of train_annotations, "
                "val_annotations and test_annotations"
            )
        if len(split) != len(SPLITS):
            raise UserError(f"split={list(split)}: give three shares, for {', '.join(SPLITS)}")
        self.image_folder = Path(image_folder).expanduser()
        self.files = {} if annotations else dict(zip(SPLITS, map(str, separate), strict=True))
        self.annotations, self.split, self.split_seed = annotations, tuple(split), split_seed
        self.group_pattern = group_pattern

    def _place(self) -> str:
        return str(self.image_folder)

    def _records(self, name: str) -> list[DetectionRecord]:
        records = self._read(self.files[name]) if self.files else self._parts[name]
        if not records:
            raise empty_part(self.files.get(name) or str(self.annotations), name)
        return records

    @cached_property
    def _parts(self) -> dict[str, list[DetectionRecord]]:
        """The records of one file, split by group."""
        records = self._read(str(self.annotations))
        groups = [
            r.image_id if self.group_pattern is None else r.image_id.split(self.group_pattern)[0] for r in records
        ]
        parts = split_into_parts(groups, self.split, seed=self.split_seed)
        return {name: [records[i] for i in part] for name, part in parts.items()}

    def _read(self, path: str) -> list[DetectionRecord]:
        return read_image_records(
            Path(path).expanduser(), self.image_folder, self.class_names, unknown_labels=self.unknown_labels
        )
