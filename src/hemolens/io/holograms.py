"""Read off-axis holograms: pictures, series of pictures, and HDF5 in the layout of qpformat.

qpformat's raw off-axis files keep one hologram a dataset, called 0, 1, ..., with attributes in SI units
(https://qpformat.readthedocs.io).
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from hemolens.errors import UserError
from hemolens.io.images import (
    IMAGE_SUFFIXES,
    TIFF_SUFFIXES,
    in_colour,
    named_errors,
    read_image,
    read_image_size,
    to_channels,
)
from hemolens.io.volumes.tiff import ome_facts

log = logging.getLogger(__name__)

HDF5_SUFFIXES = (".h5", ".hdf5")
HOLOGRAM_SUFFIXES = (*IMAGE_SUFFIXES, *HDF5_SUFFIXES)

#: Attributes of a qpformat dataset: our name, and ours for one of theirs.
_QPFORMAT = {
    "wavelength_um": ("wavelength", 1e6),
    "pixel_um": ("pixel size", 1e6),
    "medium_index": ("medium index", 1.0),
    "numerical_aperture": ("numerical aperture", 1.0),
}


@dataclass(frozen=True)
class HologramFacts:
    """What is known about how a hologram was taken; None where it is not.

    Attributes:
        wavelength_um: in vacuum.
        pixel_um: side of a pixel in the object's space.
        medium_index: refractive index of the medium.
        numerical_aperture: of the objective.
    """

    wavelength_um: float | None = None
    pixel_um: float | None = None
    medium_index: float | None = None
    numerical_aperture: float | None = None

    def over(self, other: "HologramFacts") -> "HologramFacts":
        """These facts, and those of ``other`` where there are none."""
        return replace(other, **{name: value for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class HologramFile:
    """An open file of holograms of one size.

    Attributes:
        path: the file.
        size: (H, W) in pixels.
        facts: what the file states.
        frames: number of holograms.
    """

    path: Path
    size: tuple[int, int]
    facts: HologramFacts
    frames: int
    _read: Callable[[int], NDArray[Any]] = field(repr=False)

    def read(self, frame: int = 0) -> NDArray[Any]:
        """Grey levels [H, W] as stored: uint8, uint16 or float32; colour becomes its luma, or its one lit channel.

        Raises:
            UserError: no such frame, or a damaged file.
        """
        if not 0 <= frame < self.frames:
            raise UserError(f"{self.path} has no frame {frame}: it holds {self.frames}, counted from 0")
        image = self._read(frame)
        return _in_grey(image) if image.ndim == 3 else image

    def name(self, frame: int = 0) -> str:
        """``rbc`` of ``rbc.png``; ``series_3`` of the fourth hologram of ``series.h5``."""
        stem = stem_of(self.path)
        return stem if self.frames == 1 else f"{stem}_{frame:0{len(str(self.frames - 1))}d}"


def _in_grey(image: NDArray[Any]) -> NDArray[Any]:
    """Luma of a colour picture [H, W, 3]; of a colour camera in the light of one laser the channel that sees it."""
    spreads = image[::4, ::4].reshape(-1, 3).std(0)
    if float(spreads.max()) > 1.5 * float(np.sort(spreads)[1]):
        return np.ascontiguousarray(image[..., int(spreads.argmax())])
    return to_channels(image, 1)[..., 0]


def is_ome(path: Path) -> bool:
    """Whether the name ends in ``.ome.tif`` or ``.ome.tiff``."""
    return path.name.lower().endswith((".ome.tif", ".ome.tiff"))


def stem_of(path: Path) -> str:
    """Name without its suffix, or without both of ``.ome.tif``."""
    return path.name[: path.name.lower().rindex(".ome.tif")] if is_ome(path) else path.stem


def is_hologram(path: str | Path) -> bool:
    """Whether the suffix of ``path`` is one that :func:`open_hologram` reads (upper case counts too)."""
    return Path(path).suffix.lower() in HOLOGRAM_SUFFIXES


def open_hologram(path: str | Path) -> HologramFile:
    """Open a file of one or more holograms; pixels are read when they are asked for.

    Args:
        path: PNG, JPEG, BMP or TIFF (grey, colour or palette; several pages are a series), or qpformat's HDF5.

    Raises:
        UserError: missing, damaged, or no picture; an HDF5 file of another layout.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such hologram file")
    suffix = path.suffix.lower()
    if suffix in HDF5_SUFFIXES:
        return _open_hdf5(path)
    if suffix in TIFF_SUFFIXES:
        return _open_tiff(path)
    if suffix in IMAGE_SUFFIXES:
        return HologramFile(path, read_image_size(path), HologramFacts(), 1, lambda _: read_image(path))
    raise UserError(f"{path}: holograms are read from files ending in {', '.join(HOLOGRAM_SUFFIXES)}")


def _open_tiff(path: Path) -> HologramFile:
    with named_errors(path), tifffile.TiffFile(path) as tiff:
        facts = _tiff_facts(tiff)
        pages = [page.aspage() for page in tiff.pages]
        if not pages or (len(tiff.series) == 1 and len(tiff.series[0].pages) > len(pages)):
            raise UserError(f"{path}: corrupt or unreadable image (it is cut off); replace the file")
        sizes = {(int(page.imagelength), int(page.imagewidth)) for page in pages}
    if len(pages) == 1:
        return HologramFile(path, sizes.pop(), facts, 1, lambda _: read_image(path))
    if len(sizes) > 1:
        raise UserError(f"{path} holds pictures of {len(sizes)} sizes: save one size a file")
    return HologramFile(path, sizes.pop(), facts, len(pages), lambda frame: _read_page(path, frame))


def _read_page(path: Path, frame: int) -> NDArray[Any]:
    with named_errors(path), tifffile.TiffFile(path) as tiff:
        page = tiff.pages[frame].aspage()
        image = in_colour(page, page.asarray())
    if image.ndim == 3 and image.shape[0] in (3, 4) and image.shape[2] not in (3, 4):
        image = np.moveaxis(image, 0, -1)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise UserError(f"{path}: page {frame} has the shape {list(image.shape)}; a hologram is [H, W], grey or colour")
    image = image[..., :3] if image.ndim == 3 else image
    return image.astype(np.float32) if image.dtype not in (np.uint8, np.uint16) else image


def _tiff_facts(tiff: tifffile.TiffFile) -> HologramFacts:
    facts = ome_facts(tiff.ome_metadata) if tiff.is_ome else {}
    return HologramFacts(
        wavelength_um=facts.get("wavelength_um"),
        pixel_um=facts.get("step_um", (None,))[-1],
        medium_index=facts.get("medium_index"),
    )


def _open_hdf5(path: Path) -> HologramFile:
    import h5py  # here: only these files need it

    try:
        with h5py.File(path, "r") as file:
            names = sorted((name for name in file if name.isdigit()), key=int)
            if not names:
                raise UserError(
                    f"{path} is no hologram file of qpformat: expected datasets 0, 1, ...; it holds "
                    f"{', '.join(list(file)[:5]) or 'nothing'}"
                )
            modality = str(file.attrs.get("imaging_modality", "off-axis holography"))
            if "holo" not in modality:
                raise UserError(f"{path} holds {modality}, no off-axis holograms")
            sizes = {tuple(file[name].shape) for name in names}
            if len(sizes) > 1 or len(next(iter(sizes))) != 2:
                raise UserError(f"{path}: the datasets have the shapes {sorted(sizes)}; give one size [H, W] a file")
            facts = _qpformat_facts(dict(file[names[0]].attrs), path)
    except (OSError, RuntimeError, KeyError, AttributeError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: corrupt or unreadable HDF5 file ({error}); replace the file") from error
    height, width = sizes.pop()
    return HologramFile(path, (int(height), int(width)), facts, len(names), lambda n: _read_dataset(path, names[n]))


def _read_dataset(path: Path, name: str) -> NDArray[Any]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            image = np.asarray(file[name])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: dataset {name} cannot be read ({error}); replace the file") from error
    return image if image.dtype in (np.uint8, np.uint16) else image.astype(np.float32)


def _qpformat_facts(attributes: dict[str, Any], path: Path) -> HologramFacts:
    found: dict[str, float] = {}
    for name, (theirs, factor) in _QPFORMAT.items():
        if theirs in attributes:
            try:
                value = float(np.asarray(attributes[theirs]).reshape(-1)[0]) * factor
            except (TypeError, ValueError, IndexError):
                value = math.nan
            if math.isfinite(value) and value > 0:
                found[name] = value
            else:  # as if it were not stated: who needs it is told to give it
                log.warning("%s: attribute '%s' is %s, which is left aside", path, theirs, attributes[theirs])
    return HologramFacts(**found)


def list_holograms(source: str | Path) -> list[Path]:
    """The hologram files of a folder and of the folders inside it, sorted; or the one file. Hidden files are left out.

    Raises:
        UserError: no such file or folder, or no hologram in it.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"no hologram or folder at input={source}")
    found = sorted(
        path
        for path in source.rglob("*")
        if is_hologram(path)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    if not found:
        raise UserError(f"{source} holds no hologram: expected files ending in {', '.join(HOLOGRAM_SUFFIXES)}")
    return found
