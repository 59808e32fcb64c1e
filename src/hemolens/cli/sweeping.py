"""What our sweepers share: jobs are looked at before the first begins, and a failure waits until all have run."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper

from hemolens.cli.launchers import check_one_device
from hemolens.cli.words import hydra_word


def check_jobs(sweeper: Sweeper, jobs: Sequence[Sequence[str]]) -> None:
    """Compose every job's config; a slip in one of them, or several devices, is an error before any has begun."""
    assert sweeper.hydra_context is not None and sweeper.config is not None
    for job in jobs:
        check_one_device(sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, list(job)))


def one_folder(sweeper: Sweeper, swept: Iterable[str]) -> list[str]:
    """An override that keeps all jobs in the sweep's folder where what names it is among the keys ``swept``."""
    assert sweeper.config is not None
    if not {"experiment", "task_name"} & set(swept):
        return []
    return [hydra_word("hydra.sweep.dir", Path(sweeper.config.hydra.sweep.dir).absolute())]


class Patience:
    """A launcher whose failures are told at the end.

    A job that raises comes back as a failed return. One whose process dies (out of memory, killed) makes the launcher
    itself raise, and with it the other jobs of its batch are given up.
    """

    def __init__(self, launcher: Launcher | None) -> None:
        assert launcher is not None
        self.launcher = launcher
        self.returns: list[JobReturn] = []
        self.errors: list[Exception] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch; the sweeper gets nothing that it could raise."""
        try:
            self.returns += self.launcher.launch(job_overrides, initial_job_idx=initial_job_idx)
        except Exception as error:
            self.errors.append(error)
        return []

    def settle(self) -> list[Any]:
        """The jobs' scores, or the first failure."""
        scores = [job.return_value for job in self.returns]
        if self.errors:
            raise self.errors[0]
        return scores
