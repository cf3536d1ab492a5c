"""What a lost home had, brought back from its replica: blocks that are not here, and of those that
are here in part, the rest.

Records of a block are in the same order there and here, and each record here says which place it
has in its block. So nothing is doubled, also when it is run twice, and also where blocks are
compacted already, or are in a store in part. Blocks that are being written are left alone, and so
are those that retention would drop, or has dropped.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from doorstep.core.errors import InputError, RefusedError
from doorstep.core.ids import parse_name
from doorstep.core.instant import SECOND_US, Clock, Instant, SystemClock
from doorstep.journal import block, duck
from doorstep.journal.away import FOLDER, RESTORED, borrowed, read_place
from doorstep.journal.block import Frame, FrameKind
from doorstep.journal.compactor import Compactor
from doorstep.journal.held import knows_held, read_held
from doorstep.journal.index import ListedFile, fold, read_entries
from doorstep.journal.mirror import Mirror
from doorstep.journal.profiles import PlanProfiles
from doorstep.journal.reader import OPEN, Block, Group, end_of, list_blocks, read_block
from doorstep.journal.recover import recover
from doorstep.journal.replica import Replica, rebuild
from doorstep.journal.retain import Holds, read_gone
from doorstep.journal.subjects import has_key, subjects_of
from doorstep.journal.telling import CONTROL_NODE
from doorstep.kernel.store import Store

_STEM = re.compile(r"(?P<stem>[a-z0-9-]{1,150}-\d{8})(?:-rest(?P<rest>\d+))?\Z")
RECORDS = (FrameKind.PREDICTIONS, FrameKind.OUTCOME)
CLOCKS_S = 3600
"""Times of records and of blocks may be of two clocks, a little apart."""
Listed = tuple[Path, ListedFile]
Places = Collection[int]
"""Of records in a block."""


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What came back to one node's journal. live: blocks that are being written here, left alone.
    past: blocks that are older than their services keep them, left too. unreadable: names of
    blocks whose start the replica does not have (any more), or that a newer Doorstep wrote."""

    node: str
    blocks: int = 0
    predictions: int = 0
    outcomes: int = 0
    live: int = 0
    past: int = 0
    unreadable: tuple[str, ...] = ()


def restore(home: Path, replica: Replica, clock: Clock | None = None) -> Iterator[Restored]:
    """Node by node. Raises: UnreachableError (`replica-unreachable`), OSError, and what the store
    says; what came back until then stays, and the next run goes on behind it."""
    store = read_place(home)
    if store and store.url:
        # What a lost home had put there is found here as another home's, and must not come twice.
        Mirror(home, store).run_once(Store(store.url))
    # Before we look at what is here: a block that is written now is open here until it is whole.
    there = replica.blocks()
    now = (clock or SystemClock()).now()
    keep_s = PlanProfiles(home).keep_s()
    gone = {service: now - round(keep * SECOND_US) for service, keep in keep_s.items()}
    for node, blocks in groupby(there.blocks, key=lambda one: one[0]):
        job = _Node(home, parse_name(node, "node"), replica, there.since, gone)
        yield job.restore([name for _, name in blocks])


class _Node:
    """since: when the oldest block of the replica was opened. gone: until when records of a service
    are too old."""

    def __init__(
        self, home: Path, node: str, replica: Replica, since: Instant, gone: Mapping[str, Instant]
    ) -> None:
        self._home, self._node, self._replica, self._since = home, node, replica, since
        self._folder = home / "journal" / node
        self._gone, self._too_old = read_gone(self._folder), gone
        self._held = read_held(home / "journal")
        self._knows_held = knows_held(home / "journal") or not has_key(home)

    def restore(self, stems: list[str]) -> Restored:
        self._folder.mkdir(parents=True, exist_ok=True)
        recover(self._folder)
        live = {path.stem for path in self._folder.glob(f"*{OPEN}")}
        here = _here(self._home, self._folder, stems, self._since)
        unreadable, past, brought = [], 0, list[block.BlockEnd]()
        for stem in stems:
            if stem in live:
                continue
            try:
                data = rebuild(self._replica.read(self._node, stem))
                parts = list(_missing(stem, data, here[stem]))
            except InputError:
                unreadable.append(stem)
                continue
            wanted = [one for one in parts if not self._is_past(one[1])]
            past += bool(parts) and not wanted
            if wanted and not brought:
                self._look_again()  # who is killed behind this has it done, too
            brought += [self._bring(*one) for one in wanted]
        if brought:
            self._take_in()
        return Restored(
            node=self._node,
            blocks=len(brought),
            predictions=sum(one.rows for one in brought),
            outcomes=sum(one.outcomes for one in brought),
            live=len(live & set(stems)),
            past=past,
            unreadable=tuple(unreadable),
        )

    def _is_past(self, data: bytes) -> bool:
        """Whether retention dropped, or would drop, each record of a block. A journal that is lost
        does not say who is held until the next `up`: all come back, and retention looks at them."""
        found = read_block(data)
        return (
            self._knows_held
            and not _is_held(found, self._held)
            and all(
                at <= max(self._too_old.get(service, -1), self._gone.get(f"{holds}/{service}", -1))
                for service, holds, at in _times(found)
            )
        )

    def _bring(self, stem: str, data: bytes) -> block.BlockEnd:
        """Write a block as an open one whose writer died."""
        note_restored(self._home, self._folder)
        unnamed = self._folder / f"{stem}.new"
        unnamed.write_bytes(data)
        unnamed.rename(unnamed.with_suffix(OPEN))
        return end_of(read_block(data), repaired=True)

    def _take_in(self) -> None:
        recover(self._folder)
        # Of a node that runs here its own compactor does it.
        with (
            contextlib.suppress(RefusedError),
            Compactor(self._home, self._node, PlanProfiles(self._home)) as found,
        ):
            found.run_once()
        self._look_again()

    def _look_again(self) -> None:
        """Whoever was erased may have more records now, whose outcomes are refused from now on."""
        if has_key(self._home):
            subjects_of(self._home).look_again()


def note_restored(home: Path, folder: Path) -> None:
    """What came back was compared with this store: of another it may have been a second time."""
    store = read_place(home)
    url, path = store.url if store else "", folder / RESTORED
    if not path.exists() or url not in path.read_text().splitlines():
        with path.open("a") as file:
            file.write(f"{url}\n")


def _times(found: Block) -> Iterator[tuple[str, Holds, Instant]]:
    for part in found.parts():
        if isinstance(part, Group):
            yield from ((part.layout.service, "predictions", row.at) for row in part.rows)
        else:
            yield part.service, "outcomes", part.received_at


def _is_held(found: Block, held: Collection[str]) -> bool:
    """Whether it has predictions of those people, or outcomes, which may be of theirs."""
    return bool(held) and any(
        not isinstance(part, Group)
        or any((text or "").partition(".")[0] in held for row in part.rows for text in row.texts)
        for part in found.parts()
    )


def _missing(stem: str, data: bytes, here: list[Places]) -> Iterator[tuple[str, bytes]]:
    """The block, or the parts of it that are not here, each as a block with a name of its own.

    Raises: InputError."""
    if not (match := _STEM.match(stem)) or match["rest"]:
        raise InputError("bad-name", f"{stem!r} is not the name of a block")
    found = read_block(data)
    for start, frames in _runs(found, here):
        if here:
            yield f"{stem}-rest{start}", b"".join(data[one.start : one.end] for one in frames)
        else:
            yield stem, data


def _runs(found: Block, here: list[Places]) -> Iterator[tuple[int, list[Frame]]]:
    """Records in a row that are not here, behind all that says what they are; and the place of the
    first."""
    about: list[Frame] = []
    run: list[Frame] = []
    start = place = 0
    for frame in found.frames:
        if frame.kind not in RECORDS:
            for frames in (about, run) if run else (about,):
                frames += [frame] if frame.kind != FrameKind.END else []
            continue
        if any(place in some for some in here):
            if run:
                yield start, run
            run = []
        else:
            start, run = (start, run) if run else (place, list(about))
            run.append(frame)
        place += frame.rows
    if run:
        yield start, run


def _here(
    home: Path, folder: Path, stems: Iterable[str], since: Instant
) -> defaultdict[str, list[Places]]:
    """Which records of each block are here: in it, in what it became (in the store too, and there
    also as a lost home's), and in its rests. stems: what is asked of. since: no older ones are."""
    found: defaultdict[str, list[Places]] = defaultdict(list)
    whole = set()
    for path in list_blocks(folder).values():
        # One that is gone by now is in the index, which is read later.
        with contextlib.suppress(FileNotFoundError, InputError):
            end = end_of(read_block(path.read_bytes()), repaired=False)
            whole.add(path.stem)
            _add(found, path.stem, range(end.rows + end.outcomes))
    entries = read_entries(folder)
    for one in entries:
        if one.closed:
            whole.add(one.block)
            _add(found, one.block, range(one.closed.rows + one.closed.outcomes))
    if whole.issuperset(stems):
        return found
    oldest = 0 if folder.name == CONTROL_NODE else since - CLOCKS_S * SECOND_US
    for place in (folder, *(home / FOLDER).glob(f"{folder.name}.*")):
        files = fold(entries if place == folder else read_entries(place)).files.values()
        # The control plane's own has rows that were imported, of any time.
        listed = [(place, one) for one in files if one.last >= oldest]
        for stem, places in _places(home, listed):
            _add(found, stem, places)
    return found


def _add(found: defaultdict[str, list[Places]], stem: str, places: Places) -> None:
    if match := _STEM.match(stem):
        by = int(match["rest"] or 0)
        is_row = isinstance(places, range)
        moved = range(by, by + len(places)) if is_row else {by + one for one in places}
        found[match["stem"]].append(moved)


def _places(home: Path, files: list[Listed]) -> Iterator[tuple[str, Places]]:
    """Of each block in these files, the places of its records there. Mostly all are there, and
    counting them says so."""
    counts: defaultdict[str, int] = defaultdict(int)
    ends: defaultdict[str, int] = defaultdict(int)
    among: defaultdict[str, list[Listed]] = defaultdict(list)
    said = "SELECT block, count(*), max(ordinal) + 1 FROM {} GROUP BY block"
    for one in files:
        for stem, count, end in _ask(home, one, said):
            counts[stem] += count
            ends[stem] = max(ends[stem], end)
            among[stem].append(one)
    for stem, count in counts.items():
        if count == ends[stem]:
            yield stem, range(count)
        else:
            asked = "SELECT ordinal FROM {} WHERE block = ?"
            yield stem, {place for one in among[stem] for (place,) in _ask(home, one, asked, stem)}


def _ask(home: Path, file: Listed, said: str, *values: str) -> list[tuple[Any, ...]]:
    with (
        tempfile.TemporaryDirectory(dir=home, prefix=".spill-") as temp,
        borrowed(home, *file, Path(temp)) as path,
        contextlib.closing(duck.connect(Path(temp) / "spill")) as con,
    ):
        found: list[tuple[Any, ...]] = con.execute(
            said.format(duck.parquet_of([path])), values
        ).fetchall()
        return found
