"""Found cells joined to true ones."""

import pandas as pd
import pytest

from hemolens.analysis.matching import common_files, match_cells
from hemolens.errors import UserError


def found_table(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["file", "x0", "y0", "x1", "y1", "score", "class"])


def true_table(rows: list[tuple]) -> pd.DataFrame:
    columns = ["file", "x1_px", "y1_px", "x2_px", "y2_px", "class", "true_class", "sample"]
    return pd.DataFrame(rows, columns=columns)


TRUTH = true_table(
    [
        ("volumes/a.tcf", 0, 0, 10, 10, "RBC", "RBC", 0),
        ("volumes/a.tcf", 20, 0, 30, 10, "ARBC", "RBC", 0),
        ("volumes/b.tcf", 0, 0, 10, 10, "PLT", "PLT", 1),
    ]
)


def test_pairs_are_one_to_one_within_a_file_whatever_the_class() -> None:
    found = found_table(
        [
            ("a.tcf", 0, 0, 10, 9, 0.5, "ARBC"),  # IoU 0.9 but the lower score
            ("a.tcf", 1, 0, 10, 10, 0.9, "RBC"),
            ("a.tcf", 20, 0, 30, 6, 0.8, "RBC"),
            ("a.tcf", 20, 5, 30, 10, 0.95, "RBC"),  # IoU 0.5: just enough, and the better score
            ("b.tcf", 20, 0, 30, 10, 0.9, "PLT"),  # where only the other file has a cell
        ]
    )
    pairs = match_cells(found, TRUTH)
    assert sorted(zip(pairs.x0, pairs.y0, pairs.true_x1_px, pairs.true_class, strict=True)) == [
        (1, 0, 0, "RBC"),
        (20, 5, 20, "ARBC"),
    ]
    assert pairs.set_index("x0").drawn_class.to_dict() == {1: "RBC", 20: "RBC"}
    assert set(pairs.true_sample) == {0}


def test_files_are_the_same_by_the_end_of_their_path() -> None:
    assert common_files(["a.tcf", "d/b.tcf"], ["volumes/a.tcf", "e/d/b.tcf"]) == {
        "a.tcf": "volumes/a.tcf",
        "d/b.tcf": "e/d/b.tcf",
    }
    assert common_files(["volumes/a.tcf"], ["a.tcf"]) == {"volumes/a.tcf": "a.tcf"}
    assert common_files(["a.tcf"], ["x/a.tcf", "y/a.tcf"]) == {}  # either might be meant
    assert common_files(["da.tcf"], ["a.tcf"]) == {}


def test_slips_are_named() -> None:
    with pytest.raises(UserError, match="found cells without score"):
        match_cells(found_table([]).drop(columns="score"), TRUTH)
    with pytest.raises(UserError, match=r"no file of the cells \(c\.tcf\) is in the truth"):
        match_cells(found_table([("c.tcf", 0, 0, 1, 1, 1.0, "RBC")]), TRUTH)
    assert len(match_cells(found_table([]), TRUTH)) == 0
