"""A YAML text as plain values, for tests that look at what was written."""

from __future__ import annotations

from typing import Any

from doorstep.core.errors import InputError
from doorstep.core.yamltext import Fault, Mapping, Node, Scalar, Sequence, compose


def to_plain(node: Node) -> Any:
    """The values alone: dict, list, str, int, float, bool, None."""
    match node:
        case Scalar():
            return node.value
        case Sequence():
            return [to_plain(item) for item in node.items]
        case Mapping():
            return {key.text: to_plain(child) for key, child in node.pairs}


def parse_yaml(source: str | bytes, name: str = "text") -> Node:
    """The tree of one YAML document. name: of the file, for the message.

    Raises: InputError (`bad-yaml`).
    """
    found = compose(source)
    if isinstance(found, Fault):
        raise InputError("bad-yaml", f"{name}:{found.line}:{found.column}: {found.message}")
    return found
