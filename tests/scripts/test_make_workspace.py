"""Dashboards as code: they build without an account, and name what the tasks declare."""

import fnmatch
import json
import sys
from types import ModuleType
from typing import Any

import pytest

from hemolens.callbacks.wandb_run import COMMON

from ..conftest import REPOSITORY, load_module

# of wandb-workspaces' own classes
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")


def script() -> ModuleType:
    return load_module(REPOSITORY / "scripts" / "make_workspace.py")


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("wandb_workspaces")
    path = tmp_path_factory.mktemp("dashboards") / "all.json"
    assert script().main(["--dry-run", "--output", str(path), "--entity", "us"]) == 0
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_each_family_has_a_workspace_and_a_report(dumped: dict[str, Any]) -> None:
    titles = ["Scores", "Losses", "Learning rate and throughput", "Pictures", "Curves and matrices", "Sweeps"]
    assert set(dumped) == {"detection", "classification", "segmentation", "diffusion", "ssl"}
    for name, content in dumped.items():
        assert list(content["sections"]) == titles
        view = content["workspace"]
        bank = view["spec"]["section"]["panelBankConfig"]["sections"]
        assert [section["name"] for section in bank] == titles
        counts = [len(panels) for panels in content["sections"].values()]
        assert [len(section["panels"]) for section in bank] == counts and min(counts) > 0
        assert view["entity"] == "us" and view["project"] == "hemolens"
        runs = view["spec"]["section"]["runSets"][0]
        assert runs["filters"]["filters"][0]["value"] == [name]  # the tag of the family
        assert runs["grouping"] == [{"section": "run", "name": "group"}]
        blocks = json.dumps(content["report"])
        assert all(title in blocks for title in titles) and f'"hemolens {name}"' in blocks


def test_panels_name_what_tasks_declare_to_log(dumped: dict[str, Any]) -> None:
    for name, content in dumped.items():
        tasks = script().FAMILIES[name].tasks
        assert {task.family for task in tasks} == ({name} if name != "segmentation" else {"segmentation"})
        declared = {key: summary for task in tasks for key, summary in (COMMON | task.metrics).items()}
        for spec in (one for specs in content["sections"].values() for one in specs):
            for metric in spec.get("metrics", []):
                if spec["kind"] == "importance":
                    metric, _, summary = metric.partition(".")
                    assert declared[metric] == summary
                if metric != "val/pictures":
                    assert metric in declared or fnmatch.fnmatch(metric, "test/*"), metric
        drawn = json.dumps(content["workspace"])
        for metric in (*script().FAMILIES[name].best, *script().FAMILIES[name].test, "test/picture_table"):
            assert f'"{metric}"' in drawn, metric


def test_saving_wants_a_login(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import wandb

    monkeypatch.setattr(wandb, "login", lambda **words: False)
    assert script().main(["--family", "ssl"]) == 2
    said = capsys.readouterr().err
    assert "wandb login" in said and "--dry-run" in said and said.count("\n") == 1


def test_without_the_library_the_remedy_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    assert script().main(["--dry-run"]) == 2
    assert "hemolens[dashboards]" in capsys.readouterr().err
