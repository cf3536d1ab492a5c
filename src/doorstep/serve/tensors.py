"""Tensors of the Open Inference Protocol, and their bytes: row by row, little-endian; BOOL a byte
each; BYTES four bytes of length, then as many, each."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from doorstep.core.errors import InputError

_LENGTH_BYTES = 4
_DTYPES = {
    "BOOL": "u1",
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}


class Tensor(msgspec.Struct, omit_defaults=True):
    """data: None where it follows as raw bytes."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


def read_raw(tensor: Tensor, raw: bytes) -> list[Any]:
    """The values of a tensor of a known type that came as bytes; NaN is a value that is missing.

    Raises: InputError (`bad-tensor`) where they are not as many as its shape has.
    """
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        return _read_texts(tensor, raw, count)
    dtype = np.dtype(_DTYPES[tensor.datatype])
    if len(raw) != count * dtype.itemsize:
        raise _bad(
            tensor,
            f"has {len(raw)} bytes; {count} values of {tensor.datatype} need "
            f"{count * dtype.itemsize}",
        )
    found = np.frombuffer(raw, dtype)
    values: list[Any] = (found != 0 if tensor.datatype == "BOOL" else found).tolist()
    return without_nan(values) if dtype.kind == "f" else values


def without_nan(values: list[Any]) -> list[Any]:
    return [None if one != one else one for one in values]


def write_raw(tensor: Tensor) -> bytes:
    data = tensor.data or []
    if tensor.datatype == "BYTES":
        texts = [one.encode() for one in data]
        return b"".join([len(one).to_bytes(_LENGTH_BYTES, "little") + one for one in texts])
    return np.asarray(data, _DTYPES[tensor.datatype]).tobytes()


def _read_texts(tensor: Tensor, raw: bytes, count: int) -> list[Any]:
    texts: list[Any] = []
    at = 0
    while at + _LENGTH_BYTES <= len(raw) and len(texts) < count:
        begin = at + _LENGTH_BYTES
        at = begin + int.from_bytes(raw[at:begin], "little")
        try:
            texts.append(raw[begin:at].decode())
        except UnicodeDecodeError:
            raise _bad(tensor, f"has a value {len(texts)} that is not UTF-8") from None
    if at != len(raw) or len(texts) != count:
        raise _bad(
            tensor, f"has {len(raw)} bytes that are not {count} values, each after its length"
        )
    return texts


def _bad(tensor: Tensor, what: str) -> InputError:
    return InputError("bad-tensor", f"input {tensor.name[:60]!r} {what}")
