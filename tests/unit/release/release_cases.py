"""Small releases and evidence for tests: real types, made in one line."""

from __future__ import annotations

from typing import Any

import numpy as np

from doorstep.core.instant import SECOND_US
from doorstep.journal.joined import OutcomeArrays
from doorstep.release.decide import decide
from doorstep.release.transition import Beginning, apply, begin
from doorstep.release.types import Advance, Cell, Evidence, Release, ReleaseSpec, State

T0 = 1_800_000_000 * SECOND_US
QUICK = {"shadow_requests": 0, "warmup_s": 0.0}


def at(seconds: float) -> int:
    return T0 + round(seconds * SECOND_US)


def started(champion: int | None = 1, **spec: object) -> Release:
    what = Beginning(
        id="r1", service="loans", champion=champion, challenger=2, spec=ReleaseSpec(**spec)
    )
    return begin(what, T0)


def in_step(**spec: object) -> Release:
    """In the first step, without shadow and warm-up."""
    return started(**(QUICK | spec))


def arms(epoch: int, champion=(0, 0), challenger=(0, 0), segment: str = "") -> list[Cell]:
    """(units, bad units) of both arms in one epoch, one request a unit."""
    return [
        Cell(
            epoch=epoch,
            segment=segment,
            arm=arm,
            requests=n,
            successes=n - bad,
            units=n,
            first_units=n,
            bad_units=bad,
            bad_units_seen=bad,
        )
        for arm, (n, bad) in (("champion", champion), ("challenger", challenger))
    ]


def evidence(*cells: list[Cell], **rest: object) -> Evidence:
    return Evidence(cells=tuple(cell for part in cells for cell in part), **rest)


def shadow(plus: int, zero: int, minus: int, epoch: int = 1) -> Evidence:
    """Pairs of as many units, each of which came once."""
    cell = Cell(
        epoch=epoch,
        segment="",
        arm="challenger",
        requests=plus + zero + minus,
        bad_units=plus,
        units=minus,
        plus=plus,
        zero=zero,
        minus=minus,
    )
    return Evidence(cells=(cell,))


def in_bake(**spec: object) -> tuple[Release, list[Cell]]:
    """In BAKE by evidence, with the cells that brought it there."""
    release = in_step(steps=(0.5,), dwell_s=(0.0,), margins=(2.0,), **spec)
    cells = arms(1, (2000, 0), (2000, 0))
    decision = decide(release, evidence(cells), at(1))
    assert isinstance(decision.outcome, Advance)
    baking = apply(release, decision)
    assert baking.state is State.BAKE
    return baking, cells


def arrays_of(rows: list[dict[str, Any]]) -> OutcomeArrays:
    """One row per prediction, in order of time, all of a classifier unless it has a `score`;
    `yes` and `no` are probabilities."""
    outputs = [
        one for one, key in (("value", "score"), ("yes", "yes"), ("no", "no"))
        if any(key in row for row in rows)
    ]  # fmt: skip

    def texts(name: str, default: Any = "") -> Any:
        made = np.empty(len(rows), dtype=object)
        made[:] = [row.get(name, default) for row in rows]
        return made

    def integers(name: str, default: int = 0) -> Any:
        return np.array([row.get(name, default) for row in rows], dtype=np.int64)

    def floats(name: str) -> Any:
        return np.array([row.get(name, np.nan) for row in rows], dtype=np.float64)

    names = [row.get("id", f"p{place}") for place, row in enumerate(rows)]
    ids = np.empty(len(rows), dtype=object)
    ids[:] = names
    times = [row.get("at", place) for place, row in enumerate(rows)]
    return OutcomeArrays(
        id=ids, at=np.array(times, dtype=np.int64), version=integers("version", 1),
        assigned=integers("assigned", 1), kind=integers("kind"), segment=texts("segment"),
        release=texts("release", "r1"), epoch=integers("epoch", 1), unit=texts("unit"),
        answer=texts("answer", None), label=texts("label", None), value=floats("value"),
        outcome_at=integers("outcome_at"), received_at=integers("received_at"),
        scores={one: floats(one if one != "value" else "score") for one in outputs},
        latency_us=integers("latency_us", 1000), group=texts("group", None), is_cut=False,
    )  # fmt: skip
