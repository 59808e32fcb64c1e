"""Figures of many runs, made small enough to stand in one page."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from hemolens.errors import UserError

WIDTHS_PX = {60: 960, 200: 640}  # number of pictures: width; more get the least
LEAST_PX = 480
QUALITY = 82  # of WebP: thin lines and small letters stay legible


@dataclass(frozen=True)
class SmallPicture:
    """A picture as it is embedded: a data URL, and its size in pixels."""

    url: str
    width: int
    height: int


@dataclass
class Embedded:
    """Pictures that found room, by run and name, and how many runs' pictures of each name did not."""

    pictures: dict[int, dict[str, SmallPicture]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    width_px: int = 0


def embed_pictures(
    files: Sequence[Mapping[str, Path]], *, most_mb: float, width_px: int | None = None, quiet: bool = False
) -> Embedded:
    """Shrink pictures until ``most_mb`` megabytes are full, one name after the other, so that runs can be compared.

    Args:
        files: of each run, name → picture.
        most_mb: of all data URLs together.
        width_px: of wider pictures; None: 960 of a few, 640 of many, 480 of more than 200.
        quiet: no progress bar.

    Raises:
        UserError: a file is no picture.
    """
    held = {name: [run for run, own in enumerate(files) if name in own] for name in {n for own in files for n in own}}
    names = sorted(held, key=lambda name: (-len(held[name]), name))  # what most runs have comes first
    queue = [(name, run) for name in names for run in held[name]]
    width = width_px or next((px for count, px in WIDTHS_PX.items() if len(queue) <= count), LEAST_PX)
    found, free = Embedded(width_px=width), most_mb * 1e6
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow lets other threads run while it works
        small = pool.map(lambda item: shrink(files[item[1]][item[0]], width), queue)
        told = track(
            zip(queue, small, strict=True),
            "pictures",
            total=len(queue),
            console=Console(stderr=True),
            transient=True,
            disable=quiet,
        )
        for (name, run), picture in told:
            free -= len(picture.url)
            if free < 0:
                pool.shutdown(wait=False, cancel_futures=True)
                break
            found.pictures.setdefault(run, {})[name] = picture
    for name, run in queue:
        if name not in found.pictures.get(run, {}):
            found.left_out[name] = found.left_out.get(name, 0) + 1
    return found


def shrink(path: Path, width_px: int) -> SmallPicture:
    """A picture as WebP, at most ``width_px`` wide.

    Raises:
        UserError: the file is no picture.
    """
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGBA" if "A" in opened.getbands() else "RGB")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no picture ({error}): remove it, or leave pictures out (--images none)") from error
    if picture.mode == "RGBA":
        if picture.getchannel("A").getextrema() != (255, 255):  # figures are drawn for white paper
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert("RGB")
    if picture.width > width_px:
        size = (width_px, max(1, round(picture.height * width_px / picture.width)))
        picture = picture.resize(size, Image.Resampling.HAMMING)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=0)
    text = base64.b64encode(buffer.getvalue()).decode()
    return SmallPicture(f"data:image/webp;base64,{text}", *picture.size)
