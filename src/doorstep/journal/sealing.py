"""Personal fields of a record, sealed so that only the key of their subject opens them.

    row key     = BLAKE2b(session, service | request | row): one record's own
    session     = what X25519 makes of a worker's passing key and the home's: of one minute
    sealed text = <pseudonym of the subject>.<base64 of nonce and AES-256-GCM of the fields>

The text is part of the record, and of what its leaf hashes, for ever. What opens it is beside it:
in a block the public half of the worker's passing key (a SEAL frame), in Parquet the row key,
wrapped by the subject's key. So a worker cannot read back what it wrote, and when a subject's key
is destroyed every record stays as it was, provable and closed.
"""

from __future__ import annotations

import base64
import os
from hashlib import blake2b
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from doorstep.core.errors import RefusedError
from doorstep.core.instant import Clock, SystemClock
from doorstep.kernel.keys import PersonalKey

KEY_BYTES = 32
NONCE_BYTES = 12
NAME_BYTES = 4
SEAL_BYTES = NAME_BYTES + KEY_BYTES
"""What is in a SEAL frame: which home it is for, and the worker's public half."""
SESSION_S_MAX = 60.0
"""As long as a block is written: when those of that minute are compacted, nothing of what is left
makes the session again."""
PSEUDONYM_CHARS = 32
SESSIONS_MAX = 1000
Values = dict[str, Any]


def pseudonym(secret: bytes, text: str) -> str:
    """What stands for a person or a case: the same for the same text, and nobody without the
    home's secret can tell for which."""
    return blake2b(text.encode("utf-8", "surrogatepass"), key=secret, digest_size=16).hexdigest()


class Session(msgspec.Struct, frozen=True):
    """seal: what the SEAL frame of its records says."""

    seal: bytes
    key: bytes

    def close(self, service: str, request: bytes, row: int, values: Values) -> bytes:
        """nonce and ciphertext of the values of one record."""
        nonce = os.urandom(NONCE_BYTES)
        cipher = AESGCM(row_key(self.key, service, request, row))
        return nonce + cipher.encrypt(nonce, msgspec.msgpack.encode(values), None)


class Sealer:
    """A worker's side. sealing: see `PersonalKey`."""

    def __init__(self, sealing: bytes, clock: Clock | None = None) -> None:
        self._public, self.secret = sealing[:KEY_BYTES], sealing[KEY_BYTES:]
        self._clock = clock or SystemClock()
        self._session: Session | None = None
        self._until_s = 0.0

    def session(self) -> Session:
        now_s = self._clock.monotonic_s()
        if self._session is None or now_s >= self._until_s:
            mine = X25519PrivateKey.generate()
            shared = mine.exchange(X25519PublicKey.from_public_bytes(self._public))
            public = mine.public_key().public_bytes_raw()
            self._session = Session(_name(self._public) + public, _session_key(shared, public))
            self._until_s = now_s + SESSION_S_MAX
        return self._session

    def pseudonym(self, text: str) -> str:
        return pseudonym(self.secret, text)

    def seal(
        self, session: Session, place: tuple[str, bytes, int], subject: str, values: Values
    ) -> str:
        """The sealed text of one record. place: service, request and row."""
        data = session.close(*place, values)
        return f"{self.pseudonym(subject)}.{base64.b64encode(data).decode()}"


def row_key(session: bytes, service: str, request: bytes, row: int) -> bytes:
    place = request + row.to_bytes(4, "big") + service.encode()
    return blake2b(place, key=session, digest_size=KEY_BYTES).digest()


def subject_in(sealed: str) -> str:
    """The pseudonym of whose record it is."""
    return sealed[:PSEUDONYM_CHARS]


class Opener:
    """Where the home's key lives: makes sessions again."""

    def __init__(self, key: PersonalKey) -> None:
        self._private = key.private
        self._name = _name(key.sealing[:KEY_BYTES])
        self._sessions: dict[bytes, bytes] = {}

    def row_key(self, seal: bytes, service: str, request: bytes, row: int) -> bytes:
        """Raises: RefusedError (`sealed-for-another-key`)."""
        if seal[:NAME_BYTES] != self._name or len(seal) != SEAL_BYTES:
            raise RefusedError(
                "sealed-for-another-key",
                f"personal fields are sealed for the key {seal[:NAME_BYTES].hex()}; this home has "
                f"{self._name.hex()}",
                "restore keys/personal.key from the backup that belongs to this journal",
            )
        if seal not in self._sessions:
            public = seal[NAME_BYTES:]
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(public))
            kept = self._sessions if len(self._sessions) < SESSIONS_MAX else {}
            self._sessions = {**kept, seal: _session_key(shared, public)}
        return row_key(self._sessions[seal], service, request, row)


def open_sealed(key: bytes, sealed: str) -> Values | None:
    """The values in a sealed text; None if this is not the key to it."""
    try:
        data = base64.b64decode(sealed[PSEUDONYM_CHARS + 1 :], validate=True)
        plain = AESGCM(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], None)
        return msgspec.msgpack.decode(plain, type=Values)
    except (InvalidTag, ValueError, msgspec.MsgspecError):
        return None


def _name(public: bytes) -> bytes:
    return blake2b(public, digest_size=NAME_BYTES).digest()


def _session_key(shared: bytes, public: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, public, b"doorstep-session-v1").derive(shared)
