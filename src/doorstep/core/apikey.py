"""API keys of the data plane: `dsk_<id>_<43 characters>`, of which only the digest is kept.

The id names a key in lists, plans and logs, and is no secret. The rest is 256 random bits, so that
a plain SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import re
import secrets

ID_BYTES = 6
SECRET_BYTES = 32
_API_KEY = re.compile(rb"dsk_(?P<id>[0-9a-f]{12})_[A-Za-z0-9_-]{43}\Z")


def new_api_key() -> tuple[str, str]:
    """(id, the whole key), which is shown once."""
    name = secrets.token_hex(ID_BYTES)
    return name, f"dsk_{name}_{secrets.token_urlsafe(SECRET_BYTES)}"


def id_of(key: bytes) -> str:
    """The id in a key; "" for what is none."""
    found = _API_KEY.match(key)
    return found["id"].decode() if found else ""
