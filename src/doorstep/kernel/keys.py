"""Keys of a home: Ed25519 for the ledger and the plan, and the local API token.

A third kind, `personal`, seals personal fields: see `journal/sealing.py`.

Files in `keys/`, 0600, one line each, made on the first `up`. A private key is written as Go's
`sumdb/note` writes it (`PRIVATE+KEY+<name>+<hash>+<base64>`), the public one as a *verifier key*
(`<name>+<hash>+<base64>`) in a file beside it that anybody may have.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from doorstep.core.errors import InputError, NotFoundError, RefusedError
from doorstep.kernel.files import write_atomic

ED25519 = b"\x01"
SEED_BYTES = 32
PRIVATE_MODE = 0o600
KEY_NAMES = ("ledger", "plan")
TOKEN_FILE = "token"  # noqa: S105
PERSONAL_FILE = "personal.key"
_PERSONAL = "PERSONAL+KEY+"
_PREFIX = "PRIVATE+KEY+"
_KEY_NAME = re.compile(r"[^\s+]{1,200}\Z")
KeyT = TypeVar("KeyT")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")


class PublicKey(msgspec.Struct, frozen=True):
    """Whoever holds the private half, by name. raw: 32 bytes."""

    name: str
    raw: bytes

    def __post_init__(self) -> None:
        if not _KEY_NAME.match(self.name):
            raise ValueError(f"key name {self.name!r} is empty, or holds a blank or '+'")
        if len(self.raw) != SEED_BYTES:
            raise ValueError(f"an Ed25519 public key has {SEED_BYTES} bytes, not {len(self.raw)}")

    @property
    def key_id(self) -> bytes:
        """4 bytes that tell keys apart (C2SP signed-note)."""
        return sha256(self.name.encode() + b"\n" + ED25519 + self.raw).digest()[:4]

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether the private half signed exactly `message`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def to_text(self) -> str:
        """The verifier key: `<name>+<key id>+<base64 of 0x01 and the key>`."""
        body = base64.b64encode(ED25519 + self.raw).decode()
        return f"{self.name}+{self.key_id.hex()}+{body}"


class SigningKey:
    """The private half. It is never printed: `repr` shows the public key."""

    def __init__(self, name: str, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicKey(name, self._private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(message)

    def to_text(self) -> str:
        """The secret line that is kept in the key file."""
        body = base64.b64encode(ED25519 + self._private.private_bytes_raw()).decode()
        return f"{_PREFIX}{self.public.name}+{self.public.key_id.hex()}+{body}"

    def __repr__(self) -> str:
        return f"SigningKey({self.public.to_text()!r})"


def parse_public_key(text: str) -> PublicKey:
    """A verifier key. Raises: InputError (`bad-key`)."""
    return _parse(text.strip(), "public key", PublicKey, lambda key: key.key_id)


def parse_signing_key(text: str) -> SigningKey:
    """The line of a key file. Raises: InputError (`bad-key`), which never quotes the line."""
    line = text.strip()
    if not line.startswith(_PREFIX):
        raise _bad_key("private key", f"it does not start with {_PREFIX}")
    bare = line.removeprefix(_PREFIX)
    return _parse(bare, "private key", SigningKey, lambda key: key.public.key_id)


def new_signing_key(name: str) -> SigningKey:
    """A fresh key. name: without blanks and '+'."""
    return SigningKey(name, secrets.token_bytes(SEED_BYTES))


class PersonalKey:
    """What opens sealed fields; nodes get only `sealing`. Never printed.

    sealing: the public half that records are sealed to (32 bytes), then the secret of pseudonyms
    (32 bytes). private: its other half. wrapping: wraps the keys of subjects."""

    def __init__(self, seed: bytes) -> None:
        self.private = X25519PrivateKey.from_private_bytes(_derive(seed, b"seal"))
        self.sealing = self.private.public_key().public_bytes_raw() + _derive(seed, b"pseudonym")
        self.wrapping = _derive(seed, b"wrap")

    def __repr__(self) -> str:
        return "PersonalKey(...)"


def _derive(seed: bytes, what: bytes) -> bytes:
    return HKDF(hashes.SHA256(), SEED_BYTES, None, b"doorstep-personal-v1/" + what).derive(seed)


def load_personal_key(folder: Path) -> PersonalKey:
    """The key in `folder`. Raises: as `load_signing_key`."""
    line = _read_private(folder / PERSONAL_FILE).strip()
    try:
        seed = base64.b64decode(line.removeprefix(_PERSONAL), validate=True)
    except (ValueError, binascii.Error):
        seed = b""
    if not line.startswith(_PERSONAL) or len(seed) != SEED_BYTES:
        raise _bad_key("key of personal fields", f"it is not {_PERSONAL}BASE64")
    return PersonalKey(seed)


SUBJECTS_FILE = "personal.db"
"""The keys of persons (`journal.subjects`), wrapped by the key in PERSONAL_FILE."""


def create_keys(folder: Path, name: str) -> None:
    """Make the keys and the token that `folder` does not have yet. name: of the home.

    The caller holds the home's lock. Raises: OSError, RefusedError (`key-lost`) where a new key
    would take the place of one by which personal fields were sealed.
    """
    for purpose in KEY_NAMES:
        if not (folder / f"{purpose}.key").exists():
            ensure_signing_key(folder / f"{purpose}.key", f"{name}/{purpose}")
    if not (folder / TOKEN_FILE).exists():
        write_atomic(folder / TOKEN_FILE, f"{secrets.token_urlsafe(32)}\n".encode(), PRIVATE_MODE)
    if not (folder / PERSONAL_FILE).exists():
        if (folder / SUBJECTS_FILE).exists():
            raise RefusedError(
                "key-lost",
                f"{folder / PERSONAL_FILE} is gone, and {SUBJECTS_FILE} beside it needs it: with a "
                "new key nothing that was sealed could be opened any more",
                f"restore {PERSONAL_FILE} from a backup; or move {SUBJECTS_FILE} away, which gives "
                "up what was sealed",
            )
        body = base64.b64encode(secrets.token_bytes(SEED_BYTES)).decode()
        write_atomic(folder / PERSONAL_FILE, f"{_PERSONAL}{body}\n".encode(), PRIVATE_MODE)


def ensure_signing_key(path: Path, name: str) -> SigningKey:
    """The key in `path`, made under `name` if there is none, its public half beside it (`.pub`)."""
    if not path.exists():
        key = new_signing_key(name)
        write_atomic(path, f"{key.to_text()}\n".encode(), PRIVATE_MODE)
    key = load_signing_key(path)
    public = path.with_suffix(".pub")
    if not public.exists():
        write_atomic(public, f"{key.public.to_text()}\n".encode())
    return key


def load_signing_key(path: Path) -> SigningKey:
    """The key in `path`.

    Raises: NotFoundError (`no-key`), RefusedError (`key-not-private`), InputError (`bad-key`).
    """
    return parse_signing_key(_read_private(path))


def load_public_key(path: Path) -> PublicKey:
    """The key in `path`. Raises: NotFoundError (`no-key`), InputError (`bad-key`)."""
    try:
        return parse_public_key(path.read_text(errors="replace"))
    except FileNotFoundError:
        raise _no_key(path) from None


def load_token(folder: Path) -> str:
    """The local API token. Raises: as `load_signing_key`."""
    token = _read_private(folder / TOKEN_FILE).strip()
    if not _TOKEN.match(token):
        raise _bad_key("API token", "it is not 43 letters, digits, '-' and '_'")
    return token


def _read_private(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        raise _no_key(path) from None
    if mode & 0o077:
        raise RefusedError(
            "key-not-private",
            f"the key {path} may be read by others (mode {mode & 0o777:o}); expected 600",
            f"chmod 600 {path}",
        )
    return text


def _parse(
    text: str, what: str, make: Callable[[str, bytes], KeyT], id_of: Callable[[KeyT], bytes]
) -> KeyT:
    """The key in `name+id+base64`. make: from its name and 32 bytes."""
    try:
        name, key_id, body = text.split("+", 2)
        data = base64.b64decode(body, validate=True)
        found = bytes.fromhex(key_id)
    except (ValueError, binascii.Error):
        raise _bad_key(what, "it is not NAME+ID+BASE64") from None
    if data[:1] != ED25519 or len(data) != 1 + SEED_BYTES:
        raise _bad_key(what, "it is not an Ed25519 key")
    if not _KEY_NAME.match(name):
        raise _bad_key(what, "its name is empty or holds a blank")
    try:
        key = make(name, data[1:])
    except ValueError as error:
        raise _bad_key(what, str(error)) from error
    if id_of(key) != found:
        raise _bad_key(what, "its id does not belong to it")
    return key


def _bad_key(what: str, reason: str) -> InputError:
    return InputError("bad-key", f"the {what} cannot be read: {reason}", "restore it from a backup")


def _no_key(path: Path) -> NotFoundError:
    return NotFoundError("no-key", f"there is no key at {path}", "doorstep up")
