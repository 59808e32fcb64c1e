"""Simulate the fields of a plan into a folder: in several processes, resumable.

Free of torch, so that the processes that simulate start quickly.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemolens.data.planes import planes_of, planes_to_arrays
from hemolens.data.simulation.plan import DataSetPlan, FieldJob, FieldRecord, statistics_of
from hemolens.data.simulation.processes import in_processes
from hemolens.data.simulation.truth import load_arrays, save_arrays, truth_arrays
from hemolens.data.splits import SPLITS
from hemolens.errors import UserError
from hemolens.io.atomic import write_json
from hemolens.io.volumes import RIArray, Volume, write_volume
from hemolens.optics.cells import CLASS_NAMES, draw_sample
from hemolens.optics.fields import simulate_field

log = logging.getLogger(__name__)

RECORDS = "records.json"
MAX_ENRICHMENT_ROUNDS = 20
# Arrays of the size of a field's stack, with its margins, that simulating it takes at once.
ARRAYS_AT_ONCE = 6

# Arrays of a stored field that its record is made of.
_COUNTED = ("labels", "touching", "visible_fraction", "left_out")


@dataclass(frozen=True)
class FieldStore:
    """Where the fields of a data set go.

    Attributes:
        folder: of the data set. The truth of a field is ``fields/<name>.npz``, written last, so that where it lies
            the field is whole.
        volume_suffix: ``.tcf``, ``.ome.tif`` or ``.zarr``: tomograms go to ``volumes/``; None keeps none, and the
            pictures that detectors see (``data.planes``) lie with the truth instead.
    """

    folder: Path
    volume_suffix: str | None = None

    def truth(self, name: str) -> Path:
        """File of a field's truth."""
        return self.folder / "fields" / f"{name}.npz"

    def volume(self, name: str) -> Path:
        """File of a field's tomogram."""
        return self.folder / "volumes" / f"{name}{self.volume_suffix}"

    def has(self, name: str) -> bool:
        """Whether the field is stored."""
        return self.truth(name).is_file() and (self.volume_suffix is None or self.volume(name).exists())


def simulate_data_set(plan: DataSetPlan, cache_dir: str | Path, *, workers: int | None = None) -> list[FieldRecord]:
    """Simulate what is not yet in the cache and return the records of all fields, split by split.

    Files are written under a temporary name and renamed, and the manifest comes last, so a stopped run goes
    on where it was and never leaves half a field behind. The result does not depend on ``workers``.

    Args:
        plan: what to simulate.
        cache_dir: parent folder; the fields go to ``data_set_folder(plan, cache_dir)``.
        workers: processes; None takes the available cores, up to eight, where there is work enough for them.

    Raises:
        UserError: the folder cannot be written, the floors cannot be reached, or a process died.
    """
    return simulate_fields(plan, FieldStore(data_set_folder(plan, cache_dir)), workers=workers)


def simulate_fields(plan: DataSetPlan, store: FieldStore, *, workers: int | None = None) -> list[FieldRecord]:
    """:func:`simulate_data_set` into a given store."""
    known = _read_manifest(store, plan)
    if known is not None:
        return known
    jobs = [
        FieldJob(split, sample, number, None)
        for split in SPLITS
        for sample in plan.samples(split)
        for number in range(plan.fields_per_sample)
    ]
    records = _run(plan, store, jobs, workers)
    for _ in range(MAX_ENRICHMENT_ROUNDS):
        more = _enrichment(plan, records)
        if not more:
            break
        records += _run(plan, store, more, workers)
    else:
        raise UserError(
            f"test_floor {dict(plan.test_floor)} not reached with {len(records)} fields: lower it, or raise "
            "enriched_fraction or field_px"
        )
    content = {
        "fingerprint": plan.fingerprint(),
        "plan": asdict(plan),
        "fields": [asdict(record) for record in records],
    }
    write_json(store.folder / "fields" / RECORDS, content, overwrite=True)
    return records


def data_set_folder(plan: DataSetPlan, cache_dir: str | Path) -> Path:
    """Folder of the data set of ``plan``: named by its fingerprint."""
    return Path(cache_dir).expanduser() / f"sim_tomograms-{plan.fingerprint()}"


def _enrichment(plan: DataSetPlan, records: Sequence[FieldRecord]) -> list[FieldJob]:
    """Test fields to add, with more of the classes that lack cells; empty when all floors hold."""
    test = [record for record in records if record.split == "test"]
    counts = statistics_of(test)["class_counts"]
    lacking = {name: max(plan.test_floor.get(name, 0) - counts[name], 0) for name in CLASS_NAMES}
    total = sum(lacking.values())
    if not total:
        return []
    share = plan.enriched_fraction
    usual = plan.fov.blood.mixture
    fractions = tuple((1 - share) * usual[name] + share * lacking[name] / total for name in CLASS_NAMES)
    samples = plan.samples("test")
    first = len(test)
    numbers = range(first, first + math.ceil(total / (share * plan.fov.mean_cells)))
    # Test fields are counted through sample by sample, so the next ones go round the samples.
    return [FieldJob("test", samples[n % len(samples)], n // len(samples), fractions) for n in numbers]


def _run(plan: DataSetPlan, store: FieldStore, jobs: Sequence[FieldJob], workers: int | None) -> list[FieldRecord]:
    """Do the jobs that are not done, with a progress bar; records in the order of the jobs."""
    records: dict[str, FieldRecord] = {}
    for job in jobs:
        if store.has(job.name):
            try:
                records[job.name] = _record(job, load_arrays(store.truth(job.name), _COUNTED))
            except UserError:
                log.warning("%s is damaged: simulated again", store.truth(job.name))
    missing = [job for job in jobs if job.name not in records]
    if missing:
        log.info("simulating %d of %d fields in %s", len(missing), len(jobs), store.folder)
        work = partial(_simulate, plan, store)
        words = "simulating fields"
        for record in in_processes(work, missing, workers=workers, job_bytes=_field_bytes(plan), words=words):
            records[record.name] = record
    return [records[job.name] for job in jobs]


def _field_bytes(plan: DataSetPlan) -> int:
    """Memory that one field takes."""
    height, width = plan.fov.field_px
    optics = plan.fov.tomography
    return 4 * ARRAYS_AT_ONCE * height * width * optics.fine_depth // optics.axial_oversampling


def _simulate(plan: DataSetPlan, store: FieldStore, job: FieldJob) -> FieldRecord:
    """Simulate and store one field; the same for any process and order."""
    sample_rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(job.sample,)))
    field_rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(job.sample, job.number)))
    sample = draw_sample(sample_rng, plan.fov.blood)
    simulated = simulate_field(field_rng, sample, plan.fov, fractions=job.fractions)
    optics = plan.fov.tomography
    volume = Volume(
        array=RIArray(simulated.volume, job.name),
        voxel_um=optics.voxel_um,
        medium_index=optics.medium_index,
        wavelength_um=optics.wavelength_um,
        path=store.truth(job.name),
    )
    arrays = truth_arrays(simulated, sample)
    if store.volume_suffix is None:
        arrays = planes_to_arrays(planes_of(volume)) | arrays
    else:
        write_volume(store.volume(job.name), volume, title=job.name, overwrite=True)
    save_arrays(store.truth(job.name), arrays)
    return _record(job, arrays)


def _record(job: FieldJob, arrays: Mapping[str, NDArray[Any]]) -> FieldRecord:
    return FieldRecord(
        name=job.name,
        split=job.split,
        sample=job.sample,
        field=job.number,
        enriched=job.fractions is not None,
        class_counts=tuple(np.bincount(arrays["labels"], minlength=len(CLASS_NAMES)).tolist()),
        touching=int(arrays["touching"].sum()),
        cut=int((arrays["visible_fraction"] < 1).sum()),
        left_out=int(arrays["left_out"]),
    )


def _read_manifest(store: FieldStore, plan: DataSetPlan) -> list[FieldRecord] | None:
    """Records of a finished data set; None if it is not finished or a field is gone.

    Raises:
        UserError: the folder holds a data set of other settings.
    """
    try:
        content = json.loads((store.folder / "fields" / RECORDS).read_text())
        entries = [{**entry, "class_counts": tuple(entry["class_counts"])} for entry in content["fields"]]
        records = [FieldRecord(**entry) for entry in entries]
        fingerprint = content["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if fingerprint != plan.fingerprint():
        raise UserError(f"{store.folder} holds fields of other settings or of another version: choose a new folder")
    return records if all(store.has(record.name) for record in records) else None
