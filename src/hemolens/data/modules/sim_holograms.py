"""Segmentation of simulated holograms: simulated and reconstructed once, then read from the cache."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from hemolens.data.modules.phase_images import PhaseImageDataModule
from hemolens.data.phase_images import PhaseRecord
from hemolens.data.simulation.holograms import plan_holograms
from hemolens.data.simulation.phase_images import simulate_phase_images
from hemolens.errors import UserError
from hemolens.optics.cells.stored import TYPE_NAMES, StoredBloodSettings
from hemolens.optics.holography import HologramSettings, ReconstructionSettings
from hemolens.optics.placement import PlacementSettings

CLASS_NAMES = ("background", *TYPE_NAMES)
INSTRUMENT = ("wavelength_um", "pixel_um", "numerical_aperture", "medium_index")  # the simulation's own


class SimulatedHologramDataModule(PhaseImageDataModule):
    """Loaders over the reconstructed phase of simulated holograms, with their true masks.

    Args:
        field_px, n_donors, first_donor, fields_per_sample, simulation_seed: see
            :func:`hemolens.data.simulation.holograms.plan_holograms`.
        blood, placement, holography, defocus_um, tilt_waves, curvature_rad, margin_px: see there too.
        reconstruction: keys of ``optics.holography.ReconstructionSettings`` but the instrument's.
        simulation_workers: processes that simulate; None decides by cores and work, 1 stays in this process.
        class_names: background and the simulator's types; written in the config for those who read it, and checked.
        options: see :class:`hemolens.data.modules.phase_images.PhaseImageDataModule`.

    Raises:
        UserError: bad arguments here; an unwritable cache when the data are simulated.
    """

    limits = (
        "Trained and tested on simulated cells: the difficulty is a setting, the scores say nothing about real cells.",
    )

    def __init__(
        self,
        *,
        field_px: Sequence[int] = (900, 900),
        n_donors: int = 3,
        first_donor: int = 1,
        fields_per_sample: int = 73,
        simulation_seed: int = 0,
        blood: Annotated[Mapping[str, Any] | None, StoredBloodSettings] = None,
        placement: Annotated[Mapping[str, Any] | None, PlacementSettings] = None,
        holography: Annotated[Mapping[str, Any] | None, HologramSettings] = None,
        defocus_um: Sequence[float] = (0.0, 0.0),
        tilt_waves: Sequence[float] = (0.0, 0.0),
        curvature_rad: Sequence[float] = (0.0, 0.0),
        margin_px: int = 62,
        reconstruction: Annotated[Mapping[str, Any] | None, ReconstructionSettings] = None,
        simulation_workers: int | None = None,
        class_names: Sequence[str] = CLASS_NAMES,
        **options: Any,
    ) -> None:
        super().__init__(class_names=class_names, **options)
        if self.class_names != CLASS_NAMES:
            raise UserError(f"data.class_names={list(class_names)}: the simulator's are {list(CLASS_NAMES)}")
        self.plan = plan_holograms(
            field_px=field_px,
            n_donors=n_donors,
            first_donor=first_donor,
            fields_per_sample=fields_per_sample,
            simulation_seed=simulation_seed,
            blood=blood or {},
            placement=placement or {},
            holography=holography or {},
            defocus_um=defocus_um,
            tilt_waves=tilt_waves,
            curvature_rad=curvature_rad,
            margin_px=margin_px,
        )
        optics = self.plan.fov.holography
        given = dict(reconstruction or {})
        known = [name for name in ReconstructionSettings.__dataclass_fields__ if name not in INSTRUMENT]
        if unknown := set(given) - set(known):
            raise UserError(
                f"data.reconstruction has no key {', '.join(sorted(unknown))}: choose from {', '.join(known)}"
            )
        for name in ("sideband", "refocus_interval_um"):
            if given.get(name) is not None:
                given[name] = tuple(given[name])
        self.reconstruction = ReconstructionSettings(**{name: getattr(optics, name) for name in INSTRUMENT}, **given)
        self.simulation_workers = simulation_workers
        self._set_scale(optics.pixel_um, optics.wavelength_um)

    @staticmethod
    def capped(config: dict[str, Any], *, batch_size: int, image_px: int, num_workers: int) -> dict[str, Any]:
        """Constructor arguments for a quick trial: six fields of at most ``image_px`` pixels, or of one patch, where
        patches are binned: networks are made for their size."""
        limit = image_px if config.get("binning", 1) == 1 else max(image_px, config["patch_px"])
        size = [min(side, limit) for side in config["field_px"]]
        few = {"n_donors": 3, "fields_per_sample": 2, "split": [1, 1, 1], "simulation_workers": 1, "margin_px": 16}
        small = {"patch_px": min(*size, config["patch_px"]), "batch_size": min(batch_size, config["batch_size"])}
        return config | few | small | {"field_px": size, "patches_per_image": 1, "num_workers": num_workers}

    def _make(self) -> dict[str, list[PhaseRecord]]:
        made = simulate_phase_images(self.plan, self.reconstruction, self.cache_dir, workers=self.simulation_workers)
        return self._parts(made)
