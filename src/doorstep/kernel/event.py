"""One ledger event and its bytes.

The bytes are one line of UTF-8 JSON with sorted keys. They are stored, hashed and exported as they
are: nothing is ever serialised again to be verified.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.instant import Instant

EVENT_FORMAT = 1
EVENT_BYTES_MAX = 256 * 1024
_KIND = re.compile(r"[a-z]+(?:-[a-z]+)*(?:\.[a-z]+(?:-[a-z]+)*)+\Z")


class Actor(msgspec.Struct, frozen=True):
    """Who did it. type: user, token, or svc (Doorstep itself)."""

    type: str
    id: str


DOORSTEP = Actor("svc", "doorstep")
"""The actor of what loops do by themselves."""


class Object(msgspec.Struct, frozen=True):
    """What it was done to. ver: its version or revision number, "" if it has none."""

    type: str
    id: str
    ver: str = ""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A change that happened. seq: its place in the ledger, from 0, without gaps. ts: UTC, us.

    data: JSON types only. `data["service"]` names the service that the event belongs to, where the
    object is not the service itself: that is what `doorstep history` finds events by.
    """

    v: int = EVENT_FORMAT
    seq: int
    ts: Instant
    kind: str
    id: UUID
    actor: Actor
    object: Object
    data: dict[str, Any]

    def __post_init__(self) -> None:
        if not _KIND.match(self.kind):
            raise ValueError(f"event kind {self.kind!r} is not noun.verb")

    @property
    def service(self) -> str:
        """The service that it belongs to, or ""."""
        if self.object.type == "service":
            return self.object.id
        named = self.data.get("service", "")
        return named if isinstance(named, str) else ""


def plain(data: Mapping[str, Any] | msgspec.Struct) -> dict[str, Any]:
    """`data` in JSON types. Raises: InputError (`not-json`) for NaN, infinity or other types."""
    try:
        found = msgspec.to_builtins(data, str_keys=True)
        _refuse_non_finite(found)
        # Through text once, so that an event in memory equals the event read back.
        return msgspec.json.decode(msgspec.json.encode(found), type=dict[str, Any])
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InputError("not-json", f"the event's data cannot be written: {error}") from error


def encode_event(event: Event) -> bytes:
    """The line that is stored. Raises: InputError (`event-too-large`)."""
    line = msgspec.json.encode(event, order="sorted")
    if len(line) > EVENT_BYTES_MAX:
        raise InputError(
            "event-too-large",
            f"the event {event.kind} has {len(line)} bytes, at most {EVENT_BYTES_MAX}; "
            "large evidence is stored by its digest",
        )
    return line


def decode_event(line: bytes) -> Event:
    """Raises: InputError (`bad-event`)."""
    try:
        return msgspec.json.decode(line, type=Event)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError("bad-event", f"a ledger entry is not an event: {error}") from error


def _refuse_non_finite(value: object) -> None:
    # msgspec writes NaN and infinity as null, which would be a silent change of evidence.
    match value:
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is not a JSON number")
        case dict():
            for inner in value.values():
                _refuse_non_finite(inner)
        case list() | tuple():
            for inner in value:
                _refuse_non_finite(inner)
        case _:
            return
