"""Signed notes and checkpoints: the text formats of C2SP `signed-note` and `tlog-checkpoint`.

A note is text that ends in a line break, an empty line, and one line per signature:
`— <name> base64(key id || signature)`. A checkpoint is a note whose text is origin, size, root.
"""

from __future__ import annotations

import base64
import binascii
import re

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.merkle import HASH_BYTES
from doorstep.kernel.keys import PublicKey, SigningKey

NOTE_BYTES_MAX = 64 * 1024
SIGNATURES_MAX = 16
_SIGNATURE = re.compile(r"— (?P<name>[^\s+]+) (?P<body>[A-Za-z0-9+/=]+)\Z")
_SIZE = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")
_DASH = "\N{EM DASH}"


class Checkpoint(msgspec.Struct, frozen=True):
    """What a ledger was, said by whoever keeps it. root: 32 bytes."""

    origin: str
    size: int
    root: bytes

    def to_text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign_note(text: str, key: SigningKey) -> str:
    """The note. `text` ends in a line break and holds no other control characters."""
    check_text(text)
    body = base64.b64encode(key.public.key_id + key.sign(text.encode())).decode()
    return f"{text}\n{_DASH} {key.public.name} {body}\n"


def open_note(note: str, key: PublicKey) -> str:
    """The text of the note, if `key` signed it. Signatures of other keys are not looked at.

    Raises: InputError (`bad-note`).
    """
    if len(note.encode()) > NOTE_BYTES_MAX:
        raise _bad(f"it is longer than {NOTE_BYTES_MAX} bytes")
    text, found, signed = note.rpartition("\n\n")
    lines = signed.split("\n")
    if not found or lines[-1] != "" or not 2 <= len(lines) <= SIGNATURES_MAX + 1:
        raise _bad("it has no text with signature lines after an empty line")
    text += "\n"
    check_text(text)
    for line in lines[:-1]:
        name, data = _parse_signature(line)
        if (name, data[:4]) == (key.name, key.key_id):
            if not key.verify(text.encode(), data[4:]):
                raise _bad(f"its signature by {key.name} is wrong: it was changed, or forged")
            return text
    raise _bad(f"{key.name} has not signed it")


def open_checkpoint(note: str, key: PublicKey) -> Checkpoint:
    """The checkpoint in a note that `key` signed. Lines after the third are extensions.

    Raises: InputError (`bad-note`).
    """
    lines = open_note(note, key).split("\n")
    if len(lines) < 4 or not lines[0] or not _SIZE.match(lines[1]):
        raise _bad("it is not origin, size and root")
    try:
        root = base64.b64decode(lines[2], validate=True)
    except (ValueError, binascii.Error):
        root = b""
    if len(root) != HASH_BYTES:
        raise _bad("its root is not a SHA-256 in base64")
    return Checkpoint(lines[0], int(lines[1]), root)


def check_text(text: str) -> None:
    """Raises: InputError (`bad-note`) unless `text` can be the text of a note."""
    if not text.endswith("\n") or any(c < " " and c != "\n" for c in text):
        raise _bad("its text has control characters, or does not end in a line break")


def _parse_signature(line: str) -> tuple[str, bytes]:
    match = _SIGNATURE.match(line)
    try:
        data = base64.b64decode(match["body"], validate=True) if match else b""
    except (ValueError, binascii.Error):
        data = b""
    if not match or len(data) <= 4:
        raise _bad("a signature line is malformed")
    return match["name"], data


def _bad(reason: str) -> InputError:
    return InputError("bad-note", f"the signed note is not valid: {reason}")
