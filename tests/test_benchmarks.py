"""The benchmarks at tiny sizes: they run, assert equal output and write results. No figure is judged."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """The benchmarks stand beside the package, not in it, and set the number of threads of torch."""
    monkeypatch.syspath_prepend(ROOT)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run_quick(folder: Path, *arguments: str) -> int:
    from benchmarks.__main__ import main

    return main([*arguments, "--quick", "--pairs", "1", "--results", str(folder)])


@pytest.mark.parametrize(
    "task",
    [
        "voc_map",
        "fcos_infer",
        "fcos_train",
        "assign_targets",
        "simulate_field",
        "project_volume",
        "measure_cells",
        "export",
        "segment_images",
        "ddgan",
        "two_crops",
        "moco",
        "collect_runs",
        "loop",
    ],
)
def test_task_writes_its_results(task, tmp_path, capsys):
    for _ in range(2 if task == "voc_map" else 1):  # the second run replaces the file of the first
        assert run_quick(tmp_path, task) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"bench_{task}.json"]
    result = json.loads((tmp_path / f"bench_{task}.json").read_text())
    assert result["task"] == task and result["quick"] is True
    assert result["command"] == f"python -m benchmarks {task} --pairs=1 --threads=1 --quick"
    assert result["machine"]["threads"] == 1 and set(result["machine"]["flags"]) >= {
        "amx_bf16",
        "avx512_bf16",
    }
    printed = capsys.readouterr().out
    for comparison in result["comparisons"]:
        assert len(comparison["pairs"]) == 1 and comparison["wall_ratio"]["median"] > 0
        assert comparison["differences"] and comparison["tolerance"] in printed
        for role in ("ours", "peer"):
            for key, value in comparison[role]["config"].items():
                assert f"{key} {value}" in printed
    assert str(ROOT) not in json.dumps(result)


def test_bars_in_milliseconds(monkeypatch):
    from benchmarks import harness

    seconds = iter([1.0, 0.4, 0.5, 1.2])  # ours and the peer, then the peer and ours: 6 and 7 ms more a step
    monkeypatch.setattr(harness, "_time", lambda run: dict.fromkeys(("wall", "cpu"), next(seconds)))
    sides = [harness.Side(name, {}, lambda: None) for name in ("ours", "peer")]
    given = {"check": lambda ours, peer: {}, "tolerance": "none", "steps": 100}
    for bar, words in ((7.0, "met"), (6.0, "missed")):
        seconds = iter([1.0, 0.4, 0.5, 1.2])
        result = harness.measure(harness.Comparison("loop", *sides, most_extra_ms=bar, **given), pairs=2)
        assert result["extra_ms_a_step"]["median"] == pytest.approx(6.5) and result["verdict"] == words
        assert f"more a step: 6.5 [6.25, 6.75] ms, allowed {bar:g}" in harness.report(result)
    for bar, words in ((1100.0, "met"), (1099.0, "missed")):
        seconds = iter([1.0, 0.4, 0.5, 1.2])
        result = harness.measure(harness.Comparison("help", *sides, most_ms=bar, **given), pairs=2)
        assert result["verdict"] == words and f"allowed: {bar:g} ms" in harness.report(result)


def test_help_is_asked_in_processes_of_its_own():
    from benchmarks import help

    told = help.answer(["-m", "hemolens.cli.main", "--help"])()
    assert help.checker("verbs:", same=True)(told, told) == {"characters": len(told)}
    with pytest.raises(AssertionError, match="differ"):
        help.checker("verbs:", same=True)(told, "")
    compile(help.eager(["train"]), "eager", "exec")


def test_a_field_is_split_into_its_stages(tmp_path, capsys):
    assert run_quick(tmp_path, "full_field") == 0
    result = json.loads((tmp_path / "bench_full_field.json").read_text())
    assert [chain["variant"] for chain in result["comparisons"]] == ["threshold", "half_max"]
    printed = capsys.readouterr().out
    for chain in result["comparisons"]:
        assert [stage["name"] for stage in chain["stages"]] == ["read", "project", "detect", "measure"]
        assert sum(stage["share"] for stage in chain["stages"]) == pytest.approx(1, abs=1e-3)
        assert chain["found"]["cells"] == 4
        for stage in chain["stages"]:
            assert f"{stage['name']}: {stage['wall_s']['median']:.4g} [" in printed


def test_stages_are_timed_in_order_and_a_wrong_result_is_refused():
    from benchmarks.harness import Chain, Side, measure_chain

    stages = [Side("make", {}, lambda: [1]), Side("add", {}, lambda made: [*made, 2])]
    result = measure_chain(Chain("two", stages, check=lambda output: {"sum": sum(output)}), repeats=3)
    assert result["found"] == {"sum": 3} and len(result["runs"]) == 3 and all(len(run) == 2 for run in result["runs"])

    def wrong(output):
        raise AssertionError("not what was asked")

    with pytest.raises(AssertionError, match="not what was asked"):
        measure_chain(Chain("two", stages, check=wrong), repeats=1)


def test_wrong_output_is_refused_before_timing(tmp_path, monkeypatch, capsys):
    from benchmarks import voc_map

    loop = voc_map.loop
    monkeypatch.setattr(voc_map, "loop", lambda *arguments: loop(*arguments) + 1e-3)
    assert run_quick(tmp_path, "voc_map") == 1
    assert "do not give the same output" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_pairs_are_interleaved_and_summarised():
    from benchmarks.harness import Comparison, Side, measure

    calls = []
    sides = [Side(name, {}, lambda name=name: calls.append(name)) for name in ("ours", "peer")]
    result = measure(Comparison("order", *sides, check=lambda ours, peer: {}, tolerance="none"), pairs=3)
    assert calls == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]  # the first two warm up
    ratios = [pair["peer_wall_s"] / pair["ours_wall_s"] for pair in result["pairs"]]
    assert result["wall_ratio"]["median"] == pytest.approx(np.median(ratios), rel=1e-3)
    assert result["wall_ratio"]["q1"] == pytest.approx(np.quantile(ratios, 0.25), rel=1e-3)


@pytest.mark.parametrize(
    ("median", "target", "words"),
    [
        (3.2, 3.0, "met"),
        (2.9, 3.0, "missed"),
        (0.96, 1.0, "met (tie)"),
        (0.94, 1.0, "missed"),
        (1.3, 1.0, "met"),
        (1.1, None, "tie"),
        (0.8, None, "slower"),
        (1.5, None, "faster"),
    ],
)
def test_verdicts(median, target, words):
    from benchmarks.harness import verdict

    assert verdict(median, target) == words


def test_a_busy_machine_is_reported(monkeypatch):
    from benchmarks import machine

    ticks = iter([{(1, "trainer"): 100, (2, "idle"): 5}, {(1, "trainer"): 200, (2, "idle"): 5, (3, "new"): 9}])
    monkeypatch.setattr(machine, "_cpu_ticks", lambda: next(ticks))
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(machine.os, "sysconf", lambda name: 100)
    seen = machine.activity(seconds=1)
    assert seen == {"load_average": 0.0, "busy_processes": {"trainer": 1.0}, "quiet": False}
    ticks = iter([{(1, "trainer"): 100}, {(1, "trainer"): 100}])
    assert machine.activity(seconds=0.01)["quiet"]
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (64.0, 0.0, 0.0))
    ticks = iter([{}, {}])
    assert not machine.activity(seconds=0.01)["quiet"]


def test_no_name_means_every_task(tmp_path, monkeypatch):
    import benchmarks.__main__ as command

    monkeypatch.setattr(command, "run_task", lambda name, comparisons, options: {"task": name})
    assert command.main(["--results", str(tmp_path)]) == 0
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(f"bench_{name}" for name in command.TASKS)


@pytest.mark.parametrize("arguments", [["voc"], ["voc_map", "--pairs", "0"]])
def test_wrong_usage(arguments, capsys):
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
