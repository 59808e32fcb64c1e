"""A report: sections of text, tables and figures as one HTML page that needs nothing else, and as files beside it."""

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from hemolens.errors import UserError
from hemolens.io.atomic import atomic_folder, write_json

NARROW_PX, WIDEST_PX = 448, 1100  # figures up to the first share a row; at 96 px an inch
PAGE, FIGURES, TABLES, NUMBERS = "report.html", "figures", "tables", "report.json"


@dataclass(frozen=True)
class Panel:
    """One picture of a figure.

    Args:
        name: of its files, without suffix.
        figure: what is drawn.
        alt: what it shows, for those who cannot see it.
    """

    name: str
    figure: Figure
    alt: str


@dataclass(frozen=True)
class FigureBlock:
    """Panels with a caption, and beside them what the paper shows."""

    title: str
    panels: Sequence[Panel]
    caption: str
    paper: str = ""


@dataclass(frozen=True)
class TableBlock:
    """A table with a caption, and below it what is to be said of the paper's.

    Args:
        name: of its files, without suffix.
        title: its head.
        table: numbers are shown with ``decimals`` places, NaN and None as a dash.
        caption: what it shows.
        paper: on the paper's figures.
        decimals: of floats.
    """

    name: str
    title: str
    table: pd.DataFrame
    caption: str = ""
    paper: str = ""
    decimals: int = 3


@dataclass(frozen=True)
class Section:
    """A part of the report; ``missing`` says what was not found and the command that makes it."""

    title: str
    text: Sequence[str] = ()
    blocks: Sequence[FigureBlock | TableBlock] = field(default_factory=tuple)
    missing: str = ""


def write_report(
    folder: str | Path,
    title: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    *,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``report.html``, ``report.json``, ``figures/<name>.png`` and ``.svg``, ``tables/<name>.csv`` and ``.md``.

    The page carries its figures (SVG as images, in which no script runs) and styles, loads nothing from anywhere, and
    escapes every text. The folder appears whole or not at all.

    Args:
        folder: new; with ``overwrite`` an earlier report there is replaced.
        title: of the page.
        lead: paragraphs at its head.
        sections: in order.
        about: JSON-able facts of how it came about; ``report.json`` holds them beside the rows of all tables.
        overwrite: see ``folder``.

    Returns:
        Path of the page.

    Raises:
        UserError: the folder exists (with ``overwrite``: and holds something else), or two blocks share a name.
    """
    folder = Path(folder)
    check_report_folder(folder, overwrite=overwrite)
    for kind in (FigureBlock, TableBlock):
        names = [part.name for block in _blocks(sections) if isinstance(block, kind) for part in _named(block)]
        bad = [name for name in names if names.count(name) > 1 or not re.fullmatch(r"[a-z0-9_]+", name)]
        if bad:
            raise UserError(f"names of figures, and of tables, must differ and hold a-z, 0-9 and _ alone: {bad[0]!r}")
    with atomic_folder(folder) as temporary:
        (temporary / FIGURES).mkdir()
        (temporary / TABLES).mkdir()
        pictures, wide, tables = {}, {}, {}
        for block in _blocks(sections):
            if isinstance(block, TableBlock):
                tables[block.name] = json.loads(block.table.to_json(orient="records", double_precision=6))
                block.table.to_csv(temporary / TABLES / f"{block.name}.csv", index=False)
                (temporary / TABLES / f"{block.name}.md").write_text(to_markdown(block), encoding="utf-8")
                continue
            for panel in block.panels:
                svg = _svg(panel.figure)
                (temporary / FIGURES / f"{panel.name}.svg").write_bytes(svg)
                panel.figure.savefig(temporary / FIGURES / f"{panel.name}.png", dpi=200)
                pictures[panel.name] = "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
                if (width := round(96 * panel.figure.get_figwidth())) > NARROW_PX * 1.5:
                    wide[panel.name] = min(width, WIDEST_PX)
        write_json(temporary / NUMBERS, {"title": title, **(about or {}), "tables": tables})
        environment = Environment(
            loader=PackageLoader("hemolens.analysis", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        page = environment.get_template("report.html.j2").render(
            title=title, lead=lead, sections=sections, pictures=pictures, wide=wide, cells=_cells, is_table=_is_table
        )
        (temporary / PAGE).write_text(page, encoding="utf-8")
    return folder / PAGE


def check_report_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise :class:`UserError` if a report cannot go there; call it before the work that makes one."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output {folder} is a file: choose another name")
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if present and not overwrite:
        raise UserError(f"output {folder} exists and is not empty: choose another, or add overwrite=true")
    if foreign := sorted(present - {PAGE, FIGURES, TABLES, NUMBERS}):
        raise UserError(f"output {folder} holds {foreign[0]}, which is no part of a report: not overwritten")


def to_markdown(block: TableBlock) -> str:
    """The table as Markdown with its title and captions."""
    head = [str(name) for name in block.table.columns]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in _cells(block)]
    lines = [
        f"| {' | '.join(row)} |" for row in (head, ["---" if i == 0 else "---:" for i, _ in enumerate(head)], *rows)
    ]
    parts = [f"**{block.title}**", block.caption, "\n".join(lines), block.paper]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cells(block: TableBlock) -> list[list[str]]:
    """Each row's values as shown."""
    return [
        [_shown(value, block.decimals) for value in row]
        for row in block.table.astype(object).itertuples(index=False, name=None)
    ]


def _shown(value: Any, decimals: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return "–"
    if isinstance(value, float):
        return f"{value:,.{decimals}f}".replace("-", "−")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "hemolens", "svg.fonttype": "path"}):  # the same bytes each time
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _blocks(sections: Sequence[Section]) -> list[FigureBlock | TableBlock]:
    return [block for section in sections for block in section.blocks]


def _named(block: FigureBlock | TableBlock) -> Sequence[Panel] | Sequence[TableBlock]:
    return block.panels if isinstance(block, FigureBlock) else (block,)


def _is_table(block: FigureBlock | TableBlock) -> bool:
    return isinstance(block, TableBlock)
