"""Pictures of a volume, made in one pass over its chunks."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hemolens.errors import UserError
from hemolens.io.volumes.volume import Volume

PROJECTIONS = ("maximum", "mean", "phase", "focus", "range")


def project_volume(
    volume: Volume, kinds: Sequence[str] = ("maximum",), *, focus_slices: int = 1
) -> dict[str, NDArray[np.float32]]:
    """Projections along z. Holds a few slices at a time, or one row of the file's chunks.

    - ``maximum`` [Y, X]: highest RI.
    - ``mean`` [Y, X]: mean RI.
    - ``phase`` [Y, X], rad: 2 pi / wavelength times the integral of (n - n_medium) dz, what a phase image shows.
    - ``focus`` [focus_slices, Y, X]: RI of the neighbouring slices around the one with the largest lateral variance.
    - ``range`` [2]: lowest and highest RI of the volume.

    Args:
        volume: open volume.
        kinds: some of the above; the file is read once for all (``focus`` reads its slices again).
        focus_slices: slices of ``focus``.

    Raises:
        UserError: an unknown kind, ``phase`` without a wavelength, more focus slices than slices, or a damaged file.
    """
    unknown = set(kinds) - set(PROJECTIONS)
    if unknown:
        raise UserError(f"unknown projection {', '.join(sorted(unknown))}: choose from {', '.join(PROJECTIONS)}")
    if "phase" in kinds and volume.wavelength_um is None:
        raise UserError(f"{volume.path} does not state its wavelength, which a phase needs: give wavelength_um")
    array = volume.array
    depth, height, width = array.shape
    if "focus" in kinds and not 1 <= focus_slices <= depth:
        raise UserError(f"{volume.path}: focus_slices={focus_slices}, but the volume has {depth} slices")
    highest = np.zeros((height, width), array.source.dtype)
    total = np.zeros((height, width))
    moments = np.zeros((2, depth))
    extremes: list[float] = []
    need_sum, need_focus, started = bool({"mean", "phase"} & set(kinds)), "focus" in kinds, set[int]()
    for at_z, at_y, stored in array.blocks():
        extremes += array.check(stored)
        if "maximum" in kinds:  # of stored numbers: a larger number is a larger RI
            top = stored.max(0)
            highest[at_y] = np.maximum(highest[at_y], top) if at_y.start in started else top
            started.add(at_y.start)
        if need_sum:
            total[at_y] += stored.sum(0, dtype=np.float64)
        if need_focus:
            moments[0, at_z] += stored.sum((1, 2), dtype=np.float64)
            moments[1, at_z] += np.square(stored, dtype=np.float64).sum((1, 2))
    made: dict[str, NDArray[np.float32]] = {}
    mean = (total / depth * array.scale + array.offset) if need_sum else total
    for kind in kinds:
        if kind == "maximum":
            made[kind] = (highest.astype(np.float64) * array.scale + array.offset).astype(np.float32)
        elif kind == "mean":
            made[kind] = mean.astype(np.float32)
        elif kind == "phase":
            path_um = (mean - volume.medium_index) * depth * volume.voxel_um[0]
            made[kind] = (path_um * (2 * math.pi / (volume.wavelength_um or math.nan))).astype(np.float32)
        elif kind == "range":
            made[kind] = np.array([min(extremes), max(extremes)], np.float32)
        else:
            first = _sharpest(moments / (height * width), focus_slices)
            made[kind] = array[first : first + focus_slices]
    return made


def _sharpest(moments: NDArray[np.float64], count: int) -> int:
    """First of ``count`` slices centred on the largest variance; moments [2, Z] are means of x and x^2."""
    center = int(np.argmax(moments[1] - moments[0] ** 2))
    return min(max(center - (count - 1) // 2, 0), moments.shape[1] - count)
