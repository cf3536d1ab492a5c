"""What the journal says of one metric of a release: read and added up in a child, part by part.

Evidence is a sum over units, so parts in which every unit is whole say together what all rows say,
however many they are, and memory holds one part. Nothing is kept between two looks: after a restart
the evidence is the same. Blocks of fairness are in order of time over all units: of these the first
million count.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.record import Kind
from doorstep.journal import duck
from doorstep.journal.away import ask_child
from doorstep.journal.joined import OutcomeArrays, Trials, joined_parts
from doorstep.journal.snapshot import take_snapshots
from doorstep.release.groups import gap_cells
from doorstep.release.losses import loss_cells, rankings_of, shadow_epochs, told_of, trials_of
from doorstep.release.types import Guardrail, LossCell, Ranking, Release

TIMEOUT_S = 1800.0
"""Ten million outcomes take some minutes; it is looked again ten times as long after."""
MEMORY_MB = 4096
"""Address space of the child."""
CHILD_KEPT_S = 60.0


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """metric: the name of the cells."""

    home: str
    release: Release
    metric: str
    guardrail: Guardrail
    now: Instant


class Read(msgspec.Struct, frozen=True):
    """What the journal said of one release."""

    cells: tuple[LossCell, ...] = ()
    rankings: tuple[Ranking, ...] = ()


def ask(asked: Asked) -> Read:
    """Raises: RefusedError (`child-died`, `child-timed-out`)."""
    answer = ask_child(
        Path(asked.home), __name__, msgspec.msgpack.encode(asked),
        timeout_s=TIMEOUT_S, memory_mb=MEMORY_MB, kept_s=CHILD_KEPT_S,
    )  # fmt: skip
    return msgspec.msgpack.decode(answer, type=Read)


def main(request: bytes) -> bytes:
    """The child's side of `ask`."""
    return msgspec.msgpack.encode(read(msgspec.msgpack.decode(request, type=Asked)))


def read(asked: Asked) -> Read:
    """Rankings of more than one part are those of the first, in which units are by chance."""
    release, guardrail = asked.release, asked.guardrail
    trials = _trials(release, guardrail)
    age_us = round(guardrail.delay_s * SECOND_US)
    # What is judged at an age is asked for up to it; a unit's later requests count for its first.
    until = asked.now - (age_us if trials is None else 0)
    cells: tuple[LossCell, ...] = ()
    rankings: tuple[Ranking, ...] | None = None
    with (
        tempfile.TemporaryDirectory() as temp,
        contextlib.closing(duck.connect(Path(temp))) as con,
    ):
        for part in joined_parts(
            con, take_snapshots(Path(asked.home)), release.service, (release.started_at, until),
            (int(Kind.LIVE), int(Kind.SHADOW)), trials, age_us,
            is_whole=guardrail.name == "fairness",
        ):  # fmt: skip
            cells = added([*cells, *_cells(part, asked)])
            if rankings is None and trials is None:
                rankings = rankings_of(part, release, guardrail.label)
    return Read(cells, rankings or ())


def _trials(release: Release, guardrail: Guardrail) -> Trials | None:
    if guardrail.metric.read == "outcomes":
        return None
    return Trials(
        field=guardrail.field,
        release=release.id,
        split=_used(release, guardrail),
        whole=tuple(shadow_epochs(release)),
    )


def _used(release: Release, guardrail: Guardrail) -> tuple[str, ...]:
    """Places in which units are met. Of fairness the challenger's own gap counts, wherever it
    answers."""
    return tuple(
        f"{epoch.number} {segment}"
        for epoch in release.epochs
        for segment in release.spec.segments
        if release.is_split(epoch, segment)
        or (guardrail.name == "fairness" and epoch.measured and epoch.share > 0.0)
    )


def _cells(arrays: OutcomeArrays, asked: Asked) -> tuple[LossCell, ...]:
    release, guardrail = asked.release, asked.guardrail
    if guardrail.name == "fairness":
        return gap_cells(arrays, release, guardrail)
    if guardrail.metric.read == "outcomes":
        told = told_of(arrays, release, guardrail)
    else:
        told = trials_of(arrays, release, guardrail, asked.now)
    return loss_cells(told, release, guardrail, asked.metric)


def added(cells: Iterable[LossCell]) -> tuple[LossCell, ...]:
    """Those of one metric, epoch and segment together."""
    found: dict[tuple[object, ...], LossCell] = {}
    for one in cells:
        key = (one.metric, one.part, one.epoch, one.segment, one.paired)
        found[key] = _sum(found[key], one) if key in found else one
    return tuple(found[key] for key in sorted(found))


def _sum(a: LossCell, b: LossCell) -> LossCell:
    def both(name: str) -> tuple[float, ...]:
        return tuple(x + y for x, y in zip(getattr(a, name), getattr(b, name), strict=True))

    names = ("champion", "challenger", "sums", "worse", "better")
    return msgspec.structs.replace(a, **{name: both(name) for name in names})
