"""Parts of a call: its rows cut by whose turn it is, put together for a model, and divided."""

from __future__ import annotations

import math
import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from doorstep.core.ids import hash_unit
from doorstep.core.plan import REST, ReleasePlan
from doorstep.formats.batch import Batch
from doorstep.serve.call import Call, Mark, Part
from doorstep.serve.limits import ENGINE_BATCH_ROWS_MAX
from doorstep.serve.version import Version

SMALL_BATCH_ROWS = 8


def marks_of(call: Call) -> list[Mark]:
    """What the call is marked as in evidence cells: each once, however it was divided."""
    marks = [part.mark for part in call.parts if part.mark is not None]
    return marks if len(marks) < 2 else list({id(mark): mark for mark in marks}.values())


def units_of(part: Part) -> list[int]:
    """The hashes of the units whose rows these are."""
    call = part.call
    units = call.parsed.units
    if units is None:
        return [hash_unit("unit", call.id)]
    rows = part.rows if part.rows is not None else range(part.count)
    return [hash_unit("unit", one) for one in dict.fromkeys(units[at] or call.id for at in rows)]


def mark_of(part: Part, cell: int, release: ReleasePlan, *, is_alone: bool) -> Mark:
    """Its mark, not yet in flight. The latency of a call is that of its only part, or of none."""
    slow_us = release.slow_challenger_us if part.challenger else release.slow_us
    sticks = part.call.parsed.units is not None
    return Mark(cell, units_of(part), [], slow_us=slow_us if is_alone else (), sticks=sticks)


def is_divisible(part: Part) -> bool:
    """Whether it matters which of the rows fail, and there is time to find out."""
    if part.count == 1:
        return False
    tried = {*(part.tried or ()), part.version.number if part.version else 0}
    _, other = part.call.service.next_link(part.step, tried)
    if other is None and part.mark is None:
        return False
    part.deadline_ns = deadline_ns(part)
    return time.monotonic_ns() < part.deadline_ns


def divide(part: Part) -> list[Part]:
    """Two halves in place of a part that fails: a row that fails for itself is found by halving."""
    middle = part.count // 2
    return cut_up(part, [list(range(middle)), list(range(middle, part.count))])


def split(part: Part, fits: list[bool]) -> list[Part]:
    """The rows of a part for which it is so, and the others, if there are any."""
    pieces = [[at for at, one in enumerate(fits) if one is kind] for kind in (True, False)]
    return cut_up(part, [one for one in pieces if one])


def cut_up(part: Part, pieces: list[list[int]]) -> list[Part]:
    """Parts in place of a part: one for each list of positions in it."""
    if len(pieces) == 1:
        return [part]
    call, keys = part.call, part.keys
    rows = part.rows if part.rows is not None else range(part.count)
    made = [
        msgspec.structs.replace(
            part,
            count=len(piece),
            rows=[rows[at] for at in piece],
            tried=set(part.tried) if part.tried else None,
            keys=[keys[at] for at in piece] if keys else None,
        )
        for piece in pieces
    ]
    at = next(at for at, one in enumerate(call.parts) if one is part)
    call.parts[at : at + 1] = made
    call.open += len(made) - 1
    return made


def is_finite(found: NDArray[np.float64], scores: list[list[float]]) -> bool:
    """Whether all scores are finite numbers: the fastest way that there is for their number."""
    if len(scores) > SMALL_BATCH_ROWS:
        return math.isfinite(found.sum())
    return math.isfinite(sum(map(sum, scores)))


def cut_call(call: Call) -> list[Part]:
    """The parts of a call: its rows by assigned version and segment, in the order of the rows."""
    service, parsed = call.service, call.parsed
    groups: dict[tuple[str, bool], list[int]] = {}
    for at in range(parsed.count):
        segment = parsed.segments[at] if parsed.segments else REST
        unit = (parsed.units[at] if parsed.units else "") or call.id
        groups.setdefault((segment, service.challenges(unit, segment)), []).append(at)
    parts = []
    for (segment, challenger), rows in groups.items():
        number = service.plan.champion or 0
        if challenger and service.release is not None:
            number = service.release.challenger
        version = service.versions.get(number)
        mine = None if len(groups) == 1 else rows
        part = Part(call, len(rows), mine, version, number, segment, challenger)
        part.share = service.share(segment)
        parts.append(part)
    return parts


def batch_of(version: Version, parts: list[Part]) -> Batch:
    first = parts[0]
    data, texts, rows = first.numbers(), first.texts(), first.count
    if len(parts) > 1:
        data = b"".join(
            [one.call.parsed.numbers if one.rows is None else one.numbers() for one in parts]
        )
        rows = sum([one.count for one in parts])
        if texts:
            texts = [row for one in parts for row in one.texts()]
    width = first.call.service.reader.width
    return version.columns.batch(np.frombuffer(data).reshape(rows, width), texts)


def chunks_of(parts: list[Part]) -> list[list[Part]]:
    """Batches of a bounded number of rows, so that one turn's memory is bounded."""
    if len(parts) == 1:
        return [parts]
    chunks: list[list[Part]] = [[]]
    rows = 0
    for part in parts:
        if chunks[-1] and rows + part.count > ENGINE_BATCH_ROWS_MAX:
            chunks.append([])
            rows = 0
        chunks[-1].append(part)
        rows += part.count
    return chunks


def deadline_ns(part: Part) -> int:
    """When this attempt must be over. While somebody can still answer instead, an attempt gets
    half of what is left of the request's time, so that the other has the rest."""
    if part.deadline_ns:
        return part.deadline_ns
    tried = {*(part.tried or ()), part.version.number if part.version else 0}
    return attempt_until_ns(part.call, part.step, tried)


def attempt_until_ns(call: Call, step: int, tried: set[int]) -> int:
    """As `deadline_ns`, of the attempt of which it is known what is tried and what can follow."""
    last = call.began_ns + call.service.timeout_ns
    if not call.service.has_version(step, tried):
        return last
    now = time.monotonic_ns()
    return now + max(last - now, 0) // 2
