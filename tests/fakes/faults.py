"""What may go wrong beneath a node, done for real: disks that fill up, clocks that jump, bundles
that are not what they were."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from doorstep.core.manifest import FileEntry
from doorstep.testing.home import MODEL_FILE, TestHome

DISK_BYTES = 16 * 1024 * 1024
FAKE_TIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


class Missing(Exception):
    """This fault cannot be made on this machine; the text says why."""


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of its own with room for little. Raises: Missing."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        raise Missing("a file system of its own can only be mounted by root who may mount")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all that is left of the disk."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (65_536, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return path


class Clock:
    """The wall clocks of processes that are started with `environ`, which may be set at any time.

    Their Python starts itself again with libfaketime loaded, also where our children's environment
    is swept. Raises: Missing.
    """

    def __init__(self, folder: Path) -> None:
        if FAKE_TIME is None:
            raise Missing("libfaketime is not installed (apt-get install faketime)")
        self._offset, site = folder / "offset", folder / "site"
        self.set("+0")
        site.mkdir()
        variables = {
            "LD_PRELOAD": str(FAKE_TIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        (site / "sitecustomize.py").write_text(
            f"import os, sys\nvariables = {variables!r}\n"
            "if 'FAKETIME_TIMESTAMP_FILE' not in os.environ:\n"
            "    os.environ.update(variables)\n"
            "    os.execv(sys.executable, sys.orig_argv)\n"
        )
        paths = [str(site), os.environ.get("PYTHONPATH", "")]
        self.environ = {"PYTHONPATH": os.pathsep.join(one for one in paths if one)}

    def set(self, offset: str) -> None:
        """offset: `+365d`, `-365d`, `+0`."""
        self._offset.write_text(f"{offset}\n")


class Corrupted:
    """A bundle whose model is other bytes than its manifest says, until it is mended."""

    def __init__(self, home: Path, digest: str, data: bytes | None = None) -> None:
        self._path = home / "bundles" / digest / MODEL_FILE
        self._whole = self._path.read_bytes()
        self._path.write_bytes(self._whole + b"x" if data is None else data)

    def mend(self) -> None:
        self._path.write_bytes(self._whole)


def broken_model(home: TestHome, like: str) -> str:
    """A bundle with the right digest whose model is none: it cannot be loaded anywhere."""
    data = b"not a model"
    entry = FileEntry(path=MODEL_FILE, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest = msgspec.structs.replace(home.read_manifest(like), files=(entry,))
    return home.add_bundle(manifest, {MODEL_FILE: data})
