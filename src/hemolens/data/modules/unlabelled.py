"""Pretraining on a lab's own pictures of cells, without labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from hemolens.data.classification import CropDataset, CropRecord, CropSpec, mean_and_std
from hemolens.data.image_folder import UNKNOWN, find_pictures, folder_classes, split_pictures, unreadable_pictures
from hemolens.data.modules.two_crops import TwoCropDataModule
from hemolens.data.sampling import seed_sequence
from hemolens.data.splits import SPLITS
from hemolens.data.two_crops import MOCO_V2, TwoCropAugmentation, TwoCrops
from hemolens.data.view_samples import PictureViews


class BloodCellDataModule(TwoCropDataModule):
    """Loaders over all pictures below a folder, PNG, JPEG, BMP or TIFF of any size, split at random.

    Where the pictures lie in folders directly inside ``root``, those are kept as labels, with which features are
    judged; nothing is trained on them. Files that cannot be read are left out and named in the log; each file is
    decoded once to know, and the cache remembers it. The split is of all files, so that repairing one moves no other.

    Args:
        root: the folder.
        cache_dir: where it is kept which files can be read.
        class_names: the folders that are classes, in label order; None takes each with at least ``min_images``
            pictures, by name. Without any, the one name is ``unlabelled`` and every label -1; ``[unlabelled]`` ignores
            the folders.
        min_images: see ``class_names``; the pictures of smaller folders have the label -1.
        split: shares of train, validation and test, of each class; 0 leaves a part empty, and training goes on without
            validation.
        split_seed: seed of the split, apart from ``seed`` so that runs with other seeds share the parts.
        image_px: side S of the network's input.
        crop_px: side of the square that is cut out of the middle before anything, in pixels of the file; a smaller
            picture is continued by its border. None: training crops come from the whole picture, evaluation sees its
            largest square.
        in_channels: 3, or 1 for luminance.
        normalize: ``{mean: [...], std: [...]}``, one number a channel; None for none: values in [0, 1].
        augment: keys of ``two_crops.TwoCropAugmentation``; None takes those of MoCo v2.
        augment_on, batch_size, num_workers, seed: see :class:`hemolens.data.modules.two_crops.TwoCropDataModule`.

    Raises:
        UserError: bad arguments or an empty folder here; no readable picture in ``prepare_data``.
    """

    limits: tuple[str, ...] = (
        "Pretrained without labels: its features are as good as the task that they were judged with says.",
        "Split by picture: cells of one donor or slide may be in training and test.",
    )

    def __init__(
        self,
        *,
        root: str | Path,
        cache_dir: str | Path,
        class_names: Sequence[str] | None = None,
        min_images: int = 30,
        split: Sequence[float] = (0.8, 0.1, 0.1),
        split_seed: int = 0,
        image_px: int = 224,
        crop_px: int | None = None,
        in_channels: int = 3,
        normalize: Mapping[str, Sequence[float]] | None = None,
        augment: Annotated[Mapping[str, Any] | None, TwoCropAugmentation] = None,
        augment_on: str = "loader",
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        mean, std = mean_and_std(normalize)
        self.spec = CropSpec(in_channels=in_channels, image_px=image_px, crop_px=crop_px, mean=mean, std=std)
        self.root, self.cache_dir = Path(root).expanduser(), Path(cache_dir).expanduser()
        self.files = find_pictures(self.root)
        names, self.labels = folder_classes(self.root, self.files, class_names, min_images)
        self.parts = split_pictures(self.labels, split, seed=split_seed)
        augmentation = MOCO_V2 if augment is None else TwoCropAugmentation.from_config(augment)
        super().__init__(
            class_names=names,
            two_crops=TwoCrops(augmentation, image_px=image_px, mean=mean, std=std),
            in_channels=in_channels,
            validates=split[1] > 0,
            augment_on=augment_on,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self._records: dict[str, list[CropRecord]] = {}

    @staticmethod
    def capped(config: dict[str, Any], *, batch_size: int, image_px: int, num_workers: int) -> dict[str, Any]:
        """Constructor arguments for a quick trial: input of at most ``image_px``."""
        return config | {
            "image_px": min(image_px, config["image_px"]),
            "batch_size": min(batch_size, config["batch_size"]),
            "num_workers": num_workers,
        }

    def prepare_data(self) -> None:
        """Find out which pictures can be read (Lightning calls this in one process)."""
        if self._records:
            return
        bad = unreadable_pictures(self.root, self.files, self.cache_dir)
        stems = Counter(Path(file).with_suffix("") for file in self.files)
        made = {}
        for number, split in enumerate(SPLITS):
            records = []
            for index in self.parts[split]:
                file = Path(self.files[index])
                name = file.with_suffix("") if stems[file.with_suffix("")] == 1 else file
                if file.as_posix() not in bad:
                    records.append(CropRecord(name.as_posix(), self.labels[index], self.root / file))
            # In an order of its own, so that the first pictures, which figures show, are of all classes.
            order = np.random.default_rng(seed_sequence(0, number)).permutation(len(records))
            made[split] = [records[index] for index in order]
        self._records = made

    def records(self, split: str) -> list[CropRecord]:
        """The pictures of a split that can be read."""
        self.prepare_data()
        return list(self._records[split])

    def describe(self, split: str) -> str:
        """One line about a split, e.g. ``458 pictures: 88 basophil, 86 eosinophil, ..., 32 without a label``."""
        if not self._count(split):
            return "no pictures"
        counts = self.class_counts(split)
        rest = self._count(split) - sum(counts.values())
        listed = [f"{count} {name}" for name, count in counts.items() if count or len(counts) > 1]
        listed += [f"{rest} without a label"] if rest else []
        return f"{self._count(split)} pictures: {', '.join(listed)}"

    def class_counts(self, split: str) -> dict[str, int]:
        """Pictures of each class in a split; those without a label are left out."""
        counts = Counter(record.label for record in self.records(split) if record.label != UNKNOWN)
        return {name: counts[label] for label, name in enumerate(self.class_names)}

    def input_spec(self) -> dict[str, Any]:
        """How a file becomes network input, kept in checkpoints (see ``data.classification.CropSpec``)."""
        return self.spec.to_dict()

    def _count(self, split: str) -> int:
        return len(self.records(split))

    def _samples(self, split: str) -> tuple[PictureViews | CropDataset, None]:
        records = self.records(split)
        if split != "train":
            return CropDataset(records, spec=self.spec, seed=self.seed), None
        return PictureViews(records, spec=self.spec, **self._drawing()), None
