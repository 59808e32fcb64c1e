"""Cells that are marked by points in images (Chula RBC-12): square crops around them, split by image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hemolens.data.classification import CropSpec
from hemolens.data.contracts import ClassificationSample
from hemolens.data.sampling import one_thread
from hemolens.data.splits import split_by_group
from hemolens.errors import UserError
from hemolens.io.images import list_images, read_image, to_channels
from hemolens.io.points import read_points

CHULA_SIDE_PX = 72  # cells are 36 to 46 px wide: a cell and its surroundings [choice]
#: Types of Chula RBC-12 that paper B's four types correspond to: discocyte, spherocyte, stomatocyte, echinocyte.
CHULA_TYPES = {"normal": 0, "spherocyte": 3, "stomatocyte": 5, "burr_cell": 8}


@dataclass(frozen=True, eq=False)
class PointCells:
    """Crops of cells, pixels as in the files.

    Attributes:
        pixels: uint8 [N, 3, P, P].
        labels: int64 [N], 0..K-1 in the order of ``class_names``.
        images: text [N], name of the image that a cell was cut from.
        class_names: K.
        left_out: of each class the cells whose crop would leave the image.
    """

    pixels: Tensor
    labels: NDArray[np.int64]
    images: NDArray[np.str_]
    class_names: tuple[str, ...]
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self, indices: Sequence[int] | None = None) -> dict[str, int]:
        """Cells of each class, of all or of some."""
        labels = self.labels if indices is None else self.labels[np.asarray(indices, np.int64)]
        found = np.bincount(labels, minlength=len(self.class_names)).tolist()
        return dict(zip(self.class_names, found, strict=True))

    def split(self, shares: Sequence[float] = (0.7, 0.3), *, seed: int = 0) -> list[list[int]]:
        """Indices of the parts, no image in two of them; see :func:`hemolens.data.splits.split_by_group`."""
        return split_by_group(self.images.tolist(), shares, seed=seed)


def cut_cells(root: str | Path, types: Mapping[str, int] | None = None, *, side_px: int = CHULA_SIDE_PX) -> PointCells:
    """Cut a square around each point of the types asked for; a cell whose square leaves the image is left out.

    Args:
        root: folder with ``Dataset/<id>.jpg`` (any image with 8 bits a channel) and ``Label/<id>.txt``.
        types: the number in the files of each class, in label order; None: :data:`CHULA_TYPES`.
        side_px: P, side of the square; the point is its pixel (P // 2, P // 2).

    Raises:
        UserError: missing or unreadable files, an image with more bits, or no cell that can be cut.
    """
    if side_px < 1:
        raise UserError(f"side_px={side_px}: give a number of pixels above 0")
    root, wanted = Path(root), dict(CHULA_TYPES if types is None else types)
    label_of = {number: label for label, number in enumerate(wanted.values())}
    names, left_out = tuple(wanted), dict.fromkeys(wanted, 0)
    crops, labels, images = [], [], []
    for path in list_images(root / "Dataset"):
        points = [point for point in read_points(root / "Label" / f"{path.stem}.txt") if point.type in label_of]
        array = to_channels(read_image(path), 3)
        if array.dtype != np.uint8:
            raise UserError(f"{path}: values of type {array.dtype}, expected 8 bits a channel")
        height, width = array.shape[:2]
        for point in points:
            label, left, top = label_of[point.type], point.x - side_px // 2, point.y - side_px // 2
            if left < 0 or top < 0 or left + side_px > width or top + side_px > height:
                left_out[names[label]] += 1
                continue
            crops.append(array[top : top + side_px, left : left + side_px].copy())  # lets go of the image
            labels.append(label)
            images.append(path.stem)
    if not crops:
        raise UserError(f"{root}: no cell of {', '.join(names)} with {side_px} px around it: lower side_px")
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)  # channels last in memory, resized the fastest
    return PointCells(pixels, np.array(labels), np.array(images), names, left_out)


class PointCellDataset(Dataset[ClassificationSample]):
    """Crops as network input.

    Args:
        cells: the crops.
        spec: how pictures become network input; its ``crop_px`` is replaced by the side of the crops, since that of
            another data set is of another scale.

    Raises:
        UserError: a spec of one channel, which these colour crops are not for.
    """

    def __init__(self, cells: PointCells, *, spec: CropSpec) -> None:
        if spec.in_channels != cells.pixels.shape[1]:
            raise UserError(f"crops of {cells.pixels.shape[1]} channels, but the network takes {spec.in_channels}")
        self.cells, self.spec = cells, replace(spec, crop_px=None)

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: int) -> ClassificationSample:
        """``image`` float32 [3, S, S], its ``label`` and ``image_id``, e.g. ``17 (4)``: crop 4 of all, of image 17."""
        with one_thread():
            image = self.spec.finish(self.spec.square(self.cells.pixels[index]))
        label, name = int(self.cells.labels[index]), f"{self.cells.images[index]} ({index})"
        return {"image": image, "label": label, "image_id": name}
