"""``hemolens completion``: a script that lets bash, zsh or fish complete verbs, groups, choices and keys.

The script asks ``hemolens completion --query`` at each Tab, which reads file names and YAML alone: no Hydra, no torch.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hemolens.cli.main import VERBS
from hemolens.cli.places import config_dir
from hemolens.errors import UserError

# Of verbs that Hydra does not read; the others take groups and keys, and Hydra's own options.
OPTIONS = {
    "collect": ["--metric", "--output", "--overwrite", "--all-metrics", "--compare", "--by"],
    "doctor": ["--json"],
    "new-experiment": ["--from", "--output-dir", "--config-dir", "--overwrite", "--list"],
    "completion": ["bash", "zsh", "fish"],
}
# Groups without keys of their own.
RECIPES = {"experiment", "arm", "sweep", "debug", "difficulty"}
HYDRA_OPTIONS = ["--help", "--multirun", "--cfg", "--resolve", "--info", "--config-dir", "--hydra-help"]

BASH = """\
# hemolens: completion for bash. Now: eval "$(hemolens completion bash)"; for good: that line in ~/.bashrc
_hemolens() {
    local line="${COMP_LINE:0:COMP_POINT}" current reply
    current="${line##* }"
    COMPREPLY=()
    while IFS= read -r reply; do
        [[ -n $reply ]] || continue
        # readline has cut the word at "=" and completes what follows
        if [[ $current == *=* && $COMP_WORDBREAKS == *=* ]]; then reply="${reply#"${current%%=*}"=}"; fi
        COMPREPLY+=("$reply")
    done < <(hemolens completion --query "$line" 2> /dev/null)
    if [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *[=.] ]]; then compopt -o nospace 2> /dev/null; fi
}
complete -o default -F _hemolens hemolens
"""

ZSH = """\
# hemolens: completion for zsh. Now: eval "$(hemolens completion zsh)"; for good: that line in ~/.zshrc, after compinit
_hemolens() {
    local -a replies open closed
    replies=("${(@f)$(hemolens completion --query "${LBUFFER}" 2> /dev/null)}")
    open=(${(M)replies:#*[=.]})
    closed=(${replies:#*[=.]})
    (( ${#open} )) && compadd -S '' -- $open
    (( ${#closed} )) && compadd -- $closed
    (( ${#open} + ${#closed} )) || _files
}
compdef _hemolens hemolens
"""

FISH = """\
# hemolens: completion for fish. For good: hemolens completion fish > ~/.config/fish/completions/hemolens.fish
complete -c hemolens -a '(hemolens completion --query (commandline -cp | string collect) 2> /dev/null)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def main(arguments: Sequence[str]) -> int:
    """Print a shell's script, or with ``--query`` what may follow a line."""
    parser = argparse.ArgumentParser(
        prog="hemolens completion",
        description="Print a script that completes verbs, config groups, their choices and keys.",
        epilog='Now: eval "$(hemolens completion bash)"; for good, put that line into ~/.bashrc.',
    )
    parser.add_argument("shell", nargs="?", choices=sorted(SCRIPTS))
    parser.add_argument("--query", metavar="LINE", help="print what may stand at the end of a command line")
    words = parser.parse_args(list(arguments))
    if words.query is not None:
        print("\n".join(candidates(words.query)))
        return 0
    if words.shell is None:
        print(f"hemolens: completion of which shell? {', '.join(sorted(SCRIPTS))}", file=sys.stderr)
        return 2
    print(SCRIPTS[words.shell], end="")
    return 0


def candidates(line: str) -> list[str]:
    """What may stand at the end of a command line: whole words, in order.

    Args:
        line: from ``hemolens`` to the cursor.
    """
    words = line.split()
    current = "" if line.endswith(" ") or not words else words.pop()
    before = words[1:]
    if not before:
        return [verb for verb in VERBS if verb.startswith(current)]
    verb, *given = before
    folders = [config_dir(), *_own_folders(given)]
    if verb == "new-experiment":
        found = _choices(folders, "experiment") if given[-1:] == ["--from"] else OPTIONS[verb]
    elif verb in OPTIONS:
        found = OPTIONS[verb]
    elif verb not in VERBS:
        found = []
    elif current.startswith("-"):
        found = HYDRA_OPTIONS
    else:
        found = _overrides(folders, verb, given, current)
    return [word for word in found if word.startswith(current)]


def _own_folders(words: Sequence[str]) -> list[Path]:
    """Those that ``--config-dir`` names."""
    names = [after for word, after in itertools.pairwise(words) if word in ("--config-dir", "-cd")]
    names += [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    return [Path(name).expanduser() for name in names if name]


def _overrides(folders: Sequence[Path], verb: str, given: Sequence[str], current: str) -> list[str]:
    marks = current[: len(current) - len(current.lstrip("+~"))]
    current = current[len(marks) :]
    content = _read(folders[0] / f"{verb}.yaml")
    groups = {name for entry in content.get("defaults", []) if isinstance(entry, Mapping) for name in entry}
    groups = {str(name).removeprefix("optional ").partition("@")[0].lstrip("/") for name in groups}
    groups -= {"hydra", "local"}
    group, equals, value = current.partition("=")
    if equals:
        if group not in groups:
            return []
        done, comma, _ = value.rpartition(",")  # of a sweep
        return [f"{marks}{group}={done}{comma}{choice}" for choice in _choices(folders, group)]
    if "." in current:
        return [marks + key for key in _keys_below(folders, content, groups, given, current.partition(".")[0])]
    keys = [key for key in content if key not in ("defaults", "hydra")]
    words = [f"{group}=" for group in groups] + [f"{key}=" for key in keys if not isinstance(content[key], Mapping)]
    words += [f"{name}." for name in {*groups, *keys} - RECIPES if name in groups or isinstance(content[name], Mapping)]
    return [marks + word for word in sorted(set(words))]


def _keys_below(
    folders: Sequence[Path], content: Mapping[str, Any], groups: set[str], given: Sequence[str], group: str
) -> list[str]:
    """Dotted keys of the file that a group's choice means: the one of the line, or of the verb's defaults."""
    chosen = {
        str(name).rpartition("/")[2]: choice
        for entry in content.get("defaults", [])
        if isinstance(entry, Mapping)
        for name, choice in entry.items()
    }
    experiment = next((word.partition("=")[2] for word in given if word.startswith("experiment=")), None)
    chosen |= _experiment_choices(folders, experiment) if experiment else {}
    chosen |= {name: value for name, _, value in (word.partition("=") for word in given) if name in groups}
    found = dict(content.get(group) or {}) if isinstance(content.get(group), Mapping) else {}
    if chosen.get(group):
        found = _with_bases(folders, group, str(chosen[group])) | found
    return [f"{key}=" for key in sorted(_flat(found, f"{group}."))]


def _experiment_choices(folders: Sequence[Path], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in _find(folders, "experiment", name).get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            found |= _experiment_choices(folders, entry)
        elif isinstance(entry, Mapping):
            found |= {str(key).rpartition("/")[2]: value for key, value in entry.items()}
    return found


def _with_bases(folders: Sequence[Path], group: str, choice: str) -> dict[str, Any]:
    content = _find(folders, group, choice)
    found: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            found |= _with_bases(folders, group, entry)
    inner = content.get(group)  # of a global package, e.g. model/detection.yaml
    return found | (dict(inner) if isinstance(inner, Mapping) else content)


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        if str(key).startswith("_"):
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _choices(folders: Sequence[Path], group: str) -> list[str]:
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _find(folders: Sequence[Path], group: str, choice: str) -> dict[str, Any]:
    paths = [folder / group / f"{choice}.yaml" for folder in folders]
    return next((_read(path) for path in paths if path.is_file()), {})


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return dict(content or {})
