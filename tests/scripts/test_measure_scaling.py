"""The scaling measurement: what is counted as kept, one row, and the page made of rows."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hemolens.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
GIT = {"commit": "0123456789", "dirty": False}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("measure_scaling")


@pytest.fixture
def page(script: ModuleType) -> ModuleType:
    return importlib.import_module("scaling_page")


def test_what_is_kept_is_counted_once_and_without_parameters(script: ModuleType) -> None:
    weight = torch.nn.Parameter(torch.ones(1000))
    given = torch.rand(1000)
    with script.Kept([weight]) as kept:
        made = (given * weight).exp()  # keeps what was given for the weight, and what exp made
        assert kept.now == kept.peak == 2 * 4000
        again = made * made  # what exp made, again
        assert kept.peak == 2 * 4000
        again.sum().backward()
        del made, again
    assert kept.now == 0


@pytest.mark.filterwarnings("ignore")
def test_a_row_is_a_training_of_its_experiment(script: ModuleType) -> None:
    experiment = script.EXPERIMENTS["cpu"]["segmentation"]
    row = script.measure(script.Cell("segmentation", experiment, 2, 32, 1, "cpu", 0, steps=2))
    assert row["net"] == "ResUnet" and row["parameters"] > 1e7 and row["kept_mb"] > 1
    assert row["step_ms"]["median"] > 0 and row["optimizer_state_mb"] == pytest.approx(
        8 * row["parameters"] / 1e6, rel=0.01
    )
    json.dumps(row)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_sizes_are_varied_one_at_a_time(script: ModuleType, device: str) -> None:
    cells = list(script.cells(device, 0, quick=False))
    assert {cell.family for cell in cells} == set(script.FAMILIES) and len(set(cells)) == len(cells)
    for family in script.FAMILIES:
        first, *others = [(c.batch, c.side, c.devices) for c in cells if c.family == family]
        assert all(sum(a != b for a, b in zip(first, other, strict=True)) == 1 for other in others)


def row_of(family: str, batch: int, side: int, devices: int) -> dict[str, Any]:
    step = {"q1": 1.0, "median": 1000.0 * batch, "q3": 2e6}
    sizes = {"family": family, "experiment": "tiny", "batch": batch, "side": side, "devices": devices}
    return sizes | {"step_ms": step, "images_per_second": 1.5 * devices, "peak_mb": 12.0, "kept_mb": 7.0 * batch}


def test_the_page_says_what_was_measured(
    page: ModuleType, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "paper_rows", lambda: [])
    (tmp_path / "docs" / "images").mkdir(parents=True)
    text = (ROOT / "docs" / "scaling.md").read_text()
    target = tmp_path / "docs" / "scaling.md"
    target.write_text(text)
    rows = [row_of(f, *size) for f in script.FAMILIES for size in ((2, 32, 1), (4, 32, 1), (2, 64, 1), (2, 32, 2))]
    found = {"command": "python x", "git": GIT, "torch": "2", "device": "a CPU", "threads": 1, "seed": 0}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "scaling_cpu.json").write_text(json.dumps(found | {"load_average": 0.1, "rows": rows}))
    for _ in range(2):  # the second time in place of the first
        page.write_page(tmp_path)
        made = target.read_text()
        assert made.count("| detection | `tiny` | 4 | 32 | 1 | 4,000 [1, 2,000,000] | 1.5 | 12 | 28 |") == 1
        assert "`python x` at 0123456" in made and "results/scaling_cuda.json` is missing" in made
        assert made.startswith(text[: text.index("<!-- cpu")]) and made.endswith(text[text.rindex("<!-- end -->") :])
    assert (tmp_path / "docs" / "images" / "scaling.png").stat().st_size > 10_000
    target.write_text("no markers")
    with pytest.raises(UserError, match="marker"):
        page.write_page(tmp_path)


def test_wrong_arguments(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--threads", "0", "--quick"]) == 2
    assert "--threads 0: give a whole number from 1" in capsys.readouterr().err
