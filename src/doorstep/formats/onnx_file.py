"""What an ONNX file says about itself, read from its bytes without the `onnx` package.

The serving runtime does not carry `onnx`, and onnxruntime would follow references to files beside
the model, so this walks the protobuf wire format itself. It looks for tensors stored outside the
file, and for the opset. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from doorstep.core.errors import InputError, RefusedError

DEPTH_MAX = 32
# Numbers of a tree ensemble are unpacked fields, millions of them: runs are skipped in one step.
_FLOATS = re.compile(rb"(?:\x3d.{4})+", re.DOTALL)
_INTS = re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])+")


@dataclass(slots=True)
class _Found:
    opset: int = 0
    external: list[str] = field(default_factory=list)
    graphs: int = 0


def refuse_external(data: bytes) -> None:
    """Refuse a model whose weights lie in other files. Cheap: a model without the bytes `location`
    cannot name one. Raises: RefusedError (`onnx-external-data`), InputError (`bad-onnx`)."""
    if b"location" in data:
        read_onnx(data)


def read_onnx(data: bytes) -> int:
    """The opset of an ONNX model: the version of the default domain, 0 if none.

    Raises: InputError (`bad-onnx`) if the bytes are not one, RefusedError (`onnx-external-data`) if
    weights lie in other files.
    """
    found = _Found()
    try:
        _walk_model(data, found)
    except (IndexError, ValueError) as error:
        raise _bad(str(error) or "truncated") from None
    if not found.graphs:
        raise _bad("it has no graph")
    if found.external:
        raise RefusedError(
            "onnx-external-data",
            f"the ONNX model keeps weights in another file ({found.external[0]!r}); "
            "expected everything in one file",
            "save it with onnx.save(model, path, save_as_external_data=False)",
        )
    return found.opset


def _bad(why: str) -> InputError:
    return InputError(
        "bad-onnx", f"the file is not a readable ONNX model: {why}", "export the model again"
    )


def _walk_model(data: bytes, found: _Found) -> None:
    for number, value in _fields(data):
        match number, value:
            case 7, bytes():
                found.graphs += 1
                _walk_graph(value, found, 0)
            case 8, bytes():
                _read_opset(value, found)
            case 20, bytes():
                for inner, graph in _fields(value):
                    if inner in (1, 2) and isinstance(graph, bytes):
                        _walk_graph(graph, found, 0)
            case 25, bytes():
                for inner, node in _fields(value):
                    if inner == 7 and isinstance(node, bytes):
                        _walk_node(node, found, 0)


def _read_opset(data: bytes, found: _Found) -> None:
    parts = dict(_fields(data))
    version = parts.get(2, 0)
    if parts.get(1, b"") in (b"", b"ai.onnx") and isinstance(version, int):
        found.opset = max(found.opset, version)


def _walk_graph(data: bytes, found: _Found, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise ValueError(f"graphs are nested more than {DEPTH_MAX} deep")
    for number, value in _fields(data):
        match number, value:
            case 1, bytes():
                _walk_node(value, found, depth)
            case 5, bytes():
                _walk_tensor(value, found)
            case 15, bytes():
                _walk_sparse(value, found)


def _walk_node(data: bytes, found: _Found, depth: int) -> None:
    for number, value in _fields(data):
        if number == 5 and isinstance(value, bytes):
            _walk_attribute(value, found, depth)


def _walk_attribute(data: bytes, found: _Found, depth: int) -> None:
    for number, value in _fields(data, skip_runs=True):
        match number, value:
            case ((5 | 10), bytes()):
                _walk_tensor(value, found)
            case ((6 | 11), bytes()):
                _walk_graph(value, found, depth + 1)
            case ((22 | 23), bytes()):
                _walk_sparse(value, found)


def _walk_sparse(data: bytes, found: _Found) -> None:
    for number, value in _fields(data):
        if number in (1, 2) and isinstance(value, bytes):
            _walk_tensor(value, found)


def _walk_tensor(data: bytes, found: _Found) -> None:
    for number, value in _fields(data):
        if number == 13 and isinstance(value, bytes):
            key, text = _read_entry(value)
            if key == "location":
                found.external.append(text)
        elif number == 14 and value == 1 and not found.external:
            found.external.append("")


def _read_entry(data: bytes) -> tuple[str, str]:
    parts = dict(_fields(data))
    key, text = parts.get(1, b""), parts.get(2, b"")
    if not isinstance(key, bytes) or not isinstance(text, bytes):
        raise ValueError("a text field holds a number")
    return key.decode(), text.decode()


def _fields(data: bytes, *, skip_runs: bool = False) -> Iterator[tuple[int, bytes | int]]:
    at, end = 0, len(data)
    while at < end:
        if skip_runs and (run := _FLOATS.match(data, at) or _INTS.match(data, at)):
            at = run.end()
            continue
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + size > end:
            raise ValueError(f"truncated at byte {at}")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number of more than 10 bytes at byte {at}")
