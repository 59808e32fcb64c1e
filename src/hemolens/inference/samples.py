"""Which blood sample each file belongs to: by a manifest, or by the folder that it lies in."""

from dataclasses import dataclass
from pathlib import Path

from hemolens.errors import UserError
from hemolens.io.manifest import read_manifest
from hemolens.io.volumes import VOLUME_SUFFIXES, is_volume

MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class SampleFile:
    """A tomogram and the blood sample that it shows."""

    path: Path
    name: str
    sample: str


def list_samples(source: Path, manifest: Path | None = None) -> list[SampleFile]:
    """Tomograms and their samples.

    - A file: one sample, named by it.
    - A manifest (given, or ``manifest.csv`` in the folder or beside it): its rows ``file``, ``sample``; files are
      relative to it, and only those inside ``source`` are taken.
    - A folder with folders inside that hold tomograms: each is a sample.
    - A folder of tomograms: one sample, named by the folder.

    Raises:
        UserError: no tomogram there, or a file of the manifest is missing.
    """
    if source.is_file() or is_volume(source):
        return [SampleFile(source, source.name, source.name.split(".")[0])]
    if not source.is_dir():
        raise UserError(f"no tomogram or folder at input={source}")
    near = [path for path in (source / MANIFEST, source.parent / MANIFEST) if path.is_file()]
    listed = manifest or (near[0] if near else None)
    found = _of_manifest(source, listed) if listed is not None else []
    if found:
        return found
    if manifest is not None:
        raise UserError(f"{manifest} lists no file inside {source}: files are relative to the manifest")
    if direct := _volumes(source):
        return [SampleFile(path, path.name, source.name) for path in direct]
    folders = [folder for folder in sorted(source.iterdir()) if folder.is_dir()]
    found = [SampleFile(path, f"{f.name}/{path.name}", f.name) for f in folders for path in _volumes(f)]
    if not found:
        raise UserError(f"{source} holds no tomogram: expected files ending in {', '.join(VOLUME_SUFFIXES)}")
    return found


def _volumes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_volume(path) and not path.name.startswith("."))


def _of_manifest(source: Path, manifest: Path) -> list[SampleFile]:
    rows = read_manifest(manifest)
    found, inside = [], source.resolve()
    for file, row in rows.items():
        path = manifest.parent / file
        if not path.resolve().is_relative_to(inside):
            continue
        if not path.exists():
            raise UserError(f"{manifest} lists {file}, which does not exist: correct the row, or take it out")
        found.append(SampleFile(path, path.resolve().relative_to(inside).as_posix(), row["sample"]))
    return found
