"""Which holograms a folder holds, with which references, and what a manifest says of them."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hemolens.errors import UserError
from hemolens.io.holograms import HologramFacts, is_hologram, list_holograms, stem_of
from hemolens.io.manifest import read_manifest

log = logging.getLogger(__name__)

MANIFEST = "manifest.csv"
#: Note in a folder of results; what lies there is no input.
SETTINGS_JSON = "reconstruction.json"


@dataclass(frozen=True)
class HologramJob:
    """A file to reconstruct, the name of its results, its reference, and what is known of it apart from the file."""

    path: Path
    name: str
    reference: Path | None
    facts: HologramFacts


def list_jobs(
    source: Path,
    *,
    reference: Path | None = None,
    manifest: Path | str | None = None,
    output: Path | None = None,
) -> list[HologramJob]:
    """The holograms of a folder (and the folders in it) or the one file, with their references.

    Args:
        source: file or folder.
        reference: a hologram without objects for all, or a folder of them that are named as the holograms are; None: as
            the manifest says, or none.
        manifest: CSV with the columns file and sample, and of reference, wavelength_um, pixel_um, numerical_aperture
            and medium_index what is known; files are relative to it, and only those that it lists are taken. None:
            ``manifest.csv`` in the folder or beside it, where there is one that lists files there; ``none``: without.
        output: folder of results, which may lie in ``source``; what it holds is no input.

    Raises:
        UserError: no holograms, a missing reference, or a damaged manifest.
    """
    if not source.exists():
        raise UserError(f"no hologram or folder at input={source}")
    base = source if source.is_dir() else source.parent
    if reference is not None and not reference.exists():
        raise UserError(f"no file or folder at reference={reference}")
    listed, rows = _manifest_of(source, base, manifest)
    files = list_holograms(source)
    if rows:
        places = {place_of(path) for path in rows}
        beside = {place.parent for place in places}
        unlisted = [path for path in files if place_of(path) not in places and place_of(path).parent in beside]
        files = list(rows)
        if unlisted and manifest is None:
            log.info(
                "%s: it does not list %s and %d more, which are left out (manifest=none takes all)",
                listed,
                unlisted[0].name,
                len(unlisted) - 1,
            )
    grounds = {place_of(path) for path in _references(reference)}
    jobs = []
    for path in files:
        if (place_of(path) in grounds and len(files) > 1) or _is_result(path, base, output):
            continue
        row = rows.get(path, {})
        ground = _reference_of(path, base, reference)
        if ground is None and reference is None and row.get("reference"):
            ground = listed.parent / row["reference"]
            if not ground.is_file():
                raise UserError(
                    f"{listed} names the reference {row['reference']}, which does not exist: correct the row"
                )
        name = (place_of(path).relative_to(place_of(base)).parent / stem_of(path)).as_posix()
        facts = HologramFacts(**{key: _number(listed, key, row) for key in vars(HologramFacts())})
        jobs.append(HologramJob(path, name, ground, facts))
    if not jobs:
        raise UserError(f"{source} holds nothing but references and results: give the folder of the holograms")
    return jobs


def _is_result(path: Path, base: Path, output: Path | None) -> bool:
    """Whether a file lies in a folder of results inside ``base``."""
    if output is not None and place_of(output) in place_of(path).parents:
        return True
    inner = [parent for parent in place_of(path).parents if place_of(base) in parent.parents]
    return any((parent / SETTINGS_JSON).is_file() for parent in inner)


def place_of(path: Path) -> Path:
    """Absolute path, links not followed, so that a linked file is named by the link."""
    return Path(os.path.abspath(path))


def _manifest_of(source: Path, base: Path, manifest: Path | str | None) -> tuple[Path, dict[Path, dict[str, str]]]:
    """The manifest, and its rows by file, of those inside ``source``; no rows where there is none."""
    if manifest is not None and str(manifest).lower() == "none":
        return base, {}
    for near in [Path(manifest)] if manifest is not None else [base / MANIFEST, base.parent / MANIFEST]:
        if manifest is None and not near.is_file():
            continue
        try:
            listed = read_manifest(near)
        except UserError as error:
            if manifest is not None:
                raise
            log.info("left aside: %s", error)
            continue
        rows = {}
        for file, row in listed.items():
            path = near.parent / file
            if place_of(path) != place_of(source) and place_of(source) not in place_of(path).parents:
                continue
            if not path.is_file():
                raise UserError(f"{near} lists {file}, which does not exist: correct the row, or take it out")
            rows[path] = row
        if rows:
            return near, rows
        if manifest is not None:
            raise UserError(f"{near} lists no file inside {source}: files are relative to the manifest")
    return base, {}


def _references(reference: Path | None) -> list[Path]:
    if reference is None:
        return []
    return [reference] if reference.is_file() else list_holograms(reference)


def _reference_of(path: Path, base: Path, reference: Path | None) -> Path | None:
    if reference is None or reference.is_file():
        return reference
    folder = reference / place_of(path).relative_to(place_of(base)).parent
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [file for file in inside if is_hologram(file) and stem_of(file) == stem_of(path)]
    if len(found) != 1:
        count = "no reference" if not found else f"{len(found)} references"
        raise UserError(f"{reference} holds {count} for {path.name}: expected one file called {stem_of(path)}.*")
    return found[0]


def _number(manifest: Path | None, key: str, row: Mapping[str, str]) -> float | None:
    text = row.get(key) or ""
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{manifest}: {key} of {row['file']} is {text!r}, no number") from error
