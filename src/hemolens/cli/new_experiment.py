"""``hemolens new-experiment``: a commented experiment file of one's own, made from one that there is."""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hemolens.cli.places import config_dir
from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path

NAME = re.compile(r"(det|gan|ssl|seg|cls)_[a-z0-9]+\w*")
LINE = 118  # characters in a line of the file's head


def main(arguments: Sequence[str]) -> int:
    """Write the file, or list the experiments; 2 where the command is wrong."""
    parser = argparse.ArgumentParser(
        prog="hemolens new-experiment",
        description="Write a commented experiment file made from one that there is; print the command that runs it.",
        epilog="example: hemolens new-experiment det_fcos_r50_fpn_bccd --from det_fcos_r18_pafpn_bccd net=fcos_r50_fpn "
        "trainer.max_epochs=30",
    )
    parser.add_argument("name", nargs="?", help="of the new experiment, e.g. det_<net>_<data>")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what differs: group=choice, key=value")
    parser.add_argument("--from", dest="source", metavar="EXPERIMENT", help="the experiment to start from")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("my_configs"), help="gets experiment/NAME.yaml [my_configs]"
    )
    parser.add_argument("--config-dir", type=Path, help="a folder of your own groups to look in as well")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier file of that name")
    parser.add_argument("--list", action="store_true", help="list the experiments, each with the first line about it")
    options = parser.parse_intermixed_args(list(arguments))
    folders = [config_dir(), *([options.config_dir] if options.config_dir else [])]
    try:
        if options.list:
            return list_experiments(folders)
        if not options.name or not options.source:
            raise UserError("give a name and --from EXPERIMENT; `hemolens new-experiment --list` says which there are")
        print(make(options.name, options.source, options.overrides, options.output_dir, folders, options.overwrite))
    except UserError as error:
        for line in getattr(error, "findings", [str(error)]):
            print(f"hemolens: {' '.join(line.split())}", file=sys.stderr)
        return error.exit_code
    return 0


def list_experiments(folders: Sequence[Path]) -> int:
    """Print each experiment's name and what its first comment says."""
    files = {path.stem: path for folder in folders for path in sorted((folder / "experiment").glob("*.yaml"))}
    width = max(map(len, files), default=0)
    for name, path in files.items():
        print(f"{name:<{width}}  {_about(path.read_text(encoding='utf-8'))}")
    return 0


def _about(text: str) -> str:
    lines = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#") and "@package" not in line]
    return lines[0] if lines else ""


def make(
    name: str, source: str, overrides: Sequence[str], output: Path, folders: Sequence[Path], overwrite: bool = False
) -> str:
    """Write ``<output>/experiment/<name>.yaml``; returns the command that runs it.

    The file is composed and checked before it is kept: it gives what the source gives with the overrides.

    Raises:
        UserError: a name that is taken or cannot be one, an unknown source, group, choice or key, a value that cannot
            work, or a file that is there.
    """
    from hemolens.cli.explain import choices, nearest

    if not re.fullmatch(r"\w+", name):
        raise UserError(f"'{name}' is no name for an experiment: use letters, digits and _")
    files = [folder / "experiment" / f"{source}.yaml" for folder in folders]
    found = next((path for path in files if path.is_file()), None)
    known = [choice for folder in folders for choice in choices(str(folder), "experiment")]
    if found is None:
        raise UserError(f"no experiment '{source}'" + nearest(source, known, "experiments", lister="--list"))
    target = output / "experiment" / f"{name}.yaml"
    shipped = config_dir() / "experiment" / f"{name}.yaml"
    if shipped.is_file() and not (overwrite and target.resolve() == shipped.resolve()):
        raise UserError(f"{name} is an experiment that comes with hemolens: choose another name")
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists: choose another name, or add --overwrite")
    text = edited(found.read_text(encoding="utf-8"), name, source, overrides, config_dir())
    _check(text, name, source, overrides, folders)
    with atomic_path(target, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
    if not NAME.fullmatch(name):
        print(
            f"{name}: those of hemolens are called {{det|gan|ssl|seg|cls}}_<net>_<data>[_<variant>]; yours need not be",
            file=sys.stderr,
        )
    outside = output.resolve() != config_dir().resolve()
    words = ["hemolens", "train", *(["--config-dir", str(output)] if outside else []), f"experiment={name}"]
    return f"{target}: change it as you like. It runs with\n  {shlex.join(words)}"


def edited(text: str, name: str, source: str, overrides: Sequence[str], configs: Path) -> str:
    """The source's text with its name and the overrides put in, and a head that says so."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from hemolens.cli.explain import explain_config_error
    from hemolens.cli.yaml_edit import set_default, set_value

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(explain_config_error(error, str(configs), "train", (), overrides)) from error
    for override in parsed:
        key = override.key_or_group
        if override.is_delete() or override.is_sweep_override():
            raise UserError(f"{override.input_line}: a file holds one value a key; give key=value or group=choice")
        value: Any = override.value()
        if (configs / key.partition("@")[0]).is_dir():
            choice = "null" if value is None else str(value)
            text = set_default(text, key if override.package is None else f"{key}@{override.package}", choice, "given")
        else:
            text = set_value(text, key, value, f"not set by {source}")
    text = set_value(text, "task_name", name, "first folder below outputs/")
    lines = text.splitlines()
    body = lines[1:] if lines and "@package" in lines[0] else lines
    return "\n".join(["# @package _global_", *_head(source, overrides), *body]) + "\n"


def _head(source: str, overrides: Sequence[str]) -> list[str]:
    import textwrap

    changed = f" with {shlex.join(overrides)}" if overrides else ""
    text = (
        f"Made from experiment={source} of hemolens {version('hemolens')}{changed}. What follows in comments is what "
        f"{source} says of itself; scores that it names are not yours."
    )
    wrapped = textwrap.wrap(text, LINE, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in wrapped]


def _check(text: str, name: str, source: str, overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Compose the text as an experiment and the source with the overrides, and refuse what differs or cannot work."""
    import tempfile

    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from hemolens.cli.app import register_resolvers
    from hemolens.cli.compose import composed
    from hemolens.cli.explain import explain_config_error, group_names
    from hemolens.cli.validate import InvalidConfig, find_all

    register_resolvers()
    directory, own = str(folders[0]), [str(folder) for folder in folders[1:]]
    groups = group_names(directory)
    forced = [
        word if word.partition("@")[0].partition("=")[0] in groups else f"++{word.lstrip('+')}" for word in overrides
    ]
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "experiment").mkdir()
        (Path(scratch) / "experiment" / f"{name}.yaml").write_text(text, encoding="utf-8")
        try:
            wanted = composed(directory, "train", [f"experiment={source}", *forced, f"task_name={name}"], more=own)
            cfg = composed(directory, "train", [f"experiment={name}"], more=[*own, scratch], with_hydra=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain_config_error(error, directory, "train", (), overrides)) from error
    if wrong := [line for line in find_all(cfg, machine=False) if not _of_the_command(line)]:
        raise InvalidConfig(wrong)
    made = OmegaConf.to_container(
        OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), resolve=False
    )
    if made != OmegaConf.to_container(wanted, resolve=False):
        raise UserError(f"{source} with these overrides cannot be written as one file: copy it and change it by hand")


def _of_the_command(line: str) -> bool:
    """What is given when it runs, e.g. a checkpoint, is no fault of the file."""
    return " must be given: " in line or "ckpt_path=<run>" in line
