"""The page of many runs in a real browser: by pointer, by keyboard, in light and dark, on a phone and on a desk."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hemolens.analysis.run_folders import find_runs
from hemolens.analysis.run_page import PageOptions, write_run_page

from .conftest import watch
from .made_up_runs import MARKUP, write_sweep

# WCAG 2.1: contrast of each visible text with the ground it lies on; texts in charts lie on the page's
CONTRASTS = """() => {
  const light = c => { const p = c.map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * p[0] + .7152 * p[1] + .0722 * p[2] };
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const parse = s => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = s; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255) };
  const own = e => e.matches('input, select') ||
    [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  const seen = e => e.checkVisibility({ checkVisibilityCSS: true }) &&
    !e.closest('.sr, script, style, noscript, option');
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c[3] === 1) return c.slice(0, 3) } return [1, 1, 1] };
  return [...document.body.querySelectorAll('*')].filter(e => own(e) && seen(e)).map(e => {
    const style = getComputedStyle(e), svg = e.namespaceURI.endsWith('svg');
    const [a, b] = [parse(svg ? style.fill : style.color).slice(0, 3), ground(e)].map(light);
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    return [ratio, parseFloat(style.fontSize), e.outerHTML.slice(0, 80)] }) }"""
MARKS = """() => { 
  const light = c => {
    const p = c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * p[0] + .7152 * p[1] + .0722 * p[2] };
  const parse = s => s.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const probe = document.body.appendChild(document.createElement('i'));
  const paper = light(parse(getComputedStyle(document.body).backgroundColor));
  const found = [0, 1, 2, 3, 4, 5, 6, 7].map(k => { probe.style.color = `var(--c${k})`;
    const c = light(parse(getComputedStyle(probe).color));
    return (Math.max(c, paper) + .05) / (Math.min(c, paper) + .05) });
  probe.remove(); return found }"""

FOCUS = """(() => { const e = document.activeElement, style = getComputedStyle(e);
  return [e.dataset.k || e.id || e.textContent.slice(0, 20),
    style.outlineStyle + style.outlineWidth + (e.querySelector('.ring') ? 'ring' : '')] })()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_sweep(tmp_path_factory.mktemp("sweep"))
    options = PageOptions(title=f"Rates {MARKUP}", command="hemolens collect sweep", image_px=480, quiet=True)
    write_run_page(folder / "runs.html", find_runs([folder]), options)
    return folder / "runs.html"


@pytest.fixture
def tab(page: Path, browser: Any) -> Iterator[Any]:
    """The page opened on a desk; nothing may be said on the console, asked for, or popped up."""
    tab = browser.new_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    said, asked = watch(tab)
    tab.goto(page.as_uri())
    tab.wait_for_selector("html.ready")
    yield tab
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    tab.close()


def names(tab: Any) -> list[str]:
    found: list[str] = tab.locator("#table tbody th .name").all_inner_texts()
    return found


def focused(tab: Any) -> str:
    key: str = tab.evaluate("document.activeElement.dataset.k || document.activeElement.id || ''")
    return key


def choose(tab: Any, select: str, words: str) -> None:
    """The first option that holds ``words``."""
    labels = tab.locator(f"{select} option").all_inner_texts()
    tab.locator(select).select_option(label=next(label for label in labels if words in label))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_is_legible(tab: Any, width: int, scheme: str) -> None:
    tab.set_viewport_size({"width": width, "height": 900})
    tab.emulate_media(color_scheme=scheme)
    tab.evaluate("location.hash = 'sel=0,1&group=1&all=1&means=1'")
    tab.locator("#status", has_text="2 selected").wait_for()
    tab.locator("details summary").click()
    tab.wait_for_timeout(150)  # the charts follow the width after a moment
    assert abs(tab.evaluate("document.querySelector('#scatter svg').clientWidth") - width) < 60
    assert tab.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll in frames of their own
    texts = tab.evaluate(CONTRASTS)
    assert len(texts) > 150
    assert [text for text in texts if text[0] < 4.5] == []
    assert [text for text in texts if text[1] < 12] == []
    assert min(tab.evaluate(MARKS)) >= 3  # lines and points


def test_names_with_markup_stay_text(tab: Any) -> None:
    assert tab.locator("script").count() == 2 and tab.locator("img[src='x']").count() == 0
    assert tab.title() == f"Rates {MARKUP}" == tab.locator("h1").inner_text()
    assert f"UserError: {MARKUP}" in tab.locator("#unfinished").inner_text()
    assert "running" in tab.locator("#unfinished").inner_text()  # nor is that hidden
    choose(tab, "#b", "seed=3")
    assert MARKUP in tab.locator("#diff").inner_text()
    assert tab.locator("img[src='x']").count() == 0


def test_sorting_by_pointer_and_keyboard(tab: Any) -> None:
    assert names(tab)[:2] == ["lr=0.002 seed=1", "lr=0.002 seed=0"]  # by the score, the best first
    head = tab.locator("#table thead th", has_text="test/dice")
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(tab)[0] == "lr=0.001 seed=0" and "seed=3" in " ".join(names(tab)[-3:])  # no score: last either way
    head = tab.locator("#table thead th", has_text="optimizer.lr")
    head.locator("button").focus()
    tab.keyboard.press("Enter")
    assert focused(tab) == "sort optimizer.lr"  # the focus stays though the table is new
    assert head.get_attribute("aria-sort") == "ascending" and names(tab)[0].startswith("lr=0.001")
    tab.keyboard.press(" ")
    assert names(tab)[0].startswith("lr=0.005")
    assert "sort=optimizer.lr:down" in tab.url


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("seed=1", 2),
        ("lr>0.001 state!=failed", 4),
        ("test/dice>=0.7 seed=0", 1),
        ("usererror", 1),
        ('"nothing of the kind"', 0),
    ],
)
def test_the_filter_reaches_everything(tab: Any, text: str, count: int) -> None:
    tab.locator("#filter").fill(text)
    assert len(names(tab)) == count
    assert tab.locator("#status").inner_text().startswith(f"{count} of 7 runs")
    assert tab.locator("#scatter .dot").count() == tab.locator("#table tbody .state.finished").count()
    assert focused(tab) == "filter"
    assert tab.locator("#no-rows").is_visible() == (count == 0)


def test_columns_and_groups_of_seeds(tab: Any) -> None:
    tab.locator("details summary").click()
    tab.get_by_role("checkbox", name="parameters").check()
    assert "1\u202f234\u202f567" in tab.locator("#table").inner_text()
    assert "1 h 02 min" in tab.locator("#table").inner_text()
    tab.get_by_label("group seeds").check()
    assert "lr=0.002 (n = 3)" in names(tab) and "lr=0.001 (n = 2)" in names(tab)
    row = tab.locator("#table tbody tr", has_text="lr=0.001 (n = 2)")
    assert "0.6050 ± 0.0071" in row.inner_text()  # 0.60 and 0.61
    other = tab.locator("#table tbody tr", has_text="lr=0.002 (n = 3)")
    assert "0.7050 ± 0.0071 (2)" in other.inner_text()  # one has no score
    row.locator("input").check()
    assert tab.locator("#status").inner_text() == "7 runs, 2 selected"
    assert tab.locator("#curves .band").count() == 1


def test_scatter_axes_points_and_selection(tab: Any) -> None:
    assert (tab.locator("#x").input_value(), tab.locator("#y").input_value()) == ("optimizer.lr", "test/dice")
    assert tab.locator("#scatter .dot").count() == 4
    tab.locator("#scatter .dot").first.hover()
    assert "lr=0.001 seed=0" in tab.locator("#tip").inner_text()
    tab.locator("#scatter .dot").first.click()
    assert tab.locator("#table tr.on .name").all_inner_texts() == ["lr=0.001 seed=0"]
    assert tab.locator("#curves .curve").count() == 1 and tab.locator("#images figure").count() == 2
    tab.locator("#means").check()
    assert tab.locator("#scatter .mean").count() == 2
    tab.locator("#x").select_option("wall_seconds")
    assert tab.locator("#xscale").input_value() == "linear" and "x=wall_seconds" in tab.url
    tab.locator("#xscale").select_option("log")
    tab.locator("#y").select_option("seed")
    assert tab.locator("#yscale").input_value() == "categories"
    assert tab.locator("#scatter .dot").count() == 7  # all have these two
    tab.locator("#color").select_option("state")
    assert "✕ failed" in tab.locator("#scatter-legend").inner_text()


def test_points_by_keyboard(tab: Any) -> None:
    tab.locator("#means").focus()
    tab.keyboard.press("Tab")
    assert focused(tab) == "dot 0"
    assert "lr=0.001 seed=0" in tab.locator("#tip").inner_text()
    ring = "getComputedStyle(document.activeElement.querySelector('.ring')).strokeWidth"
    assert tab.evaluate(ring) == "4px"  # the focus is seen
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    assert focused(tab) == "dot 1" and tab.locator("#table tr.on .name").all_inner_texts() == ["lr=0.001 seed=1"]
    tab.keyboard.press("Escape")
    assert tab.locator("#tip").is_hidden()
    tab.keyboard.press(" ")
    assert tab.locator("#table tr.on").count() == 0
    tab.keyboard.press("Tab")
    assert focused(tab) == "curve"  # one stop for all points


def test_curves(tab: Any) -> None:
    tab.locator("#curve").select_option("train/loss")
    assert tab.locator("#curves .curve").count() == 7  # the failed run's too
    tab.locator("#smooth").fill("0.8")
    tab.locator("#clog").check()
    assert tab.locator("#curves .faint").count() == 7 and "smooth=0.8" in tab.url
    tab.locator("#curves-legend button").first.click()
    assert tab.locator("#curves .curve").count() == 6
    assert tab.locator("#curves-legend button").first.get_attribute("aria-pressed") == "false"
    assert focused(tab).startswith("line run")
    tab.locator("#cx").select_option("epoch")
    tab.locator("#curves svg").focus()
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    assert tab.locator("#curves-at").inner_text().startswith("at epoch")
    assert re.fullmatch(r"\d.*", tab.locator("#curves-legend .value").nth(1).inner_text())
    tab.locator("#curves svg").hover()
    assert tab.locator("#curves .cursor").get_attribute("visibility") == "visible"


def test_configs_side_by_side(tab: Any) -> None:
    choose(tab, "#a", "lr=0.001 seed=0")
    choose(tab, "#b", "lr=0.001 seed=1")
    rows = "[...document.querySelectorAll('#diff tbody tr')].map(r => [r.cells[1].textContent, r.className])"
    assert dict(tab.evaluate(rows)) == {"commit": "changed", "seed": "changed", "data.seed": "changed"}
    choose(tab, "#b", "seed=3")
    assert tab.locator("#diff tr.added").inner_text().split()[:5] == ["+", "only", "in", "B", "arm_name"]
    tab.locator("#all").check()
    assert "optimizer.weight_decay" in tab.locator("#diff").inner_text()


def test_pictures_enlarge_and_give_the_focus_back(tab: Any) -> None:
    assert tab.locator("#images img").count() == 8
    decoded = "Promise.all([...document.querySelectorAll('#images img')].map(i => i.decode())).then(all => all.length)"
    assert tab.evaluate(decoded) == 8
    tab.locator(".picture").nth(1).focus()
    opener = focused(tab)
    tab.keyboard.press("Enter")
    assert tab.locator("#large").is_visible() and focused(tab) == "large-close"
    first = tab.locator("#large-title").inner_text()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#large-title").inner_text() != first and "run 3 of 4" in tab.locator("#large").inner_text()
    link = tab.evaluate("decodeURIComponent(document.querySelector('#large-link').href)")
    assert link.startswith("file:") and Path(link.removeprefix("file://")).is_file()
    for _ in range(6):
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    tab.keyboard.press("Escape")
    assert tab.locator("#large").is_hidden() and focused(tab) == opener
    tab.locator("#figure").select_option("reliability")
    assert tab.locator("#images img").count() == 4


def test_the_address_keeps_the_view(tab: Any, page: Path) -> None:
    wanted = "#filter=state%3Dfinished&x=wall_seconds&y=val/dice&smooth=0.5&sel=1,2&group=1"
    tab.goto("about:blank")
    tab.goto(page.as_uri() + wanted)
    assert tab.locator("#filter").input_value() == "state=finished"
    assert (tab.locator("#x").input_value(), tab.locator("#y").input_value()) == ("wall_seconds", "val/dice")
    assert tab.locator("#status").inner_text() == "4 of 7 runs, 2 selected"
    assert set(tab.url.partition("#")[2].split("&")) == set(wanted[1:].split("&"))
    tab.locator("nav a", has_text="Curves").click()  # a link within the page does not lose it
    assert tab.locator("#status").inner_text() == "4 of 7 runs, 2 selected"
    tab.goto("about:blank")
    tab.goto(page.as_uri() + "#x=gone&y=%E0%A4%A&sort=nothing:up&sel=99")  # nor does a broken one break it
    assert tab.locator("#table tbody tr").count() == 7


def test_every_control_shows_its_focus(tab: Any) -> None:
    tab.locator("h1").click()
    seen = set()
    for _ in range(80):
        tab.keyboard.press("Tab")
        key, outline = tab.evaluate(FOCUS)
        assert outline.startswith("solid3px") or outline.endswith("ring"), key
        seen.add(key)
    assert {"filter", "group", "metric", "x", "y", "curve", "smooth", "a", "b", "figure"} <= seen


def test_it_prints(tab: Any) -> None:
    assert len(re.findall(rb"/Type /Page\b", tab.pdf())) <= 12
