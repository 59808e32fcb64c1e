"""A Griffe extension: the docstrings of hemolens as the API's pages show them.

- Roles (``:func:`open_volume```) become cross references. What is undocumented or another library's stays as code; a
  name of hemolens that is nowhere is a warning, which fails the strict build.
- A comment behind a field (``boxes: Tensor  # [K, 4]``) or constant is what is said of it.
- Arguments that are described together (``height, width: of the image``) are told apart, so that each has its type.
"""

import io
import re
import tokenize
from collections.abc import Iterator
from typing import Any

from griffe import AliasResolutionError, CyclicAliasError, Docstring, Extension, Module, Object, get_logger

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj):`~?([\w.]+)`")
SECTION = re.compile(r"^ *(Args|Attributes):$")
TOGETHER = re.compile(r"^( +)(\*{0,2}\w+(?:, \*{0,2}\w+)+):(?= |$)")
log = get_logger("hemolens.docs")


class Docstrings(Extension):
    """Rewrites every docstring of a package once all of it is read."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Called by Griffe when ``pkg`` and all its modules are read."""
        for obj in objects_of(pkg):
            if obj.is_attribute and obj.docstring is None and (said := comment_of(obj)):
                obj.docstring = Docstring(said, parent=obj)
            if obj.docstring is not None:
                obj.docstring.value = told_apart(with_links(obj.docstring.value, obj, pkg))


def objects_of(obj: Object) -> Iterator[Object]:
    """``obj`` and all that is defined in it."""
    yield obj
    for member in obj.members.values():
        if not member.is_alias:
            yield from objects_of(member)  # type: ignore[arg-type]


def comment_of(obj: Object) -> str:
    """The comment behind an attribute's last line; empty if there is none, or it is for a tool."""
    source = "\n".join(obj.lines)
    try:
        tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline)]
    except (tokenize.TokenError, IndentationError):
        return ""
    comments = [token for token in tokens if token.type == tokenize.COMMENT and token.start[0] == len(obj.lines)]
    said = comments[0].string.lstrip("#: ") if comments else ""
    return "" if re.match(r"noqa|type:|pragma", said) else said


def with_links(text: str, obj: Object, package: Module) -> str:
    """``text``, the docstring of ``obj``, with references in place of roles."""
    return ROLE.sub(lambda match: linked(match[1], obj, package), text)


def linked(name: str, obj: Object, package: Module) -> str:
    """Markdown of a reference to ``name`` in the docstring of ``obj``."""
    path = full_path(name, obj)
    if path is None:
        log.warning("%s: its docstring names %s, which is nowhere", obj.path, name)
    if path is None or not path.startswith(f"{package.path}."):
        return f"`{name}`"
    try:
        target = package[path.removeprefix(f"{package.path}.")]
        target = target.final_target if target.is_alias else target
    except (KeyError, AliasResolutionError, CyclicAliasError):
        log.warning("%s: its docstring names %s, which is nowhere", obj.path, path)
        return f"`{name}`"
    shown = target.has_docstring and not any(part.startswith("_") for part in target.path.split("."))
    return f"[`{name}`][{target.path}]" if shown else f"`{name}`"


def full_path(name: str, obj: Object) -> str | None:
    """Dotted path of ``name`` as seen from ``obj``; None where nothing of that name is in sight."""
    first, _, rest = name.partition(".")
    scope: Object | None = obj
    while scope is not None:
        if first in scope.members or first == scope.name:
            found = scope.resolve(first) if first in scope.members else scope.path
            return f"{found}.{rest}" if rest else found
        inherited = getattr(scope, "inherited_members", {})  # of classes
        if first in inherited:
            return f"{inherited[first].final_target.path}{f'.{rest}' if rest else ''}"
        scope = scope.parent
    return name if rest else None  # with a dot: another library's, by its full name


def told_apart(text: str) -> str:
    """``text`` with each name of an entry such as ``height, width: …`` in an entry of its own."""
    lines = text.splitlines()
    result: list[str] = []
    inside = False
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if SECTION.match(line):
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
        match = TOGETHER.match(line) if inside else None
        if match is None:
            result.append(line)
            continue
        more = []
        while number < len(lines) and lines[number].startswith(f"{match[1]} "):
            more.append(lines[number])
            number += 1
        for name in match[2].split(", "):
            result += [f"{match[1]}{name}:{line[match.end() :]}", *more]
    return "\n".join(result)
