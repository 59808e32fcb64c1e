"""`hemolens reconstruct` below the command line: jobs, references, facts, resuming, bad files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from hemolens.cli.app import config_dir
from hemolens.errors import UserError
from hemolens.inference.hologram_jobs import list_jobs
from hemolens.inference.reconstruction import reconstruct_files
from hemolens.io.phase import read_phase
from hemolens.optics.holography import (
    HologramSettings,
    ReconstructionSettings,
    form_hologram,
    reconstruct,
    saturated_fraction,
)

PIXEL_UM = HologramSettings().pixel_um


def settings(**changes):
    """The config's settings of a reconstruction."""
    values = OmegaConf.to_container(OmegaConf.load(Path(config_dir()) / "hologram" / "default.yaml"))
    assert isinstance(values, dict)
    names = ReconstructionSettings.__dataclass_fields__
    return {key: value for key, value in values.items() if key in names} | changes


def sphere(side=150, at=(75, 75)):
    y, x = np.mgrid[:side, :side] * PIXEL_UM
    squared = (y - at[0] * PIXEL_UM) ** 2 + (x - at[1] * PIXEL_UM) ** 2
    return 3.4 * np.sqrt(np.maximum(1 - squared / 2.8**2, 0))


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Three holograms and their reference in a folder."""
    folder = tmp_path / "bench"
    folder.mkdir()
    for number in range(3):
        made = form_hologram(sphere(at=(75, 60 + 10 * number)), tilt=(0.7, 1.2), curvature_rad=2.0, rng=number)
        Image.fromarray(made.image).save(folder / f"rbc{number}.png")
    Image.fromarray(made.reference).save(folder / "empty.png")
    return folder


def run(jobs, output, **changes):
    left_out: list[UserError] = []
    scale = {"wavelength_um": 0.666, "pixel_um": PIXEL_UM, "numerical_aperture": 0.75}
    count = reconstruct_files(jobs, output, settings(**(scale | changes)), leave_out=left_out.append)
    return count, [str(error) for error in left_out]


def table_of(output: Path) -> list[dict[str, str]]:
    with (output / "quality.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_config_states_the_defaults():
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in settings().items()}
    given["medium_index"] = 1.334  # null there: as the file says
    assert ReconstructionSettings(**given) == ReconstructionSettings()


def test_one_reference_for_all(bench: Path, tmp_path: Path) -> None:
    jobs = list_jobs(bench, reference=bench / "empty.png")
    assert [job.name for job in jobs] == ["rbc0", "rbc1", "rbc2"]  # the reference is none of them
    assert run(jobs, tmp_path / "out") == (3, [])
    found = read_phase(tmp_path / "out" / "phase" / "rbc0.ome.tif")
    assert found.phase_rad.shape == (150, 150)
    assert found.phase_rad[75, 60] == pytest.approx(3.4, abs=0.3)
    assert np.abs(found.phase_rad[10:30, 100:140]).mean() < 0.05
    assert (found.pixel_um, found.wavelength_um, found.refocus_um) == (PIXEL_UM, 0.666, 0.0)
    rows = table_of(tmp_path / "out")
    assert [row["name"] for row in rows] == ["rbc0", "rbc1", "rbc2"]
    assert {row["reference"] for row in rows} == {"empty.png"}
    assert all(0.9 < float(row["fringe_contrast"]) < 1.1 for row in rows)
    assert all(20 < float(row["dry_mass_pg"]) < 40 for row in rows)
    assert (tmp_path / "out" / "contact_sheet.png").stat().st_size > 5000


def test_a_folder_of_references_and_a_manifest(bench: Path, tmp_path: Path) -> None:
    empties = tmp_path / "empties"
    empties.mkdir()
    for number in range(3):
        (empties / f"rbc{number}.png").write_bytes((bench / "empty.png").read_bytes())
    (bench / "empty.png").rename(tmp_path / "empty.png")
    jobs = list_jobs(bench, reference=empties)
    assert [job.reference.name for job in jobs if job.reference] == ["rbc0.png", "rbc1.png", "rbc2.png"]
    (empties / "rbc1.png").unlink()
    with pytest.raises(UserError, match=r"no reference for rbc1\.png"):
        list_jobs(bench, reference=empties)
    lines = ["file,sample,reference,pixel_um", "bench/rbc0.png,a,empty.png,0.2", "bench/rbc2.png,b,,"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    jobs = list_jobs(bench)
    assert [(job.name, job.facts.pixel_um) for job in jobs] == [("rbc0", 0.2), ("rbc2", None)]
    assert [job.reference and job.reference.name for job in jobs] == ["empty.png", None]
    assert list_jobs(tmp_path, manifest=tmp_path / "manifest.csv")[0].name == "bench/rbc0"
    for text, words in (
        ("file,sample,reference\nbench/rbc9.png,a,", "does not exist"),
        ("file,sample,reference\nbench/rbc0.png,a,gone.png", "gone.png"),
        ("file,sample,pixel_um\nbench/rbc0.png,a,wide", "no number"),
        ("file,sample\nelsewhere.png,a", "lists no file inside"),
    ):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(UserError, match=words):
            list_jobs(bench, manifest=tmp_path / "other.csv")


def test_unknown_scale_names_the_keys(bench: Path, tmp_path: Path) -> None:
    jobs = list_jobs(bench / "rbc0.png")
    count, errors = run(jobs, tmp_path / "a", wavelength_um=None, pixel_um=None, numerical_aperture=None)
    assert count == 0
    assert len(errors) == 1
    assert "wavelength_um=<" in errors[0]
    assert "pixel_um=unknown" in errors[0]
    assert "rbc0.png" in errors[0]
    # nothing came of it: the right command may go into the same folder
    count, errors = run(jobs, tmp_path / "a", wavelength_um="unknown", pixel_um="unknown", numerical_aperture=None)
    assert (count, errors) == (1, [])
    found = read_phase(tmp_path / "a" / "phase" / "rbc0.ome.tif")
    assert found.pixel_um is None
    assert found.phase_rad.max() > 3
    assert table_of(tmp_path / "a")[0]["dry_mass_pg"] == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sideband": 0.3}, "two numbers"),
        ({"sideband": ["a", "b"]}, "two numbers"),
        ({"refocus_interval_um": [-5]}, "two numbers"),
        ({"wavelength_um": "green"}, "positive number"),
        ({"kernel": "x"}, "fresnel"),
    ],
)
def test_wrong_settings_are_said_before_anything_is_written(bench: Path, tmp_path: Path, changes, words) -> None:
    with pytest.raises(UserError, match=words):
        run(list_jobs(bench), tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_goes_on(bench: Path, tmp_path: Path) -> None:
    jobs = list_jobs(bench, reference=bench / "empty.png")
    run(jobs[:2], tmp_path / "out")
    first = tmp_path / "out" / "phase" / "rbc0.ome.tif"
    before = first.stat().st_mtime_ns
    (tmp_path / "out" / "phase" / "rbc1.json").unlink()  # as if stopped before it was whole
    assert run(jobs, tmp_path / "out") == (3, [])
    assert first.stat().st_mtime_ns == before
    assert len(table_of(tmp_path / "out")) == 3
    with pytest.raises(UserError, match="begun with other settings"):
        run(jobs, tmp_path / "out", degree=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        run(jobs, tmp_path / "mine")


def test_bad_files_leave_the_others(bench: Path, tmp_path: Path) -> None:
    whole = (bench / "rbc1.png").read_bytes()
    (bench / "cut.png").write_bytes(whole[: len(whole) // 3])
    Image.fromarray(np.full((150, 150), 90, np.uint8)).save(bench / "constant.png")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(80, 120, (150, 150), np.uint8)).save(bench / "noise.png")
    bright = np.clip(np.asarray(Image.open(bench / "rbc2.png")).astype(int) * 3, 0, 255).astype(np.uint8)
    Image.fromarray(bright).save(bench / "bright.png")
    Image.fromarray(np.asarray(Image.open(bench / "rbc0.png"))[:100]).save(bench / "small.png")
    count, errors = run(list_jobs(bench, reference=bench / "empty.png"), tmp_path / "out")
    assert count == 3
    bad = ("cut", "constant", "noise", "bright", "small")
    said = {name: next(e for e in errors if f"{name}.png" in e) for name in bad}
    assert len(errors) == 5
    assert "corrupt" in said["cut"]
    assert "constant" in said["constant"]
    assert "no side band" in said["noise"]
    assert "saturated" in said["bright"]
    assert "most_saturated=" in said["bright"]
    assert "100×150" in said["small"]
    assert "150×150" in said["small"]


def test_names_must_differ(bench: Path, tmp_path: Path) -> None:
    Image.fromarray(np.asarray(Image.open(bench / "rbc0.png"))).save(bench / "rbc0.tif")
    count, errors = run(list_jobs(bench, reference=bench / "empty.png"), tmp_path / "out")
    assert count == 3
    assert len(errors) == 1
    assert "rename one" in errors[0]


def test_a_changed_source_is_made_again(bench: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    jobs = list_jobs(bench / "rbc0.png")
    run(jobs, output)
    before = read_phase(output / "phase" / "rbc0.ome.tif").phase_rad
    run(list_jobs(bench / "rbc0.png", reference=bench / "empty.png"), output)
    assert table_of(output)[0]["reference"] == "empty.png"
    (bench / "rbc0.png").write_bytes((bench / "rbc2.png").read_bytes())
    assert run(jobs, output) == (1, [])
    assert not np.array_equal(read_phase(output / "phase" / "rbc0.ome.tif").phase_rad, before)
    other = tmp_path / "other"
    other.mkdir()
    (other / "rbc0.png").write_bytes((bench / "rbc1.png").read_bytes())
    count, errors = run(list_jobs(other), output)
    assert count == 0
    assert "was made of" in errors[0]


def test_links_and_results_inside_the_input(bench: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "mine.png").symlink_to(bench / "rbc0.png")
    assert [job.name for job in list_jobs(links)] == ["mine"]
    assert [job.name for job in list_jobs(links / "mine.png")] == ["mine"]
    output = bench / "phases"
    for _ in range(2):
        jobs = list_jobs(bench, reference=bench / "empty.png", output=output)
        assert [job.name for job in jobs] == ["rbc0", "rbc1", "rbc2"]
        assert run(jobs, output) == (3, [])
    assert len(list_jobs(bench, reference=bench / "empty.png", output=tmp_path / "elsewhere")) == 3


def test_a_foreign_manifest_is_left_aside(bench: Path) -> None:
    (bench.parent / "manifest.csv").write_text("id,operator\n1,me\n")
    assert len(list_jobs(bench)) == 4
    (bench.parent / "manifest.csv").write_text("file,sample\nbench/rbc1.png,a\n")
    assert [job.name for job in list_jobs(bench)] == ["rbc1"]
    assert len(list_jobs(bench, manifest="none")) == 4


def test_references_are_looked_at(bench: Path, tmp_path: Path) -> None:
    blank = np.zeros((150, 150), np.uint8)
    other = form_hologram(np.zeros((150, 150)), settings=HologramSettings(carrier=(0.3, -0.3))).image
    for name, picture, words in (("blank", blank, "constant"), ("turned", other, "fringes are others")):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        jobs = list_jobs(bench / "rbc0.png", reference=tmp_path / f"{name}.png")
        count, errors = run(jobs, tmp_path / f"out_{name}")
        assert count == 0
        assert words in errors[0]
        assert f"{name}.png" in errors[0]


def test_the_reported_side_band_gives_the_same_phase() -> None:
    made = form_hologram(sphere(), tilt=(0.7, 1.2), rng=0)
    scale = {"wavelength_um": 0.666, "pixel_um": PIXEL_UM, "numerical_aperture": 0.75}
    found = reconstruct(made.image, ReconstructionSettings(**scale))
    again = reconstruct(made.image, ReconstructionSettings(**scale, sideband=found.sideband.frequency))
    assert np.abs(found.phase_rad - again.phase_rad).max() < 0.05
    plain = ReconstructionSettings(**scale, sideband=found.sideband.frequency, objects_positive=False)
    assert reconstruct(made.image, plain).phase_rad.max() > 3
    zero_mean = made.image.astype(np.float32) - made.image.mean()
    assert np.isnan(reconstruct(zero_mean, ReconstructionSettings(**scale)).quality["fringe_contrast"])


def test_refocusing(tmp_path: Path) -> None:
    phase = sphere(300, (100, 150)) + sphere(300, (200, 120))
    made = form_hologram(phase, defocus_um=7.0, rng=0)
    plain = ReconstructionSettings(wavelength_um=0.666, pixel_um=PIXEL_UM, numerical_aperture=0.75)
    errors = {}
    for refocus_um in (0.0, -7.0, "auto"):
        changed = ReconstructionSettings(**(vars(plain) | {"refocus_um": refocus_um}))
        found = reconstruct(made.image, changed)
        errors[refocus_um] = np.sqrt(((found.phase_rad - made.phase_rad) ** 2).mean())
    assert errors[-7.0] < 0.02 < 0.1 < errors[0.0]
    assert errors["auto"] < 0.03
    assert found.refocus_um == pytest.approx(-7, abs=0.4)
    json.dumps(found.quality)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"refocus_um": "best"}, "or auto"),
        ({"refocus_um": 3.0}, "wavelength_um is not known"),
        ({"degree": 9}, "0 to 4, or auto"),
        ({"kernel": "x"}, "fresnel"),
        ({"focus_metric": "x"}, "amplitude_variance"),
        ({"pixel_um": -1.0}, "positive number"),
        ({"wavelength_um": 666.0}, "in um"),
        ({"sideband": (0.3,)}, "two numbers"),
        ({"degree": 2.0}, "0 to 4, or auto"),
        ({"most_saturated": 3.0}, "share"),
    ],
)
def test_impossible_settings(changes, words):
    with pytest.raises(UserError, match=words):
        ReconstructionSettings(**changes)


def test_what_counts_as_saturated():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert saturated_fraction(image) == 1 / 256
    assert saturated_fraction(image[:8]) == 0  # the range's end is not reached
    assert saturated_fraction(np.where(image > 127, np.uint16(4095), image)) == 0.5  # 12 bits in 16
    assert saturated_fraction(np.where(image > 127, np.uint16(4095 << 4), image)) == 0.5
    assert saturated_fraction(image.astype(np.float32)) == 0
