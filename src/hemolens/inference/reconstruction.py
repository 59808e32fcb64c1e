"""Reconstruct a folder of holograms: phase images, a quality table and a contact sheet."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from hemolens.analysis.figures import save_figure
from hemolens.analysis.hologram_figures import Thumbnail, contact_sheet, thumbnail
from hemolens.errors import UserError
from hemolens.io.atomic import write_json
from hemolens.io.holograms import (
    HologramFacts,
    HologramFile,
    is_hologram,
    list_holograms,
    open_hologram,
)
from hemolens.io.manifest import read_manifest
from hemolens.io.phase import PhaseImage, read_phase, write_phase
from hemolens.io.tables import write_csv
from hemolens.optics.holography import ReconstructionSettings, reconstruct

log = logging.getLogger(__name__)

PHASE_FOLDER, QUALITY_CSV, SHEET_PNG, SETTINGS_JSON = "phase", "quality.csv", "contact_sheet.png", "reconstruction.json"
MANIFEST = "manifest.csv"
SHEET_IMAGES = 48
UNKNOWN = "unknown"
#: What gives a phase its scale.
SCALE = {"wavelength_um": "the vacuum wavelength", "pixel_um": "the side of a pixel in the object"}
QUALITY_COLUMNS = (
    *("name", "file", "frame", "reference", "height_px", "width_px"),
    *("wavelength_um", "pixel_um", "numerical_aperture", "medium_index"),
    *("sideband_y", "sideband_x", "sideband_prominence", "background_degree", "refocus_um"),
    *("fringe_contrast", "saturated_fraction", "residues_per_megapixel"),
    *("background_sd_rad", "phase_max_rad", "amplitude_sd", "dry_mass_pg"),
)


@dataclass(frozen=True)
class HologramJob:
    """A file to reconstruct, the name of its results, its reference, and what is known of it apart from the file."""

    path: Path
    name: str
    reference: Path | None
    facts: HologramFacts


def list_jobs(source: Path, *, reference: Path | None = None, manifest: Path | None = None) -> list[HologramJob]:
    """The holograms of a folder (and the folders in it) or the one file, with their references.

    Args:
        source: file or folder.
        reference: a hologram without objects for all, or a folder of them that are named as the holograms are; None: as
            the manifest says, or none.
        manifest: CSV with the columns file and sample, and of reference, wavelength_um, pixel_um, numerical_aperture
            and medium_index what is known; files are relative to it, and only those that it lists are taken. None:
            ``manifest.csv`` in the folder or beside it, where there is one that lists files there.

    Raises:
        UserError: no holograms, a missing reference, or a damaged manifest.
    """
    if not source.exists():
        raise UserError(f"no hologram or folder at input={source}")
    base = source if source.is_dir() else source.parent
    if reference is not None and not reference.exists():
        raise UserError(f"no file or folder at reference={reference}")
    near = [path for path in (base / MANIFEST, base.parent / MANIFEST) if path.is_file()]
    listed = manifest or (near[0] if near else None)
    rows = {} if listed is None else _rows(listed, source)
    if manifest is not None and not rows:
        raise UserError(f"{manifest} lists no file inside {source}: files are relative to the manifest")
    files = [path for path in rows] if rows else list_holograms(source)
    grounds = {path.resolve() for path in _references(reference)}
    jobs = []
    for path in files:
        if path.resolve() in grounds and len(files) > 1:
            continue
        row = rows.get(path, {})
        name = path.resolve().relative_to(base.resolve()).with_suffix("").as_posix().removesuffix(".ome")
        facts = HologramFacts(**{key: _number(listed, key, row) for key in vars(HologramFacts())})
        ground = _reference_of(path, base, reference)
        if ground is None and reference is None and row.get("reference"):
            assert listed is not None
            ground = listed.parent / row["reference"]
            if not ground.is_file():
                raise UserError(
                    f"{listed} names the reference {row['reference']}, which does not exist: correct the row"
                )
        jobs.append(HologramJob(path, name, ground, facts))
    if not jobs:
        raise UserError(f"{source} holds nothing but references: give the folder of the holograms")
    names = [job.name for job in jobs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{source} holds several files called {twice[0]} with different endings: rename one")
    return jobs


def _rows(manifest: Path, source: Path) -> dict[Path, dict[str, str]]:
    """Rows of a manifest by their files, of those inside ``source``."""
    inside, found = source.resolve(), {}
    for file, row in read_manifest(manifest).items():
        path = manifest.parent / file
        if path.resolve() != inside and not path.resolve().is_relative_to(inside):
            continue
        if not path.is_file():
            raise UserError(f"{manifest} lists {file}, which does not exist: correct the row, or take it out")
        found[path] = row
    return found


def _references(reference: Path | None) -> list[Path]:
    if reference is None:
        return []
    return [reference] if reference.is_file() else list_holograms(reference)


def _reference_of(path: Path, base: Path, reference: Path | None) -> Path | None:
    if reference is None or reference.is_file():
        return reference
    stem = reference / path.resolve().relative_to(base.resolve()).with_suffix("")
    found = sorted(file for file in stem.parent.glob(f"{stem.name}.*") if is_hologram(file))
    if not found:
        raise UserError(f"{reference} holds no reference for {path.name}: expected a file called {stem.name}.*")
    return found[0]


def _number(manifest: Path | None, key: str, row: Mapping[str, str]) -> float | None:
    text = row.get(key) or ""
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{manifest}: {key} of {row['file']} is {text!r}, no number") from error


def reconstruct_files(
    jobs: Sequence[HologramJob],
    output: Path,
    settings: Mapping[str, Any],
    *,
    device: str = "cpu",
    leave_out: Callable[[UserError], None],
) -> int:
    """Reconstruct holograms into a folder; a stopped call goes on where it was.

    - ``phase/<name>.ome.tif``: unwrapped phase in rad, with its scale; ``phase/<name>.json``: its row of the table.
    - ``quality.csv``: a row an image.
    - ``contact_sheet.png``: the phase images, at most 48 of them.
    - ``reconstruction.json``: the settings.

    Args:
        jobs: see :func:`list_jobs`.
        output: new, or one that the same settings were begun in.
        settings: keys of ``ReconstructionSettings``; ``wavelength_um`` and ``pixel_um`` may be ``unknown``: then the
            phase has no scale. What is None is taken from the manifest or the file.
        device: of torch.
        leave_out: is told why a file is left out.

    Returns:
        Number of phase images in the folder.

    Raises:
        UserError: a folder with something else in it, wrong settings, or no space.
    """
    _claim(output, dict(settings))
    rows: list[dict[str, Any]] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (console.is_terminal or console.is_jupyter)) as progress:
        task = progress.add_task("reconstruct", total=len(jobs))
        for job in jobs:
            try:
                rows += _reconstruct_file(job, output, settings, device)
            except UserError as error:
                named = str(job.path) in str(error) or (job.reference is not None and str(job.reference) in str(error))
                leave_out(error if named else UserError(f"{job.path}: {error}", exit_code=1))
            progress.advance(task)
    if rows:
        table = ([row.get(column, "") for column in QUALITY_COLUMNS] for row in rows)
        write_csv(output / QUALITY_CSV, QUALITY_COLUMNS, table, overwrite=True)
        save_figure(_sheet(output, rows), output / SHEET_PNG, overwrite=True)
    return len(rows)


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Note the settings in a new folder, or check that the folder is ours."""
    note = output / SETTINGS_JSON
    plain = json.loads(json.dumps(settings))
    if note.is_file():
        if json.loads(note.read_text()) == plain:
            return
        if (output / PHASE_FOLDER).exists():
            raise UserError(f"{output} was begun with other settings (see {SETTINGS_JSON}): choose a new output")
        note.unlink()  # nothing came of those settings
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and holds other files: choose a new output")
    write_json(note, plain)


def _reconstruct_file(job: HologramJob, output: Path, given: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
    """The rows of all frames of a file; phases that are there are not made again."""
    with_file = open_hologram(job.path)
    facts = job.facts.over(with_file.facts)
    settings = _settings(given, facts)
    ground = None if job.reference is None else _read_reference(job.reference)
    rows = []
    for frame in range(with_file.frames):
        name = (PurePosixPath(job.name).parent / with_file.name(frame)).as_posix()
        target, note = output / PHASE_FOLDER / f"{name}.ome.tif", output / PHASE_FOLDER / f"{name}.json"
        if not (note.is_file() and target.is_file()):
            row = _reconstruct_frame(with_file, frame, settings, ground, target, device)
            row = {"name": name, "file": job.path.name, "frame": frame} | row
            if job.reference is not None:
                row["reference"] = job.reference.name
            write_json(note, row, overwrite=True)  # last: where it lies, the phase is whole
        rows.append(json.loads(note.read_text()))
    return rows


def _settings(given: Mapping[str, Any], facts: HologramFacts) -> ReconstructionSettings:
    values = dict(given)
    for name in SCALE:
        if values[name] == UNKNOWN:
            values[name] = None
        elif values[name] is None:
            values[name] = getattr(facts, name)
    if missing := [name for name in SCALE if values[name] is None and given[name] != UNKNOWN]:
        wanted = " ".join(f"{name}=<{SCALE[name]} in um>" for name in missing)
        raise UserError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not known: give {wanted}, or "
            f"{' '.join(f'{name}={UNKNOWN}' for name in missing)} for a phase without a scale"
        )
    if values["numerical_aperture"] is None and None not in (values["wavelength_um"], values["pixel_um"]):
        values["numerical_aperture"] = facts.numerical_aperture
    if values["medium_index"] is None:
        values["medium_index"] = facts.medium_index or ReconstructionSettings.medium_index
    for name in ("sideband", "refocus_interval_um"):
        if values[name] is not None:
            values[name] = tuple(float(value) for value in values[name])
    return ReconstructionSettings(**values)


@lru_cache(maxsize=4)
def _read_reference(path: Path) -> NDArray[Any]:
    return open_hologram(path).read()


def _reconstruct_frame(
    file: HologramFile,
    frame: int,
    settings: ReconstructionSettings,
    ground: NDArray[Any] | None,
    target: Path,
    device: str,
) -> dict[str, Any]:
    found = reconstruct(file.read(frame), settings, reference=ground, device=device)
    image = PhaseImage(
        found.phase_rad,
        pixel_um=settings.pixel_um,
        wavelength_um=settings.wavelength_um,
        medium_index=settings.medium_index,
        refocus_um=found.refocus_um,
    )
    write_phase(target, image, overwrite=True)
    (y, x), (height, width) = found.sideband.frequency, file.size
    row = {
        "height_px": height,
        "width_px": width,
        **{key: value for key, value in asdict(settings).items() if key in QUALITY_COLUMNS},
        "sideband_y": y,
        "sideband_x": x,
        "sideband_prominence": found.sideband.prominence,
        "background_degree": found.degree,
        **found.quality,
        "refocus_um": found.refocus_um,
    }
    return {key: _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    """A number for JSON and CSV: rounded, and None for what is not a number."""
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return value


def _sheet(output: Path, rows: Sequence[dict[str, Any]]) -> Any:
    chosen = sorted({round(at) for at in np.linspace(0, len(rows) - 1, min(len(rows), SHEET_IMAGES))})
    pictures = []
    for row in (rows[at] for at in chosen):
        phase = read_phase(output / PHASE_FOLDER / f"{row['name']}.ome.tif").phase_rad
        caption = f"contrast {row['fringe_contrast']:.2f}, background ±{row['background_sd_rad']:.2f} rad"
        pictures.append(Thumbnail(row["name"], thumbnail(phase), caption))
    title = f"{len(chosen)} of {len(rows)} phase images" if len(chosen) < len(rows) else "phase images"
    return contact_sheet(pictures, title=title)
