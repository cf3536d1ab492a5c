"""TLS of the data port: TLS 1.2 or newer, by the event loop. Files are read when a worker starts,
so that a roll (SIGHUP) brings new certificates without ending a connection."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from weakref import WeakSet

import msgspec

from doorstep.core.errors import RefusedError, UsageError
from doorstep.serve.limits import HANDSHAKES_MAX

PASSWORD = b""
"""Instead of asking a terminal for the password of an encrypted key, which nobody would hear."""


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of PEM files. client_ca: who signs the certificates that clients must show; "" where
    they need none."""

    cert: str
    key: str
    client_ca: str = ""

    @property
    def words(self) -> list[str]:
        """As options of a node."""
        words = ["--tls-cert", self.cert, "--tls-key", self.key]
        return [*words, "--tls-client-ca", self.client_ca] if self.client_ca else words


def tls_files(cert: str, key: str, client_ca: str) -> TlsFiles | None:
    """What the options name; None where they name nothing. Raises: UsageError (`half-tls`)."""
    if not (cert or key or client_ca):
        return None
    if not (cert and key):
        missing = "--tls-key" if cert else "--tls-cert"
        raise UsageError("half-tls", f"{missing} is missing; TLS needs --tls-cert and --tls-key")
    absolute = (str(Path(one).absolute()) if one else "" for one in (cert, key, client_ca))
    cert, key, client_ca = absolute
    return TlsFiles(cert=cert, key=key, client_ca=client_ca)


class _Handshake(ssl.SSLObject):
    context: ServerContext

    def do_handshake(self) -> None:
        super().do_handshake()
        self.context.handshakes.discard(self)


class ServerContext(ssl.SSLContext):
    """Whose handshakes are counted, and begun only while there are not too many. One that came to
    nothing is forgotten together with its connection."""

    sslobject_class = _Handshake

    def __init__(self, _protocol: int) -> None:
        self.handshakes: WeakSet[ssl.SSLObject] = WeakSet()

    def wrap_bio(self, *words: Any, **more: Any) -> ssl.SSLObject:
        """Raises: SSLError, upon which the event loop closes the connection."""
        if len(self.handshakes) >= HANDSHAKES_MAX:
            raise ssl.SSLError(f"{HANDSHAKES_MAX} handshakes are under way already")
        made = super().wrap_bio(*words, **more)
        self.handshakes.add(made)
        return made


def server_context(files: TlsFiles, protocol: str = "http/1.1") -> ServerContext:
    """protocol: by its name in ALPN. Raises: RefusedError (`bad-tls`) that names the file."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    try:
        context.load_cert_chain(files.cert, files.key, password=lambda: PASSWORD)
    except (OSError, ValueError) as error:
        what = f"the certificate {files.cert} and its key {files.key}"
        raise _bad(what, error, "a certificate chain and its unencrypted key, both PEM") from None
    if files.client_ca:
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError) as error:
            what = f"the clients' authority {files.client_ca}"
            raise _bad(what, error, "certificates in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _bad(what: str, error: Exception, expected: str) -> RefusedError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return RefusedError(
        "bad-tls",
        f"{what} cannot be used: {reason}; expected {expected}",
        "look at --tls-cert, --tls-key and --tls-client-ca",
    )
