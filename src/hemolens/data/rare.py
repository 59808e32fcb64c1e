"""More of the rare classes in training: fields shown more often, or cells copied into other fields."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemolens.data.planes import map_planes
from hemolens.data.transforms import Sample, box_area
from hemolens.data.views import Limits, ProjectionRecord, TomogramView

RARE_CLASSES = ("repeat_factor", "copy_paste")
# Share of the smaller of two boxes that may be covered where a cell is pasted, and of a cell that may be copied; cells
# overlap more on a slide, but here the lower one shows through. [choice]
MAX_COVERED = 0.1
MARGIN_PX = 4  # around a box: cells fade out over about 0.6 um at 0.162 um a pixel [choice]
PLACES_TRIED = 20  # for each copy; where none is free there is one copy less [choice]


def field_shares(labels: Sequence[NDArray[np.int64]], classes: int) -> NDArray[np.float64]:
    """Share of the fields that hold each class, [classes]; ``labels`` has [M] of each field."""
    held = [np.bincount(of_field, minlength=classes) > 0 for of_field in labels]
    return np.mean(held, axis=0)


def repeat_factors(labels: Sequence[NDArray[np.int64]], classes: int, threshold: float) -> NDArray[np.float64]:
    """How often each field is shown in an epoch on average, [fields], 1 or more.

    r = max over the classes c of a field of max(1, sqrt(threshold / f_c)), where f_c is the share of the fields that
    hold c (Gupta, Dollar, Girshick, LVIS, CVPR 2019, arXiv:1908.03195, section 4.1).
    """
    shares = field_shares(labels, classes)
    of_class = np.sqrt(np.maximum(1.0, threshold / np.maximum(shares, 1e-12)))
    return np.array([of_class[of_field].max(initial=1.0) for of_field in labels])


@dataclass(frozen=True)
class CellBank:
    """Cells that may be copied: whole ones of rare classes that no other covers.

    Attributes:
        fields: int64 [K], the number of the record that each lies in.
        boxes: float32 [K, 4] xyxy px of that field.
        labels: int64 [K].
    """

    fields: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, records: Sequence[ProjectionRecord], classes: int, threshold: float) -> "CellBank":
        """The cells of classes that fewer than ``threshold`` of the fields hold.

        Raises:
            UserError: a file is missing or damaged.
        """
        shares = field_shares([record.labels for record in records], classes)
        found = []
        for number, record in enumerate(records):
            rare = np.flatnonzero(shares[record.labels] < threshold)
            if not len(rare):
                continue
            height, width = map_planes(record.path).stored.shape[1:]
            boxes = torch.from_numpy(record.boxes)
            for at in rare.tolist():
                x0, y0, x1, y1 = record.boxes[at].tolist()
                others = torch.cat([boxes[:at], boxes[at + 1 :]])
                whole = x0 > 0 and y0 > 0 and x1 < width and y1 < height
                if whole and float(covered(boxes[at], others).amax() if len(others) else 0.0) <= MAX_COVERED:
                    found.append((number, record.boxes[at], record.labels[at]))
        return cls(
            np.array([number for number, _, _ in found], np.int64),
            np.array([box for _, box, _ in found], np.float32).reshape(-1, 4),
            np.array([label for _, _, label in found], np.int64),
        )

    def paste(
        self,
        sample: Sample,
        records: Sequence[ProjectionRecord],
        *,
        count: int,
        but: int,
        view: TomogramView,
        limits: Sequence[Limits],
        rng: np.random.Generator,
    ) -> Sample:
        """Lay cells of other fields over a sample, in the spirit of Ghiasi et al., CVPR 2021 (arXiv:2012.07177).

        A cell is cut out along the ellipse inscribed in its box and a margin, without the margin where neighbours reach
        into it. Of the two values of a pixel the higher stays: no edge shows where both backgrounds are alike. It goes
        to a random place where no box is covered by more than ``MAX_COVERED`` (of the smaller of the two).

        Args:
            sample: image float32 [C, H, W] in [0, 1], boxes [M, 4], labels [M].
            records: what ``fields`` counts.
            count: copies to try.
            but: number of the sample's own record, which nothing is taken from.
            view: how tomograms are seen.
            limits: refractive indices that are 0 and 1 in this sample, so that copies are as bright as at home.
            rng: source of what is copied and where.

        Returns:
            The same with the copies; the image is a new one.
        """
        image, boxes, labels = sample
        image = image.clone()
        height, width = image.shape[-2:]
        candidates = np.flatnonzero(self.fields != but)
        for _ in range(count if len(candidates) else 0):
            at = int(candidates[rng.integers(len(candidates))])
            patch, corner = _cut(records[self.fields[at]], self.boxes[at], view, limits)
            rows, columns = patch.shape[-2:]
            if rows > height or columns > width:
                continue
            for _ in range(PLACES_TRIED):
                top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
                shift = np.array([left, top, left, top], np.float32) - np.tile(np.array(corner[::-1], np.float32), 2)
                box = torch.from_numpy(self.boxes[at] + shift)
                if not len(boxes) or float(covered(box, boxes).amax()) <= MAX_COVERED:
                    place = image[:, top : top + rows, left : left + columns]
                    torch.maximum(place, patch.expand_as(place), out=place)
                    boxes = torch.cat([boxes, box[None]])
                    labels = torch.cat([labels, torch.tensor([self.labels[at]])])
                    break
        return image, boxes, labels


def covered(box: Tensor, others: Tensor) -> Tensor:
    """Intersection of one box [4] with others [M, 4] as a share of the smaller of the two, [M]."""
    sides = torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])
    area = sides.clamp(min=0).prod(dim=1)
    return area / torch.minimum(box_area(box[None]), box_area(others))


def _cut(
    record: ProjectionRecord, box: NDArray[np.float32], view: TomogramView, limits: Sequence[Limits]
) -> tuple[Tensor, tuple[int, int]]:
    """A cell on black, float32 [C, h, w], and the (top, left) of that window in its field."""
    planes = map_planes(record.path)
    height, width = planes.stored.shape[1:]
    left, top = (max(int(np.floor(value)) - MARGIN_PX, 0) for value in box[:2])
    right, bottom = (min(int(np.ceil(value)) + MARGIN_PX, n) for value, n in zip(box[2:], (width, height), strict=True))
    patch = view.see(planes, limits=limits, window=(slice(top, bottom), slice(left, right)))
    y, x = np.mgrid[top:bottom, left:right] + 0.5

    def inside(ellipse: NDArray[np.float32], margin: float) -> NDArray[np.bool_]:
        center, half = (ellipse[:2] + ellipse[2:]) / 2, (ellipse[2:] - ellipse[:2]) / 2 + margin
        return ((x - center[0]) / half[0]) ** 2 + ((y - center[1]) / half[1]) ** 2 <= 1

    shown = inside(box, MARGIN_PX)
    for other in record.boxes[(record.boxes != box).any(axis=1)]:
        shown &= ~inside(other, MARGIN_PX) | inside(box, 0)  # no slivers of neighbours
    patch *= shown
    return torch.from_numpy(patch), (top, left)
