"""One page on the quality of a stored-blood bag, as HTML that needs nothing else and as PDF."""

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from hemolens.analysis.image_quality import QualityFlag
from hemolens.analysis.morphology_score import CITATION, DEFINITION, SOURCE, MorphologyScore
from hemolens.analysis.quality_report_pdf import Color, FlaggedEntry, PagePicture, QualityPage, ShareRow, draw_pdf
from hemolens.analysis.report_figures import panel
from hemolens.io.atomic import atomic_path
from hemolens.io.colors import STORAGE_COLORS, STORAGE_TYPES

PURPOSE = "For research use only. Not for clinical decisions."
HTML, PDF = "quality.html", "quality.pdf"
MOST_ROWS, MOST_SHOWN, MOST_TEXTS = 5, 4, 3  # types, flagged images, flags of each that fit on a page
NAME_LENGTH, TEXT_LENGTH = 44, 190  # characters
EXAMPLE_PX, THUMBNAIL_PX = 900, 360
COLORS: dict[str, Color] = dict(zip(STORAGE_TYPES, STORAGE_COLORS[1:], strict=True))
OTHER_COLOR: Color = (110, 110, 110)
MARKERS = "os^Dv"
FLAG_NAMES = {
    "few_cells": "few cells",
    "out_of_focus": "out of focus",
    "saturated": "saturated",
    "unfamiliar_phase": "unfamiliar phase",
    "uneven_background": "uneven background",
    "unusable": "not analysed",
}


@dataclass(frozen=True, kw_only=True)
class TypeShare:
    """Share of a type among the decided cells, 0 to 1, with its interval; NaN where it is not known."""

    name: str
    count: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, eq=False)
class FlaggedImage:
    """An image with its flags.

    Args:
        file: its name.
        flags: at least one.
        picture: uint8 [H, W, 3].
    """

    file: str
    flags: Sequence[QualityFlag]
    picture: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class BagQuality:
    """What is known of a bag.

    Args:
        bag: its name.
        storage_day: days since donation.
        expiry: date as YYYY-MM-DD.
        hemolysis_percent: entered by the user; nothing here measures it.
        images, cells, undecided: how many; undecided cells have no type, and ``cells`` counts them too.
        shares: of the types, in their order.
        interval_words: how the intervals came about.
        score: of the bag.
        flagged: flagged images, worst first.
        example: an image with its cells outlined, uint8 [H, W, 3]; None where there is none.
        history: (day, share by type) of this bag on other days; None or one day: no plot.
        about: checkpoint, commit, date and settings, for the line at the foot.
    """

    bag: str
    storage_day: float | None = None
    expiry: str | None = None
    hemolysis_percent: float | None = None
    images: int
    cells: int
    undecided: int
    shares: Sequence[TypeShare]
    interval_words: str
    score: MorphologyScore
    flagged: Sequence[FlaggedImage] = ()
    example: NDArray[np.uint8] | None = None
    history: Sequence[tuple[float, Mapping[str, float]]] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def write_quality_report(folder: str | Path, quality: BagQuality) -> tuple[Path, Path]:
    """Write ``quality.html`` and ``quality.pdf``; each fits on one sheet of A4, and what does not fit is counted.

    The page carries its pictures and styles, loads nothing from anywhere, and escapes every text.

    Args:
        folder: made where it is missing.
        quality: of one bag.

    Returns:
        Paths of both.

    Raises:
        UserError: one of them exists, or cannot be written.
    """
    page = describe_page(quality)
    environment = Environment(
        loader=PackageLoader("hemolens.analysis", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("quality_report.html.j2").render(page=page, data_url=_data_url)
    paths = Path(folder) / HTML, Path(folder) / PDF
    with atomic_path(paths[0]) as page_path, atomic_path(paths[1]) as pdf_path:
        page_path.write_text(html, encoding="utf-8")
        pdf_path.write_bytes(draw_pdf(page))
    return paths


def describe_page(quality: BagQuality) -> QualityPage:
    """What the page says of a bag, cut to what fits."""
    status, bad = _status(quality)
    shown = quality.flagged[:MOST_SHOWN]
    example = None
    if quality.example is not None:
        words = f"Phase image of bag {_cut(quality.bag)} with the outlines of its cells, coloured by type"
        example = _picture(quality.example, EXAMPLE_PX, words)
    return QualityPage(
        title=f"Stored blood, bag {_cut(quality.bag)}",
        facts=_facts(quality),
        purpose=PURPOSE,
        status=status,
        bad=bad,
        rows=[_row(share) for share in quality.shares[:MOST_ROWS]],
        shares_words=_shares_words(quality),
        score=_number(quality.score.value),
        score_words=_score_words(quality.score),
        definition=DEFINITION,
        source=f"{CITATION}, {SOURCE}",
        example=example,
        legend=[(_cut(share.name, 20), _color(share.name)) for share in quality.shares[:MOST_ROWS] if example],
        history=_history(quality),
        flag_counts=_flag_counts(quality),
        flagged=[_entry(image) for image in shown],
        more=_more(quality.flagged[MOST_SHOWN:]),
        provenance=_cut(" · ".join(f"{key}: {value}" for key, value in quality.about.items()), 480),
    )


def _cut(text: object, length: int = NAME_LENGTH) -> str:
    """A text with its middle left out where it is too long: names differ at their ends."""
    whole = " ".join(str(text).split())
    if len(whole) <= length:
        return whole
    tail = (length - 1) // 2
    return f"{whole[: length - 1 - tail]}…{whole[-tail:]}"


def _number(value: float, decimals: int = 0) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}"


def _facts(quality: BagQuality) -> str:
    parts = [
        "storage day not given" if quality.storage_day is None else f"storage day {quality.storage_day:g}",
        "expiry not given" if quality.expiry is None else f"expires {_cut(quality.expiry, 20)}",
        _count(quality.images, "image"),
        _count(quality.cells, "cell"),
    ]
    if quality.hemolysis_percent is not None:
        parts.append(f"hemolysis {quality.hemolysis_percent:.2g} % (as entered)")
    return " · ".join(parts)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _status(quality: BagQuality) -> tuple[str, bool]:
    """Whether the images can be trusted, and whether that is a warning."""
    flagged, images = len(quality.flagged), quality.images
    if not images:
        return "No image could be analysed: nothing is known of this bag.", True
    if not quality.cells:
        extra = f" {flagged} of {_count(images, 'image')} flagged." if flagged else ""
        return f"No cells were found: nothing can be said of this bag.{extra}", True
    if flagged >= images:
        return (
            f"Every image is flagged ({images} of {images}): do not rely on the numbers below; "
            "mend what the flags say and take the images again."
        ), True
    if flagged:
        return f"{flagged} of {_count(images, 'image')} flagged: see below what is wrong with each.", True
    return f"None of {_count(images, 'image')} is flagged.", False


def _row(share: TypeShare) -> ShareRow:
    known = [None if math.isnan(value) else min(max(value, 0.0), 1.0) for value in (share.share, share.low, share.high)]
    middle, low, high = known
    interval = "" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f} %"
    percent = "–" if middle is None else f"{100 * middle:.1f} %"
    return ShareRow(_cut(share.name, 20), _color(share.name), middle, low, high, percent, interval, f"{share.count:,}")


def _color(name: str) -> Color:
    return COLORS.get(name, OTHER_COLOR)


def _shares_words(quality: BagQuality) -> str:
    undecided = f"{_count(quality.undecided, 'cell')} undecided, in no share."
    left = len(quality.shares) - MOST_ROWS
    more = f" And {left} more types." if left > 0 else ""
    return f"{undecided}{more} Bars: share and 95 % interval ({_cut(quality.interval_words, 160)})."


def _score_words(score: MorphologyScore) -> str:
    if math.isnan(score.value):
        return "No cells that the score counts."
    words = f"{score.low:.0f} to {score.high:.0f} by the unknown stages of echinocytes; {_count(score.cells, 'cell')}"
    if score.interval is None:
        return f"{words}; no interval"
    return f"{words}; 95 % interval of images {score.interval[0]:.0f} to {score.interval[1]:.0f}"


def _flag_counts(quality: BagQuality) -> str:
    counts = Counter(name for image in quality.flagged for name in {flag.name for flag in image.flags})
    listed = ", ".join(f"{FLAG_NAMES.get(name, name)} {count}" for name, count in counts.most_common())
    return f"Images by flag: {listed}" if listed else "None."


def _entry(image: FlaggedImage) -> FlaggedEntry:
    texts = [_cut(flag.text, TEXT_LENGTH) for flag in image.flags[:MOST_TEXTS]]
    if (left := len(image.flags) - MOST_TEXTS) > 0:
        texts[-1] += f" And {left} more."
    names = " and ".join(FLAG_NAMES.get(flag.name, flag.name) for flag in image.flags)
    name = _cut(image.file, 30)
    return FlaggedEntry(name, texts, _picture(image.picture, THUMBNAIL_PX, f"{name}, flagged: {_cut(names, 80)}"))


def _more(images: Sequence[FlaggedImage]) -> str:
    if not images:
        return ""
    names = ", ".join(_cut(image.file, 30) for image in images[:2])
    return f"And {len(images)} more: {names}{', …' if len(images) > 2 else ''}"


def _picture(pixels: NDArray[np.uint8], side: int, alt: str) -> PagePicture:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return PagePicture(buffer.getvalue(), alt, image.size)


def _data_url(picture: PagePicture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.png).decode()


def _history(quality: BagQuality) -> PagePicture | None:
    points = sorted(quality.history or (), key=lambda point: point[0])
    if len(points) < 2:
        return None
    names = [share.name for share in quality.shares[:MOST_ROWS]]
    figure = draw_history(points, names, quality.storage_day)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=220)
    buffer.seek(0)
    with Image.open(buffer) as image:
        size = image.size
    last = ", ".join(f"{name} {100 * points[-1][1].get(name, math.nan):.0f} %" for name in names)
    alt = f"Shares of the types over {len(points)} days of storage; on day {points[-1][0]:g}: {last}"
    return PagePicture(buffer.getvalue(), alt, size)


def draw_history(
    points: Sequence[tuple[float, Mapping[str, float]]], names: Sequence[str], day: float | None = None
) -> Figure:
    """Shares over days of storage, a line a type.

    Args:
        points: (day, share by type), in the order of days.
        names: of the types.
        day: that is marked.
    """
    figure, axes = panel(3.6, 2.4)
    days = [point[0] for point in points]
    if day is not None:
        axes.axvline(day, color="0.8", lw=4, zorder=0)
    for number, name in enumerate(names):
        values = [100 * shares.get(name, math.nan) for _, shares in points]
        color, marker = np.array(_color(name)) / 255, MARKERS[number % len(MARKERS)]
        axes.plot(days, values, f"{marker}-", color=color, mec="0.25", mew=0.4, ms=4, lw=1.4, label=_cut(name, 20))
    axes.set_ylim(-3, 103)
    axes.set_xlabel("day of storage", fontsize=8)
    axes.set_ylabel("share (%)", fontsize=8)
    axes.tick_params(labelsize=8)
    figure.legend(fontsize=7.5, frameon=False, ncols=2, loc="outside upper center")
    return figure
