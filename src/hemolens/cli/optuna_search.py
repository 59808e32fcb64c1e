"""A search by Optuna: its ask and tell around Hydra's launchers, with a study that survives a kill."""

import contextlib
import csv
import logging
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hemolens.cli.launchers import MISSING_PLUGIN, SweepError, jobs_at_once, trial_number
from hemolens.cli.run_guard import InUse, PrunedScore
from hemolens.cli.sweeping import check_jobs, one_folder
from hemolens.cli.words import config_dir_words
from hemolens.io.atomic import atomic_path, write_json

if TYPE_CHECKING:
    from optuna import Study

log = logging.getLogger("hemolens")

JOURNAL = "study.journal"
APART = ("sweep", "launcher", "logger", "sweep_name", "test", "tags")  # settings that change no score
RESULT_FILES = ("study.json", "trials.csv", "trials.png")


def search(sweeper: Sweeper, config: DictConfig, arguments: Sequence[str]) -> None:
    """Run trials until the study has ``n_trials`` that ended with a score or were pruned.

    A trial that a killed search left running is run again first, with the same values and so in the same folder; one
    that still runs elsewhere is left alone. A job that fails is told as such and does not stop the others.

    Raises:
        SweepError: before any job: Optuna is missing, nothing to search for or in, a study of other settings.
        Exception: at the end, the first failure of a job.
    """
    optuna, settings = _optuna(), config.hydra.sweeper
    fixed, space = read_space(config, arguments, settings.params or {}, optuna)
    fixed += one_folder(sweeper, space)
    check_jobs(sweeper, [[*fixed, *words_of({key: _some_value(kind) for key, kind in space.items()})]])
    study = _open_study(config, optuna, fixed)
    states = optuna.trial.TrialState
    for trial in study.get_trials(states=(states.RUNNING,)):
        if set(trial.params) != set(space):  # of another space, or cut off while it was drawn
            study.tell(trial.number, state=states.FAIL)
    waiting = {trial.number: trial.params for trial in study.get_trials(states=(states.RUNNING, states.WAITING))}
    done = len(study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED)))
    to_run = settings.n_trials - done
    log.info("search %s: %d of %d trials are done, %d go on", study.study_name, done, settings.n_trials, len(waiting))
    at_once = settings.max_batch_size or jobs_at_once(config.hydra)
    failures: list[BaseException] = []
    while to_run > 0:
        batch: dict[int, dict[str, Any]] = {}
        for number, params in waiting.items():  # jobs of equal values would share a folder: one after the other
            if len(batch) < min(at_once, to_run) and params not in batch.values():
                batch[number] = params
        waiting = {number: params for number, params in waiting.items() if number not in batch}
        while len(batch) < min(at_once, to_run):
            # a sampler of its own for each trial, or a search that goes on would draw its first random trials again
            entropy = np.random.SeedSequence([settings.seed, len(study.get_trials(deepcopy=False))])
            study.sampler = instantiate(settings.sampler, seed=int(entropy.generate_state(1)[0]))
            drawn = _ask(study, space, optuna)
            if drawn.params in batch.values():
                waiting[drawn.number] = drawn.params
                break
            batch[drawn.number] = drawn.params
        to_run -= len(batch)
        jobs = [[*fixed, *words_of(params), f"hydra.sweeper.trial={number}"] for number, params in batch.items()]
        try:
            check_jobs(sweeper, jobs)
        except BaseException:
            for number in batch:  # else they would be tried again for ever
                study.tell(number, state=states.FAIL)
            raise
        failures += _run(sweeper, study, list(batch), jobs, optuna)
    _write_results(study, config, fixed, optuna)
    if failures:
        raise failures[0]


def _ask(study: "Study", space: Mapping[str, Any], optuna: ModuleType) -> Any:
    try:
        return study.ask(dict(space))
    except ValueError as error:
        drawn = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))[-1]
        study.tell(drawn.number, state=optuna.trial.TrialState.FAIL)
        raise SweepError(
            f"the study {study.study_name} was begun with another space ({error}): give another sweep_name"
        ) from error


def _some_value(kind: Any) -> Any:
    """A value of a distribution, to look at a trial's config before there is one."""
    return kind.choices[0] if hasattr(kind, "choices") else kind.low


def _run(
    sweeper: Sweeper, study: "Study", numbers: Sequence[int], jobs: Sequence[Sequence[str]], optuna: ModuleType
) -> list[BaseException]:
    """Launch a batch of trials and tell the study how each ended; returns what went wrong."""
    assert sweeper.launcher is not None
    states = optuna.trial.TrialState
    failures: list[BaseException] = []
    try:
        returns: Sequence[JobReturn] = sweeper.launcher.launch(jobs, initial_job_idx=numbers[0])
    except Exception as error:  # a job's process died; which one is not said: they run again with the next call
        return [error]
    for number, job in zip(numbers, returns, strict=True):
        score = job._return_value
        if job.status == JobStatus.FAILED and isinstance(score, InUse):
            failures.append(score)  # another search's job is at it, and tells
        elif job.status == JobStatus.FAILED or score is None or not math.isfinite(score):
            study.tell(number, state=states.FAIL, skip_if_finished=True)
            if job.status == JobStatus.FAILED:
                failures.append(score)
        elif isinstance(score, PrunedScore):
            study.tell(number, state=states.PRUNED, skip_if_finished=True)
        else:
            study.tell(number, float(score), skip_if_finished=True)
    return failures


def words_of(params: Mapping[str, Any]) -> list[str]:
    """A trial's values as overrides; texts are Hydra's own, quotes included."""
    return [f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in params.items()]


def read_space(
    config: DictConfig, arguments: Sequence[str], params: Mapping[str, Any], optuna: ModuleType
) -> tuple[list[str], dict[str, Any]]:
    """The overrides that all trials share, and the distributions to draw from.

    Args:
        config: of the multirun.
        arguments: the command line's overrides, which replace those of ``params``.
        params: key to value or space, in Hydra's syntax.
        optuna: the module.

    Raises:
        SweepError: no space, a space that is empty, no metric to search for.
    """
    if not config.get("optimized_metric"):
        raise SweepError("a search needs a score: add optimized_metric=…, e.g. val/map (files in sweep/ have one)")
    lines = [f"{key}={value}" for key, value in params.items()] + list(arguments)
    overrides = {override.get_key_element(): override for override in OverridesParser.create().parse_overrides(lines)}
    fixed, space = [], {}
    for key, override in overrides.items():
        if override.is_sweep_override():
            space[key] = distribution(override, optuna)
        else:
            fixed.append(f"{key}={override.get_value_element_as_str()}")
    if not space:
        raise SweepError(
            "nothing to search in: choose a sweep=optuna_… or give a space, e.g. "
            "'optimizer.lr=tag(log, interval(1e-5, 1e-2))'"
        )
    return fixed, space


def distribution(override: Override, optuna: ModuleType) -> Any:
    """Optuna's distribution of a space in Hydra's syntax; the end of a range is not in it, as Hydra has it."""
    space, kinds = override.value(), optuna.distributions
    is_log = isinstance(space, IntervalSweep | RangeSweep) and "log" in space.tags
    if isinstance(space, IntervalSweep) and space.start is not None and space.end is not None:
        if isinstance(space.start, int) and isinstance(space.end, int):
            return kinds.IntDistribution(space.start, space.end, log=is_log)
        return kinds.FloatDistribution(float(space.start), float(space.end), log=is_log)
    if isinstance(space, RangeSweep):
        values = list(space.range())
        if not values or is_log:
            raise SweepError(f"{override.input_line}: {'a range has steps, so no log' if values else 'is empty'}")
        if all(isinstance(value, int) for value in values):
            return kinds.IntDistribution(values[0], values[-1], step=int(space.step))
        return kinds.FloatDistribution(values[0], values[-1], step=float(space.step))
    if isinstance(space, ChoiceSweep) or override.is_discrete_sweep():
        return kinds.CategoricalDistribution([str(value) for value in override.sweep_iterator(Transformer.str)])
    raise SweepError(f"{override.input_line}: no space; give interval(a, b), range(a, b), or choice(a, b)")


def _optuna() -> ModuleType:
    try:
        import optuna
    except ImportError:
        raise SweepError(f"a search needs Optuna: {MISSING_PLUGIN}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the jobs' own lines say what runs
    return optuna


def _storage(sweeper: DictConfig, sweep_dir: Path, optuna: ModuleType) -> Any:
    if sweeper.storage:
        return sweeper.storage
    journal = sweep_dir / JOURNAL
    journal.parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))


def _direction(config: DictConfig) -> str:
    if config.hydra.sweeper.direction:
        return str(config.hydra.sweeper.direction)
    monitor = config.get("monitor")
    if monitor is None or monitor.metric != config.optimized_metric:
        raise SweepError(
            f"is more or less {config.optimized_metric} better? Add hydra.sweeper.direction=maximize or minimize"
        )
    return {"max": "maximize", "min": "minimize"}[monitor.mode]


def _open_study(config: DictConfig, optuna: ModuleType, fixed: Sequence[str]) -> "Study":
    sweeper, direction = config.hydra.sweeper, _direction(config)
    sweep_dir = Path(config.hydra.sweep.dir).absolute()
    study: Study = optuna.create_study(
        study_name=sweeper.study_name,
        storage=_storage(sweeper, sweep_dir, optuna),
        direction=direction,
        load_if_exists=True,
    )
    if (before := study.direction.name.lower()) != direction:
        raise SweepError(
            f"the study {sweeper.study_name} in {sweeper.storage or sweep_dir / JOURNAL} is to {before} its score, "
            f"not to {direction}: give another sweep_name"
        )
    settings = sorted(w for w in fixed if w.partition("=")[0] not in APART and not w.startswith("hydra."))
    if other := set(settings) ^ set(study.user_attrs.get("settings", settings)):
        raise SweepError(
            f"the study {sweeper.study_name} was begun with other settings ({', '.join(sorted(other))} in one of the "
            "two): its scores would not compare; give another sweep_name"
        )
    study.set_user_attr("settings", settings)
    return study


class _RunningTrial:
    """A trial as its own job sees it: in another process than the search, through the storage."""

    def __init__(self, study: "Study", number: int, optuna: ModuleType) -> None:
        frozen = study.get_trials(deepcopy=False)[number]
        self.reported = set(frozen.intermediate_values)
        self.trial = optuna.trial.Trial(study, frozen._trial_id)
        self.told = optuna.exceptions.UpdateFinishedTrialError

    def report(self, value: float, step: int) -> None:
        if step in self.reported:  # of before a kill
            return
        with contextlib.suppress(self.told):  # another search has told how it ended; the training goes on
            self.trial.report(value, step)
        self.reported.add(step)

    def should_prune(self) -> bool:
        return bool(self.trial.should_prune())


def open_trial() -> _RunningTrial | None:
    """This job's trial, to report to and to be pruned by; None: it is none, or the search has no pruner."""
    number = trial_number()
    if number is None or not (sweeper := HydraConfig.get().sweeper).pruner:
        return None
    optuna = _optuna()
    study = optuna.load_study(
        study_name=sweeper.study_name,
        storage=_storage(sweeper, Path(HydraConfig.get().sweep.dir).absolute(), optuna),
        pruner=instantiate(sweeper.pruner),
    )
    return _RunningTrial(study, number, optuna)


def _write_results(study: "Study", config: DictConfig, words: Sequence[str], optuna: ModuleType) -> None:
    """``study.json``, ``trials.csv`` and ``trials.png`` in the sweep folder; the best trial to stderr."""
    from hemolens.analysis.figures import save_figure
    from hemolens.analysis.search_figures import plot_search

    folder, trials = Path(config.hydra.sweep.dir).absolute(), study.get_trials(deepcopy=False)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value if trial.value is not None and math.isfinite(trial.value) else None,
            "last_report": trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None,
            "params": {key: _plain(value) for key, value in trial.params.items()},
        }
        for trial in trials
    ]
    complete = any(row["state"] == "complete" for row in rows)
    best = rows[study.best_trial.number] if complete else None
    write_json(
        folder / RESULT_FILES[0],
        {
            "study": study.study_name,
            "metric": config.optimized_metric,
            "direction": study.direction.name.lower(),
            "best": best,
            "trials": rows,
        },
        overwrite=True,
    )
    names = sorted({name for row in rows for name in row["params"]})
    with atomic_path(folder / RESULT_FILES[1], overwrite=True) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "state", "value", "last_report", *names])
        for row in rows:
            writer.writerow(
                [row["number"], row["state"], row["value"], row["last_report"], *(row["params"].get(n) for n in names)]
            )
    if best is None:
        print(f"\nhemolens: no trial of {study.study_name} has a score yet", file=sys.stderr)
        return
    figure = plot_search(rows, str(config.optimized_metric), maximize=study.direction.name.lower() == "maximize")
    save_figure(figure, folder / RESULT_FILES[2], overwrite=True)
    shared = [w for w in words if w.partition("=")[0] not in ("sweep", "launcher") and not w.startswith("hydra.")]
    command = shlex.join(["hemolens", "train", *config_dir_words(), *shared, *words_of(study.best_trial.params)])
    print(
        f"\nBest of {len(rows)} trials: {best['number']}, {config.optimized_metric} {best['value']:.4f}. Again:\n"
        f"  {command}\n{', '.join(str(folder / name) for name in RESULT_FILES)}",
        file=sys.stderr,
    )


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
