"""The pictures of a tomogram that are kept in a cache: enough for every projection and every norm of ``data.views``."""

import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemolens.data.simulation.truth import stored_field
from hemolens.io.volumes import Volume, project_volume

#: Phase is not kept: it is the mean but for a constant and a factor (see ``io.volumes.project_volume``).
PLANES = ("maximum", "mean", "focus")
BAND_ROWS = 64  # of a plane at a time, so that they stay in the processor's cache


class Planes(NamedTuple):
    """Pictures of one tomogram as integers over the range of each: RI = low + stored / 65535 * (high - low)."""

    stored: NDArray[np.uint16]
    """[3, H, W] in the order of ``PLANES``; focus is the one sharpest slice."""
    ranges: NDArray[np.float64]
    """[3, 2]: lowest and highest RI of each."""
    volume_range: tuple[float, float]
    """Lowest and highest RI of the whole volume."""
    medium_index: float

    def values(self, plane: str) -> NDArray[np.float32]:
        """Refractive index of one plane, float32 [H, W]."""
        at = PLANES.index(plane)
        low, high = self.ranges[at]
        values = np.empty(self.stored.shape[1:], np.float32)
        step = np.float32((high - low) / 65535)
        for top in range(0, len(values), BAND_ROWS):
            band = values[top : top + BAND_ROWS]
            band[...] = self.stored[at, top : top + BAND_ROWS]
            band *= step
            band += np.float32(low)
        return values


def planes_of(volume: Volume) -> Planes:
    """The pictures of an open volume, which is read once (and once more a slice).

    Raises:
        UserError: a damaged file.
    """
    made = project_volume(volume, (*PLANES, "range"))
    pictures = [made[name] if made[name].ndim == 2 else made[name][0] for name in PLANES]
    ranges = np.array([[picture.min(), picture.max()] for picture in pictures], np.float64)
    scaled = [
        (picture - np.float32(low)) * np.float32(65535 / max(high - low, 1e-12))
        for picture, (low, high) in zip(pictures, ranges, strict=True)
    ]
    low, high = made["range"].tolist()
    return Planes(np.rint(scaled).astype(np.uint16), ranges, (low, high), volume.medium_index)


def planes_to_arrays(planes: Planes) -> dict[str, NDArray[Any]]:
    """For ``truth.save_arrays``; they come first in their file, where :func:`map_planes` finds them."""
    facts = np.array([*planes.volume_range, planes.medium_index])
    return {"planes": planes.stored, "plane_ranges": planes.ranges, "volume_facts": facts}


def map_planes(path: Path) -> Planes:
    """Planes that were saved in a file; the integers are read from the disk as they are used.

    Raises:
        UserError: the file is missing or damaged.
    """
    with stored_field(path), path.open("rb") as file:
        _enter_array(file, b"planes.npy")
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        stored = np.frombuffer(whole, dtype, math.prod(shape), file.tell()).reshape(shape)
        file.seek(stored.nbytes, os.SEEK_CUR)
        _enter_array(file, b"plane_ranges.npy")
        ranges = np.lib.format.read_array(file)
        _enter_array(file, b"volume_facts.npy")
        low, high, medium_index = np.lib.format.read_array(file).tolist()
        return Planes(stored, ranges, (low, high), medium_index)


def _enter_array(file: BinaryIO, name: bytes) -> None:
    """Go from the zip header of an array of an uncompressed .npz, which must start here, to its .npy header."""
    header = file.read(30)
    method, name_length, extra_length = struct.unpack("<8xH16xHH", header)
    if header[:4] != b"PK\x03\x04" or method != 0 or file.read(name_length) != name:
        raise ValueError(f"{name.decode()} is not where it was written")
    file.seek(extra_length, os.SEEK_CUR)
