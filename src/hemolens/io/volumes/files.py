"""One way to open a volume file, and one to write it. Each format's library is imported when it is needed."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path
from hemolens.io.volumes.volume import HDF5_SUFFIXES, RI_SCALE, TCF_SUFFIXES, TIFF_SUFFIXES, Found, RIArray, Volume

NUMPY_SUFFIXES = (".npy",)
ZARR_SUFFIXES = (".zarr",)
VOLUME_SUFFIXES = (*TCF_SUFFIXES, *HDF5_SUFFIXES[:-1], *TIFF_SUFFIXES, *ZARR_SUFFIXES, *NUMPY_SUFFIXES)


def is_volume(path: str | Path) -> bool:
    """Whether the suffix of ``path`` is one that :func:`open_volume` reads (upper case counts too)."""
    return Path(path).suffix.lower() in VOLUME_SUFFIXES


def open_volume(
    path: str | Path,
    *,
    time_point: int = 0,
    dataset: str | None = None,
    voxel_um: tuple[float, float, float] | None = None,
    medium_index: float | None = None,
    wavelength_um: float | None = None,
    ri_scale: float | None = None,
) -> Volume:
    """Open a refractive-index tomogram without reading it.

    TCF in all its layouts, HDF5, OME-TIFF and TIFF stacks, OME-NGFF and plain Zarr, NumPy. Floats are taken as RI,
    uint16 as RI x 10,000 (Tomocube's convention). Values are checked as they are read: what is not a number or outside
    1 to 2 is an error.

    Args:
        path: file, or Zarr folder.
        time_point: index into a time series.
        dataset: path of the volume inside an HDF5 file that is no TCF.
        voxel_um: (z, y, x) in um instead of what the file says.
        medium_index: RI of the medium instead of what the file says.
        wavelength_um: vacuum wavelength in um instead of what the file says.
        ri_scale: RI of one stored unit, for files with another convention.

    Returns:
        The volume; its ``array`` [Z, Y, X] reads float32 RI when indexed. Close it, or use it in a ``with``.

    Raises:
        UserError: missing, foreign or damaged file; no voxel size or medium in the file nor given here.
    """
    path = Path(path)
    found = _read(path, time_point, dataset)
    try:
        step = voxel_um or found.voxel_um
        if step is None:
            raise UserError(f"{path} does not state its voxel size: give voxel_um=[z, y, x] in micrometres")
        if len(step) != 3 or not all(np.isfinite(v) and v > 0 for v in step):
            raise UserError(f"{path}: voxel_um {list(step)} must be three positive lengths [z, y, x] in micrometres")
        medium = found.medium_index if medium_index is None else medium_index
        if medium is None:
            raise UserError(
                f"{path} does not state the medium's refractive index: give medium_index, e.g. 1.337 for PBS"
            )
        if not 1.0 <= medium <= 2.0:
            raise UserError(f"{path}: medium_index {medium} is no refractive index of a medium: give medium_index")
        array = RIArray(
            found.source,
            str(path),
            scale=_scale(path, found, ri_scale),
            offset=found.offset if ri_scale is None else 0.0,
            chunks=found.chunks,
        )
    except BaseException:
        found.close()
        raise
    return Volume(
        array=array,
        voxel_um=(float(step[0]), float(step[1]), float(step[2])),
        medium_index=float(medium),
        wavelength_um=found.wavelength_um if wavelength_um is None else wavelength_um,
        path=path,
        time_point=time_point,
        time_points=found.time_points,
        close=found.close,
    )


def _read(path: Path, time_point: int, dataset: str | None) -> Found:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    suffix = path.suffix.lower()
    if suffix in HDF5_SUFFIXES:
        from hemolens.io.volumes.tcf import read_hdf5

        return read_hdf5(path, time_point, dataset)
    if suffix in TIFF_SUFFIXES:
        from hemolens.io.volumes.tiff import read_tiff

        return read_tiff(path, time_point)
    if suffix in ZARR_SUFFIXES or (
        path.is_dir() and any((path / n).exists() for n in (".zarray", ".zgroup", "zarr.json"))
    ):
        from hemolens.io.volumes.zarr_store import read_zarr

        return read_zarr(path, time_point)
    if suffix in NUMPY_SUFFIXES:
        return _read_numpy(path)
    raise UserError(f"{path}: volumes are read from files ending in {', '.join(VOLUME_SUFFIXES)}")


def _read_numpy(path: Path) -> Found:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a NumPy file, or is truncated: {error}", exit_code=1) from error
    if array.ndim != 3 or not array.size:
        raise UserError(f"{path} has the shape {list(array.shape)}; a volume is [Z, Y, X]")
    return Found(source=array)


def _scale(path: Path, found: Found, ri_scale: float | None) -> float:
    """RI of one stored unit."""
    if ri_scale is not None:
        if not ri_scale > 0:
            raise UserError(f"ri_scale={ri_scale}: the RI of one stored unit is positive")
        return ri_scale
    if found.scale is not None:
        return found.scale
    dtype = np.dtype(found.source.dtype)
    if np.issubdtype(dtype, np.floating):
        return 1.0
    if dtype in (np.dtype(np.uint16), np.dtype(np.int16)):
        return RI_SCALE
    raise UserError(f"{path} stores {dtype}: give ri_scale, the RI of one stored unit")


def write_volume(
    path: str | Path,
    array: ArrayLike | RIArray | Volume,
    *,
    voxel_um: tuple[float, float, float] | None = None,
    medium_index: float | None = None,
    wavelength_um: float | None = None,
    title: str = "",
    overwrite: bool = False,
) -> None:
    """Write a refractive-index volume, block by block, so that a lazy one is never held whole.

    ``.tcf``, ``.h5``: TCF layout, uint16 = RI x 10,000 (rounded to it). ``.ome.tif``, ``.zarr`` (OME-NGFF 0.4):
    float32, exact. The file appears under its name when it is whole.

    Args:
        path: the suffix chooses the format.
        array: RI [Z, Y, X], or an open volume, whose facts are the defaults of the next three.
        voxel_um: (z, y, x) in um.
        medium_index: RI of the medium.
        wavelength_um: vacuum wavelength in um, if known.
        title: name of the image; default: that of the file.
        overwrite: replace an existing file.

    Raises:
        UserError: unknown suffix, the file exists, impossible RI, missing facts, or no space.
    """
    path = Path(path)
    if isinstance(array, Volume):
        voxel_um, medium_index = voxel_um or array.voxel_um, medium_index or array.medium_index
        wavelength_um, array = wavelength_um or array.wavelength_um, array.array
    if not isinstance(array, RIArray):
        array = RIArray(np.asarray(array), str(path))
    if voxel_um is None or medium_index is None:
        raise UserError(f"{path}: a volume is written with voxel_um and medium_index")
    if len(array.shape) != 3 or not all(array.shape):
        raise UserError(f"{path}: shape {list(array.shape)}; a volume is [Z, Y, X]")
    volume = Volume(array=array, voxel_um=voxel_um, medium_index=medium_index, wavelength_um=wavelength_um, path=path)
    title = title or path.name.split(".")[0]
    suffix = path.suffix.lower()
    if suffix in ZARR_SUFFIXES:
        from hemolens.io.volumes.zarr_store import write_zarr

        _in_place_of(path, lambda temporary: write_zarr(temporary, volume, title), overwrite)
        return
    if suffix not in HDF5_SUFFIXES and suffix not in TIFF_SUFFIXES:
        raise UserError(f"{path}: volumes are written to .tcf, .h5, .ome.tif or .zarr")
    write: Callable[[Path, Volume, str], None]
    if suffix in HDF5_SUFFIXES:
        from hemolens.io.volumes.tcf import write_tcf as write
    else:
        from hemolens.io.volumes.tiff import write_ome_tiff as write
    with atomic_path(path, overwrite=overwrite) as temporary:
        write(temporary, volume, title)


def _in_place_of(path: Path, write: Callable[[Path], None], overwrite: bool) -> None:
    """Write a folder under a temporary name and move it into place."""
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: choose another name or remove it first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.stem[:40]}-"))
        try:
            write(temporary / "store")
            if path.exists():
                shutil.rmtree(path)
            (temporary / "store").rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}", exit_code=1) from error
