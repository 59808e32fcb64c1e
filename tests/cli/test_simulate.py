"""`hemolens simulate`, and training on what it wrote, as a user runs them."""

from pathlib import Path

from hemolens.io import open_volume

from .conftest import SMALL_SIMULATION, TINY, Run


def test_simulated_files_are_trained_on(hemolens: Run, tmp_path: Path) -> None:
    done = hemolens("simulate", "output=tomograms", *SMALL_SIMULATION)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 tomograms" in done.stdout
    assert "touching" in done.stdout
    files = sorted((tmp_path / "tomograms" / "volumes").iterdir())
    assert [path.suffix for path in files] == [".tcf"] * 3
    with open_volume(files[0]) as volume:
        assert volume.shape == (12, 96, 128)
    again = hemolens("simulate", "output=tomograms", *SMALL_SIMULATION)
    assert again.returncode == 0
    assert "simulating" not in again.stderr
    words = [
        "data=tomograms",
        "data.root=tomograms",
        "data.class_names=[RBC,PLT,WBC,ARBC]",
        "data.batch_size=1",
        "trainer.max_epochs=1",
        "trainer.precision=32-true",
        "trainer.enable_progress_bar=false",
        "hydra.run.dir=run",
        *TINY,
    ]
    trained = hemolens("train", *words)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()
    predict = ["predict", "ckpt_path=run/checkpoints/best.ckpt", "score_threshold=0.001", "input=tomograms/volumes"]
    found = hemolens(*predict, "output=found")
    assert found.returncode == 0, found.stdout + found.stderr
    assert sorted(path.stem for path in (tmp_path / "found" / "overlays").iterdir()) == [path.stem for path in files]
    quickly = ["hematology.method=half_max", "hematology.iterations=1"]
    measured = hemolens(*predict[:-1], "input=tomograms", "pipeline=hematology", "output=measured", *quickly)
    assert measured.returncode == 0, measured.stdout + measured.stderr
    tables = {name: (tmp_path / "measured" / f"{name}.csv").read_text().splitlines() for name in ("cells", "samples")}
    assert {"sample", "cv_fl", "ch_pg", "tilt_deg", "clumped"} <= set(tables["cells"][0].split(","))
    assert [line.split(",")[0] for line in tables["samples"][1:]] == ["0", "0", "1", "1", "2", "2"]
    assert len(list((tmp_path / "measured" / "labels").rglob("*.ome.tif"))) == 3
    typo = hemolens(*predict[:-1], "input=tomograms", "pipeline=hematology", "hematology.method=best", "output=x")
    assert typo.returncode == 2
    assert "choose from threshold" in typo.stderr
    files[1].write_bytes(files[1].read_bytes()[:4000])
    partly = hemolens(*predict, "output=partly")
    assert partly.returncode == 1
    assert "1 of 3 files were left out" in partly.stderr
    assert files[1].name in partly.stderr
    assert len(list((tmp_path / "partly" / "overlays").iterdir())) == 2


def test_slips_of_simulate_are_named(hemolens: Run, tmp_path: Path) -> None:
    for words, message in (
        (["format=nifti"], "choose from tcf, ome-tiff, zarr"),
        (["data=bccd"], "choose one"),
        (["data.blood.red_cells.tilt=[0,1]"], "tilt"),
    ):
        done = hemolens("simulate", "output=x", *SMALL_SIMULATION[-1:], *words)
        assert done.returncode == 2, done.stdout + done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("hemolens:")]
        assert len(lines) == 1
        assert message in lines[0]
        assert not (tmp_path / "x").exists()
    missing = hemolens("simulate")
    assert missing.returncode == 2
    assert "output" in missing.stderr
    help_text = hemolens("simulate", "--help")
    assert help_text.returncode == 0
    assert "cells.csv" in help_text.stdout
