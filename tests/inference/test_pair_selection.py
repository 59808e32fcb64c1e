"""The choice among synthetic pairs as files: tables, pictures, and what an expert edited."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hemolens.errors import UserError
from hemolens.inference import pair_selection
from hemolens.inference.pair_rule import SelectionRule
from hemolens.inference.pair_selection import read_accepted, run_selection
from hemolens.io.labels import write_labels
from hemolens.io.phase import PhaseImage, write_phase

NAMES = ["background", "discocyte", "spherocyte", "echinocyte", "stomatocyte"]
SIDE, PIXEL_UM = 64, 0.5
CELLS = {"min_area_px": 10, "min_distance_px": 4}
# 20 pairs: two discocytes, but every fifth has a spherocyte instead; p07 has a background of 0.9 rad
PAIRS = [f"p{number:02d}" for number in range(20)]
RULE = SelectionRule(count=8, quality=0.0, diversity=0.0)


def write_pairs(folder: Path, *, pixel_um: float | None = PIXEL_UM) -> Path:
    y, x = np.mgrid[:SIDE, :SIDE]
    rows = []
    for number, name in enumerate(PAIRS):
        kind = 2 if number % 5 == 0 else 1
        classes = np.zeros((SIDE, SIDE), np.uint8)
        classes[(y - 14) ** 2 + (x - 14 - number) ** 2 <= 36] = 1
        classes[(y - 44) ** 2 + (x - 44 + number) ** 2 <= 36] = kind
        phase = np.where(classes > 0, 2.0, 0.0).astype(np.float32) + np.float32(0.9 if number == 7 else 0.0)
        write_phase(folder / "phase" / f"{name}.ome.tif", PhaseImage(phase, pixel_um=pixel_um))
        write_labels(folder / "classes" / f"{name}.ome.tif", classes, pixel_um=pixel_um)
        rows.append(f"{name},{number},5,{0.8 + number / 100}")
    (folder / "pairs.csv").write_text("\n".join(["name,index,seed,confidence", *rows, ""]))
    return folder


@pytest.fixture
def sampled(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "sampled")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def edit(path: Path, changes: dict[str, str]) -> None:
    rows = table(path)
    for row in rows:
        row["accept"] = changes.get(row["name"], row["accept"])
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # as a spreadsheet writes it
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(reversed(rows))


def test_the_choice_as_files(sampled: Path, tmp_path: Path) -> None:
    output = tmp_path / "selected"
    report = run_selection(sampled, output, NAMES, RULE, None, CELLS)
    assert {path.name for path in output.iterdir()} == {
        *("accept.csv", "contact_sheet.png", "class_counts.png", "selection.json"),
    }
    rows = table(output / "accept.csv")
    assert list(rows[0]) == ["name", "accept", "reason", *NAMES[1:], "touching", "overlap", "confidence"]
    assert [row["name"] for row in rows] == PAIRS
    assert [row["name"] for row in rows if row["accept"] == "1"] == report.accepted == read_accepted(output)
    assert {"p00", "p05", "p10", "p15"} < set(report.accepted) and len(report.accepted) == 8
    assert rows[7]["accept"] == "0" and rows[7]["reason"] == "background: 0.90 rad, at most 0.5"
    reasons = {(row["accept"], row["reason"]) for row in rows if row["name"] != "p07"}
    assert reasons == {("1", "chosen"), ("0", "not needed for balance")}
    assert rows[5] | {"accept": "", "reason": ""} == {
        **{"name": "p05", "accept": "", "reason": "", "discocyte": "1", "spherocyte": "1", "echinocyte": "0"},
        **{"stomatocyte": "0", "touching": "0.0", "overlap": "1.0", "confidence": "0.85"},
    }
    assert report.cells_before == {"discocyte": 36, "spherocyte": 4, "echinocyte": 0, "stomatocyte": 0}
    assert report.cells_after == {"discocyte": 12, "spherocyte": 4, "echinocyte": 0, "stomatocyte": 0}
    assert (report.rejected, report.by_hand) == ({"background": 1}, False)
    assert report.lines[:2] == [
        "20 pairs, 19 of them plausible, 8 chosen",
        "implausible: background 1 (a pair may have several reasons)",
    ]
    assert report.lines[3].split() == ["discocyte", "36", "90%", "12", "75%"]
    assert report.lines[4].split() == ["spherocyte", "4", "10%", "4", "25%"]
    assert len({len(line) for line in report.lines[2:]}) == 1
    about = json.loads((output / "selection.json").read_text())
    assert about["rule"] == json.loads(json.dumps(asdict(RULE)))
    assert (about["candidates"], about["chosen"], about["cells_after"]) == (20, 8, report.cells_after)
    with Image.open(output / "contact_sheet.png") as picture:
        assert picture.size[0] > 900


def test_a_table_that_nobody_edited_follows_the_rule(sampled: Path, tmp_path: Path) -> None:
    output = tmp_path / "selected"
    first = run_selection(sampled, output, NAMES, RULE, PIXEL_UM, CELLS)
    before = (output / "accept.csv").read_bytes()
    assert run_selection(sampled, output, NAMES, RULE, PIXEL_UM, CELLS) == first
    assert (output / "accept.csv").read_bytes() == before
    edit(output / "accept.csv", {})  # written by a spreadsheet, but nothing was changed
    other = run_selection(sampled, output, NAMES, SelectionRule(count=3), PIXEL_UM, CELLS)
    assert len(other.accepted) == 3 and not other.by_hand
    assert sum(row["accept"] == "1" for row in table(output / "accept.csv")) == 3


def test_an_edited_table_is_the_choice(sampled: Path, tmp_path: Path) -> None:
    output = tmp_path / "selected"
    first = run_selection(sampled, output, NAMES, RULE, PIXEL_UM, CELLS)
    sheet = (output / "contact_sheet.png").read_bytes()
    # one more that is implausible, and one less
    edit(output / "accept.csv", {"p07": "1", "p05": "0"})
    edited = (output / "accept.csv").read_bytes()
    for _ in range(2):  # it stays the choice
        report = run_selection(sampled, output, NAMES, RULE, PIXEL_UM, CELLS)
        assert report.by_hand and report.accepted == sorted({*first.accepted, "p07"} - {"p05"})
        assert report.cells_after == {"discocyte": 13, "spherocyte": 3, "echinocyte": 0, "stomatocyte": 0}
        assert "accept.csv was edited: 1 pairs that the rule does not choose, 1 left out" in report.lines
        assert (output / "accept.csv").read_bytes() == edited
        assert read_accepted(output) == report.accepted  # though the rows are in another order
    assert (output / "contact_sheet.png").read_bytes() != sheet
    assert json.loads((output / "selection.json").read_text())["by_hand"] is True
    (output / "accept.csv").unlink()
    assert run_selection(sampled, output, NAMES, RULE, PIXEL_UM, CELLS).accepted == first.accepted


def test_a_table_of_unknown_origin_is_taken_as_edited(sampled: Path, tmp_path: Path) -> None:
    output = tmp_path / "selected"
    output.mkdir()
    rows = [f"{name},{int(name in ('p03', 'p07'))}" for name in PAIRS]
    (output / "accept.csv").write_text("\n".join(["name,accept", *rows]))
    assert run_selection(sampled, output, NAMES, RULE, PIXEL_UM, CELLS).accepted == ["p03", "p07"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("p03,0", "p03,yes", r"row 5: accept of p03 is 'yes', not 1 or 0"),
        ("p03,0", "p03,", r"row 5: accept of p03 is '', not 1 or 0"),
        ("p03,0", "p3,0", r"row 5: there is no pair 'p3'; no row of p03"),
        ("p03,0", "p02,0", r"row 5: p02 is there twice; no row of p03"),
        ("p03,0\n", "", r"accept\.csv: no row of p03\."),
        (",1", ",0", r"no row has accept 1"),
        (",0", ",?", r"row 2: .*; and 12 more\."),
        ("name,accept", "name;accept", r"no comma-separated columns name and accept in row 1"),
    ],
)
def test_a_wrong_table_is_refused(sampled: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    output = tmp_path / "selected"
    output.mkdir()
    text = "\n".join(["name,accept", *[f"{name},{int(name in ('p18', 'p19', 'p17'))}" for name in PAIRS], ""])
    assert old in text
    (output / "accept.csv").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        run_selection(sampled, output, NAMES, RULE, PIXEL_UM, CELLS)
    assert str(output / "accept.csv") in str(caught.value)
    assert "Correct accept.csv, or remove it" in str(caught.value)
    assert sorted(path.name for path in output.iterdir()) == ["accept.csv"]
    if "no pair" not in message and "no row of" not in message:  # which the table alone does not tell
        with pytest.raises(UserError, match=message):
            read_accepted(output)


def test_a_choice_has_to_be_made_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"accept\.csv is missing: choose among the pairs first"):
        read_accepted(tmp_path)


def test_where_nothing_is_plausible_the_table_says_why(sampled: Path, tmp_path: Path) -> None:
    output = tmp_path / "selected"
    run_selection(sampled, output, NAMES, RULE, PIXEL_UM, CELLS)
    strict = SelectionRule(min_cells=3)
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"none of the 20 pairs is plausible \(cells 20, background 1\): set accept"
        ):
            run_selection(sampled, output, NAMES, strict, PIXEL_UM, CELLS)
        assert table(output / "accept.csv")[0]["reason"] == "cells: 2, at least 3"
        assert not (output / "contact_sheet.png").exists()
    edit(output / "accept.csv", {"p04": "1"})
    assert run_selection(sampled, output, NAMES, strict, PIXEL_UM, CELLS).accepted == ["p04"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"pairs\.csv is missing: make the pairs first"),
        ("name,confidence\n", "lists no pair"),
        ("name\np00\n", "no comma-separated columns name and confidence"),
        ("name,confidence\np00,0.5\np00,0.5\n", "row 3: p00 is there twice"),
        ("name,confidence\np00,high\n", "row 2: confidence 'high' is no number"),
        ("name,confidence\nq,1\n", r"q\.ome\.tif: no such phase image"),
    ],
)
def test_a_wrong_list_of_pairs_is_refused(sampled: Path, tmp_path: Path, text: str | None, message: str) -> None:
    (sampled / "pairs.csv").unlink()
    if text is not None:
        (sampled / "pairs.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        run_selection(sampled, tmp_path / "selected", NAMES, RULE, PIXEL_UM, CELLS)


def test_the_scale_has_to_be_known(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "sampled", pixel_um=None)
    with pytest.raises(UserError, match="p00 does not say its pixel size: give pixel_um"):
        run_selection(folder, tmp_path / "selected", NAMES, RULE, None, CELLS)


def test_a_sheet_shows_some_of_each_type(sampled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, ...]] = []
    real = pair_selection.plot_contact_sheet
    monkeypatch.setattr(pair_selection, "SHEET_PAIRS", 6)
    monkeypatch.setattr(pair_selection, "plot_contact_sheet", lambda *given: drawn.append(given) or real(*given))
    report = run_selection(sampled, tmp_path / "selected", NAMES, RULE, PIXEL_UM, CELLS)
    (pairs, names, totals) = drawn[0]
    # four have two discocytes, four one of each: those count as the rarer type
    assert totals == [0, 4, 4, 0, 0] and names == NAMES
    assert [pair.kind for pair in pairs].count(1) == [pair.kind for pair in pairs].count(2) == 3
    assert {pair.name for pair in pairs} < set(report.accepted)
    assert all(len(np.unique(pair.instances)) == 3 for pair in pairs)
