"""A hemolens built from the sdist and installed works outside the clone: it finds the configs inside the wheel."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from .conftest import run_command, training_words

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_an_installed_wheel_trains_outside_the_clone(tmp_path: Path, voc_folder: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    # without --wheel the sdist is built, and the wheel from the sdist
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    (sdist,) = wheels.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CITATION.cff", "LICENSE", "README.md", "CHANGELOG.md", "Makefile", "configs/train.yaml"} <= names
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)

    where = subprocess.run(
        [sys.executable, "-c", "import hemolens; print(hemolens.__file__)"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(site))  # the wheel's, not the clone's
    for file in ("weights/demo.ckpt", "analysis/report.html.j2", "configs/experiment/demo.yaml"):
        assert (site / "hemolens" / file).is_file(), file
    words = training_words(voc_folder, "trainer.max_epochs=1", "hydra.run.dir=run")
    done = run_command("train", *words, cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    assert str(ROOT) not in (tmp_path / "run" / "status.json").read_text()
