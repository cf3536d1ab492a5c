"""Tensors as bytes: row-major, little-endian; BYTES as a length of four bytes and so many bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from doorstep.core.errors import InputError

_LENGTH_BYTES = 4
_DTYPES = {
    "BOOL": "u1",
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}


def size_of(name: str, shape: list[int], values_max: int) -> int:
    """How many values the shape has. Raises: InputError (`bad-tensor`)."""
    size = 1
    for one in shape:
        size *= max(one, 0)
    if not 0 < size <= values_max:
        raise InputError(
            "bad-tensor",
            f"input {name[:60]!r} has shape {shape[:8]}; expected 1 to {values_max} values",
        )
    return size


def read_raw(name: str, datatype: str, data: bytes, count: int) -> list[Any]:
    """The values of a tensor that came as bytes; a float that is NaN is a missing value.

    Raises: InputError (`bad-tensor`) where they are not exactly `count` values of a known type.
    """
    if datatype == "BYTES":
        return _read_texts(name, data, count)
    if datatype not in _DTYPES:
        known = ", ".join((*_DTYPES, "BYTES"))
        raise InputError(
            "bad-tensor", f"input {name[:60]!r} has datatype {datatype[:20]!r}", f"known: {known}"
        )
    dtype = np.dtype(_DTYPES[datatype])
    if len(data) != count * dtype.itemsize:
        raise InputError(
            "bad-tensor",
            f"input {name[:60]!r} has {len(data)} bytes; {count} values of {datatype} need "
            f"{count * dtype.itemsize}",
        )
    found = np.frombuffer(data, dtype)
    values: list[Any] = (found != 0 if datatype == "BOOL" else found).tolist()
    return without_nan(values) if dtype.kind == "f" else values


def without_nan(values: list[Any]) -> list[Any]:
    return [None if one != one else one for one in values]


def write_raw(datatype: str, values: list[Any]) -> bytes:
    if datatype == "BYTES":
        texts = [one.encode() for one in values]
        return b"".join([len(one).to_bytes(_LENGTH_BYTES, "little") + one for one in texts])
    return np.asarray(values, _DTYPES[datatype]).tobytes()


def text_of_bytes(name: str, data: bytes) -> str:
    """Raises: InputError (`bad-tensor`)."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            "bad-tensor", f"input {name[:60]!r} has text that is not UTF-8: {error.reason}"
        ) from None


def _read_texts(name: str, data: bytes, count: int) -> list[Any]:
    found: list[Any] = []
    at, end = 0, len(data)
    while at < end and len(found) <= count:
        begin = at + _LENGTH_BYTES
        at = begin + int.from_bytes(data[at:begin], "little")
        if begin > end or at > end:
            raise InputError("bad-tensor", f"input {name[:60]!r} ends inside a BYTES value")
        found.append(text_of_bytes(name, data[begin:at]))
    if len(found) != count:
        more = " or more" if len(found) > count else ""
        raise InputError(
            "bad-tensor", f"input {name[:60]!r} has {len(found)}{more} BYTES values, not {count}"
        )
    return found
