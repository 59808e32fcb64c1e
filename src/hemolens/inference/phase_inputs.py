"""Phase images, or holograms that are reconstructed first, as segmentation takes them."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tifffile

from hemolens.data.phase_folder import PHASE_FOLDER, PHASE_SUFFIXES, read_any_phase, stem_of
from hemolens.errors import UserError
from hemolens.inference.hologram_jobs import MANIFEST, SETTINGS_JSON, HologramJob, list_jobs, place_of
from hemolens.inference.reconstruction import QUALITY_CSV, open_reference, reconstruct_frame, settings_for
from hemolens.io.holograms import open_hologram
from hemolens.io.phase import PhaseImage


@dataclass(frozen=True)
class PhaseInput:
    """A file to segment.

    Attributes:
        name: of its results, a path without suffix.
        path: the file.
        job: how it is reconstructed; None for a phase image.
        quality: of its reconstruction at another time, a row of ``quality.csv``.
    """

    name: str
    path: Path
    job: HologramJob | None = None
    quality: Mapping[str, Any] | None = None


def is_phase(path: Path) -> bool:
    """Whether a file holds a phase image: a TIFF of floating-point numbers, or a ``.npy``."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".npy":
        return True
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        with tifffile.TiffFile(path) as tiff:
            return bool(tiff.series) and tiff.series[0].dtype is not None and tiff.series[0].dtype.kind == "f"
    except (OSError, ValueError, tifffile.TiffFileError):
        return False


def list_inputs(
    source: Path, *, reference: Path | None = None, manifest: Path | str | None = None, output: Path | None = None
) -> list[PhaseInput]:
    """What a file or folder holds to segment.

    A file of floating-point numbers is a phase image, another a hologram. Of a folder that ``hemolens reconstruct``
    wrote it is the phase images; of one with a manifest, as ``hemolens simulate`` writes it, what that lists; of any
    other the phase images, or where there are none, the holograms.

    Args:
        source: file or folder.
        reference, manifest: of holograms, see ``inference.hologram_jobs.list_jobs``.
        output: folder of results, which may lie in ``source``; what it holds is no input.

    Raises:
        UserError: nothing there, or files whose results would have one name.
    """
    if not source.exists():
        raise UserError(f"no phase image, hologram or folder at input={source}")
    if source.is_file():
        if is_phase(source):
            return [PhaseInput(stem_of(source, PHASE_SUFFIXES) or source.stem, source)]
        return _holograms(source, reference, manifest, output)
    reconstructed = (source / SETTINGS_JSON).is_file() and (source / PHASE_FOLDER).is_dir()
    base = source / PHASE_FOLDER if reconstructed else source
    listed = manifest is not None or reference is not None or (source / MANIFEST).is_file()
    if not reconstructed and listed:
        return _holograms(source, reference, manifest, output)
    skipped = None if output is None else place_of(output)
    phases = [
        path
        for path in sorted(base.rglob("*"))
        if (skipped is None or skipped not in place_of(path).parents) and is_phase(path)
    ]
    if phases:
        named = [(path.relative_to(base).parent / str(stem_of(path, PHASE_SUFFIXES))).as_posix() for path in phases]
        rows = _quality_rows(source / QUALITY_CSV) if reconstructed else {}
        return _told_apart(
            [PhaseInput(name, path, quality=rows.get(name)) for name, path in zip(named, phases, strict=True)]
        )
    return _holograms(source, reference, manifest, output)


def _quality_rows(path: Path) -> dict[str, dict[str, str]]:
    """What ``hemolens reconstruct`` noted of each phase image, by its name; nothing where there is no table."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["name"]: row for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error!r}): reconstruct again, or move the table away") from error


def _told_apart(inputs: list[PhaseInput]) -> list[PhaseInput]:
    """Refuse results of one name."""
    first: dict[str, PhaseInput] = {}
    for item in inputs:
        if (other := first.setdefault(item.name, item)) is not item:
            raise UserError(f"the results of {other.path} and {item.path} would have one name: rename one")
    return inputs


def _holograms(
    source: Path, reference: Path | None, manifest: Path | str | None, output: Path | None
) -> list[PhaseInput]:
    jobs = list_jobs(source, reference=reference, manifest=manifest, output=output)
    # a manifest may list phase images too
    return _told_apart([PhaseInput(job.name, job.path, None if is_phase(job.path) else job) for job in jobs])


def read_input(
    item: PhaseInput, settings: Mapping[str, Any], *, device: str = "cpu"
) -> tuple[PhaseImage, Mapping[str, Any] | None]:
    """The phase image of an input, and its row of ``quality.csv`` where it is known; a hologram is reconstructed.

    Args:
        item: what to read.
        settings: as for ``inference.reconstruction.reconstruct_files``; what they say of the scale wins over the file.
        device: of the reconstruction.

    Raises:
        UserError: damaged, or a hologram that cannot be reconstructed, or of several frames.
    """
    if item.job is None:
        image = read_any_phase(item.path)
        given = {name: settings.get(name) for name in ("pixel_um", "wavelength_um")}
        scale: dict[str, Any] = {name: value for name, value in given.items() if isinstance(value, int | float)}
        return replace(image, **scale), item.quality
    opened = open_hologram(item.path)
    if opened.frames != 1:
        raise UserError(
            f"{item.path} holds {opened.frames} frames: run hemolens reconstruct, and predict from its phase images"
        )
    chosen = settings_for(settings, item.job.facts.over(opened.facts))
    ground = None if item.job.reference is None else open_reference(item.job.reference, opened)
    return reconstruct_frame(opened, 0, chosen, ground, device)
