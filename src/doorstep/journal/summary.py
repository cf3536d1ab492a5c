"""What a file of records comes to, as counts that add up.

A window of time costs what its summaries cost, not its rows. `merge` is associative and
commutative, exactly: everything in a cell is an integer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from operator import add

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.errors import InputError
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.manifest import decode_part
from doorstep.stats.codes import CODES

FORMAT = 3
FORMATS_READ = (1, 2, 3)
"""1 has neither pairs of columns nor counts of releases: a window with some of both has the pairs
of a part of its rows, which `PairSums.rows` says. 1 and 2 spell out each count by code."""
PACKED_SIZES = (1, 2, 4, 8)
_NOTHING = np.zeros(0, dtype=np.int64)
BUCKET_S = 10
"""The finest window that counts can answer: ten seconds, minutes after an hourly merge."""
MINUTE_S = 60
HOUR_S = 3600
STATUSES = 6
LATENCY_BINS = 104
"""Four to a doubling, from 1 us to 67 s: a quantile read from them is at most 19 % off."""
SCORE_UNIT = 1e-6
"""Scores are summed as whole multiples of this, so that the order of adding does not matter."""
SCORE_MAX = 1e12
CellKey = tuple[int, int, int, int, str]
ReleaseKey = tuple[str, int, str, int, int]
Counts = tuple[int, ...]


class ColumnCount(msgspec.Struct, frozen=True, array_like=True):
    """nulls: missing values. codes: 32 counts by code (`stats.codes`), of values that are not
    missing; () where the version's profile does not have the column."""

    nulls: int
    codes: Counts = ()


def pack(numbers: NDArray[np.int64]) -> bytes:
    """Whole numbers in as many bytes each (1, 2, 4 or 8) as the largest needs, which the first byte
    says: equal numbers are equal bytes. Tuples take five times the memory, and time to read."""
    if not numbers.size:
        return b""
    widest = max(int(numbers.max()), -int(numbers.min()) - 1)
    size = next(one for one in PACKED_SIZES if widest < 1 << (8 * one - 1))
    return bytes((size,)) + numbers.astype(f"<i{size}").tobytes()


def unpack(data: bytes) -> NDArray[np.int64]:
    return np.frombuffer(data, f"<i{data[0]}", offset=1).astype(np.int64) if data else _NOTHING


def _add_packed(one: bytes, other: bytes) -> bytes:
    """Raises: ValueError if they are of another number of numbers."""
    if not one or not other:
        return one or other
    numbers, more = unpack(one), unpack(other)
    if numbers.size != more.size:
        raise ValueError(f"{numbers.size} and {more.size} numbers cannot be added")
    return pack(numbers + more)


class Counted(msgspec.Struct, frozen=True, array_like=True):
    """Columns as they are kept. nulls: missing values of each column, by name; those with codes
    come first. codes: packed, 32 of each column that has some."""

    nulls: dict[str, int] = {}
    codes: bytes = b""

    @property
    def columns(self) -> dict[str, ColumnCount]:
        rows = unpack(self.codes).reshape(-1, CODES).tolist()
        codes = [*map(tuple, rows), *((),) * (len(self.nulls) - len(rows))]
        return {
            name: ColumnCount(nulls, one)
            for (name, nulls), one in zip(self.nulls.items(), codes, strict=True)
        }


def keep_columns(columns: Mapping[str, ColumnCount]) -> Counted:
    names = sorted(columns, key=lambda name: (not columns[name].codes, name))
    codes = [columns[name].codes for name in names if columns[name].codes]
    nulls = {name: columns[name].nulls for name in names}
    return Counted(nulls, pack(np.array(codes, dtype=np.int64).reshape(-1)))


def add_columns(one: Counted, other: Counted) -> Counted:
    unlike = [*one.nulls] != [*other.nulls]
    if unlike or unpack(one.codes).size != unpack(other.codes).size:
        return _add_unlike(one.columns, other.columns)
    nulls = {name: count + other.nulls[name] for name, count in one.nulls.items()}
    return Counted(nulls, _add_packed(one.codes, other.codes))


def _add_unlike(one: dict[str, ColumnCount], other: dict[str, ColumnCount]) -> Counted:
    found = dict(one)
    for name, count in other.items():
        mine = found.get(name, ColumnCount(0))
        found[name] = ColumnCount(mine.nulls + count.nulls, _add(mine.codes, count.codes))
    return keep_columns(found)


class ScoreSum(msgspec.Struct, frozen=True, array_like=True):
    """Of the finite scores of one output: how many, their sum in SCORE_UNIT and the sum of their
    squares in SCORE_UNIT. Beyond +-SCORE_MAX a score is taken as that."""

    rows: int
    total: int
    squares: int

    @property
    def mean(self) -> float:
        """NaN if there are no rows."""
        return self.total * SCORE_UNIT / self.rows if self.rows else float("nan")


class PairSums(msgspec.Struct, frozen=True, array_like=True):
    """Of how many rows, and the sum of the products of each pair of `Profile.pairs` columns
    (`stats.pairs.cross_products`), packed; b"" if there are none."""

    rows: int = 0
    products: bytes = b""

    @property
    def sums(self) -> NDArray[np.int64]:
        return unpack(self.products)


class ReleaseCount(msgspec.Struct, frozen=True, kw_only=True):
    """What a release asked of a version in one of its epochs, as nodes count it in their cells: the
    part of a request that was assigned together is one; of shadows each row is.

    ok: the assigned version answered, at least in part. passed: it was not asked, which may say
    nothing of it. failed: all others.
    """

    release: str
    epoch: int
    segment: str
    assigned: int
    kind: int
    ok: int
    failed: int
    passed: int

    @property
    def key(self) -> ReleaseKey:
        return (self.release, self.epoch, self.segment, self.assigned, self.kind)


class Cell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Records of one bucket (ten seconds; after a merge a minute or an hour), version, kind and
    segment.

    at: the start, a multiple of the summary's bucket. version: who answered; assigned: whose turn
    it was. statuses: rows by `core.record.Status`. errors: rows where the caller got an error.
    warned: rows with a warning. latency: rows by quarter-doubling of microseconds.
    """

    at: Instant
    version: int
    assigned: int
    kind: int
    segment: str
    rows: int
    statuses: Counts
    errors: int
    warned: int
    latency: Counts
    counted: Counted = Counted()
    scores: dict[str, ScoreSum] = {}
    pairs: PairSums = PairSums()
    spelled: dict[str, ColumnCount] = msgspec.field(default_factory=dict, name="columns")
    """What a summary of a format before this has for `counted`: nothing once it is read."""

    @property
    def columns(self) -> dict[str, ColumnCount]:
        return self.counted.columns

    @property
    def key(self) -> CellKey:
        return (self.at, self.version, self.assigned, self.kind, self.segment)

    @property
    def failed(self) -> int:
        """Rows where the assigned version did not do its job."""
        return self.rows - self.statuses[0]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """cells: ordered by key, each key once. outcomes: how many became true, by bucket. releases:
    likewise ordered; of all its time, a release has epochs instead of buckets."""

    format: int = FORMAT
    service: str
    bucket_s: int = BUCKET_S
    cells: tuple[Cell, ...] = ()
    outcomes: dict[int, int] = {}
    releases: tuple[ReleaseCount, ...] = ()


def merge(one: Summary, other: Summary) -> Summary:
    """Both together. Summaries of different buckets meet in the coarser one.

    Raises: ValueError if they are of different services.
    """
    return merge_all(one.service, (one, other))


def add_releases(counts: Iterable[ReleaseCount]) -> tuple[ReleaseCount, ...]:
    """Each key once, in order."""
    found: dict[ReleaseKey, ReleaseCount] = {}
    for one in counts:
        was = found.get(one.key)
        found[one.key] = one if was is None else _add_release(was, one)
    return tuple(found[key] for key in sorted(found))


def _add_release(one: ReleaseCount, other: ReleaseCount) -> ReleaseCount:
    return msgspec.structs.replace(
        one,
        ok=one.ok + other.ok,
        failed=one.failed + other.failed,
        passed=one.passed + other.passed,
    )


def merge_all(service: str, summaries: Iterable[Summary]) -> Summary:
    """All together; an empty summary if there are none.

    Raises: ValueError if one is of another service.
    """
    given = list(summaries)
    if others := {one.service for one in given} - {service}:
        raise ValueError(f"{service} and {', '.join(sorted(others))} do not merge")
    bucket_s = max((one.bucket_s for one in given), default=BUCKET_S)
    found = [coarsen(one, bucket_s) for one in given]
    outcomes: dict[int, int] = {}
    for one in found:
        for at, count in one.outcomes.items():
            outcomes[at] = outcomes.get(at, 0) + count
    return Summary(
        service=service,
        bucket_s=bucket_s,
        cells=_add_equal_keys(cell for one in found for cell in one.cells),
        outcomes=dict(sorted(outcomes.items())),
        releases=add_releases(count for one in found for count in one.releases),
    )


def coarsen(summary: Summary, bucket_s: int) -> Summary:
    """The same in wider buckets. bucket_s: a multiple of the summary's own.

    Raises: ValueError if it is not.
    """
    if bucket_s == summary.bucket_s:
        return summary
    if bucket_s % summary.bucket_s:
        raise ValueError(f"{bucket_s} s is not a multiple of {summary.bucket_s} s")
    cells = [msgspec.structs.replace(one, at=floor(one.at, bucket_s)) for one in summary.cells]
    outcomes: dict[int, int] = {}
    for at, count in summary.outcomes.items():
        outcomes[floor(at, bucket_s)] = outcomes.get(floor(at, bucket_s), 0) + count
    return msgspec.structs.replace(
        summary, bucket_s=bucket_s, cells=_add_equal_keys(cells), outcomes=outcomes
    )


def window(summary: Summary, since: Instant, until: Instant) -> Summary:
    """The buckets that start in [since, until), and the releases of all of it."""
    return msgspec.structs.replace(
        summary,
        cells=tuple(one for one in summary.cells if since <= one.at < until),
        outcomes={at: n for at, n in summary.outcomes.items() if since <= at < until},
    )


def floor(at: Instant, bucket_s: int) -> Instant:
    """The start of the bucket that `at` is in."""
    return at - at % (bucket_s * SECOND_US)


def _add_equal_keys(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    by_key: dict[CellKey, Cell] = {}
    for cell in cells:
        key = cell.key
        found = by_key.get(key)
        by_key[key] = cell if found is None else _add_cells(found, cell)
    return tuple(by_key[key] for key in sorted(by_key))


def _add_cells(one: Cell, other: Cell) -> Cell:
    scores = dict(one.scores)
    for name, score in other.scores.items():
        was = scores.get(name, ScoreSum(0, 0, 0))
        scores[name] = ScoreSum(
            was.rows + score.rows, was.total + score.total, was.squares + score.squares
        )
    return msgspec.structs.replace(
        add_counts(one, other),
        counted=add_columns(one.counted, other.counted),
        scores=dict(sorted(scores.items())),
        pairs=add_pairs(one.pairs, other.pairs),
    )


def add_pairs(one: PairSums, other: PairSums) -> PairSums:
    """Raises: ValueError if they are of another number of pairs."""
    return PairSums(one.rows + other.rows, _add_packed(one.products, other.products))


def add_counts(one: Cell, other: Cell) -> Cell:
    """`one` with the rows, statuses, errors, warnings and latencies of `other` added; columns,
    scores and pairs stay as they are."""
    return msgspec.structs.replace(
        one,
        rows=one.rows + other.rows,
        statuses=_add(one.statuses, other.statuses),
        errors=one.errors + other.errors,
        warned=one.warned + other.warned,
        latency=_add(one.latency, other.latency),
    )


def _add(one: Counts, other: Counts) -> Counts:
    if not one or not other:
        return one or other
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} counts cannot be added")
    return tuple(map(add, one, other))


def latency_ms(counts: Counts, q: float) -> float:
    """The q-quantile (0..1) of a latency histogram, at most 19 % above the true one; NaN if it is
    empty."""
    total = sum(counts)
    if not total:
        return float("nan")
    cumulated = np.cumsum(counts)
    found = int(np.searchsorted(cumulated, max(1.0, q * total)))
    return float(2.0 ** ((found + 1) / 4) / 1000)


def encode_summary(summary: Summary) -> bytes:
    return msgspec.json.encode(summary)


def decode_summary(data: bytes) -> Summary:
    """Raises: InputError (`bad-summary`)."""
    found = decode_part(data, Summary, "summary", FORMATS_READ)
    try:
        if found.format != FORMAT:
            cells = tuple(map(_cell_of_before, found.cells))
            found = msgspec.structs.replace(found, format=FORMAT, cells=cells)
        for cell in found.cells:
            _require_packed(cell.counted.codes, CODES, len(cell.counted.nulls))
            _require_packed(cell.pairs.products)
    except ValueError as error:
        raise InputError("bad-summary", f"the summary cannot be read: {error}") from None
    return found


def _require_packed(data: bytes, width: int = 1, rows_max: int = sys.maxsize) -> None:
    """Raises: ValueError unless that is what `pack` makes of rows of so many numbers."""
    if not data:
        return
    size = data[0] * width
    rows, rest = divmod(len(data) - 1, size) if data[0] in PACKED_SIZES else (0, 1)
    if rest or not 0 < rows <= rows_max:
        raise ValueError(f"{len(data)} bytes are no packed numbers")


def _cell_of_before(cell: Cell) -> Cell:
    products = pack(np.frombuffer(cell.pairs.products, dtype="<i8"))
    return msgspec.structs.replace(
        cell,
        counted=keep_columns(cell.spelled),
        pairs=PairSums(cell.pairs.rows, products),
        spelled={},
    )
