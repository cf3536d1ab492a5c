"""Small files become hourly and daily ones, so that a long history stays a short list.

Which files go together is decided by `plan_merges`, from the list alone; files of one merge hold
the same layout. The new file is listed and the old ones unlisted by one line of the index; the old
ones are deleted when no reader can still be at them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from doorstep.core.instant import SECOND_US, Instant
from doorstep.journal import duck
from doorstep.journal.away import cache_of, locate
from doorstep.journal.compact import FilePlan, Reached, finish_file, keep_going, publish, unnamed
from doorstep.journal.index import (
    COMPACTED,
    Entry,
    ListedFile,
    Listing,
    append_entry,
    fold,
    read_entries,
    rewrite,
)
from doorstep.journal.summary import HOUR_S, MINUTE_S, coarsen, decode_summary, floor, merge_all

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

DAY_S = 86400
SETTLED_S = {"hour": 600, "day": 2 * DAY_S}
"""How long after its end a span is merged: an hour when late blocks have come in, a day when
nobody looks at its minutes any more (a daily summary has hours)."""
MERGE_BYTES_MAX = 256 * 1024 * 1024
MERGE_FILES_MAX = 2000
REPLACED_KEPT_S = 900
"""A query that read the list before a merge has this long to read the files."""
STEMS_KEPT_S = 3600
ENTRIES_SPARE_MAX = 2000
Level = Literal["hour", "day"]


class Merge(msgspec.Struct, frozen=True):
    level: Level
    start: Instant
    files: tuple[ListedFile, ...]


def plan_merges(files: Iterable[ListedFile], now: Instant) -> list[Merge]:
    """Which files to merge now: those of past hours, and those of past days. Days come first, so
    that nothing is merged twice in a row. A group with nothing new in it is left alone."""
    days, hours = list(_groups(files, "day", now)), list(_groups(files, "hour", now))
    taken = {one.path for day in days for one in day.files}
    return days + [hour for hour in hours if not taken & {one.path for one in hour.files}]


def _groups(files: Iterable[ListedFile], level: Level, now: Instant) -> Iterator[Merge]:
    width_s = HOUR_S if level == "hour" else DAY_S
    groups: dict[tuple[str, str, str, Instant], list[ListedFile]] = {}
    for one in sorted(files, key=lambda file: (file.first, file.path)):
        start = floor(one.first, width_s)
        if now >= start + (width_s + SETTLED_S[level]) * SECOND_US:
            groups.setdefault((one.service, one.holds, one.layout, start), []).append(one)
    for (*_, start), members in groups.items():
        for chosen in _split(members):
            if len(chosen) > 1 and any(_is_below(one, level) for one in chosen):
                yield Merge(level, start, tuple(chosen))


def _is_below(file: ListedFile, level: Level) -> bool:
    return file.level == "block" or (level == "day" and file.level == "hour")


def _split(files: Iterable[ListedFile]) -> Iterator[list[ListedFile]]:
    """Runs of at most MERGE_BYTES_MAX and MERGE_FILES_MAX."""
    run: list[ListedFile] = []
    for one in files:
        too_much = sum(file.bytes for file in run) + one.bytes > MERGE_BYTES_MAX
        if run and (too_much or len(run) >= MERGE_FILES_MAX):
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def carry_out(
    con: DuckDBPyConnection,
    folder: Path,
    merge: Merge,
    now: Instant,
    reached: Reached = keep_going,
) -> Entry:
    """Do one merge. Raises: OSError, duckdb.Error, InputError; nothing has changed then."""
    one = merge.files[0]
    names = sha256("\n".join(file.path for file in merge.files).encode()).hexdigest()[:16]
    plan = FilePlan(
        f"{COMPACTED}/{merge.level}-{merge.start // SECOND_US}.{one.service}.{names}",
        one.service,
        one.holds,
        one.layout,
        merge.level,
    )
    summaries = [decode_summary((folder / file.summary).read_bytes()) for file in merge.files]
    summary = merge_all(one.service, summaries)
    bucket_s = HOUR_S if merge.level == "day" else MINUTE_S
    summary = coarsen(summary, max(bucket_s, summary.bucket_s))
    source = duck.parquet_of(locate((folder, file) for file in merge.files))
    clock = "at" if plan.holds == "predictions" else "received_at"
    order = f"{duck.quote_name(clock)}, node, block, ordinal"
    duck.copy_to(con, source, order, unnamed(folder / plan.path))
    made = finish_file(folder, plan, summary, duck.span(con, source, clock))
    reached("merge-write")
    publish(folder, [made], reached)
    entry = Entry(at=now, files=(made,), replaces=tuple(file.path for file in merge.files))
    append_entry(folder, entry)
    reached("merge-list")
    return entry


def remove_replaced(
    folder: Path, listing: Listing, now: Instant, stored: Collection[str] = ()
) -> None:
    """Delete files that were replaced long enough ago. stored: paths that an object store still
    lists, and that stay until it does not."""
    cache = cache_of(folder) or folder
    for name, since in listing.replaced.items():
        is_over = now - since > REPLACED_KEPT_S * SECOND_US
        if is_over and name not in listing.files and name not in stored:
            for path in (folder / name, (folder / name).with_suffix(".json"), cache / name):
                path.unlink(missing_ok=True)


def shorten_index(folder: Path, now: Instant, stored: Collection[str] = ()) -> bool:
    """Rewrite the index without lines that no reader needs, once there are many of them.

    Kept: every listed file; the stems of blocks listed in the last hour (a reader may hold one
    open); replaced files that still exist, here or in the store. The ledger has `.closed.json`
    files, not this list.
    """
    entries = read_entries(folder)
    listing = fold(entries)
    if len(entries) < len(listing.files) + ENTRIES_SPARE_MAX:
        return False
    oldest = now - STEMS_KEPT_S * SECOND_US
    files = tuple(listing.files.values())
    is_block = {path.stem for path in folder.glob("*.block")}
    kept = [Entry(at=now, files=files)]
    for entry in entries:
        there = tuple(name for name in entry.replaces if name in stored or (folder / name).exists())
        has_stem = bool(entry.block) and (entry.at >= oldest or entry.block in is_block)
        if there or has_stem:
            stem = entry.block if has_stem else ""
            kept.append(Entry(at=entry.at, block=stem, closed=entry.closed, replaces=there))
    rewrite(folder, kept)
    return True
