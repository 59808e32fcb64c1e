"""Hydra for one verb: find the configs, compose, run, and turn errors into one line with the remedy."""

import difflib
import os
import pickle
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import main as hydra_main
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hemolens.cli.launchers import MISSING_PLUGIN, SweepError
from hemolens.errors import UserError


def config_dir() -> Path:
    """The folder of configs: ``configs/`` of the checkout, or the copy inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    candidates = [package.parents[1] / "configs", package / "configs"]
    for candidate in candidates:
        if (candidate / "train.yaml").exists():
            return candidate
    raise UserError(f"hemolens' configs are in none of {', '.join(map(str, candidates))}: reinstall hemolens")


def register_resolvers() -> None:
    """Resolvers that the configs use: ``len`` (entries of a list), ``channels`` (of a projection of tomograms)."""
    OmegaConf.register_new_resolver("len", lambda entries: None if entries is None else len(entries), replace=True)
    OmegaConf.register_new_resolver("channels", _channels, replace=True)


def _channels(projection: str) -> int:
    from hemolens.data.views import CHANNELS  # here: reading it takes longer than `hemolens --help` may

    return len(CHANNELS.get(projection, ("unknown, which the data module refuses",)))


def run_verb(
    verb: str, arguments: Sequence[str], job: Callable[[DictConfig], Any], *, config_name: str | None = None
) -> int:
    """Compose ``configs/<verb>.yaml`` with the overrides in ``arguments`` and call ``job(cfg)``.

    Returns:
        0; 1 where a run failed; 2 where the command line or config was wrong. Errors go to stderr, one line each.
    """
    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us whole, instead of hydra printing and exiting
    failures: list[BaseException] = []
    flags = [argument for argument in arguments if argument in ("-m", "--multirun")]
    multirun = bool(flags)
    # argparse wants all overrides in one block: let -m stand anywhere
    arguments = flags[:1] + [argument for argument in arguments if argument not in flags]

    command_line = list(sys.argv)

    def guarded(cfg: DictConfig) -> Any:
        sys.argv = command_line  # Lightning starts the other processes of a DDP run with it
        register_resolvers()  # this may be another process or machine
        try:
            return job(cfg)
        except Exception as error:
            if multirun:  # hydra's launchers must see it to go on with the next job
                raise _portable(error) from error
            failures.append(error)
            return None

    sys.argv = [f"hemolens {verb}", *arguments]
    directory = str(config_dir())
    try:
        hydra_main(version_base="1.3", config_path=directory, config_name=config_name or verb)(guarded)()
        if failures:
            raise failures[0]
    except SweepError as error:
        return _complain(str(error), 2)
    except UserError as error:
        return _complain(str(error), error.exit_code if not multirun else 1)
    except (HydraException, OmegaConfBaseException) as error:
        if (cause := _user_error(error)) is not None:  # hydra wraps what constructors raise
            return _complain(str(cause), cause.exit_code if not multirun or isinstance(cause, SweepError) else 1)
        groups = [argument for argument in arguments if (Path(directory) / argument.partition("=")[0]).is_dir()]
        chosen = [argument for argument in groups if "," not in argument]
        return _complain(explain_config_error(error, directory, config_name or verb, chosen), 2)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except SystemExit as stop:  # Lightning leaves so on Ctrl-C, hydra after --help
        return int(stop.code or 0)
    except Exception as error:
        if os.environ.get("HEMOLENS_DEBUG") == "1":
            traceback.print_exc()
        return _complain(f"{type(error).__name__}: {error} (HEMOLENS_DEBUG=1 shows where)", 1)
    return 0


def _portable(error: Exception) -> Exception:
    """The error itself, or its words where it cannot travel from a launcher's process to this one."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _user_error(error: BaseException | None) -> UserError | None:
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def _complain(message: str, code: int) -> int:
    print(f"hemolens: {' '.join(message.split())}", file=sys.stderr)
    return code


def explain_config_error(error: BaseException, directory: str, config_name: str, chosen: Sequence[str] = ()) -> str:
    """One line for a config error, with the nearest valid names; ``chosen`` are the groups of the command line."""
    text = f"{error} {error.__cause__ or ''}"
    if "OverrideParse" in type(error).__name__ and "=" in text and re.search(r"input '[^']*='", text):
        return (
            "a value that holds '=' (such as a folder of a multirun) wants quotes of its own: "
            "'key=\"value\"', or in a list 'key=[\"value\"]'"
        )
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        if group == "hydra/launcher" and choice in ("joblib", "submitit_local", "submitit_slurm"):
            return f"the {choice} launcher is not installed: {MISSING_PLUGIN}"
        options = sorted(path.stem for path in (Path(directory) / group).glob("*.yaml"))
        return f"no config '{choice}' in group '{group}'" + _nearest(choice, options, "available")
    if match := re.search(r"Could not override '([^']+)'\.\s+No match in the defaults list", text):
        groups = sorted(path.name for path in Path(directory).iterdir() if path.is_dir())
        return f"no config group '{match[1]}'" + _nearest(match[1], groups, "groups")
    if match := re.search(r"Could not override '([^']+)'", text):
        keys = list(_known_keys(directory, config_name, chosen))
        return f"no config key '{match[1]}'" + _nearest(match[1], keys, "keys")
    if match := re.search(r"Key '([^']+)' is not in struct\s+full_key: (\S+)", text):
        keys = list(_known_keys(directory, config_name, chosen))
        return f"no config key '{match[2]}'" + _nearest(match[2], keys, "keys")
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"'{match[1]}' must be given: add {match[1]}=… to the command"
    return text


def _nearest(name: str, options: list[str], label: str) -> str:
    near = difflib.get_close_matches(name, options, n=2, cutoff=0.6)
    last = name.rpartition(".")[2]
    near = near or [option for option in options if option.rpartition(".")[2] == last][:3]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; {label}: {', '.join(options)}" if len(options) <= 30 else "; `--help` lists what there is"


def _known_keys(directory: str, config_name: str, chosen: Sequence[str]) -> Iterator[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(directory, version_base="1.3"):
        cfg = compose(config_name, overrides=list(chosen))

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key in node:
            yield f"{prefix}{key}"
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_interpolation() and not child._is_none():
                yield from walk(child, f"{prefix}{key}.")

    yield from walk(cfg, "")
