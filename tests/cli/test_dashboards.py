"""Two jobs of each family, logged offline by one process and read back: every dashboard speaks the same language."""

import fnmatch
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from hemolens.callbacks.wandb_run import COMMON
from hemolens.tasks.ddgan import MaskDDGANTask, PhaseDDGANTask
from hemolens.tasks.detection import DetectionTask
from hemolens.tasks.moco import MoCoReconstructionTask
from hemolens.tasks.segmentation import SegmentationTask

from ..conftest import REPOSITORY, load_module
from .conftest import TINY
from .test_generate import SMALL
from .test_segmentation_runs import FIELDS
from .test_wandb import config_of, of_type, records

PHASES = ["data=sim_holograms", *FIELDS, "data.simulation_workers=1"]
GAN = [*PHASES, *SMALL, "optimizer=adam_ddgan", "data.binning=2", "data.patch_px=64", "trainer.gradient_clip_val=null"]
BOTH = ["debug=one_step", "logger=wandb_offline", "sweep_name=pair", "trainer.enable_progress_bar=false"]


class Case(NamedTuple):
    """A family's tiniest multirun, and what is expected of it."""

    words: list[str]
    task: Any
    tags: list[str]
    monitor: str
    pictures: str
    """Ending of the files that come with pictures."""


CASES = {
    "detection": Case(
        ["experiment=det_fcos_r18_pafpn_bccd", "data.root=voc", *TINY],
        DetectionTask,
        ["detection", "fcos_r18_pafpn", "bccd", "debug"],
        "val/map",
        ".boxes2D.json",
    ),
    "segmentation": Case(
        [*PHASES, "model=segmentation", "net=resunet18", "net.decoder_channels=[16,16,8,8,8]"],
        SegmentationTask,
        ["segmentation", "resunet18", "sim_holograms", "debug"],
        "val/dice",
        ".mask.png",
    ),
    "phase": Case(
        [*GAN, "model=ddgan_phase", "net=ddgan_phase_s"],
        PhaseDDGANTask,
        ["diffusion", "ddgan_phase_s", "sim_holograms", "debug"],
        "val/over_floor",
        ".png",
    ),
    "mask": Case(
        [*GAN, "model=ddgan_mask", "net=ddgan_mask_s"],
        MaskDDGANTask,
        ["diffusion", "ddgan_mask_s", "sim_holograms", "debug"],
        "val/dice",
        ".mask.png",
    ),
    "ssl": Case(
        [
            *("data=unlabelled", "data.root=cells", "data.min_images=4", "data.split=[0.5,0.25,0.25]"),
            *("data.image_px=32", "model=moco_reconstruction", "net=moco_resnet18", "optimizer=sgd_moco"),
        ],
        MoCoReconstructionTask,
        ["ssl", "moco_resnet18", "unlabelled", "debug"],
        "step",
        ".png",
    ),
}

# One process for all: imports take longer than a step. Times of inference are not what is looked at.
ALL = """
import json, sys
from hemolens.cli.main import main
from hemolens.inference import timing
timing.COUNT = timing.REPEATS = 1
sys.exit(max(main(["train", "-m", *words]) for words in json.load(sys.stdin)))
"""


@pytest.fixture(scope="module")
def jobs(
    tmp_path_factory: pytest.TempPathFactory, voc_folder_made_once: Path, cell_folder_made_once: Path
) -> dict[str, list[list[dict[str, Any]]]]:
    """The records of the two jobs of each family."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "voc").symlink_to(voc_folder_made_once)
    (folder / "cells").symlink_to(cell_folder_made_once)
    words = [[*case.words, *BOTH, "seed=0,1", f"task_name={name}"] for name, case in CASES.items()]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "HEMOLENS", "PL_"))}
    settings = {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", ALL],
        input=json.dumps(words),
        cwd=folder,
        env=clean | settings,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = {}
    for name in CASES:
        runs = sorted(path for path in (folder / "outputs" / name / "pair").iterdir() if path.is_dir())
        assert len(runs) == 2
        for run in runs:  # what waits for an upload lies in the run's folder
            assert list((run / "wandb" / "artifacts" / "staging").iterdir())
        found[name] = [records(run) for run in runs]
    return found


def dashboards() -> ModuleType:
    return load_module(REPOSITORY / "scripts" / "make_workspace.py")


def logged(content: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Values of every key of the history; of pictures and tables, their kind."""
    found: dict[str, list[Any]] = {}
    for row in of_type(content, "history"):
        for key, value in row["item"].items():
            name, _, field = key.partition("._type")
            if not field and ("." not in name or not name.startswith(("train/", "val/", "test/"))):
                found.setdefault(name, []).append(value)
    return found


def summary_of(content: list[dict[str, Any]]) -> dict[str, Any]:
    """What stands in the table of runs at the end."""
    summary: dict[str, Any] = {}
    for record in of_type(content, "summary"):
        summary |= record["update"]
    return summary


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_two_jobs_are_two_runs_of_one_sweep(jobs: dict[str, Any], name: str) -> None:
    case, seeds = CASES[name], set()
    for content in jobs[name]:
        (run,) = of_type(content, "run")[:1]
        assert (run["run_group"], run["job_type"], run["tags"]) == ("pair", "train", case.tags)
        config = config_of(content)
        assert "${" not in json.dumps(config)
        seeds.add((run["run_id"], config["seed"]))
        assert config["parameters"] > 1000 and config["macs"] > 1000 and config["tags"] == case.tags
        assert set(config["git"]) == {"commit", "branch", "dirty"}
        assert f"task_name={name}" in config["hydra"]["overrides"] and config["hydra"]["choices"]["debug"] == "one_step"
        assert set(config["data_set"]["counts"]) == {"train", "val", "test"}
        assert of_type(content, "exit")[-1].get("exit_code", 0) == 0
    assert len({run_id for run_id, _ in seeds}) == 2 and {seed for _, seed in seeds} == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_metric_has_its_place_and_its_summary(jobs: dict[str, Any], name: str) -> None:
    declared = COMMON | CASES[name].task.metrics
    for content in jobs[name]:
        names = {key for key in logged(content) if not key.startswith("_")} - {"epoch", "trainer/global_step"}
        assert {"train/lr", "train/images_per_second", "val/pictures", "test/pictures", "test/picture_table"} <= names
        numbers = [key for key in names if not key.startswith("test/") and key != "val/pictures"]
        for key in names:
            assert key.startswith(("train/", "val/", "test/")), key
        for key in numbers:
            assert any(fnmatch.fnmatch(key, pattern) for pattern in declared), key
        summary = summary_of(content)
        axes = {metric.get("name"): metric.get("step_metric") for metric in of_type(content, "metric")}
        for key in numbers:
            best = next(best for pattern, best in declared.items() if fnmatch.fnmatch(key, pattern))
            assert best == "last" or (set(summary[key]) == {best} and axes[key] == "trainer/global_step"), key
            assert best != "last" or not isinstance(summary[key], dict), key
        tested = [value for key, value in summary.items() if key.startswith("test/") and key.count(".") == 0]
        assert tested and all(isinstance(value, int | float) or value == "NaN" for value in tested), summary
        unused = [key for key in CASES[name].task.metrics if not fnmatch.filter(names, key)]
        # one step shows no penalty of a gradient without reason, one image no distances, and there are no encoders
        allowed = {"train/r1", "train/l1", *(key for key in declared if key.startswith("val/") and name == "phase")}
        assert set(unused) <= allowed, unused
        if CASES[name].monitor != "step":
            assert CASES[name].monitor in names


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_pictures_artifacts_and_the_last_alert_are_there(jobs: dict[str, Any], name: str) -> None:
    digests, tables = set(), []
    for content in jobs[name]:
        files = {item["path"] for record in of_type(content, "files") for item in record["files"]}
        assert any(path.endswith(CASES[name].pictures) for path in files), sorted(files)
        artifacts = {artifact["type"]: artifact for artifact in of_type(content, "artifact")}
        assert set(artifacts) == {"dataset", "model", "run_table"}
        model = artifacts["model"]
        assert "best" in model["aliases"] and model["name"] == f"model-{of_type(content, 'run')[0]['run_id']}"
        assert {entry["path"] for entry in model["manifest"]["contents"]} == {"best.ckpt", "MODEL_CARD.md"}
        assert any(key.startswith("test/") for key in json.loads(model["metadata"]))
        data = artifacts["dataset"]
        digests.add(data["digest"])
        assert {entry["path"] for entry in data["manifest"]["contents"]} <= {"data", "dataset.json"}
        (alert,) = of_type(content, "alert")
        assert alert["level"] == "INFO" and alert["title"] == f"{CASES[name].task.family} finished"
        tables.append([entry["ncols"] for entry in _tables(content)])
    assert len(digests) == 1  # both runs saw the same data
    assert tables[0] == tables[1] and tables[0]


def _tables(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [row["item"] for row in of_type(content, "history")]
    return [{"ncols": row["test/picture_table.ncols"]} for row in rows if "test/picture_table.ncols" in row]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["detection", "segmentation", "diffusion", "ssl"])
def test_every_panel_shows_what_the_runs_log(jobs: dict[str, Any], family: str) -> None:
    names: set[str] = set()
    for name, case in CASES.items():
        if case.tags[0] == family:
            names |= {key for content in jobs[name] for key in logged(content)}
    may_lack = {"train/r1", "train/l1", "test/distances"}
    script = dashboards()
    for specs in script.sections(script.FAMILIES[family]).values():
        for wanted in (one for spec in specs for one in spec.get("metrics", [])):
            plain = wanted.removesuffix(".max").removesuffix(".min")
            of_gans = family == "segmentation" and plain in ("train/generator", "train/discriminator")
            of_many = family == "diffusion" and plain.startswith("val/")  # distances want several images
            assert fnmatch.filter(names, plain) or plain in may_lack or of_gans or of_many, wanted
