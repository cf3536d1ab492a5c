"""The readers of the service file by shape: a word, a list, a mapping of names, a choice, a group.

Each reads a node into a value or notes a problem with its place, shows a value as the file would
say it, and gives the JSON Schema of what may be written. The keys of a group are the annotated
fields of its type, declared once for the parser, the schema, `explain` and the writer:

    field: Annotated[type, reader, "what it promises", "why its default is what it is"] = default

Without a reader it is that of the type: a choice for a Literal, true or false, a group.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.filekeys import (
    KEY_LENGTH_MAX,
    ChecksItself,
    FileKey,
    FillsItself,
    Reader,
    Reading,
    credential_in,
    join,
    nearest,
    shorten,
    shown,
    suggestion,
)
from doorstep.core.yamltext import Mapping, Node, Scalar, Sequence
from doorstep.core.yamlwrite import flow


class Word(msgspec.Struct, frozen=True):
    """One scalar. parse: raises ValueError or InputError with the fact, or with nothing to add."""

    expected: str
    parse: Callable[[Scalar], Any]
    json: dict[str, Any]
    write: Callable[[Any], Any] = lambda value: value

    def fits(self, node: Node) -> bool:
        return isinstance(node, Scalar)

    def read(self, node: Node, path: str, reading: Reading) -> Any:
        fact = ""
        if isinstance(node, Scalar):
            try:
                return self.parse(node)
            except InputError as error:
                fact = error.message
            except ValueError as error:
                fact = str(error)
        message = f"found {shown(node)}, expected {self.expected}"
        reading.problem(node, path, f"{message}: {fact}" if fact else message)
        return msgspec.UNSET

    def show(self, value: Any) -> Any:
        return self.write(value)

    def schema(self, partial: bool) -> dict[str, Any]:  # noqa: ARG002
        return dict(self.json)


def choice(*words: str) -> Word:
    """One of `words`."""

    def parse(scalar: Scalar) -> str:
        if scalar.text in words:
            return scalar.text
        raise ValueError(suggestion(scalar.text, list(words)).removeprefix("; "))

    expected = " or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}"
    return Word(expected, parse, {"enum": list(words)})


def boolean() -> Word:
    def parse(scalar: Scalar) -> bool:
        value = scalar.value
        if not isinstance(value, bool):
            raise ValueError
        return value

    return Word("true or false", parse, {"type": "boolean"})


def _unexpected(reader: Reader, node: Node, path: str, reading: Reading) -> Any:
    reading.problem(node, path, f"found {shown(node)}, expected {reader.expected}")
    return msgspec.UNSET


class ListOf(msgspec.Struct, frozen=True):
    """least, most: how many. lone: one value may stand without brackets. word: stands for ()."""

    item: Any
    least: int = 0
    most: int = 100
    lone: bool = False
    word: str = ""

    @property
    def expected(self) -> str:
        one = f"{self.word} or " if self.word else ""
        lone = f"{self.item.expected}, or " if self.lone else ""
        return f"{one}{lone}a list [...] of {self.item.expected}"

    def fits(self, node: Node) -> bool:
        is_lone = self.lone and self.item.fits(node)
        return isinstance(node, Sequence) or is_lone or self._is_word(node)

    def _is_word(self, node: Node) -> bool:
        return bool(self.word) and isinstance(node, Scalar) and node.text == self.word

    def read(self, node: Node, path: str, reading: Reading) -> Any:
        if self._is_word(node):
            return ()
        if self.lone and not isinstance(node, Sequence) and self.item.fits(node):
            value = self.item.read(node, path, reading)
            return value if value is msgspec.UNSET else (value,)
        if not isinstance(node, Sequence):
            return _unexpected(self, node, path, reading)
        if not self.least <= len(node.items) <= self.most:
            wanted = f"{self.least} to {self.most}" if self.least < self.most else f"{self.least}"
            reading.problem(node, path, f"{len(node.items)} items, expected {wanted}")
            return msgspec.UNSET
        return self._items(node, path, reading)

    def _items(self, node: Sequence, path: str, reading: Reading) -> Any:
        values = []
        for index, item in enumerate(node.items):
            if isinstance(self.item, Group):
                reading.at[f"{path}[{index}]"] = (item.line, item.column)
            values.append(self.item.read(item, f"{path}[{index}]", reading))
        return msgspec.UNSET if msgspec.UNSET in values else tuple(values)

    def show(self, value: Any) -> Any:
        if not value and self.word:
            return self.word
        if self.lone and len(value) == 1:
            return self.item.show(value[0])
        return [self.item.show(one) for one in value]

    def schema(self, partial: bool) -> dict[str, Any]:  # noqa: ARG002
        item = self.item.schema(partial=False)
        many: dict[str, Any] = {"type": "array", "items": item, "maxItems": self.most}
        if self.least:
            many["minItems"] = self.least
        others = ([{"const": self.word}] if self.word else []) + ([item] if self.lone else [])
        return {"anyOf": [*others, many]} if others else many


class MapOf(msgspec.Struct, frozen=True):
    """Names that the user chooses, each with a value."""

    item: Any
    what: str
    most: int

    @property
    def expected(self) -> str:
        return f"a mapping {{{self.what}: ...}}"

    def fits(self, node: Node) -> bool:
        return isinstance(node, Mapping)

    def read(self, node: Node, path: str, reading: Reading) -> Any:
        if not isinstance(node, Mapping):
            return _unexpected(self, node, path, reading)
        if len(node.pairs) > self.most:
            reading.problem(node, path, f"{len(node.pairs)} entries, expected at most {self.most}")
            return msgspec.UNSET
        values = {}
        for key, child in node.pairs:
            where = join(path, key.text[:KEY_LENGTH_MAX])
            reading.at[where] = (key.line, key.column)
            if not key.text or len(key.text) > KEY_LENGTH_MAX or not key.text.isprintable():
                expected = f"1 to {KEY_LENGTH_MAX} printable characters"
                reading.problem(key, path, f"found {shown(key)} as {self.what}, {expected}")
            values[key.text] = self.item.read(child, where, reading)
        return msgspec.UNSET if msgspec.UNSET in values.values() else values

    def show(self, value: Any) -> Any:
        return {name: self.item.show(one) for name, one in value.items()}

    def schema(self, partial: bool) -> dict[str, Any]:
        item = self.item.schema(partial)
        return {"type": "object", "additionalProperties": item, "maxProperties": self.most}


class OneOf(msgspec.Struct, frozen=True):
    """Several ways to write a value, told apart by shape. ways: (type of the value, reader)."""

    ways: tuple[tuple[type, Any], ...]

    @property
    def expected(self) -> str:
        return " or ".join(reader.expected for _, reader in self.ways)

    def fits(self, node: Node) -> bool:
        return any(reader.fits(node) for _, reader in self.ways)

    def read(self, node: Node, path: str, reading: Reading) -> Any:
        for _, reader in self.ways:
            if reader.fits(node):
                return reader.read(node, path, reading)
        return _unexpected(self, node, path, reading)

    def show(self, value: Any) -> Any:
        return next(reader.show(value) for kind, reader in self.ways if isinstance(value, kind))

    def schema(self, partial: bool) -> dict[str, Any]:
        return {"anyOf": [reader.schema(partial) for _, reader in self.ways]}


class Group(msgspec.Struct, frozen=True):
    """A mapping with known keys: the fields of `type`. short: the key that may stand alone, and
    how it is then written (`errors` for `{name: errors}`). checks_always: whether its keys are held
    against each other also when one of them was refused (and so has its default)."""

    type: Any
    short: str = ""
    short_reads: Any = None
    checks_always: bool = False

    @property
    def keys(self) -> dict[str, FileKey]:
        return keys_of(self.type)

    @property
    def expected(self) -> str:
        mapping = f"a mapping with {', '.join(self.keys)}"
        return f"{self._short_reader.expected}, or {mapping}" if self.short else mapping

    @property
    def _short_reader(self) -> Reader:
        reader: Reader = self.short_reads or self.keys[self.short].reads
        return reader

    def fits(self, node: Node) -> bool:
        is_short = bool(self.short) and self._short_reader.fits(node)
        return isinstance(node, Mapping) or is_short

    def read(self, node: Node, path: str, reading: Reading) -> Any:
        before = len(reading.problems)
        if not isinstance(node, Mapping) and self.short and self._short_reader.fits(node):
            values = self._read_short(node, path, reading)
        elif isinstance(node, Mapping):
            values = self._read_keys(node, path, reading)
        else:
            return _unexpected(self, node, path, reading)
        return self._made(values, node, path, reading, len(reading.problems) == before)

    def _read_short(self, node: Node, path: str, reading: Reading) -> dict[str, Any]:
        key = self.keys[self.short]
        reading.at[join(path, key.name)] = (node.line, node.column)
        return {key.field: self._short_reader.read(node, path, reading)}

    def _read_keys(self, node: Mapping, path: str, reading: Reading) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, child in node.pairs:
            key = self.keys.get(name.text)
            if why := getattr(self.type, "gone", {}).get(name.text):
                # A rule: a file that was applied when this was a key is still read.
                place = name.line, name.column
                said = f"is no key any more: {why}; remove it"
                reading.problem_at(place, join(path, name.text), said, is_rule=True)
                continue
            if key is None:
                meant = self._unknown(name, path, reading)
                values |= {field: msgspec.UNSET for field in meant if field not in values}
                continue
            where = join(path, key.name)
            reading.at[where] = (name.line, name.column)
            values[key.field] = _read_key(key, child, where, reading)
        return values

    def _unknown(self, name: Scalar, path: str, reading: Reading) -> list[str]:
        """Note it. Gives the field that was probably meant, so that it is not missed as well."""
        if reading.is_full:
            return []
        known = list(self.keys)
        near = nearest(name.text, known)
        said = f"did you mean {near}?" if near else f"expected one of {', '.join(known)}"
        reading.problem(name, join(path, shown(name)), f"unknown key; {said}")
        return [self.keys[near].field] if near else []

    def _made(
        self, values: dict[str, Any], node: Node, path: str, reading: Reading, is_sound: bool
    ) -> Any:
        """The struct, with defaults where a value was refused; UNSET if a required key is not."""
        given = {field: value for field, value in values.items() if value is not msgspec.UNSET}
        if isinstance(self.type, FillsItself):
            given = {**self.type.defaults_for(given), **given}
        for key in self.keys.values():
            if key.default is msgspec.UNSET and key.field not in {**values, **given}:
                _note_missing(key, node, path, reading)
        if any(k.default is msgspec.UNSET and k.field not in given for k in self.keys.values()):
            return msgspec.UNSET
        made = self.type(**given)
        if (is_sound or self.checks_always) and isinstance(made, ChecksItself):
            for name, message in made.faults():
                where = join(path, name)
                place = reading.at.get(where, (node.line, node.column))
                reading.problem_at(place, where, self._found(name, values) + message, is_rule=True)
        return made

    def _found(self, name: str, values: dict[str, Any]) -> str:
        """`found 5s: ` of a key that the file gives."""
        key = self.keys.get(name)
        if key is None or values.get(key.field, msgspec.UNSET) is msgspec.UNSET:
            return ""
        text = flow(key.reads.show(values[key.field]))
        return f"found {'a hidden value' if credential_in(text) else shorten(text)}: "

    def show(self, value: Any) -> Any:
        """Only what differs from its default, or everything if nothing does; the short form where
        that says as much."""
        defaults = {key.field: key.default for key in self.keys.values()}
        if isinstance(value, FillsItself):
            defaults |= value.defaults_for({field: getattr(value, field) for field in defaults})
        given = [(key, getattr(value, key.field)) for key in self.keys.values()]
        given = [(key, one) for key, one in given if one is not None]
        changed = [(key, one) for key, one in given if one != defaults[key.field]]
        out = {key.name: key.reads.show(one) for key, one in changed or given}
        short = self._short_of(out, value)
        return out if short is None else short

    def _short_of(self, out: dict[str, Any], value: Any) -> Any:
        """The short form of `value`, None if it says more than that can."""
        if not self.short or not set(out) <= {self.short}:
            return None
        return self._short_reader.show(getattr(value, self.keys[self.short].field))

    def schema(self, partial: bool) -> dict[str, Any]:
        properties = {key.name: _schema_of(key, partial) for key in self.keys.values()}
        whole: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
        }
        required = [k.name for k in self.keys.values() if k.default is msgspec.UNSET]
        if required and not partial:
            whole["required"] = required
        if not self.short:
            return whole
        return {"anyOf": [self._short_reader.schema(partial=False), whole]}


@cache
def keys_of(group: type[msgspec.Struct]) -> dict[str, FileKey]:
    """The keys of a group by their name in the file, in the order of declaration. Fields carry
    units last, the file does not: `timeout_s` is written as `timeout`."""
    hints = get_type_hints(group, include_extras=True)
    keys: dict[str, FileKey] = {}
    for field in msgspec.structs.fields(group):
        kind, *said = get_args(hints[field.name]) or (None,)
        texts = [one for one in said if isinstance(one, str)]
        if get_origin(hints[field.name]) is Annotated and texts:
            name = field.encode_name.removesuffix("_s")
            reads = said[0] if said[0] is not texts[0] else _reader_of(kind)
            about, why = texts[0], "".join(texts[1:])
            keys[name] = FileKey(name, field.name, reads, about, why, _default_of(field))
    return keys


def _reader_of(kind: Any) -> Reader:
    """The reader that a type implies; None beside it only says that it may be left out."""
    if get_origin(kind) is UnionType or get_origin(kind) is Union:
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is Literal:
        return choice(*get_args(kind))
    return boolean() if kind is bool else Group(kind)


def _default_of(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return msgspec.UNSET if field.default is msgspec.NODEFAULT else field.default


def _note_missing(key: FileKey, node: Node, path: str, reading: Reading) -> None:
    """Say what is missing: of a group, the keys in it that must be there."""
    where = join(path, key.name)
    inner = key.reads.keys.values() if isinstance(key.reads, Group) else ()
    required = [one for one in inner if one.default is msgspec.UNSET]
    for one in required:
        _note_missing(one, node, where, reading)
    if not required:
        missing = f"missing; expected {key.reads.expected} ({key.about})"
        reading.problem(node, where, missing)


def _read_key(key: FileKey, child: Node, where: str, reading: Reading) -> Any:
    if isinstance(child, Scalar) and child.is_empty:
        otherwise = "" if key.default is msgspec.UNSET else ", or remove the key"
        reading.problem(child, where, f"has no value; expected {key.reads.expected}{otherwise}")
        return msgspec.UNSET
    return key.reads.read(child, where, reading)


def _schema_of(key: FileKey, partial: bool) -> dict[str, Any]:
    described = {**key.reads.schema(partial), "description": _sentence(key)}
    if key.default is not msgspec.UNSET and key.default is not None and not partial:
        described["default"] = key.reads.show(key.default)
    return described


def _sentence(key: FileKey) -> str:
    why = f" Default: {key.why}." if key.why else ""
    return f"{key.about[:1].upper()}{key.about[1:]}.{why}"
