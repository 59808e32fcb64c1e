"""Annotations made elsewhere: COCO JSON or GeoJSON, and which of a lab's files each entry speaks of."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

import numpy as np

from hemolens.errors import UserError
from hemolens.io.coco import is_untouched_export, parse_coco, read_json
from hemolens.io.geojson import is_geojson, parse_geojson
from hemolens.io.images import IMAGE_SUFFIXES
from hemolens.io.volumes import VOLUME_SUFFIXES

log = logging.getLogger(__name__)

NAMED_FILES = 5  # files named in a message; the rest are counted
GEOJSON = ".geojson"

# What labelling tools add to the name of an uploaded file: Label Studio `1a2b3c4d-field.png`, Roboflow
# `field_png.rf.0123456789abcdef.jpg`.
_LABEL_STUDIO = re.compile(r"^[0-9a-f]{8}-(?=.)")
_ROBOFLOW = re.compile(r"_(?:png|jpe?g|bmp|tiff?)\.rf\.[0-9A-Za-z]+(?:\.[a-z]+)?$")
_SUFFIXES = (".ome.tif", ".ome.tiff", ".ome.zarr", *IMAGE_SUFFIXES, *VOLUME_SUFFIXES)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its boxes as written.

    Attributes:
        image_id: its path in the folder, without suffix.
        path: the file.
        size: (height, width) in pixels, as the annotation states it, or else as the file does.
        names: class of each box, M strings; empty where it has none.
        boxes: float32 [M, 4], xyxy in pixels.
        source: the file with the annotation, for messages.
    """

    image_id: str
    path: Path
    size: tuple[int, int]
    names: tuple[str, ...]
    boxes: np.ndarray
    source: str


def read_annotations(
    source: str | Path,
    folder: str | Path,
    *,
    accept: Callable[[Path], bool],
    size_of: Callable[[Path], tuple[int, int]],
    files: Iterable[str] | None = None,
) -> list[AnnotatedImage]:
    """Images and boxes as written: every image that is listed, with boxes or without, counts as looked through.

    - COCO JSON, ours or of a labelling tool: see ``io.coco.parse_coco``.
    - A GeoJSON file, or a folder of them with any folders inside, one an image: named like the image, with or without
      its suffix (``field.geojson``, ``field.png.geojson``). See ``io.geojson.read_geojson``.

    An entry is the file of that path in ``folder``; or else the one file in it that has the name, or the name but for
    its suffix (boxes drawn on ``field.png`` for ``volumes/field.tcf``), or the name without what Label Studio and
    Roboflow add. A warning says if the whole of it is as ``hemolens predict`` wrote it.

    Args:
        source: the annotations.
        folder: where the images are.
        accept: tells files that may be images of the set from others.
        size_of: (height, width) of a file, where annotations do not state it.
        files: relative paths in ``folder`` to choose among; None: all that it holds.

    Raises:
        UserError: unreadable or foreign files; an entry without a file, with several, or two entries with one.
    """
    source, folder = Path(source), Path(folder)
    contents = {path: read_json(path) for path in _files_of(source)}
    found: list[AnnotatedImage]
    if source.is_dir() or is_geojson(contents[source]):
        base = source if source.is_dir() else source.parent
        names = [path.relative_to(base).with_suffix("").as_posix() for path in contents]
        objects = [parse_geojson(content, path) for path, content in contents.items()]
        untouched = all(one.untouched for one in objects)
        images = match_files(names, folder, source, accept, files)
        found = [
            AnnotatedImage(_image_id(image, folder), image, size_of(image), one.names, one.boxes, str(path))
            for image, one, path in zip(images, objects, contents, strict=True)
        ]
    else:
        untouched = is_untouched_export(contents[source])
        listed, classes = parse_coco(contents[source], source)
        images = match_files([image.file_name for image in listed], folder, source, accept, files)
        found = []
        for path, image in zip(images, listed, strict=True):
            labels, size = tuple(classes[label] for label in image.labels), (image.height, image.width)
            found.append(AnnotatedImage(_image_id(path, folder), path, size, labels, image.boxes, str(source)))
    if untouched:
        log.warning(
            "%s is as hemolens predict wrote it: trained on it, a detector learns its own mistakes. Correct it first",
            source,
        )
    return found


def _files_of(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    paths = sorted(path for path in source.rglob(f"*{GEOJSON}") if not path.name.startswith("."))
    if not paths:
        raise UserError(f"{source} holds no {GEOJSON} file: give one for each image, or a COCO JSON file")
    return paths


def _image_id(path: Path, folder: Path) -> str:
    return str((path.relative_to(folder) if path.is_relative_to(folder) else path).with_suffix(""))


def match_files(
    names: Sequence[str],
    folder: Path,
    source: Path,
    accept: Callable[[Path], bool],
    files: Iterable[str] | None = None,
) -> list[Path]:
    """The file in ``folder`` that each name means; see :func:`read_annotations`.

    Raises:
        UserError: a name fits no file or several, or two names fit one.
    """
    known: dict[str, set[str]] | None = None
    matched, missing = [], []
    for name in names:
        plain = name.replace("\\", "/")
        path = folder / plain
        if not (path.exists() and accept(path)):
            known = _index(folder, accept, files) if known is None else known
            candidates = next((known[key] for key in _keys_of_entry(plain) if key in known), set())
            if len(candidates) > 1:
                named = ", ".join(sorted(candidates)[:NAMED_FILES])
                raise UserError(
                    f"{source}: {name} may be any of {named} in {folder}: write the one that is meant into the "
                    "annotations, or give the folder that holds only the images"
                )
            if not candidates:
                missing.append(path)
            path = folder / next(iter(candidates), plain)
        matched.append(path)
    if missing:
        more = f" and {len(missing) - NAMED_FILES} more" if len(missing) > NAMED_FILES else ""
        named = ", ".join(map(str, missing[:NAMED_FILES]))
        raise UserError(f"{named}{more}: no such file, but {source} lists it; set the folder or remove it there")
    if len(set(matched)) < len(matched):
        twice = max(matched, key=matched.count)
        both = ", ".join(name for name, path in zip(names, matched, strict=True) if path == twice)
        raise UserError(f"{source}: {both} are one image, {twice}: keep one of them")
    return matched


def _index(folder: Path, accept: Callable[[Path], bool], files: Iterable[str] | None) -> dict[str, set[str]]:
    """Relative paths of files by every key that an entry may call them."""
    if files is None:
        found = [path for path in folder.rglob("*") if accept(path)]
        inside = set(found)  # a Zarr volume is a folder with files inside
        found = [path for path in found if inside.isdisjoint(path.parents)]
        files = [path.relative_to(folder).as_posix() for path in found if not path.name.startswith(".")]
    known: dict[str, set[str]] = {}
    for file in files:
        stem, name = _stem(file), PurePosixPath(file).name
        renamed = str(PurePosixPath(file).with_name(name.replace(".", "_")))  # predict's name where two stems are equal
        outer = str(PurePosixPath(file).with_suffix(""))
        for key in (file, stem, outer, renamed, *(f"*/{PurePosixPath(k).name}" for k in (file, stem, outer, renamed))):
            known.setdefault(key, set()).add(file)
    return known


def _keys_of_entry(name: str) -> list[str]:
    """What to look an entry up by, the most exact first; ``*/`` stands for any folder."""
    base = PurePosixPath(name).name
    bare = _ROBOFLOW.sub("", _LABEL_STUDIO.sub("", base))
    return [name, _stem(name), f"*/{base}", f"*/{_stem(base)}", f"*/{bare}", f"*/{_stem(bare)}"]


def _stem(name: str) -> str:
    """A name without the suffix of an image or a volume."""
    return next((name[: -len(suffix)] for suffix in _SUFFIXES if name.lower().endswith(suffix)), name)


def match_class(name: str, class_names: Sequence[str]) -> int | None:
    """Label of a class name: the same, or the only one that differs in case and spaces around it; else None."""
    if name in class_names:
        return list(class_names).index(name)
    folded = [other.strip().casefold() for other in class_names]
    wanted = name.strip().casefold()
    return folded.index(wanted) if folded.count(wanted) == 1 else None


def unknown_class(names: dict[str, str], class_names: Sequence[str]) -> UserError:
    """The error about classes that are none of ``class_names``; ``names`` says where each was met first."""
    by_key = {name.casefold(): name for name in class_names}
    places = []
    for name, source in sorted(names.items()):
        near = get_close_matches(name.strip().casefold(), by_key, n=1)
        hint = f" (nearest: {by_key[near[0]]})" if near else ""
        places.append(f"{name!r} first in {source}{hint}" if name.strip() else f"objects without a class in {source}")
    return UserError(
        f"unknown labels: {'; '.join(places)}. Known are {', '.join(class_names)}: correct the annotation, add to "
        "class_names, or set unknown_labels=drop to leave such objects out"
    )
