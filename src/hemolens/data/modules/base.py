"""The loaders that every data module has."""

from collections.abc import Callable
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hemolens.data.sampling import ResumableDataLoader, batch_loader


class BatchDataModule(LightningDataModule):
    """Train, validation and test loaders; a subclass says which samples they give.

    Args:
        collate: makes a batch of samples.
        batch_size: samples a batch and process.
        eval_batch_size: of validation and test; None: as in training.
        num_workers: loader processes; 0 loads in the main process.
        seed: source of the sample order and of every augmentation draw.
    """

    def __init__(
        self,
        *,
        collate: Callable[[list[Any]], Any],
        batch_size: int,
        num_workers: int,
        seed: int,
        eval_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.collate = collate
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled and augmented; its position is part of a checkpoint."""
        return self._loader("train")

    def val_dataloader(self) -> ResumableDataLoader:
        """Whole and in fixed order, each once."""
        return self._loader("val")

    def test_dataloader(self) -> ResumableDataLoader:
        """Whole and in fixed order, each once."""
        return self._loader("test")

    def example_image(self) -> Tensor:
        """An image [1, C, H, W] by which the network's multiply-accumulates are counted: the first of validation."""
        image: Tensor = next(iter(self.val_dataloader()))["images"][:1]
        return image

    def _samples(self, split: str) -> tuple[Dataset[Any], NDArray[np.float64] | None]:
        """The samples of "train", "val" or "test", and how often each is shown (None: once)."""
        raise NotImplementedError

    def _loader(self, split: str) -> ResumableDataLoader:
        samples, repeats = self._samples(split)
        return batch_loader(
            samples,
            training=split == "train",
            collate=self.collate,
            batch_size=self.batch_size if split == "train" else self.eval_batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
            repeats=repeats,
        )
