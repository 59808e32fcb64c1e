"""The projection of a compressed tomogram, against decompressing it once; and the projection from the cache."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Comparison, Options, Side
from hemolens.data.planes import map_planes, planes_of, planes_to_arrays
from hemolens.data.simulation.truth import save_arrays
from hemolens.io.volumes import open_volume, project_volume


def comparisons(options: Options) -> Iterator[Comparison]:
    """A TCF of 1444×1444×64 voxels, gzip 4 in the chunks that HDF5 chooses itself."""
    depth, side = (16, 128) if options.quick else (64, 1444)
    with tempfile.TemporaryDirectory() as folder:
        path, cached = Path(folder) / "tomogram.tcf", Path(folder) / "cached.npz"
        chunks = write(path, depth, side)

        def first() -> NDArray[np.float32]:
            with open_volume(path) as volume:
                return project_volume(volume)["maximum"]

        def decompress() -> NDArray[np.float32]:
            with h5py.File(path) as file:
                return (file["Data/3D/000000"][...].max(0) * 1e-4).astype(np.float32)

        def again() -> NDArray[np.float32]:
            return map_planes(cached).values("maximum")

        with open_volume(path) as volume:
            save_arrays(cached, planes_to_arrays(planes_of(volume)))
        work = {"voxels": f"{depth}×{side}×{side}", "chunks": chunks, "compression": "gzip 4, uint16"}
        yield Comparison(
            "first",
            Side("project_volume", {"holds": "one row of chunks"}, first),
            Side("h5py, whole volume", {"holds": "the volume"}, decompress),
            same,
            "equal to 1e-6",
            target=1 / 1.3,
            work=work,
        )
        yield Comparison(
            "cached",
            Side("cached plane", {"stored as": "uint16"}, again),
            Side("h5py, whole volume", {"holds": "the volume"}, decompress),
            same,
            "equal to 1e-6",
            target=500.0,
            work=work,
        )


def write(path: Path, depth: int, side: int) -> tuple[int, ...]:
    """A made-up tomogram: medium, noise and some bright blobs; returns its chunks."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["FormatVersion"] = np.array([b"1.3"])
        group = file.create_group("Data/3D")
        item = group.create_dataset(
            "000000", (depth, side, side), np.uint16, chunks=True, compression="gzip", compression_opts=4
        )
        for name, value in {"ResolutionX": 0.162, "ResolutionY": 0.162, "ResolutionZ": 0.731}.items():
            group.attrs[name] = np.array([value])
        file.create_group("Info/Device").attrs["RI"] = np.array([1.337])
        volume = rng.normal(13370, 5, (depth, side, side)).astype(np.uint16)
        for _ in range(90):
            z, y, x = (int(rng.integers(0, max(1, n - 40))) for n in (depth + 30, side, side))
            block = volume[z : z + 8, y : y + 40, x : x + 40]
        np.maximum(block, 13770, out=block)
        item[...] = volume
        return tuple(item.chunks)


def same(ours: NDArray[np.float32], peer: NDArray[np.float32]) -> dict[str, float]:
    """Largest difference in RI."""
    difference = float(np.abs(ours - peer).max())
    assert difference <= 1e-6, f"projections differ by {difference:.2g}"
    return {"largest difference": difference}
