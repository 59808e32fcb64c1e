"""Read PASCAL VOC annotations: one XML a picture, and the lists of ids in ImageSets/Main.

Coordinates are kept as written. The VOC development kit counts pixels from 1 and includes xmax and ymax, but
most tools that write this format today (LabelImg, Roboflow, the BCCD set) write corners counted from 0;
subtracting 1 would shift the boxes of those files, so nothing is subtracted.
"""

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hemolens.errors import UserError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VOCAnnotation:
    """What one XML file says about one picture.

    Attributes:
        filename: name of the picture as written in the XML; empty if absent. Many sets renamed their files
            afterwards, so pictures are found by the stem of the XML instead.
        width: picture width in pixels, None when absent or 0.
        height: picture height in pixels, None when absent or 0.
        names: class name of each object, M strings.
        boxes: float32 [M, 4], xyxy in pixels as written (see the module docstring); may be degenerate.
    """

    filename: str
    width: int | None
    height: int | None
    names: tuple[str, ...]
    boxes: np.ndarray


def read_voc_annotation(path: str | Path) -> VOCAnnotation:
    """Parse one VOC XML file.

    Raises:
        UserError: the file is missing, is no XML, or an object lacks a name or four finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such annotation file")
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path}: not a valid XML file ({error}); export the annotation again") from error
    if root.tag != "annotation":
        raise UserError(f"{path}: root element is <{root.tag}>, expected <annotation> of a PASCAL VOC file")
    objects = root.findall("object")
    names = tuple(_object_name(item, number, path) for number, item in enumerate(objects, start=1))
    corners = [_object_box(item, number, path) for number, item in enumerate(objects, start=1)]
    return VOCAnnotation(
        filename=(root.findtext("filename") or "").strip(),
        width=_dimension(root, "width", path),
        height=_dimension(root, "height", path),
        names=names,
        boxes=np.array(corners, dtype=np.float32).reshape(-1, 4),
    )


def read_voc_split(root: str | Path, split: str) -> list[str]:
    """Image ids of ``root/ImageSets/Main/<split>.txt``, one a line, in file order; blank lines are skipped.

    Raises:
        UserError: no such list (the ones that exist are named), or it is empty or names an id twice.
    """
    folder = Path(root) / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.txt"))
        remedy = f"choose one of {', '.join(known)}" if known else "write one image id a line into it"
        raise UserError(f"{path}: no such split list; {remedy}")
    ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not ids:
        raise UserError(f"{path}: the split list is empty; write one image id a line into it")
    if len(set(ids)) != len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1})
        raise UserError(f"{path}: {len(twice)} ids are listed more than once, first {twice[0]}; remove the repeats")
    return ids


def _object_name(item: ElementTree.Element, number: int, path: Path) -> str:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{path}: object {number} has no <name>")
    return name


def _object_box(item: ElementTree.Element, number: int, path: Path) -> list[float]:
    values = []
    for corner in _CORNERS:
        text = item.findtext(f"bndbox/{corner}")
        try:
            value = float(text) if text is not None else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{path}: object {number}: <bndbox><{corner}> is {text!r}, expected a number")
        values.append(value)
    return values


def _dimension(root: ElementTree.Element, name: str, path: Path) -> int | None:
    text = root.findtext(f"size/{name}")
    if text is None or not text.strip():
        return None
    try:
        return int(float(text)) or None
    except (ValueError, OverflowError):
        raise UserError(f"{path}: <size><{name}> is {text!r}, expected a whole number") from None
