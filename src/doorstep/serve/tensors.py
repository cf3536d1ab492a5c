"""Tensors of the Open Inference Protocol, as JSON and as raw bytes, to columns and back.

Raw: little-endian, row by row; BOOL a byte each; BYTES four bytes of length, then as many, each.
Sizes are checked against the shape before anything is made of a tensor.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.errors import InputError
from doorstep.serve.fields import describe
from doorstep.serve.instances import Column, Piece
from doorstep.serve.rows import RowReader

DEPTH_MAX = 8
_WHOLE = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
_REAL = ("FP16", "FP32", "FP64")
DATATYPES = ("BOOL", *_WHOLE, *_REAL, "BYTES")
_RAW: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("u1"), "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_LENGTH = struct.Struct("<I")


class Tensor(msgspec.Struct, omit_defaults=True):
    """data: None where it follows as raw bytes."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


def pieces_of(
    tensors: Sequence[Tensor], raws: Mapping[int, bytes], rows: int, reader: RowReader
) -> list[Piece]:
    """Each tensor is a field, or the matrix of all number inputs in contract order. raws: the bytes
    of those without data, by position. Raises: InputError (`bad-tensor`)."""
    pieces: list[Piece] = []
    seen: set[str] = set()
    numbers = [one.name for one in reader.row.numbers]
    for at, tensor in enumerate(tensors):
        is_field = tensor.name in reader.row_names or tensor.name in reader.context_names
        names = [tensor.name] if is_field else numbers
        _check_shape(tensor, rows, names, reader)
        if not seen.isdisjoint(names):
            raise _bad(f"input {tensor.name!r} comes twice, or is also in a matrix")
        seen.update(names)
        pieces.append((names, _read_raw(tensor, raws[at]) if at in raws else _read_data(tensor)))
    return pieces


def _check_shape(tensor: Tensor, rows: int, names: list[str], reader: RowReader) -> None:
    shape = tensor.shape
    if tensor.datatype not in DATATYPES:
        raise _bad(
            f"input {tensor.name!r} has datatype {tensor.datatype!r}",
            f"expected one of {', '.join(DATATYPES)}",
        )
    if not 1 <= len(shape) <= 2 or shape[0] != rows or min(shape) < 1:
        raise _bad(
            f"input {tensor.name!r} has shape {shape[:8]}; expected [{rows}] or [{rows}, columns]"
        )
    if math.prod(shape) == rows * len(names):
        return
    if len(names) == 1:
        raise _bad(f"input {tensor.name!r} has shape {shape}; expected [n] or [n, 1]")
    raise _bad(
        f"input {tensor.name!r} is no field of the contract, and as a matrix of all "
        f"{len(names)} number inputs its shape {shape} does not fit",
        f"fields: {', '.join(reader.row.names[:40])}",
    )


# -- values


def _read_data(tensor: Tensor) -> Column:
    """Values of JSON, nested or flat."""
    if tensor.data is None:
        raise _bad(f"input {tensor.name!r} has no 'data' and no 'binary_data_size'")
    values, size = _flat(tensor.data), math.prod(tensor.shape)
    if len(values) != size:
        raise _bad(
            f"input {tensor.name!r} has {len(values)} values; shape {tensor.shape} needs {size}"
        )
    if _are(values, tensor.datatype):
        kind = np.dtype(float) if tensor.datatype in _REAL else _RAW.get(tensor.datatype)
        return values if kind is None or tensor.datatype == "BOOL" else _array(values, kind)
    for at, value in enumerate(values):
        if value is not None and not _are([value], tensor.datatype):
            raise _bad(
                f"input {tensor.name!r}: value {at} is {describe(value)}; expected "
                f"{tensor.datatype}"
            )
    return values


def _array(values: list[Any], kind: np.dtype[Any]) -> Column:
    try:
        return np.array(values, kind)
    except OverflowError:
        return values


def _flat(data: list[Any]) -> list[Any]:
    for _ in range(DEPTH_MAX):
        kinds = set(map(type, data))
        if list not in kinds:
            return data
        if len(kinds) > 1:
            break
        data = list(itertools.chain.from_iterable(data))
    raise _bad("'data' is nested unevenly or too deeply; expected rows or flat")


def _are(values: list[Any], datatype: str) -> bool:
    """Whether all are of the datatype, without a look at each from here."""
    kinds = set(map(type, values))
    if datatype in _WHOLE:
        low, high = _WHOLE[datatype]
        return kinds == {int} and low <= min(values) and max(values) <= high
    known: set[type] = {int, float} if datatype in _REAL else {bool if datatype == "BOOL" else str}
    return kinds <= known


def _read_raw(tensor: Tensor, raw: bytes) -> Column:
    size = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        return _read_texts(tensor, raw, size)
    kind = _RAW[tensor.datatype]
    if len(raw) != size * kind.itemsize:
        raise _bad(
            f"input {tensor.name!r} has {len(raw)} bytes; shape {tensor.shape} of "
            f"{tensor.datatype} needs {size * kind.itemsize}"
        )
    found: NDArray[Any] = np.frombuffer(raw, kind)
    return found.astype(bool) if tensor.datatype == "BOOL" else found


def _read_texts(tensor: Tensor, raw: bytes, size: int) -> list[Any]:
    texts: list[Any] = []
    at = 0
    while at + 4 <= len(raw) and len(texts) < size:
        (length,) = _LENGTH.unpack_from(raw, at)
        at += 4 + length
        try:
            texts.append(raw[at - length : at].decode())
        except UnicodeDecodeError:
            raise _bad(f"input {tensor.name!r}: value {len(texts)} is not UTF-8") from None
    if at != len(raw) or len(texts) != size:
        raise _bad(
            f"input {tensor.name!r}: its {len(raw)} bytes are not {size} values, each with its "
            "length before it"
        )
    return texts


def cut_raw(tensors: Sequence[Tensor], raw: bytes) -> dict[int, bytes]:
    """The raw bytes of each tensor that has a `binary_data_size`. Raises: InputError."""
    found: dict[int, bytes] = {}
    begin = 0
    for at, tensor in enumerate(tensors):
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(raw):
            raise _bad(
                f"input {tensor.name!r}: 'binary_data_size' is {describe(size)}; after the JSON "
                f"come {len(raw)} bytes"
            )
        found[at] = raw[begin : begin + size]
        begin += size
    if begin != len(raw):
        raise _bad(f"after the JSON come {len(raw)} bytes; the inputs' sizes add up to {begin}")
    return found


def write_raw(tensor: Tensor) -> bytes:
    """The values as bytes; the tensor then says how many, and has no data."""
    texts = tensor.datatype == "BYTES"
    raw = to_raw(tensor.datatype, [one.encode() if texts else one for one in tensor.data or ()])
    tensor.data, tensor.parameters = None, {"binary_data_size": len(raw)}
    return raw


def to_raw(datatype: str, values: Sequence[Any]) -> bytes:
    """values: bytes for BYTES, else numbers. Raises: OverflowError where one is out of range."""
    if datatype == "BYTES":
        return b"".join([_LENGTH.pack(len(one)) + one for one in values])
    return np.array(values, _RAW[datatype]).tobytes()


def _bad(message: str, hint: str = "") -> InputError:
    return InputError("bad-tensor", message, hint)
