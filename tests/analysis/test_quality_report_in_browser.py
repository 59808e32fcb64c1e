"""The quality report's page in a real browser: on a phone, on a desk and on paper."""

import re
from pathlib import Path
from typing import Any

import pytest

from hemolens.analysis.quality_report import write_quality_report

from .conftest import watch
from .quality_pages import bag, flagged

MARKUP = "<img src=x onerror=alert(1)></td><script>alert(2)</script>"
# WCAG 2.1: relative luminance of a colour, and the contrast of each text with the ground it lies on
CONTRASTS = """() => {
  const light = c => { const p = c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * p[0] + .7152 * p[1] + .0722 * p[2] };
  const parse = s => s.match(/[\\d.]+/g).map(Number);
  const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] === 1) return c.slice(0, 3) } return [255, 255, 255] };
  return [...document.body.querySelectorAll('*')].filter(own).map(e => {
    const [a, b] = [parse(getComputedStyle(e).color).slice(0, 3), ground(e)].map(light);
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) }) }"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose texts hold markup, and as much of everything as there can be."""
    quality = bag(
        bag=MARKUP,
        images=60,
        flagged=flagged(60, MARKUP * 5, flags=9),
        interval_words=MARKUP * 3,
        about={MARKUP: MARKUP * 20},
    )
    return write_quality_report(tmp_path_factory.mktemp("bag"), quality)[0]


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_opens_and_is_legible(page: Path, browser: Any, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900})
    said, asked = watch(tab)
    tab.goto(page.as_uri())
    pictures = tab.evaluate("[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().right, i.alt])")
    assert len(pictures) == 6
    assert all(natural > 0 and right <= width and alt for natural, right, alt in pictures)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert min(tab.evaluate(CONTRASTS)) >= 4.5
    assert "For research use only. Not for clinical decisions." in tab.locator("body").inner_text()
    assert "Every image is flagged (60 of 60)" in tab.locator("body").inner_text()
    assert tab.locator("script").count() == 0 and tab.locator("img[src='x']").count() == 0
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    tab.close()


def test_it_prints_on_one_sheet(page: Path, browser: Any) -> None:
    tab = browser.new_page()
    tab.goto(page.as_uri())
    pdf = tab.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type /Page\b", pdf)) == 1
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": 703, "height": 1054})  # A4 less its margins, at 96 px an inch
    foot = "document.querySelector('footer').getBoundingClientRect()"
    last = "[...document.querySelectorAll('.flags > p')].pop().getBoundingClientRect()"
    assert tab.evaluate(f"{last}.bottom <= {foot}.top")  # nothing is cut off or covered
    assert tab.evaluate(f"{foot}.bottom <= document.querySelector('main').getBoundingClientRect().bottom")
    tab.close()
