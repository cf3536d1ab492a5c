"""The bytes of a block: frames with a magic, lengths and a CRC32. Pure; nothing here opens a file.

A block is one writer's file. It describes itself: its first frame says who wrote it, a layout
frame comes before the first prediction that uses it, and a closed block ends with an end frame.

    magic 4 | kind u8 | 0 u8 | layout u16 | rows u32 | head u32 | matrix u32 | crc32 u32
    head: msgpack                    matrix: float64, little-endian, rows x numbers of the layout

The CRC covers the fields before it and the body, so a flipped bit anywhere is noticed. A reader
takes whole frames only, and stops at the first that is not: nothing behind it is guessed at,
because a caller could have put bytes that look like a frame into a text.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum, StrEnum
from functools import cache
from typing import Any, TypeVar
from zlib import crc32

import msgspec

from doorstep.core.errors import InputError, OverloadedError
from doorstep.core.instant import Instant
from doorstep.core.merkle import hash_leaf, leaf_hasher
from doorstep.core.record import Layout, OutcomeRecord, PredictionMeta

FORMAT = 1
FORMATS_READ = (0, 1)
"""This format and the one before it (nothing was ever written as 0)."""

MAGIC = b"DSJB"
PREFIX = struct.Struct("<4sBBHIII")
CRC = struct.Struct("<I")
_pack_prefix, _pack_crc = PREFIX.pack, CRC.pack
FRAME_HEADER_BYTES = PREFIX.size + CRC.size
FRAME_BYTES_MAX = 128 * 1024 * 1024
"""4,096 numbers x 1,000 rows are 32 MB, and as much again of texts."""
LAYOUTS_MAX = 65_535
_JOINED_BYTES_MAX = 4096
"""Below it a copy costs less than one more call of crc32."""
NUMBER_BYTES = 8
PartT = TypeVar("PartT")


class FrameKind(IntEnum):
    HEADER = 1
    LAYOUT = 2
    PREDICTIONS = 3
    OUTCOME = 4
    END = 5
    SEAL = 6
    """What the sealed fields of the frames behind it are sealed with."""


class Stop(StrEnum):
    """Why reading ends: at the end of the data, in a frame whose rest is missing (a write that
    was cut short, or is happening now), or at bytes that are not a frame."""

    END = "end"
    TORN = "torn"
    DAMAGED = "damaged"


class BlockHeader(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    node: str
    boot: str
    slot: str
    sequence: int
    opened_at: Instant


class BlockEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What a closed block must hold before its end frame. repaired: closed by somebody else,
    because its writer died."""

    frames: int
    rows: int
    outcomes: int
    repaired: bool = False


class Frame(msgspec.Struct, frozen=True, gc=False):
    """start, end: its bytes in the data. head, matrix: views of the data, not copies."""

    kind: int
    layout: int
    rows: int
    head: memoryview
    matrix: memoryview
    start: int
    end: int


def append_frame(
    buffer: bytearray,
    kind: int,
    layout: int,
    rows: int,
    head: bytes,
    matrix: bytes | memoryview = b"",
) -> None:
    """Append one frame.

    Raises: OverloadedError (`journal-frame-too-big`); the buffer is then as it was.
    """
    head_bytes = len(head)
    matrix_bytes = matrix.nbytes if type(matrix) is memoryview else len(matrix)
    if head_bytes + matrix_bytes > FRAME_BYTES_MAX:
        raise OverloadedError(
            "journal-frame-too-big",
            f"one frame has {head_bytes + matrix_bytes} bytes; at most {FRAME_BYTES_MAX}",
        )
    prefix = _pack_prefix(MAGIC, kind, 0, layout, rows, head_bytes, matrix_bytes)
    if head_bytes + matrix_bytes < _JOINED_BYTES_MAX:
        check = crc32(prefix + head + matrix)
    else:
        check = crc32(matrix, crc32(head, crc32(prefix)))
    buffer += prefix + _pack_crc(check)
    buffer += head
    buffer += matrix


def encode_frame(kind: FrameKind, head: bytes, *, layout: int = 0, rows: int = 0) -> bytes:
    """One frame without a matrix."""
    buffer = bytearray()
    append_frame(buffer, kind, layout, rows, head)
    return bytes(buffer)


def encode_header(header: BlockHeader) -> bytes:
    return encode_frame(FrameKind.HEADER, msgspec.msgpack.encode(header))


def encode_layout(number: int, layout: Layout) -> bytes:
    return encode_frame(FrameKind.LAYOUT, msgspec.msgpack.encode(layout), layout=number)


def encode_outcome(outcome: OutcomeRecord) -> bytes:
    return encode_frame(FrameKind.OUTCOME, msgspec.msgpack.encode(outcome), rows=1)


def encode_end(end: BlockEnd) -> bytes:
    return encode_frame(FrameKind.END, msgspec.msgpack.encode(end))


def frame_at(data: memoryview, offset: int) -> Frame | Stop:
    """The whole, valid frame at `offset`, or why there is none. Never raises, whatever the data."""
    left = len(data) - offset
    if left <= 0:
        return Stop.END
    if left < FRAME_HEADER_BYTES:
        known = min(left, len(MAGIC))
        return Stop.TORN if data[offset : offset + known] == MAGIC[:known] else Stop.DAMAGED
    magic, kind, _, layout, rows, head_bytes, matrix_bytes = PREFIX.unpack_from(data, offset)
    if magic != MAGIC or head_bytes + matrix_bytes > FRAME_BYTES_MAX:
        return Stop.DAMAGED
    body = offset + FRAME_HEADER_BYTES
    matrix_at, end = body + head_bytes, body + head_bytes + matrix_bytes
    if end > len(data):
        return Stop.TORN
    check = crc32(data[body:end], crc32(data[offset : offset + PREFIX.size]))
    if CRC.unpack_from(data, offset + PREFIX.size)[0] != check:
        return Stop.DAMAGED
    return Frame(kind, layout, rows, data[body:matrix_at], data[matrix_at:end], offset, end)


def scan(data: memoryview, offset: int = 0) -> tuple[list[Frame], int, Stop]:
    """(whole frames from `offset` on, where the last of them ends, why reading stopped there)."""
    frames: list[Frame] = []
    while isinstance(found := frame_at(data, offset), Frame):
        frames.append(found)
        offset = found.end
    return frames, offset, found


def decode_header(frame: Frame) -> BlockHeader:
    """Raises: InputError `bad-block`, or `newer-block` if a newer Doorstep wrote it."""
    if frame.kind != FrameKind.HEADER:
        raise InputError("bad-block", f"the first frame has kind {frame.kind}, expected a header")
    found = _decode(frame.head, dict[str, object]).get("format")
    if found not in FORMATS_READ:
        raise InputError(
            "newer-block",
            f"the block has format {found!r}, written by a newer Doorstep; this one reads up to "
            f"{FORMAT}",
            "pip install --upgrade doorstep",
        )
    return _decode(frame.head, BlockHeader)


def decode_layout(frame: Frame) -> Layout:
    return _decode(frame.head, Layout)


def decode_end(frame: Frame) -> BlockEnd:
    return _decode(frame.head, BlockEnd)


def decode_outcome(frame: Frame) -> OutcomeRecord:
    return _decode(frame.head, OutcomeRecord)


def decode_predictions(frame: Frame, layout: Layout) -> list[PredictionMeta]:
    """The rows of a prediction frame. Raises: InputError (`bad-block`) if they do not fit."""
    rows = _decode(frame.head, list[PredictionMeta])
    expected = frame.rows * len(layout.numbers) * NUMBER_BYTES
    if len(rows) != frame.rows or len(frame.matrix) != expected:
        raise InputError(
            "bad-block",
            f"the frame at {frame.start} has {len(rows)} rows and {len(frame.matrix)} bytes of "
            f"numbers; expected {frame.rows} rows and {expected} bytes",
        )
    return rows


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def _decode(head: memoryview, kind: type[PartT]) -> PartT:
    key: Any = kind
    try:
        found: PartT = _decoder(key).decode(head)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InputError("bad-block", f"a frame cannot be read: {error}") from None
    return found


def prediction_leaves(
    layout: Layout, rows: Sequence[PredictionMeta], matrix: bytes | memoryview
) -> Iterator[bytes]:
    """The Merkle leaf hash of each record: RFC 6962 leaf over `p`, the layout's digest, the
    msgpack of the row, and its numbers."""
    begun = leaf_hasher(b"p" + bytes.fromhex(layout.digest)).copy
    width = len(layout.numbers) * NUMBER_BYTES
    encode, record = msgspec.msgpack.Encoder().encode_into, bytearray()
    for index, row in enumerate(rows):
        encode(row, record)
        record += matrix[index * width : (index + 1) * width]
        # A copy of a hash that has begun costs a third less than a new one.
        hasher = begun()
        hasher.update(record)
        yield hasher.digest()


def outcome_leaf(outcome: OutcomeRecord) -> bytes:
    """The Merkle leaf hash of an outcome: RFC 6962 leaf over `o` and its msgpack."""
    return hash_leaf(b"o" + msgspec.msgpack.encode(outcome))
