"""`hemolens simulate data=sim_holograms` and `hemolens reconstruct` as a user runs them."""

from pathlib import Path

import numpy as np

from hemolens.io.phase import read_phase

from .conftest import Run

SMALL = [
    *("data=sim_holograms", "data.field_px=[180,180]", "data.n_donors=1", "data.fields_per_sample=2", "workers=1"),
    *("data.defocus_um=[-1,1]", "data.holography.speckle=0.03"),
]


def test_simulated_holograms_are_reconstructed_without_flags(hemolens: Run, tmp_path: Path) -> None:
    done = hemolens("simulate", "output=holograms", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 holograms with references" in done.stdout
    again = hemolens("simulate", "output=holograms", *SMALL)
    assert again.returncode == 0, again.stderr
    done = hemolens("reconstruct", "input=holograms", "output=phases", "device=cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 phase images" in done.stdout
    for number in range(2):
        name = f"donor1_f{number:03d}.ome.tif"
        found = read_phase(tmp_path / "phases" / "phase" / "holograms" / name)
        truth = read_phase(tmp_path / "holograms" / "phase" / name)
        assert np.sqrt(((found.phase_rad - truth.phase_rad) ** 2).mean()) < 0.1  # out of focus by up to 1 um
        assert (found.pixel_um, found.wavelength_um) == (0.1440889, 0.666)
    cut = tmp_path / "holograms" / "holograms" / "donor1_f001.png"
    cut.write_bytes(cut.read_bytes()[:900])
    partly = hemolens("reconstruct", "input=holograms", "output=partly")
    assert partly.returncode == 1
    assert "left out: holograms/holograms/donor1_f001.png: corrupt" in partly.stdout
    assert "1 of 2 files were left out" in partly.stderr
    assert len(list((tmp_path / "partly" / "phase").rglob("*.ome.tif"))) == 1


def test_slips_are_named(hemolens: Run, tmp_path: Path) -> None:
    for words, message in (
        (["simulate", "output=x", *SMALL, "data.blood.storage_day=-4"], "0 or more"),
        (["simulate", "output=x", *SMALL, "data.test_floor={RBC: 3}"], "for tomograms"),
        (["simulate", "output=x", *SMALL, "data.holography.bit=8"], "bits"),
        (["simulate", "output=x", *SMALL, "format=tcf"], "png, tiff"),
        (["train", "data=sim_holograms", "hydra.run.dir=run"], "add model=segmentation net=resunet18"),
        (["reconstruct", "output=x", "input=nowhere"], "input=nowhere"),
        (["reconstruct", "output=x"], "input=…"),
        (["reconstruct", "output=x", "input=.", "device=tpu"], "auto, cpu, cuda"),
    ):
        done = hemolens(*words)
        assert done.returncode == 2, done.stdout + done.stderr
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()
