"""What a lost home had, brought back from its replica: blocks that are not here, and of those that
are here in part, the rest.

Records of a block are in the same order there and here, and what is here is its beginning: the
number of those that are here says which are missing. So nothing is doubled, also when it is run
twice, and also where blocks are compacted already. Blocks that are being written are left alone.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import msgspec

from doorstep.core.errors import InputError, RefusedError
from doorstep.core.ids import parse_name
from doorstep.journal import block, duck
from doorstep.journal.away import FOLDER, locate, read_place, with_files
from doorstep.journal.block import Frame, FrameKind
from doorstep.journal.compactor import Compactor
from doorstep.journal.index import ListedFile, fold, read_entries
from doorstep.journal.mirror import Mirror
from doorstep.journal.profiles import PlanProfiles
from doorstep.journal.reader import OPEN, Block, end_of, list_blocks, read_block
from doorstep.journal.recover import recover
from doorstep.journal.replica import Replica, rebuild
from doorstep.kernel.store import Store

_STEM = re.compile(r"(?P<stem>[a-z0-9-]{1,150}-\d{8})(?:-rest\d+)?\Z")
RECORDS = (FrameKind.PREDICTIONS, FrameKind.OUTCOME)


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What came back to one node's journal. live: blocks that are being written here, left alone.
    unreadable: names of blocks whose start the replica does not have (any more), or that a newer
    Doorstep wrote."""

    node: str
    blocks: int = 0
    predictions: int = 0
    outcomes: int = 0
    live: int = 0
    unreadable: tuple[str, ...] = ()


def restore(home: Path, replica: Replica) -> Iterator[Restored]:
    """Node by node. Raises: UnreachableError (`replica-unreachable`), OSError, and what the store
    says; what came back until then stays, and the next run goes on behind it."""
    store = read_place(home)
    if store and store.url:
        # What a lost home had put there is found here as another home's, and must not come twice.
        Mirror(home, store).run_once(Store(store.url))
    # Before we look at what is here: a block that is written now is open here until it is whole.
    there = replica.blocks()
    for node, blocks in groupby(there, key=lambda one: one[0]):
        yield _restore_node(home, parse_name(node, "node"), [name for _, name in blocks], replica)


def _restore_node(home: Path, node: str, stems: list[str], replica: Replica) -> Restored:
    folder = home / "journal" / node
    folder.mkdir(parents=True, exist_ok=True)
    recover(folder)
    live = {path.stem for path in folder.glob(f"*{OPEN}")}
    known = _known(folder)
    unreadable, brought = [], []
    for stem in stems:
        if stem in live:
            continue
        try:
            end = _bring(folder, stem, rebuild(replica.read(node, stem)), known[stem])
        except InputError:
            unreadable.append(stem)
        else:
            brought += [end] if end else []
    if brought:
        recover(folder)
        # Of a node that runs here its own compactor does it.
        with contextlib.suppress(RefusedError), Compactor(home, node, PlanProfiles(home)) as found:
            found.run_once()
    return Restored(
        node=node,
        blocks=len(brought),
        predictions=sum(one.rows for one in brought),
        outcomes=sum(one.outcomes for one in brought),
        live=len(live & set(stems)),
        unreadable=tuple(unreadable),
    )


def _bring(folder: Path, stem: str, data: bytes, known: int) -> block.BlockEnd | None:
    """Write the records of a block behind the first `known`, as an open block whose writer died;
    what they are, None if there are none. Raises: InputError."""
    if not _STEM.match(stem):
        raise InputError("bad-name", f"{stem!r} is not the name of a block")
    found = read_block(data)
    if known:
        stem = f"{stem}-rest{known}"
        frames = list(_behind(found, known))
        data = b"".join(data[one.start : one.end] for one in frames)
        found = read_block(data)
    end = end_of(found, repaired=True)
    if not end.rows and not end.outcomes:
        return None
    unnamed = folder / f"{stem}.new"
    unnamed.write_bytes(data)
    unnamed.rename(unnamed.with_suffix(OPEN))
    return end


def _behind(found: Block, known: int) -> Iterator[Frame]:
    """The header, the layouts, and the records that are not among the first `known`."""
    ordinal = 0
    for frame in found.frames:
        if frame.kind not in RECORDS:
            if frame.kind != FrameKind.END:
                yield frame
            continue
        if ordinal >= known:
            yield frame
        ordinal += frame.rows


def _known(folder: Path) -> defaultdict[str, int]:
    """How many records of each block are here: in it, in what it became (in the store too, and
    there also as a lost home's), and in its rests."""
    parts: dict[str, int] = {}
    for path in list_blocks(folder).values():
        # One that is gone by now is in the index, which is read later.
        with contextlib.suppress(FileNotFoundError, InputError):
            end = end_of(read_block(path.read_bytes()), repaired=False)
            parts[path.stem] = end.rows + end.outcomes
    entries = read_entries(folder)
    closed = ((one.block, one.closed.rows + one.closed.outcomes) for one in entries if one.closed)
    home = folder.parent.parent
    listed = [
        (one, file)
        for one in (folder, *(home / FOLDER).glob(f"{folder.name}.*"))
        for file in fold(read_entries(one)).files.values()
    ]
    for stem, count in (*closed, *_counted(home, listed)):
        parts[stem] = max(parts.get(stem, 0), count)
    known: defaultdict[str, int] = defaultdict(int)
    for stem, count in parts.items():
        if match := _STEM.match(stem):
            known[match["stem"]] += count
    return known


def _counted(home: Path, files: list[tuple[Path, ListedFile]]) -> list[tuple[str, int]]:
    """Of each block in these files, the place behind its last record there."""
    if not files:
        return []
    source = duck.parquet_of(with_files(home, lambda: locate(files)))
    with tempfile.TemporaryDirectory(dir=home, prefix=".spill-") as temp:
        con = duck.connect(Path(temp))
        said = f"SELECT block, max(ordinal) + 1 FROM {source} GROUP BY block"  # noqa: S608
        found = con.execute(said).fetchall()
        con.close()
    return [(str(stem), int(count)) for stem, count in found]
