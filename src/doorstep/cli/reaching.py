"""How a command reaches the data plane: with which API key, and whom it believes over TLS."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from doorstep.core.errors import InputError, UsageError

KEY_VARIABLE = "DOORSTEP_API_KEY"


def reach(
    data_url: str,
    environ: Mapping[str, str],
    ca: Path | None = None,
    cert: tuple[Path, Path] | None = None,
) -> dict[str, Any]:
    """Options for an httpx client of the data plane. The API key comes from DOORSTEP_API_KEY,
    never from a command line, which others can read. ca: certificates to believe, PEM; else
    SSL_CERT_FILE, else the system's. cert: who we are, to a node that asks for it: certificate and
    key, PEM. Raises: InputError (`bad-ca`, `bad-client-cert`)."""
    key = environ.get(KEY_VARIABLE, "")
    found: dict[str, Any] = {"base_url": data_url, "trust_env": False}
    if key:
        found["headers"] = {"Authorization": f"Bearer {key}"}
    if data_url.startswith("https://"):
        found["verify"] = _believing(str(ca or environ.get("SSL_CERT_FILE", "")))
        if cert:
            _show(found["verify"], *cert)
    return found


def pair_of(cert: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Raises: UsageError (`half-cert`) for one without the other."""
    if cert and key:
        return cert, key
    if cert or key:
        raise UsageError("half-cert", "found one of --cert and --cert-key; expected both or none")
    return None


def _show(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    try:
        # A key with a passphrase is refused: without `password` OpenSSL would ask the terminal.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            "bad-client-cert",
            f"{cert} with the key {key} cannot be used: {error.strerror or error}",
            "name PEM files of one certificate with --cert and --cert-key",
        ) from None


def _believing(file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file or None)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            "bad-ca",
            f"the certificates in {file} cannot be read: {error.strerror or error}",
            "name a PEM file with --ca or SSL_CERT_FILE",
        ) from None
