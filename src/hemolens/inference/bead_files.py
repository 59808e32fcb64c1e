"""Which files show beads, phase images, holograms or tomograms, and when they were taken."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import tifffile

from hemolens.data.phase_folder import plain_stem
from hemolens.errors import UserError
from hemolens.inference.hologram_jobs import place_of
from hemolens.inference.phase_inputs import PhaseInput, is_phase, list_inputs
from hemolens.inference.samples import MANIFEST
from hemolens.io.manifest import read_manifest
from hemolens.io.volumes import VOLUME_SUFFIXES, is_volume, open_volume
from hemolens.io.volumes.tiff import is_stack


@dataclass(frozen=True)
class BeadFile:
    """A file with beads.

    Attributes:
        name: path relative to the input.
        date: of the manifest; empty where none is stated.
        item: how its phase is read; None for a tomogram.
    """

    name: str
    path: Path
    date: str
    item: PhaseInput | None


def list_bead_files(
    source: Path, *, reference: Path | None = None, manifest: str | Path | None = None, output: Path | None = None
) -> list[BeadFile]:
    """The files of a folder (or the one file) in order of their date, then of their name.

    Tomograms where there are any; else phase images; else holograms. A TIFF that cannot be opened is listed too, to be
    named.

    Args:
        source: file or folder.
        reference: of holograms, see ``inference.hologram_jobs.list_jobs``.
        manifest: CSV with the columns file and sample, and date (ISO 8601) where it is known; only its files are taken.
            None: ``manifest.csv`` in the folder or beside it, where it lists files there; ``none``: without.
        output: folder of results, which may lie in ``source``.

    Raises:
        UserError: nothing there, or a manifest that is damaged, has no such files, or dates that are none.
    """
    if not source.exists():
        raise UserError(f"no phase image, hologram, tomogram or folder at input={source}")
    base = source if source.is_dir() and not is_volume(source) else source.parent
    found = [source] if base != source else _files(source, output)
    tomograms = [path for path in found if _is_tomogram(path)]
    items: list[tuple[Path, PhaseInput | None]]
    if tomograms:
        items = [(path, None) for path in tomograms]
    elif phases := [path for path in found if is_phase(path)]:
        broken = [path for path in found if path.suffix.lower() in (".tif", ".tiff") and not _opens(path)]
        items = [(path, PhaseInput(plain_stem(path), path)) for path in sorted([*phases, *broken])]
    else:
        listed = list_inputs(source, reference=reference, manifest=manifest, output=output)
        items = [(item.path, item) for item in listed]
    rows, named = _rows(base, manifest)
    files = []
    for path, item in items:
        row = rows.get(str(place_of(path)), rows.get(plain_stem(path)))
        if rows and row is None:
            continue
        name = place_of(path).relative_to(place_of(base)).as_posix()
        files.append(BeadFile(name, path, _date(row, named, name), item))
    if not files and manifest is None:  # the manifest that lies there is of other files
        files = [BeadFile(place_of(p).relative_to(place_of(base)).as_posix(), p, "", item) for p, item in items]
    if not files:
        raise UserError(f"{manifest} lists no file inside {source}: files are relative to the manifest")
    if len({bool(file.date) for file in files}) > 1:
        bare = next(file.name for file in files if not file.date)
        raise UserError(f"{named} states no date for {bare}, but for others: give all a date, or none")
    return sorted(files, key=lambda file: file.date)


def _files(source: Path, output: Path | None) -> list[Path]:
    skipped = None if output is None else place_of(output)
    return [
        path
        for path in sorted(source.rglob("*"))
        if (path.is_file() or path.suffix.lower() == ".zarr")
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and not any(parent.suffix.lower() == ".zarr" for parent in path.parents)
        and (skipped is None or skipped not in place_of(path).parents)
    ]


def _is_tomogram(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in (".tcf", ".zarr"):
        return True
    if suffix in (".tif", ".tiff"):
        return is_stack(path)
    if suffix == ".npy":
        try:
            return bool(np.load(path, mmap_mode="r", allow_pickle=False).ndim == 3)
        except (OSError, ValueError, EOFError):
            return False
    if suffix not in VOLUME_SUFFIXES:
        return False
    try:
        with open_volume(path, voxel_um=(1.0, 1.0, 1.0), medium_index=1.33):
            return True
    except (UserError, OSError):
        return False


def _opens(path: Path) -> bool:
    try:
        with tifffile.TiffFile(path) as tiff:
            return bool(tiff.series)
    except (OSError, ValueError, tifffile.TiffFileError):
        return False


def _rows(base: Path, manifest: str | Path | None) -> tuple[dict[str, Mapping[str, str]], Path]:
    """Rows of the manifest by the place of their file and by its name without suffix; none where there is none."""
    if manifest is not None and str(manifest).lower() == "none":
        return {}, base
    near = [Path(manifest)] if manifest is not None else [base / MANIFEST, base.parent / MANIFEST]
    for path in near:
        if manifest is not None or path.is_file():
            rows = read_manifest(path)
            by_name: dict[str, Mapping[str, str]] = {plain_stem(file): row for file, row in rows.items()}
            return by_name | {str(place_of(path.parent / file)): row for file, row in rows.items()}, path
    return {}, base


def _date(row: Mapping[str, str] | None, manifest: Path, name: str) -> str:
    text = ((row or {}).get("date") or "").strip()
    try:
        return datetime.fromisoformat(text).isoformat() if text else ""
    except ValueError as error:
        raise UserError(f"{manifest}: date of {name} is {text!r}: write it as 2026-03-31") from error
