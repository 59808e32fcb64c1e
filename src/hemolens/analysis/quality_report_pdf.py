"""The quality report's page as a PDF: one sheet of A4, with every text cut to its place."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from fpdf import FPDF
from fpdf.enums import MethodReturnValue, WrapMode, XPos, YPos

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every table of every font

MARGIN, WIDTH, GAP = 12.0, 186.0, 6.0  # mm
HALF = (WIDTH - GAP) / 2
ROW = 6.8  # mm, of a type
POINT_MM = 25.4 / 72
INK, GREY, RED, BLUE = (27, 31, 36), (75, 82, 90), (150, 32, 24), (10, 85, 140)
RULE = (170, 178, 187)
Color = tuple[int, int, int]


@dataclass(frozen=True)
class ShareRow:
    """A type's row: bar and whisker from 0 to 1, None where there is no share, and the words beside them."""

    name: str
    color: Color
    share: float | None
    low: float | None
    high: float | None
    percent: str
    interval: str
    count: str


@dataclass(frozen=True)
class PagePicture:
    """A PNG with what it shows, for those who cannot see it."""

    png: bytes
    alt: str
    size: tuple[int, int]  # width, height in px


@dataclass(frozen=True)
class FlaggedEntry:
    """A flagged image: its name, a sentence a flag, and its picture."""

    name: str
    texts: Sequence[str]
    picture: PagePicture


@dataclass(frozen=True)
class QualityPage:
    """All that the page says, in HTML and in PDF alike; texts are cut to a length already.

    Attributes:
        title: with the bag's name.
        facts: below the title.
        purpose: what the page must not be used for.
        status: whether the images can be trusted.
        bad: whether the status is a warning.
        rows: of the types.
        shares_words: below them: undecided cells, and how the intervals came about.
        score: the morphology score as it is shown; ``score_words``: its range and interval.
        definition, source: of the score.
        example, history: pictures; None where there are none.
        legend: names and colours of the types in ``example``.
        flag_counts: images by flag.
        flagged: images that are shown.
        more: of those that are not.
        provenance: checkpoint, commit, date, settings.
    """

    title: str
    facts: str
    purpose: str
    status: str
    bad: bool
    rows: Sequence[ShareRow]
    shares_words: str
    score: str
    score_words: str
    definition: str
    source: str
    example: PagePicture | None
    legend: Sequence[tuple[str, Color]]
    history: PagePicture | None
    flag_counts: str
    flagged: Sequence[FlaggedEntry]
    more: str
    provenance: str


def draw_pdf(page: QualityPage) -> bytes:
    """The page as a PDF of one sheet of A4."""
    pdf = FPDF(format="A4")
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"  # DejaVu has the signs of most European languages
    pdf.add_font("text", "", fonts / "DejaVuSans.ttf")
    pdf.add_font("text", "B", fonts / "DejaVuSans-Bold.ttf")
    pdf.set_auto_page_break(False)
    pdf.set_title(page.title)
    pdf.set_lang("en")
    pdf.set_margin(0)
    pdf.c_margin = 0
    pdf.add_page()
    _write(pdf, page.title, (MARGIN, 11), WIDTH, 15, style="B")
    _write(pdf, page.facts, (MARGIN, 19), WIDTH, 8.5, color=GREY)
    _box(pdf, page.purpose, 25, 6.5, INK, (255, 255, 255))
    _box(pdf, page.status, 33.5, 10, (253, 241, 239) if page.bad else (238, 245, 250), RED if page.bad else INK)
    right = MARGIN + HALF + GAP
    _head(pdf, "Cell types", MARGIN, 47)
    _shares(pdf, page, 53)
    _head(pdf, "Morphology score", right, 47)
    _write(pdf, page.score, (right, 53), 22, 20, style="B")
    _write(pdf, page.score_words, (right + 24, 53.6), HALF - 24, 8, lines=3)
    below = _write(pdf, page.definition, (right, 66), HALF, 7.5, lines=6, color=GREY)
    _write(pdf, page.source, (right, below + 0.8), HALF, 7.5, lines=2, color=GREY)
    _head(pdf, "Example field", MARGIN, 102)
    _picture(pdf, page.example, (MARGIN, 108), (HALF, 62), "No image to show.")
    _legend(pdf, page.legend, 172)
    _head(pdf, "Over the days of storage", right, 102)
    _picture(pdf, page.history, (right, 108), (HALF, 62), "Only this day was given.")
    _head(pdf, "Flagged images", MARGIN, 179, WIDTH)
    _write(pdf, page.flag_counts, (MARGIN, 185), WIDTH, 8, color=GREY)
    for number, entry in enumerate(page.flagged):
        row, column = divmod(number, 2)
        _flagged(pdf, entry, (MARGIN + column * (HALF + GAP), 191 + row * 42))
    _write(pdf, page.more, (MARGIN, 275), WIDTH, 8, lines=1, color=GREY)
    _line(pdf, 280, MARGIN, WIDTH)
    _write(pdf, page.provenance, (MARGIN, 281.5), WIDTH, 6.5, lines=3, color=GREY)
    return bytes(pdf.output())


def _write(
    pdf: FPDF,
    text: str,
    at: tuple[float, float],
    width: float,
    size: float,
    *,
    style: str = "",
    lines: int = 1,
    color: Color = INK,
    align: str = "L",
) -> float:
    """Write at most so many lines, the last with an ellipsis where the text goes on; returns where they end (mm)."""
    pdf.set_font("text", style, size)
    pdf.set_text_color(*color)
    step = 1.25 * size * POINT_MM
    wrap = WrapMode.CHAR if lines == 1 else WrapMode.WORD
    if not text:
        return at[1]
    pdf.set_xy(*at)
    found: Any = pdf.multi_cell(width, step, text, dry_run=True, output=MethodReturnValue.LINES, wrapmode=wrap)
    shown = [str(line).rstrip() for line in found[:lines]]
    if len(found) > lines:
        while shown[-1] and pdf.get_string_width(shown[-1] + "…") > width:
            shown[-1] = shown[-1][:-1]
        shown[-1] += "…"
    for number, line in enumerate(shown):
        pdf.set_xy(at[0], at[1] + number * step)
        pdf.cell(width, step, line, align=align, new_x=XPos.LEFT, new_y=YPos.TOP)
    return at[1] + len(shown) * step


def _line(pdf: FPDF, y: float, x: float, width: float) -> None:
    pdf.set_draw_color(*RULE)
    pdf.set_line_width(0.2)
    pdf.line(x, y, x + width, y)


def _head(pdf: FPDF, text: str, x: float, y: float, width: float = HALF) -> None:
    _write(pdf, text, (x, y), width, 10, style="B", color=BLUE)
    _line(pdf, y + 5, x, width)


def _box(pdf: FPDF, text: str, y: float, height: float, fill: Color, color: Color) -> None:
    pdf.set_fill_color(*fill)
    pdf.rect(MARGIN, y, WIDTH, height, style="F")
    _write(pdf, text, (MARGIN + 3, y + 1.4), WIDTH - 6, 8.5, style="B", lines=round(height / 4.5), color=color)


def _shares(pdf: FPDF, page: QualityPage, y: float) -> None:
    start, length = MARGIN + 24, 24.0
    for head, x, width in (("share", 1, 13), ("95 % interval", 15, 19), ("cells", 33, 9)):
        _write(pdf, head, (start + length + x, y - 0.8), width, 6.5, color=GREY, align="L" if width == 19 else "R")
    for number, row in enumerate(page.rows):
        top = y + 2.6 + number * ROW
        _write(pdf, row.name, (MARGIN, top + 0.7), 23, 8)
        pdf.set_draw_color(*RULE)
        pdf.set_line_width(0.15)
        pdf.rect(start, top + 0.8, length, 3.6)
        if row.share is not None:
            pdf.set_fill_color(*row.color)
            pdf.rect(start, top + 0.8, length * row.share, 3.6, style="F")
        if row.low is not None and row.high is not None:
            pdf.set_draw_color(*INK)
            pdf.set_line_width(0.35)
            ends = (start + length * row.low, start + length * row.high)
            pdf.line(ends[0], top + 2.6, ends[1], top + 2.6)
            for end in ends:
                pdf.line(end, top + 1.6, end, top + 3.6)
        _write(pdf, row.percent, (start + length + 1, top + 0.7), 13, 8, style="B", align="R")
        _write(pdf, row.interval, (start + length + 15, top + 0.9), 18, 7, color=GREY)
        _write(pdf, row.count, (start + length + 33, top + 0.9), 9, 7, color=GREY, align="R")
    _write(pdf, page.shares_words, (MARGIN, y + 3.4 + len(page.rows) * ROW), HALF, 7.5, lines=3, color=GREY)


def _picture(
    pdf: FPDF, picture: PagePicture | None, at: tuple[float, float], most: tuple[float, float], without: str
) -> None:
    """A picture as large as fits."""
    if picture is None:
        _write(pdf, without, at, most[0], 8, color=GREY)
        return
    width, height = picture.size
    scale = min(most[0] / width, most[1] / height)
    pdf.image(picture.png, *at, w=width * scale, h=height * scale, alt_text=picture.alt)


def _legend(pdf: FPDF, legend: Sequence[tuple[str, Color]], y: float) -> None:
    for number, (name, color) in enumerate(legend):
        x = MARGIN + number * HALF / max(len(legend), 1)
        pdf.set_fill_color(*color)
        pdf.rect(x, y + 0.6, 2.4, 2.4, style="F")
        _write(pdf, name, (x + 3.2, y), HALF / len(legend) - 3.4, 7.5)


def _flagged(pdf: FPDF, entry: FlaggedEntry, at: tuple[float, float]) -> None:
    side = 30.0
    _picture(pdf, entry.picture, at, (side, 38), "")
    x, width = at[0] + side + 2, HALF - side - 2
    y = _write(pdf, entry.name, (x, at[1] - 0.5), width, 8, style="B")
    for text in entry.texts:
        y = _write(pdf, text, (x, y + 0.4), width, 6.8, lines=4)
