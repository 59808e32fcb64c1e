"""The folder that a data set is made in belongs to one plan."""

import json
from pathlib import Path
from typing import Any

from hemolens.errors import UserError
from hemolens.io.atomic import write_json

SETTINGS = "simulation.json"


def claim_folder(folder: Path, begun: dict[str, Any], *, name: str = SETTINGS) -> None:
    """Note the settings in a new folder, or check that the folder is ours.

    Args:
        folder: new or empty, or one that the same settings were begun in.
        begun: the settings; ``fingerprint`` and ``format`` tell whether they are the same.
        name: of the note.

    Raises:
        UserError: other settings, other files, or no folder.
    """
    note = folder / name
    if note.is_file():
        found = json.loads(note.read_text())
        if (found.get("fingerprint"), found.get("format")) != (begun["fingerprint"], begun["format"]):
            raise UserError(f"{folder} was begun with other settings or another version: choose a new output")
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose a folder")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and holds other files: choose a new output")
    write_json(note, begun)
