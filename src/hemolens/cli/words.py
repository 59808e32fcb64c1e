"""Words of a command that is printed to be run again, or added to one."""

import re
import sys
from pathlib import Path


def hydra_word(key: str, path: Path) -> str:
    """``key=path`` as Hydra reads it: with quotes of its own where a folder's name is more than letters."""
    text = str(path)
    if re.fullmatch(r"[\w./%@+-]+", text):
        return f"{key}={text}"
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'{key}="{escaped}"'


def config_dir_words() -> list[str]:
    """``--config-dir`` of this command, with its folder."""
    found = [place for place, word in enumerate(sys.argv) if word in ("--config-dir", "-cd")]
    joined = [word for word in sys.argv if word.startswith("--config-dir=")]
    return [*(word for place in found for word in sys.argv[place : place + 2]), *joined]
