"""What the data modules of annotated image files share."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from hemolens.data.detection import DetectionDataset, DetectionRecord, collate_detection, count_classes
from hemolens.data.modules.base import BatchDataModule
from hemolens.data.sampling import distributed_rank
from hemolens.data.transforms import DetectionAugmentation, DetectionTransform
from hemolens.errors import UserError

log = logging.getLogger(__name__)


class ImageDetectionDataModule(BatchDataModule):
    """Train, validation and test loaders over image files with boxes; a subclass says which files and boxes.

    Batches are ``contracts.DetectionBatch`` and are the same, byte for byte, for any number of workers.

    Args:
        class_names: the classes in label order.
        image_size: (height, width) to which all images are resized; None keeps their sizes.
        in_channels: 3, or 1 for grey.
        augment: keys of ``transforms.DetectionAugmentation``; None trains without augmentation.
        normalize: ``{mean: [...], std: [...]}``, one number a channel; None feeds values in [0, 1].
        unknown_labels: "error" or "drop", see ``detection.read_voc_records``.
        cache: keep the decoded and resized images in memory.
        size_divisor: batch height and width are padded to multiples of it.
        batch_size: images a batch and process.
        num_workers: loader processes; 0 loads in the main process.
        seed: source of the sample order and of every augmentation draw.

    Raises:
        UserError: bad arguments here; missing or unreadable files in ``setup``.
    """

    limits = (
        "Tested on images of the same source as the training images; other stains and microscopes were not tried.",
    )

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        image_size: Sequence[int] | None = None,
        in_channels: int = 3,
        augment: Annotated[Mapping[str, Any] | None, DetectionAugmentation] = None,
        normalize: Mapping[str, Sequence[float]] | None = None,
        unknown_labels: Literal["error", "drop"] = "error",
        cache: bool = False,
        size_divisor: int = 32,
        batch_size: int = 4,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        collate = partial(collate_detection, size_divisor=size_divisor)
        super().__init__(collate=collate, batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.class_names = _checked_names(class_names)
        self.in_channels = in_channels
        self.image_size = _checked_image_size(image_size)
        self.normalize = normalize
        self.unknown_labels = unknown_labels
        self.cache = cache
        statistics = _checked_statistics(normalize, in_channels)
        self.train_transform = DetectionTransform(DetectionAugmentation.from_config(augment), **statistics)
        self.eval_transform = DetectionTransform(None, **statistics)
        self._datasets: dict[str, DetectionDataset] = {}

    @staticmethod
    def capped(config: dict[str, Any], *, batch_size: int, image_px: int, num_workers: int) -> dict[str, Any]:
        """Constructor arguments for a quick trial: images at most ``image_px`` wide or high."""
        height, width = config["image_size"] or (image_px, image_px)
        scale = min(1.0, image_px / max(height, width))
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        batch = min(batch_size, config["batch_size"])
        return config | {"image_size": size, "batch_size": batch, "num_workers": num_workers}

    def setup(self, stage: str) -> None:
        """Read what ``stage`` ("fit", "validate" or "test") needs, once, and log a line a split."""
        for name in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]:
            if name not in self._datasets:
                self._datasets[name] = self._build(name)

    def describe(self, split: str) -> str:
        """One line about a split ("train", "val" or "test"), for reports."""
        return describe_records(self._known_records(split), self.class_names)

    def class_counts(self, split: str) -> dict[str, int]:
        """Annotated boxes of each class in a split."""
        return count_classes([record.labels for record in self._known_records(split)], self.class_names)

    def _known_records(self, split: str) -> Sequence[DetectionRecord]:
        return self._datasets[split].records if split in self._datasets else self._records(split)

    def input_spec(self) -> dict[str, Any]:
        """How a file becomes network input, kept in checkpoints (see ``inference.detection.InputSpec``)."""
        normalize = self.normalize and {name: list(map(float, part)) for name, part in self.normalize.items()}
        size = self.image_size and list(self.image_size)
        return {
            "in_channels": self.in_channels,
            "resize_hw": size,
            "normalize": normalize,
            "projection": None,
            "norm": None,
            "ri_window": None,
        }

    def _build(self, name: str) -> DetectionDataset:
        records = self._records(name)
        if distributed_rank()[0] == 0:
            log.info("%s: %s (%s)", name, describe_records(records, self.class_names), self._place())
        return DetectionDataset(
            records,
            image_size=self.image_size,
            in_channels=self.in_channels,
            transform=self.train_transform if name == "train" else self.eval_transform,
            seed=self.seed,
            cache=self.cache,
        )

    def _records(self, name: str) -> list[DetectionRecord]:
        """Annotated images of "train", "val" or "test"."""
        raise NotImplementedError

    def _place(self) -> str:
        """Where the data lie, for messages."""
        raise NotImplementedError

    def _samples(self, split: str) -> tuple[DetectionDataset, None]:
        return self._datasets[split], None


def describe_records(records: Sequence[DetectionRecord], class_names: Sequence[str]) -> str:
    """One line, e.g. ``205 images, 4805 boxes: 4155 RBC, 372 WBC, 278 Platelets``."""
    counts = count_classes([record.labels for record in records], class_names)
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{len(records)} images, {sum(counts.values())} boxes: {listed}"


def _checked_names(class_names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(class_names)
    if isinstance(class_names, str) or not names or len(set(names)) != len(names):
        raise UserError(f"class_names={class_names}: give a list of different names")
    return names


def _checked_image_size(image_size: Sequence[int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    if len(image_size) != 2 or min(image_size) < 1:
        raise UserError(f"image_size={list(image_size)}: give [height, width] in pixels, or null to keep sizes")
    return int(image_size[0]), int(image_size[1])


def _checked_statistics(normalize: Mapping[str, Sequence[float]] | None, in_channels: int) -> dict[str, list[float]]:
    """Keyword arguments ``mean`` and ``std`` of DetectionTransform; empty without normalisation."""
    if normalize is None:
        return {}
    if set(normalize) != {"mean", "std"} or any(len(values) != in_channels for values in normalize.values()):
        raise UserError(f"normalize={dict(normalize)}: give mean and std with {in_channels} numbers each, or null")
    return {key: [float(value) for value in values] for key, values in normalize.items()}
