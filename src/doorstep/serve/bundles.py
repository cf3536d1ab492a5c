"""A bundle is used only after every byte of it was compared with its manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from doorstep.core.errors import InputError
from doorstep.core.manifest import FileEntry, Manifest
from doorstep.formats.load import member_path
from doorstep.serve.version import read_manifest

PIECE_BYTES = 1024 * 1024


def verify_bundle(bundles: Path, digest: str) -> Manifest:
    """The manifest of a bundle that is whole.

    Raises: InputError (`bundle-missing`, `bad-manifest`, `bundle-changed`, `bad-path`).
    """
    manifest = read_manifest(bundles, digest)
    for entry in manifest.files:
        _verify_file(bundles / digest, entry)
    return manifest


def _verify_file(bundle: Path, entry: FileEntry) -> None:
    path = member_path(bundle, entry.path)
    hashed, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                hashed.update(piece)
                size += len(piece)
    except OSError as error:
        raise InputError(
            "bundle-changed", f"{entry.path} of the bundle cannot be read: {error.strerror}"
        ) from None
    if size != entry.size or hashed.hexdigest() != entry.sha256:
        raise InputError(
            "bundle-changed",
            f"{entry.path} has {size} bytes and digest {hashed.hexdigest()[:12]}, the manifest "
            f"says {entry.size} and {entry.sha256[:12]}",
            "register the model again, or restore the bundle from a backup",
        )
