"""YAML text as plain values that remember where they stood and how they were written.

The YAML 1.2 core schema decides what a plain word is (`no`, `on` and `12:30` are text, `true` and
`0x1f` are not), and every scalar keeps its raw text, so that a reader who wants text gets what the
person wrote (`007`, not 7). The text is hostile until read: aliases, tags, duplicate keys, several
documents, deep nesting and large files are refused. Events are read one at a time on our own stack,
so that nesting cannot exhaust the interpreter's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

TEXT_BYTES_MAX = 1024 * 1024
DEPTH_MAX = 20
NUMBER_LENGTH_MAX = 64
"""A longer run of digits is text: nobody means it as a number, and converting it is not cheap."""

PlainValue: TypeAlias = bool | int | float | str | None
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_BASED = re.compile(r"0(?:o(?P<octal>[0-7]+)|x(?P<hex>[0-9a-fA-F]+))\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_INFINITE = re.compile(r"(?P<sign>[-+]?)\.(?:inf|Inf|INF)\Z")
_NAN = frozenset({".nan", ".NaN", ".NAN"})


class Scalar(msgspec.Struct, frozen=True):
    """One word or text. quoted: it stood in quotes or as a block, so it is text whatever it says.

    line and column count from 1.
    """

    text: str
    quoted: bool
    line: int
    column: int

    @property
    def value(self) -> PlainValue:
        """What the core schema makes of it."""
        return self.text if self.quoted else plain_value(self.text)

    @property
    def is_empty(self) -> bool:
        """Nothing was written, or `~`."""
        return not self.quoted and self.text in {"", "~"}


class Sequence(msgspec.Struct, frozen=True):
    items: tuple[Node, ...]
    line: int
    column: int


class Mapping(msgspec.Struct, frozen=True):
    """Pairs in the order of the file; the keys are distinct texts."""

    pairs: tuple[tuple[Scalar, Node], ...]
    line: int
    column: int

    def get(self, key: str) -> Node | None:
        return next((node for name, node in self.pairs if name.text == key), None)


Node: TypeAlias = Scalar | Sequence | Mapping


class Fault(msgspec.Struct, frozen=True):
    """Why a text cannot be read, and where."""

    line: int
    column: int
    message: str


class _Refused(Exception):
    """Ends the reading at the first fault; never leaves this module."""

    def __init__(self, message: str, mark: Any) -> None:
        self.fault = Fault(mark.line + 1, mark.column + 1, message)


class _Open(msgspec.Struct):
    """A sequence or mapping whose end has not been read. key: the mapping key that waits."""

    is_mapping: bool
    line: int
    column: int
    items: list[Node]
    pairs: list[tuple[Scalar, Node]]
    seen: dict[str, int]
    key: Scalar | None = None


def plain_value(text: str) -> PlainValue:
    """The value of an unquoted scalar by the YAML 1.2 core schema."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if len(text) > NUMBER_LENGTH_MAX:
        return text
    if _INT.match(text):
        return int(text)
    if based := _BASED.match(text):
        return int(based["octal"], 8) if based["octal"] else int(based["hex"], 16)
    if _FLOAT.match(text):
        return float(text)
    if infinite := _INFINITE.match(text):
        return float(f"{infinite['sign']}inf")
    return float("nan") if text in _NAN else text


def walk_scalars(node: Node) -> Iterator[Scalar]:
    """Every scalar below `node`, keys included, in the order of the file."""
    match node:
        case Scalar():
            yield node
        case Sequence():
            for item in node.items:
                yield from walk_scalars(item)
        case Mapping():
            for key, child in node.pairs:
                yield key
                yield from walk_scalars(child)


def compose(source: str | bytes) -> Node | Fault:
    """The tree of one YAML document, or the first thing that is wrong with it. Never raises."""
    text = _decoded(source)
    if isinstance(text, Fault):
        return text
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _tree(yaml.parse(text, Loader=loader))
    except _Refused as refused:
        return refused.fault
    except yaml.MarkedYAMLError as error:
        return _syntax_fault(error)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        return Fault(1, 1, f"not YAML: {str(error).splitlines()[0]}")


def _syntax_fault(error: Any) -> Fault:
    """What a YAML parser says, with the line in which the part began that it could not end."""
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "cannot be read"
    begun = error.context_mark
    if error.problem and error.context and begun and begun.line != mark.line:
        problem = f"{problem} ({error.context} that begins in line {begun.line + 1})"
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    return Fault(line, column, f"not YAML: {problem}")


def _decoded(source: str | bytes) -> str | Fault:
    """`source` as text that may be given to a YAML reader."""
    try:
        size = len(source if isinstance(source, bytes) else source.encode())
        if size > TEXT_BYTES_MAX:
            return Fault(1, 1, f"{size:,} bytes is too large; expected at most {TEXT_BYTES_MAX:,}")
        text = source.decode() if isinstance(source, bytes) else source
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        column = error.start - (before.rfind(b"\n") + 1) + 1
        return Fault(before.count(b"\n") + 1, column, "not UTF-8 text; save the file as UTF-8")
    except UnicodeEncodeError as error:
        return _fault_at(error.object, error.start, "half a character (a lone surrogate)")
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        return _fault_at(text, text.index("\0"), "a NUL byte; this is not a text file")
    return text


def _fault_at(text: str, index: int, message: str) -> Fault:
    line_start = text.rfind("\n", 0, index) + 1
    return Fault(text.count("\n", 0, index) + 1, index - line_start + 1, message)


def _tree(events: Any) -> Node:
    """Build the tree from parser events with a stack of open collections."""
    stack: list[_Open] = []
    root: Node | None = None
    documents = 0
    for event in events:
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            documents += 1
            if documents > 1:
                raise _Refused("a second document; expected one document", event.start_mark)
            continue
        node = _step(kind, event, stack)
        if node is None:
            continue
        if stack:
            _put(stack[-1], node)
        else:
            root = node
    return root if root is not None else Scalar("", False, 1, 1)


def _step(kind: str, event: Any, stack: list[_Open]) -> Node | None:
    """The node that this event completes, if it completes one."""
    _refuse_references(kind, event)
    line, column = event.start_mark.line + 1, event.start_mark.column + 1
    if kind == "ScalarEvent":
        return Scalar(event.value, not event.implicit[0], line, column)
    if kind in {"SequenceStartEvent", "MappingStartEvent"}:
        if len(stack) >= DEPTH_MAX:
            raise _Refused(f"nested deeper than {DEPTH_MAX} levels", event.start_mark)
        stack.append(_Open(kind == "MappingStartEvent", line, column, [], [], {}))
    elif kind in {"SequenceEndEvent", "MappingEndEvent"}:
        return _closed(stack.pop())
    return None


def _refuse_references(kind: str, event: Any) -> None:
    if kind == "AliasEvent":
        raise _Refused("an alias (*); write the value out", event.start_mark)
    if getattr(event, "anchor", None) is not None:
        raise _Refused("an anchor (&); write the value out where it is used", event.start_mark)
    if getattr(event, "tag", None) is not None:
        raise _Refused("a tag (!); types come from the key, not from tags", event.start_mark)


def _closed(part: _Open) -> Node:
    if part.is_mapping:
        return Mapping(tuple(part.pairs), part.line, part.column)
    return Sequence(tuple(part.items), part.line, part.column)


def _put(parent: _Open, node: Node) -> None:
    """Give `node` to its parent: an item, a mapping key, or the value of the key that waits."""
    if not parent.is_mapping:
        parent.items.append(node)
    elif parent.key is None:
        parent.key = _key(parent, node)
    else:
        parent.pairs.append((parent.key, node))
        parent.key = None


def _key(parent: _Open, node: Node) -> Scalar:
    if not isinstance(node, Scalar):
        raise _Refused("a list or mapping as a key; expected a word", _Mark(node))
    if node.text in parent.seen:
        first = parent.seen[node.text]
        shown = node.text[:40]
        raise _Refused(f"duplicate key {shown!r}, first given in line {first}", _Mark(node))
    parent.seen[node.text] = node.line
    return node


class _Mark:
    """The position of a node in the parser's counting (from 0)."""

    def __init__(self, node: Node) -> None:
        self.line = node.line - 1
        self.column = node.column - 1
