"""Projections of volumes against numpy on the whole array."""

import math
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from hemolens.errors import UserError
from hemolens.io.volumes import open_volume, write_volume
from hemolens.io.volumes.projections import project_volume


def cell(shape: tuple[int, int, int] = (12, 50, 40)) -> np.ndarray:
    """A ball of RI 1.40 around slice 7 in a medium of 1.337, on the grid of 1e-4."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    inside = ((z - 7) / 4) ** 2 + ((y - 25) / 12) ** 2 + ((x - 20) / 11) ** 2 < 1
    ri = np.where(inside, 1.4, 1.337) + np.random.default_rng(0).normal(0, 3e-4, shape)
    return np.round(ri, 4).astype(np.float32)


@pytest.mark.parametrize("name", ["a.tcf", "a.zarr", "a.ome.tif"])
def test_projections_equal_numpy(tmp_path: Path, name: str) -> None:
    ri = cell()
    write_volume(tmp_path / name, ri, voxel_um=(0.7, 0.2, 0.2), medium_index=1.337, wavelength_um=0.5)
    with open_volume(tmp_path / name) as volume:
        made = project_volume(volume, ("maximum", "mean", "phase", "focus"), focus_slices=3)
    np.testing.assert_allclose(made["maximum"], ri.max(0), atol=1e-7)
    np.testing.assert_allclose(made["mean"], ri.mean(0, dtype=float), atol=1e-6)
    phase = (ri.astype(float) - 1.337).sum(0) * 0.7 * 2 * math.pi / 0.5
    np.testing.assert_allclose(made["phase"], phase, atol=1e-4)
    assert made["phase"].max() == pytest.approx(2 * math.pi / 0.5 * 0.063 * 0.7 * 7, rel=0.05)  # 7 slices of the ball
    np.testing.assert_allclose(made["focus"], ri[6:9], atol=1e-7)
    assert all(picture.dtype == np.float32 for picture in made.values())


def test_focus_stays_inside_the_stack(tmp_path: Path) -> None:
    ri = cell()
    write_volume(tmp_path / "a.zarr", ri, voxel_um=(1, 1, 1), medium_index=1.337)
    with open_volume(tmp_path / "a.zarr") as volume:
        np.testing.assert_array_equal(project_volume(volume, ["focus"], focus_slices=12)["focus"], ri)
        np.testing.assert_array_equal(project_volume(volume, ["focus"], focus_slices=11)["focus"], ri[1:])
        with pytest.raises(UserError, match="12 slices"):
            project_volume(volume, ["focus"], focus_slices=13)
        with pytest.raises(UserError, match="give wavelength_um"):
            project_volume(volume, ["phase"])
        with pytest.raises(UserError, match="unknown projection sum"):
            project_volume(volume, ["sum"])


def test_a_projection_holds_one_row_of_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ri = np.full((64, 512, 512), 13370, np.uint16)
    ri[40, 100, 200] = 13999
    with h5py.File(tmp_path / "a.h5", "w") as file:  # chunks deep in z, as h5py chooses them by itself
        item = file.create_dataset("ri", data=ri, chunks=(64, 32, 64), compression="gzip", compression_opts=1)
        item.attrs["voxel_um"], item.attrs["medium_index"] = (0.7, 0.2, 0.2), 1.337
    monkeypatch.setattr("hemolens.io.volumes.volume.BLOCK_BYTES", 2**20)
    tracemalloc.start()
    try:
        with open_volume(tmp_path / "a.h5") as volume:
            made = project_volume(volume, ("maximum", "mean"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made["maximum"].max() == made["maximum"][100, 200] == pytest.approx(1.3999)
    row = 64 * 32 * 512 * 2
    assert peak < 4 * row + 4 * 512 * 512 * 8  # a row of chunks, and pictures; the whole volume would be 16 rows
