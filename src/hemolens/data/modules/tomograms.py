"""Detection on projections of tomograms; the fields are simulated once and cached."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from hemolens.data.detection import collate_detection
from hemolens.data.sampling import ResumableDataLoader, batch_loader, distributed_rank
from hemolens.data.simulation.plan import SPLITS, DataSetPlan, FieldRecord, build_settings, statistics_of
from hemolens.data.simulation.run import FieldStore, data_set_folder, simulate_data_set
from hemolens.data.tomograms import TomogramDataset
from hemolens.data.transforms import DetectionAugmentation, DetectionTransform
from hemolens.errors import UserError
from hemolens.optics.cells import CLASS_NAMES
from hemolens.optics.fields import FieldSettings

log = logging.getLogger(__name__)


class TomogramDataModule(LightningDataModule):
    """Train, validation and test loaders over simulated fields with known boxes.

    A sample (donor) lies wholly in one split. Batches are ``contracts.DetectionBatch`` with values in [0, 1],
    min-max normalised over each projection, and are the same for any number of workers. The validation set
    has the mixture of the training set; the test set gets further fields until ``test_floor`` holds.

    Args:
        cache_dir: where simulated data sets are kept, each in a folder named by the hash of its settings.
        field_px: (height, width) of a field.
        n_samples, fields_per_sample, split, test_floor, enriched_fraction: see ``simulation.plan.DataSetPlan``.
        blood, placement, tomography: keys of ``optics.cells.BloodSettings``,
            ``optics.placement.PlacementSettings`` and ``optics.tomography.TomographySettings``.
        projection: what the detector sees of a tomogram: maximum, mean, phase or focus.
        simulation_seed: seed of fields and split, apart from ``seed`` so that runs with other seeds share the
            data.
        simulation_workers: processes that simulate; None decides by cores and work, 1 stays in this process.
        train_crop_px: (height, width) of random windows to train on; None trains on whole fields.
        augment: keys of ``transforms.DetectionAugmentation``; None trains without.
        class_names: the simulator's classes; written in the config for those who read it, and checked.
        in_channels: 1, or 3 to repeat the projection.
        size_divisor: batch height and width are padded to multiples of it.
        batch_size: fields a batch and process.
        num_workers: loader processes; 0 loads in the main process.
        seed: source of the sample order and of every augmentation draw.

    Raises:
        UserError: bad arguments here; an unwritable cache or unreachable floors when the data are simulated.
    """

    limits = (
        "Trained and tested on simulated fields: the difficulty is a setting, the scores say nothing about real cells.",
    )

    def __init__(
        self,
        *,
        cache_dir: str | Path,
        field_px: Sequence[int] = (1444, 1444),
        n_samples: int = 45,
        fields_per_sample: int = 27,
        split: Sequence[float] = (0.7, 0.2, 0.1),
        test_floor: Mapping[str, int] | None = None,
        enriched_fraction: float = 0.25,
        blood: Mapping[str, Any] | None = None,
        placement: Mapping[str, Any] | None = None,
        tomography: Mapping[str, Any] | None = None,
        projection: str = "maximum",
        simulation_seed: int = 0,
        simulation_workers: int | None = None,
        train_crop_px: Sequence[int] | None = None,
        augment: Mapping[str, Any] | None = None,
        class_names: Sequence[str] = CLASS_NAMES,
        in_channels: int = 1,
        size_divisor: int = 32,
        batch_size: int = 4,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if tuple(class_names) != CLASS_NAMES:
            raise UserError(f"class_names={list(class_names)}: the simulator's are {list(CLASS_NAMES)}")
        if in_channels not in (1, 3):
            raise UserError(f"in_channels={in_channels}: choose 1, or 3 to repeat the projection")
        parts = {"blood": blood or {}, "placement": placement or {}, "tomography": tomography or {}}
        self.plan = DataSetPlan(
            fov=build_settings(FieldSettings, {"field_px": field_px, **parts}, "data"),
            n_samples=n_samples,
            fields_per_sample=fields_per_sample,
            split=tuple(split),
            test_floor=dict(test_floor or {}),
            enriched_fraction=enriched_fraction,
            projection=projection,
            seed=simulation_seed,
        )
        self.cache_dir = Path(cache_dir).expanduser()
        self.simulation_workers = simulation_workers
        self.train_crop_px = _checked_crop(train_crop_px, self.plan.fov.field_px)
        self.train_transform = DetectionTransform(DetectionAugmentation.from_config(augment))
        self.eval_transform = DetectionTransform()
        self.class_names = CLASS_NAMES
        self.in_channels = in_channels
        self.collate = partial(collate_detection, size_divisor=size_divisor)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self._records: list[FieldRecord] = []

    @staticmethod
    def capped(config: dict[str, Any], *, batch_size: int, image_px: int, num_workers: int) -> dict[str, Any]:
        """Constructor arguments for a quick trial: three samples of one field of at most ``image_px``, no floors."""
        size = [min(side, image_px) for side in config["field_px"]]
        few = {"n_samples": 3, "fields_per_sample": 1, "test_floor": None, "split": [0.34, 0.33, 0.33]}
        batch = min(batch_size, config["batch_size"])
        small = {"field_px": size, "train_crop_px": None, "batch_size": batch, "num_workers": num_workers}
        return config | few | small | {"simulation_workers": 1}

    def prepare_data(self) -> None:
        """Simulate what the cache does not hold (Lightning calls this in one process)."""
        self._simulate()

    def setup(self, stage: str) -> None:
        """Find the fields, simulating them if ``prepare_data`` was not called, and log a line a split."""
        if self._records:
            return
        self._records = self._simulate()
        if distributed_rank()[0] == 0:
            for split in SPLITS:
                log.info("%s: %s", split, describe_statistics(self.field_statistics(split)))

    def field_statistics(self, split: str) -> dict[str, Any]:
        """What a split holds; call ``setup`` first.

        Returns:
            n_samples, n_fields, n_enriched_fields, n_cells, class_counts (by name), and touching_fraction and
            border_fraction, shares of the labelled cells.

        Raises:
            UserError: ``split`` is not train, val or test.
        """
        return statistics_of(self._records_of(split))

    def describe(self, split: str) -> str:
        """One line about a split, for reports; simulates it where that has not been done."""
        if not self._records:
            self.setup(split)
        return describe_statistics(self.field_statistics(split))

    def input_spec(self) -> dict[str, Any]:
        """How a file becomes network input, kept in checkpoints (see ``inference.detection.InputSpec``)."""
        return {"in_channels": self.in_channels, "resize_hw": None, "normalize": None, "minmax": True}

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled, cropped and augmented; its position is part of a checkpoint."""
        return self._loader("train")

    def val_dataloader(self) -> ResumableDataLoader:
        """Whole fields in fixed order, each once."""
        return self._loader("val")

    def test_dataloader(self) -> ResumableDataLoader:
        """Whole fields in fixed order, each once; those added for the floors come last."""
        return self._loader("test")

    def _simulate(self) -> list[FieldRecord]:
        return simulate_data_set(self.plan, self.cache_dir, workers=self.simulation_workers)

    def _records_of(self, split: str) -> list[FieldRecord]:
        if split not in SPLITS:
            raise UserError(f"split={split!r}: choose from {', '.join(SPLITS)}")
        return [record for record in self._records if record.split == split]

    def _loader(self, split: str) -> ResumableDataLoader:
        training = split == "train"
        store = FieldStore(data_set_folder(self.plan, self.cache_dir))
        dataset = TomogramDataset(
            [store.truth(record.name) for record in self._records_of(split)],
            transform=self.train_transform if training else self.eval_transform,
            in_channels=self.in_channels,
            crop_px=self.train_crop_px if training else None,
            seed=self.seed,
        )
        return batch_loader(
            dataset,
            training=training,
            collate=self.collate,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
        )


def describe_statistics(statistics: Mapping[str, Any]) -> str:
    """One line: ``60 fields of 4 samples, 900 cells: 750 RBC, ...; 48% touching, 12% cut by the border``."""
    listed = ", ".join(f"{count} {name}" for name, count in statistics["class_counts"].items())
    added = f" ({statistics['n_enriched_fields']} enriched)" if statistics["n_enriched_fields"] else ""
    fields = f"{statistics['n_fields']} fields{added} of {statistics['n_samples']} samples"
    touching, cut = statistics["touching_fraction"], statistics["border_fraction"]
    cells = f"{statistics['n_cells']} cells: {listed}"
    return f"{fields}, {cells}; {touching:.0%} touching, {cut:.0%} cut by the border"


def _checked_crop(crop_px: Sequence[int] | None, field_px: tuple[int, int]) -> tuple[int, int] | None:
    if crop_px is None:
        return None
    if len(crop_px) != 2 or not all(1 <= part <= side for part, side in zip(crop_px, field_px, strict=True)):
        raise UserError(f"train_crop_px={list(crop_px)}: give [height, width], at most {list(field_px)}")
    return int(crop_px[0]), int(crop_px[1])
