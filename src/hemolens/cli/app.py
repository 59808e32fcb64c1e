"""Hydra for one verb: find the configs, compose, run, and turn errors into one line with the remedy."""

import os
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import main as hydra_main
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hemolens.cli.compose import composed
from hemolens.cli.explain import explain_config_error, explain_words, nearest
from hemolens.cli.launchers import SweepError
from hemolens.cli.places import config_dir
from hemolens.errors import UserError


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
    from hemolens.cli.validate import InvalidConfig, Refused, check_job

    register_resolvers()
    if wrong := explain_words(arguments, str(config_dir()), config_name or verb):
        return _complain(wrong, 2)
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
            if multirun:  # a single run was checked before its folder was made
                check_job(cfg)
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
    except (Refused, InvalidConfig) as error:
        invalid = error.__cause__ if isinstance(error, Refused) else error
        for finding in getattr(invalid, "findings", []):
            _complain(finding, 2)
        return 2 if isinstance(error, Refused) or not multirun else 1
    except SweepError as error:
        return _complain(str(error), 2)
    except UserError as error:
        return _complain(str(error), error.exit_code if not multirun else 1)
    except (HydraException, OmegaConfBaseException) as error:
        if (cause := _user_error(error)) is not None:  # hydra wraps what constructors raise
            return _complain(str(cause), cause.exit_code if not multirun or isinstance(cause, SweepError) else 1)
        chosen = _choices(arguments, directory)
        return _complain(explain_config_error(error, directory, config_name or verb, chosen, arguments), 2)
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


def compose_config(verb: str, words: Sequence[str] = (), *, folder: str | Path | None = None) -> DictConfig:
    """The config that ``hemolens <verb> <words>`` would run with, to look at in Python; nothing is run.

    Args:
        verb: e.g. ``train``.
        words: as on the command line: ``group=choice`` and ``key=value``.
        folder: of your own groups, as ``--config-dir``.

    Raises:
        UserError: no such verb, folder, group, choice or key, with the nearest that there is.
    """
    directory = str(config_dir())
    verbs = sorted(path.stem for path in Path(directory).glob("*.yaml"))
    if verb not in verbs:
        raise UserError(f"hemolens {verb} has no config{nearest(verb, verbs, 'verbs')}")
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"no folder {folder}: give one that holds groups, e.g. {folder}/experiment/mine.yaml")
    register_resolvers()
    try:
        return composed(directory, verb, words, more=[] if folder is None else [str(folder)])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain_config_error(error, directory, verb, _choices(words, directory), words)) from error


def _choices(words: Sequence[str], directory: str) -> list[str]:
    """Those words that choose one file of a group."""
    groups = [word for word in words if (Path(directory) / word.partition("=")[0]).is_dir()]
    return [word for word in groups if "," not in word]
