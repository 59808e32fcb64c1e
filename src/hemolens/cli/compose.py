"""Configs composed beside a run: what the groups hold, without touching the Hydra that is at work."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

# Groups that change what the others decide, and decide nothing alone.
RECIPES = ("difficulty", "experiment", "arm", "sweep", "local", "debug")


def composed(
    directory: str,
    config_name: str,
    overrides: Sequence[str] = (),
    *,
    more: Sequence[str] = (),
    with_hydra: bool = False,
) -> DictConfig:
    """A verb's config with overrides; ``more`` are further folders of groups, as ``--config-dir`` adds them."""
    # Not get_state: it copies all of Hydra's singletons, and the copy of a job's config no longer finds its other keys.
    at_work = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    paths = ",".join(f"'file://{Path(folder).absolute()}'" for folder in more)
    searched = [f"hydra.searchpath=[{paths}]"] if more else []
    try:
        with initialize_config_dir(directory, version_base="1.3"):
            return compose(config_name, overrides=[*searched, *overrides], return_hydra_config=with_hydra)
    finally:
        GlobalHydra.instance().hydra = at_work


def keys_of(cfg: DictConfig) -> list[str]:
    """All keys of a config, dotted."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key in node:
            yield f"{prefix}{key}"
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not (
                child._is_interpolation() or child._is_none() or child._is_missing()
            ):
                yield from walk(child, f"{prefix}{key}.")

    return list(walk(cfg, ""))
