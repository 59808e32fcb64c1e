"""A refractive-index volume that is read when it is indexed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from hemolens.errors import UserError

#: Refractive indices that matter can have; values outside mean a wrong scale or a broken file.
RI_RANGE = (1.0, 2.0)
#: RI of one stored unit where 16-bit integers hold RI (Tomocube's convention).
RI_SCALE = 1e-4
TCF_SUFFIXES = (".tcf",)
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", *TCF_SUFFIXES)
TIFF_SUFFIXES = (".tif", ".tiff")
#: What one read of :meth:`RIArray.blocks` holds at most, unless one row of chunks is larger.
BLOCK_BYTES = 16 * 2**20


class ArraySource(Protocol):
    """What a reader hands over: stored numbers [Z, Y, X], read by slices."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(Z, Y, X)."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of the stored numbers."""
        ...

    def __getitem__(self, index: Any) -> Any: ...


class RIArray:
    """Refractive index [Z, Y, X], float32, dimensionless: ``stored * scale + offset``, read when indexed.

    Takes integers, slices and an ellipsis, as numpy does; ``numpy.asarray`` reads everything.

    Args:
        source: stored numbers, e.g. an HDF5 dataset.
        name: file, for error messages.
        scale, offset: from stored numbers to RI.
        chunks: shape of what is decompressed together; None where any slice costs the same.
    """

    ndim = 3
    dtype = np.dtype(np.float32)

    def __init__(
        self,
        source: ArraySource,
        name: str,
        *,
        scale: float = 1.0,
        offset: float = 0.0,
        chunks: tuple[int, ...] | None = None,
    ) -> None:
        self.source, self.name, self.scale, self.offset = source, name, scale, offset
        self.shape: tuple[int, int, int] = tuple(int(n) for n in source.shape)  # type: ignore[assignment]
        self.chunks = tuple(int(n) for n in chunks) if chunks else (1, *self.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        stored, dropped = self._read(index)
        return np.squeeze(self.to_ri(stored), axis=dropped)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def to_ri(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Stored numbers as RI, float32.

        Raises:
            UserError: a value is not a number or no possible RI.
        """
        self.check(stored)
        if self.scale == 1.0 and self.offset == 0.0:
            return np.asarray(stored, np.float32)
        # in float64, so that RI -> stored -> RI repeats exactly
        return (stored.astype(np.float64) * self.scale + self.offset).astype(np.float32)

    def check(self, stored: NDArray[Any]) -> tuple[float, ...]:
        """Lowest and highest RI of stored numbers (nothing of none); refuses impossible ones, see :meth:`to_ri`."""
        if not stored.size:
            return ()
        low, high = (float(value) * self.scale + self.offset for value in (stored.min(), stored.max()))
        if not (RI_RANGE[0] <= low and high <= RI_RANGE[1]):  # true for NaN too
            raise UserError(
                f"{self.name}: refractive index from {low:.4g} to {high:.4g}, expected {RI_RANGE[0]} to {RI_RANGE[1]}: "
                "the file is damaged, or its numbers have another scale: give ri_scale, the RI of one stored unit",
                exit_code=1,
            )
        return low, high

    def loaded(self) -> "RIArray":
        """The same array in memory: itself where it is, else read in one go, since chunks of a file are read whole."""
        if isinstance(self.source, np.ndarray):
            return self
        stored = self._stored((slice(None), slice(None), slice(None)))
        return RIArray(stored, self.name, scale=self.scale, offset=self.offset)

    def blocks(self) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
        """Stored numbers in blocks that follow the chunks, each chunk read once.

        Yields:
            z slice, y slice and the stored numbers [z, y, X]: whole slices where they are small, else one row of
            chunks, so that auto-chunked HDF5 is not decompressed once a slice.
        """
        depth, height, width = self.shape
        step_z = min(self.chunks[0], depth)
        row = step_z * width * np.dtype(self.source.dtype).itemsize
        rows = max(1, min(BLOCK_BYTES // max(1, row * self.chunks[1]), -(-height // self.chunks[1])))
        step_y = rows * self.chunks[1]
        for z in range(0, depth, step_z):
            for y in range(0, height, step_y):
                at_z, at_y = slice(z, min(z + step_z, depth)), slice(y, min(y + step_y, height))
                yield at_z, at_y, self._stored((at_z, at_y, slice(0, width)))

    def _stored(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        try:
            return np.ascontiguousarray(self.source[index])  # crops of arrays too: all that follows is faster
        except UserError:
            raise
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise UserError(
                f"{self.name}: cannot read the volume, the file is damaged: {error}", exit_code=1
            ) from error

    def _read(self, index: Any) -> tuple[NDArray[Any], tuple[int, ...]]:
        """Stored numbers with all three axes, and the axes that integers drop."""
        items = list(index) if isinstance(index, tuple) else [index]
        if any(item is Ellipsis for item in items):
            at = next(i for i, item in enumerate(items) if item is Ellipsis)
            items[at : at + 1] = [slice(None)] * (4 - len(items))
        items += [slice(None)] * (3 - len(items))
        if len(items) != 3:
            raise IndexError(f"{len(items)} indices for a volume [Z, Y, X]")
        slices, flips, dropped = [], [], []
        for axis, (item, size) in enumerate(zip(items, self.shape, strict=True)):
            if isinstance(item, slice):
                chosen = range(*item.indices(size))
                flips.append(slice(None, None, -1 if chosen.step < 0 else 1))
                up = chosen if chosen.step > 0 else chosen[::-1]
                slices.append(slice(up.start, up.stop, up.step) if len(up) else slice(0, 0))
            else:
                start = range(size)[int(item)]  # IndexError outside
                slices.append(slice(start, start + 1))
                flips.append(slice(None))
                dropped.append(axis)
        return self._stored((slices[0], slices[1], slices[2]))[tuple(flips)], tuple(dropped)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A refractive-index tomogram and what its numbers need to mean something.

    Attributes:
        array: RI [Z, Y, X], read when indexed.
        voxel_um: (z, y, x) in um.
        medium_index: RI of the medium, dimensionless.
        wavelength_um: vacuum wavelength in um; None where the file does not say.
        path: where it came from.
        time_point: which of the file's ``time_points`` it is.
    """

    array: RIArray
    voxel_um: tuple[float, float, float]
    medium_index: float
    wavelength_um: float | None
    path: Path
    time_point: int = 0
    time_points: int = 1
    close: Callable[[], None] = lambda: None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return self.array.shape

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a reader found in a file; None where the file does not say."""

    source: ArraySource
    voxel_um: tuple[float, ...] | None = None
    medium_index: float | None = None
    wavelength_um: float | None = None
    scale: float | None = None  # None: floats are RI, 16-bit integers RI·1e4
    offset: float = 0.0
    chunks: tuple[int, ...] | None = None
    time_points: int = 1
    close: Callable[[], None] = lambda: None
