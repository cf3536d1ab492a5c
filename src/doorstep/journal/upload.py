"""A node's compacted files go to the object store, each once: the compactor's second thread.

What is in the store is what `index.json` there says; a file counts once that is up. The steps, in
order; a crash after any of them is repaired by the next run:

    own      `index.json` of the store has our name: of two copies of a home only the one that was
             started last writes, since each write is on condition that nobody else has written
    put      the Parquet file, its summary and its layout, under names that are theirs alone
    noted    `stored.json` beside the files says what may be in the store
    list     `index.json` of the store names them, and what is to go: this is the commit
    delete   what was replaced a quarter of an hour ago is gone from the store

Until a file that was uploaded is out of the store's list, the compactor keeps the line of its own
list that took it out.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from doorstep.core.errors import DoorstepError, RefusedError, UnreachableError
from doorstep.core.ids import new_id
from doorstep.core.instant import SECOND_US, Clock, Instant, SystemClock
from doorstep.core.manifest import decode_part
from doorstep.core.plural import plural
from doorstep.journal.away import IN_USE_S, Place, cache_of, shrink
from doorstep.journal.compact import Reached, keep_going
from doorstep.journal.index import COMPACTED, ListedFile, Listing, fold, read_entries
from doorstep.journal.layouts import LAYOUTS
from doorstep.journal.mirror import Mirror
from doorstep.journal.reports import drop_reports, send_reports
from doorstep.journal.retain import SETTLED_S
from doorstep.journal.stored import (
    STATUS,
    STORE_INDEX,
    STORED,
    StoredIndex,
    StoreStatus,
    read_stored,
)
from doorstep.journal.summary import floor
from doorstep.kernel.files import write_atomic
from doorstep.kernel.store import Store, shared

LOOK_EVERY_S = 30
DROP_EVERY_S = 3600
FILES_AT_ONCE = 64
"""Uploaded between two writes of the store's list."""
DAY_S = 86400


class Uploader:
    """folder: of the node. One for each node; its compactor has the lock. keep_s: by service, how
    long reports stay."""

    def __init__(
        self,
        folder: Path,
        place: Place,
        *,
        keep_s: Callable[[], Mapping[str, float]] = dict,
        clock: Clock | None = None,
        reached: Reached = keep_going,
    ) -> None:
        self._folder, self._place, self._url = folder, place, place.url
        self._prefix = f"journal/{place.of(folder.name)}"
        self._clock = clock or SystemClock()
        self._reached = reached
        self._store: Store | None = None
        self._mirror = Mirror(folder.parent.parent, place)
        self._looked_s = self._dropped_s = -math.inf
        self._keep_s = keep_s
        self._stored = StoredIndex(node=folder.name, at=0)
        self._etag, self._sent, self._owner = "", b"", new_id().hex
        self._behind_since: Instant = 0
        self._said: StoreStatus | None = None

    def run_once(self) -> bool:
        """One run; what happened is in `store-status.json`. Whether there is more to do at once.
        Raises: OSError (of this disk)."""
        looks = self._clock.monotonic_s() - self._looked_s >= LOOK_EVERY_S
        try:
            added = self._step()
            if looks and self._store:
                self._require_ours(self._store)
        except DoorstepError as error:
            self._store = None
            self._behind_since = self._behind_since or self._clock.now()
            self._say(error)
            return False
        self._behind_since = 0
        self._say(None)
        if looks:
            self._look_at_others()
        return added == FILES_AT_ONCE

    def _require_ours(self, store: Store) -> None:
        """Also who has nothing to write is told that another writes here."""
        if store.get(self._name(STORE_INDEX), unless=self._etag):
            raise shared(self._url, self._name(STORE_INDEX))

    def _look_at_others(self) -> None:
        assert self._store is not None
        self._looked_s = self._clock.monotonic_s()
        try:
            self._mirror.run_once(self._store)
        except (DoorstepError, FileNotFoundError) as error:
            # What is wrong with another's list must not stop our own files.
            print(f"uploader: another home's files in {self._url}: {error}", file=sys.stderr)

    @property
    def is_behind(self) -> bool:
        return self._behind_since > 0

    def _say(self, error: DoorstepError | None) -> None:
        waiting = self._missing(fold(read_entries(self._folder)))
        said = StoreStatus(
            at=self._clock.now(),
            url=self._url,
            files=len(self._stored.files),
            bytes=sum(one.bytes for one in self._stored.files),
            waiting_files=len(waiting),
            waiting_bytes=sum(one.bytes for one in waiting),
            behind_since=self._behind_since,
            is_refused=error is not None and not isinstance(error, UnreachableError),
            problem=f"{error.code}: {error.message}" if error else "",
        )
        if msgspec.structs.replace(said, at=0) != self._said:
            write_atomic(self._folder / STATUS, msgspec.json.encode(said))
            self._said = msgspec.structs.replace(said, at=0)

    def _missing(self, listing: Listing) -> list[ListedFile]:
        there = {one.path for one in self._stored.files}
        return [one for path, one in listing.files.items() if path not in there]

    def _step(self) -> int:
        """How many files were added."""
        store = self._store or self._opened()
        listing = fold(read_entries(self._folder))
        added = [one for one in self._missing(listing)[:FILES_AT_ONCE] if self._put(store, one)]
        self._reached("store-put")
        now = self._clock.now()
        listed = {one.path: one for one in self._stored.files} | {one.path: one for one in added}
        self._require_known(listed, listing)
        due = [path for path, since in self._stored.gone.items() if _is_over(since, now)]
        left = {path: since for path, since in self._stored.gone.items() if path not in due}
        left |= dict.fromkeys(listed.keys() - listing.files.keys(), now)
        files = tuple(one for path, one in listed.items() if path in listing.files)
        if files != self._stored.files or left != self._stored.gone:
            self._list(store, files, left)
        # Only now: that the list was written says that this place is still ours.
        store.delete(self._name(name) for path in due for name in _objects(path))
        self._reached("store-delete")
        send_reports(store, self._folder.parent.parent, self._place)
        if self._clock.monotonic_s() - self._dropped_s >= DROP_EVERY_S:
            drop_reports(store, self._place, self._folder, self._keep_s(), now)
            self._dropped_s = self._clock.monotonic_s()
        self._store = store
        return len(added)

    def _put(self, store: Store, one: ListedFile) -> bool:
        """False if the file was replaced meanwhile."""
        layout = [f"{LAYOUTS}/{one.layout}.json"] if one.layout else []
        there = [name for name in layout if (self._folder / name).exists()]
        try:
            for name in (*there, one.summary, one.path):
                # A copy of this home calls what it makes of the same block the same.
                ours = partial(self._require_ours, store)
                store.put_once(self._name(name), self._folder / name, ours)
                self._reached("store-put-one")
        except FileNotFoundError:
            if one.path not in fold(read_entries(self._folder)).files:
                return False
            if self._has_left(store, one):
                return True
            raise RefusedError(
                "store-file-gone",
                f"{one.path} is listed, and is neither on this disk nor in {self._url}",
                "restore it from a backup",
            ) from None
        return True

    def _has_left(self, store: Store, one: ListedFile) -> bool:
        """Whether the store has it, although its list never said so: the store went away between
        the two, and the file left this disk meanwhile."""
        is_here = (self._folder / one.summary).exists()
        return is_here and store.holds(self._name(one.path), one.sha256)

    def _require_known(self, listed: Iterable[str], listing: Listing) -> None:
        """Raises: RefusedError: our list has forgotten files that are in the store."""
        known = listing.files.keys() | listing.replaced.keys()
        if unknown := sorted(set(listed) - known):
            raise RefusedError(
                "store-ahead",
                f"this node's list lacks {plural(len(unknown), 'file')} of {self._url}, "
                f"as after going back to an older copy of the home: {unknown[0]}",
                "move index.jsonl and compacted of the node's journal aside, remove store.json of "
                "the home and declare the store again: what is there is then read as another "
                "node's, and nothing twice",
            )

    def _list(self, store: Store, files: tuple[ListedFile, ...], gone: dict[str, Instant]) -> None:
        index = StoredIndex(
            node=self._folder.name, at=self._clock.now(), files=files, gone=gone,
            owner=self._owner,
        )  # fmt: skip
        self._note({one.path for one in (*self._stored.files, *files)})
        self._reached("store-noted")
        sent = msgspec.json.encode(index)
        try:
            self._sent = sent
            self._etag = store.replace(self._name(STORE_INDEX), sent, self._etag)
        except RefusedError:
            # It does not have them for sure, and its owner may have removed them.
            self._note(one.path for one in self._stored.files)
            raise
        self._reached("store-list")
        self._stored = index
        self._note({one.path for one in index.files})

    def _note(self, names: Iterable[str]) -> None:
        write_atomic(self._folder / STORED, msgspec.json.encode(sorted(names)))

    def _opened(self) -> Store:
        """A store whose list we have read and own. What an earlier run put there and never listed,
        and nobody wants any more, is deleted."""
        store = Store(self._url)
        found = store.get(self._name(STORE_INDEX))
        if self._sent and found and found.etag != self._etag and found.data != self._sent:
            raise shared(store.url, self._name(STORE_INDEX))
        self._stored = StoredIndex(node=self._folder.name, at=0)
        if found:
            self._stored = decode_part(found.data, StoredIndex, "store-index")
        self._etag = found.etag if found else ""
        self._note(one.path for one in self._stored.files)
        listing = fold(read_entries(self._folder))
        self._require_known((one.path for one in self._stored.files), listing)
        self._list(store, self._stored.files, self._stored.gone)
        wanted = {*(one.path for one in self._stored.files), *listing.files, *self._stored.gone}
        objects = {self._name(name) for path in wanted for name in _objects(path)}
        store.delete(sorted(store.names(f"{self._prefix}/{COMPACTED}") - objects))
        return store

    def _name(self, path: str) -> str:
        return f"{self._prefix}/{path}"


def _objects(path: str) -> tuple[str, str]:
    return path, str(Path(path).with_suffix(".json"))


def _is_over(since: Instant, now: Instant) -> bool:
    return now - since > IN_USE_S * SECOND_US


def evict(folder: Path, bytes_max: float, now: Instant) -> None:
    """Let go of files that the store has, the oldest first, until the rest has this size. A file
    becomes one of the cache, and its name here goes once nobody can still be at it."""
    stored, cache = read_stored(folder), cache_of(folder)
    assert cache is not None
    there = [
        (one, folder / one.path)
        for one in sorted(fold(read_entries(folder)).files.values(), key=lambda one: one.last)
        if (folder / one.path).exists()
    ]
    too_much = sum(one.bytes for one, _ in there) - bytes_max
    for one, path in there:
        is_settled = floor(one.last, DAY_S) + SETTLED_S * SECOND_US <= now
        if too_much <= 0:
            break
        if one.path not in stored or not is_settled:
            continue
        too_much -= one.bytes
        cached = cache / one.path
        cached.parent.mkdir(parents=True, exist_ok=True)
        if not cached.exists():
            os.utime(path)
            os.link(path, cached)
        elif time.time() - cached.stat().st_mtime > IN_USE_S:
            path.unlink()
    shrink(folder.parent.parent)
