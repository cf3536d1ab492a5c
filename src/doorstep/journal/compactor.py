"""The compactor of a node: `python -m doorstep.journal.compactor --home H --node NODE`.

A low-priority child. Each run closes the blocks of dead writers, compacts closed blocks, merges
files of past hours and days, and removes what is no longer needed or kept. One per node at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import math
import os
import re
import shutil
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from doorstep.core.errors import DoorstepError, InputError, RefusedError, UnreachableError
from doorstep.core.ids import parse_name
from doorstep.core.instant import SECOND_US, Clock, SystemClock
from doorstep.core.manifest import decode_part
from doorstep.core.structs import prepare_structs
from doorstep.journal import duck
from doorstep.journal.away import read_place, with_files
from doorstep.journal.compact import (
    CLOSED_SUFFIX,
    BlockCompaction,
    Reached,
    finish_listed,
    keep_going,
)
from doorstep.journal.held import HeldFiles
from doorstep.journal.index import COMPACTED, ClosedBlock, Entry, fold, read_entries
from doorstep.journal.merge import carry_out, plan_merges, remove_replaced, shorten_index
from doorstep.journal.options import GB, JOURNAL_GB_MAX
from doorstep.journal.profiles import PlanProfiles
from doorstep.journal.recover import recover, remove_old_locks
from doorstep.journal.replica import VARIABLE, replica_of
from doorstep.journal.retain import Bounds, apply_bounds
from doorstep.journal.stored import note_trim, read_stored
from doorstep.journal.tally import Profiles
from doorstep.journal.troubles import (
    Trouble,
    note_troubles,
    of_blocks,
    of_error,
    of_holds,
    read_troubles,
)
from doorstep.journal.upload import Uploader, evict

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

EVERY_S = 5.0
TRIM_EVERY_S = 60.0
UPLOAD_PAUSE_S_MAX = 60.0
UPLOAD_END_S = 3.0
"""What is being sent when we are asked to end may still arrive."""
NICENESS = 10
_STEM = re.compile(r"[a-z0-9-]{1,200}\Z")


class Compactor:
    """home: the home's folder. profiles: where codes come from. bounds: of what is kept, asked each
    time; None keeps everything. Raises: RefusedError (`compactor-running`) if the node has one
    already. Close it, or use it as a context manager."""

    def __init__(
        self,
        home: Path,
        node: str,
        profiles: Profiles,
        *,
        bounds: Callable[[], Bounds] | None = None,
        clock: Clock | None = None,
        reached: Reached = keep_going,
    ) -> None:
        place = read_place(home)
        self._home, self._has_store = home, bool(place and place.url)
        self._folder = home / "journal" / parse_name(node, "node")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock_fd = _lock(self._folder / ".compacting", node)
        self._profiles, self._reached = profiles, reached
        self._bounds, self._held = bounds, HeldFiles(self._folder)
        self._clock = clock or SystemClock()
        self._temp = self._folder / ".spill"
        self._troubles: list[Trouble] = []
        self._why = {one.file: one.why for one in read_troubles(self._folder)}
        self._clean()

    def __enter__(self) -> Compactor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._lock_fd)

    def _clean(self) -> None:
        """Remove what a dead run left half-written; only names that nobody reads."""
        shutil.rmtree(self._temp, ignore_errors=True)
        for path in (self._folder / COMPACTED).glob(".*"):
            path.unlink()

    def run_once(self) -> list[Entry]:
        """One run. Returns the index lines it wrote.

        Raises: OSError, duckdb.Error (disk or memory full); what was listed until then stays, the
        rest is done by the next run.
        """
        self._troubles = []
        try:
            entries = self._run()
        except Exception as error:
            self._troubles.append(of_error(error, "", "compaction stopped"))
            with contextlib.suppress(OSError):  # the disk may be what it is about
                self._note()
            raise
        self._note()
        return entries

    def _note(self) -> None:
        self._troubles += of_blocks(self._folder, self._why)
        note_troubles(self._folder, self._troubles, self._clock.now())

    def _run(self) -> list[Entry]:
        recover(self._folder)
        finish_listed(
            self._folder,
            {one.block: one.closed for one in read_entries(self._folder) if one.block},
        )
        closed = sorted(self._folder.glob("*.block"))
        merges = plan_merges(fold(read_entries(self._folder)).files.values(), self._clock.now())
        entries: list[Entry] = []
        if closed or merges:
            with self._connected() as con:
                entries += self._compact_all(con, closed)
                entries += self._merge_all(con)
        if self._bounds is not None:
            files = list(fold(read_entries(self._folder)).files.values())
            bounds, now = self._bounds(), self._clock.now()
            # What the store has is not lost for want of room here: it only leaves this disk.
            kept = Bounds(bounds.keep_s, math.inf) if self._has_store else bounds
            free = self._held.without(files, kept, now)
            self._troubles += [*self._held.unread, *of_holds(files, free, kept.bytes_max)]
            gone = apply_bounds(self._folder, free, kept, now)
            entries += [gone] if gone else []
            if self._has_store:
                evict(self._folder, bounds.bytes_max, now)
        self._tidy()
        return entries

    @contextlib.contextmanager
    def _connected(self) -> Iterator[DuckDBPyConnection]:
        con = duck.connect(self._temp)
        try:
            yield con
        finally:
            con.close()

    def _compact_all(self, con: DuckDBPyConnection, closed: list[Path]) -> list[Entry]:
        """A block that cannot be made sense of is kept as `.damaged`, so that it does not stop
        those behind it; one that a newer Doorstep wrote stays where it is. What DuckDB refuses is
        tried again on a connection of its own, and stays in a run in which it took no other: the
        fault may be ours or DuckDB's."""
        import duckdb

        entries: list[Entry] = []
        strange: list[tuple[Path, Exception]] = []
        for path in closed:
            try:
                entries.append(self._compact(con, path))
            except duckdb.OperationalError:
                # The disk or the memory, not the block: the next run tries again.
                raise
            except InputError as error:
                if error.code != "newer-block":
                    self._set_aside(path, error)
            except (OverflowError, duckdb.DataError) as error:
                self._set_aside(path, error)
            except duckdb.Error as error:
                strange.append((path, error))
        for path, why in strange:
            if not entries:
                self._troubles.append(of_error(why, path.name, "is not compacted"))
                continue
            try:
                with self._connected() as anew:
                    entries.append(self._compact(anew, path))
            except duckdb.OperationalError:
                raise
            except (InputError, OverflowError, duckdb.Error) as error:
                self._set_aside(path, error)
        return entries

    def _compact(self, con: DuckDBPyConnection, path: Path) -> Entry:
        job = BlockCompaction(con, self._folder, self._profiles, self._clock.now(), self._reached)
        with _without_gc():
            return job.run(path)

    def _set_aside(self, path: Path, error: Exception) -> None:
        aside = path.with_suffix(".damaged")
        self._why[aside.name] = of_error(error, "", "").why
        path.rename(aside)

    def _merge_all(self, con: DuckDBPyConnection) -> Iterator[Entry]:
        import duckdb

        files = fold(read_entries(self._folder)).files
        for merge in plan_merges(files.values(), self._clock.now()):
            work = partial(carry_out, con, self._folder, merge, self._clock.now(), self._reached)
            try:
                yield with_files(self._home, work)
            except (DoorstepError, FileNotFoundError, duckdb.Error) as error:
                # A file of it is in the store alone, which does not give it now, or cannot be read:
                # that must stop neither the others nor what is too old from going. A store that is
                # away says so itself.
                if not isinstance(error, UnreachableError):
                    said = "and those of its day are not merged"
                    one = merge.files[0]
                    self._troubles.append(of_error(error, one.path, said, one.service))

    def _tidy(self) -> None:
        now = self._clock.now()
        stored = read_stored(self._folder) if self._has_store else frozenset()
        remove_replaced(self._folder, fold(read_entries(self._folder)), now, stored)
        shorten_index(self._folder, now, stored)
        remove_old_locks(self._folder, now / SECOND_US)


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    """Rows make no cycles; looking for some takes a tenth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _lock(path: Path, node: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RefusedError(
            "compactor-running", f"node {node} has a compactor already; expected one at a time"
        ) from None
    return fd


def pending_closed(home: Path) -> list[ClosedBlock]:
    """Closed blocks that the ledger may not have yet, oldest first, of all nodes.

    A crash can offer a block again that was ledgered already: (node, block) names it, and the
    ledger takes each once. After the event is committed call `forget_closed`.
    """
    found = []
    for path in (home / "journal").glob(f"*/*{CLOSED_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError, InputError):
            found.append(decode_part(path.read_bytes(), ClosedBlock, "closed-block"))
    return sorted(found, key=lambda one: (one.first, one.node, one.block))


def forget_closed(home: Path, closed: ClosedBlock) -> None:
    """The ledger has it: remove the file that announced it."""
    if not _STEM.match(closed.block):
        raise InputError("bad-name", f"{closed.block!r} is not the name of a block")
    folder = home / "journal" / parse_name(closed.node, "node")
    (folder / f"{closed.block}{CLOSED_SUFFIX}").unlink(missing_ok=True)


class _Options(msgspec.Struct):
    home: Path
    node: str
    once: bool
    every_s: float
    gb_max: float
    replica_days: float


def _options(arguments: list[str]) -> _Options:
    parser = argparse.ArgumentParser(prog="python -m doorstep.journal.compactor")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds between runs")
    parser.add_argument("--journal-max", type=float, default=JOURNAL_GB_MAX, metavar="GB")
    parser.add_argument("--replica-days", type=float, default=0.0, metavar="DAYS")
    found = parser.parse_args(arguments)
    return _Options(
        found.home, found.node, found.once, found.every, found.journal_max, found.replica_days
    )


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    os.nice(NICENESS)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _stop_with_parent(stop)
    plan = PlanProfiles(options.home)

    def bounds() -> Bounds:
        return Bounds(plan.keep_s(), options.gb_max * GB)

    trimmed_s = -TRIM_EVERY_S
    with Compactor(options.home, options.node, plan, bounds=bounds) as compactor:
        uploader = _uploader(options)
        if options.once:
            failed = _run_guarded(compactor.run_once)
            _run_guarded(partial(_trim_replica, options))
            return (_run_guarded(uploader.run_once) if uploader else 0) or failed
        run = partial(_keep_uploading, uploader, options.every_s, stop)
        prepare_structs()
        uploading = threading.Thread(target=run, name="uploader", daemon=True)
        uploading.start()
        while not stop.is_set():
            _run_guarded(compactor.run_once)
            if time.monotonic() >= trimmed_s + TRIM_EVERY_S:
                trimmed_s = time.monotonic()
                _run_guarded(partial(_trim_replica, options))
            stop.wait(options.every_s)
        uploading.join(UPLOAD_END_S)
        return 0


def _uploader(options: _Options) -> Uploader | None:
    place = read_place(options.home)
    if place is None or not place.url:
        return None
    keep_s = PlanProfiles(options.home).keep_s
    return Uploader(options.home / "journal" / options.node, place, keep_s=keep_s)


def _keep_uploading(uploader: Uploader | None, every_s: float, stop: threading.Event) -> None:
    pause_s = every_s
    while uploader and not stop.is_set():
        _run_guarded(partial(_upload_all, uploader))
        pause_s = min(2 * pause_s, UPLOAD_PAUSE_S_MAX) if uploader.is_behind else every_s
        stop.wait(pause_s)


def _upload_all(uploader: Uploader) -> None:
    while uploader.run_once():
        continue


def _stop_with_parent(stop: threading.Event) -> None:
    """A supervisor holds the other end of our standard input; the kernel closes it when it dies,
    also if that was before we could ask for its pid. Without a pipe nobody is watched."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def watch() -> None:
        while os.read(0, 4096):
            pass
        stop.set()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _trim_replica(options: _Options) -> None:
    """Days of 0 forget nothing, where somebody else was told how long it keeps what. What went
    wrong is in a file beside the list; the next run tries again."""
    if options.replica_days and (url := os.environ.get(VARIABLE)):
        problem, now = "", SystemClock().now()
        with contextlib.closing(replica_of(url)) as replica:
            try:
                replica.trim(options.replica_days, now)
            except UnreachableError as error:
                problem = error.message
        note_trim(options.home / "journal" / options.node, problem, now)


def _run_guarded(run: Callable[[], object]) -> int:
    try:
        run()
    except Exception:  # noqa: BLE001  the edge of a process or thread: the next run tries again
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
