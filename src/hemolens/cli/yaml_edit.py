"""Change single values of a YAML text, so that its comments and its order stay."""

from typing import Any

import yaml

from hemolens.errors import UserError


def as_yaml(value: Any) -> str:
    """A value on one line, e.g. ``[1, 2]``."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def set_value(text: str, key: str, value: Any, note: str) -> str:
    """The text with one dotted key changed or added.

    Args:
        text: of a YAML mapping.
        key: e.g. ``trainer.max_epochs``.
        value: what it becomes.
        note: comment for a new line; a changed line says what stood there.

    Raises:
        UserError: the key holds a block of keys, which is not one value.
    """
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if isinstance(node, yaml.MappingNode) and node.flow_style:
            return _in_flow(text, node, parts[depth:], value, note)
        found = _child(node, part)
        if found is None:
            return _insert(text, node if depth else None, parts[depth:], value, note)
        node = found
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        raise UserError(f"{key} holds several keys: give them one by one, e.g. {key}.{node.value[0][0].value}=…")
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        raise UserError(f"{key} is a list of several lines: change it in the file itself")
    return _replace(text, node, as_yaml(value), f"was {text[node.start_mark.index : node.end_mark.index]}")


def _child(node: Any, name: str) -> Any:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value == name), None)


def _replace(text: str, node: Any, new: str, note: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    stop = text.find("\n", end)
    stop = len(text) if stop < 0 else stop
    rest = text[end:stop].strip().removeprefix("#").strip()
    return f"{text[:start]}{new} # {note}{f'; {rest}' if rest else ''}{text[stop:]}"


def _in_flow(text: str, node: Any, parts: list[str], value: Any, note: str) -> str:
    """A key inside ``{…}``: the braces are written anew."""
    whole = yaml.safe_load(text[node.start_mark.index : node.end_mark.index]) or {}
    inner = whole
    for part in parts[:-1]:
        inner = inner.setdefault(part, {})
    inner[parts[-1]] = value
    return _replace(text, node, as_yaml(whole), note)


def _insert(text: str, parent: Any, parts: list[str], value: Any, note: str) -> str:
    """New lines: before the first key of a block, or at the end of the text."""
    if parent is not None and not isinstance(parent, yaml.MappingNode):
        raise UserError(f"{'.'.join(parts)} lies below {text[parent.start_mark.index : parent.end_mark.index]!r}")
    indent = 0 if parent is None else parent.start_mark.column
    lines = [f"{' ' * (indent + 2 * depth)}{part}:" for depth, part in enumerate(parts)]
    lines[-1] += f" {as_yaml(value)} # {note}"
    block = "\n".join(lines) + "\n"
    if parent is None:
        return text.rstrip("\n") + "\n" + block
    start = text.rfind("\n", 0, parent.start_mark.index) + 1
    return text[:start] + block + text[start:]


def set_default(text: str, group: str, choice: str, note: str) -> str:
    """The text with a group's choice in its defaults list changed or added, as ``- override /group: choice``."""
    line = f"  - override /{group}: {choice} # {note}\n"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    defaults = _child(root, "defaults")
    if defaults is None:
        first = root.value[0][0].start_mark.index if isinstance(root, yaml.MappingNode) else len(text)
        return f"{text[:first]}defaults:\n{line}\n{text[first:]}"
    for entry in defaults.value:
        if isinstance(entry, yaml.MappingNode):
            key, value = entry.value[0]
            if key.value.removeprefix("override ").lstrip("/") == group:
                return _replace(text, value, choice, f"was {value.value}")
    for entry in defaults.value:
        if entry.value == "_self_":
            start = text.rfind("\n", 0, entry.start_mark.index) + 1
            return text[:start] + line + text[start:]
    last = text.find("\n", defaults.value[-1].end_mark.index - 1)
    return text[: last + 1] + line + text[last + 1 :]
