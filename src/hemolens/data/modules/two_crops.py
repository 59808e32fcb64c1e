"""What the data modules of images without labels share: two crops to train on, whole images to test on."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hemolens.data.classification import collate_classification
from hemolens.data.contracts import ViewsBatch
from hemolens.data.modules.base import BatchDataModule
from hemolens.data.sampling import EpochSampler, ResumableDataLoader, distributed_rank
from hemolens.data.splits import SPLITS
from hemolens.data.two_crops import TwoCrops
from hemolens.data.view_samples import collate_crops, collate_views, finish_views
from hemolens.errors import UserError

log = logging.getLogger(__name__)

PLACES = ("loader", "device")


class TwoCropDataModule(BatchDataModule):
    """Train, validation and test loaders over images without labels; a subclass says which.

    Training batches are ``contracts.ViewsBatch``, the others ``contracts.ClassificationBatch``, where a label is -1 if
    it is not known. Both are the same for any number of workers. The last training batch is left out where it is not
    full (a queue of keys takes full ones), unless it is the only one.

    Args:
        class_names: the classes in label order.
        two_crops: what is drawn and changed.
        in_channels: C of the batches.
        validates: whether there is a validation part; without, training goes on without validation.
        augment_on: where colours, blur and noise are changed: ``loader``, or ``device``, that of the training, a whole
            batch at once. The draws are the same.
        batch_size: images a batch and process.
        num_workers: loader processes; 0 loads in the main process.
        seed: source of the sample order and of every augmentation draw.

    Raises:
        UserError: bad arguments here; missing or unreadable files in ``setup``.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        two_crops: TwoCrops,
        in_channels: int,
        validates: bool,
        augment_on: str,
        batch_size: int,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__(collate=collate_classification, batch_size=batch_size, num_workers=num_workers, seed=seed)
        if augment_on not in PLACES:
            raise UserError(f"data.augment_on={augment_on}: choose from {', '.join(PLACES)}")
        self.class_names, self.in_channels = tuple(class_names), in_channels
        self.two_crops, self.augment_on, self.validates = two_crops, augment_on, validates
        self._told = False

    def setup(self, stage: str) -> None:
        """Find the images if ``prepare_data`` was not called, and log a line a split.

        Where there is no validation part, the trainer is told not to validate.

        Raises:
            UserError: a part that ``stage`` needs is empty.
        """
        self.prepare_data()
        fit = ("train", "val") if self.validates else ("train",)
        if stage == "fit" and not self.validates and self.trainer is not None:
            self.trainer.limit_val_batches = 0  # an empty loader would do as well, with a warning
        for name in {"fit": fit, "validate": ("val",), "test": ("test",)}.get(stage, ()):
            if not self._count(name):
                remedy = ", or set test=false" if name == "test" else ""
                raise UserError(f"no image in the {name} part: add images, or give it a share of data.split{remedy}")
        if not self._told and distributed_rank()[0] == 0:
            for split in SPLITS:
                log.info("%s: %s", split, self.describe(split))
        self._told = True

    def example_image(self) -> Tensor:
        """Zeros of an image's shape, float32 [1, C, S, S]."""
        return torch.zeros(1, self.in_channels, self.two_crops.image_px, self.two_crops.image_px)

    def describe(self, split: str) -> str:
        """One line about a split."""
        raise NotImplementedError

    def class_counts(self, split: str) -> dict[str, int]:
        """Images of each class in "train", "val" or "test"."""
        raise NotImplementedError

    def input_spec(self) -> dict[str, Any]:
        """How a file becomes network input, kept in checkpoints."""
        raise NotImplementedError

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """With ``augment_on=device`` the views of a training batch; any other batch as it is."""
        return self.finished(batch) if isinstance(batch, dict) and "crops" in batch else batch

    @torch.no_grad()
    def finished(self, batch: Any) -> ViewsBatch:
        """The views and targets of a ``view_samples.CropsBatch``, on the device where its crops are."""
        return finish_views(batch, self.two_crops)

    def _drawing(self) -> dict[str, Any]:
        """Arguments of a ``view_samples.TwoCropDataset``."""
        return {"two_crops": self.two_crops, "seed": self.seed, "on_device": self.augment_on == "device"}

    def _count(self, split: str) -> int:
        """Images in a split."""
        raise NotImplementedError

    def _loader(self, split: str) -> ResumableDataLoader:
        if split != "train":
            return super()._loader(split)
        samples, _ = self._samples(split)
        sampler = EpochSampler(len(samples), seed=self.seed)  # type: ignore[arg-type]
        return ResumableDataLoader(
            samples,
            sampler=sampler,
            batch_size=self.batch_size,
            drop_last=len(sampler) >= self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate_crops if self.augment_on == "device" else collate_views,
        )
