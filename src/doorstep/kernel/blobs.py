"""Content-addressed files and bundles: what is stored under a digest has that digest.

`Blobs` keeps single files (`data/<digest>.parquet`, uploads). `publish_bundle` makes the folder
`bundles/<digest>/` of a manifest and its files, at once or not at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from doorstep.core.errors import InputError, NotFoundError
from doorstep.core.ids import digest_of, new_id, parse_digest
from doorstep.core.manifest import FileEntry, decode_manifest
from doorstep.kernel.files import COPY_BYTES, confine, sha256_of, sync_folder

MANIFEST = "manifest.json"
FILE_BYTES_MAX = 64 * 1024**3
FILES_MAX = 10_000
BESIDE = ("signatures", "card.md")
"""What may lie in a bundle without being in its manifest: it is about the version, not of it."""

_TEMPORARY = ".incoming-"
OpenFile = Callable[[FileEntry], BinaryIO]


class Blobs:
    """Files in one folder, named by their SHA-256 and one suffix. Safe for several processes."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self._folder = folder
        self._suffix = suffix

    def path(self, digest: str) -> Path:
        """Where the file is, or would be. Raises: InputError (`bad-digest`)."""
        return self._folder / f"{parse_digest(digest)}{self._suffix}"

    def has(self, digest: str) -> bool:
        """Whether the file is there. Its bytes were verified when it was put."""
        return self.path(digest).is_file()

    def open(self, digest: str) -> BinaryIO:
        """The file for reading. Raises: NotFoundError (`no-file`)."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise NotFoundError("no-file", f"there is no file with digest {digest[:12]}") from None

    def put_file(self, digest: str, stream: BinaryIO, bytes_max: int = FILE_BYTES_MAX) -> Path:
        """Store the bytes of `stream`, if they have this digest; again is a no-op.

        Nothing is left behind on failure. Raises: InputError (`wrong-digest`, `file-too-large`).
        """
        path = self.path(digest)
        if path.is_file():
            return path
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{_TEMPORARY}{new_id().hex}"
        try:
            _copy_verified(stream, temporary, digest, bytes_max)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(self._folder)
        return path


def publish_bundle(bundles: Path, manifest: bytes, open_file: OpenFile) -> Path:
    """The folder of the bundle with this manifest, whole and verified.

    open_file: gives the bytes of one file of the manifest. Publishing a bundle that is there and
    whole reads nothing and changes nothing; a broken one is set aside and published anew.
    Raises: InputError (`bad-manifest`, `unsafe-path`, `wrong-digest`, `wrong-size`,
    `bundle-too-large`).
    """
    digest = digest_of(manifest)
    files = decode_manifest(manifest, digest).files
    _check_entries(files)
    target = bundles / digest
    if target.is_dir() and not verify_bundle(target, digest):
        return target
    temporary = bundles / f"{_TEMPORARY}{new_id().hex}"
    temporary.mkdir(mode=0o755, parents=True)
    try:
        for entry in files:
            _write_entry(temporary, entry, open_file)
        _write_synced(temporary / MANIFEST, manifest)
        _sync_tree(temporary)
        _move_in(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(bundles)
    return target


def verify_bundle(folder: Path, digest: str) -> list[str]:
    """What is wrong with the bundle in `folder`, one sentence each; empty if it is whole.

    Every byte is read: the manifest must have `digest`, each file its size and SHA-256, and no
    file may be there that the manifest does not name (but `BESIDE`).
    """
    try:
        data = (folder / MANIFEST).read_bytes()
        files = decode_manifest(data, digest).files
        _check_entries(files)
    except FileNotFoundError:
        return [f"there is no {MANIFEST}"]
    except InputError as error:
        return [error.message]
    found = [problem for entry in files if (problem := _problem_of(folder, entry))]
    named = {MANIFEST, *(entry.path for entry in files)}
    return found + [f"{name} is not in the manifest" for name in sorted(_names(folder) - named)]


def _check_entries(files: Iterable[FileEntry]) -> None:
    paths = [entry.path for entry in files]
    if len(paths) > FILES_MAX:
        raise InputError(
            "bundle-too-large", f"the bundle has {len(paths)} files; at most {FILES_MAX}"
        )
    if len(set(paths)) != len(paths) or MANIFEST in paths:
        raise InputError("bad-manifest", "the manifest names a file twice, or itself")
    _check_apart([*paths, MANIFEST])
    for entry in files:
        parse_digest(entry.sha256)
        if not 0 <= entry.size <= FILE_BYTES_MAX:
            raise InputError("bad-manifest", f"{entry.path} has size {entry.size}")


def _check_apart(paths: list[str]) -> None:
    """No path is a folder of another one: one name cannot be a file and a folder."""
    files = set(paths)
    for path in paths:
        parts = path.split("/")
        for end in range(1, len(parts)):
            if (inner := "/".join(parts[:end])) in files:
                raise InputError(
                    "bad-manifest",
                    f"the manifest names {inner!r:.200} as a file and as the folder of "
                    f"{path!r:.200}; expected one of the two",
                )


def _write_entry(folder: Path, entry: FileEntry, open_file: OpenFile) -> None:
    path = confine(folder, entry.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_file(entry) as stream:
        size = _copy_verified(stream, path, entry.sha256, entry.size)
    if size != entry.size:
        raise InputError(
            "wrong-size", f"{entry.path} has {size} bytes, the manifest says {entry.size}"
        )


def _copy_verified(stream: BinaryIO, path: Path, digest: str, bytes_max: int) -> int:
    hashed, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        while piece := stream.read(COPY_BYTES):
            size += len(piece)
            if size > bytes_max:
                raise InputError("file-too-large", f"{path.name} has over {bytes_max} bytes")
            hashed.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if hashed.hexdigest() != digest:
        raise InputError(
            "wrong-digest",
            f"{size} bytes arrived with digest {hashed.hexdigest()[:12]}, expected {digest[:12]}: "
            "they are incomplete or were changed",
            "send the file again",
        )
    return size


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_tree(folder: Path) -> None:
    for inner in folder.rglob("*"):
        if inner.is_dir():
            sync_folder(inner)
    sync_folder(folder)


def _move_in(temporary: Path, target: Path) -> None:
    if target.exists():  # It was broken: whoever still has its files open keeps them.
        target.rename(target.with_name(f".broken-{target.name}-{new_id().hex}"))
    try:
        temporary.rename(target)
    except OSError:
        # Another process published the same bundle just now: its bytes are the same.
        if not target.is_dir():
            raise


def _problem_of(folder: Path, entry: FileEntry) -> str:
    try:
        path = confine(folder, entry.path)
        if path.stat().st_size != entry.size:
            return f"{entry.path} has {path.stat().st_size} bytes, expected {entry.size}"
        with path.open("rb") as stream:
            found = sha256_of(stream)
    except InputError as error:
        return error.message
    except FileNotFoundError:
        return f"{entry.path} is missing"
    return "" if found == entry.sha256 else f"{entry.path} was changed: its digest differs"


def _names(folder: Path) -> set[str]:
    """Relative paths of everything but folders, without what may lie beside the manifest."""
    names = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    return {name for name in names if name.split("/")[0] not in BESIDE}
