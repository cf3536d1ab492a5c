"""Identity: names people write, ids we make, digests of content.

A request id is a uuid7 (time-ordered, 16 bytes). A prediction id is `<request id>.<row>`. A digest
is the lower-case hex SHA-256 of bytes. A version is addressed as `service@7`.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from uuid import UUID

from doorstep.core.errors import InputError, UsageError

NAME_LENGTH_MAX = 63
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_VERSION = re.compile(r"(?P<service>[^@]+)@(?P<number>[1-9][0-9]{0,8})\Z")


def new_id() -> UUID:
    """A uuid7 (RFC 9562): 48 bits of unix milliseconds, then 74 random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return UUID(int=value)


def digest_of(data: bytes) -> str:
    """SHA-256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def hash_unit(salt: str, unit: str) -> int:
    """A 64-bit hash of `unit` under `salt` (a release id): the same on every node and run."""
    digest = hashlib.blake2b(unit.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest, "little")


def parse_name(text: str, what: str = "service") -> str:
    """`text` if it is a name: a-z, 0-9 and inner hyphens, 1 to 63 characters.

    Raises: InputError (`bad-name`).
    """
    if not isinstance(text, str) or not _NAME.match(text):
        raise InputError(
            "bad-name",
            f"{what} name {text!r} is not a name; expected a-z, 0-9 and inner hyphens, "
            f"1 to {NAME_LENGTH_MAX} characters",
        )
    return text


def parse_digest(text: str) -> str:
    """`text` if it is a SHA-256 in lower-case hex. Raises: InputError (`bad-digest`)."""
    if not isinstance(text, str) or not _DIGEST.match(text):
        raise InputError("bad-digest", f"{text!r} is not a digest; expected 64 hex digits")
    return text


def parse_version(text: str) -> tuple[str, int]:
    """`loans@7` -> ("loans", 7). Raises: UsageError (`bad-version`)."""
    match = _VERSION.match(text)
    if not match:
        raise UsageError(
            "bad-version",
            f"{text!r} is not a version; expected SERVICE@NUMBER, such as loans@3",
            "doorstep list",
        )
    return parse_name(match["service"]), int(match["number"])


def plain_prediction_id(text: str) -> str:
    """As the journal writes it, however it was written. Raises: as `parse_prediction_id`."""
    request, row = parse_prediction_id(text)
    return f"{request}.{row}"


def parse_prediction_id(text: str) -> tuple[UUID, int]:
    """`<uuid>.<row>` (or a bare uuid: row 0) -> (request id, row).

    Raises: InputError (`bad-prediction-id`).
    """
    request, _, row = text.partition(".")
    try:
        number = int(row) if row else 0
        if number < 0:
            raise ValueError
        return UUID(request), number
    except ValueError:
        raise InputError(
            "bad-prediction-id",
            f"{text!r} is not a prediction id; expected REQUEST-ID.ROW as the answer gave it",
            "doorstep journal list SERVICE",
        ) from None
