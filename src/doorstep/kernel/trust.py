"""Trust: "I made this file", signed by the person who says so, on their own machine.

A statement says which bytes (SHA-256), why, who and when. The bytes are those of everything that
runs: the model's file, or that file and all code of its own (`core.manifest.running_digest`). The
statement lives in the user's own folder, never beside the model: a file, its folder and its service
file cannot speak for themselves. No server is needed; one that takes the file later gets the signed
statement and writes it into the ledger.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from doorstep.core.errors import DoorstepError, InputError, RefusedError, UsageError
from doorstep.core.ids import parse_digest
from doorstep.core.instant import Instant
from doorstep.kernel.files import sha256_of, write_atomic
from doorstep.kernel.keys import SigningKey, ensure_signing_key, load_signing_key, parse_public_key

FORMAT = 1
WHY_LENGTH_MAX = 500
STATEMENT_BYTES_MAX = 8 * 1024
KEY_FILE = "trust.key"
# What is signed begins with this, so that a signature over anything else is never one of trust.
_DOMAIN = b"doorstep trust v1\n"


class Trust(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """sha256: of the file, or over all files that run. why: in the person's words.
    who: user@host, as they said."""

    v: int = FORMAT
    sha256: str
    why: str
    who: str
    at: Instant

    def __post_init__(self) -> None:
        if self.v != FORMAT:
            raise ValueError(f"trust format {self.v} is not {FORMAT}")
        if not self.why.strip() or len(self.why) > WHY_LENGTH_MAX:
            raise ValueError(f"why is empty, or longer than {WHY_LENGTH_MAX} characters")


class SignedTrust(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """statement: the signed bytes (JSON of a Trust), as text. signature: base64.

    key: the verifier key. It says who may have signed, not that they may be believed: whoever
    checks a signed statement must know the key already.
    """

    statement: str
    signature: str
    key: str


class TrustStore:
    """The statements that this user has signed, one file each, and the key for them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sign(self, sha256: str, *, why: str, who: str, at: Instant) -> SignedTrust:
        """Say that the file with this digest may be run. The latest statement counts.

        Raises: UsageError (`no-reason`) without a `why`, RefusedError (`trust-not-writable`).
        """
        try:
            statement = Trust(sha256=parse_digest(sha256), why=why.strip(), who=who, at=at)
        except ValueError as error:
            raise UsageError(
                "no-reason", f"trust needs a reason: {error}", 'doorstep trust FILE --why "..."'
            ) from error
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            signed = _sign(statement, ensure_signing_key(self._folder / KEY_FILE, _key_name(who)))
            write_atomic(self._path(sha256), msgspec.json.encode(signed), 0o600)
        except OSError as error:
            raise RefusedError(
                "trust-not-writable",
                f"the trust store {self._folder} cannot be written ({error.strerror}); "
                "expected a folder of yours",
            ) from error
        return signed

    def find(self, sha256: str) -> SignedTrust | None:
        """The statement about the file with this digest, if this user has signed one: to be sent
        along with the file.

        Raises: RefusedError (`trust-broken`) if there is one that this user's key did not sign,
        or that is about another file.
        """
        try:
            with self._path(parse_digest(sha256)).open("rb") as file:
                data = file.read(STATEMENT_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        try:
            signed = msgspec.json.decode(data[:STATEMENT_BYTES_MAX], type=SignedTrust)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _broken(sha256, str(error)) from error
        self._check(signed, sha256)
        return signed

    def _check(self, signed: SignedTrust, sha256: str) -> Trust:
        try:
            own = load_signing_key(self._folder / KEY_FILE).public
            return open_trust(signed, own.to_text(), sha256)
        except DoorstepError as error:
            raise _broken(sha256, error.message) from error

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.json"


def open_trust(signed: SignedTrust, key: str, sha256: str) -> Trust:
    """What the statement says, if `key` (a verifier key) signed it about this file.

    Raises: InputError (`bad-trust`).
    """
    try:
        signature = base64.b64decode(signed.signature, validate=True)
        statement = signed.statement.encode()
        if not parse_public_key(key).verify(_DOMAIN + statement, signature):
            raise InputError("bad-trust", "the trust statement is not signed by the known key")
        trust = msgspec.json.decode(statement, type=Trust)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise InputError("bad-trust", f"the trust statement cannot be read: {error}") from error
    if trust.sha256 != sha256:
        raise InputError(
            "bad-trust",
            f"the trust statement is about {trust.sha256[:12]}, and what runs is {sha256[:12]}: "
            "the model or its code is not what was vouched for",
            'doorstep trust FILE --why "..."',
        )
    return trust


def digest_file(path: Path) -> str:
    """The SHA-256 that a statement about `path` names. Raises: InputError (`unreadable-file`)."""
    try:
        with path.open("rb") as stream:
            return sha256_of(stream)
    except OSError as error:
        raise InputError(
            "unreadable-file", f"{path} cannot be read ({error.strerror}); expected a file"
        ) from error


def trust_folder(environ: Mapping[str, str], platform: str) -> Path:
    """The user's trust store: DOORSTEP_TRUST, else in the platform's folder for settings."""
    if named := environ.get("DOORSTEP_TRUST"):
        return Path(named).expanduser().absolute()
    user = Path(environ.get("HOME") or Path.home())
    if platform == "darwin":
        return user / "Library" / "Preferences" / "doorstep" / "trust"
    config = Path(environ.get("XDG_CONFIG_HOME", ""))
    base = config if config.is_absolute() else user / ".config"
    return base / "doorstep" / "trust"


def who_am_i() -> str:
    """`user@host`, as the machine says: a name for the record, not a proof."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # A container's user may have no name.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _sign(statement: Trust, key: SigningKey) -> SignedTrust:
    data = msgspec.json.encode(statement, order="sorted")
    signature = base64.b64encode(key.sign(_DOMAIN + data)).decode()
    return SignedTrust(statement=data.decode(), signature=signature, key=key.public.to_text())


def _key_name(who: str) -> str:
    kept = "".join(c if c.isalnum() or c in "@._-" else "-" for c in who)[:100]
    return f"trust/{kept or 'unknown'}"


def _broken(sha256: str, reason: str) -> RefusedError:
    return RefusedError(
        "trust-broken",
        f"the trust statement about {sha256[:12]} is not valid: {reason}",
        'sign it again: doorstep trust FILE --why "..."',
    )
