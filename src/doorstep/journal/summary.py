"""What a file of records comes to, as counts that add up.

A window of time costs what its summaries cost, not its rows. `merge` is associative and
commutative, exactly: everything in a cell is an integer.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.manifest import decode_part

FORMAT = 2
FORMATS_READ = (1, 2)
"""1 has neither pairs of columns nor counts of releases: a window with some of both has the pairs
of a part of its rows, which `PairSums.rows` says."""
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
    (`stats.pairs.cross_products`), int64, little-endian; b"" if there are none. As bytes they take
    a quarter of the memory, and are added at once."""

    rows: int = 0
    products: bytes = b""

    @property
    def sums(self) -> NDArray[np.int64]:
        return np.frombuffer(self.products, dtype="<i8")


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


class Cell(msgspec.Struct, frozen=True, kw_only=True):
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
    columns: dict[str, ColumnCount] = {}
    scores: dict[str, ScoreSum] = {}
    pairs: PairSums = PairSums()

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
    if one.service != other.service:
        raise ValueError(f"{one.service} and {other.service} do not merge")
    bucket_s = max(one.bucket_s, other.bucket_s)
    one, other = coarsen(one, bucket_s), coarsen(other, bucket_s)
    outcomes = dict(one.outcomes)
    for at, count in other.outcomes.items():
        outcomes[at] = outcomes.get(at, 0) + count
    return Summary(
        service=one.service,
        bucket_s=bucket_s,
        cells=_add_equal_keys((*one.cells, *other.cells)),
        outcomes=dict(sorted(outcomes.items())),
        releases=add_releases((*one.releases, *other.releases)),
    )


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
    """All together; an empty summary if there are none."""
    return reduce(merge, summaries, Summary(service=service))


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
        found = by_key.get(cell.key)
        by_key[cell.key] = cell if found is None else _add_cells(found, cell)
    return tuple(by_key[key] for key in sorted(by_key))


def _add_cells(one: Cell, other: Cell) -> Cell:
    columns, scores = dict(one.columns), dict(one.scores)
    for name, count in other.columns.items():
        mine = columns.get(name, ColumnCount(0))
        columns[name] = ColumnCount(mine.nulls + count.nulls, _add(mine.codes, count.codes))
    for name, score in other.scores.items():
        was = scores.get(name, ScoreSum(0, 0, 0))
        scores[name] = ScoreSum(
            was.rows + score.rows, was.total + score.total, was.squares + score.squares
        )
    return msgspec.structs.replace(
        add_counts(one, other),
        columns=dict(sorted(columns.items())),
        scores=dict(sorted(scores.items())),
        pairs=add_pairs(one.pairs, other.pairs),
    )


def add_pairs(one: PairSums, other: PairSums) -> PairSums:
    """Raises: ValueError if they are of another number of pairs."""
    if not one.products or not other.products:
        return PairSums(one.rows + other.rows, one.products or other.products)
    both = (one.sums + other.sums).astype("<i8", copy=False)
    return PairSums(one.rows + other.rows, both.tobytes())


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
    return decode_part(data, Summary, "summary", FORMATS_READ)
