"""Read lists of points: text files with one cell a line, ``x y type``."""

from pathlib import Path
from typing import NamedTuple

from hemolens.errors import UserError


class Point(NamedTuple):
    """A place in a cell, in pixels from the image's upper left corner, and the number of the cell's type."""

    x: int
    y: int
    type: int


def read_points(path: str | Path) -> list[Point]:
    """The points of a file, in its order; blank lines are skipped.

    Raises:
        UserError: the file is missing or no text, or a line holds anything but three whole numbers of at least 0.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of points")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no readable text ({error}); give lines of x y type") from error
    points = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            x, y, kind = (int(part) for part in line.split())
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {line.strip()!r} is not x y type, three whole numbers") from error
        if min(x, y, kind) < 0:
            raise UserError(f"{path}, line {number}: {line.strip()!r} holds a number below 0")
        points.append(Point(x, y, kind))
    return points
