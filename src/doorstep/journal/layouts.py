"""The layouts of compacted records, kept beside the Parquet files of a node."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from doorstep.core.record import Layout
from doorstep.kernel.files import write_atomic

LAYOUTS = "layouts"


def keep_layout(folder: Path, layout: Layout) -> None:
    """Beside the Parquet files of a node: without it a record's bytes cannot be made again."""
    path = folder / LAYOUTS / f"{layout.digest}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, msgspec.json.encode(layout))


def read_layout(folder: Path, digest: str) -> Layout | None:
    """None if it is not there, or is not what its name says."""
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        found = msgspec.json.decode((folder / LAYOUTS / f"{digest}.json").read_bytes(), type=Layout)
        return found if found.digest == digest else None
    return None
