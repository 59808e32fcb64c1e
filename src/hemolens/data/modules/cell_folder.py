"""Classification of a lab's own pictures of single cells: a folder a class."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hemolens.data.classification import CropRecord
from hemolens.data.modules.crops import CropDataModule
from hemolens.data.splits import SPLITS, split_by_class, split_by_group
from hemolens.errors import UserError
from hemolens.io.images import IMAGE_SUFFIXES, is_image, list_images

log = logging.getLogger(__name__)


class CellFolderDataModule(CropDataModule):
    """Loaders over ``<root>/<class>/<picture>``, PNG, JPEG, BMP or TIFF, split at random.

    Args:
        root: folder with one folder a class.
        class_names: the classes in label order, each a folder of that name; None takes every folder with at least
            ``min_images`` pictures, by name. What is left out is logged.
        min_images: see ``class_names``.
        split: shares of train, validation and test.
        group_pattern: pictures whose file names agree up to this text stay in one part (a donor, a slide), e.g. ``_``
            for ``s003_c012.png``, in whatever class; None splits the pictures of each class.
        split_seed: seed of the split, apart from ``seed`` so that runs with other seeds share the parts.
        options: see :class:`hemolens.data.modules.crops.CropDataModule`.

    Raises:
        UserError: bad arguments, a missing or empty folder, fewer than two classes.
    """

    limits: tuple[str, ...] = (
        "Tested on pictures of the same source as the training pictures; other stains and microscopes were not tried.",
    )

    def __init__(
        self,
        *,
        root: str | Path,
        class_names: Sequence[str] | None = None,
        min_images: int = 30,
        split: Sequence[float] = (0.7, 0.15, 0.15),
        group_pattern: str | None = None,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        self.root = Path(root).expanduser()
        super().__init__(class_names=_class_folders(self.root, class_names, min_images), **options)
        if len(split) != len(SPLITS):
            raise UserError(f"split={list(split)}: give three shares, for {', '.join(SPLITS)}")
        self.split, self.group_pattern, self.split_seed = tuple(split), group_pattern, split_seed
        if group_pattern is None:  # who sees the scores must know it
            self.limits = (*self.limits, "Split by picture: cells of one donor or slide may be in training and test.")

    @staticmethod
    def capped(config: dict[str, Any], *, batch_size: int, image_px: int, num_workers: int) -> dict[str, Any]:
        """Constructor arguments for a quick trial: pictures of at most ``image_px``."""
        return config | {
            "image_px": min(image_px, config["image_px"]),
            "batch_size": min(batch_size, config["batch_size"]),
            "num_workers": num_workers,
        }

    def _place(self) -> str:
        return str(self.root)

    def _make(self) -> dict[str, list[CropRecord]]:
        records = [
            CropRecord(f"{name}/{path.stem}", label, path)
            for label, name in enumerate(self.class_names)
            for path in list_images(self.root / name)
        ]
        if self.group_pattern is None:
            names = [self.class_names[record.label] for record in records]
            parts = split_by_class(names, self.split, seed=self.split_seed)
        else:
            groups = [record.path.stem.split(self.group_pattern)[0] for record in records]
            parts = split_by_group(groups, self.split, seed=self.split_seed)
        return {name: [records[index] for index in part] for name, part in zip(SPLITS, parts, strict=True)}


def _class_folders(root: Path, class_names: Sequence[str] | None, min_images: int) -> list[str]:
    """The classes to learn, and a log line about those left out."""
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder: give one that holds a folder of pictures a class")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    counts = {
        path.name: sum(is_image(file) and not file.name.startswith(".") for file in path.iterdir()) for path in folders
    }
    counts = {name: count for name, count in counts.items() if count}
    if not counts:
        raise UserError(
            f"{root} holds no class folder with pictures: expected <class>/<picture> ending in "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    if class_names is None:
        chosen = [name for name, count in counts.items() if count >= min_images]
        reason = f"fewer than data.min_images={min_images} pictures"
    else:
        chosen, reason = list(class_names), "not in data.class_names"
        if unknown := [name for name in chosen if name not in counts]:
            raise UserError(f"{root} has no pictures of {', '.join(unknown)}: its classes are {', '.join(counts)}")
    left_out = [f"{name} ({count})" for name, count in counts.items() if name not in chosen]
    if len(chosen) < 2:
        found = ", ".join(f"{name} ({count})" for name, count in counts.items())
        raise UserError(
            f"a classifier needs at least two classes, {root} gives {', '.join(chosen) or 'none'} of {found}: add "
            "pictures, or lower data.min_images"
        )
    if left_out:
        log.info("left out, %s: %s", reason, ", ".join(left_out))
    return chosen
