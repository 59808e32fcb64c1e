"""What a config node may hold: the parameters of the class or function that it becomes, and their types."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import PurePath
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

# Hydra's own keys of a node with a _target_.
HYDRA_KEYS = frozenset({"_target_", "_partial_", "_convert_", "_recursive_", "_args_"})
# Where the **kwargs of others go.
_FOLLOWED = {
    "lightning.pytorch.loggers.wandb.WandbLogger": "wandb.init",
    "hemolens.nets.ddgan.generator.phase_generator": "hemolens.nets.ddgan.generator.DDGANGenerator",
    "hemolens.nets.ddgan.generator.mask_generator": "hemolens.nets.ddgan.generator.DDGANGenerator",
}


@dataclass(frozen=True)
class Accepted:
    """The parameters of a callable.

    Attributes:
        hints: type of each, ``Any`` where it is not known.
        nullable: names whose default is None, which is allowed whatever the type says.
        open: it takes any other name too.
    """

    hints: Mapping[str, Any]
    nullable: frozenset[str]
    open: bool


@cache
def accepted(target: Callable[..., Any]) -> Accepted:
    """What a class, dataclass or function takes; ``**options`` are followed up through base classes."""
    from hydra.utils import get_object

    hints: dict[str, Any] = {}
    nullable: set[str] = set()
    rest, followed = True, None
    functions: list[tuple[Any, Any]] = [(target, target)]
    if isinstance(target, type):
        functions = [(base, vars(base)["__init__"]) for base in target.__mro__[:-1] if "__init__" in vars(base)]
    for owner, function in functions:
        followed = _FOLLOWED.get(f"{owner.__module__}.{owner.__qualname__}")
        try:
            own, types_of = inspect.signature(function).parameters, _hints(function)
        except (TypeError, ValueError):  # written in C, without a signature: Python says at the call what it lacks
            return Accepted({}, frozenset(), open=True)
        for name, parameter in own.items():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name != "self":
                hints.setdefault(name, types_of.get(name, Any))
                if parameter.default is None:
                    nullable.add(name)
        rest = any(parameter.kind == parameter.VAR_KEYWORD for parameter in own.values())
        if not rest or followed:
            break
    if followed:
        more = accepted(get_object(followed))
        return Accepted({**more.hints, **hints}, more.nullable | nullable, more.open)
    # a class whose **options reach torch's Module, which takes none
    return Accepted(hints, frozenset(nullable), rest and not _is_module(target))


def _is_module(target: Any) -> bool:
    return isinstance(target, type) and any(base.__module__ == "torch.nn.modules.module" for base in target.__mro__)


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except NameError:  # names that exist for type checkers only
        return {
            name: Any if isinstance(parameter.annotation, str) else parameter.annotation
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.annotation is not parameter.empty
        }


def settings_of(hint: Any) -> Callable[..., Any] | None:
    """What takes the keys of a plain mapping: a dataclass, or the second part of an ``Annotated[Mapping, …]``."""
    if get_origin(hint) is Annotated:
        return next((extra for extra in get_args(hint)[1:] if callable(extra)), None)
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return None


def misfit(hint: Any, value: Any) -> str | None:
    """What a value should be, where its type is wrong; None where it fits or where that cannot be told.

    Text is no number, although pydantic would read it as one, and true is not 1.
    """
    adapter = _adapter(hint)
    if adapter is None:
        return None
    try:
        seen = adapter.validate_python(value)
    except ValidationError:
        return in_words(hint)
    text = isinstance(value, str) and not isinstance(seen, str | PurePath)
    truth = isinstance(value, bool) and not isinstance(seen, bool)
    return in_words(hint) if text or truth else None


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    try:
        return _made_adapter(hint)
    except TypeError:  # cannot be hashed
        return None


@cache
def _made_adapter(hint: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, NameError, TypeError):
        return None


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    dict: "key: value pairs",
}


def in_words(hint: Any) -> str:
    """A type as a user would say it, e.g. ``a whole number or null``."""
    return " or ".join(dict.fromkeys(_words(hint)))


def _words(hint: Any) -> list[str]:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _words(parts[0])
    if origin in (typing.Union, types.UnionType):
        found = [word for part in parts for word in _words(part)]
        if "a number" in found:
            found = [word for word in found if word != "a whole number"]
        return found
    if origin is Literal:
        return [str(part) for part in parts]
    kind = origin or hint
    if kind in _WORDS:
        return [_WORDS[kind]]
    if isinstance(kind, type) and kind is not str and issubclass(kind, Mapping):
        return [_WORDS[dict]]
    if isinstance(kind, type) and issubclass(kind, Sequence | tuple):
        return [f"a list of {len(parts)}" if parts and kind is tuple and ... not in parts else "a list"]
    if isinstance(kind, type) and (issubclass(kind, PurePath) or kind.__name__ == "PathLike"):
        return ["a path"]
    return []  # an object, which a config does not write
