"""Files on disk: atomic writes, digests, and the one helper that keeps a path inside a folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from doorstep.core.errors import InputError
from doorstep.core.ids import new_id

PATH_LENGTH_MAX = 1024
PART_LENGTH_MAX = 255
COPY_BYTES = 1024 * 1024


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` at `path` so that a reader, or a power cut, sees the old file or the new one.

    The folder must exist. `mode` is set before the first byte is written, so that a secret is
    never readable by others. Raises: OSError.
    """
    temporary = path.with_name(f".{path.name}.{new_id().hex}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut (a rename alone does not)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(stream: BinaryIO) -> str:
    """SHA-256 of what is left in `stream`, 64 hex digits, read piece by piece."""
    hashed = hashlib.sha256()
    while piece := stream.read(COPY_BYTES):
        hashed.update(piece)
    return hashed.hexdigest()


def confine(root: Path, relative: str) -> Path:
    """`root / relative`, if `relative` is a plain path of names that stays inside `root`.

    Refused: empty, absolute, `..`, `.`, empty parts, backslashes, control characters (NUL, line
    breaks), drive letters, text that is no UTF-8, anything too long, and any part that is a
    symbolic link now. It is not decoded: whoever took it from a URL decoded it once, before.
    Nothing of it needs to exist. Raises: InputError (`unsafe-path`).
    """
    reason = _why_unsafe(relative)
    if reason:
        raise InputError(
            "unsafe-path",
            f"path {relative!r:.200} {reason}; expected names joined by '/', inside the folder",
        )
    path = root
    for part in relative.split("/"):
        path = path / part
        if path.is_symlink():
            raise InputError(
                "unsafe-path", f"path {relative!r:.200} goes through the symbolic link {part!r}"
            )
    return path


def _why_unsafe(relative: str) -> str:
    if not isinstance(relative, str) or not relative:
        return "is empty"
    if len(relative) > PATH_LENGTH_MAX:
        return f"is longer than {PATH_LENGTH_MAX} characters"
    if any(character < " " or character in "\\\x7f" for character in relative):
        return "holds a backslash or a control character"
    if PurePosixPath(relative).is_absolute() or relative[1:2] == ":":
        return "is absolute"
    parts = relative.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "holds an empty part, '.' or '..'"
    try:
        too_long = any(len(part.encode()) > PART_LENGTH_MAX for part in parts)
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"has a part longer than {PART_LENGTH_MAX} bytes" if too_long else ""
