"""From a path to whoever answers there. A protocol's routes are a table; all tables make one tree.

v2/models/{service}/versions/{version}/infer       v1/models/{service}:predict
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

H = TypeVar("H")
SEGMENTS_MAX = 12
Routes = Mapping[str, Mapping[str, H]]
"""Path patterns, each with its handlers by HTTP method."""


class Found(NamedTuple, Generic[H]):
    """handlers: by method. names: the parts of the path that stood for `{...}`."""

    handlers: Mapping[str, H]
    names: Mapping[str, str]


class Router(Generic[H]):
    """Raises, when made: ValueError if two tables have the same path."""

    def __init__(self, tables: Sequence[Routes[H]]) -> None:
        self._root = _Node[H]()
        for table in tables:
            for pattern, handlers in table.items():
                self._add(pattern, handlers)

    def find(self, path: str) -> Found[H] | None:
        """The route of a path (without its query), or None."""
        node, names = self._root, {}
        segments = _cut(path)
        if len(segments) > SEGMENTS_MAX:
            return None
        for segment in segments:
            found = node.fixed.get(segment)
            if found is None and node.free is not None and segment and segment[0] != ":":
                name, found = node.free
                names[name] = segment
            if found is None:
                return None
            node = found
        return Found(node.handlers, names) if node.handlers else None

    def _add(self, pattern: str, handlers: Mapping[str, H]) -> None:
        node = self._root
        for segment in _cut(pattern):
            if segment.startswith("{"):
                name = segment.strip("{}")
                if node.free is None:
                    node.free = (name, _Node())
                if node.free[0] != name:
                    raise ValueError(f"{pattern}: {{{name}}} is {{{node.free[0]}}} elsewhere")
                node = node.free[1]
            else:
                node = node.fixed.setdefault(segment, _Node())
        if node.handlers:
            raise ValueError(f"two tables have the path {pattern}")
        node.handlers = handlers


class _Node(Generic[H]):
    def __init__(self) -> None:
        self.fixed: dict[str, _Node[H]] = {}
        self.free: tuple[str, _Node[H]] | None = None
        self.handlers: Mapping[str, H] = {}


def _cut(path: str) -> list[str]:
    """`a/b:verb` is a, b, :verb."""
    found = []
    for segment in path.strip("/").split("/"):
        name, colon, verb = segment.partition(":")
        found += [name, colon + verb] if colon else [name]
    return found
