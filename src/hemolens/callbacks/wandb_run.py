"""A run in W&B: which values count, and what it was made of and made, as artifacts with lineage."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

log = logging.getLogger(__name__)

STEP = "trainer/global_step"  # Lightning's x axis; a metric that is defined without it would lose it
# Logged in every family, beside what the task's ``metrics`` name.
COMMON = {"train/lr": "last", "train/lr_*": "last", "train/images_per_second": "mean"}


class RunLogger(WandbLogger):
    """Lightning's logger, which also knows whether the run's data and best checkpoint become artifacts.

    Args:
        artifacts: see :func:`use_data` and :func:`log_best`.
        options: see ``lightning.pytorch.loggers.WandbLogger``.
    """

    def __init__(self, *, artifacts: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.artifacts = artifacts


def wandb_runs(loggers: Iterable[Logger], *, artifacts: bool = False) -> list[Any]:
    """The W&B runs behind loggers; none in a process that is not the first.

    Args:
        loggers: of a trainer.
        artifacts: only those that keep artifacts.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        return []
    return [
        logger.experiment
        for logger in loggers
        if isinstance(logger, WandbLogger) and (not artifacts or getattr(logger, "artifacts", False))
    ]


def define_metrics(
    loggers: Iterable[Logger], metrics: Mapping[str, str], class_names: Sequence[str], monitor: str | None, mode: str
) -> None:
    """Tell W&B which value of each curve stands in the table of runs, e.g. as ``val/map.max``.

    The last value, which the scores of a test are too, stands there under the plain name without being asked for.
    Names are written out: of patterns that fit, W&B takes any, and Lightning's own ``*`` fits always.

    Args:
        loggers: of the run.
        metrics: of the task, see ``hemolens.tasks.base.Task``; :data:`COMMON` are added.
        class_names: what ``*`` in a name stands for.
        monitor, mode: what picks the best checkpoint.
    """
    own = {monitor: mode} if monitor and "/" in monitor else {}  # "step" is no curve
    wanted = {
        name.replace("*", word): summary
        for name, summary in (COMMON | dict(metrics) | own).items()
        for word in (class_names if "*" in name else [""])
        if summary != "last"
    }
    for run in wandb_runs(loggers):
        for name, summary in wanted.items():
            run.define_metric(name, step_metric=STEP, step_sync=True, summary=summary)


def use_data(loggers: Iterable[Logger], facts: Mapping[str, Any]) -> None:
    """Record the data set as an input of the run: a reference with its digest and counts; no data leave the machine.

    Offline, where W&B cannot look up versions, the artifact is recorded as logged by the run; equal data are the same
    version either way.

    Args:
        loggers: of the run.
        facts: ``name``, ``digest``, ``source`` (a folder; None: the data were simulated), and whatever else describes
            the data, kept beside.
    """
    for run in wandb_runs(loggers, artifacts=True):
        import wandb
        from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry
        from wandb.sdk.lib.paths import LogicalPath

        artifact = wandb.Artifact(f"data-{facts['name']}", "dataset", metadata=dict(facts))
        with artifact.new_file("dataset.json") as file:
            json.dump({name: facts[name] for name in ("name", "digest", "source")}, file, indent=1)
        if facts["source"] is not None:
            # One entry for the whole set, with our digest: add_reference would list, and read, each file.
            place = {"ref": f"file:{facts['source']}", "digest": facts["digest"]}
            artifact.manifest.add_entry(ArtifactManifestEntry(path=LogicalPath("data"), **place))
        _record(run, artifact)


def _record(run: Any, artifact: Any) -> None:
    if run.offline:  # use_artifact raises TypeError
        run.log_artifact(artifact)
        return
    import wandb

    try:
        run.use_artifact(artifact)
    except wandb.Error as error:
        log.warning("W&B has not recorded %s as an input: %s", artifact.name, error)


def use_checkpoint(loggers: Iterable[Logger], wandb_id: str | None) -> None:
    """Record the best checkpoint of another run as an input; offline nothing, W&B could not find it.

    Args:
        loggers: of the run.
        wandb_id: of the run that made the checkpoint; None: it had none.
    """
    for run in wandb_runs(loggers, artifacts=True):
        if run.offline or not wandb_id:
            continue
        import wandb

        try:
            run.use_artifact(f"model-{wandb_id}:best")
        except wandb.Error as error:
            log.info("W&B does not have the checkpoint's run: %s", error)


def log_best(loggers: Iterable[Logger], checkpoint: Path, metadata: Mapping[str, Any]) -> None:
    """Keep the best checkpoint as the artifact ``model-<run id>:best``, with its model card; call it after the test.

    The file is read where it lies, when W&B uploads it; offline that is at ``wandb sync``.

    Args:
        loggers: of the run.
        checkpoint: of the run folder.
        metadata: what it can do: scores by name.
    """
    for run in wandb_runs(loggers, artifacts=True):
        import wandb

        artifact = wandb.Artifact(f"model-{run.id}", "model", metadata=dict(metadata))
        card = checkpoint.parent / "MODEL_CARD.md"
        for path in (checkpoint, *([card] if card.exists() else [])):
            artifact.add_file(str(path), policy="immutable", skip_cache=True)  # no copies
        run.log_artifact(artifact, aliases=["best"])
