"""Records that the journal's tests share."""

from collections.abc import Sequence

import msgspec

from doorstep.core.record import Column, Layout, OutcomeRecord, PredictionMeta
from doorstep.journal import block

LAYOUT = Layout(
    format=1,
    service="loans",
    numbers=(Column("in.age", "int"), Column("out.yes", "float")),
    texts=(Column("in.purpose", "category"), Column("out.answer", "text")),
)
OUTCOME = OutcomeRecord(service="loans", at=5, received_at=6, key="k1", label="yes")


def meta(row: int = 0, **changes: object) -> PredictionMeta:
    fields = {
        "request": bytes(range(16)),
        "row": row,
        "at": 1_700_000_000_000_000,
        "version": 2,
        "assigned": 2,
        "status": 0,
        "kind": 0,
        "release": "",
        "epoch": 0,
        "share": 0.0,
        "segment": "",
        "key": "k1",
        "unit": "u1",
        "latency_us": 812,
        "warnings": ("unseen:purpose",),
        "texts": ("car", "yes"),
    }
    return PredictionMeta(**(fields | changes))


class VirtualClock:
    """Time that stands still until a test moves it."""

    def __init__(self, now: int = 1_700_000_000_000_000) -> None:
        self.at = now

    def now(self) -> int:
        return self.at

    def monotonic_s(self) -> float:
        return self.at / 1e6

    def move(self, seconds: float) -> None:
        self.at += int(seconds * 1e6)


def encode_predictions(
    layout: int, rows: Sequence[PredictionMeta], matrix: bytes | memoryview
) -> bytes:
    """What `BlockWriter.predictions` buffers, for tests and tools."""
    buffer = bytearray()
    head = msgspec.msgpack.encode(rows)
    block.append_frame(buffer, block.FrameKind.PREDICTIONS, layout, len(rows), head, matrix)
    return bytes(buffer)
