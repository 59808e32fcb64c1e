"""The command lines of the documentation, found and checked without being run: verbs, config groups, keys, files.

What a reader has to fill in is known by its form: ``<run>`` stands for a name; ``…`` for words that are left out, so
that nothing is said of keys that must be given; ``{r18,r50}`` for each of them; ``seg_{net}_quick`` and ``seg_…`` for
any that is there. Code blocks with a title (``yaml title="my_configs/experiment/mine.yaml"``) and lines such as
``cp configs/…`` make the files that later commands of the page use, in a folder of their own.
"""

import contextlib
import difflib
import io
import itertools
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig

from hemolens.cli import collect, completion, new_experiment
from hemolens.cli.app import explain_config_error, register_resolvers
from hemolens.cli.compose import composed
from hemolens.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)(`{3,})(.*)$")
INLINE = re.compile(r"(?<!`)`(hemolens [^`]+)`(?!`)")
PLACEHOLDER = re.compile(r"<[A-Za-z][^<>]*>")
ELLIPSES = ("…", "...")
FLAGS = {"-m", "--multirun", "--resolve"}
FLAGS_WITH_VALUE = {"--cfg", "--info", "--config-dir", "--package"}


@dataclass(frozen=True)
class Line:
    """A shell line of a page, continued lines joined; ``whole``: all that it needs stands there."""

    place: str
    text: str
    whole: bool


@dataclass(frozen=True)
class Block:
    """A code block with a title: the file that a page tells its reader to write."""

    place: str
    title: str
    text: str


def lines_of(path: Path) -> Iterator[Line | Block]:
    """Shell lines and titled blocks of a Markdown file, in order; then what is said within the text."""
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    prose: list[str] = []
    fence: re.Match[str] | None = None
    block: list[str] = []
    indented: list[tuple[int, str]] = []
    start = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        marker = FENCE.match(line)
        if fence is None and marker:
            fence, block, start = marker, [], number
        elif fence is None and re.match(r" {4,}hemolens ", line):  # a block by its indent
            indented.append((number, line.strip()))
        elif fence is None and indented and indented[-1][1].endswith("\\"):
            indented[-1] = (indented[-1][0], indented[-1][1].removesuffix("\\") + line.strip())
        elif fence is None:
            prose.append(line)
        elif marker and not marker[3].strip():
            if title := re.search(r'title="([^"]+)"', fence[3]):
                yield Block(f"{name}:{start}", title[1], "\n".join(block) + "\n")
            if fence[3].split()[:1] in ([], ["sh"], ["bash"]):
                yield from _joined(block, name, start + 1)
            fence = None
            prose.append("")
        else:
            block.append(line.removeprefix(fence[1]))
    for number, line in indented:
        yield Line(f"{name}:{number}", line, whole=True)
    for match in INLINE.finditer("\n".join(prose)):
        yield Line(f"{name}: in the text", " ".join(match[1].split()), whole=False)


def _joined(block: Sequence[str], name: str, first: int) -> Iterator[Line]:
    """Lines of a block, each with those that a backslash or an open quotation adds to it."""
    held = ""
    start = first
    for number, line in enumerate(block, start=first):
        start = start if held else number
        held += line
        if held.endswith("\\"):
            held = held.removesuffix("\\")
            continue
        try:
            shlex.split(held, comments=True)
        except ValueError:
            held += "\n"
            continue
        if held.strip():
            yield Line(f"{name}:{start}", held.strip(), whole=True)
        held = ""
    if held:
        yield Line(f"{name}:{start}", held, whole=True)  # whose fault is told when it is read


def commands_of(line: Line) -> Iterator[list[str]]:
    """Words of each simple command of a line, without comments and variables that are set before."""
    text = PLACEHOLDER.sub("placeholder", line.text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in itertools.chain(lexer, [";"]):
        if not set(word) <= set("&|;"):
            words.append(word)
            continue
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if words:
            yield words
        words = []


class Checker:
    """Checks the commands of one page after the other, with copies of the configs that a page may add to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept: dict[tuple[str, tuple[str, ...], str | None], Config] = {}
        shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("local"))
        register_resolvers()

    def findings(self, path: Path) -> list[str]:
        """What is wrong with the command lines of a page, a line each."""
        found = []
        for line in lines_of(path):
            if isinstance(line, Block):
                target = self.folder / line.title
                if not target.resolve().is_relative_to(self.folder):
                    found.append(f"{line.place}: {line.title} leads out of the folder")
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(line.text, encoding="utf-8")
                continue
            if line.whole and re.match(r"(cp|mkdir|sed) .*configs", line.text):
                done = subprocess.run(line.text, shell=True, cwd=self.folder, capture_output=True, text=True)
                found += [f"{line.place}: {done.stderr.strip()}"] if done.returncode else []
            try:
                commands = list(commands_of(line))
            except ValueError as error:
                found.append(f"{line.place}: no shell line: {error}")
                continue
            for words in commands:
                if (what := self.fault(words, whole=line.whole)) is not None:
                    found.append(f"{line.place}: {what}\n    {line.text}")
        return found

    def fault(self, words: Sequence[str], *, whole: bool = True) -> str | None:
        """What is wrong with one command, None if nothing is seen."""
        first, *rest = words
        if first == "hemolens":
            return self._hemolens(rest, whole=whole)
        if first == "make":
            missing = [word for word in rest if re.fullmatch(r"[a-z-]+", word) and word not in make_targets()]
            return f"make has no target {missing[0]}" if missing else None
        if first in ("pip", "python") or first.endswith((".sh", ".py")):
            extras = re.findall(r"hemolens\[([a-z,]+)\]|'?\.\[([a-z,]+)\]", " ".join(rest))
            for extra in ",".join("".join(pair) for pair in extras).split(","):
                if extra and extra not in optional_dependencies():
                    return f"pyproject.toml has no extra {extra}"
            files = [word for word in words if re.match(r"\.?/?(scripts|benchmarks|tests|notebooks)/[\w./-]+$", word)]
            missing = [word for word in files if not (ROOT / word).exists()]
            return f"no file {missing[0]}" if missing else None
        return None

    def _hemolens(self, words: Sequence[str], *, whole: bool) -> str | None:
        verb, *rest = words
        if verb in ("--help", "--version"):
            return None
        if verb.startswith(ELLIPSES) or verb == "placeholder":
            return None
        if verb not in VERBS:
            return f"no verb {verb}"
        elided = any(word.strip("'\"") in ELLIPSES for word in rest)
        rest = [word for word in rest if word not in ELLIPSES]
        if "--help" in rest:
            return None
        if not (ROOT / "configs" / f"{verb}.yaml").exists():
            return _parsed(verb, rest, self.folder) if rest or whole else None
        overrides, extra, multirun = [], None, False
        values = iter(rest)
        for word in values:
            if word in FLAGS_WITH_VALUE:
                value = next(values, "")
                extra = value if word == "--config-dir" else extra
            elif word in FLAGS:
                multirun = multirun or word != "--resolve"
            elif word.startswith("-"):
                return f"hemolens {verb} has no flag {word}"
            elif "=" in word:
                overrides.append(word)
            elif not word.startswith(("+", "~")):
                return f"{word!r} is no key=value"
        return self._composes(verb, overrides, extra=extra, multirun=multirun, whole=whole and not elided)

    def _composes(
        self, verb: str, overrides: Sequence[str], *, extra: str | None, multirun: bool, whole: bool
    ) -> str | None:
        """Whether the overrides compose: for one filling of the wildcards, and with it for each value of a sweep."""
        if extra and not (self.folder / extra).is_dir():
            return f"nothing on the page makes the folder {extra}" if whole else None
        folders = [self.folder / "configs"] + ([self.folder / extra] if extra else [])
        choices = [alternatives(word, folders, multirun=multirun) for word in overrides]
        for word, options in zip(overrides, choices, strict=True):
            if not options.values:
                return f"nothing that is there fits {word}"
        tried = (options.values if options.wildcard else options.values[:1] for options in choices)
        fillings = itertools.product(*tried)
        fault: str | None = ""
        for good in itertools.islice(fillings, 60):
            first, fault = fault, self._fault_of(verb, good, extra, whole=whole)
            if fault is None:
                break
            fault = first or fault
        if fault is not None:
            return fault
        others = (
            self._fault_of(verb, [*good[:index], value, *good[index + 1 :]], extra, whole=whole)
            for index, options in enumerate(choices)
            for value in (() if options.wildcard else options.values[1:])
        )
        return next((fault for fault in others if fault is not None), None)

    def _fault_of(self, verb: str, overrides: Sequence[str], extra: str | None, *, whole: bool) -> str | None:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        words = zip((override.get_key_element() for override in parsed), overrides, strict=True)
        folder = self.folder / "configs"
        groups = tuple(word for key, word in words if key.startswith("hydra/") or (folder / key).is_dir())
        try:
            config = self._config(verb, groups, extra)
        except Exception as error:  # whatever it is, the reader would see it
            return " ".join(explain_config_error(error, str(self.folder / "configs"), verb).split())
        given = {override.get_key_element() for override in parsed}
        for override in parsed:
            key = override.get_key_element()
            if override.is_sweep_override():
                return f"{key} has several values, which wants -m"
            if not override.is_add() and key not in config.keys and not _is_group(override, groups):
                near = difflib.get_close_matches(key, config.keys, n=1)
                return f"no config key {key} with {' '.join(groups) or 'these words'}{f': {near[0]}?' if near else ''}"
        missing = [key for key in config.missing if not any(key == one or key.startswith(f"{one}.") for one in given)]
        # the classes of a fine-tuned network are its checkpoint's
        return f"{missing[0]} must be given" if whole and missing and not config.of_checkpoint else None

    def _config(self, verb: str, groups: tuple[str, ...], extra: str | None) -> "Config":
        """What the choices of groups compose to; kept, since most commands differ in values alone."""
        if (verb, groups, extra) not in self._kept:
            more = [str(self.folder / extra)] if extra else []
            cfg = composed(str(self.folder / "configs"), verb, groups, more=more, with_hydra=True)
            values = dict(keys_of(cfg))
            missing = tuple(key for key, value in values.items() if value == "???" and not key.startswith("hydra."))
            self._kept[verb, groups, extra] = Config(frozenset(values), missing, bool(cfg.get("net_of_checkpoint")))
        return self._kept[verb, groups, extra]


@dataclass(frozen=True)
class Config:
    """A composed config: its dotted keys, those without a value, and whether the network is a checkpoint's."""

    keys: frozenset[str]
    missing: tuple[str, ...]
    of_checkpoint: bool


def keys_of(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a config and what stands there, without following interpolations."""
    for key in node:
        child = node._get_node(key)
        yield f"{prefix}{key}", child._value()
        if isinstance(child, DictConfig) and not child._is_interpolation() and not child._is_none():
            yield from keys_of(child, f"{prefix}{key}.")


def _is_group(override: Override, groups: Sequence[str]) -> bool:
    return any(word.partition("=")[0].lstrip("+~") == override.get_key_element() for word in groups)


@dataclass(frozen=True)
class Alternatives:
    """Overrides that a word stands for; of a ``wildcard`` one is enough."""

    values: list[str]
    wildcard: bool = False


def alternatives(word: str, folders: Sequence[Path], *, multirun: bool) -> Alternatives:
    """The overrides that ``word`` stands for: choices of a group for a wildcard, values of a sweep, else itself."""
    key, _, value = word.partition("=")
    group = [path.stem for folder in folders for path in sorted((folder / key).glob("*.yaml"))]
    if group and re.search(r"…|\.\.\.|\*|\{\w+\}", value):
        pattern = re.sub(r"…|\.\.\.|\{\w+\}", "*", value)
        fitting = [name for braced in expand(pattern) for name in group if fnmatch(name, braced)]
        return Alternatives([f"{key}={name}" for name in fitting], wildcard=True)
    if "{" in value and not value.startswith(("{", "'{", '"{')) and "," in value:
        return Alternatives([f"{key}={one}" for one in expand(value)])
    if any(mark in value for mark in ELLIPSES):
        return Alternatives([f"{key}=placeholder"])
    if multirun:
        override = OverridesParser.create().parse_override(word)
        return Alternatives(list(values_of(override)))
    return Alternatives([word])


def values_of(override: Override) -> Iterator[str]:
    """Overrides with one value each that a sweep goes through; of a range its ends."""
    swept = override.value()
    if not override.is_sweep_override():
        yield override.input_line or ""
    elif isinstance(swept, (IntervalSweep, RangeSweep)):
        start = swept.start
        yield f"{override.get_key_element()}={start}"
    elif isinstance(swept, Glob):
        yield f"{override.get_key_element()}={swept.include[0].replace('*', '')}"
    else:
        yield from (f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator())


def expand(text: str) -> list[str]:
    """What a shell makes of ``a_{b,c}``."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", text)
    if match is None:
        return [text]
    return [one for part in match[1].split(",") for one in expand(text[: match.start()] + part + text[match.end() :])]


def _parsed(verb: str, words: Sequence[str], folder: Path) -> str | None:
    """Verbs with a parser of their own: what it says of the words. Folders that are not there come later.

    What ``new-experiment`` writes is there for the commands below it.
    """
    said = io.StringIO()
    mains = {"collect": collect.main, "completion": completion.main, "new-experiment": new_experiment.main}
    if verb == "doctor":  # its report takes seconds
        return None if set(words) <= {"--json"} else f"hemolens doctor takes --json alone, not {' '.join(words)}"
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), contextlib.chdir(folder):
        try:
            code = mains[verb]([word.replace("placeholder", "no-such-folder") for word in words])
        except SystemExit:
            return said.getvalue().strip().splitlines()[-1]
    return said.getvalue().strip() if verb == "new-experiment" and code else None


@cache
def make_targets() -> frozenset[str]:
    """Targets of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))


@cache
def optional_dependencies() -> frozenset[str]:
    """Extras of pyproject.toml."""
    return frozenset(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
