"""Reconstruct a folder of holograms: phase images, a quality table and a contact sheet."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from hemolens.analysis.figures import save_figure
from hemolens.analysis.hologram_figures import Thumbnail, contact_sheet, thumbnail
from hemolens.errors import UserError
from hemolens.inference.hologram_jobs import SETTINGS_JSON, HologramJob, place_of
from hemolens.io.atomic import write_json
from hemolens.io.holograms import (
    HologramFacts,
    HologramFile,
    open_hologram,
)
from hemolens.io.phase import PhaseImage, read_phase, write_phase
from hemolens.io.tables import write_csv
from hemolens.optics.holography import ReconstructionSettings, reconstruct

log = logging.getLogger(__name__)

PHASE_FOLDER, QUALITY_CSV, SHEET_PNG = "phase", "quality.csv", "contact_sheet.png"
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


def reconstruct_files(
    jobs: Sequence[HologramJob],
    output: Path,
    settings: Mapping[str, Any],
    *,
    device: str = "cpu",
    leave_out: Callable[[UserError], None],
) -> int:
    """Reconstruct holograms into a folder; a stopped call goes on where it was.

    - ``phase/<name>.ome.tif``: unwrapped phase in rad, with its scale; ``phase/<name>.json``: its row of the table, and
      what it was made of. Where file, reference and settings are the same it is not made again.
    - ``quality.csv``: a row an image.
    - ``contact_sheet.png``: the phase images, at most 48 of them.
    - ``reconstruction.json``: the settings.

    Args:
        jobs: see :func:`hemolens.inference.hologram_jobs.list_jobs`.
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
    settings_for(settings, HologramFacts(wavelength_um=1.0, pixel_um=1.0))  # wrong values are wrong for every file
    _claim(output, dict(settings))
    rows: list[dict[str, Any]] = []
    names: dict[str, Path] = {}
    console = Console(stderr=True)
    try:
        with Progress(
            console=console, transient=True, disable=not (console.is_terminal or console.is_jupyter)
        ) as progress:
            task = progress.add_task("reconstruct", total=len(jobs))
            for job in jobs:
                for made in _each_frame(job, output, settings, names, device):
                    if isinstance(made, UserError):
                        leave_out(made)
                        continue
                    if made.image is not None:
                        write_phase(made.target, made.image, overwrite=True)
                        write_json(made.note, made.row, overwrite=True)  # last: where it lies, the phase is whole
                    rows.append(made.row)
                progress.advance(task)
    finally:
        if rows:
            table = ([_cell(row.get(column)) for column in QUALITY_COLUMNS] for row in rows)
            write_csv(output / QUALITY_CSV, QUALITY_COLUMNS, table, overwrite=True)
    if rows:
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


@dataclass(frozen=True, eq=False)
class _Made:
    """A phase image and its row; ``image`` is None where it lies there already."""

    target: Path
    note: Path
    row: dict[str, Any]
    image: PhaseImage | None


def _each_frame(
    job: HologramJob, output: Path, given: Mapping[str, Any], names: dict[str, Path], device: str
) -> Iterator["_Made | UserError"]:
    """The frames of a file; an error ends it, or is of one frame. Any exception of a file is that file's alone."""
    try:
        opened = open_hologram(job.path)
        settings = settings_for(given, job.facts.over(opened.facts))
        ground = None if job.reference is None else open_reference(job.reference, opened)
    except Exception as error:  # whatever a damaged file makes its reader raise
        yield _named(error, job)
        return
    for frame in range(opened.frames):
        name = (PurePosixPath(job.name).parent / opened.name(frame)).as_posix()
        target, note = output / PHASE_FOLDER / f"{name}.ome.tif", output / PHASE_FOLDER / f"{name}.json"
        try:
            if names.setdefault(name.lower(), job.path) != job.path:
                raise UserError(f"{job.path} and {names[name.lower()]} would both be written to {target}: rename one")
            source = _source(job, frame, settings)
            row = _row_there(target, note, source)
            if row is not None:
                yield _Made(target, note, row, None)
                continue
            image, row = reconstruct_frame(opened, frame, settings, ground, device)
        except Exception as error:
            yield _named(error, job)
            continue
        row = {"name": name, "file": job.path.name, "frame": frame} | row | {"source": source}
        if job.reference is not None:
            row["reference"] = job.reference.name
        yield _Made(target, note, row, image)


def _named(error: Exception, job: HologramJob) -> UserError:
    """One line that names the file."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}; replace the file"
    named = str(job.path) in text or (job.reference is not None and str(job.reference) in text)
    beside = "" if job.reference is None or named else f" (reference {job.reference})"
    return UserError(text if named else f"{job.path}{beside}: {text}", exit_code=1)


def _source(job: HologramJob, frame: int, settings: ReconstructionSettings) -> dict[str, Any]:
    """What a phase is made of, to tell whether it is still that."""

    def file(path: Path | None) -> list[Any] | None:
        if path is None:
            return None
        state = path.stat()
        return [str(place_of(path)), state.st_size, state.st_mtime_ns]

    content = {"file": file(job.path), "frame": frame, "reference": file(job.reference), "settings": asdict(settings)}
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def _row_there(target: Path, note: Path, source: dict[str, Any]) -> dict[str, Any] | None:
    """The row of a phase that is there and of the same source; None where it has to be made.

    Raises:
        UserError: it is of another file.
    """
    if not (note.is_file() and target.is_file()):
        return None
    try:
        row: dict[str, Any] = json.loads(note.read_text())
        made_of = row["source"]
        before = made_of["file"][0]
    except (ValueError, KeyError, TypeError):
        return None
    if before != source["file"][0]:
        raise UserError(f"{target} was made of {before}, not of {source['file'][0]}: choose a new output")
    return row if made_of == source else None


def open_reference(path: Path, hologram: HologramFile) -> HologramFile:
    """The opened reference: one for all frames, or one for each.

    Raises:
        UserError: damaged, or another number of frames.
    """
    opened = open_hologram(path)
    if opened.frames not in (1, hologram.frames):
        raise UserError(
            f"{path} holds {opened.frames} references for the {hologram.frames} holograms of {hologram.path.name}: "
            "give one, or one each"
        )
    return opened


def settings_for(given: Mapping[str, Any], facts: HologramFacts) -> ReconstructionSettings:
    """Settings of one file: what is given, and for what is None what is known of the file.

    Args:
        given: see :func:`reconstruct_files`.
        facts: of the file.

    Raises:
        UserError: a wrong value, or a scale that nothing states.
    """
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
            try:
                values[name] = tuple(float(value) for value in values[name])
            except (TypeError, ValueError) as error:
                raise UserError(f"{name}={values[name]}: give two numbers") from error
    return ReconstructionSettings(**values)


def reconstruct_frame(
    file: HologramFile, frame: int, settings: ReconstructionSettings, ground: HologramFile | None, device: str
) -> tuple[PhaseImage, dict[str, Any]]:
    """The phase of one frame, and its row of the quality table.

    Raises:
        UserError: see ``optics.holography.reconstruct``.
    """
    empty = None if ground is None else ground.read(frame if ground.frames > 1 else 0)
    found = reconstruct(file.read(frame), settings, reference=empty, device=device)
    image = PhaseImage(
        found.phase_rad,
        pixel_um=settings.pixel_um,
        wavelength_um=settings.wavelength_um,
        medium_index=settings.medium_index,
        refocus_um=found.refocus_um,
    )
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
    return image, {key: _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    """A number for JSON and CSV: rounded, and None for what is not a number."""
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return value


def _cell(value: Any) -> Any:
    """A value in a table: nothing for None."""
    return "" if value is None else value


def _sheet(output: Path, rows: Sequence[dict[str, Any]]) -> Any:
    chosen = sorted({round(at) for at in np.linspace(0, len(rows) - 1, min(len(rows), SHEET_IMAGES))})
    pictures = []
    for row in (rows[at] for at in chosen):
        phase = read_phase(output / PHASE_FOLDER / f"{row['name']}.ome.tif").phase_rad
        contrast = row["fringe_contrast"]
        caption = f"contrast {'?' if contrast is None else f'{contrast:.2f}'}, "
        caption += f"background ±{row['background_sd_rad']:.2f} rad"
        pictures.append(Thumbnail(row["name"], thumbnail(phase), caption))
    title = f"{len(chosen)} of {len(rows)} phase images" if len(chosen) < len(rows) else "phase images"
    return contact_sheet(pictures, title=title)
