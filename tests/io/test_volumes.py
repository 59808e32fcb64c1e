"""Volume files: every layout of TCF, plain HDF5, TIFF, Zarr and NumPy; what is written reads back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import tifffile
import zarr

from hemolens.errors import UserError
from hemolens.io.volumes import RIArray, is_volume, open_volume, write_volume

FACTS: dict[str, Any] = {"voxel_um": (0.731, 0.162, 0.163), "medium_index": 1.337, "wavelength_um": 0.45}


@pytest.fixture
def ri() -> np.ndarray:
    """RI [Z, Y, X] on the grid of 1e-4, so that every format keeps it."""
    whole = np.random.default_rng(0).integers(13300, 13900, (5, 37, 41))
    return (whole * 1e-4).astype(np.float32)


def tcf(
    path: Path,
    points: list[np.ndarray],
    version: str | None = "1.3",
    data: dict[str, Any] | None = None,
    device: dict[str, Any] | None = None,
) -> Path:
    """A TCF as the instrument writes it: attributes are arrays of length 1."""
    with h5py.File(path, "w") as file:
        if version is not None:
            file.attrs["FormatVersion"] = np.array([version.encode()])
        group = file.create_group("Data/3D")
        for index, values in enumerate(points):
            group.create_dataset(f"{index:06d}", data=values, chunks=(2, 16, 16), compression="gzip")
        steps = {"ResolutionX": 0.163, "ResolutionY": 0.162, "ResolutionZ": 0.731}
        for key, value in (steps | (data or {})).items():
            group.attrs[key] = np.array([value])
        owner = file.create_group("Info/Device")
        for key, value in ({"RI": 1.337, "Wavelength": 0.45} | (device or {})).items():
            owner.attrs[key] = np.array([value])
    return path


def stored(ri: np.ndarray) -> np.ndarray:
    return np.rint(ri.astype(float) * 1e4).astype(np.uint16)


def check(path: Path, ri: np.ndarray, **options: Any) -> None:
    with open_volume(path, **options) as volume:
        np.testing.assert_array_equal(volume.array[:], ri)
        assert volume.array[:].dtype == np.float32
        assert volume.voxel_um == pytest.approx(FACTS["voxel_um"])
        assert volume.medium_index == 1.337
        assert volume.wavelength_um == pytest.approx(0.45)


@pytest.mark.parametrize("version", ["1.2", "1.0.5", None])
def test_tcf_of_floats(tmp_path: Path, ri: np.ndarray, version: str | None) -> None:
    check(tcf(tmp_path / "a.TCF", [ri], version), ri)


@pytest.mark.parametrize("version", ["1.3", "1.10", "2.0.0", None])  # "1.10" is older than "1.3" as a string
def test_tcf_of_integers(tmp_path: Path, ri: np.ndarray, version: str | None) -> None:
    check(tcf(tmp_path / "a.tcf", [stored(ri)], version), ri)


def test_tcf_behind_a_filter_plugin(tmp_path: Path, ri: np.ndarray) -> None:
    path = tcf(tmp_path / "a.tcf", [])
    with h5py.File(path, "a") as file:
        file.create_dataset("Data/3D/000000", data=stored(ri), compression=hdf5plugin.Blosc2())
    check(path, ri)


def test_tcf_with_nanometres_and_several_time_points(tmp_path: Path, ri: np.ndarray) -> None:
    path = tcf(tmp_path / "a.tcf", [stored(ri), stored(ri + 0.01)], device={"Wavelength": 450.0})
    check(path, ri)
    with open_volume(path, time_point=1) as volume:
        assert volume.time_points == 2
        np.testing.assert_allclose(volume.array[:], ri + 0.01, atol=1e-6)
    with pytest.raises(UserError, match="time_point=2, but the file has 0 to 1"):
        open_volume(path, time_point=2)


def tiled(path: Path, ri: np.ndarray, *, small: bool, lowest: float, hole: bool = False) -> Path:
    """Four tiles and a coarse one; the tiles' data sets are larger than what they cover."""
    tcf(path, [], data={"SizeZ": 5, "SizeY": 37, "SizeX": 41, "RIMin": lowest})
    floor = lowest / 1e4 if lowest > 100 else lowest
    whole = np.rint((ri - floor) * 1e3).astype(np.uint8) if small else stored(ri)
    with h5py.File(path, "a") as file:
        group = file.create_group("Data/3D/000000")
        group.attrs["ScalarType"] = np.array([small])
        for number, (y, x) in enumerate([(0, 0), (0, 20), (20, 0), (20, 20)]):
            bottom, right = min(y + 20, 37), (x + 20 if x == 0 else 41)
            part = np.pad(whole[:, y:bottom, x:right], ((0, 0), (0, 3), (0, 2)))
            tile = group.create_dataset(f"TILE_{number:03d}", data=part)
            tile.attrs["SamplingStep"] = np.array([1])
            for axis, start, stop in (("Z", 0, 5), ("Y", y, bottom), ("X", x, right)):
                tile.attrs[f"DataIndexOffsetPoint{axis}"] = np.array([start])
                tile.attrs[f"DataIndexLastPoint{axis}"] = np.array([stop - 1])
        coarse = group.create_dataset("TILE_004", data=whole[:, ::2, ::2])
        coarse.attrs["SamplingStep"] = np.array([2])
        if hole:
            del group["TILE_002"]
    return path


def test_tcf_of_tiles(tmp_path: Path, ri: np.ndarray) -> None:
    path = tiled(tmp_path / "a.tcf", ri, small=False, lowest=1.33)
    check(path, ri)
    with open_volume(path) as volume:
        np.testing.assert_array_equal(volume.array[1:4, 18:23, 39], ri[1:4, 18:23, 39])
        np.testing.assert_array_equal(volume.array[-1, ::3, ::-7], ri[-1, ::3, ::-7])


@pytest.mark.parametrize("lowest", [1.3, 13000.0])
def test_tcf_of_small_tiles_counts_from_its_lowest_index(tmp_path: Path, ri: np.ndarray, lowest: float) -> None:
    rounded = np.round(ri, 3)
    with open_volume(tiled(tmp_path / "a.tcf", rounded, small=True, lowest=lowest)) as volume:
        np.testing.assert_allclose(volume.array[:], rounded, atol=2e-6)


def test_tcf_with_a_missing_tile(tmp_path: Path, ri: np.ndarray) -> None:
    with open_volume(tiled(tmp_path / "a.tcf", ri, small=False, lowest=1.33, hole=True)) as volume:
        np.testing.assert_array_equal(volume.array[:, :20], ri[:, :20])
        with pytest.raises(UserError, match="the tiles leave part of the volume empty"):
            volume.array[:]


@pytest.mark.parametrize("name", ["a.tcf", "a.h5", "a.ome.tif", "a.zarr"])
def test_what_is_written_reads_back(tmp_path: Path, ri: np.ndarray, name: str) -> None:
    write_volume(tmp_path / name, ri, **FACTS)
    check(tmp_path / name, ri)
    assert is_volume(tmp_path / name)
    with open_volume(tmp_path / name) as volume:
        write_volume(tmp_path / f"copy-{name}", volume)  # facts and all
    check(tmp_path / f"copy-{name}", ri)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, f"copy-{name}"])  # nothing temporary
    with pytest.raises(UserError, match="exists: choose another name"):
        write_volume(tmp_path / name, ri, **FACTS)
    write_volume(tmp_path / name, np.round(ri, 2), overwrite=True, **FACTS)
    check(tmp_path / name, np.round(ri, 2))


@pytest.mark.parametrize("name", ["a.tcf", "a.ome.tif", "a.zarr"])
def test_a_failed_write_leaves_nothing(tmp_path: Path, ri: np.ndarray, name: str) -> None:
    ri[3, 4, 5] = np.nan
    with pytest.raises(UserError, match="refractive index from nan"):
        write_volume(tmp_path / name, ri, **FACTS)
    assert not list(tmp_path.iterdir())


def test_written_tcf_has_the_instruments_attributes(tmp_path: Path, ri: np.ndarray) -> None:
    write_volume(tmp_path / "a.tcf", ri, **FACTS)
    with h5py.File(tmp_path / "a.tcf") as file:
        assert file.attrs["FormatVersion"][0] == b"1.3"
        data = file["Data/3D"].attrs
        assert [int(data[f"Size{axis}"][0]) for axis in "ZYX"] == [5, 37, 41]
        assert data["DataCount"].shape == (1,)
        assert float(data["RIMax"][0]) == pytest.approx(ri.max())
        assert file["Data/3D/000000"].dtype == np.uint16
        np.testing.assert_array_equal(file["Data/2DMIP/000000"][()], stored(ri).max(0))


def test_written_ome_tiff_is_one_for_other_readers(tmp_path: Path, ri: np.ndarray) -> None:
    write_volume(tmp_path / "a.ome.tif", ri, **FACTS)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert file.is_ome
        assert file.series[0].axes == "ZYX"
        assert 'PhysicalSizeZ="0.731"' in str(file.ome_metadata)
        assert 'RefractiveIndex="1.337"' in str(file.ome_metadata)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.ome.tif"), ri)


def test_plain_hdf5(tmp_path: Path, ri: np.ndarray) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["flat"] = ri[0]
        item = file.create_dataset("vol/ri", data=ri)
        item.attrs["element_size_um"] = FACTS["voxel_um"]
        file.attrs["medium_index"], file.attrs["wavelength_um"] = 1.337, 0.45
    check(tmp_path / "a.h5", ri)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["other"] = ri
    with pytest.raises(UserError, match=r"several: other, vol/ri: give dataset"):
        open_volume(tmp_path / "a.h5")
    check(tmp_path / "a.h5", ri, dataset="vol/ri")
    with pytest.raises(UserError, match="no dataset vol"):
        open_volume(tmp_path / "a.h5", dataset="vol")


def test_tiff_stacks(tmp_path: Path, ri: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "plain.tif", stored(ri), photometric="minisblack")
    check(tmp_path / "plain.tif", ri, **FACTS)
    series = np.stack([ri, np.round(ri, 2)])
    tifffile.imwrite(tmp_path / "series.tif", series, imagej=True, metadata={"axes": "TZYX"})
    check(tmp_path / "series.tif", np.round(ri, 2), time_point=1, **FACTS)
    step = {"spacing": 0.731, "unit": "um", "axes": "ZYX"}
    tifffile.imwrite(tmp_path / "ij.tif", ri, imagej=True, resolution=(1 / 0.163, 1 / 0.162), metadata=step)
    check(tmp_path / "ij.tif", ri, medium_index=1.337, wavelength_um=0.45)
    tifffile.imwrite(tmp_path / "colour.ome.tif", np.stack([ri, ri]), metadata={"axes": "CZYX"})
    with pytest.raises(UserError, match="one channel"):
        open_volume(tmp_path / "colour.ome.tif", **FACTS)


def test_zarr_arrays_and_images(tmp_path: Path, ri: np.ndarray) -> None:
    for version in (2, 3):
        plain = zarr.open_array(
            str(tmp_path / f"p{version}.zarr"), mode="w", shape=ri.shape, dtype="f4", zarr_format=version
        )
        plain[:] = ri
        plain.attrs.update({"voxel_um": list(FACTS["voxel_um"]), "medium_index": 1.337, "wavelength_um": 0.45})
        check(tmp_path / f"p{version}.zarr", ri)
    group = zarr.open_group(str(tmp_path / "image.zarr"), mode="w", zarr_format=3)
    group.create_array("0", shape=(2, 1, *ri.shape), dtype="u2")[1, 0] = stored(ri)
    units = [{"name": "t"}, {"name": "c"}] + [{"name": axis, "unit": "nanometer"} for axis in "zyx"]
    scale = [{"type": "scale", "scale": [1, 1, 731, 162, 163]}]
    level = {"path": "0", "coordinateTransformations": scale}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": units, "datasets": [level]}]}
    check(tmp_path / "image.zarr", ri, time_point=1, medium_index=1.337, wavelength_um=0.45)


def test_numpy_and_another_scale(tmp_path: Path, ri: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", ri)
    check(tmp_path / "a.npy", ri, **FACTS)
    np.save(tmp_path / "b.npy", np.full((2, 3, 4), 1337, np.int32))
    with pytest.raises(UserError, match="stores int32: give ri_scale"):
        open_volume(tmp_path / "b.npy", **FACTS)
    with open_volume(tmp_path / "b.npy", ri_scale=1e-3, **FACTS) as volume:
        assert volume.array[0, 0, 0] == pytest.approx(1.337)


def test_indexing_is_that_of_numpy(ri: np.ndarray) -> None:
    array = RIArray(ri, "ri")
    for index in (
        np.s_[2],
        np.s_[-1, ..., 3],
        np.s_[..., -2],
        np.s_[1:4, ::-5],
        np.s_[::2, 3, ::-1],
        np.s_[5:, :, :],
        np.s_[4, 36, 40],
    ):
        np.testing.assert_array_equal(array[index], ri[index])
    with pytest.raises(IndexError):
        array[5]
    np.testing.assert_array_equal(np.asarray(array), ri)


def test_blocks_read_each_chunk_once() -> None:
    class Counted:
        shape, dtype = (64, 600, 900), np.dtype(np.uint16)

        def __init__(self) -> None:
            self.reads: list[tuple[slice, ...]] = []

        def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
            self.reads.append(index)
            return np.full([s.stop - s.start for s in index], 13370, np.uint16)

    source = Counted()
    array = RIArray(source, "counted", scale=1e-4, chunks=(32, 75, 113))
    seen = np.zeros(source.shape, np.uint8)
    for z, y, values in array.blocks():
        assert values.shape[2] == 900
        seen[z, y] += 1
    assert (seen == 1).all()
    for z, y, _ in source.reads:  # along the chunks' borders
        assert z.start % 32 == 0
        assert y.start % 75 == 0


def _truncated(path: Path, ri: np.ndarray) -> Path:
    write_volume(path, np.tile(ri, (1, 8, 8)), **FACTS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _foreign(path: Path, ri: np.ndarray) -> Path:
    path.write_text("not a volume")
    return path


def _without_3d(path: Path, ri: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["Data/BF/000000"] = ri[0]
    return path


def _flat(path: Path, ri: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["Data/3D/000000"] = ri[0]
    return path


def _nan(path: Path, ri: np.ndarray) -> Path:
    ri[2, 3, 4] = np.nan
    return tcf(path, [ri], "1.2")


def _unscaled(path: Path, ri: np.ndarray) -> Path:
    return tcf(path, [ri * 1e4], "1.2")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.tcf", _truncated, "truncated|damaged"),
        ("a.ome.tif", _truncated, "truncated|damaged|axes"),
        ("a.tcf", _foreign, "not an HDF5 file"),
        ("a.tif", _foreign, "not a TIFF file"),
        ("a.npy", _foreign, "not a NumPy file"),
        ("a.tcf", _without_3d, "no /Data/3D"),
        ("a.tcf", _nan, "refractive index from nan to nan"),
        ("a.tcf", _unscaled, "give ri_scale"),
        ("a.tcf", lambda path, ri: tcf(path, []), "no time point"),
        ("a.tcf", lambda path, ri: tcf(path, [stored(ri)], "1.2"), "FormatVersion 1.2 stores floats"),
        ("a.tcf", _flat, r"a volume is \[Z, Y, X\]"),
        ("a.png", _foreign, "read from files ending in"),
        ("gone.tcf", lambda path, ri: path, "does not exist"),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path, ri: np.ndarray, name: str, make: Callable[[Path, np.ndarray], Path], message: str
) -> None:
    path = make(tmp_path / name, ri)
    with pytest.raises(UserError, match=message) as caught, open_volume(path) as volume:
        volume.array[:]
    assert str(path) in str(caught.value)


def test_missing_facts_name_the_override(tmp_path: Path, ri: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", ri)
    with pytest.raises(UserError, match=r"give voxel_um=\[z, y, x\] in micrometres"):
        open_volume(tmp_path / "a.npy")
    with pytest.raises(UserError, match="give medium_index"):
        open_volume(tmp_path / "a.npy", voxel_um=(1, 1, 1))
    with pytest.raises(UserError, match="three positive lengths"):
        open_volume(tmp_path / "a.npy", voxel_um=(1, 0, 1), medium_index=1.337)
    with pytest.raises(UserError, match=r"medium_index 1337"):
        open_volume(tmp_path / "a.npy", voxel_um=(1, 1, 1), medium_index=1337)
    with pytest.raises(UserError, match="written with voxel_um and medium_index"):
        write_volume(tmp_path / "b.tcf", ri)


def test_real_cell(shared_data: Path) -> None:
    with open_volume(shared_data / "ri_hl60" / "hl60_ri_tcf_layout.h5") as volume:
        assert volume.shape == (64, 68, 70)
        assert volume.voxel_um == pytest.approx((0.278, 0.278, 0.278))
        assert volume.medium_index == pytest.approx(1.335)
        ri = volume.array[:]
    voxel = 0.278**3
    assert (ri > 1.340).sum() * voxel == pytest.approx(1781, rel=0.005)  # um3, from the data's own description
    dry_mass = (ri - 1.335)[ri > 1.340].sum() * voxel / 0.19
    assert dry_mass == pytest.approx(150, rel=0.01)  # pg
