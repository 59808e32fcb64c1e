"""A checkpoint is data, not code: what its config may instantiate."""

import pkgutil
from typing import Any

from hemolens.errors import UserError

# Beside hemolens' own classes a config names only these.
ALLOWED = (
    "torch.optim.AdamW",
    "torch.optim.Adam",
    "torch.optim.SGD",
)


def check_targets(config: Any, *, source: str) -> None:
    """Refuse a config in which any ``_target_`` is not a class or function that hemolens itself defines.

    The object behind the name is looked at, not the name: ``hemolens.io.atomic.os.system`` is refused.

    Args:
        config: plain nested dicts and lists.
        source: the checkpoint, for the message.

    Raises:
        UserError: a target is foreign or does not exist.
    """
    if isinstance(config, dict):
        if "_target_" in config:
            _check(config["_target_"], source)
        for value in config.values():
            check_targets(value, source=source)
    elif isinstance(config, list):
        for value in config:
            check_targets(value, source=source)


def _check(target: Any, source: str) -> None:
    refusal = f"{source} asks for {target!r}, which is not part of hemolens: the file is foreign or damaged, not loaded"
    if not isinstance(target, str):
        raise UserError(refusal)
    if target in ALLOWED:
        return
    if not target.startswith("hemolens."):
        raise UserError(refusal)
    try:
        found = pkgutil.resolve_name(target)
    except Exception as error:
        raise UserError(
            f"{source} names {target}, which this hemolens does not have: use the version it was made with"
        ) from error
    if not str(getattr(found, "__module__", "")).startswith("hemolens."):
        raise UserError(refusal)
