"""Keys that are shown once: `dsk_<id>_<43 characters>` calls the data plane, `dsp_...` is a person
at the control plane. Only the digest is kept.

The id names a key in lists, plans and logs, and is no secret. The rest is 256 random bits, so that
a plain SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import re
import secrets

ID_BYTES = 6
SECRET_BYTES = 32
_API_KEY = re.compile(rb"dsk_(?P<id>[0-9a-f]{12})_[A-Za-z0-9_-]{43}\Z")
_PERSON = re.compile(r"dsp_(?P<id>[0-9a-f]{12})_[A-Za-z0-9_-]{43}\Z")


def new_api_key() -> tuple[str, str]:
    """(id, the whole key), which is shown once."""
    return _new("dsk")


def new_person_token() -> tuple[str, str]:
    """The same, of a person."""
    return _new("dsp")


def _new(kind: str) -> tuple[str, str]:
    name = secrets.token_hex(ID_BYTES)
    return name, f"{kind}_{name}_{secrets.token_urlsafe(SECRET_BYTES)}"


def id_of(key: bytes) -> str:
    """The id in a key; "" for what is none."""
    found = _API_KEY.match(key)
    return found["id"].decode() if found else ""


def person_id_of(token: str) -> str:
    """The id in a person's token; "" for what is none."""
    found = _PERSON.match(token)
    return found["id"] if found else ""
