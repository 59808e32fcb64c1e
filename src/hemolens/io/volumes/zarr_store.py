"""Zarr: OME-NGFF images (0.4 and 0.5) and plain arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import ArrayNotFoundError, GroupNotFoundError, NodeNotFoundError

from hemolens.errors import UserError
from hemolens.io.volumes.tiff import UNITS_UM
from hemolens.io.volumes.volume import Found, Volume

NGFF_UNITS_UM = UNITS_UM | {"meter": 1e6, "millimeter": 1e3, "micrometer": 1.0, "nanometer": 1e-3, "angstrom": 1e-4}
CHUNK = (8, 256, 256)


def read_zarr(path: Path, time_point: int) -> Found:
    """The full-resolution level of an OME-NGFF image, or an array of three axes.

    Medium and wavelength stand in the attributes ``medium_index`` and ``wavelength_um`` (OME-NGFF has no field).

    Raises:
        UserError: no Zarr store, no image in it, axes other than (t, c, z, y, x) with one channel, or no such time
            point.
    """
    try:
        node = zarr.open(store=str(path), mode="r")
    except (ArrayNotFoundError, GroupNotFoundError, NodeNotFoundError, ValueError, OSError, KeyError) as error:
        raise UserError(f"{path} is not a Zarr store, or is damaged: {error}", exit_code=1) from error
    attributes: dict[str, Any] = dict(node.attrs)
    voxel: tuple[float, ...] | None = None
    if isinstance(node, zarr.Group):
        images = attributes.get("ome", attributes).get("multiscales")
        if not images:
            raise UserError(f"{path} is a Zarr group without an OME-NGFF image: give the path of the array inside it")
        level = images[0]["datasets"][0]
        array: Any = node[level["path"]]
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in images[0].get("axes", "tczyx")]
        voxel = _voxel(axes, level, images[0])
        names = "".join(str(axis["name"]) for axis in axes)
    else:
        array, names = node, "zyx"
        voxel = tuple(float(v) for v in attributes["voxel_um"]) if "voxel_um" in attributes else None
    shape = dict(zip(names, array.shape, strict=False))
    if array.ndim != len(names) or names[-3:] != "zyx" or set(names) - set("tczyx") or shape.get("c", 1) != 1:
        raise UserError(
            f"{path} has the axes {names} {list(array.shape)}; a volume has z, y and x (and t), one channel"
        )
    times = int(shape.get("t", 1))
    if not 0 <= time_point < times:
        raise UserError(f"{path}: time_point={time_point}, but the store has 0 to {times - 1}")
    lead = tuple(time_point if name == "t" else 0 for name in names[:-3])
    return Found(
        source=_Last3(array, lead),
        voxel_um=voxel,
        medium_index=_float(attributes.get("medium_index")),
        wavelength_um=_float(attributes.get("wavelength_um")),
        chunks=tuple(array.chunks[-3:]),
        time_points=times,
    )


class _Last3:
    """The last three axes of a Zarr array."""

    def __init__(self, array: Any, lead: tuple[int, ...]) -> None:
        self.array, self.lead = array, lead
        self.shape, self.dtype = tuple(array.shape[-3:]), np.dtype(array.dtype)

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        return np.asarray(self.array[(*self.lead, *index)])


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _voxel(axes: list[dict[str, Any]], level: dict[str, Any], image: dict[str, Any]) -> tuple[float, ...] | None:
    """(z, y, x) in um: the level's scale times the image's; None where a scale or unit is missing."""
    scale = np.ones(len(axes))
    steps = [
        t for owner in (level, image) for t in owner.get("coordinateTransformations", []) if t.get("type") == "scale"
    ]
    units = [NGFF_UNITS_UM.get(str(axis.get("unit", ""))) for axis in axes[-3:]]
    if not steps or None in units:
        return None
    for step in steps:
        scale = scale * np.asarray(step["scale"], float)
    return tuple(float(s) * float(u or 0) for s, u in zip(scale[-3:], units, strict=True))


def write_zarr(path: Path, volume: Volume, title: str) -> None:
    """Write an OME-NGFF 0.4 image (Zarr format 2) of float32 RI with one level."""
    array = volume.array
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    chunk = tuple(min(c, n) for c, n in zip(CHUNK, array.shape, strict=True))
    level = group.create_array("0", shape=array.shape, chunks=chunk, dtype=np.float32, chunk_key_encoding=_NESTED)
    for z in range(0, array.shape[0], chunk[0]):  # whole chunks, so that none is compressed twice
        level[z : z + chunk[0]] = array[z : z + chunk[0]]
    scale: Any = {"type": "scale", "scale": list(volume.voxel_um)}
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "name": title,
            "axes": [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"],
            "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
        }
    ]
    group.attrs["medium_index"] = volume.medium_index
    if volume.wavelength_um is not None:
        group.attrs["wavelength_um"] = volume.wavelength_um


_NESTED: Any = {"name": "v2", "separator": "/"}
