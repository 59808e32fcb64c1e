"""`hemolens check` as a user runs it."""

import json
from pathlib import Path

import numpy as np

from hemolens.io.phase import PhaseImage, write_phase

from .conftest import Run

BEAD = ["diameter_um=5", "refractive_index=1.43", "medium_index=1.334"]


def test_beads_with_a_damaged_file_among_them(hemolens: Run, tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64] * 0.2 - 6.3
    path_um = 0.096 * 2 * np.sqrt(np.maximum(2.5**2 - y**2 - x**2, 0))
    for number in range(4):
        phase = 2 * np.pi / 0.633 * path_um + np.random.default_rng(number).normal(0, 0.03, y.shape)
        image = PhaseImage(phase.astype(np.float32), pixel_um=0.206, wavelength_um=0.633)
        write_phase(tmp_path / "in" / f"bead{number}.ome.tif", image)
    done = hemolens("check", "kind=bead", "input=in", "output=out", *BEAD, "n_baseline=3", "refraction=false")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 beads in 4 files" in done.stdout
    assert "set: hologram.pixel_um=0.199" in done.stdout
    facts = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert facts["verdict"] == done.stdout.strip().splitlines()[-1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("beads.csv", "calibration.json", "drift.png", "fits.png")
    ]
    again = hemolens("check", "kind=bead", "input=in", "output=out", *BEAD)
    assert again.returncode == 2
    assert "exists and is not empty" in again.stderr
    cut = tmp_path / "in" / "bead1.ome.tif"
    cut.write_bytes(cut.read_bytes()[:900])
    partly = hemolens("check", "kind=bead", "input=in", "output=partly", *BEAD, "refraction=false")
    assert partly.returncode == 1
    assert "left out: in/bead1.ome.tif" in partly.stdout
    assert "left out: 1; the first: in/bead1.ome.tif" in partly.stderr
    assert "3 beads in 3 files" in partly.stdout


def test_slips_are_named(hemolens: Run, tmp_path: Path) -> None:
    for words, message in (
        (["kind=bed"], "choose from bead, repeatability"),
        (["kind=bead"], "diameter_um=None: kind=bead needs it"),
        (["kind=bead", *BEAD, "diametre_um=5"], "did you mean diameter_um"),
        (["kind=repeatability"], "input=nowhere"),
    ):
        done = hemolens("check", "input=nowhere", "output=out", *words)
        assert done.returncode == 2, done.stdout + done.stderr
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    shown = hemolens("check", "--help")
    assert shown.returncode == 0
    assert all(word in shown.stdout for word in ("diameter_um", "n_baseline", "kind=repeatability"))
    assert not (tmp_path / "out").exists()
