"""A lab's TCF files, whatever version of the instrument's software wrote them, go through predict as they are."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from .conftest import SMALL_SIMULATION, TINY, Run, call_command

LAYOUTS = ("integers_1_3", "floats_1_2", "unversioned", "nanometres", "tiles_of_uint16", "tiles_of_uint8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tomograms and a detector that was trained on them; for reading only."""
    folder = tmp_path_factory.mktemp("layouts")
    words = [
        *("data=tomograms", "data.root=tomograms", "data.class_names=[RBC,PLT,WBC,ARBC]", "data.batch_size=1"),
        *("trainer.max_epochs=1", "trainer.precision=32-true", "trainer.enable_progress_bar=false"),
        *("hydra.run.dir=run", *TINY),
    ]
    for command in (["simulate", "output=tomograms", *SMALL_SIMULATION], ["train", *words]):
        done = call_command(*command, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def rewrite(source: Path, target: Path, layout: str) -> None:
    """The same tomogram as another version of the software lays it out; see the sources named in io.volumes.tcf."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        new.attrs["FormatVersion"] = np.array([b"1.2" if layout == "floats_1_2" else b"1.3"])
        if layout == "unversioned":
            del new.attrs["FormatVersion"]
        device = new.create_group("Info/Device")
        for key, value in old["Info/Device"].attrs.items():
            device.attrs[key] = value
        if layout == "nanometres":
            device.attrs["Wavelength"] = 1000 * device.attrs["Wavelength"]
        group = new.create_group("Data/3D")
        for key, value in old["Data/3D"].attrs.items():
            group.attrs[key] = value
        whole = old["Data/3D/000000"][:]
        if not layout.startswith("tiles"):
            group["000000"] = (whole / 1e4).astype(np.float32) if layout == "floats_1_2" else whole
            return
        small = layout.endswith("uint8")
        group.attrs["RIMin"] = np.array([1.3])
        for axis, size in zip("ZYX", whole.shape, strict=True):
            group.attrs[f"Size{axis}"] = np.array([size])
        point = group.create_group("000000")
        point.attrs["ScalarType"] = np.array([small])
        values = np.rint((whole / 1e4 - 1.3) * 1e3).astype(np.uint8) if small else whole
        middle = whole.shape[2] // 2
        for number, (start, stop) in enumerate([(0, middle), (middle, whole.shape[2])]):
            tile = point.create_dataset(f"TILE_{number:03d}", data=values[:, :, start:stop])
            tile.attrs["SamplingStep"] = np.array([1])
            for axis, first, last in (("Z", 0, whole.shape[0]), ("Y", 0, whole.shape[1]), ("X", start, stop)):
                tile.attrs[f"DataIndexOffsetPoint{axis}"] = np.array([first])
                tile.attrs[f"DataIndexLastPoint{axis}"] = np.array([last - 1])


def test_every_layout_is_measured_without_a_flag(trained: Path, hemolens: Run, tmp_path: Path) -> None:
    source = min((trained / "tomograms" / "volumes").iterdir())
    (tmp_path / "lab").mkdir()
    for layout in LAYOUTS:
        rewrite(source, tmp_path / "lab" / f"{layout}.TCF", layout)
    checkpoint = trained / "run" / "checkpoints" / "best.ckpt"
    words = ["pipeline=hematology", f"ckpt_path={checkpoint}", "input=lab", "output=found"]
    # the detector was trained for three steps: a few of its many guesses are enough, quickly measured
    quick = ["score_threshold=0.001", "max_detections=12"]
    done = hemolens("predict", *words, *quick)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = pd.read_csv(tmp_path / "found" / "cells.csv")
    files = {file: rows.reset_index(drop=True) for file, rows in cells.groupby("file")}
    assert set(files) == {f"{layout}.TCF" for layout in LAYOUTS}
    expected = files.pop("integers_1_3.TCF")
    assert len(expected) >= 5
    rounded = files.pop("tiles_of_uint8.TCF")  # steps of 0.001 move an untrained detector's boxes
    assert len(rounded) > 0
    for rows in files.values():
        assert rows["class"].tolist() == expected["class"].tolist()
        for column in ("x0", "y0", "x1", "y1", "cv_fl", "ch_pg"):
            np.testing.assert_allclose(rows[column], expected[column], rtol=2e-3, atol=0.05)
