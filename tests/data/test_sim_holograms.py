"""Simulated data sets of holograms on disk."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from hemolens.cli.app import config_dir
from hemolens.data.modules.sim_holograms import SimulatedHologramDataModule
from hemolens.data.simulation.holograms import (
    HologramPlan,
    describe_holograms,
    export_holograms,
    plan_holograms,
)
from hemolens.errors import UserError
from hemolens.io.holograms import open_hologram
from hemolens.io.labels import read_labels
from hemolens.io.phase import read_phase
from hemolens.optics.cells.stored import TYPE_NAMES
from hemolens.optics.hologram_fields import HologramFieldSettings

SMALL = {"field_px": [180, 210], "margin_px": 15, "n_donors": 2, "fields_per_sample": 2}


def data_config() -> dict:
    """What the config gives the data module."""
    values = OmegaConf.to_container(OmegaConf.load(Path(config_dir()) / "data" / "sim_holograms.yaml"))
    assert isinstance(values, dict)
    given = {key: value for key, value in values.items() if not key.startswith("_")}
    return given | {"cache_dir": "unused", "seed": 0}  # interpolations there


def config() -> dict:
    """The plan's keys as the config states them."""
    of_the_plan = {"field_px", "n_donors", "first_donor", "fields_per_sample", "simulation_seed"}
    of_the_plan |= set(HologramFieldSettings.__dataclass_fields__)
    return {key: value for key, value in data_config().items() if key in of_the_plan}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    plan = plan_holograms(**(config() | SMALL | {"blood": {"storage_day": [8, 57]}}))
    folder = tmp_path_factory.mktemp("data") / "set"
    return plan, folder, export_holograms(plan, folder, workers=1)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_config_states_the_defaults():
    from dataclasses import asdict

    plan = SimulatedHologramDataModule(**data_config()).plan
    assert plan == plan_holograms(**config())
    stated = asdict(plan)
    code = asdict(HologramPlan())
    for key in ("defocus_um", "tilt_waves", "curvature_rad"):  # still by default, drawn in a data set
        stated["fov"].pop(key), code["fov"].pop(key)
    for key in ("touching_probability", "border_probability", "max_overlap"):
        stated["fov"]["placement"].pop(key), code["fov"]["placement"].pop(key)
    for key in ("kinds", "irregularity"):  # how alike the types are: the data set's difficulty
        stated["fov"]["blood"].pop(key), code["fov"]["blood"].pop(key)
    assert stated["fov"]["holography"].pop("speckle") > code["fov"]["holography"].pop("speckle") == 0
    assert json.loads(json.dumps(stated), parse_float=lambda text: round(float(text), 8)) == json.loads(
        json.dumps(code), parse_float=lambda text: round(float(text), 8)
    )


def test_a_folder_holds_pictures_truth_and_tables(made):
    plan, folder, rows = made
    assert len(rows) == len(plan.jobs()) == 8  # 2 donors, 2 days, 2 fields
    assert [row["day"] for row in rows] == [8, 8, 57, 57] * 2
    table = rows_of(folder / "manifest.csv")
    cells = rows_of(folder / "cells.csv")
    assert [row["file"] for row in table] == [row["file"] for row in rows]
    for row in table:
        name = Path(row["file"]).stem
        image = open_hologram(folder / row["file"]).read()
        assert image.shape == open_hologram(folder / row["reference"]).read().shape == (180, 210)
        phase = read_phase(folder / "phase" / f"{name}.ome.tif")
        assert phase.pixel_um == pytest.approx(0.144088889)
        assert phase.wavelength_um == pytest.approx(0.666)
        classes = read_labels(folder / "classes" / f"{name}.ome.tif")
        instances = read_labels(folder / "instances" / f"{name}.ome.tif")
        assert classes.dtype == np.uint8
        assert classes.max() <= 4
        assert np.array_equal(classes > 0, instances > 0)
        mine = [cell for cell in cells if cell["file"] == row["file"]]
        assert len(mine) == int(row["cells"]) == sum(int(row[kind]) for kind in TYPE_NAMES)
        for cell in mine:
            own = classes[instances == int(cell["instance_id"])]
            assert set(own.tolist()) <= {TYPE_NAMES.index(cell["type"]) + 1}
    late = [cell for cell in cells if cell["day"] == "57"]
    assert sum(cell["type"] == "discocyte" for cell in late) < len(late) / 4
    assert {row["sample"] for row in table} == {"donor1_day08", "donor1_day57", "donor2_day08", "donor2_day57"}
    assert len(list((folder / "references").iterdir())) == 4


def test_lines_by_day(made):
    lines = list(describe_holograms(made[2]))
    assert [line.split(":")[0] for line in lines] == ["day 8", "day 57"]
    assert "4 holograms of 2 donors" in lines[0]
    saturated = [row | {"saturated_fraction": 0.2} for row in made[2]]
    assert "fringe_level" in list(describe_holograms(saturated))[-1]


def test_the_same_in_any_number_of_processes_and_after_a_stop(made, tmp_path):
    plan, folder, rows = made
    other = tmp_path / "set"
    first = export_holograms(plan, other, workers=2)
    assert first == rows
    name = "donor2_day57_f001"
    for place in ("holograms", "phase", "classes", "instances"):
        same = [next((root / place).glob(f"{name}*")) for root in (folder, other)]
        assert np.array_equal(*(np.asarray(_pixels(path)) for path in same))
    # stopped in the middle: what lies there stays, what is missing is made
    (other / "records" / f"{name}.json").unlink()
    next((other / "holograms").glob(f"{name}*")).write_bytes(b"half")
    kept = next((other / "holograms").glob("donor1_day08_f000*"))
    before = kept.stat().st_mtime_ns
    assert export_holograms(plan, other, workers=1) == rows
    assert kept.stat().st_mtime_ns == before
    assert np.array_equal(_pixels(other / "holograms" / f"{name}.png"), _pixels(folder / "holograms" / f"{name}.png"))


def _pixels(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        return open_hologram(path).read()
    return read_phase(path).phase_rad if path.parent.name == "phase" else read_labels(path)


def test_more_bits_go_into_tiff(tmp_path):
    values = config() | SMALL | {"n_donors": 1, "fields_per_sample": 1}
    values["holography"] = values["holography"] | {"bits": 12}
    rows = export_holograms(plan_holograms(**values), tmp_path / "deep", picture_format="tiff", workers=1)
    image = open_hologram(tmp_path / "deep" / rows[0]["file"]).read()
    assert image.dtype == np.uint16
    assert 1500 < image.max() < 4095
    assert rows[0]["day"] == ""
    assert next(iter(describe_holograms(rows))).startswith("1 holograms of 1 donors")


def test_slips(made, tmp_path):
    plan, folder, _ = made
    with pytest.raises(UserError, match="choose from png, tiff"):
        export_holograms(plan, tmp_path / "x", picture_format="jpeg")
    with pytest.raises(UserError, match="other settings"):
        export_holograms(plan_holograms(**(config() | SMALL)), folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        export_holograms(plan, tmp_path / "full")
    with pytest.raises(UserError, match="has no key speckles"):
        plan_holograms(**(config() | {"holography": {"speckles": 1}}))
    with pytest.raises(UserError, match="n_donors=0: at least 1"):
        plan_holograms(n_donors=0)
    with pytest.raises(UserError, match="first_donor=0: at least 1"):
        plan_holograms(first_donor=0)
