"""A simulated data set on disk: one .npz a field under a content hash, made once, in several processes.

Free of torch, so that the processes that simulate start quickly.
"""

import hashlib
import inspect
import json
import logging
import math
import multiprocessing
import os
import signal
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, astuple, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from hemolens.data.splits import split_by_group
from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path, write_json
from hemolens.optics import fields as optics_fields
from hemolens.optics import placement
from hemolens.optics.cells import CLASS_NAMES, cell, draw_donor, drawing, settings, shapes, white
from hemolens.optics.fields import FieldSettings, FieldTruth, simulate_field

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
# Fields a process should have to do before starting it pays.
FIELDS_PER_WORKER = 8
MAX_WORKERS = 8
MAX_ENRICHMENT_ROUNDS = 20
# Everything that decides what a field looks like: a change of these files makes a new cache.
_SOURCES = (optics_fields, placement, cell, drawing, settings, shapes, white)

# Arrays of a stored field that its record is made of.
_COUNTED = ("labels", "touching", "visible_fraction")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DataSetPlan:
    """What to simulate.

    Args:
        fov: settings of a field of view.
        n_samples: blood samples, each from its own donor.
        fields_per_sample: fields of each sample, before any enrichment.
        split: share of the samples for training, validation and test.
        test_floor: least number of test cells of each class; classes left out have none.
        enriched_fraction: in the test fields that are added to reach the floors, the share of cells that
            comes from the classes that lack cells; the rest follows the usual mixture.
        seed: with sample and field number the source of every draw; also of the split.

    Raises:
        UserError: a value out of range.
    """

    fov: FieldSettings = field(default_factory=FieldSettings)
    n_samples: int = 45
    fields_per_sample: int = 27
    split: tuple[float, ...] = (0.7, 0.2, 0.1)
    test_floor: Mapping[str, int] = field(default_factory=dict)
    enriched_fraction: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_samples < len(SPLITS) or self.fields_per_sample < 1:
            raise UserError(
                f"n_samples={self.n_samples}, fields_per_sample={self.fields_per_sample}: at least "
                f"{len(SPLITS)} samples (one a split) of one field are needed"
            )
        if len(self.split) != len(SPLITS):
            raise UserError(f"split={list(self.split)}: give three shares, for {', '.join(SPLITS)}")
        unknown = set(self.test_floor) - set(CLASS_NAMES)
        if unknown:
            raise UserError(f"test_floor: unknown {sorted(unknown)}; classes are {', '.join(CLASS_NAMES)}")
        if not 0 < self.enriched_fraction <= 1:
            raise UserError(f"enriched_fraction={self.enriched_fraction}: must be above 0 and at most 1")

    def fingerprint(self) -> str:
        """Hash of this plan and of the code that draws fields: the name of the cache folder."""
        text = json.dumps(asdict(self), sort_keys=True) + "".join(inspect.getsource(m) for m in _SOURCES)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def samples(self, split: str) -> list[int]:
        """Numbers of the samples of one split."""
        groups = split_by_group(range(self.n_samples), self.split, seed=self.seed)
        return groups[SPLITS.index(split)]


@dataclass(frozen=True)
class FieldRecord:
    """One stored field: where it belongs and what is in it.

    Attributes:
        name: file name without suffix, e.g. ``s003_f012``.
        split: train, val or test.
        sample: number of the blood sample.
        field: number of the field in its sample.
        enriched: whether it was added to reach the test floors.
        class_counts: labelled cells of each class, in the order of ``CLASS_NAMES``.
        touching: labelled cells that touch or overlap another in projection.
        cut: labelled cells that the border cuts.
    """

    name: str
    split: str
    sample: int
    field: int
    enriched: bool
    class_counts: tuple[int, ...]
    touching: int
    cut: int


def build_settings(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A settings dataclass from nested plain values, e.g. from YAML; lists become tuples.

    Raises:
        UserError: an unknown key, named with its place, or a value that the class refuses.
    """
    assert is_dataclass(kind)
    known = {entry.name: entry.type for entry in fields(kind)}
    unknown = set(values) - set(known)
    if unknown:
        raise UserError(f"{where} has no key {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    built: dict[str, Any] = {}
    for key, value in values.items():
        nested = known[key]
        if isinstance(nested, type) and is_dataclass(nested):
            built[key] = build_settings(nested, value, f"{where}.{key}")
        elif isinstance(value, Mapping):
            built[key] = dict(value)
        else:
            built[key] = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return kind(**built)


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
    folder = data_set_folder(plan, cache_dir)
    known = _read_manifest(folder)
    if known is not None:
        return known
    jobs = [
        _Job(split, sample, number, None)
        for split in SPLITS
        for sample in plan.samples(split)
        for number in range(plan.fields_per_sample)
    ]
    records = _run(plan, folder, jobs, workers)
    for _ in range(MAX_ENRICHMENT_ROUNDS):
        more = _enrichment(plan, records)
        if not more:
            break
        records += _run(plan, folder, more, workers)
    else:
        raise UserError(
            f"test_floor {dict(plan.test_floor)} not reached with {len(records)} fields: lower it, or raise "
            "enriched_fraction or field_px"
        )
    content = {"plan": asdict(plan), "fields": [asdict(record) for record in records]}
    write_json(folder / MANIFEST, content, overwrite=True)
    return records


def data_set_folder(plan: DataSetPlan, cache_dir: str | Path) -> Path:
    """Folder of the data set of ``plan``: named by its fingerprint."""
    return Path(cache_dir).expanduser() / f"sim_tomograms-{plan.fingerprint()}"


def statistics_of(records: Sequence[FieldRecord]) -> dict[str, Any]:
    """Numbers of fields and cells, and the shares of labelled cells that touch another or are cut."""
    totals = np.sum([record.class_counts for record in records], axis=0)
    cells = int(totals.sum())
    return {
        "n_samples": len({record.sample for record in records}),
        "n_fields": len(records),
        "n_enriched_fields": sum(record.enriched for record in records),
        "n_cells": cells,
        "class_counts": dict(zip(CLASS_NAMES, (int(total) for total in totals), strict=True)),
        "touching_fraction": sum(record.touching for record in records) / max(cells, 1),
        "border_fraction": sum(record.cut for record in records) / max(cells, 1),
    }


def load_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Named arrays of a stored field; see :func:`_save` for what there is.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        # opened here: numpy leaves a damaged file open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not a stored field ({error}); remove this file and run again to simulate it anew",
            exit_code=1,
        ) from error


@dataclass(frozen=True)
class _Job:
    split: str
    sample: int
    number: int
    mixture: dict[str, float] | None

    @property
    def name(self) -> str:
        return f"s{self.sample:03d}_f{self.number:03d}"


def _enrichment(plan: DataSetPlan, records: Sequence[FieldRecord]) -> list[_Job]:
    """Test fields to add, with more of the classes that lack cells; empty when all floors hold."""
    test = [record for record in records if record.split == "test"]
    counts = statistics_of(test)["class_counts"]
    lacking = {name: max(plan.test_floor.get(name, 0) - counts[name], 0) for name in CLASS_NAMES}
    total = sum(lacking.values())
    if not total:
        return []
    share = plan.enriched_fraction
    usual = plan.fov.blood.mixture
    mixture = {name: (1 - share) * usual[name] + share * lacking[name] / total for name in CLASS_NAMES}
    samples = plan.samples("test")
    first = len(test)
    numbers = range(first, first + math.ceil(total / (share * plan.fov.mean_cells)))
    # Test fields are counted through sample by sample, so the next ones go round the samples.
    return [_Job("test", samples[n % len(samples)], n // len(samples), mixture) for n in numbers]


def _run(plan: DataSetPlan, folder: Path, jobs: Sequence[_Job], workers: int | None) -> list[FieldRecord]:
    """Do the jobs that are not done, with a progress bar; records in the order of the jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    records: dict[str, FieldRecord] = {}
    for job in jobs:
        path = folder / f"{job.name}.npz"
        if path.exists():
            try:
                records[job.name] = _record(job, load_arrays(path, _COUNTED))
            except UserError:
                log.warning("%s is damaged: simulated again", path)
    missing = [job for job in jobs if job.name not in records]
    if missing:
        log.info("simulating %d of %d fields in %s", len(missing), len(jobs), folder)
        console = Console(stderr=True)
        shown = console.is_terminal or console.is_jupyter
        with Progress(console=console, transient=True, disable=not shown) as progress:
            task = progress.add_task("simulating fields", total=len(missing))
            for record in _each(plan, folder, missing, workers):
                records[record.name] = record
                progress.advance(task)
    return [records[job.name] for job in jobs]


def _each(plan: DataSetPlan, folder: Path, jobs: Sequence[_Job], workers: int | None) -> Iterator[FieldRecord]:
    count = _worker_count(len(jobs)) if workers is None else workers
    if count <= 1 or multiprocessing.current_process().daemon:  # daemons may not have children
        for job in jobs:
            yield _simulate(plan, folder, job)
        return
    # spawn: a fork would copy a process in which torch's threads may hold locks
    pool = ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interrupts_to_parent
    )
    try:
        for future in as_completed([pool.submit(_simulate, plan, folder, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a simulation process died (out of memory, or a script without `if __name__ == '__main__':`): "
            "set simulation_workers=1",
            exit_code=1,
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    """Ctrl-C reaches all processes of a terminal: let the parent alone stop, after the fields under way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _worker_count(jobs: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MAX_WORKERS, jobs // FIELDS_PER_WORKER))


def _simulate(plan: DataSetPlan, folder: Path, job: _Job) -> FieldRecord:
    """Simulate and store one field; the same for any process and order."""
    donor_rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(job.sample,)))
    field_rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(job.sample, job.number)))
    donor = draw_donor(donor_rng, plan.fov.blood.red_cells)
    truth = simulate_field(field_rng, donor, plan.fov, mixture=job.mixture)
    _save(folder / f"{job.name}.npz", truth, donor)
    return _record(job, vars(truth))


def _save(path: Path, truth: FieldTruth, donor: drawing.Donor) -> None:
    """Store a field.

    ``projection`` is uint16 [H, W], min-max scaled: the path in um is ``opd_range_um[0] + projection / 65535
    * (opd_range_um[1] - opd_range_um[0])``. Per cell [M]: ``boxes`` [M, 4], ``labels``, ``visible_fraction``,
    ``touching``, ``instance_id``, ``kind``, ``volume_fl``, ``hemoglobin_pg`` and ``pose`` [M, 5] (x, y in um;
    tilt, azimuth, roll in rad). ``donor`` holds MCV (fL), RDW (%), MCHC (g/dL) and the variation of
    hemoglobin (%).
    """
    low, high = float(truth.projection_um.min()), float(truth.projection_um.max())
    scaled = (truth.projection_um - low) * (65535 / max(high - low, 1e-12))
    cells = truth.cells
    with atomic_path(path, overwrite=True) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            projection=np.rint(scaled).astype(np.uint16),
            opd_range_um=np.array([low, high]),
            boxes=truth.boxes,
            labels=truth.labels,
            visible_fraction=truth.visible_fraction,
            touching=truth.touching,
            instance_id=np.array([entry.instance_id for entry in cells], np.int32),
            kind=np.array([entry.cell.kind for entry in cells], "U16"),
            volume_fl=np.array([entry.cell.volume_fl for entry in cells]),
            hemoglobin_pg=np.array([entry.cell.hemoglobin_pg for entry in cells]),
            pose=np.array([astuple(entry.pose) for entry in cells]).reshape(-1, 5),
            donor=np.array(astuple(donor)),
        )


def _record(job: _Job, arrays: Mapping[str, NDArray[Any]]) -> FieldRecord:
    return FieldRecord(
        name=job.name,
        split=job.split,
        sample=job.sample,
        field=job.number,
        enriched=job.mixture is not None,
        class_counts=tuple(np.bincount(arrays["labels"], minlength=len(CLASS_NAMES)).tolist()),
        touching=int(arrays["touching"].sum()),
        cut=int((arrays["visible_fraction"] < 1).sum()),
    )


def _read_manifest(folder: Path) -> list[FieldRecord] | None:
    """Records of a finished data set; None if it is not finished or a field is gone."""
    try:
        content = json.loads((folder / MANIFEST).read_text())
        entries = [{**entry, "class_counts": tuple(entry["class_counts"])} for entry in content["fields"]]
        records = [FieldRecord(**entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return records if all((folder / f"{record.name}.npz").is_file() for record in records) else None
