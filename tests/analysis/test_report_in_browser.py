"""`hemolens report` as a user runs it, and its page in a real browser."""

import subprocess
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from hemolens.analysis.storage_report import TITLE as STORAGE_TITLE
from hemolens.cli.main import main

from .conftest import watch
from .report_folders import detection_run, prediction, truth_folder
from .storage_folders import calibrate, generated_pairs, segmentation_run, stored_series

MARKUP = "<img src=x onerror=alert(1)>"


def hemolens(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    out, err = StringIO(), StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        code = main(words)
    return subprocess.CompletedProcess(list(words), code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose inputs have markup in their names."""
    place = tmp_path_factory.mktemp("report")
    detection_run(place / "runs" / "r18")
    detection_run(place / "runs" / "other", f"{MARKUP}</td><script>alert(2)</script>")
    detection_run(place / "runs" / f"failed {MARKUP}")
    (place / "runs" / f"failed {MARKUP}" / "test.json").unlink()
    truth = truth_folder(place / f"cohort {MARKUP}")
    prediction(place / "found", truth)
    samples = place / "found" / "samples.csv"
    samples.write_text(samples.read_text().replace("\n0,", f"\n{MARKUP},"))
    done = hemolens("report", "runs=[runs,found]", "output=report", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "report: report/report.html" in done.stdout
    return place / "report" / "report.html"


@pytest.fixture(scope="module")
def storage_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on stored blood, of runs of which one has markup in its name."""
    place = tmp_path_factory.mktemp("storage")
    calibrate(segmentation_run(place / "runs" / "a", "resunet18"))
    segmentation_run(place / "runs" / "b", f"{MARKUP}</td><script>alert(2)</script>")
    segmentation_run(place / "runs" / f"failed {MARKUP}", "fcn_s")
    (place / "runs" / f"failed {MARKUP}" / "test.json").unlink()
    stored_series(place / "assessed")
    generated_pairs(place / "pairs")
    done = hemolens("report", "paper=storage", "runs=[runs,assessed,pairs]", "output=report", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "report" / "report.html"


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize(
    ("made", "title", "figures"),
    [("page", "Hematology from refractive-index tomograms", 15), ("storage_page", STORAGE_TITLE, 8)],
)
def test_the_page_opens_and_shows_its_figures(
    made: str, title: str, figures: int, request: pytest.FixtureRequest, browser: Any, width: int
) -> None:
    page: Path = request.getfixturevalue(made)
    tab = browser.new_page(viewport={"width": width, "height": 900})
    said, asked = watch(tab)
    tab.goto(page.as_uri())
    assert tab.title() == title
    pictures = tab.evaluate(
        "Promise.all([...document.images].map(async i => { await i.decode(); const r = i.getBoundingClientRect();"
        "return [i.naturalWidth, r.width, r.left, r.right, i.alt] }))"
    )
    assert len(pictures) == len(list((page.parent / "figures").glob("*.svg"))) >= figures
    for natural, shown, left, right, alt in pictures:
        assert natural > 0 and alt
        assert 300 <= shown <= 1100 and left >= 0 and right <= width  # whole, and no smaller than a phone's screen
    assert tab.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll in their own frame
    sizes = "[...document.querySelectorAll('td, th, p, a')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    assert min(tab.evaluate(sizes)) >= 12
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    tab.close()


@pytest.mark.parametrize("made", ["page", "storage_page"])
def test_names_with_markup_stay_text(made: str, request: pytest.FixtureRequest, browser: Any) -> None:
    page: Path = request.getfixturevalue(made)
    tab = browser.new_page()
    tab.goto(page.as_uri())
    assert tab.locator("script").count() == 0
    assert tab.locator("img[src='x']").count() == 0
    body = tab.locator("body").inner_text()
    assert f"{MARKUP}</td><script>alert(2)</script>" in body
    assert f"failed {MARKUP} holds no test.json" in body
    tab.close()


def test_slips_are_named(tmp_path: Path) -> None:
    detection_run(tmp_path / "runs" / "r18")
    for words, message in (
        (["runs=runs"], "output"),
        (["runs=nowhere", "output=x"], "no folder at runs=nowhere"),
        (["runs=runs", "output=runs"], "exists and is not empty"),
        (["runs=runs", "output=x", "paper=blood"], "choose from hematology, storage"),
        (["runs=runs", "output=x", "paper=storage"], "no tested segmentation in runs=runs: hemolens train"),
    ):
        done = hemolens("report", *words, cwd=tmp_path)
        assert done.returncode == 2, done.stdout + done.stderr
        assert message in done.stderr
        assert not (tmp_path / "x").exists()
    done = hemolens("report", "runs=runs", "output=x", cwd=tmp_path)
    assert done.returncode == 0
    assert "No measured cells were found" in done.stdout
    assert hemolens("report", "--help", cwd=tmp_path).returncode == 0
