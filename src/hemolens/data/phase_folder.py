"""Folders of phase images with masks, as ``hemolens simulate`` and ``reconstruct`` write them or as a lab has them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from skimage.transform import resize

from hemolens.data.phase_images import PhaseRecord, store_phase_image, stored_record
from hemolens.errors import UserError
from hemolens.io.images import named_errors, read_image
from hemolens.io.labels import read_labels
from hemolens.io.phase import PhaseImage, read_phase
from hemolens.postprocess.instances import cells_of_classes

PHASE_FOLDER, CLASSES_FOLDER, INSTANCES_FOLDER = "phase", "classes", "instances"
PROVENANCE = "sampling.json"  # of synthetic images: names of the images that their makers were trained on
PHASE_SUFFIXES = (".ome.tif", ".ome.tiff", ".tif", ".tiff", ".npy")
MASK_SUFFIXES = (".ome.tif", ".ome.tiff", ".tif", ".tiff", ".png")
SCALE_TOLERANCE = 0.01  # of pixel size and wavelength within a data set
_NAMED_ERRORS = 5  # files whose errors a message gives in full; the rest are counted


@dataclass(frozen=True)
class PhasePair:
    """A phase image, its masks, and what a manifest says of it.

    Attributes:
        name: path in the folder of phase images, without suffix.
        phase: file of the phase.
        classes: file of the class mask.
        instances: file of the instance mask; None: the connected parts of the classes.
        row: of the manifest.
    """

    name: str
    phase: Path
    classes: Path
    instances: Path | None
    row: Mapping[str, str]


@dataclass(frozen=True)
class Scale:
    """What the files of a data set say of their scale; None where none says it."""

    pixel_um: float | None
    wavelength_um: float | None


def plain_stem(file: str | Path) -> str:
    """Name of any file without folders and suffix: of ``holograms/a.png`` and ``phase/a.ome.tif`` the same."""
    path = Path(file)
    return stem_of(path, PHASE_SUFFIXES) or path.stem


def stem_of(path: Path, suffixes: Sequence[str]) -> str | None:
    """Name without one of the suffixes, the longest first; None for other files."""
    for suffix in suffixes:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def find_pairs(
    root: Path, phase_folder: Path, rows: Mapping[str, Mapping[str, str]] | None = None
) -> tuple[list[PhasePair], list[str]]:
    """Phase images of a folder with their masks.

    The masks of ``<phase_folder>/<name>.ome.tif`` are ``<root>/classes/<name>.ome.tif`` (or .tif, .png) and, where
    there is one, ``<root>/instances/<name>.ome.tif``; ``<name>`` may be a path, of which the file name alone is looked
    for too. Rows of a manifest are found by the name of their file without suffix.

    Args:
        root: has the folders ``classes`` and ``instances``.
        phase_folder: of the phase images.
        rows: of a manifest, by file; those that it does not list are left out.

    Returns:
        Pairs in the order of their names, and the names of phase images without a class mask.

    Raises:
        UserError: no such folder, no phase image, a row without a phase image, or files that cannot be told apart.
    """
    if not phase_folder.is_dir():
        raise UserError(f"no folder of phase images at {phase_folder}: check data.root and data.phase_folder")
    phases = _by_stem(phase_folder, PHASE_SUFFIXES)
    if not phases:
        raise UserError(f"{phase_folder} holds no phase images ({', '.join(PHASE_SUFFIXES)})")
    listed = None if rows is None else _by_name(rows, phases, phase_folder)
    masks = {folder: _by_stem(root / folder, MASK_SUFFIXES) for folder in (CLASSES_FOLDER, INSTANCES_FOLDER)}
    pairs, bare = [], []
    taken: dict[Path, str] = {}
    for name, path in phases.items():
        if listed is not None and name not in listed:
            continue
        classes, instances = (_of(name, masks[folder]) for folder in (CLASSES_FOLDER, INSTANCES_FOLDER))
        if classes is None:
            bare.append(name)
        elif (other := taken.setdefault(classes, name)) != name:
            raise UserError(
                f"{classes} would be the mask of both {other} and {name}: give each its own, in a like folder"
            )
        else:
            pairs.append(PhasePair(name, path, classes, instances, {} if listed is None else listed[name]))
    return pairs, bare


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files of a folder and those in it by their path without suffix; nothing where there is no folder."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        stem = stem_of(path, suffixes)
        if stem is None or not path.is_file():
            continue
        other = found.setdefault((path.relative_to(folder).parent / stem).as_posix(), path)
        if other != path:
            raise UserError(f"{other} and {path} have one name: keep one of them")
    return found


def _of(name: str, files: Mapping[str, Path]) -> Path | None:
    return files.get(name) or files.get(name.rpartition("/")[2])


def _by_name(
    rows: Mapping[str, Mapping[str, str]], phases: Mapping[str, Path], folder: Path
) -> dict[str, Mapping[str, str]]:
    """Rows by the name of their phase image: ``holograms/a.png`` is of ``holograms/a.ome.tif`` or ``a.ome.tif``."""
    found: dict[str, Mapping[str, str]] = {}
    for file, row in rows.items():
        path = Path(file)
        stem = stem_of(path, PHASE_SUFFIXES) or path.stem
        names = [name for name in ((path.parent / stem).as_posix(), stem) if name in phases]
        if not names:
            raise UserError(
                f"the manifest lists {file}, but {folder} holds no {stem}{PHASE_SUFFIXES[0]}: reconstruct it, or take "
                "the row out"
            )
        if found.setdefault(names[0], row) is not row:
            raise UserError(f"the manifest lists {phases[names[0]]} twice, as {found[names[0]]['file']} and {file}")
    return found


def store_pairs(
    pairs: Sequence[PhasePair],
    cache_dir: Path,
    class_names: Sequence[str],
    *,
    what: str = "phase images",
    to: Scale | None = None,
) -> tuple[list[PhaseRecord], Scale]:
    """Bring pairs into the cache, where they are not there yet; all errors are gathered.

    Args:
        pairs: from :func:`find_pairs`.
        cache_dir: files are named by a hash of the names, sizes and times of change of what they are made of.
        class_names: of label 0, 1, …; masks with higher labels are refused.
        what: for messages.
        to: bring images to this pixel size and wavelength, as far as both are known; None leaves them.

    Raises:
        UserError: names every file that cannot be used; or images whose scales differ.
    """
    records: list[PhaseRecord] = []
    errors: list[str] = []
    scales: dict[str, list[tuple[float, str]]] = {"pixel_um": [], "wavelength_um": []}
    console = Console(stderr=True)
    quiet = not (console.is_terminal or console.is_jupyter)
    for pair in track(pairs, f"reading {what}", console=console, transient=True, disable=quiet):
        try:
            record, scale = _stored(pair, cache_dir, class_names, to)
        except UserError as error:
            errors.append(str(error))
            continue
        records.append(record)
        for name, value in scale.items():
            if value is not None:
                scales[name].append((value, pair.name))
    _raise_all(errors, len(pairs), what)
    return records, Scale(**{name: _one_scale(name, found) for name, found in scales.items()})


def _raise_all(errors: Sequence[str], count: int, what: str) -> None:
    if not errors:
        return
    named = "; ".join(errors[:_NAMED_ERRORS])
    more = f"; and {len(errors) - _NAMED_ERRORS} more" if len(errors) > _NAMED_ERRORS else ""
    raise UserError(f"{len(errors)} of {count} {what} cannot be used: {named}{more}", exit_code=1)


def _one_scale(name: str, found: Sequence[tuple[float, str]]) -> float | None:
    if not found:
        return None
    first, first_name = found[0]
    for value, image in found:
        if abs(value / first - 1) > SCALE_TOLERANCE:
            raise UserError(
                f"{name} is {first:g} in {first_name} and {value:g} in {image}: one data set has one scale; keep them "
                "in folders of their own"
            )
    return first


def _stored(
    pair: PhasePair, cache_dir: Path, class_names: Sequence[str], to: Scale | None
) -> tuple[PhaseRecord, dict[str, float | None]]:
    files = [pair.phase, pair.classes, *([pair.instances] if pair.instances else [])]
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    about = {
        "name": pair.name,
        "sample": pair.row.get("sample", "") or "",
        "donor": pair.row.get("donor", "") or "",
        "day": _day(pair),
    }
    digest = hashlib.sha256(
        json.dumps([facts, about, len(class_names), to and [to.pixel_um, to.wavelength_um]]).encode()
    ).hexdigest()[:24]
    path = cache_dir / "phase_images" / f"{digest}.npy"
    note = path.with_suffix(".scale.json")
    known = stored_record(path)
    if known is not None and note.is_file():
        return known, json.loads(note.read_text())
    image = read_any_phase(pair.phase)
    classes = read_mask(pair.classes)
    if int(classes.max(initial=0)) >= len(class_names):
        listed = ", ".join(f"{number} {name}" for number, name in enumerate(class_names))
        raise UserError(
            f"{pair.classes} holds class {int(classes.max())}, but the classes are {listed}: see data.class_names"
        )
    instances = None if pair.instances is None else read_mask(pair.instances)
    for mask, file in ((classes, pair.classes), (instances, pair.instances)):
        if mask is not None and mask.shape != image.phase_rad.shape:
            height, width = image.phase_rad.shape
            raise UserError(f"{file} is {mask.shape[0]}×{mask.shape[1]} px, its phase image {height}×{width} px")
    scale = {"pixel_um": image.pixel_um, "wavelength_um": image.wavelength_um}
    phase = image.phase_rad
    if to and to.wavelength_um and image.wavelength_um:  # the optical path stays
        phase = phase * np.float32(image.wavelength_um / to.wavelength_um)
        scale["wavelength_um"] = to.wavelength_um
    if to and to.pixel_um and image.pixel_um and abs(image.pixel_um / to.pixel_um - 1) > SCALE_TOLERANCE:
        size = [max(1, round(side * image.pixel_um / to.pixel_um)) for side in phase.shape]
        phase = resize(phase, size, order=3, anti_aliasing=image.pixel_um < to.pixel_um, mode="reflect")
        nearest: dict[str, Any] = {"order": 0, "preserve_range": True, "anti_aliasing": False}
        classes = resize(classes, size, **nearest).astype(np.int32)
        instances = None if instances is None else resize(instances, size, **nearest).astype(np.int32)
        scale["pixel_um"] = to.pixel_um
    if instances is None:
        instances = cells_of_classes(classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(scale))
    return store_phase_image(path, phase, classes, instances, about), scale


def read_any_phase(path: Path) -> PhaseImage:
    """A phase image of a TIFF with floats, or of a ``.npy`` with [H, W] in rad.

    Raises:
        UserError: damaged, or no phase image.
    """
    if path.suffix.lower() != ".npy":
        return read_phase(path)
    try:
        phase = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no readable array: {error}") from error
    if phase.ndim != 2 or not np.issubdtype(phase.dtype, np.floating):
        raise UserError(f"{path} holds {phase.dtype} {list(phase.shape)}; a phase image is floats [H, W] in rad")
    return PhaseImage(phase.astype(np.float32))


def read_mask(path: Path) -> NDArray[Any]:
    """A mask of a label TIFF, or of a grey or palette PNG, whole numbers [H, W].

    Raises:
        UserError: damaged, or a colour picture.
    """
    if path.suffix.lower() != ".png":
        return read_labels(path)
    with named_errors(path), Image.open(path) as picture:
        # of a palette its numbers, not its colours
        mask = np.asarray(picture) if picture.mode == "P" else read_image(path)
    if mask.ndim != 2:
        raise UserError(f"{path} is a colour picture: a mask has one number a pixel (a grey or palette PNG)")
    return mask


def _day(pair: PhasePair) -> float | None:
    text = (pair.row.get("day") or "").strip()
    try:
        return float(text) if text else None
    except ValueError as error:
        raise UserError(f"the manifest's day of {pair.name} is {text!r}, no number: correct the row") from error
