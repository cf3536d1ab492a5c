"""What goes over Unix sockets between processes of a node: length-prefixed msgpack.

No pickle: a frame is numbers, text and bytes. Both sides refuse a frame over FRAME_BYTES_MAX.
"""

from __future__ import annotations

import struct

import msgspec

from doorstep.serve.limits import FRAME_BYTES_MAX

_LENGTH = struct.Struct("<I")


class Ask(msgspec.Struct, array_like=True, gc=False):
    """Score these rows. numbers: float64 [rows, columns], row by row. texts: a list per text
    column. deadline_ns: on the machine's monotonic clock; later it need not be answered. calls:
    how many callers wait for the reply."""

    id: int
    deadline_ns: int
    rows: int
    numbers: bytes
    texts: list[list[str | None]]
    calls: int = 1


class Reply(msgspec.Struct, array_like=True, gc=False):
    """scores: float64 [rows, columns], row by row; or error: what the model raised. row_ns: what a
    row of this worker took, with what the engine did for others meanwhile."""

    id: int
    columns: int
    scores: bytes
    error: str = ""
    row_ns: int = 0


_encode = msgspec.msgpack.Encoder().encode


def encode_frame(message: msgspec.Struct) -> bytes:
    """Raises: ValueError if it is too large."""
    data = _encode(message)
    if len(data) > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {len(data)} bytes; at most {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Cuts a byte stream into frames. Raises: ValueError on a frame that is too large."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        buffer = self._buffer
        buffer += data
        frames, at = [], 0
        while len(buffer) - at >= 4:
            (size,) = _LENGTH.unpack_from(buffer, at)
            if size > FRAME_BYTES_MAX:
                raise ValueError(f"a frame of {size} bytes; at most {FRAME_BYTES_MAX}")
            if len(buffer) - at - 4 < size:
                break
            frames.append(bytes(buffer[at + 4 : at + 4 + size]))
            at += 4 + size
        if at:
            del buffer[:at]
        return frames
