"""Which blood sample each file belongs to: by a manifest, or by the folder that it lies in."""

from dataclasses import dataclass
from pathlib import Path

from hemolens.errors import UserError
from hemolens.inference.pictures import list_pictures
from hemolens.io.manifest import read_manifest
from hemolens.io.volumes import is_volume

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
        UserError: nothing there, or a file of the manifest is missing.
    """
    if source.is_file() or is_volume(source):
        return [SampleFile(source, source.name, source.name.split(".")[0])]
    if not source.is_dir():
        raise UserError(f"no tomogram or folder at input={source}")
    near = [path for path in (source / MANIFEST, source.parent / MANIFEST) if path.is_file()]
    listed = manifest or (near[0] if near else None)
    if listed is not None:
        found = _of_manifest(source, listed)
        if found or manifest is not None:
            return found
    inside = [folder for folder in sorted(source.iterdir()) if folder.is_dir() and not is_volume(folder)]
    files = [
        SampleFile(path, f"{folder.name}/{path.name}", folder.name)
        for folder in inside
        for path in sorted(folder.iterdir())
        if is_volume(path) and not path.name.startswith(".")
    ]
    direct = [path for path in source.iterdir() if is_volume(path) and not path.name.startswith(".")]
    if files and not direct:
        return files
    return [SampleFile(path, path.name, source.name) for path in list_pictures(source, "maximum") if is_volume(path)]


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
