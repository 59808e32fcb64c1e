"""The page of many runs in a real browser, of runs that make it hard: odd numbers, lists, null, very many."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemolens.analysis.run_folders import find_runs
from hemolens.analysis.run_page import PageOptions, write_run_page

from .conftest import watch
from .made_up_runs import write_run

SCORES = {"0": 0.5, "1": float("nan"), "2": 0.9, "3": float("inf"), "4": 0.7}


def opened(browser: Any, folder: Path, view: str = "") -> Any:
    """The page of the runs below a folder."""
    page = folder / "runs.html"
    if not page.exists():
        write_run_page(page, find_runs([folder]), PageOptions(quiet=True, images="none"))
    tab = browser.new_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    tab.said, _ = watch(tab)
    tab.goto(page.as_uri() + view)
    tab.wait_for_selector("html.ready", timeout=20_000)
    return tab


def set_metrics(run: Path, **metrics: float) -> None:
    (run / "metrics.json").write_text(json.dumps({key.replace("_", "/", 1): value for key, value in metrics.items()}))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    for number, score in SCORES.items():
        more = {"split": [8, 1, 1] if int(number) % 2 else [6, 2, 2], "init": None if number in "01" else "w.ckpt"}
        run = write_run(folder / number, lr=1e-3, seed=int(number), pictures=False, **more)
        set_metrics(run, test_dice=score, val_dice=0.5)
    for number in range(5, 8):  # one constant for three seeds, whose mean and spread differ by rounding alone
        run = write_run(folder / str(number), lr=3e-3, seed=number, pictures=False, state="pruned", split=[6, 2, 2])
        (run / "metrics.csv").write_text("step,epoch,train/lr,train/l1\n0,0,0.003,2.3\n9,1,0.003,4.0\n")
    return folder


@pytest.fixture
def tab(odd: Path, browser: Any) -> Iterator[Any]:
    tab = opened(browser, odd)
    yield tab
    assert tab.said == []
    tab.close()


def test_no_number_comes_last_whichever_way(tab: Any) -> None:
    place = tab.locator("#table thead th").all_inner_texts().index("test/dice\n▾")
    scores = f"[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[{place}].textContent)"
    assert tab.evaluate(scores)[:5] == ["▲ 0.9000", "0.7000", "0.5000", "nan", "inf"]
    tab.locator("#table thead th", has_text="test/dice").locator("button").click()
    assert tab.evaluate(scores)[:5] == ["0.5000", "0.7000", "▲ 0.9000", "nan", "inf"]


def test_equal_lists_are_one_value_and_null_is_a_choice(tab: Any) -> None:
    varies = tab.locator("#cards").inner_text()
    assert varies.count("[8,1,1]") == varies.count("[6,2,2]") == 1
    tab.locator("#color").select_option("split")
    assert tab.locator("#scatter-legend li").count() == 3  # its name and two values
    tab.locator("#x").select_option("init")
    tab.locator("#y").select_option("val/dice")
    assert tab.locator("#scatter .dot").count() == 5  # two of null, three of weights


@pytest.mark.parametrize(("text", "count"), [("batch_size=4", 8), ("data.batch_size>4", 0), ("weight_decay<1", 8)])
def test_the_filter_knows_what_all_runs_share(tab: Any, text: str, count: int) -> None:
    tab.locator("#filter").fill(text)
    assert tab.locator("#status").inner_text().startswith(f"{count} of 8 runs" if count < 8 else "8 ")


def test_pruned_runs_are_counted_and_are_no_failure(tab: Any) -> None:
    assert "✂ pruned 3" in tab.locator("#cards").inner_text()
    assert tab.locator("#unfinished-part").is_hidden()


def test_seeds_of_one_value_have_a_band(odd: Path, browser: Any) -> None:
    tab = opened(browser, odd, "#group=1&curve=train/lr")  # the ticks of so narrow a range never ended
    assert tab.locator("#curves .band").count() == 1
    assert "0.003" in tab.locator("#curves .tick").all_text_contents()
    tab.close()
    tab = opened(browser, odd, "#curve=train/l1&clog=1")
    ticks = tab.locator("#curves .tick[text-anchor=end]").all_text_contents()  # of the upright axis
    assert ticks == ["3", "4"]  # within a factor of two there are some too
    assert tab.said == []
    tab.close()


def test_very_many_runs(tmp_path: Path, browser: Any) -> None:
    values = np.linspace(1, 0.1, 600)
    rows = "".join(f"{step},{step // 200},{value:.5g}\n" for step, value in enumerate(values.tolist()))
    for seed in range(260):  # 130,000 values: more than a function takes as arguments
        run = write_run(tmp_path / str(seed), lr=1e-3, seed=seed, rows=3, pictures=False)
        (run / "metrics.csv").write_text("step,epoch,train/loss\n" + rows)
    tab = opened(browser, tmp_path, "#curve=train/loss&clog=1")
    assert tab.locator("#curves .curve").count() == 260
    assert re.match("260 runs", tab.locator("#status").inner_text())
    assert tab.said == []
    tab.close()
