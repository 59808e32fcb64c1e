"""What Hydra says of a command line or a config that it cannot use, in one line with the remedy."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from hemolens.cli.compose import composed, keys_of
from hemolens.cli.launchers import MISSING_PLUGIN

# Hydra's own options; those in the second set take a value.
_OPTIONS = {
    *("-h", "--help", "--hydra-help", "--version", "--resolve", "-r", "--run", "-m", "--multirun"),
    *("-sc", "--shell-completion", "-i", "--info"),
}
_WITH_VALUE = {
    *("-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"),
    *("--experimental-rerun",),
}


def nearest(name: str, options: Sequence[str], label: str, *, lister: str = "--help") -> str:
    """``; did you mean …?``, or the options where there are few and none is near, or what would list them."""
    near = difflib.get_close_matches(name, options, n=2, cutoff=0.6)
    last = name.rpartition(".")[2]
    near = near or [option for option in options if option.rpartition(".")[2] == last][:3]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    if not options:
        return ""
    return f"; {label}: {', '.join(options)}" if len(options) <= 30 else f"; `{lister}` lists what there is"


def explain_words(arguments: Sequence[str], directory: str, config_name: str) -> str | None:
    """What is wrong with the form of the words: dashes before keys, spaces around ``=``, words without a value."""
    words = [word for word in arguments]
    if any(word in ("-sc", "--shell-completion") for word in words):
        return None
    taken = False  # by the option before
    for place, word in enumerate(words):
        if taken or word in _OPTIONS:
            taken = False
            continue
        taken = word in _WITH_VALUE
        following = words[place + 1] if place + 1 < len(words) else ""
        if re.match(r"--?[A-Za-z]", word) and word.partition("=")[0] not in _WITH_VALUE | _OPTIONS:
            return _dashed(word, following, directory, config_name)
        if taken or word.startswith(("~", "-")) or "=" in word:
            if word.endswith("=") and following and "=" not in following and not following.startswith("-"):
                return f"'{word} {following}': write it without a space, {word}{following}"
            if word.startswith("=") and place:
                joined = f"{words[place - 1]}{word}{following if word == '=' else ''}"
                return f"'{words[place - 1]} {word}': write it without spaces, {joined}"
            continue
        if following.startswith("="):
            rest = following if following != "=" else "=" + "".join(words[place + 2 : place + 3])
            return f"'{word} {rest}': write it without spaces, {word}{rest}"
        if place and "=" in (before := words[place - 1]) and before.endswith(","):
            return f"'{before} {word}': write a list without spaces, {before}{word}"
        return _bare(word, following, directory)
    return None


def _dashed(word: str, following: str, directory: str, config_name: str) -> str:
    name, equals, value = word.lstrip("-").partition("=")
    name = name.replace("-", "_")
    value = value if equals else following if following and not following.startswith("-") else "…"
    options = {option.lstrip("-").replace("-", "_"): option for option in _OPTIONS | _WITH_VALUE if option[:2] == "--"}
    if not equals and (near := difflib.get_close_matches(name, options, n=1, cutoff=0.8)):
        return f"no option '{word}'; did you mean {options[near[0]]}?"
    groups = group_names(directory)
    keys = [*groups, *keys_of(composed(directory, config_name))]
    same = [key for key in keys if key == name or key.endswith(f".{name}")]
    near = same or difflib.get_close_matches(name, keys, n=1, cutoff=0.6)
    meant = min(near, key=lambda key: key.count(".")) if near else name
    return f"no option '{word}': settings are key=value without dashes, e.g. {meant}={value}"


def _bare(word: str, following: str, directory: str) -> str:
    if ":" in word and Path(word).exists() is False and re.match(r"[\w.]+:[^/]", word):
        return f"'{word}': settings are key=value, {word.replace(':', '=', 1)}"
    for group in group_names(directory):
        if word in choices(directory, group):
            return f"'{word}' wants its group: {group}={word}"
    if word in group_names(directory) and following and "=" not in following:
        return f"'{word} {following}': settings are key=value, {word}={following}"
    return f"'{word}' has no value: settings are key=value, e.g. {word}=…"


def group_names(directory: str) -> list[str]:
    """The config groups of a folder."""
    return sorted(path.name for path in Path(directory).iterdir() if path.is_dir())


def choices(directory: str, group: str) -> list[str]:
    """The files of a group, without their ending."""
    return sorted(path.stem for path in (Path(directory) / group).glob("*.yaml"))


def explain_config_error(
    error: BaseException,
    directory: str,
    config_name: str,
    chosen: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> str:
    """One line for a config error, with the nearest valid names; ``chosen`` are the groups of the command line."""
    text = f"{error} {error.__cause__ or ''}"
    if "Ambiguous value for argument" in text and (match := re.search(r"argument '([^=]+)=([^']*)'", text)):
        return (
            f"{match[1]}={match[2]} has several values: add -m to run one job for each, or write "
            f"{match[1]}=[{match[2]}] for a list"
        )
    if "OverrideParse" in type(error).__name__ or "parsing override" in text:
        return _unreadable(text, arguments)
    if match := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"'{match[1]}' is there already: leave out the +, {match[1]}=…"
    if match := re.search(r"Could not find '([^']+)'", text):
        return _no_choice(match[1], directory)
    if match := re.search(r"Could not override '([^']+)'\.\s+No match in the defaults list", text):
        return f"no config group '{match[1]}'" + nearest(match[1], group_names(directory), "groups")
    if match := re.search(r"Multiple values for (\S+)\. To override", text):
        return f"{match[1]} is chosen twice: give {match[1]}=… once (in an experiment file `override /{match[1]}: …`)"
    if match := re.search(r"Could not override '([^']+)'|is not in struct\s+full_key: (\S+)", text):
        key = match[1] or match[2]
        return f"no config key '{key}'" + nearest(key, keys_of(composed(directory, config_name, chosen)), "keys")
    if match := re.search(r"Could not delete from config\. '([^']+)' does not exist", text):
        keys = keys_of(composed(directory, config_name, chosen))
        return f"~{match[1]}: no config key '{match[1]}' to take out" + nearest(match[1], keys, "keys")
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"'{match[1]}' must be given: add {match[1]}=… to the command"
    return text


def _no_choice(name: str, directory: str) -> str:
    group, _, choice = name.rpartition("/")
    if group == "hydra/launcher" and choice in ("joblib", "submitit_local", "submitit_slurm"):
        return f"the {choice} launcher is not installed: {MISSING_PLUGIN}"
    while group and not (Path(directory) / group).is_dir() and "/" in group:  # a path was given
        group, _, rest = group.rpartition("/")
        choice = f"{rest}/{choice}"
    group = group or name
    stem = Path(choice).name.removesuffix(".yaml").removesuffix(".yml")
    options = choices(directory, group)
    if stem != choice and stem in options:
        return f"{group} takes a name, not a file: {group}={stem}"
    if stem != choice:
        own = Path(choice).parent
        return (
            f"{group} takes a name, not a file: put {stem}.yaml into <folder>/{group}/ and say --config-dir <folder> "
            f"{group}={stem}" + (f" (found in {own})" if own.is_dir() else "")
        )
    return f"no config '{choice}' in group '{group}'" + nearest(choice, options, "available")


def _unreadable(text: str, arguments: Sequence[str]) -> str:
    line = text.splitlines()[0]
    if "=" in text and re.search(r"input '[^']*='", text):
        return (
            "a value that holds '=' (such as a folder of a multirun) wants quotes of its own: "
            "'key=\"value\"', or in a list 'key=[\"value\"]'"
        )
    odd = [word for word in arguments if "=" in word and re.search(r"""[(){}\[\]'"\\:;*? ]""", word.partition("=")[2])]
    if odd:
        key, _, value = odd[0].partition("=")
        bare = value.strip("'\"")
        return f"{line}. If {value} is text, it wants quotes of its own: '{key}=\"{bare}\"'"
    return line
