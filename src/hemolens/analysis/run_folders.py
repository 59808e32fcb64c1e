"""Run folders as `hemolens train` and `eval` leave them, each file read once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hemolens.errors import UserError


@dataclass(frozen=True)
class RunFolder:
    """What the small files of a run folder say.

    Args:
        folder: the run folder.
        status: ``status.json``.
        config: ``config_resolved.yaml`` with dotted keys.
        metrics: ``metrics.json``; empty of a run that came to no end.
        git: ``git.json``; empty where there is none.
    """

    folder: Path
    status: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, Any]
    git: dict[str, Any]

    @property
    def command(self) -> str:
        """The command that started it, without the folder of the program, which is this machine's."""
        return "hemolens " + self.status["command"].partition(" ")[2]

    @property
    def choices(self) -> dict[str, Any]:
        """The config without folders of this run or machine: neither ``paths`` nor what was made from them."""
        paths = {
            str(value) for key, value in self.config.items() if key.startswith("paths.") and str(value) not in (".", "")
        }
        return {
            key: value
            for key, value in self.config.items()
            if not key.startswith("paths.") and not any(f"{value}/".startswith(f"{path}/") for path in paths)
        }


def find_runs(folders: Sequence[Path]) -> list[RunFolder]:
    """The runs in or below the folders, sorted within each; earlier attempts at a job are left out.

    Raises:
        UserError: a folder does not exist or holds no run, or a file of a run cannot be read.
    """
    runs = []
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: give run or sweep folders, e.g. outputs/")
        found = sorted(folder.rglob("status.json"))
        if not found:
            raise UserError(f"no runs below {folder}: a run folder holds a status.json")
        for status_file in found:
            run = status_file.parent
            if run.resolve() in seen:  # folders given may lie in each other
                continue
            seen.add(run.resolve())
            status = read_json(status_file)
            if status.get("superseded"):
                continue
            metrics, git = (
                read_json(run / name) if (run / name).exists() else {} for name in ("metrics.json", "git.json")
            )
            runs.append(RunFolder(run, status, flatten(_read_yaml(run / "config_resolved.yaml")), metrics, git))
    if not runs:
        raise UserError(f"only earlier attempts below {folders[0]}: give the folder of the jobs themselves")
    return runs


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: the file is not JSON, e.g. cut off by a full disk.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}): remove the run folder or move it away") from error
    return content


def _read_yaml(path: Path) -> Any:
    # libyaml's loader, where PyYAML was built with it, reads the same seven times as fast
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read ({words}): remove the run folder or move it away") from error


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys; lists are values."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
