"""Detection on projections of simulated tomograms; the fields are simulated once and cached."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from hemolens.data.modules.projections import ProjectionDataModule
from hemolens.data.simulation.plan import DataSetPlan, FieldRecord, build_settings, statistics_of
from hemolens.data.simulation.run import FieldStore, data_set_folder, simulate_data_set
from hemolens.data.simulation.truth import load_arrays
from hemolens.data.splits import SPLITS
from hemolens.data.views import ProjectionRecord
from hemolens.errors import UserError
from hemolens.optics.cells import CLASS_NAMES
from hemolens.optics.cells.settings import BloodSettings
from hemolens.optics.fields import FieldSettings
from hemolens.optics.placement import PlacementSettings
from hemolens.optics.tomography import TomographySettings


class SimulatedTomogramDataModule(ProjectionDataModule):
    """Train, validation and test loaders over simulated fields with known boxes.

    A blood sample lies wholly in one split. The validation set has the mixture of the training set; the test set gets
    further fields until ``test_floor`` holds.

    Args:
        cache_dir: where simulated data sets are kept, each in a folder named by the hash of its settings.
        field_px: (height, width) of a field.
        n_samples, fields_per_sample, split, test_floor, enriched_fraction: see ``simulation.plan.DataSetPlan``.
        blood, placement, tomography: keys of ``optics.cells.BloodSettings``,
            ``optics.placement.PlacementSettings`` and ``optics.tomography.TomographySettings``.
        simulation_seed: seed of fields and split, apart from ``seed`` so that runs with other seeds share the
            data.
        simulation_workers: processes that simulate; None decides by cores and work, 1 stays in this process.
        class_names: the simulator's classes; written in the config for those who read it, and checked.
        options: see :class:`hemolens.data.modules.projections.ProjectionDataModule`.

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
        blood: Annotated[Mapping[str, Any] | None, BloodSettings] = None,
        placement: Annotated[Mapping[str, Any] | None, PlacementSettings] = None,
        tomography: Annotated[Mapping[str, Any] | None, TomographySettings] = None,
        simulation_seed: int = 0,
        simulation_workers: int | None = None,
        class_names: Sequence[str] = CLASS_NAMES,
        **options: Any,
    ) -> None:
        super().__init__(class_names=class_names, **options)
        if self.class_names != CLASS_NAMES:
            raise UserError(f"class_names={list(class_names)}: the simulator's are {list(CLASS_NAMES)}")
        parts = {"blood": blood or {}, "placement": placement or {}, "tomography": tomography or {}}
        self.plan = DataSetPlan(
            fov=build_settings(FieldSettings, {"field_px": field_px, **parts}, "data"),
            n_samples=n_samples,
            fields_per_sample=fields_per_sample,
            split=tuple(split),
            test_floor=dict(test_floor or {}),
            enriched_fraction=enriched_fraction,
            seed=simulation_seed,
        )
        crop, size = self.train_crop_px, self.plan.fov.field_px
        if crop is not None and not all(part <= side for part, side in zip(crop, size, strict=True)):
            raise UserError(f"train_crop_px={list(crop)}: give [height, width], at most {list(size)}")
        self.cache_dir = Path(cache_dir).expanduser()
        self.simulation_workers = simulation_workers
        self._fields: list[FieldRecord] = []

    @staticmethod
    def capped(config: dict[str, Any], *, batch_size: int, image_px: int, num_workers: int) -> dict[str, Any]:
        """Constructor arguments for a quick trial: three samples of one field of at most ``image_px``, no floors."""
        size = [min(side, image_px) for side in config["field_px"]]
        few = {"n_samples": 3, "fields_per_sample": 1, "test_floor": None, "split": [0.34, 0.33, 0.33]}
        batch = min(batch_size, config["batch_size"])
        small = {"field_px": size, "train_crop_px": None, "batch_size": batch, "num_workers": num_workers}
        return config | few | small | {"simulation_workers": 1}

    def field_statistics(self, split: str) -> dict[str, Any]:
        """What a split holds; call ``setup`` first.

        Returns:
            n_samples, n_fields, n_enriched_fields, n_cells, class_counts (by name), touching_fraction and
            border_fraction, shares of the labelled cells, and left_out, cells that found no room in the stack.

        Raises:
            UserError: ``split`` is not train, val or test.
        """
        if split not in SPLITS:
            raise UserError(f"split={split!r}: choose from {', '.join(SPLITS)}")
        return statistics_of([field for field in self._fields if field.split == split])

    def describe(self, split: str) -> str:
        """One line about a split; simulates it where that has not been done."""
        self.prepare_data()
        return describe_statistics(self.field_statistics(split))

    def _make(self) -> dict[str, list[ProjectionRecord]]:
        self._fields = simulate_data_set(self.plan, self.cache_dir, workers=self.simulation_workers)
        store = FieldStore(data_set_folder(self.plan, self.cache_dir))
        records: dict[str, list[ProjectionRecord]] = {split: [] for split in SPLITS}
        for field in self._fields:
            path = store.truth(field.name)
            arrays = load_arrays(path, ("boxes", "labels"))
            records[field.split].append(ProjectionRecord(field.name, path, arrays["boxes"], arrays["labels"]))
        return records


def describe_statistics(statistics: Mapping[str, Any]) -> str:
    """One line: ``60 fields of 4 samples, 900 cells: 750 RBC, ...; 48% touching, 12% cut by the border``."""
    listed = ", ".join(f"{count} {name}" for name, count in statistics["class_counts"].items())
    added = f" ({statistics['n_enriched_fields']} enriched)" if statistics["n_enriched_fields"] else ""
    fields = f"{statistics['n_fields']} fields{added} of {statistics['n_samples']} samples"
    touching, cut = statistics["touching_fraction"], statistics["border_fraction"]
    cells = f"{statistics['n_cells']} cells: {listed}"
    lost = f"; {statistics['left_out']} left out for want of room" if statistics["left_out"] else ""
    return f"{fields}, {cells}; {touching:.0%} touching, {cut:.0%} cut by the border{lost}"
