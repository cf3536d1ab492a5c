"""Count a batch of records into summary cells: vectorised, some microseconds a row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from doorstep.core.instant import SECOND_US
from doorstep.core.manifest import ColumnProfile, Profile
from doorstep.core.record import SEALED, Kind, OutcomeRecord, Status
from doorstep.journal.codes import code_column, count_by_group
from doorstep.journal.columns import Batch
from doorstep.journal.duck import Array
from doorstep.journal.summary import (
    BUCKET_S,
    HOUR_S,
    LATENCY_BINS,
    MINUTE_S,
    SCORE_MAX,
    SCORE_UNIT,
    STATUSES,
    Cell,
    CellKey,
    ColumnCount,
    PairSums,
    ReleaseCount,
    ScoreSum,
    Summary,
    add_releases,
    floor,
    keep_columns,
    pack,
)
from doorstep.stats.pairs import cross_products, score_table

Profiles = Callable[[str, int], Profile | None]
"""(service, version) -> its reference profile, or None if it is not to be had."""
Groups = NDArray[np.intp]
Codes = NDArray[np.uint8]
_Placed = tuple[str, int, str, int, int, int]
"""(release, epoch, segment, assigned, kind, status) of a row."""
OUTPUT = "out."
SPANS = ((HOUR_S, BUCKET_S), (24 * HOUR_S, MINUTE_S), (math.inf, HOUR_S))
"""The longest span of a batch, and the bucket that it is counted in."""
_PREFIXES = ("in.", "ctx.")


def no_profiles(_service: str, _version: int) -> Profile | None:
    return None


def tally(batch: Batch, profiles: Profiles) -> Summary:
    """The batch as a summary in the finest buckets, or coarser ones where it spans a long time, as
    what is imported does. Codes are against the profile of the version that answered, or of the
    assigned one if none did."""
    bucket_s = bucket_of(batch)
    keys, groups = _group(batch, bucket_s)
    counts = _count_rows(batch, groups, len(keys))
    columns, pairs = _count_columns(batch, keys, groups, profiles)
    scores = _sum_scores(batch, groups, len(keys))
    cells = [
        Cell(
            at=key[0],
            version=key[1],
            assigned=key[2],
            kind=key[3],
            segment=key[4],
            rows=sum(counts["statuses"][i]),
            statuses=tuple(counts["statuses"][i]),
            errors=counts["errors"][i][1],
            warned=counts["warned"][i][1],
            latency=tuple(counts["latency"][i]),
            counted=keep_columns(columns[i]),
            scores=scores[i],
            pairs=pairs[i],
        )
        for i, key in enumerate(keys)
    ]
    cells.sort(key=lambda one: one.key)
    return Summary(
        service=batch.layout.service,
        bucket_s=bucket_s,
        cells=tuple(cells),
        releases=_count_releases(batch),
    )


def _count_releases(batch: Batch) -> tuple[ReleaseCount, ...]:
    """A request's rows that were assigned together are one, as nodes count them."""
    fields = batch.fields
    if not any(fields["release"]):
        return ()
    names = ("release", "epoch", "segment", "assigned", "kind", "status")
    rows: Iterable[_Placed] = zip(*(fields[name] for name in names), strict=True)
    if any(fields["row"]):
        rows = _together(zip(fields["request"], fields["row"], rows, strict=True))
    found = Counter(one for one in rows if one[0])
    return add_releases(
        ReleaseCount(
            release=release,
            epoch=epoch,
            segment=segment,
            assigned=assigned,
            kind=kind,
            ok=count if status == Status.OK else 0,
            passed=count if status == Status.UNAVAILABLE else 0,
            failed=0 if status in (Status.OK, Status.UNAVAILABLE) else count,
        )
        for (release, epoch, segment, assigned, kind, status), count in found.items()
    )


def _together(rows: Iterable[tuple[bytes, int, _Placed]]) -> Iterator[_Placed]:
    """One for the rows of a request in one place, OK if any of them is. Shadows stay apart."""
    best: dict[tuple[object, ...], _Placed] = {}
    for request, row, placed in rows:
        *place, kind, status = placed
        key = (request, *place, row if kind == Kind.SHADOW else -1)
        if key not in best or status < best[key][-1]:
            best[key] = placed
    return iter(best.values())


def bucket_of(batch: Batch) -> int:
    """A month in buckets of ten seconds would be a cell for nearly each row."""
    ats = batch.fields["at"]
    span_s = (max(ats) - min(ats)) / SECOND_US if ats else 0.0
    return next(bucket_s for longest_s, bucket_s in SPANS if span_s <= longest_s)


def tally_outcomes(service: str, outcomes: Sequence[OutcomeRecord]) -> Summary:
    """How many outcomes became true in each bucket."""
    buckets: dict[int, int] = {}
    for one in outcomes:
        at = floor(one.at, BUCKET_S)
        buckets[at] = buckets.get(at, 0) + 1
    return Summary(service=service, outcomes=dict(sorted(buckets.items())))


def _group(batch: Batch, bucket_s: int) -> tuple[list[CellKey], Groups]:
    """(the keys that occur, the key number of each row)."""
    ats, fields = batch.integers["at"], batch.fields
    starts = ats - ats % (bucket_s * SECOND_US)
    others = ("version", "assigned", "kind", "segment")
    if batch.constants.issuperset(others):
        times, groups = np.unique(starts, return_inverse=True)
        return [(at, *(fields[name][0] for name in others)) for at in times.tolist()], groups
    of = (fields[name] for name in others)
    found: list[CellKey] = list(zip(starts.tolist(), *of, strict=True))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(found))}
    return list(numbers), np.array([numbers[key] for key in found], dtype=np.intp)


def _count_rows(batch: Batch, groups: Groups, count: int) -> dict[str, list[list[int]]]:
    computed = ~np.array(batch.fields["cached"], dtype=np.bool_)
    # -1: nobody answered. A version that failed while another answered is in `statuses`.
    errors = batch.integers["version"] < 0
    warned = np.array([bool(one) for one in batch.fields["warnings"]], dtype=np.bool_)
    statuses = np.clip(batch.integers["status"], 0, STATUSES - 1)
    bins = latency_bins(batch.integers["latency_us"])
    return {
        "errors": _crosstab(groups, errors, count, 2),
        "warned": _crosstab(groups, warned, count, 2),
        "statuses": _crosstab(groups, statuses, count, STATUSES),
        "latency": _crosstab(groups[computed], bins[computed], count, LATENCY_BINS),
    }


def latency_bins(latencies_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """floor(4 log2 us), 0..LATENCY_BINS - 1."""
    bins: NDArray[np.int64] = np.floor(4 * np.log2(np.maximum(latencies_us, 1))).astype(np.int64)
    return np.minimum(bins, LATENCY_BINS - 1)


def _crosstab(groups: Groups, values: Array, count: int, width: int) -> list[list[int]]:
    flat = np.bincount(groups * width + values, minlength=count * width)
    made: list[list[int]] = flat.reshape(count, width).tolist()
    return made


def _count_columns(
    batch: Batch, keys: Sequence[CellKey], groups: Groups, profiles: Profiles
) -> tuple[list[dict[str, ColumnCount]], list[PairSums]]:
    counted: list[dict[str, ColumnCount]] = [{} for _ in keys]
    pairs = [PairSums()] * len(keys)
    profiled = [key[1] if key[1] > 0 else key[2] for key in keys]
    for version in sorted(set(profiled)):
        chosen, of = batch.values, groups
        members = np.array([v == version for v in profiled])[groups]
        if not members.all():
            chosen = {name: array[members] for name, array in chosen.items()}
            of = groups[members]
        profile = profiles(batch.layout.service, version)
        codes = _codes(chosen, profile)
        columns = _count_version(chosen, codes, of, len(keys))
        sums = _sum_pairs(codes, profile, of, len(keys))
        for i, one in enumerate(profiled):
            if one == version:
                counted[i] = {name: column[i] for name, column in columns.items()}
                pairs[i] = sums[i]
    return counted, pairs


def _codes(values: Mapping[str, Array], profile: Profile | None) -> dict[str, Codes]:
    """Of the columns that the profile has."""
    known = _by_column(profile)
    return {name: code_column(one, known[name]) for name, one in values.items() if name in known}


def _count_version(
    values: Mapping[str, Array], codes: Mapping[str, Codes], groups: Groups, count: int
) -> dict[str, list[ColumnCount]]:
    found: dict[str, list[ColumnCount]] = {}
    for name, array in values.items():
        if name in codes:
            table, nulls = count_by_group(codes[name], groups, count)
            rows = zip(nulls.tolist(), map(tuple, table.tolist()), strict=True)
            found[name] = [ColumnCount(*one) for one in rows]
        elif name not in ("out.answer", SEALED):
            missing = np.bincount(groups, weights=_is_null(array), minlength=count)
            found[name] = [ColumnCount(int(one)) for one in missing]
    return found


def _sum_pairs(
    codes: Mapping[str, Codes], profile: Profile | None, groups: Groups, count: int
) -> list[PairSums]:
    """A column that these records do not have is missing in all of them."""
    columns = profile.pairs.columns if profile is not None else ()
    known, place = _by_column(profile), {name: at for at, name in enumerate(columns)}
    # An answer may be called as a column is: "1".
    inputs = (name for name in known if name in codes and not name.startswith(OUTPUT))
    mine = {place[known[name].name]: name for name in inputs if known[name].name in place}
    if not mine:
        return [PairSums()] * count
    scores = np.zeros((len(columns), groups.size))
    for at, name in mine.items():
        np.take(score_table(known[name].counts), codes[name], out=scores[at], mode="clip")
    if (groups[1:] < groups[:-1]).any():
        order = np.argsort(groups, kind="stable")
        groups, scores = groups[order], scores[:, order]
    bounds = np.searchsorted(groups, np.arange(count + 1)).tolist()
    return [
        PairSums(end - start, pack(cross_products(scores[:, start:end].T)))
        for start, end in pairwise(bounds)
    ]


def _by_column(profile: Profile | None) -> dict[str, ColumnProfile]:
    """Column name of the journal -> its profile."""
    if profile is None:
        return {}
    inputs = {prefix + one.name: one for one in profile.columns for prefix in _PREFIXES}
    return inputs | {OUTPUT + one.name: one for one in profile.scores}


def _is_null(array: Array) -> Array:
    if array.dtype != object:
        return np.isnan(array)
    found: Array = np.equal(array, np.array(None)).astype(np.bool_)
    return found


def _sum_scores(batch: Batch, groups: Groups, count: int) -> list[dict[str, ScoreSum]]:
    summed: list[dict[str, ScoreSum]] = [{} for _ in range(count)]
    for i, column in enumerate(batch.layout.numbers):
        if not column.name.startswith(OUTPUT):
            continue
        found = batch.matrix[:, i]
        finite = np.isfinite(found)
        chosen, values = groups[finite], np.clip(found[finite], -SCORE_MAX, SCORE_MAX)
        rows = np.bincount(chosen, minlength=count)
        totals = np.bincount(chosen, weights=values, minlength=count) / SCORE_UNIT
        squares = np.bincount(chosen, weights=values**2, minlength=count) / SCORE_UNIT
        for group in range(count):
            summed[group][column.name] = ScoreSum(
                int(rows[group]), round(totals[group]), round(squares[group])
            )
    return summed
