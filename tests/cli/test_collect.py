"""What `hemolens collect` makes of run folders."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from hemolens.analysis.run_folders import find_runs
from hemolens.cli.collect import main, publishable, rows_of
from hemolens.errors import UserError


def write_run(folder: Path, lr: float, score: float) -> Path:
    folder.mkdir(parents=True)
    config: dict[str, Any] = {
        "paths": {"root_dir": ".", "cache_dir": f"./cache-{folder.name}", "run_dir": str(folder)},
        "optimizer": {"lr": lr, "weight_decay": 0.01},
        "data": {"cache_dir": f"./cache-{folder.name}", "root": f"/elsewhere/{folder.name}"},
        "trainer": {"default_root_dir": str(folder)},
        "callbacks": {"best": {"dirpath": f"{folder}/checkpoints"}},
    }
    (folder / "config_resolved.yaml").write_text(yaml.safe_dump(config))
    command = f"/somewhere/bin/hemolens train optimizer.lr={lr} hydra.run.dir={folder} paths.cache_dir=x"
    status = {"state": "finished", "job": "train", "command": command, "last_epoch": 3, "wall_seconds": 1.5}
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "metrics.json").write_text(json.dumps({"test/map": score}))
    return folder


def test_rows_hold_what_differs_and_no_folders(tmp_path: Path) -> None:
    for name, lr, score in (("a", 1e-3, 0.8), ("b", 2e-3, 0.9)):
        write_run(tmp_path / name, lr, score)
    rows = rows_of(find_runs([tmp_path]))
    assert [row["test/map"] for row in rows] == [0.8, 0.9]
    assert [row["optimizer.lr"] for row in rows] == [1e-3, 2e-3]
    assert "optimizer.weight_decay" not in rows[0]  # the same in both
    assert not any("dir" in key for key in rows[0])
    published = publishable(rows[0])
    assert published["command"] == "hemolens train optimizer.lr=0.001"
    assert str(tmp_path) not in json.dumps(published) and "elsewhere" not in json.dumps(published)


def test_overlapping_folders_and_other_ways_to_start(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", 1e-3, 0.8)
    other = write_run(tmp_path / "b", 1e-3, 0.8)
    status = json.loads((other / "status.json").read_text())
    status["command"] = "/a/hemolens/cli/main.py train seed=1"  # python -m, a launcher
    (other / "status.json").write_text(json.dumps(status))
    config = yaml.safe_load((other / "config_resolved.yaml").read_text())
    config["net"] = {"_target_": "hemolens.nets.x", "width": 3}
    (other / "config_resolved.yaml").write_text(yaml.safe_dump(config))
    rows = rows_of(find_runs([tmp_path, run, other]))
    assert [Path(row["run"]).name for row in rows] == ["a", "b"]
    assert rows[1]["command"] == "hemolens train seed=1"
    assert rows[1]["net.width"] == 3 and "net._target_" not in rows[1]


def test_small_settings_and_odd_scores_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", 1e-5, math.inf)
    write_run(tmp_path / "b", 3e-5, 0.9)
    found = tmp_path / "found.json"
    assert main([str(tmp_path), "--no-page", "--json", str(found)]) == 0
    table = (tmp_path / "results.md").read_text()
    assert "| 1e-05 |" in table and "| 3e-05 |" in table and "| 0.9000 |" in table
    assert [row["test/map"] for row in json.loads(found.read_text())] == [None, 0.9]
    for name in ("results.csv", "results.md"):
        (tmp_path / name).unlink()
    assert main([str(tmp_path), "--no-page", "--json", str(found)]) == 2
    assert f"{found} exists: add --overwrite" in capsys.readouterr().err
    assert not (tmp_path / "results.csv").exists()  # nothing is written before that is known


def test_folders_without_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs below"):
        find_runs([tmp_path])
    with pytest.raises(UserError, match="no folder"):
        find_runs([tmp_path / "gone"])


def test_further_metrics_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, found in (("a", 0.25), ("b", 0.5)):
        run = write_run(tmp_path / name, 1e-3, 0.8)
        (run / "metrics.json").write_text(json.dumps({"test/map": 0.8, "test/found_PLT": found, "test/ap_PLT": 0.1}))
    assert main([str(tmp_path), "--metric", "test/found_PLT"]) == 0
    table = capsys.readouterr().out
    assert (tmp_path / "results.md").read_text() in table
    assert "test/found_PLT" in table and "| 0.2500 |" in table and "| 0.5000 |" in table
    assert "test/ap_PLT" not in table
    assert main([str(tmp_path), "--overwrite", "--metric", "test/recall_XYZ"]) == 2
    assert "no run has the metric test/recall_XYZ" in capsys.readouterr().err


def test_the_page_is_written_unless_told_not_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "runs" / "a", 1e-3, 0.8)
    words = [str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--title", "Two & more"]
    assert main([*words, "--no-page"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["results.csv", "results.md"]
    assert main(words) == 2
    assert "results.csv exists: add --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert str(tmp_path / "out" / "runs.html") in capsys.readouterr().out
    page = (tmp_path / "out" / "runs.html").read_text()
    assert "<title>Two &amp; more</title>" in page and "hemolens collect" in page
    for name in ("results.csv", "results.md"):
        (tmp_path / "out" / name).unlink()
    assert main(words) == 2  # the page is there: nothing is written beside it
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["runs.html"]
    (run / "metrics.json").write_text('{"test/map": 0.')
    assert main([*words, "--overwrite"]) == 2
    assert "metrics.json is not JSON" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--images", "some"], ["--images-mb", "0"], ["--image-px", "3"], ["--by", "seed"]])
def test_wrong_options(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), *words])
    assert stop.value.code == 2
