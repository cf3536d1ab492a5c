"""How a command reaches the data plane: with which API key, and whom it believes over TLS."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from doorstep.core.errors import InputError

KEY_VARIABLE = "DOORSTEP_API_KEY"


def reach(data_url: str, environ: Mapping[str, str], ca: Path | None = None) -> dict[str, Any]:
    """Options for an httpx client of the data plane. The API key comes from DOORSTEP_API_KEY,
    never from a command line, which others can read. ca: certificates to believe, PEM; else
    SSL_CERT_FILE, else the system's. Raises: InputError (`bad-ca`)."""
    key = environ.get(KEY_VARIABLE, "")
    found: dict[str, Any] = {"base_url": data_url, "trust_env": False}
    if key:
        found["headers"] = {"Authorization": f"Bearer {key}"}
    if data_url.startswith("https://"):
        found["verify"] = _believing(str(ca or environ.get("SSL_CERT_FILE", "")))
    return found


def _believing(file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file or None)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            "bad-ca",
            f"the certificates in {file} cannot be read: {error.strerror or error}",
            "name a PEM file with --ca or SSL_CERT_FILE",
        ) from None
