"""Segmentation data from simulated holograms: the cache, the phase against the truth, donors, files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy import ndimage

from hemolens.cli.app import config_dir
from hemolens.data.modules.holograms import HologramDataModule
from hemolens.data.modules.sim_holograms import CLASS_NAMES, SimulatedHologramDataModule
from hemolens.data.phase_images import CLASSES, INSTANCES, PHASE, PhaseRecord, map_phase_image
from hemolens.data.simulation import phase_images
from hemolens.data.simulation.holograms import draw_hologram, export_holograms
from hemolens.data.simulation.phase_images import phase_image_folder, simulate_phase_images
from hemolens.errors import UserError
from hemolens.inference.hologram_jobs import list_jobs
from hemolens.inference.reconstruction import reconstruct_files
from hemolens.optics.cells.stored import TYPE_NAMES

SPLITS = ("train", "val", "test")


def config(**changes: Any) -> dict[str, Any]:
    """The config's settings, of six small fields with more cells than usual."""
    loaded = OmegaConf.to_container(OmegaConf.load(Path(config_dir()) / "data" / "sim_holograms.yaml"))
    assert isinstance(loaded, dict)
    values: dict[str, Any] = {str(key): value for key, value in loaded.items() if not str(key).startswith("_")}
    small = {"field_px": [160, 160], "margin_px": 16, "fields_per_sample": 2, "split": [1, 1, 1], "patch_px": 64}
    # stated here, since the bounds below belong to them: where cells cover most of so small a field, the background
    # that is taken off is theirs too
    placement = {"density_per_mm2": 4000.0, "touching_probability": 0.2, "max_overlap": 0.15}
    crowded = {"placement": values["placement"] | placement}
    crowded |= {"defocus_um": [-1.0, 1.0], "holography": values["holography"] | {"speckle": 0.03}}
    return values | {"cache_dir": "unused", "seed": 0, "simulation_workers": 1} | small | crowded | changes


def records(data: SimulatedHologramDataModule | HologramDataModule) -> dict[str, PhaseRecord]:
    return {record.name.rpartition("/")[2]: record for split in SPLITS for record in data.records(split)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimulatedHologramDataModule:
    """Six fields of three donors in a cache; for reading only."""
    data = SimulatedHologramDataModule(**config(cache_dir=tmp_path_factory.mktemp("cache")))
    data.prepare_data()
    return data


def test_the_reconstructed_phase_is_the_simulated_one(made: SimulatedHologramDataModule) -> None:
    found = records(made)
    assert list(made.class_names) == list(CLASS_NAMES) == ["background", *TYPE_NAMES]
    for job in made.plan.jobs():
        record, truth = found[job.name], draw_hologram(made.plan, job)
        planes = map_phase_image(record.path)
        assert np.array_equal(planes[CLASSES], truth.classes) and np.array_equal(planes[INSTANCES], truth.instances)
        assert len(record.cells) == len(np.unique(truth.instances)) - 1
        assert (record.donor, record.sample, record.day) == (job.donor_name, job.sample, None)
        phase = planes[PHASE] * 0.001
        error = phase - truth.hologram.phase_rad
        error[[*range(8), *range(-8, 0)]] = error[:, [*range(8), *range(-8, 0)]] = 0  # the filter rings at the border
        inside = ndimage.binary_erosion(truth.classes > 0, iterations=4)
        outside = ~ndimage.binary_dilation(truth.classes > 0, iterations=6)
        # 0.02 to 0.06 rad was seen, of which the defocus of up to 1 um is the most; a cell has 1.5 to 4 rad
        assert np.sqrt((error[inside] ** 2).mean()) < 0.1
        assert np.sqrt((error[outside] ** 2).mean()) < 0.06
        assert abs(np.median(phase[outside])) < 0.02
        assert phase[inside].mean() > 1


def test_two_processes_make_the_same(made: SimulatedHologramDataModule, tmp_path: Path) -> None:
    few = {"n_donors": 2, "fields_per_sample": 1, "split": [1, 0, 1], "simulation_workers": 2}
    theirs = records(SimulatedHologramDataModule(**config(cache_dir=tmp_path, **few)))
    assert sorted(theirs) == ["donor1_f000", "donor2_f000"]
    for name, record in theirs.items():
        mine = records(made)[name]
        assert record.path.read_bytes() == mine.path.read_bytes()
        assert (record.cells, record.size) == (mine.cells, mine.size)


def test_the_cache_serves_again_and_a_stopped_simulation_goes_on(
    made: SimulatedHologramDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    simulate = phase_images.draw_hologram

    def spy(plan: Any, job: Any) -> Any:
        drawn.append(job.name)
        return simulate(plan, job)

    monkeypatch.setattr(phase_images, "draw_hologram", spy)
    again = SimulatedHologramDataModule(**config(cache_dir=made.cache_dir))
    assert records(again) == records(made) and drawn == []
    # stopped before the record was written: that one is made again, and is the same
    path = records(made)["donor2_f001"].path
    before = path.read_bytes()
    path.with_suffix(".json").unlink()
    path.write_bytes(before[:999])
    made_again = SimulatedHologramDataModule(**config(cache_dir=made.cache_dir))
    assert records(made_again) == records(made)
    assert drawn == ["donor2_f001"] and path.read_bytes() == before


def test_a_setting_makes_other_data(made: SimulatedHologramDataModule, tmp_path: Path) -> None:
    def folder(**changes: Any) -> Path:
        data = SimulatedHologramDataModule(**config(**changes))
        return phase_image_folder(data.plan, data.reconstruction, tmp_path)

    plain = folder()
    assert plain.name == next(made.cache_dir.iterdir()).name
    blood = config()["blood"]
    changes: list[dict[str, Any]] = [
        {"simulation_seed": 1},
        {"n_donors": 2},
        {"first_donor": 2},
        {"defocus_um": [0, 0]},
        {"blood": blood | {"mixture_sd": 0.1}},
        {"holography": config()["holography"] | {"bits": 10}},
        {"reconstruction": {"degree": 2}},
        {"reconstruction": {"refocus_um": "auto"}},
    ]
    assert len({plain, *(folder(**change) for change in changes)}) == len(changes) + 1
    same: list[dict[str, Any]] = [{"seed": 3}, {"split_seed": 4}, {"patch_px": 32}, {"balance_classes": True}]
    assert {folder(**change) for change in same} == {plain}  # of loading, not of the simulation


def test_a_fourth_donor_is_another(made: SimulatedHologramDataModule, tmp_path: Path) -> None:
    fourth = SimulatedHologramDataModule(
        **config(cache_dir=tmp_path, n_donors=1, first_donor=4, fields_per_sample=1, split=[0, 0, 1])
    )
    (record,) = fourth.records("test")
    assert (record.name, record.donor) == ("donor4_f000", "donor4")
    assert all(record.path.read_bytes() != other.path.read_bytes() for other in records(made).values())
    with pytest.raises(UserError, match="no image in the train part"):
        fourth.setup("fit")
    # the same number is the same donor in any plan
    second = SimulatedHologramDataModule(
        **config(cache_dir=tmp_path, n_donors=1, first_donor=2, fields_per_sample=1, split=[0, 0, 1])
    )
    assert second.records("test")[0].path.read_bytes() == records(made)["donor2_f000"].path.read_bytes()


def test_parts(made: SimulatedHologramDataModule) -> None:
    for by in ("image", "donor"):
        data = SimulatedHologramDataModule(**config(cache_dir=made.cache_dir, split_by=by))
        parts = [data.records(split) for split in SPLITS]
        assert [len(part) for part in parts] == [2, 2, 2]
        assert len({record.name for part in parts for record in part}) == 6
        if by == "donor":
            assert [len({record.donor for record in part}) for part in parts] == [1, 1, 1]
    assert made.input_spec() == {
        "phase_limits_rad": [-1.0, 5.0],
        "pixel_um": pytest.approx(0.144088889),
        "wavelength_um": 0.666,
    }
    cells = sum(len(record.cells) for record in records(made).values())
    assert sum(sum(made.class_counts(split).values()) for split in SPLITS) == cells > 10


def test_over_files_comes_the_same(made: SimulatedHologramDataModule, tmp_path: Path) -> None:
    """Simulated to files, reconstructed there, and read as a lab's folder."""
    root = tmp_path / "holograms"
    export_holograms(made.plan, root, workers=1)
    loaded = OmegaConf.to_container(OmegaConf.load(Path(config_dir()) / "hologram" / "default.yaml"))
    assert isinstance(loaded, dict)
    settings = {str(key): value for key, value in loaded.items() if key not in ("reference", "manifest")}
    left_out: list[UserError] = []
    assert reconstruct_files(list_jobs(root), tmp_path / "phases", settings, leave_out=left_out.append) == 6
    assert left_out == []
    options: dict[str, Any] = {"root": root, "class_names": CLASS_NAMES, "cache_dir": tmp_path, "split": [1, 1, 1]}
    true, files = (
        HologramDataModule(**options, **more) for more in ({}, {"phase_folder": tmp_path / "phases" / "phase"})
    )
    expected = records(made)
    assert set(records(true)) == set(records(files)) == set(expected)
    for name, record in expected.items():
        mine = map_phase_image(record.path)
        for data in (true, files):
            theirs = records(data)[name]
            planes = map_phase_image(theirs.path)
            assert np.array_equal(planes[CLASSES], mine[CLASSES])
            assert np.array_equal(planes[INSTANCES], mine[INSTANCES])
            assert (theirs.donor, theirs.sample, theirs.cells) == (record.donor, record.sample, record.cells)
            inner = np.s_[8:-8, 8:-8]
            difference = (planes[PHASE][inner].astype(float) - mine[PHASE][inner]) * 0.001
            assert np.sqrt((difference**2).mean()) < 0.08
    assert files.input_spec()["wavelength_um"] == 0.666
    assert files.input_spec()["pixel_um"] == pytest.approx(made.input_spec()["pixel_um"], rel=1e-6)
    assert [files.class_counts(split).keys() for split in SPLITS] == [made.class_counts("train").keys()] * 3


def test_a_quick_trial_is_small() -> None:
    small = SimulatedHologramDataModule.capped(config(field_px=[900, 700]), batch_size=2, image_px=96, num_workers=0)
    data = SimulatedHologramDataModule(**small)
    assert data.plan.fov.field_px == (96, 96) and len(data.plan.jobs()) == 6
    assert (data.patch_px, data.batch_size, data.patches_per_image) == (64, 2, 1)


def test_an_unwritable_cache_is_named(made: SimulatedHologramDataModule, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="cache"):
        simulate_phase_images(made.plan, made.reconstruction, tmp_path / "cache", workers=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": ["background", "a", "b"]}, r"data\.class_names=.*the simulator's are"),
        ({"reconstruction": {"pixel_um": 0.2}}, r"data\.reconstruction has no key pixel_um: choose from"),
        ({"reconstruction": {"refocus_um": "best"}}, "or auto"),
        ({"reconstruction": {"sideband": [0.3]}}, "two numbers"),
        ({"blood": {"days": 3}}, r"data\.blood has no key days"),
        ({"n_donors": 0}, "n_donors=0: at least 1"),
        ({"field_px": [32, 900]}, "at least 64 px"),
    ],
)
def test_slips(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SimulatedHologramDataModule(**config(**changes))
