"""Detection data: records of annotated images, the data set that loads them, the collate function."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hemolens.data.annotations import NAMED_FILES, AnnotatedImage, match_class, read_annotations, unknown_class
from hemolens.data.contracts import DetectionBatch, DetectionSample
from hemolens.data.sampling import SampleKey, as_sample_key, distributed_rank, one_thread, sample_rng
from hemolens.data.transforms import DetectionTransform, Sample, mosaic, resize
from hemolens.errors import UserError
from hemolens.io.images import is_image, read_image, read_image_size, to_channels, to_float
from hemolens.io.voc import read_voc_annotation, read_voc_split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectionRecord:
    """One annotated image, before loading.

    Attributes:
        image_id: name without folder and suffix.
        image_path: the image file.
        size: (height, width) in pixels, from the header of the image file.
        boxes: float32 [M, 4], xyxy in pixels, inside the image, with positive area.
        labels: int64 [M], 0..C-1.
    """

    image_id: str
    image_path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray


@dataclass
class _Findings:
    """What is wrong with the boxes of one split: kind -> {image id: count}."""

    counts: dict[str, Counter] = field(default_factory=dict)

    def add(self, kind: str, image_id: str, count: int) -> None:
        if count:
            self.counts.setdefault(kind, Counter())[image_id] += count

    def describe(self, kind: str) -> str:
        files = self.counts[kind]
        named = ", ".join(list(files)[:NAMED_FILES])
        more = f" and {len(files) - NAMED_FILES} more files" if len(files) > NAMED_FILES else ""
        return f"{sum(files.values())} {kind} ({named}{more})"


def read_voc_records(
    root: str | Path,
    split: str,
    class_names: Sequence[str],
    *,
    unknown_labels: Literal["error", "drop"] = "error",
) -> list[DetectionRecord]:
    """Read all annotations of one split of a PASCAL VOC folder; pixels are not decoded yet.

    The layout is ``JPEGImages/<id>.<suffix>``, ``Annotations/<id>.xml`` and ``ImageSets/Main/<split>.txt``.
    Boxes partly outside the image are clipped to it; boxes of zero or negative width or height, boxes wholly
    outside and (with ``unknown_labels="drop"``) objects of other classes are left out. One warning counts and
    names them.

    Args:
        root: folder of the data set.
        split: name of the list without suffix, e.g. "train".
        class_names: the C classes; label i is ``class_names[i]``.
        unknown_labels: what to do with names that are not in ``class_names``.

    Raises:
        UserError: a folder, list, image or annotation is missing or unreadable, the XML states another image
            size than the file has, or a name is unknown and ``unknown_labels="error"``.
    """
    root = Path(root)
    images = _images_by_id(root / "JPEGImages")
    annotated = []
    for image_id in read_voc_split(root, split):
        xml = root / "Annotations" / f"{image_id}.xml"
        if image_id not in images:
            raise UserError(
                f"{root / 'JPEGImages' / image_id}: no image of this name, but {split}.txt lists it; "
                "add the file or remove the line"
            )
        voc = read_voc_annotation(xml)
        size = _checked_size(images[image_id], xml, (voc.height, voc.width))
        annotated.append(AnnotatedImage(image_id, images[image_id], size, voc.names, voc.boxes, str(xml)))
    return make_records(annotated, class_names, unknown_labels, f"{root}, {split}")


def read_image_records(
    annotations: str | Path,
    image_folder: str | Path,
    class_names: Sequence[str],
    *,
    unknown_labels: Literal["error", "drop"] = "error",
) -> list[DetectionRecord]:
    """Read COCO JSON or GeoJSON of images under ``image_folder``; pixels are not decoded yet.

    Boxes are treated as :func:`read_voc_records` does.

    Args:
        annotations: a COCO file, a GeoJSON file, or a folder of GeoJSON files; see ``annotations.read_annotations``.
        image_folder: folder of the images.
        class_names: the C classes; label i is ``class_names[i]``, found by name, whatever its case.
        unknown_labels: what to do with classes that are not in ``class_names``.

    Raises:
        UserError: a file is missing or no such annotation, an image is missing or has another size, or a class is
            unknown and ``unknown_labels="error"``.
    """
    annotated = read_annotations(annotations, image_folder, accept=is_image, size_of=read_image_size)
    for image in annotated:
        _checked_size(image.path, Path(image.source), image.size)
    return make_records(annotated, class_names, unknown_labels, str(annotations))


def make_records(
    annotated: Sequence[AnnotatedImage], class_names: Sequence[str], unknown_labels: str, place: str
) -> list[DetectionRecord]:
    """Usable boxes of each image, and one warning about the others.

    Raises:
        UserError: a name is unknown and ``unknown_labels="error"``.
    """
    if unknown_labels not in ("error", "drop"):
        raise UserError(f"unknown_labels={unknown_labels!r}: choose error or drop")
    findings = _Findings()
    unknown: dict[str, str] = {}
    records = []
    for image in annotated:
        new = {name for name in image.names if name not in unknown and match_class(name, class_names) is None}
        unknown.update(dict.fromkeys(new, image.source))
        boxes, labels = _usable_boxes(image, class_names, findings)
        records.append(DetectionRecord(image.image_id, image.path, image.size, boxes, labels))
    if unknown and unknown_labels == "error":
        raise unknown_class(unknown, class_names)
    if findings.counts and distributed_rank()[0] == 0:
        log.warning("%s: %s", place, "; ".join(findings.describe(kind) for kind in findings.counts))
    return records


def count_classes(labels: Sequence[NDArray[Any]], class_names: Sequence[str]) -> dict[str, int]:
    """How many of all labels (an int64 array an image) each class has, by name."""
    joined = np.concatenate([np.zeros(0, np.int64), *labels])
    counts = np.bincount(joined, minlength=len(class_names)).tolist()
    return dict(zip(class_names, counts, strict=True))


def _images_by_id(folder: Path) -> dict[str, Path]:
    """Image files of a folder by stem; UserError if the folder is missing or a stem occurs twice."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a PASCAL VOC data set keeps its images there")
    images: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if is_image(p)):
        if path.stem in images:
            raise UserError(f"{path} and {images[path.stem].name} have the same name; remove one of them")
        images[path.stem] = path
    return images


def _checked_size(image: Path, source: Path, stated_hw: tuple[int | None, int | None]) -> tuple[int, int]:
    """(height, width) of the image file; UserError if the annotation was made on another size."""
    height, width = read_image_size(image)
    stated = (stated_hw[1] or width, stated_hw[0] or height)
    if stated != (width, height):
        raise UserError(
            f"{source}: drawn on {stated[0]}x{stated[1]} pixels, but {image.name} has {width}x{height}; "
            "use the image that was annotated, or scale the boxes"
        )
    return height, width


def _usable_boxes(
    image: AnnotatedImage, class_names: Sequence[str], findings: _Findings
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [M, 4] clipped to the image, labels [M]; what was left out goes into ``findings``."""
    height, width = image.size
    boxes, image_id = image.boxes, image.image_id
    found = [match_class(name, class_names) for name in image.names]
    known = np.array([label is not None for label in found], dtype=bool)
    flat = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
    outside = ~flat & ((clipped[:, 2] <= clipped[:, 0]) | (clipped[:, 3] <= clipped[:, 1]))
    kept = known & ~flat & ~outside
    findings.add("objects with unknown labels dropped", image_id, int((~known).sum()))
    findings.add("zero-area boxes dropped", image_id, int((known & flat).sum()))
    findings.add("boxes outside the image dropped", image_id, int((known & outside).sum()))
    findings.add("boxes clipped to the image", image_id, int((kept & (clipped != boxes).any(axis=1)).sum()))
    labels = [label for label, keep in zip(found, kept, strict=True) if keep]
    return clipped[kept], np.array(labels, dtype=np.int64)


def load_image(path: str | Path, *, in_channels: int) -> Tensor:
    """Read an image file as a tensor [in_channels, H, W]: uint8 for 8-bit files, else float32 by
    ``to_float``.

    Raises:
        UserError: as ``hemolens.io.images.read_image`` and ``to_channels``.
    """
    array = to_channels(read_image(path), in_channels)
    if array.dtype != np.uint8:
        array = to_float(array)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


class DetectionDataset(Dataset[DetectionSample]):
    """Load records, resize them and apply a transform; see ``contracts.DetectionSample`` for what comes out.

    Args:
        records: the annotated images.
        image_size: (height, width) to which every image is resized (aspect ratio is not kept); None keeps
            sizes.
        in_channels: 1 or 3.
        transform: augmentation or, for evaluation, scaling alone.
        seed: with epoch and index the source of every draw.
        cache: decode all images now and keep them in memory after the resize (uint8 for 8-bit files), which
            spares the decoding in each epoch. Workers share the memory where they are forked. Samples are the
            same.

    Raises:
        UserError: an image cannot be read; now with ``cache``, else when the sample is taken.
    """

    def __init__(
        self,
        records: Sequence[DetectionRecord],
        *,
        image_size: tuple[int, int] | None,
        in_channels: int,
        transform: DetectionTransform,
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        self.records = list(records)
        self.image_size = image_size
        self.in_channels = in_channels
        self.transform = transform
        self.seed = seed
        # numpy, not tensors: pickling a tensor for a spawned worker takes a file descriptor each
        self._cache = [self._decode(index).numpy() for index in range(len(self.records))] if cache else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: SampleKey | int) -> DetectionSample:
        """The sample of a key; a plain index is that of epoch 0."""
        epoch, index = as_sample_key(key)
        with one_thread(), sample_rng(self.seed, epoch, index) as rng:
            sample = self._load(index)
            augmentation = self.transform.augmentation
            if augmentation is not None and rng.random() < augmentation.mosaic:
                others = [self._load(int(other)) for other in rng.integers(len(self), size=3)]
                sample = mosaic([sample, *others], min_area_kept=augmentation.min_area_kept)
            image, target = self.transform(*sample)
        return {"image": image, "target": target, "image_id": self.records[index].image_id}

    def _decode(self, index: int) -> Tensor:
        image = load_image(self.records[index].image_path, in_channels=self.in_channels)
        if self.image_size is None:
            return image
        with one_thread():
            return resize(image, torch.zeros(0, 4), self.image_size)[0]

    def _load(self, index: int) -> Sample:
        """Image [C, H, W] after the resize, boxes [M, 4] scaled with it, labels [M]."""
        record = self.records[index]
        image = self._decode(index) if self._cache is None else torch.from_numpy(self._cache[index])
        height, width = image.shape[-2:]
        scale = np.array([width / record.size[1], height / record.size[0]] * 2, dtype=np.float32)
        return image, torch.from_numpy(record.boxes * scale), torch.from_numpy(record.labels)


def collate_detection(samples: Sequence[DetectionSample], *, size_divisor: int = 32) -> DetectionBatch:
    """Pad samples with zeros at the bottom and right to one size and stack them.

    Args:
        samples: B samples with the same number of channels.
        size_divisor: height and width of the batch are multiples of it (32: the stride of a ResNet's last
            stage).

    Returns:
        The batch of ``contracts.DetectionBatch``.
    """
    sizes = torch.tensor([sample["image"].shape[-2:] for sample in samples], dtype=torch.int64)
    height, width = (-(-int(side) // size_divisor) * size_divisor for side in sizes.amax(dim=0))
    images = torch.zeros(len(samples), samples[0]["image"].shape[0], height, width)
    for canvas, sample in zip(images, samples, strict=True):
        canvas[:, : sample["image"].shape[1], : sample["image"].shape[2]] = sample["image"]
    return {
        "images": images,
        "image_sizes": sizes,
        "targets": [sample["target"] for sample in samples],
        "image_ids": [sample["image_id"] for sample in samples],
    }
