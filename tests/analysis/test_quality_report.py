"""What the page says of a bag, and that it stays one page."""

import re
from pathlib import Path

import pytest

from hemolens.analysis.quality_report import (
    HTML,
    MOST_SHOWN,
    PDF,
    PURPOSE,
    describe_page,
    draw_history,
    write_quality_report,
)
from hemolens.errors import UserError

from .quality_pages import COUNTS, FLAG, bag, flagged


def pages(pdf: Path) -> int:
    return len(re.findall(rb"/Type /Page\b", pdf.read_bytes()))


def boxes(pdf: Path) -> set[bytes]:
    return set(re.findall(rb"/MediaBox \[([^\]]*)\]", pdf.read_bytes()))


def test_the_page_says_what_is_known() -> None:
    page = describe_page(bag(flagged=flagged(2)))
    assert page.title == "Stored blood, bag B-17"
    assert page.facts == "storage day 40 · expires 2026-12-01 · 6 images · 313 cells · hemolysis 0.42 % (as entered)"
    assert page.purpose == PURPOSE == "For research use only. Not for clinical decisions."
    assert [(row.name, row.percent, row.interval, row.count) for row in page.rows][:2] == [
        ("discocyte", "54.4 %", "43.5–59.8 %", "168"),
        ("spherocyte", "12.0 %", "9.6–13.2 %", "37"),
    ]
    assert "4 cells undecided" in page.shares_words and "t interval of images" in page.shares_words
    assert page.score == "218" and page.score_words.startswith("203 to 232 by the unknown stages of echinocytes")
    assert "echinocytes I " in page.definition and "jstage.jst.go.jp" in page.source
    assert page.bad and page.status == "2 of 6 images flagged: see below what is wrong with each."
    assert page.flag_counts == "Images by flag: out of focus 2"
    assert [(entry.name, list(entry.texts)) for entry in page.flagged] == [
        ("field_000", [FLAG.text]),
        ("field_001", [FLAG.text]),
    ]
    assert page.flagged[0].picture.alt == "field_000, flagged: out of focus"
    assert page.history is not None and "on day 40: discocyte 54 %" in page.history.alt
    assert page.provenance == "checkpoint: best.ckpt · commit: 0a1b2c3 · date: 2026-11-24"


def test_the_head_of_the_page_is_truthful() -> None:
    none = dict.fromkeys(COUNTS, 0)
    for quality, start, bad in (
        (bag(), "None of 6 images is flagged.", False),
        (bag(images=1), "None of 1 image is flagged.", False),
        (bag(flagged=flagged(6)), "Every image is flagged (6 of 6): do not rely on the numbers below", True),
        (bag(none), "No cells were found: nothing can be said of this bag.", True),
        (bag(none, flagged=flagged(6)), "No cells were found: nothing can be said of this bag. 6 of 6 images", True),
        (bag(none, images=0), "No image could be analysed: nothing is known of this bag.", True),
    ):
        page = describe_page(quality)
        assert page.status.startswith(start) and page.bad is bad


def test_what_does_not_fit_is_counted() -> None:
    page = describe_page(bag(images=60, flagged=flagged(60, "n" * 300, flags=9), bag="W" * 500))
    assert len(page.flagged) == MOST_SHOWN
    assert page.more.startswith("And 56 more: ") and len(page.more) < 100
    assert page.flagged[0].texts[-1].endswith(" And 6 more.")
    assert page.flagged[3].name.startswith("nnn") and page.flagged[3].name.endswith("n_003")  # ends tell files apart
    assert len(page.title) < 70


@pytest.mark.parametrize("case", ["plain", "all", "long", "empty", "signs"])
def test_the_pdf_is_one_sheet_of_a4(tmp_path: Path, case: str) -> None:
    none = dict.fromkeys(COUNTS, 0)
    quality = {
        "plain": bag(flagged=flagged(3)),
        "all": bag(flagged=flagged(6)),
        "long": bag(
            {f"{'type' * 20}{number}": number for number in range(1, 12)},
            bag="long name " * 60,
            images=60,
            flagged=flagged(60, "long_name_" * 40, flags=9),
            interval_words="words " * 100,
            about={f"key{number}": "value " * 30 for number in range(30)},
        ),
        "empty": bag(none, images=0, example=None, history=None, storage_day=None, expiry=None, about={}),
        "signs": bag(bag="Größe − 5 µm “Öl” ±", storage_day=7.5),
    }[case]
    html, pdf = write_quality_report(tmp_path / "new" / "bag", quality)
    assert (html.name, pdf.name) == (HTML, PDF)
    assert pages(pdf) == 1
    assert boxes(pdf) == {b"0 0 595.28 841.89"}
    assert html.read_text(encoding="utf-8").count("data:image/png") == {"plain": 5, "long": 6, "empty": 0}.get(
        case, 2 if case == "signs" else 6
    )


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / PDF).write_text("mine")
    with pytest.raises(UserError, match=r"quality\.pdf exists"):
        write_quality_report(tmp_path, bag())
    assert sorted(path.name for path in tmp_path.iterdir()) == [PDF]
    assert (tmp_path / PDF).read_text() == "mine"


def test_history_has_a_line_a_type() -> None:
    axes = draw_history([(8, {"discocyte": 0.9}), (40, {"discocyte": 0.5})], ["discocyte", "echinocyte"], 40).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["discocyte"].get_ydata().tolist() == [90, 50]  # type: ignore[union-attr]
    assert {line.get_marker() for line in lines.values()} >= {"o", "s"}  # not by colour alone
    assert describe_page(bag(history=[(8, {"discocyte": 0.9})])).history is None
