"""Choose among synthetic phase-mask pairs by a rule, or as an expert edited its choice, and show what was chosen."""

import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from hemolens.analysis.figures import save_figure
from hemolens.analysis.pair_figures import PairPicture, plot_class_counts, plot_contact_sheet
from hemolens.data.phase_folder import CLASSES_FOLDER, PHASE_FOLDER
from hemolens.errors import UserError
from hemolens.inference.pair_rule import PairScore, SelectionRule, score_pair, select_pairs
from hemolens.io.atomic import write_json
from hemolens.io.labels import read_labels
from hemolens.io.phase import read_phase
from hemolens.io.tables import write_csv
from hemolens.postprocess.instances import cells_of_classes

PAIRS_CSV, ACCEPT_CSV, SELECTION_JSON = "pairs.csv", "accept.csv", "selection.json"
SHEET_PNG, COUNTS_PNG, SHEET_PAIRS = "contact_sheet.png", "class_counts.png", 100
CHOSEN, NOT_NEEDED = "chosen", "not needed for balance"
DECIMALS = 4
_REMEDY = f"Correct {ACCEPT_CSV}, or remove it: then stages=[select] chooses anew"
_NAMED_ERRORS = 5  # rows whose errors a message gives in full; the rest are counted


@dataclass(frozen=True)
class SelectionReport:
    """What was chosen.

    Attributes:
        accepted: names of the chosen pairs, in the order of ``pairs.csv``.
        by_hand: whether ``accept.csv`` had been edited and made the choice.
        cells_before, cells_after: cells of each type in all candidates, and in the chosen pairs.
        rejected: implausible pairs by kind of reason; a pair may have several.
        lines: to print.
    """

    accepted: list[str]
    by_hand: bool
    cells_before: dict[str, int]
    cells_after: dict[str, int]
    rejected: dict[str, int]
    lines: list[str] = field(repr=False)


def run_selection(
    folder: Path,
    output: Path,
    class_names: Sequence[str],
    rule: SelectionRule,
    pixel_um: float | None = None,
    cells: Mapping[str, Any] | None = None,
) -> SelectionReport:
    """Choose among the pairs of a folder and write the choice, with pictures.

    - ``accept.csv``: a row a candidate: name, accept (1 or 0), reason, cells of each type, touching, overlap,
      confidence. Once its ``accept`` is edited, a further call takes that choice instead of the rule's.
    - ``contact_sheet.png``: chosen pairs by type; ``class_counts.png``: cells of each type before and after.
    - ``selection.json``: the rule and the counts.

    Args:
        folder: with ``pairs.csv`` (name, confidence), ``phase/<name>.ome.tif`` and ``classes/<name>.ome.tif``.
        output: new, or of an earlier call, whose pictures are drawn anew.
        class_names: background first.
        rule: see :class:`SelectionRule`.
        pixel_um: side of a pixel; None: as the files say.
        cells: see :func:`score_pair`.

    Raises:
        UserError: damaged or missing files, an ``accept.csv`` that does not fit, or no pair is chosen.
    """
    candidates = _read_candidates(folder / PAIRS_CSV)
    names = list(candidates)
    by_hand = _read_edited(output / ACCEPT_CSV, output / SELECTION_JSON, candidates)
    console = Console(stderr=True)
    quiet = not (console.is_terminal or console.is_jupyter)
    scores = []
    for name in track(names, "scoring pairs", console=console, transient=True, disable=quiet):
        image = read_phase(pair_file(folder, PHASE_FOLDER, name))
        classes = read_labels(pair_file(folder, CLASSES_FOLDER, name))
        if (scale := image.pixel_um if pixel_um is None else pixel_um) is None:
            raise UserError(f"{folder}: {name} does not say its pixel size: give pixel_um")
        facts: dict[str, Any] = {"cells": cells, "name": name, "confidence": candidates[name]}
        scores.append(score_pair(image.phase_rad, classes, len(class_names), rule, scale, **facts))
    by_rule = select_pairs(scores, rule)
    chosen = by_rule if by_hand is None else [index for index, name in enumerate(names) if by_hand[name]]
    report = _report(scores, chosen, by_rule, class_names, by_hand=by_hand is not None)
    before, after = ([*counts.values()] for counts in (report.cells_before, report.cells_after))
    picture = plot_class_counts(before, after, class_names, (len(scores), len(chosen)))
    save_figure(picture, output / COUNTS_PNG, overwrite=True)
    (output / SHEET_PNG).unlink(missing_ok=True)  # of an earlier call
    if chosen:
        picture = _sheet(folder, [scores[index] for index in chosen], class_names, cells)
        save_figure(picture, output / SHEET_PNG)
    about = {
        "rule": asdict(rule),
        "class_names": list(class_names),
        "pixel_um": pixel_um,
        "cells": dict(cells or {}),
        "candidates": len(scores),
        **{key: value for key, value in asdict(report).items() if key not in ("accepted", "lines")},
        "chosen": len(chosen),
    }
    if by_hand is None:
        rows = _table(scores, set(chosen))
        columns = ["name", "accept", "reason", *class_names[1:], "touching", "overlap", "confidence"]
        write_csv(output / ACCEPT_CSV, columns, rows, overwrite=True)
        about["decisions_sha256"] = _decisions_digest((row[0], row[1]) for row in rows)
    write_json(output / SELECTION_JSON, about, overwrite=True)
    if not chosen:
        raise UserError(
            f"none of the {len(scores)} pairs is plausible ({_listed(report.rejected)}): set accept to 1 in "
            f"{output / ACCEPT_CSV}, change select.*, or train the generators longer",
            exit_code=1,
        )
    return report


def read_accepted(folder: Path) -> list[str]:
    """Names of the accepted pairs in ``accept.csv``, sorted, edited or not.

    Args:
        folder: that :func:`run_selection` wrote.

    Raises:
        UserError: no table, a wrong row, or none that is accepted.
    """
    path = folder / ACCEPT_CSV
    if not path.is_file():
        raise UserError(f"{path} is missing: choose among the pairs first (stages=[select,augment])")
    decisions = _decisions(path, _rows(path, ("name", "accept"), _REMEDY))
    return sorted(name for name, accept in decisions.items() if accept)


def pair_file(folder: Path, kind: str, name: str) -> Path:
    """File of a pair in a folder of pairs; ``kind`` is ``phase`` or ``classes``."""
    return folder / kind / f"{name}.ome.tif"


def _report(
    scores: Sequence[PairScore],
    chosen: Sequence[int],
    by_rule: Sequence[int],
    class_names: Sequence[str],
    *,
    by_hand: bool,
) -> SelectionReport:
    types = class_names[1:]
    before = _cells(scores).tolist()
    after = _cells([scores[index] for index in chosen]).tolist() if chosen else [0] * len(types)
    rejected = Counter(reason.partition(":")[0] for score in scores for reason in score.reasons)
    implausible = sum(bool(score.reasons) for score in scores)
    lines = [f"{len(scores):,} pairs, {len(scores) - implausible:,} of them plausible, {len(chosen):,} chosen"]
    if rejected:
        lines.append(f"implausible: {_listed(rejected)} (a pair may have several reasons)")
    if by_hand:
        added, left_out = (len(set(a) - set(b)) for a, b in ((chosen, by_rule), (by_rule, chosen)))
        lines.append(f"{ACCEPT_CSV} was edited: {added:,} pairs that the rule does not choose, {left_out:,} left out")
    width = max(map(len, ("cells", *types)))
    lines.append(f"{'cells':<{width}}  {'before':>14}  {'after':>14}")
    for name, *counts in zip(types, before, after, strict=True):
        shown = (
            f"{count:>8,}  {count / max(1, sum(every)):>4.0%}"
            for count, every in zip(counts, (before, after), strict=True)
        )
        lines.append(f"{name:<{width}}  {'  '.join(shown)}")
    return SelectionReport(
        accepted=[scores[index].name for index in sorted(chosen)],
        by_hand=by_hand,
        cells_before=dict(zip(types, before, strict=True)),
        cells_after=dict(zip(types, after, strict=True)),
        rejected=dict(rejected.most_common()),
        lines=lines,
    )


def _cells(scores: Sequence[PairScore]) -> NDArray[np.int64]:
    """Of each type in all of them."""
    return np.asarray(np.stack([score.cells for score in scores]).sum(0))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in Counter(counts).most_common())


def _table(scores: Sequence[PairScore], chosen: set[int]) -> list[list[Any]]:
    """Of ``accept.csv``."""
    return [
        [
            score.name,
            int(index in chosen),
            "; ".join(score.reasons) or (CHOSEN if index in chosen else NOT_NEEDED),
            *score.cells.tolist(),
            round(score.touching, DECIMALS),
            round(score.overlap, DECIMALS),
            "" if math.isnan(score.confidence) else round(score.confidence, DECIMALS),
        ]
        for index, score in enumerate(scores)
    ]


def _sheet(
    folder: Path, scores: Sequence[PairScore], class_names: Sequence[str], cells: Mapping[str, Any] | None
) -> Figure:
    """At most ``SHEET_PAIRS`` of the chosen pairs, of each type as many, the first chosen first."""
    common = _cells(scores)
    kinds = [_kind(score.cells, common) for score in scores]
    turn = [kinds[:at].count(kind) for at, kind in enumerate(kinds)]  # first, second, ... of its type
    shown = sorted(sorted(range(len(kinds)), key=lambda at: (turn[at], at))[:SHEET_PAIRS])
    pictures = []
    for at in shown:
        phase = read_phase(pair_file(folder, PHASE_FOLDER, scores[at].name)).phase_rad
        classes = read_labels(pair_file(folder, CLASSES_FOLDER, scores[at].name))
        instances = cells_of_classes(classes, **dict(cells or {}))
        pictures.append(PairPicture(scores[at].name, phase, classes, instances, kinds[at]))
    return plot_contact_sheet(pictures, class_names, np.bincount(kinds, minlength=len(class_names)).tolist())


def _kind(cells: NDArray[np.int64], common: NDArray[np.int64]) -> int:
    """Label of the type of most cells, of several the rarest; 0 without cells."""
    if not cells.any():
        return 0
    return min(range(len(cells)), key=lambda kind: (-int(cells[kind]), int(common[kind]))) + 1


def _read_candidates(path: Path) -> dict[str, float]:
    """Confidence of each pair of ``pairs.csv`` by its name, NaN where the field is empty, in the order of the rows.

    Raises:
        UserError: missing, without the columns name and confidence, without a row, with a name twice, or with a
            confidence that is no number.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: make the pairs first (stages=[sample,select])")
    found: dict[str, float] = {}
    for line, row in _rows(path, ("name", "confidence"), "sample the pairs again"):
        name, text = row["name"], row["confidence"]
        if name in found:
            raise UserError(f"{path}, row {line}: {name} is there twice: sample the pairs again")
        try:
            found[name] = float(text) if text else math.nan
        except ValueError as error:
            raise UserError(f"{path}, row {line}: confidence {text!r} is no number: sample the pairs again") from error
    if not found:
        raise UserError(f"{path} lists no pair: sample some first")
    return found


def _read_edited(path: Path, note: Path, names: Collection[str]) -> dict[str, bool] | None:
    """The choice of a table that was edited since it was written.

    Args:
        path: ``accept.csv``.
        note: JSON beside it with ``decisions_sha256``, the :func:`_decisions_digest` of what was written.
        names: of all candidates.

    Returns:
        Whether each candidate is accepted; None where there is no table, or it is as it was written.

    Raises:
        UserError: names the rows that are wrong: an unknown name, one that is there twice or not at all, or an
            ``accept`` that is neither 0 nor 1; or no row is accepted.
    """
    if not path.is_file():
        return None
    rows = list(_rows(path, ("name", "accept"), _REMEDY))
    if _decisions_digest((row["name"], row["accept"]) for _, row in rows) == _noted_digest(note):
        return None
    found = _decisions(path, rows, names)
    return {name: found[name] for name in names}


def _decisions(
    path: Path, rows: Iterable[tuple[int, Mapping[str, str]]], names: Collection[str] | None = None
) -> dict[str, bool]:
    """Whether each pair is accepted, where all rows are right; ``names``: of all candidates, where they are known."""
    found: dict[str, bool] = {}
    wrong = []
    for line, row in rows:
        name, text = row["name"], row["accept"]
        if names is not None and name not in names:
            wrong.append(f"row {line}: there is no pair {name!r}")
        elif name in found:
            wrong.append(f"row {line}: {name} is there twice")
        elif text not in ("0", "1"):
            wrong.append(f"row {line}: accept of {name} is {text!r}, not 1 or 0")
        found[name] = text == "1"
    wrong += [f"no row of {name}" for name in names or () if name not in found]
    if not wrong and not any(found.values()):
        wrong.append("no row has accept 1")
    if wrong:
        more = f"; and {len(wrong) - _NAMED_ERRORS} more" if len(wrong) > _NAMED_ERRORS else ""
        raise UserError(f"{path}: {'; '.join(wrong[:_NAMED_ERRORS])}{more}. {_REMEDY}")
    return found


def _decisions_digest(decisions: Iterable[tuple[str, object]]) -> str:
    """Hash of (name, accept) of all rows, the same after a spreadsheet has written the table in its own way."""
    lines = sorted(f"{name},{accept}" for name, accept in decisions)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _noted_digest(note: Path) -> str | None:
    try:
        content = json.loads(note.read_text())
    except (OSError, ValueError):
        return None  # a table whose origin is not known is taken as edited
    digest = content.get("decisions_sha256") if isinstance(content, dict) else None
    return digest if isinstance(digest, str) else None


def _rows(path: Path, columns: Sequence[str], remedy: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The columns of each row, stripped, with its number as a spreadsheet counts it."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}. {remedy}") from error
    header = [text.strip() for text in lines[0]] if lines else []
    if not set(columns) <= set(header):
        raise UserError(f"{path}: no comma-separated columns {' and '.join(columns)} in row 1. {remedy}")
    places = [header.index(column) for column in columns]
    for number, line in enumerate(lines[1:], start=2):
        if any(text.strip() for text in line):
            values = [line[place].strip() if place < len(line) else "" for place in places]
            yield number, dict(zip(columns, values, strict=True))
