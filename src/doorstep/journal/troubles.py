"""What a node's compactor cannot do by itself: `journal/<node>/troubles.json`, until it is mended.

Each run says it anew. Monitors make findings of it, and `doctor` reads it.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from doorstep.core.errors import DoorstepError, InputError
from doorstep.core.instant import Instant
from doorstep.journal.block import decode_header, scan
from doorstep.journal.index import ListedFile
from doorstep.journal.options import GB
from doorstep.journal.reader import list_blocks
from doorstep.kernel.files import write_atomic

FILE = "troubles.json"
LISTED_MAX = 100
HEADER_BYTES_MAX = 4096
UPGRADE = "pip install --upgrade doorstep"
ROOM = "doorstep up --journal-max GB, or: doorstep hold SUBJECT --end --why WHY"
LOST = "doorstep journal restore, if there is a second place; else delete what is kept"


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """file: in the node's folder; "" for all of it. why: what was seen, "" if it is not known any
    more. service: "" if that cannot be told. next: a command. since: 0 until it is noted."""

    file: str
    reason: str
    next: str
    why: str = ""
    service: str = ""
    since: Instant = 0

    @property
    def text(self) -> str:
        return f"{self.file} {self.reason}".strip() + (f": {self.why}" if self.why else "")


def read_troubles(folder: Path) -> tuple[Trouble, ...]:
    """Of a node's folder, as its compactor noted them last."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / FILE).read_bytes(), type=tuple[Trouble, ...])
    return ()


def note_troubles(folder: Path, found: Sequence[Trouble], now: Instant) -> None:
    """Everything that is the matter now: what is not in it is over. Raises: OSError."""
    before = read_troubles(folder)
    known = {(one.file, one.service): one.since for one in before}
    noted = tuple(
        replace(one, since=known.get((one.file, one.service), now)) for one in found[:LISTED_MAX]
    )
    if not noted:
        (folder / FILE).unlink(missing_ok=True)
    elif noted != before:
        write_atomic(folder / FILE, msgspec.json.encode(noted))


def of_error(error: Exception, file: str, what: str, service: str = "") -> Trouble:
    """what: `is not merged`."""
    said, hint = str(error), ""
    if isinstance(error, DoorstepError):
        said, hint = error.message, error.hint
    why, next = said.partition("\n")[0] or type(error).__name__, hint or "doorstep doctor"
    return Trouble(file=file, reason=what, why=why, next=next, service=service)


def troubles_of(folder: Path) -> list[Trouble]:
    """As noted last, and blocks as they are: no compactor may run."""
    noted = [
        one for one in read_troubles(folder) if "/" in one.file or (folder / one.file).exists()
    ]
    names = {one.file for one in noted}
    return noted + [one for one in of_blocks(folder, {}) if one.file not in names]


def of_blocks(folder: Path, why: Mapping[str, str]) -> Iterator[Trouble]:
    """Blocks whose records no answer has, or only a part of them. why: by name of a block that was
    set aside, as far as it is known."""
    for path in list_blocks(folder).values():
        if _is_newer(path):
            said = "was written by a newer Doorstep, and its records are in no answer"
            yield Trouble(file=path.name, reason=said, next=UPGRADE)
    for path in sorted([*folder.glob("*.damaged"), *folder.glob("*.cut")]):
        said = f"could not be read to the end, and is kept in {folder}"
        yield Trouble(file=path.name, reason=said, next=LOST, why=why.get(path.name, ""))


def _is_newer(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = memoryview(file.read(HEADER_BYTES_MAX))
        for first in scan(start)[0][:1]:
            decode_header(first)
    except FileNotFoundError:  # compacted meanwhile
        return False
    except InputError as error:
        return error.code == "newer-block"
    return False


def of_holds(
    files: Sequence[ListedFile], free: Sequence[ListedFile], bytes_max: float
) -> Iterator[Trouble]:
    """Legal holds keep files beyond what the journal may have. free: those that may go."""
    may_go = {one.path for one in free}
    held = defaultdict[str, int](int)
    for one in files:
        held[one.service] += one.bytes if one.path not in may_go else 0
    size, has = sum(held.values()), sum(one.bytes for one in files)
    if size + min(has - size, bytes_max) <= bytes_max:
        return
    for service in sorted(name for name, some in held.items() if some):
        said = (
            f"legal holds keep {_gb(held[service])} of {service} that would have gone: the journal "
            f"has {_gb(has)}, and may have {_gb(bytes_max)}"
        )
        yield Trouble(file="", reason=said, next=ROOM, service=service)


def _gb(size: float) -> str:
    return f"{size / GB:,.3g} GB"
