"""Lists of points, ``x y type``."""

from collections import Counter
from pathlib import Path

import pytest

from hemolens.errors import UserError
from hemolens.io.points import Point, read_points


def test_points_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "1.txt"
    path.write_text("488 116 8\n\n  3\t0   12 \r\n")
    assert read_points(path) == [Point(488, 116, 8), Point(3, 0, 12)]
    assert read_points(path)[0].type == 8
    path.write_text("")
    assert read_points(str(path)) == []


@pytest.mark.parametrize("line", ["1 2", "1 2 3 4", "1.5 2 3", "a 2 3", "1,2,3", "-1 2 3"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "7.txt"
    path.write_text(f"1 2 3\n{line}\n")
    with pytest.raises(UserError, match=r"7\.txt, line 2: ") as caught:
        read_points(path)
    assert repr(line) in str(caught.value)


def test_a_file_that_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt: no such file"):
        read_points(tmp_path / "none.txt")
    (tmp_path / "1.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match=r"1\.txt: no readable text"):
        read_points(tmp_path / "1.txt")


def test_types_of_the_real_set(shared_data: Path) -> None:
    files = sorted((shared_data / "chula_rbc12" / "Label").glob("*.txt"))
    counts = Counter(point.type for file in files for point in read_points(file))
    told = {0: 4986, 1: 186, 2: 357, 3: 3449, 4: 1967, 5: 1996, 6: 1545, 7: 100, 8: 785, 9: 471, 10: 44, 11: 510}
    assert (len(files), counts) == (302, told)
