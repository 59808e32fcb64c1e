"""What reports are made from: run folders of ``hemolens train`` and ``eval``, and folders of ``hemolens predict``."""

import glob
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from hemolens.analysis.storage_sources import GeneratedPairs, StorageSeries, read_pairs, read_series
from hemolens.errors import UserError

BACKBONES = {"resnet18": "ResNet-18", "resnet50": "ResNet-50", "swin_tiny_patch4_window7_224": "Swin Transformer"}
TRUTH_FILES = ("cells.csv", "simulation.json")  # by which a folder of `hemolens simulate` is known


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run whose network was tested.

    Attributes:
        path: run folder.
        test: ``test.json``: network, seed, counts by class, scores.
        status: ``status.json``: command, device, time.
        commit: of the code that it was made with; None where that is not known.
        recipe: all of its config that matters but the seed, as text: equal for runs that differ in their seed alone.
    """

    path: Path
    test: dict[str, Any]
    status: dict[str, Any]
    commit: str | None
    recipe: str


@dataclass(frozen=True, kw_only=True)
class DetectionRun(FinishedRun):
    """A tested detector.

    Attributes:
        backbone: by the papers' names where they have one.
    """

    backbone: str

    @property
    def simulated(self) -> bool:
        """Whether it was tested on simulated tomograms."""
        return bool(self.test["data"] == "SimulatedTomogramDataModule")


@dataclass(frozen=True, kw_only=True)
class SegmentationRun(FinishedRun):
    """A tested segmentation.

    Attributes:
        net: name of its network's config, from the name of the experiment.
        binning: pixels that became one along each axis (``data.binning``), in training and in the test.
        arm: of an ablation; None outside of one.
        phase_limits_rad: what the network's -1 and 1 stand for.
        pixel_um: side of a pixel of its images; None where it is not known.
    """

    net: str
    binning: int = 1
    arm: str | None = None
    phase_limits_rad: tuple[float, float] | None = None
    pixel_um: float | None = None

    @property
    def simulated(self) -> bool:
        """Whether it was tested on simulated holograms."""
        return bool(self.test["data"] == "SimulatedHologramDataModule")

    @property
    def seconds(self) -> dict[str, Any]:
        """Inference times, see ``inference.timing``; empty where they were not taken."""
        return dict(self.test.get("inference") or {})


Run = TypeVar("Run", DetectionRun, SegmentationRun)


@dataclass(frozen=True)
class HematologyPrediction:
    """What ``predict pipeline=hematology`` wrote.

    Attributes:
        path: its folder.
        about: ``prediction.json``.
        files: every tomogram that was looked at, also those without a cell.
        cells, samples: the tables.
        features: arrays of ``features.npz``; None where they were not kept.
    """

    path: Path
    about: dict[str, Any]
    files: tuple[str, ...]
    cells: pd.DataFrame
    samples: pd.DataFrame
    features: dict[str, NDArray[Any]] | None


@dataclass(frozen=True)
class Sources:
    """All that was found; ``left_out`` says what was there but could not be used, and why."""

    detection: tuple[DetectionRun, ...]
    segmentation: tuple[SegmentationRun, ...]
    hematology: tuple[HematologyPrediction, ...]
    storage: tuple[StorageSeries, ...]
    pairs: tuple[GeneratedPairs, ...]
    left_out: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Where the report's numbers come from, without folders of this machine."""
        keys = ("task_name", "seed", "backbone", "parameters", "tested")
        tested: list[FinishedRun] = [*self.detection, *self.segmentation]
        runs = [
            {
                **{key: run.test[key] for key in keys},
                "commit": (run.commit or "")[:10],
                **{key: run.status.get(key) for key in ("device", "precision", "global_step", "wall_seconds")},
            }
            for run in tested
        ]
        measured = []
        for found in self.hematology[:1]:
            settings = found.about.get("hematology") or {}
            plain = {key: value for key, value in settings.items() if key not in ("manifest", "calibration")}
            measured.append({"hematology": plain, **{k: found.about.get(k) for k in ("score_threshold", "commit")}})
        return {"runs": runs, "measured": measured}


def find_sources(places: Sequence[str]) -> Sources:
    """Runs and predictions in and below folders.

    Args:
        places: folders or globs.

    Raises:
        UserError: a place does not exist, or nothing usable is there.
    """
    folders: list[Path] = []
    for place in places:
        fitting = sorted(Path(path) for path in glob.glob(place, recursive=True) if Path(path).is_dir())
        if not fitting:
            raise UserError(f"no folder at runs={place}: give run folders, folders of them, or a glob in quotes")
        folders += fitting
    runs: dict[Path, DetectionRun | SegmentationRun] = {}
    hematology: dict[Path, HematologyPrediction] = {}
    storage: dict[Path, StorageSeries] = {}
    pairs: dict[Path, GeneratedPairs] = {}
    left_out: dict[Path, str] = {}
    for folder in folders:
        for status in sorted(folder.rglob("status.json")):
            with _leave_out_damaged(status.parent, left_out):
                run = _tested_run(status, left_out)
                if run is not None:
                    runs[status.parent.resolve()] = run
        for about in sorted(folder.rglob("prediction.json")):
            with _leave_out_damaged(about.parent, left_out):
                content = json.loads(about.read_text(encoding="utf-8"))
                if content["pipeline"] == "hematology":
                    hematology[about.parent.resolve()] = _prediction(about.parent, content)
                elif content["pipeline"] == "storage":
                    storage[about.parent.resolve()] = read_series(about.parent)
        for accepted in sorted(folder.rglob("selected/accept.csv")):
            generated = accepted.parent.parent
            with _leave_out_damaged(generated, left_out):
                pairs[generated.resolve()] = read_pairs(generated)
    if not runs and not hematology:
        reasons = f" ({'; '.join(left_out.values())})" if left_out else ""
        raise UserError(
            f"nothing to report in {', '.join(places)}{reasons}: give finished runs of `hemolens train` or `eval`, and "
            "folders of `hemolens predict pipeline=hematology`"
        )
    found = sorted(runs.values(), key=lambda run: (run.test["parameters"], run.test["task_name"], run.test["seed"]))
    detection = tuple(run for run in found if isinstance(run, DetectionRun))
    segmentation = tuple(run for run in found if isinstance(run, SegmentationRun))
    newest = sorted(hematology.values(), key=lambda found: (found.path / "cells.csv").stat().st_mtime, reverse=True)
    return Sources(
        detection=detection,
        segmentation=segmentation,
        hematology=tuple(newest),
        storage=tuple(storage.values()),
        pairs=tuple(pairs.values()),
        left_out=tuple(left_out.values()),
    )


@contextmanager
def _leave_out_damaged(folder: Path, left_out: dict[Path, str]) -> Iterator[None]:
    """Note a folder whose files are not what their names say, instead of failing."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, yaml.YAMLError) as error:
        left_out[folder.resolve()] = f"{folder.name} is damaged or foreign ({type(error).__name__}: {error})"


def _tested_run(status_file: Path, left_out: dict[Path, str]) -> DetectionRun | SegmentationRun | None:
    folder = status_file.parent
    status = json.loads(status_file.read_text(encoding="utf-8"))
    if status.get("superseded") or status.get("job") not in ("train", "eval"):
        return None
    if status.get("state") != "finished":
        left_out[folder.resolve()] = f"{folder.name} is {status.get('state')}"
        return None
    if not (folder / "test.json").is_file():
        left_out[folder.resolve()] = f"{folder.name} holds no test.json (not tested, or by an older hemolens)"
        return None
    test = json.loads((folder / "test.json").read_text(encoding="utf-8"))
    if "matched" not in test and "dice_skip" not in test:
        return None  # of another task
    git = folder / "git.json"
    commit = json.loads(git.read_text(encoding="utf-8")).get("commit") if git.is_file() else None
    config = yaml.safe_load((folder / "config_resolved.yaml").read_text(encoding="utf-8"))
    parts = ("data", "decode", "model", "net", "optimizer", "scheduler", "trainer")
    shared = {name: _without(config.get(name), "seed", "cache_dir", "default_root_dir") for name in parts}
    same = ("task_name", "backbone", "parameters", "data", "class_counts")
    recipe = json.dumps([status["job"], *(test[key] for key in same), shared], sort_keys=True, default=str)
    found: dict[str, Any] = {"path": folder, "test": test, "status": status, "commit": commit, "recipe": recipe}
    if "dice_skip" in test:
        named = re.match(r"(seg|gan)_(.+?)_simholo", test["task_name"])
        net = "" if named is None else {"seg": "", "gan": "ddgan_"}[named[1]] + named[2]
        data = config["data"]
        pixel_um = (data.get("holography") or data).get("pixel_um")
        found |= {"binning": data.get("binning", 1), "arm": config.get("arm_name")}
        found["phase_limits_rad"] = data.get("phase_limits_rad")
        found["pixel_um"] = None if pixel_um is None else pixel_um * found["binning"]
        return SegmentationRun(net=net or test["network"], **found)
    return DetectionRun(backbone=BACKBONES.get(test["backbone"], test["backbone"]), **found)


def group_runs(runs: Sequence[Run], base_name: Callable[[Run], str]) -> list[tuple[str, list[Run]]]:
    """Runs that differ in nothing but their seed, with a name for each group; the smallest network first.

    Of two runs with the same seed the newer one counts.

    Args:
        runs: in any order.
        base_name: name of a run, to which more is added where groups would share it.
    """
    groups: dict[str, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: (run.path / "test.json").stat().st_mtime):
        groups.setdefault(run.recipe, {})[run.test["seed"]] = run
    members = [[seeds[seed] for seed in sorted(seeds)] for seeds in groups.values()]
    members.sort(key=lambda group: (group[0].test["parameters"], group[0].test["task_name"], group[0].path.name))
    names: list[str] = []
    for more in (
        lambda run: "",
        lambda run: f" ({run.test['task_name']})",
        lambda run: f" ({run.test['task_name']}, {run.path.name})",
        lambda run: f" ({run.path})",
    ):
        names = [base_name(group[0]) + more(group[0]) for group in members]
        if len(set(names)) == len(names):
            break
    return list(zip(names, members, strict=True))


def _without(part: Any, *keys: str) -> Any:
    return {key: value for key, value in part.items() if key not in keys} if isinstance(part, dict) else part


def _prediction(folder: Path, about: dict[str, Any]) -> HematologyPrediction:
    features = None
    if (folder / "features.npz").is_file():
        with np.load(folder / "features.npz", allow_pickle=False) as stored:
            features = {name: stored[name] for name in stored.files}
    text = {"sample": str}
    return HematologyPrediction(
        path=folder,
        about=about,
        files=tuple(pd.read_csv(folder / "counts.csv")["image"].astype(str)),
        cells=pd.read_csv(folder / "cells.csv", dtype=text),
        samples=pd.read_csv(folder / "samples.csv", dtype=text),
        features=features,
    )


def find_truth(given: str | None, prediction: HematologyPrediction) -> Path | None:
    """The folder of ``hemolens simulate`` that a prediction looked at: given, or the input's or one above it.

    Raises:
        UserError: the given folder holds no ``cells.csv``.
    """
    if given:
        if not (Path(given) / TRUTH_FILES[0]).is_file():
            raise UserError(f"truth={given} holds no {TRUTH_FILES[0]}: give a folder that `hemolens simulate` wrote")
        return Path(given)
    stated = Path(str(prediction.about.get("input", "")))
    for base in (
        Path(),
        *prediction.path.absolute().parents[:3],
    ):  # as it was typed, from here or from near the results
        source = base / stated
        for folder in (source, *list(source.parents)[:2]):
            if all((folder / name).is_file() for name in TRUTH_FILES):
                return folder
    return None


def read_reference(path: Path) -> pd.DataFrame:
    """A laboratory's values: CSV with ``sample`` and ``mcv_fl``, ``mch_pg`` or both; other columns are left alone.

    Raises:
        UserError: a column is missing, a sample is there twice, or a value is no positive number.
    """
    if not path.is_file():
        raise UserError(f"no table at reference={path}: give a CSV with the columns sample, mcv_fl, mch_pg")
    try:
        table = pd.read_csv(path, dtype={"sample": str})
    except (OSError, ValueError) as error:  # pandas' parser errors and wrong encodings are ValueErrors
        raise UserError(f"{path} cannot be read as CSV in UTF-8: {error}") from error
    values = [name for name in ("mcv_fl", "mch_pg") if name in table]
    if "sample" not in table or not values:
        raise UserError(f"{path} has the columns {', '.join(table.columns)}: sample and mcv_fl or mch_pg are needed")
    if table["sample"].duplicated().any():
        raise UserError(f"{path} holds sample {table['sample'][table['sample'].duplicated()].iloc[0]} twice")
    for name in values:
        numbers = pd.to_numeric(table[name], errors="coerce")
        if (bad := ~(numbers > 0)).any():
            raise UserError(f"{path}: {name} of sample {table['sample'][bad].iloc[0]} is no positive number")
        table[name] = numbers
    return table
