"""Refuse a config that cannot work before anything starts: every wrong key, type and combination, a line each."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hemolens.cli.compose import RECIPES, composed
from hemolens.cli.explain import nearest
from hemolens.cli.places import config_dir
from hemolens.cli.schema import HYDRA_KEYS, Accepted, accepted, misfit, settings_of
from hemolens.errors import UserError

# Values of ours that the class below them does not take: build.py replaces them.
_OURS = {"trainer.precision": ("auto",)}
# Keys that a verb takes out before the class sees them.
_TAKEN_OUT = {"simulate": ("data.test_floor",)}
# Of a plain number beside which a word is allowed.
_NUMBER_OR_WORD = ("refocus_um", "degree")
_COUNTED = re.compile(r"(.*_)?(px|size|workers|channels|epochs|steps)|n|n_.*|num_.*|.*_per_.*|max_.*")
_POSITIVE = ("batch_size", "image_px", "patch_px", "crop_px", "field_px", "image_size", "tile_px", "train_crop_px")
_MINUS_ONE = ("trainer.max_epochs", "trainer.max_steps", "trainer.limit_train_batches", "trainer.num_sanity_val_steps")


class InvalidConfig(UserError):
    """All that is wrong with a config.

    Attributes:
        findings: a line each.
    """

    def __init__(self, findings: Sequence[str]) -> None:
        super().__init__("; ".join(findings))
        self.findings = list(findings)


class Refused(BaseException):
    """Carries an :class:`InvalidConfig` through Hydra, which makes warnings of the exceptions of its callbacks."""


class CheckConfig(Callback):
    """Hydra callback: check the config of a run, or what the jobs of a multirun share, before a folder is made."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run."""
        self._refuse(config, find_all(config))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what is not swept."""
        self._refuse(config, find_common(config))

    def _refuse(self, config: DictConfig, findings: list[str]) -> None:
        if findings:
            raise Refused from InvalidConfig(findings)


def check_job(cfg: DictConfig, *, net_known: bool = False) -> None:
    """Check the config of one job of a multirun, or one that was changed after it was checked.

    Args:
        cfg: of the job, without Hydra's node.
        net_known: the network of a checkpoint has been put in.

    Raises:
        InvalidConfig: with every finding.
    """
    if findings := find_all(cfg, HydraConfig.get(), net_known=net_known):
        raise InvalidConfig(findings)


def find_all(config: DictConfig, hydra: Any = None, *, net_known: bool = False, machine: bool = True) -> list[str]:
    """What is wrong with the config of one run, a line each.

    Args:
        config: of a verb, resolvable.
        hydra: its Hydra node, where the config has none.
        net_known: see :func:`check_job`.
        machine: look also for the folders, files and devices that it names.
    """
    hydra = config.hydra if hydra is None else hydra
    cfg = _without_hydra(config)
    missing = _missing(cfg)
    findings = [f"{key} must be given: add {key}=… to the command" for key in missing]
    tree = _tree(cfg, resolve=not missing, findings=findings)
    if tree is None:
        return findings
    if hydra.job.config_name == "simulate" and (wrong := not_simulated(tree["data"])):
        return [*findings, wrong]  # what is said of its keys would mislead
    walk = _Walk(str(hydra.job.config_name), _reference(hydra), cfg)
    findings += walk.findings(tree)
    if not missing and walk.sound and hydra.job.config_name == "train":
        from hemolens.cli.validate_training import find_combinations, find_lacking

        findings += find_combinations(tree, net_known=net_known or not tree["net_of_checkpoint"])
        findings += find_lacking(tree, cfg) if machine else []
    return list(dict.fromkeys(findings))


def not_simulated(data: Mapping[str, Any] | None) -> str | None:
    """Data that `hemolens simulate` does not make."""
    target = str((data or {}).get("_target_")).rpartition(".")[2]
    if target in ("SimulatedTomogramDataModule", "SimulatedHologramDataModule"):
        return None
    return "hemolens simulate makes what data=sim_tomograms, sim_holograms and sim_storage describe: choose one"


def find_common(config: DictConfig) -> list[str]:
    """What is wrong with the part of a multirun's config that no job changes: keys and types."""
    swept = _swept_keys(config.hydra)
    if any(key in RECIPES for key in swept):  # they may replace anything
        return []
    cfg = _without_hydra(config)
    tree: dict[str, Any] = OmegaConf.to_container(cfg, resolve=False)  # type: ignore[assignment]
    for key in swept:  # groups above all: another choice has other keys
        tree.pop(key.partition("@")[0].partition("/")[0], None)
    return _Walk(str(config.hydra.job.config_name), _reference(config.hydra), cfg).findings(tree)


def _swept_keys(hydra: DictConfig) -> list[str]:
    parsed = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    swept = [override.key_or_group for override in parsed if override.is_sweep_override()]
    return swept + [str(key) for key in (hydra.sweeper.get("params") or {})]


def _without_hydra(config: DictConfig) -> DictConfig:
    keys: list[Any] = [key for key in config if key != "hydra"]
    return OmegaConf.masked_copy(config, keys)


def _missing(cfg: DictConfig) -> list[str]:
    """Mandatory values that nobody gave, but the classes that a checkpoint will bring."""
    brought = ("data.class_names",) if cfg.get("net_of_checkpoint") else ()

    def walk(node: Any, prefix: str) -> Iterator[str]:  # OmegaConf.missing_keys fails at what is read from such a value
        for key, value in node.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{key}.")
            elif value == "???":
                yield f"{prefix}{key}"

    return sorted(set(walk(OmegaConf.to_container(cfg, resolve=False), "")) - set(brought))


def _tree(cfg: DictConfig, *, resolve: bool, findings: list[str]) -> dict[str, Any] | None:
    try:
        tree = OmegaConf.to_container(cfg, resolve=resolve)
    except OmegaConfBaseException as error:
        if _missing(cfg) or cfg.get("net_of_checkpoint"):  # what a missing value was to be read from
            tree = OmegaConf.to_container(cfg, resolve=False)
        else:
            findings.append(f"{error.full_key or 'the config'}: {str(error).splitlines()[0]}")
            return None
    assert isinstance(tree, dict)
    return tree  # type: ignore[return-value]


def _reference(hydra: DictConfig) -> Mapping[str, Any] | None:
    """What the chosen groups hold without recipes and without the command line; None where they cannot be composed."""
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    choices = {str(key): value for key, value in hydra.runtime.choices.items()}
    words = [
        f"{key}={value}"
        for key, value in choices.items()
        if value is not None and key.partition("@")[0] not in RECIPES and not key.startswith("hydra")
    ]
    verb = str(hydra.job.config_name)
    return _composed_reference(verb, tuple(words), tuple(folders)) or _composed_reference(verb, (), tuple(folders))


@cache
def _composed_reference(verb: str, words: Sequence[str], folders: Sequence[str]) -> Mapping[str, Any] | None:
    try:
        cfg = composed(str(config_dir()), verb, words, more=folders)
    except (HydraException, OmegaConfBaseException):  # groups of the user's own, which the verb's list does not have
        return None
    tree = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(tree, dict)
    return tree  # type: ignore[return-value]


class _Walk:
    """Goes through a config and says which keys nobody reads, and which values have a wrong type."""

    def __init__(self, verb: str, reference: Mapping[str, Any] | None, cfg: DictConfig) -> None:
        self.reference, self.taken_out = reference, _TAKEN_OUT.get(verb, ())
        raw = str(OmegaConf.to_container(cfg, resolve=False))
        self.helpers = set(re.findall(r"\$\{([A-Za-z_]\w*)[.}]", raw))  # root keys that others read
        self.cfg = cfg
        self.sound = True  # no wrong value and no missing class: parts can be compared

    def findings(self, tree: Mapping[str, Any]) -> list[str]:
        """A line for each wrong key and value."""
        return list(self._plain(tree, self.reference, ""))

    def _node(self, node: Any, prefix: str) -> Iterator[str]:
        """A node with a ``_target_``."""
        try:
            target = get_object(node["_target_"])
        except Exception as error:  # whatever importing it raises
            self.sound = False
            yield f"{prefix}_target_={node['_target_']}: cannot be imported ({str(error).splitlines()[0]})"
            return
        yield from self._keys(node, accepted(target), prefix, node["_target_"].rpartition(".")[2])

    def _keys(self, node: Mapping[str, Any], known: Accepted, prefix: str, owner: str) -> Iterator[str]:
        for key, value in node.items():
            name = f"{prefix}{key}"
            if key in HYDRA_KEYS or name in self.taken_out:
                continue
            if key not in known.hints:
                if not known.open:
                    yield _unknown(name, list(known.hints), owner)
                continue
            hint = known.hints[key]
            settings = settings_of(hint)
            if isinstance(value, Mapping) and "_target_" in value:
                yield from self._node(value, f"{name}.")
            elif isinstance(value, Mapping) and settings is not None:
                yield from self._keys(value, accepted(settings), f"{name}.", getattr(settings, "__name__", owner))
            elif not (value is None and key in known.nullable) and value not in _OURS.get(name, ()):
                yield from self._value(name, value, misfit(hint, value))

    def _plain(self, node: Mapping[str, Any], reference: Mapping[str, Any] | None, prefix: str) -> Iterator[str]:
        """A node that hemolens reads itself: against the same node of the shipped configs."""
        for key, value in node.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping) and "_target_" in value:
                yield from self._node(value, f"{name}.")
            elif name.startswith(("callbacks.", "logger.")) and isinstance(value, Mapping):
                choices = "callbacks=ema" if key == "ema" else f"{prefix.rstrip('.')}=<choice>"
                known = [str(other) for other in reference or ()]
                self.sound = False
                near = nearest(key, known, "there are")
                yield f"{name} is nothing to build: it has no _target_; choose {choices}{near}"
            elif reference and key not in reference:
                if prefix or key not in self.helpers:
                    yield _unknown(name, list(reference), "")
            elif isinstance(value, Mapping):
                child = reference.get(key) if reference else None
                yield from self._plain(value, child if isinstance(child, Mapping) else None, f"{name}.")
            elif reference:
                yield from self._value(name, value, _plain_misfit(key, value, reference[key]))

    def _value(self, name: str, value: Any, wanted: str | None) -> Iterator[str]:
        raw = OmegaConf.select(self.cfg, name.rpartition(".")[0]) if "." in name else self.cfg
        node = raw._get_node(name.rpartition(".")[2]) if isinstance(raw, DictConfig) else None
        if _unread(value) or (node is not None and node._is_interpolation()):
            return  # not known yet, e.g. the run folder, or told where it is read from
        wrong = f"give {wanted}" if wanted else _out_of_range(name, value)
        if wrong:
            self.sound = False
            yield f"{name}={_shown(value)}: {wrong}"


def _unread(value: Any) -> bool:
    return isinstance(value, str) and (value == "???" or "${" in value)


def _shown(value: Any) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _unknown(name: str, options: Sequence[str], owner: str) -> str:
    """A key beside those that there are: compared by their last part, since they share the rest."""
    prefix, _, last = name.rpartition(".")
    lead = f"{prefix}." if prefix else ""
    near = difflib.get_close_matches(last, options, n=2, cutoff=0.6)
    if near:
        advice = f"; did you mean {' or '.join(lead + option for option in near)}?"
    else:
        advice = f"; keys: {', '.join(options)}" if options and len(options) <= 20 else ""
    return f"no config key '{name}'{f' ({owner} has none)' if owner else ''}{advice}"


def _plain_misfit(key: str, value: Any, model: Any) -> str | None:
    """What a value should be, by the one that stands in the shipped config; null and lists hold anything."""
    if value is None or model is None or _unread(model) or isinstance(model, list | Mapping):
        return None
    if isinstance(model, bool):
        return misfit(bool, value)
    if isinstance(model, int | float):
        if key in _NUMBER_OR_WORD and isinstance(value, str):
            return None
        return misfit(int if isinstance(model, int) else float, value)
    return misfit(str | float | bool, value)


def _out_of_range(name: str, value: Any) -> str | None:
    """Sizes and counts below zero, or zero where there must be some."""
    key = name.rpartition(".")[2]
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers) or not numbers:
        return None
    if key in _POSITIVE and min(numbers) <= 0:
        return "must be above 0"
    if _COUNTED.fullmatch(key) and min(numbers) < 0 and not (name in _MINUS_ONE and value == -1):
        return "must not be negative"
    return None
