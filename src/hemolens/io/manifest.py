"""Manifests: which blood sample each tomogram of a folder is of."""

import csv
from pathlib import Path

from hemolens.errors import UserError


def read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a manifest by their ``file``.

    Raises:
        UserError: missing, without the columns file and sample, or with a file twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; set manifest=null if there is none") from error
    if not rows or not {"file", "sample"} <= set(rows[0]):
        raise UserError(f"{path}: a manifest is a CSV with the columns file and sample, and split where it is given")
    found = {row["file"]: row for row in rows}
    if len(found) < len(rows):
        raise UserError(f"{path} lists a file twice")
    return found
