"""Parse every YAML, TOML and JSON file of the repository and check that text ends with one newline.

    python scripts/check_text_files.py [FILE ...]

Without arguments: all files that git tracks or would add. Exit code 1 and one line a finding.
A key that stands twice in a YAML mapping is a finding: PyYAML silently keeps the last.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

TEXT = {".cfg", ".ipynb", ".json", ".md", ".py", ".sh", ".svg", ".toml", ".txt", ".yaml", ".yml"}


class UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def findings(path: Path) -> list[str]:
    """What is wrong with one file, in words."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        return [f"not UTF-8: {error}"]
    found = []
    if text and (not text.endswith("\n") or text.endswith("\n\n")):
        found.append("does not end with exactly one newline")
    if "\r" in text:
        found.append("has carriage returns: save it with Unix line ends")
    try:
        match path.suffix:
            case ".yaml" | ".yml":
                yaml.load(text, Loader=UniqueKeyLoader)
            case ".toml":
                tomllib.loads(text)
            case ".json" | ".ipynb":
                json.loads(text)
    except (yaml.YAMLError, ValueError) as error:
        found.append(f"does not parse: {' '.join(str(error).split())}")
    return found


def main(arguments: list[str]) -> int:
    names = arguments
    if not names:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    paths = sorted(path for path in map(Path, names) if path.suffix in TEXT and path.is_file())
    lines = [f"{path}: {finding}" for path in paths for finding in findings(path)]
    print("\n".join(lines) or f"{len(paths)} text files in order")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
