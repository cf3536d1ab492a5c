"""Evidence and counters of one process in one mmap file, so that they survive `kill -9`.

The supervisor creates the file and may read it at any time; one process writes it and holds its
lock while it lives. All words are unsigned 64-bit in native order:

    header    magic, format, pid, slots used
    slots     key, counters, hashes of the units seen, hashes of the units that went bad
    flights   (slot + 1, unit hash) of what is in flight: booked as errors if the process dies
    counters  what `/metrics` shows; grows (`counters.py`)
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterable, Sequence
from operator import add
from pathlib import Path
from typing import NamedTuple

import msgspec

from doorstep.core.report import SLOW_MAX, UNITS_MAX, Arm
from doorstep.serve.counters import (
    ROOM_BYTES,
    CounterWriter,
    Key,
    Values,
    add_counters,
    read_counters,
    take_room,
    without_gauges,
)

ARMS: tuple[Arm, Arm] = ("champion", "challenger")
MAGIC = 0x31534C4C45435344
FORMAT = 3
SLOTS_MAX = 128
FLIGHTS_MAX = 4096
TIMED_UNITS_MAX = 32_768
"""Units whose first latency of an epoch is taken, of both arms together: some 3 MB."""
_HEADER = 64
_KEY = 32
_COUNTERS = 16
_SEEN = _KEY + _COUNTERS
_BAD = _SEEN + UNITS_MAX
_SLOT = _BAD + UNITS_MAX
_FLIGHTS_AT = _HEADER + SLOTS_MAX * _SLOT
_WORDS = _FLIGHTS_AT + 2 * FLIGHTS_MAX
_BYTES = -(-_WORDS * 8 // ROOM_BYTES) * ROOM_BYTES
"""Of all but the counters; a whole number of pages anywhere, since they are mapped apart."""
_PID, _SLOTS_USED = 2, 3
_REQUESTS, _OK, _BAD_COUNT, _IN_FLIGHT, _PLUS, _ZERO, _MINUS, _SEEN_COUNT, _BAD_UNITS = range(9)
_ALIKE, _DIFFER, _TIMED, _SLOW = 9, 10, 11, 12


class CellKey(NamedTuple):
    release: str
    epoch: int
    segment: str
    arm: Arm


class _Timed(msgspec.Struct):
    """Units of which a latency was taken in an epoch, in either arm."""

    epoch: int = -1
    units: set[int] = msgspec.field(default_factory=set)


class CellCounts(msgspec.Struct):
    """Counters of one cell; seen and bad_units are 64-bit hashes, first come, at most UNITS_MAX."""

    requests: int = 0
    ok: int = 0
    bad: int = 0
    in_flight: int = 0
    plus: int = 0
    zero: int = 0
    minus: int = 0
    alike: int = 0
    differ: int = 0
    timed: int = 0
    slow: tuple[int, ...] = (0,) * SLOW_MAX
    seen: dict[int, None] = {}
    bad_units: dict[int, None] = {}


class Counts(msgspec.Struct):
    """What one process counted, or several together."""

    cells: dict[CellKey, CellCounts] = {}
    counters: dict[Key, Values] = {}

    def add(self, other: Counts) -> None:
        for key, cell in other.cells.items():
            _add_cell(self.cells.setdefault(key, CellCounts()), cell)
        add_counters(self.counters, other.counters)


def create_cells(path: Path) -> None:
    """An empty cell file with its room on the disk. Raises: OSError; then there is no file."""
    data = MAGIC.to_bytes(8, "little") + FORMAT.to_bytes(8, "little")
    try:
        with path.open("wb") as file:
            take_room(file.fileno(), 0, _BYTES + ROOM_BYTES)
            file.write(data)
    except OSError:
        path.unlink(missing_ok=True)
        raise


class CellWriter:
    """The one writer of a cell file. Not thread-safe. place: (its number, how many there are) of
    the workers of a node, which share the units that come again.

    Raises: OSError; BlockingIOError if another process writes it.
    """

    def __init__(self, path: Path, place: tuple[int, int] = (0, 1)) -> None:
        self._place, self._places = place
        self._fd = os.open(path, os.O_RDWR)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._map = mmap.mmap(self._fd, _WORDS * 8)
        self._words = memoryview(self._map).cast("Q")
        self._words[_PID] = os.getpid()
        self._slots: dict[CellKey, int] = {}
        self._keys: list[CellKey] = []
        self.counters = CounterWriter(self._fd, _BYTES)
        self._seen: list[set[int]] = []
        self._bad: list[set[int]] = []
        self._timed: dict[tuple[str, str], _Timed] = {}
        self._free = list(range(FLIGHTS_MAX - 1, -1, -1))

    def slot(self, key: CellKey) -> int | None:
        """The number of a cell, made if it is new; None if the file is full. Both arms have room or
        none: were only one of them counted, it would seem to be the other's lack."""
        found = self._slots.get(key)
        if found is None and len(self._slots) + len(ARMS) <= SLOTS_MAX:
            for arm in ARMS:
                self._make(key._replace(arm=arm))
            found = self._slots[key]
        return found

    def _make(self, key: CellKey) -> None:
        number = len(self._slots)
        self._write_key(_HEADER + number * _SLOT, _KEY, msgspec.msgpack.encode(key))
        self._slots[key] = number
        self._keys.append(key)
        self._seen.append(set())
        self._bad.append(set())
        self._words[_SLOTS_USED] = number + 1

    def begin(self, slot: int, units: Iterable[int]) -> list[int]:
        """Mark a request in flight for its cell, with the units it is about. Answers what `end`
        wants back."""
        words, free, flights = self._words, self._free, []
        for unit in units:
            if free:
                at = free.pop()
                words[_FLIGHTS_AT + 2 * at + 1] = unit
                words[_FLIGHTS_AT + 2 * at] = slot + 1
                flights.append(at)
        words[_HEADER + slot * _SLOT + _KEY + _IN_FLIGHT] += 1
        return flights

    def end(
        self,
        slot: int,
        units: Iterable[int],
        flights: list[int],
        ok: bool,
        bad: Iterable[int] | None = None,
    ) -> None:
        """The request of `begin` was answered; ok: by the version it was assigned to, at least in
        part. bad: the units that went bad, where that is not none (ok) or all (not ok)."""
        words, at = self._words, _HEADER + slot * _SLOT + _KEY
        words[at + _REQUESTS] += 1
        words[at + (_OK if ok else _BAD_COUNT)] += 1
        self._note(slot, units, _SEEN, _SEEN_COUNT, self._seen[slot])
        if bad is None:
            bad = () if ok else units
        self._note(slot, bad, _BAD, _BAD_UNITS, self._bad[slot])
        self.forget(slot, flights)

    def forget(self, slot: int, flights: list[int]) -> None:
        """The request of `begin` is over and is no evidence."""
        words = self._words
        for flight in flights:
            words[_FLIGHTS_AT + 2 * flight] = 0
            self._free.append(flight)
        words[_HEADER + slot * _SLOT + _KEY + _IN_FLIGHT] -= 1

    def time(
        self, slot: int, units: Sequence[int], took_us: int, slow_us: Sequence[int], *, once: bool
    ) -> None:
        """Take the latency of a request. slow_us: at most SLOW_MAX thresholds; none: it is not
        taken. once: units come again, and what one of them meets says little new: only its first
        in the epoch that comes to the worker whose unit it is, since a slow one is slow wherever it
        asks."""
        if not slow_us or (once and not self._is_first(self._keys[slot], units[0])):
            return
        words, at = self._words, _HEADER + slot * _SLOT + _KEY
        words[at + _TIMED] += 1
        for place, limit_us in enumerate(slow_us):
            if took_us > limit_us:
                words[at + _SLOW + place] += 1

    def _is_first(self, key: CellKey, unit: int) -> bool:
        """Of those that are this worker's. Both arms share one set: were each to stop when its own
        is full, the larger one would stop first, and the other would seem to have the more slow
        requests."""
        if unit % self._places != self._place:
            return False
        timed = self._timed.setdefault((key.release, key.segment), _Timed())
        if key.epoch > timed.epoch:
            timed.epoch, timed.units = key.epoch, set()
        known = timed.units
        if key.epoch < timed.epoch or unit in known or len(known) >= TIMED_UNITS_MAX:
            return False
        known.add(unit)
        return True

    def compare(self, slot: int, *, differs: bool) -> None:
        """One shadow pair of answers."""
        self._words[_HEADER + slot * _SLOT + _KEY + (_DIFFER if differs else _ALIKE)] += 1

    def pair(self, slot: int, unit: int, difference: int) -> None:
        """A shadow pair of a unit: only the challenger erred (1), both did the same (0), only the
        champion erred (-1). Units of which one alone erred are kept, as bad and as seen."""
        self._words[_HEADER + slot * _SLOT + _KEY + (_ZERO, _PLUS, _MINUS)[difference]] += 1
        if difference > 0:
            self._note(slot, (unit,), _BAD, _BAD_UNITS, self._bad[slot])
        elif difference < 0:
            self._note(slot, (unit,), _SEEN, _SEEN_COUNT, self._seen[slot])

    def score(self, slot: int, *, ok: bool) -> None:
        """Count one request that was scored in shadow: it was never in flight here."""
        words, at = self._words, _HEADER + slot * _SLOT + _KEY
        words[at + _REQUESTS] += 1
        words[at + (_OK if ok else _BAD_COUNT)] += 1

    def close(self) -> None:
        self.counters.close()
        self._words.release()
        self._map.close()
        os.close(self._fd)

    def _note(
        self, slot: int, units: Iterable[int], where: int, counter: int, known: set[int]
    ) -> None:
        if len(known) >= UNITS_MAX:
            return
        words, at = self._words, _HEADER + slot * _SLOT
        for unit in units:
            if unit not in known and len(known) < UNITS_MAX:
                words[at + where + len(known)] = unit
                known.add(unit)
                words[at + _KEY + counter] = len(known)

    def _write_key(self, at: int, words: int, key: bytes) -> None:
        if len(key) > words * 8 - 8:
            raise ValueError(f"a key of {len(key)} bytes; at most {words * 8 - 8}")
        self._map[at * 8 : at * 8 + 8] = len(key).to_bytes(8, "little")
        self._map[at * 8 + 8 : at * 8 + 8 + len(key)] = key


def read_cells(path: Path) -> Counts:
    """What a cell file holds now. Raises: OSError, ValueError if it is not one."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        with memoryview(data) as raw, raw.cast("Q") as words:
            if len(raw) < _BYTES + ROOM_BYTES or words[0] != MAGIC or words[1] != FORMAT:
                raise ValueError(f"{path.name} is not a cell file of format {FORMAT}")
            with raw[_BYTES:] as rest:
                return Counts(_read_slots(data, words), read_counters(rest))
    finally:
        data.close()


def read_dead(path: Path) -> Counts:
    """As `read_cells`, of a process that died: what was in flight counts as errors of its arm.

    Its end is one event, however many units waited for it: each cell gets one bad unit of it.
    """
    counts = read_cells(path)
    counts.counters = without_gauges(counts.counters)
    keys = list(counts.cells)
    blamed: set[int] = set()
    for slot, unit in _flights(path):
        if slot >= len(keys):
            continue
        cell = counts.cells[keys[slot]]
        _keep(cell.seen, [unit])
        if slot not in blamed:
            blamed.add(slot)
            _keep(cell.bad_units, [unit])
    for cell in counts.cells.values():
        cell.requests += cell.in_flight
        cell.bad += cell.in_flight
        cell.in_flight = 0
    return counts


def has_writer(path: Path) -> bool:
    """Whether a live process holds the file's lock."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _read_slots(data: mmap.mmap, words: memoryview) -> dict[CellKey, CellCounts]:
    found: dict[CellKey, CellCounts] = {}
    for slot in range(min(words[_SLOTS_USED], SLOTS_MAX)):
        at = _HEADER + slot * _SLOT
        release, epoch, segment, arm = msgspec.msgpack.decode(_key(data, at))
        found[CellKey(release, epoch, segment, arm)] = _read_cell(words, at)
    return found


def _read_cell(words: memoryview, at: int) -> CellCounts:
    numbers = words[at + _KEY : at + _KEY + _COUNTERS].tolist()
    seen = words[at + _SEEN : at + _SEEN + min(numbers[_SEEN_COUNT], UNITS_MAX)]
    bad = words[at + _BAD : at + _BAD + min(numbers[_BAD_UNITS], UNITS_MAX)]
    requests, ok, wrong, in_flight, plus, zero, minus = numbers[:7]
    return CellCounts(
        requests, ok, wrong, in_flight, plus, zero, minus,
        numbers[_ALIKE], numbers[_DIFFER], numbers[_TIMED],
        tuple(numbers[_SLOW : _SLOW + SLOW_MAX]),
        dict.fromkeys(seen.tolist()), dict.fromkeys(bad.tolist()),
    )  # fmt: skip


def _key(data: mmap.mmap, at: int) -> bytes:
    size = int.from_bytes(data[at * 8 : at * 8 + 8], "little")
    return data[at * 8 + 8 : at * 8 + 8 + size]


def _flights(path: Path) -> list[tuple[int, int]]:
    with path.open("rb") as file:
        file.seek(_FLIGHTS_AT * 8)
        with memoryview(file.read(FLIGHTS_MAX * 16)) as raw, raw.cast("Q") as words:
            found = words.tolist()
    return [(found[at] - 1, found[at + 1]) for at in range(0, len(found), 2) if found[at]]


def _add_cell(into: CellCounts, other: CellCounts) -> None:
    into.requests += other.requests
    into.ok += other.ok
    into.bad += other.bad
    into.in_flight += other.in_flight
    into.plus += other.plus
    into.zero += other.zero
    into.minus += other.minus
    into.alike += other.alike
    into.differ += other.differ
    into.timed += other.timed
    into.slow = tuple(map(add, into.slow, other.slow))
    _keep(into.seen, other.seen)
    _keep(into.bad_units, other.bad_units)


def _keep(into: dict[int, None], units: Iterable[int]) -> None:
    for unit in units:
        if len(into) >= UNITS_MAX:
            return
        into[unit] = None
