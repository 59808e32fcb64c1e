"""Projections of tomograms as detection samples."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from hemolens.data.contracts import DetectionSample
from hemolens.data.planes import map_planes
from hemolens.data.rare import CellBank
from hemolens.data.sampling import SampleKey, as_sample_key, one_thread, sample_rng
from hemolens.data.transforms import DetectionTransform, crop_window
from hemolens.data.views import ProjectionRecord, TomogramView

# As in whole fields, where a cell of which less is visible has no box.
MIN_AREA_KEPT = 0.25


class TomogramDataset(Dataset[DetectionSample]):
    """Stored projections, normalised over the whole field, cropped and transformed.

    Args:
        records: the tomograms.
        transform: augmentation or, for evaluation, none.
        view: what is seen of a tomogram.
        in_channels: those of the view, or 3 to repeat a single one.
        crop_px: (height, width) of a window at a random place, at most the field; None takes the whole field.
        seed: with epoch and index the source of every draw.
        bank: cells to paste into each field; None pastes none.
        pastes: how many to try.
    """

    def __init__(
        self,
        records: Sequence[ProjectionRecord],
        *,
        transform: DetectionTransform,
        view: TomogramView,
        in_channels: int = 1,
        crop_px: tuple[int, int] | None = None,
        seed: int = 0,
        bank: CellBank | None = None,
        pastes: int = 0,
    ) -> None:
        self.records = list(records)
        self.transform, self.view = transform, view
        self.in_channels = in_channels
        self.crop_px = crop_px
        self.seed = seed
        self.bank, self.pastes = bank, pastes

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: SampleKey | int) -> DetectionSample:
        """The sample of a key (a plain index is that of epoch 0); image float32 [in_channels, H, W] in [0, 1].

        Raises:
            UserError: the file is missing or damaged.
        """
        epoch, number = as_sample_key(key)
        index = number % len(self.records)  # copies of a field count on, so that they are drawn anew
        record = self.records[index]
        planes = map_planes(record.path)
        image = torch.from_numpy(self.view.see(planes))
        boxes, labels = torch.from_numpy(record.boxes), torch.from_numpy(record.labels)
        image = image.expand(self.in_channels, -1, -1)
        with one_thread(), sample_rng(self.seed, epoch, number) as rng:
            if self.crop_px is not None:
                height, width = (min(part, side) for part, side in zip(self.crop_px, image.shape[-2:], strict=True))
                top = int(rng.integers(image.shape[-2] - height + 1))
                left = int(rng.integers(image.shape[-1] - width + 1))
                window = (top, left, height, width)
                image, boxes, labels = crop_window(image, boxes, labels, window, min_area_kept=MIN_AREA_KEPT)
            if self.bank is not None:
                image, boxes, labels = self.bank.paste(
                    (image, boxes, labels),
                    self.records,
                    count=self.pastes,
                    but=index,
                    view=self.view,
                    limits=self.view.limits(planes),
                    rng=rng,
                )
            image, target = self.transform(image, boxes, labels)
        return {"image": image, "target": target, "image_id": record.image_id}
