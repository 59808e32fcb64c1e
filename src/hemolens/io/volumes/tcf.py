"""TCF, the HDF5 layout of Tomocube instruments, and plain HDF5.

The layout was taken from public descriptions (github.com/ehgus/TCFile, docs/structure_TCF.md). Every attribute is an
array of length 1. ``FormatVersion`` below 1.3 stores RI as floats; from 1.3 on integers hold RI x 10,000; newer files
may cut a time point into tiles of uint8 (RI x 1,000 above RIMin) or uint16.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  # registers the filters that instruments compress with
import numpy as np
from numpy.typing import NDArray

from hemolens.errors import UserError
from hemolens.io.volumes.volume import RI_SCALE, TCF_SUFFIXES, Found, Volume

TILE_SCALE = 1e-3
#: Slices and rows a chunk in written files: one slice cut into bands, so that slices and rows both read fast.
CHUNK = (1, 256)


def read_hdf5(path: Path, time_point: int, dataset: str | None) -> Found:
    """A TCF, or a volume in any other HDF5 file.

    Args:
        path: file.
        time_point: index into the time points of a TCF.
        dataset: path of the volume inside a plain HDF5 file; None: the only dataset with three axes.

    Raises:
        UserError: not HDF5, truncated, no volume, several volumes, or no such time point.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path} is not an HDF5 file, or is truncated: {error}", exit_code=1) from error
    try:
        if dataset is None and ("Data" in file or path.suffix.lower() in TCF_SUFFIXES):
            return _read_tcf(path, file, time_point)
        return _read_plain(path, file, dataset)
    except BaseException:
        file.close()
        raise


def _read_tcf(path: Path, file: h5py.File, time_point: int) -> Found:
    group = file.get("Data/3D")
    if not isinstance(group, h5py.Group):
        raise UserError(f"{path} holds no /Data/3D: a TCF without a refractive-index volume, or another kind of HDF5")
    names = sorted(name for name in group if name.isdigit())
    if not names:
        raise UserError(f"{path}: /Data/3D holds no time point (000000, …): the measurement was not finished")
    if not 0 <= time_point < len(names):
        raise UserError(f"{path}: time_point={time_point}, but the file has 0 to {len(names) - 1}")
    item = group[names[time_point]]
    device = file.get("Info/Device", file)
    resolution = [_number(group, f"Resolution{axis}") for axis in "ZYX"]
    common: dict[str, Any] = {
        "voxel_um": None if None in resolution else tuple(resolution),
        "medium_index": _number(device, "RI"),
        "wavelength_um": _micrometres(_number(device, "Wavelength")),
        "time_points": len(names),
        "close": file.close,
    }
    if isinstance(item, h5py.Group):
        tiles = _Tiles(path, group, item)
        return Found(source=tiles, scale=tiles.scale, offset=tiles.offset, chunks=tiles.chunks, **common)
    _check_axes(path, item)
    whole_numbers = np.issubdtype(item.dtype, np.integer)
    if whole_numbers and format_version(file) < (1, 3) and "FormatVersion" in file.attrs:
        raise UserError(
            f"{path}: FormatVersion {_text(file, 'FormatVersion')} stores floats, but the data are {item.dtype}: "
            "the file was changed by another program; give dataset and ri_scale to read it as plain HDF5"
        )
    return Found(source=item, scale=RI_SCALE if whole_numbers else 1.0, chunks=item.chunks, **common)


def format_version(file: h5py.File) -> tuple[int, ...]:
    """``FormatVersion`` as numbers, so that 1.10 is newer than 1.3; (0,) where it is missing."""
    digits = "".join(c if c.isdigit() else " " for c in _text(file, "FormatVersion")).split()
    return tuple(int(part) for part in digits) or (0,)


class _Tiles:
    """A time point cut into tiles: stored numbers [Z, Y, X], assembled when indexed."""

    def __init__(self, path: Path, parent: h5py.Group, group: h5py.Group) -> None:
        self.path = path
        small = _number(group, "ScalarType")
        self.dtype = np.dtype(np.uint8 if small else np.uint16)
        self.scale, self.offset = (TILE_SCALE, 0.0) if small else (RI_SCALE, 0.0)
        if small:
            lowest = _number(group, "RIMin")
            lowest = _number(parent, "RIMin") if lowest is None else lowest
            if lowest is None:
                raise UserError(f"{path}: tiles of uint8 need RIMin, which {group.name} and {parent.name} lack")
            self.offset = lowest / 1e4 if lowest > 100 else lowest
        self.tiles: list[tuple[tuple[int, ...], tuple[int, ...], h5py.Dataset]] = []
        for name in sorted(group):
            tile = group[name]
            if isinstance(tile, h5py.Dataset) and _number(tile, "SamplingStep", 1) == 1:
                start = [_number(tile, f"DataIndexOffsetPoint{axis}") for axis in "ZYX"]
                last = [_number(tile, f"DataIndexLastPoint{axis}") for axis in "ZYX"]
                if None in start or None in last:
                    raise UserError(f"{path}: {tile.name} lacks DataIndexOffsetPoint or DataIndexLastPoint")
                self.tiles.append((tuple(int(n) for n in start), tuple(int(n) + 1 for n in last), tile))  # type: ignore[arg-type]
        if not self.tiles:
            raise UserError(f"{path}: {group.name} holds no tile at full sampling (SamplingStep 1)")
        size = [_number(parent, f"Size{axis}") for axis in "ZYX"]
        ends = [max(stop[axis] for _, stop, _ in self.tiles) for axis in range(3)]
        self.shape = tuple(int(ends[axis] if size[axis] is None else size[axis]) for axis in range(3))  # type: ignore[arg-type]
        self.chunks = self.tiles[0][2].chunks

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        wanted = [range(*item.indices(size)) for item, size in zip(index, self.shape, strict=True)]
        box = [(r.start, r[-1] + 1) if len(r) else (0, 0) for r in wanted]
        out = np.zeros([stop - start for start, stop in box], self.dtype)
        covered = np.zeros(out.shape, bool)
        for start, stop, tile in self.tiles:
            low = [max(a, b[0]) for a, b in zip(start, box, strict=True)]
            high = [min(a, b[1]) for a, b in zip(stop, box, strict=True)]
            if any(a >= b for a, b in zip(low, high, strict=True)):
                continue
            inside = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
            into = tuple(slice(a - b[0], c - b[0]) for a, c, b in zip(low, high, box, strict=True))
            out[into] = tile[inside]
            covered[into] = True
        if not covered.all():
            raise UserError(
                f"{self.path}: the tiles leave part of the volume empty: the file is incomplete", exit_code=1
            )
        return out[tuple(slice(None, None, r.step) for r in wanted)]


def _read_plain(path: Path, file: h5py.File, dataset: str | None) -> Found:
    found: list[str] = []
    file.visititems(
        lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) and item.ndim == 3 else None
    )
    if dataset is None and len(found) == 1:
        dataset = found[0]
    if dataset is None:
        what = f"several: {', '.join(found[:8])}" if found else "none"
        raise UserError(f"{path}: which dataset is the volume? With three axes there are {what}: give dataset")
    item = file.get(dataset)
    if not isinstance(item, h5py.Dataset):
        raise UserError(f"{path}: no dataset {dataset}; with three axes there are {', '.join(found[:8]) or 'none'}")
    _check_axes(path, item)
    voxel = next(
        (owner.attrs[k] for owner in (item, file) for k in ("voxel_um", "element_size_um") if k in owner.attrs), None
    )
    medium, wavelength = (
        next((number for owner in (item, file) if (number := _number(owner, key)) is not None), None)
        for key in ("medium_index", "wavelength_um")
    )
    return Found(
        source=item,
        voxel_um=None if voxel is None else tuple(float(v) for v in np.ravel(voxel)),
        medium_index=medium,
        wavelength_um=wavelength,
        chunks=item.chunks,
        close=file.close,
    )


def _check_axes(path: Path, item: h5py.Dataset) -> None:
    if item.ndim != 3 or not item.size:
        raise UserError(f"{path}: {item.name} has the shape {list(item.shape)}; a volume is [Z, Y, X]")


def _number(owner: h5py.HLObject, key: str, default: float | None = None) -> float | None:
    value = owner.attrs.get(key)
    return default if value is None else float(np.ravel(value)[0])


def _text(owner: h5py.HLObject, key: str) -> str:
    value = owner.attrs.get(key)
    if value is None:
        return ""
    first = np.ravel(np.asarray(value, dtype=object))[0]
    return first.decode() if isinstance(first, bytes) else str(first)


def _micrometres(wavelength: float | None) -> float | None:
    """TCF gives micrometres; a number above 10 can only be nanometres."""
    return wavelength / 1000 if wavelength is not None and wavelength > 10 else wavelength


def write_tcf(path: Path, volume: Volume, title: str) -> None:
    """Write the layout of FormatVersion 1.3: uint16 = RI x 10,000, gzip, with the maximum projection beside it."""
    array = volume.array
    _, height, width = array.shape
    highest = np.zeros((height, width), np.uint16)
    low, high = np.inf, -np.inf
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    with h5py.File(path, "w") as file:
        compressed: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}  # read by any HDF5
        item = file.create_dataset(
            "Data/3D/000000",
            array.shape,
            np.uint16,
            chunks=(CHUNK[0], min(CHUNK[1], height), width),
            **compressed,
        )
        for at_z, at_y, stored in array.blocks():
            values = array.to_ri(stored)
            whole = np.rint(values.astype(np.float64) / RI_SCALE).astype(np.uint16)
            item[at_z, at_y] = whole
            highest[at_y] = np.maximum(highest[at_y], whole.max(0))
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        file.create_dataset("Data/2DMIP/000000", data=highest, **compressed)
        size = {f"Size{axis}": np.int64(n) for axis, n in zip("ZYX", array.shape, strict=True)}
        steps = {f"Resolution{axis}": n for axis, n in zip("ZYX", volume.voxel_um, strict=True)}
        limits = {"RIMin": low, "RIMax": high}
        series = {"DataCount": np.int64(1), "TimeInterval": 0.0, **size, **steps, **limits}
        flat = {key: value for key, value in series.items() if not key.endswith("Z")}
        device = {"RI": volume.medium_index}
        if volume.wavelength_um is not None:
            device["Wavelength"] = volume.wavelength_um
        _set(file, FormatVersion="1.3", Title=title, CreateDate=now, RecordingTime=now, SoftwareVersion="hemolens")
        _set(file["Data/3D"], **series)
        _set(item, RecordingTime=now, Time=0.0, **limits)
        _set(file["Data/2DMIP"], **flat)
        _set(file["Data/2DMIP/000000"], RecordingTime=now, Time=0.0, **limits)
        _set(file.create_group("Info/Device"), **device)


def _set(owner: h5py.HLObject, **attributes: Any) -> None:
    for key, value in attributes.items():
        owner.attrs[key] = np.array([value.encode() if isinstance(value, str) else value])
