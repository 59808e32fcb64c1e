"""Classification of simulated white cells by kind: windows around them in simulated fields."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from hemolens.data.classification import CropRecord
from hemolens.data.modules.crops import CropDataModule
from hemolens.data.simulation.plan import DataSetPlan, build_settings
from hemolens.data.simulation.run import FieldStore, data_set_folder, simulate_data_set
from hemolens.data.simulation.truth import load_arrays
from hemolens.data.splits import SPLITS
from hemolens.errors import UserError
from hemolens.optics.cells.settings import BloodSettings
from hemolens.optics.fields import FieldSettings
from hemolens.optics.placement import PlacementSettings
from hemolens.optics.tomography import TomographySettings

KINDS = ("lymphocyte", "monocyte", "neutrophil")


class SimulatedWhiteCellsDataModule(CropDataModule):
    """Windows of ``crop_px`` around the white cells of simulated fields; neighbours come into view as they lie.

    Cells that the border of their field cuts are left out. A blood sample lies wholly in one split. Fields are kept in
    the cache, in the form and the folders of ``data=sim_tomograms``.

    Args:
        cache_dir: where simulated data sets are kept, each in a folder named by the hash of its settings.
        field_px: (height, width) of a field, at least ``crop_px``.
        n_samples, fields_per_sample, split: see ``simulation.plan.DataSetPlan``.
        blood, placement, tomography: keys of ``optics.cells.BloodSettings``,
            ``optics.placement.PlacementSettings`` and ``optics.tomography.TomographySettings``.
        simulation_seed: seed of fields and split, apart from ``seed`` so that runs with other seeds share the data.
        simulation_workers: processes that simulate; None decides by cores and work, 1 stays in this process.
        class_names: the simulator's kinds or some of them; others are left out.
        crop_px: side of a window in pixels of the field.
        projection: what is seen of a tomogram: see ``data.views.TomogramView``.
        options: see :class:`hemolens.data.modules.crops.CropDataModule`.

    Raises:
        UserError: bad arguments here; an unwritable cache when the data are simulated.
    """

    limits = (
        "Trained and tested on simulated cells: the difficulty is a setting, the scores say nothing about real cells.",
    )

    def __init__(
        self,
        *,
        cache_dir: str | Path,
        crop_px: int,
        field_px: Sequence[int] = (384, 384),
        n_samples: int = 20,
        fields_per_sample: int = 10,
        split: Sequence[float] = (0.7, 0.15, 0.15),
        blood: Annotated[Mapping[str, Any] | None, BloodSettings] = None,
        placement: Annotated[Mapping[str, Any] | None, PlacementSettings] = None,
        tomography: Annotated[Mapping[str, Any] | None, TomographySettings] = None,
        simulation_seed: int = 0,
        simulation_workers: int | None = None,
        class_names: Sequence[str] = KINDS,
        projection: str = "maximum",
        **options: Any,
    ) -> None:
        super().__init__(class_names=class_names, crop_px=crop_px, projection=projection, **options)
        if unknown := set(self.class_names) - set(KINDS):
            raise UserError(
                f"class_names: the simulator knows no {', '.join(sorted(unknown))}; it has {', '.join(KINDS)}"
            )
        if crop_px > min(field_px):
            raise UserError(f"crop_px={crop_px} is more than field_px={list(field_px)}: raise field_px")
        parts = {"blood": blood or {}, "placement": placement or {}, "tomography": tomography or {}}
        self.crop_px = crop_px
        self.plan = DataSetPlan(
            fov=build_settings(FieldSettings, {"field_px": field_px, **parts}, "data"),
            n_samples=n_samples,
            fields_per_sample=fields_per_sample,
            split=tuple(split),
            seed=simulation_seed,
        )
        self.cache_dir = Path(cache_dir).expanduser()
        self.simulation_workers = simulation_workers

    @staticmethod
    def capped(config: dict[str, Any], *, batch_size: int, image_px: int, num_workers: int) -> dict[str, Any]:
        """Constructor arguments for a quick trial: three samples of three full fields of at most ``image_px``."""
        side = min(image_px, *config["field_px"])
        few = {"n_samples": 3, "fields_per_sample": 3, "split": [0.34, 0.33, 0.33], "simulation_workers": 1}
        full = {
            "blood": (config["blood"] or {}) | {"wbc_fraction": 0.9},
            "placement": (config["placement"] or {}) | {"density_per_mm2": 15000.0},
        }
        small = full | {"field_px": [side, side], "crop_px": min(side, config["crop_px"])}
        batch = min(batch_size, config["batch_size"])
        return config | few | small | {"batch_size": batch, "num_workers": num_workers}

    def _place(self) -> str:
        return str(data_set_folder(self.plan, self.cache_dir))

    def _make(self) -> dict[str, list[CropRecord]]:
        fields = simulate_data_set(self.plan, self.cache_dir, workers=self.simulation_workers)
        store = FieldStore(data_set_folder(self.plan, self.cache_dir))
        records: dict[str, list[CropRecord]] = {split: [] for split in SPLITS}
        for field in fields:
            path = store.truth(field.name)
            arrays = load_arrays(path, ("boxes", "kind", "true_class", "visible_fraction", "instance_id"))
            whole = (arrays["true_class"] == "WBC") & (arrays["visible_fraction"] == 1)
            for cell in np.flatnonzero(whole & np.isin(arrays["kind"], self.class_names)):
                kind = str(arrays["kind"][cell])
                window = window_around(arrays["boxes"][cell], self.crop_px, self.plan.fov.field_px)
                name = f"{field.name}_c{arrays['instance_id'][cell]:03d}"
                records[field.split].append(CropRecord(name, self.class_names.index(kind), path, window))
        return records


def window_around(box: NDArray[Any], side: int, field_px: Sequence[int]) -> tuple[int, int, int, int]:
    """(top, left, side, side) of the window whose middle is that of the box, moved to lie inside the field.

    Args:
        box: xyxy in pixels.
        side: of the window, at most the field's.
        field_px: (height, width).
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    height, width = field_px
    top, left = round((y0 + y1 - side) / 2), round((x0 + x1 - side) / 2)
    return min(max(top, 0), height - side), min(max(left, 0), width - side), side, side
