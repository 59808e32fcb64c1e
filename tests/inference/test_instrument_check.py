"""`hemolens check` below the command line: listing, bad files, calibration, baselines, repeatability of tables."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from hemolens.analysis.beads import Bead
from hemolens.analysis.red_cells import MEASURES
from hemolens.cli.app import config_dir
from hemolens.errors import UserError
from hemolens.inference.bead_files import list_bead_files
from hemolens.inference.instrument_check import BeadCheck, check_beads
from hemolens.inference.repeatability import check_repeatability
from hemolens.io.phase import PhaseImage, write_phase
from hemolens.io.volumes import RIArray, Volume, write_volume

from ..analysis.beads import SILICA, WAVELENGTH_UM, ball, projected

PIXEL_UM = 0.2


def hologram(**changes: Any) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.load(Path(config_dir()) / "hologram" / "default.yaml"))
    assert isinstance(values, dict)
    return {key: value for key, value in values.items() if key not in ("reference", "manifest")} | changes


CHECK = BeadCheck(bead=SILICA, hologram=hologram(), refraction=False, n_baseline=4)


def run(source: Path, output: Path, check: BeadCheck = CHECK, **options: Any) -> tuple[list[str], list[str]]:
    left: list[str] = []
    lines = check_beads(source, output, check, leave_out=lambda error: left.append(str(error)), **options)
    return lines, left


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Six phase images of a bead, the last with 10 % more phase; the pixel stated 3 % wrong; a manifest backwards."""
    folder = tmp_path / "bench"
    folder.mkdir()
    for number in range(6):
        phase = projected(64, [(30.2, 31.0)], pixel_um=PIXEL_UM, seed=number, noise_rad=0.1)
        phase *= 1.1 if number == 5 else 1
        image = PhaseImage(phase.astype(np.float32), pixel_um=PIXEL_UM * 1.03, wavelength_um=WAVELENGTH_UM)
        write_phase(folder / f"day{5 - number}.ome.tif", image)
    rows = [f"day{5 - number}.ome.tif,beads,2026-03-{number + 1:02d}" for number in range(6)]
    (folder / "manifest.csv").write_text("file,sample,date\n" + "\n".join(rows) + "\n")
    return folder


def test_a_bench_is_measured_and_judged_in_order_of_dates(bench: Path, tmp_path: Path) -> None:
    lines, left = run(bench, tmp_path / "out")
    assert left == []
    assert lines[0].startswith("6 beads in 6 files")
    assert lines[-1] == "out of control (1-3s): day0.ome.tif (phase_scale)"
    rows = rows_of(tmp_path / "out" / "beads.csv")
    assert [row["file"] for row in rows] == [f"day{number}.ome.tif" for number in range(5, -1, -1)]
    assert {row["used"] for row in rows} == {"1"}
    facts = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert facts["values"]["pixel_um"]["median"] == pytest.approx(PIXEL_UM, rel=0.003)
    assert facts["values"]["pixel_um"]["n"] == 6
    assert facts["set"] == {"hologram.pixel_um": facts["values"]["pixel_um"]["median"]}
    assert "projection" in facts["note"]
    assert facts["limits"]["diameter_um"]["target"] == pytest.approx(5.15, rel=0.003)
    for name in ("fits.png", "drift.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 500
    again = replace(CHECK, baseline=tmp_path / "out" / "calibration.json", hologram=hologram(pixel_um=0.206))
    lines, _ = run(bench / "day0.ome.tif", tmp_path / "one", again)
    assert lines[-1] == "out of control (1-3s): day0.ome.tif (phase_scale)"
    other = replace(again, bead=replace(SILICA, diameter_um=5.1))
    with pytest.raises(UserError, match="another bead"):
        run(bench, tmp_path / "no", other)
    with pytest.raises(UserError, match="baseline="):
        run(bench, tmp_path / "no", replace(CHECK, baseline=bench / "manifest.csv"))
    assert not (tmp_path / "no").exists()


def test_the_light_that_a_bead_bends_changes_the_pixel_not_the_chart(bench: Path, tmp_path: Path) -> None:
    found = {}
    for name, refraction in (("bare", False), ("bent", True)):
        run(bench / "day5.ome.tif", tmp_path / name, replace(CHECK, refraction=refraction))
        found[name] = (
            rows_of(tmp_path / name / "beads.csv")[0],
            json.loads((tmp_path / name / "calibration.json").read_text()),
        )
    seen = found["bent"][1]["expected_of_a_true_instrument"][0]["diameter_um"]
    assert seen > 5.05
    diameters = [float(row["diameter_um"]) for row, _ in found.values()]
    assert diameters[0] == pytest.approx(diameters[1], rel=2e-4)
    assert float(found["bent"][0]["pixel_um"]) == pytest.approx(
        float(found["bare"][0]["pixel_um"]) * seen / 5, rel=1e-4
    )


def test_bad_files_are_left_out_and_named(bench: Path, tmp_path: Path) -> None:
    (bench / "manifest.csv").unlink()
    whole = (bench / "day1.ome.tif").read_bytes()
    (bench / "day1.ome.tif").write_bytes(whole[: len(whole) // 2])
    (bench / "day2.ome.tif").write_bytes(b"II*\0nothing")
    empty = PhaseImage(np.zeros((90, 90), np.float32), pixel_um=0.2, wavelength_um=0.633)
    write_phase(bench / "day3.ome.tif", empty, overwrite=True)
    np.save(bench / "raw.npy", projected(60, [(30, 30)], pixel_um=PIXEL_UM).astype(np.float32))
    small = replace(SILICA, diameter_um=2.0)
    crooked = projected(64, [(32, 32)], pixel_um=PIXEL_UM) + 1.5 * projected(64, [(32, 32)], small, pixel_um=PIXEL_UM)
    write_phase(bench / "day4.ome.tif", PhaseImage(crooked.astype(np.float32), 0.2, WAVELENGTH_UM), overwrite=True)
    lines, left = run(bench, tmp_path / "out")
    assert lines[0].startswith("2 beads in 2 files")
    for name, words in (
        ("day1.ome.tif", "corrupt"),
        ("day2.ome.tif", "corrupt"),
        ("day3.ome.tif", "no bead found"),
        ("day4.ome.tif", "the best fit leaves"),
        ("raw.npy", "states no pixel_um: give hologram.pixel_um="),
    ):
        assert any(name in line and words in line for line in left), (name, left)
    facts = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert facts["left_out"] == left
    assert lines[-1].startswith("no limits yet: 2 of 4 files")
    with pytest.raises(UserError, match=r"no bead could be measured in 1 files; the first: .*day3.ome.tif: no bead"):
        run(bench / "day3.ome.tif", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_manifests_and_listing(bench: Path, tmp_path: Path) -> None:
    manifest = bench / "manifest.csv"
    assert [file.name for file in list_bead_files(bench, manifest="none")] == [f"day{n}.ome.tif" for n in range(6)]
    manifest.write_text("file,sample,date\nelsewhere/day3.png,beads,\n")  # of the hologram that it was made of
    assert [file.name for file in list_bead_files(bench)] == ["day3.ome.tif"]
    manifest.write_text("file,sample,date\nday1.ome.tif,beads,2026-01-01\nday2.ome.tif,beads,\n")
    with pytest.raises(UserError, match="no date for day2"):
        list_bead_files(bench)
    manifest.write_text("file,sample,date\nday1.ome.tif,beads,soon\n")
    with pytest.raises(UserError, match="'soon'"):
        list_bead_files(bench)
    manifest.write_text("file,sample\nx.tif,beads\n")
    assert len(list_bead_files(bench)) == 6
    with pytest.raises(UserError, match="lists no file inside"):
        list_bead_files(bench, manifest=manifest)
    with pytest.raises(UserError, match="input="):
        list_bead_files(tmp_path / "nowhere")


def test_tomograms(tmp_path: Path) -> None:
    voxel = (0.6, 0.25, 0.25)
    index = 1.337 + ball((20, 56, 56), voxel, 5.0, 0.05) + np.random.default_rng(0).normal(0, 5e-4, (20, 56, 56))
    array = RIArray(index.astype(np.float32), "bead")
    held = Volume(array=array, voxel_um=(0.6, 0.26, 0.26), medium_index=1.337, wavelength_um=0.45, path=tmp_path / "b")
    write_volume(tmp_path / "in" / "bead.tcf", held)
    bead = Bead(diameter_um=5.0, refractive_index=1.387, medium_index=1.337)
    lines, left = run(tmp_path / "in", tmp_path / "out", replace(CHECK, bead=bead))
    assert left == []
    assert "give condenser_na and objective_na" in lines[2]
    values = json.loads((tmp_path / "out" / "calibration.json").read_text())["values"]
    assert [values[f"voxel_{axis}_um"]["median"] for axis in "zyx"] == pytest.approx(voxel, rel=0.01)
    assert values["ri_scale"]["median"] == pytest.approx(1, rel=0.01)
    known = replace(CHECK, bead=bead, condenser_na=0.72, objective_na=0.95)
    lines, _ = run(tmp_path / "in", tmp_path / "cone", known)
    assert lines[2].startswith("set: volume.voxel_um=[")
    with pytest.raises(UserError, match="belong together"):
        replace(CHECK, condenser_na=0.7)


def test_a_real_hologram_of_a_round_cell(shared_data: Path, tmp_path: Path) -> None:
    """An HL60 cell taken for a bead: the fitted sphere has the area that the cell's outline has."""
    folder = shared_data / "holograms" / "hl60_dhm"
    cell = Bead(diameter_um=13.0, refractive_index=1.37, medium_index=1.335)
    given = hologram(wavelength_um=0.633, pixel_um=0.107, radius=0.07)
    check = BeadCheck(bead=cell, hologram=given, refraction=False)
    run(folder / "hologram.png", tmp_path / "out", check, reference=folder / "reference.png")
    (row,) = rows_of(tmp_path / "out" / "beads.csv")
    assert 12.8 < float(row["diameter_um"]) < 14.5
    assert 3.8 < float(row["peak_rad"]) < 5.2


def predicted(folder: Path, files: Mapping[str, int], mass: Mapping[str, float] | None = None) -> Path:
    """Tables as a segmentation writes them: of each file so many discocytes, and a spherocyte that the border cuts."""
    folder.mkdir()
    cells, counts = [], []
    for file, number in files.items():
        for cell in range(number + 1):
            row = dict.fromkeys(MEASURES, 1.0) | {"cell": cell, "type": "discocyte", "cut": int(cell == number)}
            row["dry_mass_pg"] = (mass or {}).get(file, 30.0) + (cell % 2) - 0.5 + 100 * (cell == number)
            cells.append([file, *row.values()])
        counts.append([file, number, 1, number + 1])
    for name, head, rows in (
        ("cells.csv", ["file", *MEASURES], cells),
        ("counts.csv", ["file", "discocyte", "spherocyte", "all"], counts),
    ):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])
    return folder


def test_repeatability_of_a_segmentation(tmp_path: Path) -> None:
    masses = {"a.ome.tif": 28.0, "b.ome.tif": 30.0, "c.ome.tif": 32.0, "d.ome.tif": 34.0}
    source = predicted(tmp_path / "found", dict.fromkeys(masses, 10), masses)
    lines = check_repeatability(source, tmp_path / "plain")
    assert lines[0].startswith("files: 4, samples: 1")
    rows = {row["measurand"]: row for row in rows_of(tmp_path / "plain" / "repeatability.csv")}
    assert float(rows["dry_mass_pg"]["repeatability_sd"]) == pytest.approx(np.std([28, 30, 32, 34], ddof=1))
    assert rows["dry_mass_pg"]["within_laboratory_sd"] == ""
    assert float(rows["share of spherocyte"]["mean"]) == pytest.approx(1 / 11)
    assert float(rows["share of spherocyte"]["chance_sd"]) == pytest.approx(np.sqrt(10 / 11 / 11 / 11), abs=1e-6)
    manifest = tmp_path / "runs.csv"
    manifest.write_text("file,sample,run\na.png,bag,1\nb.png,bag,1\nc.png,bag,2\nd.png,bag,2\n")
    check_repeatability(source, tmp_path / "runs", manifest=str(manifest))
    rows = {row["measurand"]: row for row in rows_of(tmp_path / "runs" / "repeatability.csv")}
    assert float(rows["dry_mass_pg"]["repeatability_sd"]) == pytest.approx(np.sqrt(2))
    assert float(rows["dry_mass_pg"]["between_run_sd"]) == pytest.approx(np.sqrt((16 - 2) / 2))
    assert "| bag | dry_mass_pg (pg) | 4 | 2 | 1 | 31 |" in (tmp_path / "runs" / "repeatability.md").read_text()
    assert (tmp_path / "runs" / "repeatability.png").stat().st_size > 20_000
    for text, message in (
        ("file,sample\na.png,bag\n", "does not list b.ome.tif"),
        ("file,sample,run\na.png,bag,1\nb.png,bag,\nc.png,bag,2\nd.png,bag,2\n", "no run for b.ome.tif"),
        ("file,sample\na.png,1\nb.png,2\nc.png,3\nd.png,4\n", "repeated fields"),
    ):
        manifest.write_text(text)
        with pytest.raises(UserError, match=message):
            check_repeatability(source, tmp_path / "no", manifest=str(manifest))
    with pytest.raises(UserError, match=r"cells\.csv and counts\.csv"):
        check_repeatability(tmp_path, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_repeatability_of_hematology(tmp_path: Path) -> None:
    folder = tmp_path / "blood"
    folder.mkdir()
    lines = ["sample,file,cell,class,cv_fl,ch_pg,concentration_g_dl,border_cut,clumped"]
    for file, volume in (("a.tcf", 88), ("b.tcf", 92)):
        lines += [f"donor1,{file},{cell},RBC,{volume + cell},30,33,False,False" for cell in range(3)]
        lines.append(f"donor1,{file},3,RBC,500,90,33,True,False")
    (folder / "cells.csv").write_text("\n".join(lines) + "\n")
    head = "image,image_width_px,image_height_px,total,n_RBC,n_PLT"
    (folder / "counts.csv").write_text(f"{head}\na.tcf,512,512,5,4,1\nb.tcf,512,512,4,4,0\n")
    check_repeatability(folder, tmp_path / "out")
    rows = {row["measurand"]: row for row in rows_of(tmp_path / "out" / "repeatability.csv")}
    assert rows["cv_fl"]["sample"] == "donor1"
    assert float(rows["cv_fl"]["mean"]) == pytest.approx(91)
    assert float(rows["cv_fl"]["repeatability_sd"]) == pytest.approx(np.sqrt(8))
    assert float(rows["share of PLT"]["mean"]) == pytest.approx(0.1)
