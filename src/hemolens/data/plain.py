"""Descriptions of network input as plain data, which checkpoints carry."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from hemolens.errors import UserError


def to_plain(spec: Any) -> dict[str, Any]:
    """A dataclass as a dict with lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(spec).items()}


def from_plain(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a dataclass from :func:`to_plain`; lists become tuples of floats.

    Raises:
        UserError: a key is missing or unknown.
    """
    check_keys(values, [field.name for field in fields(kind)])
    return {
        name: tuple(float(part) for part in value) if isinstance(value, list | tuple) else value
        for name, value in values.items()
    }


def check_keys(values: Mapping[str, Any], expected: Iterable[str]) -> None:
    """Refuse a description that was written by other code.

    Raises:
        UserError: a key is missing or unknown.
    """
    if set(values) != set(expected):
        raise UserError(
            f"the checkpoint's input description has keys {', '.join(sorted(values))}; expected "
            f"{', '.join(sorted(expected))}: was it written by another version of hemolens?"
        )
