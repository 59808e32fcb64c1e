"""A simulated data set of holograms as a lab would hand it over, with the truth of every cell. Free of torch."""

import hashlib
import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemolens.data.simulation.claim import claim_folder
from hemolens.data.simulation.plan import build_settings
from hemolens.data.simulation.processes import in_processes
from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path, write_json
from hemolens.io.labels import write_labels
from hemolens.io.phase import PhaseImage, write_phase
from hemolens.io.tables import write_csv
from hemolens.optics import fields as optics_fields
from hemolens.optics import hologram_fields, placement
from hemolens.optics.cells import cell, composed, drawing, red, settings, solids, stored, voxels
from hemolens.optics.cells.stored import TYPE_NAMES, draw_bag
from hemolens.optics.hologram_fields import (
    HologramFieldSettings,
    RedCellTruth,
    SimulatedHologram,
    simulate_hologram,
)
from hemolens.optics.holography import formation

# What decides what a hologram looks like: a change of these files makes other data.
_SOURCES = (
    *(optics_fields, hologram_fields, placement, formation),
    *(cell, composed, drawing, red, settings, solids, stored, voxels),
)
FORMATS = {"png": ".png", "tiff": ".tif"}
HOLOGRAMS, REFERENCES, PHASE, CLASSES, INSTANCES = "holograms", "references", "phase", "classes", "instances"
CELLS, SAMPLES, RECORDS = "cells.csv", "manifest.csv", "records"
CELL_COLUMNS = (
    *("file", "sample", "donor", "day", "instance_id", "type", "kind", "irregularity"),
    *("volume_fl", "hemoglobin_pg", "mchc_g_dl", "x_um", "y_um", "tilt_deg", "azimuth_deg", "roll_deg"),
    *("x1_px", "y1_px", "x2_px", "y2_px", "visible_fraction", "touching"),
    *("phase_max_rad", "phase_integral_um2"),
)
SAMPLE_COLUMNS = (
    *("file", "reference", "sample", "donor", "day"),
    *("wavelength_um", "pixel_um", "numerical_aperture", "medium_index"),
    *("defocus_um", "tilt_y_waves", "tilt_x_waves", "curvature_rad", "saturated_fraction", "cells", *TYPE_NAMES),
)
BENCH = 2**31  # number of no field: the draws of a bag's microscope
ARRAYS_AT_ONCE = 30  # of the size of a field in single precision, that one takes


@dataclass(frozen=True, kw_only=True)
class HologramPlan:
    """What to simulate.

    Args:
        fov: settings of a hologram; its ``blood.storage_day`` says how many bags each donor gives.
        n_donors: donors, each with cells of its own distribution.
        first_donor: number of the first of them; the same number is the same donor in any plan of a seed.
        fields_per_sample: holograms of each bag (donor and day).
        seed: with donor, bag and field number the source of every draw.

    Raises:
        UserError: a value out of range.
    """

    fov: HologramFieldSettings = field(default_factory=HologramFieldSettings)
    n_donors: int = 3
    first_donor: int = 1
    fields_per_sample: int = 73
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_donors", "first_donor", "fields_per_sample"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: at least 1")

    def fingerprint(self) -> str:
        """Hash of this plan and of the code that draws holograms."""
        return hashlib.sha256((json.dumps(asdict(self), sort_keys=True) + _code()).encode()).hexdigest()[:16]

    def jobs(self) -> list["HologramJob"]:
        """One a hologram, donor by donor and day by day."""
        return [
            HologramJob(donor, bag, day, number)
            for donor in range(self.first_donor - 1, self.first_donor - 1 + self.n_donors)
            for bag, day in enumerate(self.fov.blood.days)
            for number in range(self.fields_per_sample)
        ]


@cache
def _code() -> str:
    here = Path(__file__)
    return "".join([inspect.getsource(module) for module in _SOURCES]) + here.read_text()


@dataclass(frozen=True)
class HologramJob:
    """One hologram: number of the donor from 0, of the bag among the donor's, its day (or None), and of the field."""

    donor: int
    bag: int
    day: float | None
    number: int

    @property
    def donor_name(self) -> str:
        """``donor1`` for number 0."""
        return f"donor{self.donor + 1}"

    @property
    def sample(self) -> str:
        """Name of the bag, e.g. ``donor1_day40``, or of the donor where there are no days."""
        return self.donor_name + ("" if self.day is None else f"_day{self.day:02g}")

    @property
    def name(self) -> str:
        """File name without suffix, e.g. ``donor1_day40_f003``."""
        return f"{self.sample}_f{self.number:03d}"


def plan_holograms(
    *,
    field_px: Sequence[int] = (900, 900),
    n_donors: int = 3,
    first_donor: int = 1,
    fields_per_sample: int = 73,
    simulation_seed: int = 0,
    **parts: Any,
) -> HologramPlan:
    """A plan from plain values, as they stand in ``configs/data/sim_holograms.yaml``.

    Args:
        field_px: (height, width).
        n_donors, first_donor, fields_per_sample: see :class:`HologramPlan`.
        simulation_seed: its seed.
        parts: the other keys of ``optics.hologram_fields.HologramFieldSettings``.

    Raises:
        UserError: an unknown key or a value out of range.
    """
    fov = build_settings(HologramFieldSettings, {"field_px": field_px, **parts}, "data")
    return HologramPlan(
        fov=fov,
        n_donors=n_donors,
        first_donor=first_donor,
        fields_per_sample=fields_per_sample,
        seed=simulation_seed,
    )


def export_holograms(
    plan: HologramPlan, folder: str | Path, *, picture_format: str = "png", workers: int | None = None
) -> list[dict[str, Any]]:
    """Simulate ``plan`` into ``folder``; a stopped call goes on where it was, and the result does not depend on
    ``workers``.

    - ``holograms/<name>.png`` (or ``.tif``): 8 bits, or 16 above that.
    - ``references/<sample>.png``: the empty field of each bag's first hologram.
    - ``phase/<name>.ome.tif``: true phase behind the pupil, in rad, in focus.
    - ``classes/<name>.ome.tif``: uint8, 0 background, 1 discocyte, 2 spherocyte, 3 echinocyte, 4 stomatocyte.
    - ``instances/<name>.ome.tif``: which cell each pixel belongs to; where cells overlap, the thicker.
    - ``cells.csv``: a row a cell; ``manifest.csv``: a row a hologram, its reference, donor, day and microscope.
    - ``simulation.json``: all settings. ``records/<name>.json``: the rows of one hologram, written last.

    Args:
        plan: what to simulate.
        folder: new, or one that the same plan was begun in.
        picture_format: ``png`` or ``tiff``.
        workers: processes; None takes the available cores, up to eight.

    Returns:
        The rows of ``manifest.csv``.

    Raises:
        UserError: an unknown format, a folder with something else in it, no space, or a process died.
    """
    if picture_format not in FORMATS:
        raise UserError(f"format={picture_format}: choose from {', '.join(FORMATS)}")
    folder = Path(folder)
    claim_folder(folder, {"fingerprint": plan.fingerprint(), "format": picture_format, "plan": asdict(plan)})
    jobs = plan.jobs()
    missing = [job for job in jobs if not _record(folder, job).is_file()]
    height, width = (side + 2 * plan.fov.margin_px for side in plan.fov.field_px)
    work = partial(_simulate, plan, folder, FORMATS[picture_format])
    for _ in in_processes(
        work, missing, workers=workers, job_bytes=4 * ARRAYS_AT_ONCE * height * width, words="simulating holograms"
    ):
        pass
    records = [json.loads(_record(folder, job).read_text()) for job in jobs]
    # tables that are there are whole, and may have been corrected by hand
    if not (folder / CELLS).exists():
        cells = ([row[column] for column in CELL_COLUMNS] for record in records for row in record["cells"])
        write_csv(folder / CELLS, CELL_COLUMNS, cells)
    rows = [record["hologram"] for record in records]
    if not (folder / SAMPLES).exists():
        write_csv(folder / SAMPLES, SAMPLE_COLUMNS, ([row[column] for column in SAMPLE_COLUMNS] for row in rows))
    return rows


def _record(folder: Path, job: HologramJob) -> Path:
    return folder / RECORDS / f"{job.name}.json"


def draw_hologram(plan: HologramPlan, job: HologramJob) -> SimulatedHologram:
    """One hologram of a plan; the same for any process and order."""

    def source(*key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=key))

    bag = draw_bag(source(job.donor), source(job.donor, job.bag), plan.fov.blood, job.day)
    bench = source(job.donor, job.bag, BENCH)  # the same for a bag, whose holograms share a reference
    return simulate_hologram(source(job.donor, job.bag, job.number), bag, plan.fov, bench_rng=bench)


def _simulate(plan: HologramPlan, folder: Path, suffix: str, job: HologramJob) -> str:
    """Simulate one hologram and store it in the files of a laboratory."""
    optics, made = plan.fov.holography, draw_hologram(plan, job)
    file, reference = f"{HOLOGRAMS}/{job.name}{suffix}", f"{REFERENCES}/{job.sample}{suffix}"
    _write_picture(folder / file, made.hologram.image)
    if job.number == 0:
        _write_picture(folder / reference, made.hologram.reference)
    phase = PhaseImage(made.hologram.phase_rad, optics.pixel_um, optics.wavelength_um, optics.medium_index, 0.0)
    write_phase(folder / PHASE / f"{job.name}.ome.tif", phase, overwrite=True)
    for place, labels in ((CLASSES, made.classes), (INSTANCES, made.instances)):
        write_labels(folder / place / f"{job.name}.ome.tif", labels, pixel_um=optics.pixel_um, overwrite=True)
    whose = {"sample": job.sample, "donor": job.donor_name, "day": "" if job.day is None else job.day}
    types = [entry.cell.class_name for entry in made.cells]
    row = {
        "file": file,
        "reference": reference,
        **whose,
        "wavelength_um": optics.wavelength_um,
        "pixel_um": round(optics.pixel_um, 7),
        "numerical_aperture": optics.numerical_aperture,
        "medium_index": optics.medium_index,
        "defocus_um": round(made.defocus_um, 4),
        "tilt_y_waves": round(made.tilt_waves[0], 4),
        "tilt_x_waves": round(made.tilt_waves[1], 4),
        "curvature_rad": round(made.curvature_rad, 4),
        "saturated_fraction": round(made.hologram.saturated_fraction, 6),
        "cells": len(types),
        **{name: types.count(name) for name in TYPE_NAMES},
    }
    cells = [{"file": file, **whose, **_cell_row(entry)} for entry in made.cells]
    write_json(_record(folder, job), {"hologram": row, "cells": cells}, overwrite=True)
    return job.name


def _write_picture(path: Path, image: NDArray[np.unsignedinteger]) -> None:
    with atomic_path(path, overwrite=True) as temporary:
        Image.fromarray(image).save(temporary)


def _cell_row(entry: RedCellTruth) -> dict[str, Any]:
    drawn, pose = entry.cell, entry.pose
    return {
        "instance_id": entry.instance_id,
        "type": drawn.class_name,
        "kind": drawn.kind,
        "irregularity": round(drawn.irregularity, 4),
        "volume_fl": round(drawn.volume_fl, 4),
        "hemoglobin_pg": round(drawn.hemoglobin_pg, 4),
        "mchc_g_dl": round(100 * drawn.hemoglobin_pg / drawn.volume_fl, 4),
        "x_um": round(pose.x_um, 4),
        "y_um": round(pose.y_um, 4),
        **{f"{name}_deg": round(math.degrees(getattr(pose, f"{name}_rad")), 3) for name in ("tilt", "azimuth", "roll")},
        **dict(zip(("x1_px", "y1_px", "x2_px", "y2_px"), entry.box, strict=True)),
        "visible_fraction": round(entry.visible_fraction, 4),
        "touching": int(entry.touching),
        "phase_max_rad": round(entry.phase_max_rad, 4),
        "phase_integral_um2": round(entry.phase_integral_um2, 4),
    }


def describe_holograms(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line about each day, or about all: ``day 40: 6 holograms, 302 cells: 160 discocyte, ...``."""
    for day in dict.fromkeys(row["day"] for row in rows):
        chosen = [row for row in rows if row["day"] == day]
        counts = ", ".join(f"{sum(row[name] for row in chosen)} {name}" for name in TYPE_NAMES)
        donors = len({row["donor"] for row in chosen})
        head = f"day {day:g}: " if day != "" else ""
        yield (
            f"{head}{len(chosen)} holograms of {donors} donors, {sum(row['cells'] for row in chosen)} cells: {counts}"
        )
    saturated = [row["file"] for row in rows if row["saturated_fraction"] > formation.SATURATED]
    if saturated:
        yield (
            f"warning: {len(saturated)} holograms are saturated, {saturated[0]} first: lower "
            "data.holography.fringe_level (0.5 leaves room for cells out of focus)"
        )
