"""A folder of pictures, searched with its subfolders: which there are, which can be read, which class each may have."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from hemolens.data.splits import SPLITS, split_by_group
from hemolens.errors import UserError
from hemolens.io.atomic import write_json
from hemolens.io.images import IMAGE_SUFFIXES, is_image, read_image, to_channels, to_float

log = logging.getLogger(__name__)

NO_CLASS = "unlabelled"  # the one class name of pictures without classes
UNKNOWN = -1  # the label of a picture without a class
NAMED = 3  # unreadable files that a log line names
JPEG = (".jpg", ".jpeg")
JPEG_END = b"\xff\xd9"
_COLOURS = {1: "GRAYSCALE", 3: "RGB"}


def find_pictures(root: Path) -> list[str]:
    """The pictures below a folder, relative to it with ``/``, sorted; hidden files and folders are left out.

    Links to files and to folders directly inside ``root`` are followed, deeper ones are not: they may go in circles.

    Raises:
        UserError: no such folder, or no picture in it.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder: give one that holds pictures, in subfolders or not")
    found = []
    for top in [root, *(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))]:
        for folder, below, files in os.walk(top):
            below[:] = [] if top == root else [name for name in below if not name.startswith(".")]
            place = Path(folder).relative_to(root)
            found += [(place / name).as_posix() for name in files if is_image(name) and not name.startswith(".")]
    if not found:
        raise UserError(f"{root} holds no picture: expected files ending in {', '.join(IMAGE_SUFFIXES)}, at any depth")
    return sorted(found)


def folder_classes(
    root: Path, files: Sequence[str], class_names: Sequence[str] | None, min_images: int
) -> tuple[tuple[str, ...], list[int]]:
    """The classes that the folders directly inside ``root`` give, and the label of each picture.

    Args:
        root: named in errors.
        files: of :func:`find_pictures`.
        class_names: the folders that count, in label order; None takes each with at least ``min_images`` pictures, by
            name. ``[unlabelled]``: none counts.
        min_images: see ``class_names``.

    Returns:
        ``("unlabelled",)`` where no folder counts; a label a picture, -1 for one outside of the folders that count.

    Raises:
        UserError: a class that no folder with pictures has, or one that is named twice.
    """
    folders = [file.partition("/")[0] if "/" in file else "" for file in files]
    counts = Counter(folder for folder in folders if folder)
    if class_names is None:
        names = tuple(name for name in sorted(counts) if counts[name] >= min_images)
        if small := [f"{name} ({counts[name]})" for name in sorted(counts) if name not in names]:
            log.info("without a label, fewer than data.min_images=%d pictures: %s", min_images, ", ".join(small))
    else:
        names = () if list(class_names) == [NO_CLASS] else tuple(class_names)
        if isinstance(class_names, str) or len(set(names)) != len(names):
            raise UserError(f"data.class_names={class_names}: give a list of different names, or null")
        if unknown := [name for name in names if name not in counts]:
            known = ", ".join(sorted(counts)) or "none"
            raise UserError(f"{root} has no folder with pictures named {', '.join(unknown)}: its folders are {known}")
    label_of = {name: label for label, name in enumerate(names)}
    return names or (NO_CLASS,), [label_of.get(folder, UNKNOWN) for folder in folders]


def split_pictures(labels: Sequence[int], shares: Sequence[float], *, seed: int) -> dict[str, list[int]]:
    """Indices of the pictures of train, val and test, each class in the same shares, a share of 0 leaving a part empty.

    Pictures without a class are one more class. A class of fewer pictures than there are parts goes to train.

    Raises:
        UserError: the shares are not three that sum to 1.
    """
    if len(shares) != len(SPLITS) or not shares[0] > 0:
        raise UserError(f"data.split={list(shares)}: give three shares that sum to 1, for {', '.join(SPLITS)}")
    wanted = [name for name, share in zip(SPLITS, shares, strict=True) if share != 0]
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    for label in sorted(set(labels)):
        members = [index for index, own in enumerate(labels) if own == label]
        if len(members) < len(wanted):
            parts["train"] += members
            continue
        drawn = split_by_group(members, [share for share in shares if share != 0], seed=seed)
        for name, chosen in zip(wanted, drawn, strict=True):
            parts[name] += [members[index] for index in chosen]
    return {name: sorted(part) for name, part in parts.items()}


def read_pixels(path: Path, channels: int) -> Tensor:
    """A picture [C, H, W]: uint8, or float32 in [0, 1] of a file with more than 8 bits.

    Colour becomes luminance for one channel, of a JPEG that which it stores; grey is repeated for three. In memory it
    is [H, W, C], which is resized the fastest.

    Raises:
        UserError: the file is missing, damaged, or has values outside of its range.
    """
    pixels = _decoded_jpeg(path, channels) if path.suffix.lower() in JPEG else None
    if pixels is not None:
        return torch.from_numpy(pixels).permute(2, 0, 1)
    array = read_image(path)
    if array.dtype != np.uint8:
        array = to_float(array)
        if not (array.min() >= 0 and array.max() <= 1):
            raise UserError(
                f"{path}: values from {array.min():g} to {array.max():g}, but those of a picture lie between 0 and 1; "
                "phase images in rad are for data=sim_hologram_views"
            )
    return torch.from_numpy(to_channels(array, channels)).permute(2, 0, 1)


def _decoded_jpeg(path: Path, channels: int) -> NDArray[np.uint8] | None:
    """uint8 [H, W, channels], of three channels as ``read_image`` gives in half the time; None where that has to tell.

    This decoder fills up what is missing of a file, so it gets none that does not end as a JPEG does.
    """
    try:
        content = path.read_bytes()
        if not content.endswith(JPEG_END):
            return None
        pixels: NDArray[np.uint8] = imagecodecs.jpeg8_decode(content, outcolorspace=_COLOURS[channels])
    except (
        OSError,
        RuntimeError,
        ValueError,
    ):  # RuntimeError: the decoder's own, also of colours that it cannot convert
        return None
    return pixels.reshape(*pixels.shape[:2], channels) if pixels.dtype == np.uint8 else None


def unreadable_pictures(root: Path, files: Sequence[str], cache_dir: Path) -> dict[str, str]:
    """Why pictures cannot be used, by file; each is decoded once, and the cache remembers it by path, size and time.

    Args:
        root: folder of the files.
        files: of :func:`find_pictures`.
        cache_dir: where the result is kept.

    Raises:
        UserError: an unwritable cache.
    """
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:24]
    store = cache_dir / "checked_images" / f"{name}.json"
    known = _remembered(store)
    states = {file: _state(root / file) for file in files}
    entries = {file: known[file] for file in files if file in known and known[file][:2] == states[file]}
    new = [file for file in files if file not in entries]
    console = Console(stderr=True)
    quiet = not (console.is_terminal or console.is_jupyter)
    for file in track(new, "checking pictures", console=console, transient=True, disable=quiet):
        entries[file] = [*states[file], _trouble(root / file)]
    if new:
        write_json(store, entries, overwrite=True)
    bad = {file: str(entries[file][2]) for file in files if entries[file][2] is not None}
    if len(bad) == len(files):
        raise UserError(
            f"{root}: none of {len(files)} pictures can be read, the first because: {next(iter(bad.values()))}"
        )
    if bad:
        named = "; ".join(list(bad.values())[:NAMED])
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        log.warning("%d of %d pictures cannot be read and are left out: %s%s", len(bad), len(files), named, more)
    return bad


def _trouble(path: Path) -> str | None:
    try:
        read_pixels(path, 3)
    except UserError as error:
        return str(error)
    return None


def _state(path: Path) -> list[int]:
    """Size in bytes and time of the last change in ns; zeros for a file that is not there (a broken link)."""
    try:
        state = path.stat()
    except OSError:
        return [0, 0]
    return [state.st_size, state.st_mtime_ns]


def _remembered(store: Path) -> dict[str, list[Any]]:
    """What was found before; nothing where that cannot be read."""
    try:
        content = json.loads(store.read_text())
        return {str(file): list(entry) for file, entry in content.items() if len(entry) == 3}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
