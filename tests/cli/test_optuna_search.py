"""A search by Optuna: spaces, studies that go on, failures, pruning, results; launchers are functions here."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from hemolens.callbacks.trial_pruning import TrialPruning
from hemolens.cli.app import config_dir, register_resolvers
from hemolens.cli.compose import composed
from hemolens.cli.launchers import SweepError
from hemolens.cli.optuna_search import distribution, open_trial, search
from hemolens.cli.run_guard import InUse, PrunedScore
from hemolens.io.run_folder import read_status


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0, 2)", optuna.distributions.FloatDistribution(0.0, 2.0)),
        ("tag(log, interval(1e-5, 1e-2))", optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True)),
        ("int(interval(1, 8))", optuna.distributions.IntDistribution(1, 8)),
        ("range(0, 10, 3)", optuna.distributions.IntDistribution(0, 9, step=3)),
        ("range(0, 10, 2)", optuna.distributions.IntDistribution(0, 8, step=2)),  # 10 is not in it
        ("choice(resunet18, unet_s)", optuna.distributions.CategoricalDistribution(["resunet18", "unet_s"])),
        ("1e-3,1e-4", optuna.distributions.CategoricalDistribution(["0.001", "0.0001"])),
        ("[1, 2],null", optuna.distributions.CategoricalDistribution(["[1,2]", "null"])),
    ],
)
def test_hydras_spaces_are_optunas(text: str, expected: Any) -> None:
    assert distribution(OverridesParser.create().parse_override(f"a.b={text}"), optuna) == expected


@pytest.mark.parametrize("text", ["range(3, 3)", "tag(log, range(1, 5))"])
def test_an_impossible_space_is_refused(text: str) -> None:
    with pytest.raises(SweepError, match="range"):
        distribution(OverridesParser.create().parse_override(f"a={text}"), optuna)


Job = Callable[[int, dict[str, str]], Any]


class Launcher:
    """Runs ``job(trial, values)``, which returns a score or raises; records what it was given."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ran: list[tuple[int, dict[str, str]]] = []
        self.batches: list[int] = []

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.batches.append(len(jobs))
        returns = []
        for words in jobs:
            values = dict(word.split("=", 1) for word in words)
            number = int(values.pop("hydra.sweeper.trial"))
            self.ran.append((number, values))
            result = JobReturn()
            try:
                result.return_value, result.status = self.job(number, values), JobStatus.COMPLETED
            except (ValueError, InUse) as error:
                result.return_value, result.status = error, JobStatus.FAILED
            returns.append(result)
        return returns


def score(number: int, values: dict[str, str]) -> float:
    return 1 / (1 + abs(math.log10(float(values["optimizer.lr"])) + 3))


def configured(folder: Path, *words: str) -> DictConfig:
    register_resolvers()
    overrides = ["sweep=optuna", f"paths.output_dir={folder}", *words]
    return composed(str(config_dir()), "train", overrides, with_hydra=True)


def nothing(*arguments: Any) -> None:
    """In place of a look at the jobs' configs, which are composed in test_sweeps.py."""


def run(
    config: DictConfig, job: Job, *words: str, monkeypatch: pytest.MonkeyPatch, check: Callable[..., None] = nothing
) -> Launcher:
    monkeypatch.setattr("hemolens.cli.optuna_search.check_jobs", check)
    launcher = Launcher(job)
    search(SimpleNamespace(launcher=launcher, config=config), config, words)  # type: ignore[arg-type]
    return launcher


def results(config: DictConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(config.hydra.sweep.dir) / "study.json").read_text())
    return content


def test_a_search_goes_on_repeats_what_was_cut_off_and_draws_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(number: int, values: dict[str, str]) -> float:
        if number == 3:
            raise KeyboardInterrupt  # as good as a kill: the study is told nothing
        return score(number, values)

    config = configured(tmp_path / "cut", "hydra.sweeper.n_trials=6", "hydra.sweeper.sampler.n_startup_trials=2")
    with pytest.raises(KeyboardInterrupt):
        run(config, killed, "seed=7", monkeypatch=monkeypatch)
    second = run(config, score, "seed=7", monkeypatch=monkeypatch)
    assert [number for number, _ in second.ran] == [3, 4, 5]
    assert run(config, score, "seed=7", monkeypatch=monkeypatch).ran == []  # complete: nothing to do
    content = results(config)
    assert [trial["state"] for trial in content["trials"]] == ["complete"] * 6
    assert content["best"]["value"] == max(trial["value"] for trial in content["trials"])
    assert content["direction"] == "maximize" and content["metric"] == "val/map"
    with (Path(config.hydra.sweep.dir) / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["optimizer.lr"]) for row in rows] == [t["params"]["optimizer.lr"] for t in content["trials"]]
    assert (Path(config.hydra.sweep.dir) / "trials.png").stat().st_size > 5000
    assert f"optimizer.lr={content['best']['params']['optimizer.lr']}" in capsys.readouterr().err
    whole = configured(tmp_path / "whole", *config.hydra.overrides.hydra)
    first = run(whole, score, "seed=7", monkeypatch=monkeypatch)
    assert [values for _, values in first.ran] == [
        {"seed": "7"} | {key: repr(value) for key, value in trial["params"].items()} for trial in content["trials"]
    ]


def test_failures_are_told_stop_nothing_and_are_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(number: int, values: dict[str, str]) -> float:
        if number == 1:
            raise ValueError("too fast")
        return math.nan if number == 2 else score(number, values)

    config = configured(tmp_path, "hydra.sweeper.n_trials=4", "hydra.sweeper.max_batch_size=3")
    with pytest.raises(ValueError, match="too fast"):
        run(config, fails, monkeypatch=monkeypatch)
    assert [trial["state"] for trial in results(config)["trials"]] == ["complete", "fail", "fail", "complete"]
    again = run(config, score, monkeypatch=monkeypatch)
    assert again.batches == [2]
    states = [trial["state"] for trial in results(config)["trials"]]
    assert states.count("complete") == 4 and states.count("fail") == 2


def test_the_launchers_width_is_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path, "launcher=joblib", "hydra.launcher.n_jobs=3", "hydra.sweeper.n_trials=5")
    assert run(config, score, monkeypatch=monkeypatch).batches == [3, 2]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["optimized_metric=null"], "optimized_metric"),
        (["optimized_metric=test/map"], "direction"),
        (["optimizer.lr=1e-3", "optimizer.weight_decay=0.1"], "nothing to search"),
    ],
)
def test_what_a_search_cannot_do_without_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], match: str
) -> None:
    config = configured(tmp_path, *(word for word in words if word.startswith("optimized")))
    more = [word for word in words if not word.startswith("optimized")]
    with pytest.raises(SweepError, match=match):
        run(config, score, *more, monkeypatch=monkeypatch)


def test_a_slip_is_found_before_the_study_knows_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path, "hydra.sweeper.n_trials=2")
    looked: list[list[list[str]]] = []

    def slip(sweeper: Any, jobs: list[list[str]]) -> None:
        looked.append(jobs)
        if len(looked) in (1, 3):
            raise SweepError("no config key 'optimizer.lrr'")

    with pytest.raises(SweepError, match="lrr"):
        run(config, score, "optimizer.lrr=interval(1,2)", monkeypatch=monkeypatch, check=slip)
    assert "optimizer.lrr=1.0" in looked[0][0] and not list(tmp_path.rglob("study.journal"))
    with pytest.raises(SweepError, match="lrr"):  # one that only the values drawn bring about
        run(config, score, monkeypatch=monkeypatch, check=slip)
    assert len(run(config, score, monkeypatch=monkeypatch, check=slip).ran) == 2
    assert [trial["state"] for trial in results(config)["trials"]] == ["fail", "complete", "complete"]


def test_a_study_keeps_its_space_and_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path, "hydra.sweeper.n_trials=3")
    space, only = "optimizer.lr=choice(1e-3,1e-2)", "optimizer.weight_decay=0.1"
    run(config, score, space, only, "logger=csv", monkeypatch=monkeypatch)
    config.hydra.sweeper.n_trials = 5
    with pytest.raises(SweepError, match=r"other settings \(seed=8 in one of the two\).*sweep_name"):
        run(config, score, space, only, "seed=8", monkeypatch=monkeypatch)
    with pytest.raises(SweepError, match="another space"):
        run(config, score, "optimizer.lr=choice(1e-3,1e-4)", only, monkeypatch=monkeypatch)
    again = run(config, score, space, only, "logger=wandb_offline", monkeypatch=monkeypatch)  # changes no score
    assert len(again.ran) == 2 and all(values["optimizer.lr"] in ("0.001", "0.01") for _, values in again.ran)


def test_a_trial_that_still_runs_elsewhere_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(number: int, values: dict[str, str]) -> float:
        if number == 0:
            raise InUse("in use by process 7")
        return score(number, values)

    config = configured(tmp_path, "hydra.sweeper.n_trials=2")
    with pytest.raises(InUse, match="process 7"):
        run(config, busy, monkeypatch=monkeypatch)
    assert [trial["state"] for trial in results(config)["trials"]] == ["running", "complete"]
    assert [number for number, _ in run(config, score, monkeypatch=monkeypatch).ran] == [0]


def test_trials_of_equal_values_do_not_run_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path, "hydra.sweeper.n_trials=6", "hydra.sweeper.max_batch_size=3")
    launcher = run(
        config, score, "optimizer.lr=choice(1e-3,1e-2)", "optimizer.weight_decay=0.1", monkeypatch=monkeypatch
    )
    assert sum(launcher.batches) == len(launcher.ran) == 6
    ran = iter(launcher.ran)
    for count in launcher.batches:
        rates = [next(ran)[1]["optimizer.lr"] for _ in range(count)]
        assert len(set(rates)) == count


class FakeTrainer:
    """As much of a Trainer as the pruning callback looks at."""

    def __init__(self) -> None:
        self.callback_metrics: dict[str, torch.Tensor] = {}
        self.should_stop = False
        self.sanity_checking = False


def test_a_trial_that_does_worse_than_the_others_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trial 3 is bad, which counts from the second validation on; each reports through its own view of the study."""
    words = ["hydra.sweeper.n_trials=4", "hydra.sweeper.pruner.n_startup_trials=3"]
    config = configured(tmp_path, *words, "hydra.sweeper.pruner.n_warmup_steps=1")
    stopped_after: dict[int, int] = {}

    def job(number: int, values: dict[str, str]) -> float:
        hydra_cfg = config.hydra.copy()
        hydra_cfg.sweeper.trial = number
        monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
        monkeypatch.setattr(HydraConfig, "get", lambda: hydra_cfg)
        trial = open_trial()
        assert trial is not None
        run_dir = tmp_path / f"run{number}"
        run_dir.mkdir()
        callback, trainer = TrialPruning(trial, "val/map", str(run_dir)), FakeTrainer()
        for validation in range(3):
            callback = resumed(callback, trial, run_dir)  # as after a kill: the count comes from the checkpoint
            trainer.callback_metrics = {"val/map": torch.tensor(0.1 if number == 3 else 0.9)}
            callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
            if trainer.should_stop:
                stopped_after[number] = validation + 1
                break
        value = float(trainer.callback_metrics["val/map"])
        return PrunedScore(value) if read_status(run_dir).get("pruned") else value

    run(config, job, monkeypatch=monkeypatch)
    trials = results(config)["trials"]
    assert stopped_after == {3: 2}
    assert [trial["state"] for trial in trials] == ["complete"] * 3 + ["pruned"]
    assert trials[3]["last_report"] == pytest.approx(0.1)


def resumed(callback: TrialPruning, trial: Any, run_dir: Path) -> TrialPruning:
    other = TrialPruning(trial, "val/map", str(run_dir))
    other.load_state_dict(callback.state_dict())
    return other


def test_a_job_that_is_no_trial_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: configured(tmp_path, "sweep=seeds").hydra)
    assert open_trial() is None
