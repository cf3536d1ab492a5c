"""The file that an export writes on the caller's machine: whole, or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doorstep.core.errors import MissingExtraError, RefusedError, UsageError
from doorstep.core.ids import new_id

SUFFIXES = (".parquet", ".csv", ".arrow")


def check(target: Path, force: bool) -> str:
    """The suffix. Raises: UsageError (`bad-suffix`), RefusedError (`file-exists`),
    MissingExtraError."""
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        said = f"{target.name!r} ends with {suffix!r}; expected one of {', '.join(SUFFIXES)}"
        raise UsageError("bad-suffix", said)
    if suffix == ".arrow":
        _require_pyarrow()
    if target.exists() and not force:
        raise RefusedError(
            "file-exists", f"{target} is there already, and was left alone", "--force replaces it"
        )
    return suffix


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            "missing-extra",
            "pyarrow is not installed, and writing .arrow needs it",
            "pip install pyarrow, or name a .parquet file",
        ) from None


@contextmanager
def written(target: Path, suffix: str) -> Iterator[Path]:
    """A name beside the target to write to; the target is replaced at the end, or nothing is."""
    part = target.with_name(f".{target.name}.{new_id().hex}.part")
    try:
        yield part
        if suffix == ".arrow":
            _to_arrow(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _to_arrow(part: Path) -> None:
    """Parquet becomes an Arrow IPC file, batch by batch."""
    import pyarrow
    import pyarrow.parquet

    made = part.with_name(f"{part.name}.arrow")
    try:
        source = pyarrow.parquet.ParquetFile(part)
        with (
            pyarrow.OSFile(str(made), "wb") as sink,
            pyarrow.ipc.new_file(sink, source.schema_arrow) as writer,
        ):
            for batch in source.iter_batches():
                writer.write_batch(batch)
        made.replace(part)
    finally:
        made.unlink(missing_ok=True)
