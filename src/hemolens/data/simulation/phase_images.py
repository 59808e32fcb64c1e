"""Simulated holograms, reconstructed, as phase images with true masks in the cache: in several processes, resumable."""

import hashlib
import inspect
import json
import logging
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

from hemolens.data import phase_images
from hemolens.data.phase_images import PhaseRecord, store_phase_image, stored_record
from hemolens.data.sampling import one_thread
from hemolens.data.simulation.holograms import ARRAYS_AT_ONCE, HologramJob, HologramPlan, draw_hologram
from hemolens.data.simulation.processes import in_processes
from hemolens.optics.holography import (
    ReconstructionSettings,
    arrays,
    background,
    propagation,
    reconstruct,
    reconstruction,
    retrieval,
    unwrapping,
)

log = logging.getLogger(__name__)

_SOURCES = (phase_images, arrays, background, propagation, reconstruction, retrieval, unwrapping)


def phase_image_folder(plan: HologramPlan, settings: ReconstructionSettings, cache_dir: Path) -> Path:
    """Folder of the images of a plan: named by a hash of all settings and of the code that makes them."""
    content = json.dumps([plan.fingerprint(), asdict(settings), _code()], sort_keys=True)
    return cache_dir / f"sim_holograms-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


@cache
def _code() -> str:
    return "".join([inspect.getsource(module) for module in _SOURCES]) + Path(__file__).read_text()


def simulate_phase_images(
    plan: HologramPlan, settings: ReconstructionSettings, cache_dir: Path, *, workers: int | None = None
) -> list[PhaseRecord]:
    """Simulate and reconstruct what is not yet in the cache.

    A stopped call goes on where it was; the result does not depend on ``workers``.

    Args:
        plan: what to simulate.
        settings: how holograms are reconstructed.
        cache_dir: parent of :func:`phase_image_folder`.
        workers: processes; None takes the available cores, up to eight, where there is work enough for them.

    Returns:
        One record a hologram, in the plan's order.

    Raises:
        UserError: the folder cannot be written, or a process died.
    """
    folder = phase_image_folder(plan, settings, cache_dir)
    jobs = plan.jobs()
    missing = [job for job in jobs if stored_record(_file(folder, job)) is None]
    if missing:
        log.info("simulating %d of %d holograms into %s", len(missing), len(jobs), folder)
    height, width = (side + 2 * plan.fov.margin_px for side in plan.fov.field_px)
    work = partial(_make, plan, settings, folder)
    job_bytes = 4 * ARRAYS_AT_ONCE * height * width
    for _ in in_processes(work, missing, workers=workers, job_bytes=job_bytes, words="simulating holograms"):
        pass
    records = [stored_record(_file(folder, job)) for job in jobs]
    return [record for record in records if record is not None]


def _file(folder: Path, job: HologramJob) -> Path:
    return folder / f"{job.name}.npy"


def _make(plan: HologramPlan, settings: ReconstructionSettings, folder: Path, job: HologramJob) -> str:
    """Simulate, reconstruct and store one hologram; the same for any process and order."""
    made = draw_hologram(plan, job)
    with one_thread():  # the others have their own work
        phase = reconstruct(made.hologram.image, settings).phase_rad
    facts = {"name": job.name, "sample": job.sample, "donor": job.donor_name, "day": job.day}
    store_phase_image(_file(folder, job), phase, made.classes, made.instances, facts)
    return job.name
