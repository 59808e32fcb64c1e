"""Data and checkpoints as W&B artifacts: what is recorded online and offline, and that nothing else leaves."""

import json
from pathlib import Path
from typing import Any

import pytest
import wandb

from hemolens.callbacks.wandb_run import RunLogger, define_metrics, log_best, use_checkpoint, use_data

FACTS = {"name": "cells", "digest": "0a" * 16, "source": "data/cells", "counts": {"train": {"RBC": 3}}}


class FakeRun:
    """W&B as it answers online or offline."""

    id = "abcd1234"

    def __init__(self, offline: bool, broken: bool = False) -> None:
        self.offline, self.broken = offline, broken
        self.used: list[Any] = []
        self.logged: list[tuple[Any, Any]] = []
        self.defined: dict[str, dict[str, Any]] = {}

    def use_artifact(self, artifact: Any) -> None:
        if self.offline:
            raise TypeError("Cannot use artifact when in offline mode.")
        if self.broken:
            raise wandb.CommError("no such artifact")
        self.used.append(artifact)

    def log_artifact(self, artifact: Any, aliases: Any = None) -> None:
        self.logged.append((artifact, aliases))

    def define_metric(self, name: str, **words: Any) -> None:
        self.defined[name] = words


class Logger(RunLogger):
    def __init__(self, run: FakeRun, artifacts: bool = True) -> None:
        self.run, self.artifacts = run, artifacts

    @property
    def experiment(self) -> Any:
        return self.run


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb"))


def entries(artifact: Any) -> dict[str, Any]:
    return dict(artifact.manifest.entries)


def test_data_are_an_input_online_and_logged_offline() -> None:
    online, offline = FakeRun(offline=False), FakeRun(offline=True)
    for run in (online, offline):
        use_data([Logger(run)], FACTS)
    (used,) = online.used
    ((logged, _),) = offline.logged
    assert online.logged == [] and used.digest == logged.digest  # the same version either way
    assert (used.name, used.type) == ("data-cells", "dataset") and used.metadata["counts"] == FACTS["counts"]
    found = entries(used)
    assert set(found) == {"data", "dataset.json"} and found["data"].ref == "file:data/cells"
    assert json.loads(Path(found["dataset.json"].local_path).read_text())["digest"] == FACTS["digest"]


def test_other_data_are_another_version_and_other_counts_are_not() -> None:
    digests = []
    for change in ({}, {"counts": {}}, {"digest": "0b" * 16}, {"source": None}):
        run = FakeRun(offline=True)
        use_data([Logger(run)], FACTS | change)
        digests.append(run.logged[0][0].digest)
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_a_checkpoint_is_kept_where_it_lies_with_its_scores(tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").write_bytes(b"weights")
    (tmp_path / "MODEL_CARD.md").write_text("card")
    run = FakeRun(offline=True)
    log_best([Logger(run)], tmp_path / "best.ckpt", {"test/map": 0.5})
    ((artifact, aliases),) = run.logged
    assert (artifact.name, artifact.type, aliases) == ("model-abcd1234", "model", ["best"])
    assert artifact.metadata == {"test/map": 0.5}
    assert {entry.local_path for entry in entries(artifact).values()} == {
        str(tmp_path / "best.ckpt"),
        str(tmp_path / "MODEL_CARD.md"),
    }


def test_artifacts_false_keeps_none(tmp_path: Path) -> None:
    run = FakeRun(offline=False)
    (tmp_path / "best.ckpt").write_bytes(b"weights")
    use_data([Logger(run, artifacts=False)], FACTS)
    log_best([Logger(run, artifacts=False)], tmp_path / "best.ckpt", {})
    use_checkpoint([Logger(run, artifacts=False)], "abcd")
    assert run.used == run.logged == []


def test_the_run_that_made_a_checkpoint_is_an_input() -> None:
    online, offline = FakeRun(offline=False), FakeRun(offline=True)
    for run in (online, offline):
        use_checkpoint([Logger(run)], "5e5e")
        use_checkpoint([Logger(run)], None)
    assert online.used == ["model-5e5e:best"] and offline.used == []


def test_what_wandb_does_not_find_ends_no_training(caplog: pytest.LogCaptureFixture) -> None:
    run = FakeRun(offline=False, broken=True)
    use_checkpoint([Logger(run)], "5e5e")
    use_data([Logger(run)], FACTS)
    assert "no such artifact" in caplog.text


def test_every_curve_keeps_its_axis_and_names_are_written_out() -> None:
    run = FakeRun(offline=True)
    metrics = {"val/map": "max", "val/loss": "min", "val/ap_*": "max", "train/generator": "last"}
    define_metrics([Logger(run)], metrics, ["RBC", "WBC"], "val/map", "max")
    assert run.defined["val/map"] == {"step_metric": "trainer/global_step", "step_sync": True, "summary": "max"}
    summaries = {name: words["summary"] for name, words in run.defined.items()}
    assert summaries == {
        **{"train/images_per_second": "mean", "val/map": "max", "val/loss": "min"},
        **{"val/ap_RBC": "max", "val/ap_WBC": "max"},
    }
    define_metrics([Logger(run)], {}, [], "step", "max")  # the last checkpoint is kept: no curve of that name
    assert "step" not in run.defined
