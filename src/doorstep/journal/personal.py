"""Operations of sealed fields: who may read them, and the end of all reading."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Sequence

from doorstep.core.errors import DoorstepError, InputError
from doorstep.core.operation import operation
from doorstep.core.record import SEALED
from doorstep.journal import query
from doorstep.journal.erased import ERASED, closed_error, kept_subjects, require_subjects
from doorstep.journal.erasedlist import note_erased, remember, size_of
from doorstep.journal.holding import HOLDS, name_of, require_free, tell_compactors
from doorstep.journal.operations import find_row, views_of
from doorstep.journal.subjects import Erasure, Subjects
from doorstep.journal.surface import (
    Erased,
    EraseSubject,
    OpenPrediction,
    Prediction,
)
from doorstep.kernel.app import App
from doorstep.kernel.db import Unit
from doorstep.kernel.event import Object
from doorstep.kernel.ledger import Filter, read_events

OPENED = "prediction.opened"
SUBJECTS_AT_ONCE = 500
SEARCH_S_MAX, PAUSE_S_MAX = 600.0, 3600.0


@operation("prediction.open", permission="prediction:open", effect="write")
def open_prediction(app: App, asked: OpenPrediction) -> Prediction:
    """Show one prediction with its sealed fields; the ledger says who read them, and why."""
    if not asked.why.strip():
        raise InputError("no-reason", "why the personal fields are read is not said", "add --why")
    row = find_row(app, asked.prediction)
    values = require_subjects(app).open([row])[0] if row.get(SEALED) else {}
    if values is None:
        raise closed_error(app, row)

    def act(unit: Unit) -> None:
        about = Object("prediction", row["id"])
        unit.record(OPENED, about, {"service": row["service"], "why": asked.why})

    if values:
        app.database.run(act, app.actor)
    return views_of(app, row["service"], [row], [values])[0]


@operation("subject.erase", permission="subject:erase", effect="write")
def erase_subject(app: App, asked: EraseSubject) -> Erased:
    """Destroy the key of a person: what was recorded of them cannot be read any more."""
    name = name_of(app, asked)
    subjects = require_subjects(app)
    one = Erasure(name, app.clock.now(), app.actor.id, asked.why)
    with HOLDS:
        require_free(app, name)
        subjects.erase(one)
    sweep = app.kept.get(Sweep, Sweep)
    counts = _finish(app, subjects, [one], sweep, query.TIMEOUT_S)  # somebody waits for it
    found = counts.get(name)
    return Erased(subject=name, at=one.at, predictions=found, problem=sweep.problem)


class Sweep:
    """How the search for predictions of erased subjects goes. problem: what the last one said, ""
    if it went through."""

    def __init__(self) -> None:
        self.problem = ""
        self.timeout_s = self.pause_s = query.TIMEOUT_S
        self.again_s = -math.inf
        self.list_bytes = sys.maxsize
        """Of the list for nodes; at the first look it is compared, whatever it has."""


def erasure_problems(app: App) -> tuple[str, ...]:
    """As sentences."""
    sweep = app.kept.find(Sweep)
    if sweep is None or not sweep.problem:
        return ()
    return (
        "an erasure is not finished: the key is destroyed, but the journal cannot be searched for "
        f"the predictions, so that outcomes of them are still taken: {sweep.problem}",
    )


def finish_erasures(app: App) -> int:
    """Do again what was broken off, and tell nodes what they forgot; how many erasures were
    finished. Call it now and then."""
    subjects = kept_subjects(app)
    if subjects is None:
        return 0
    sweep = app.kept.get(Sweep, Sweep)
    if size_of(app.home.journal) < sweep.list_bytes:
        # The journal was lost, or is an older copy: what was erased stays so.
        remember(app.home.journal, subjects.told())
        tell_compactors(app)
    sweep.list_bytes = size_of(app.home.journal)
    if app.clock.monotonic_s() < sweep.again_s:
        return 0
    some = subjects.undone()[:SUBJECTS_AT_ONCE]
    return len(_finish(app, subjects, some, sweep, sweep.timeout_s))


def _finish(
    app: App, subjects: Subjects, some: Sequence[Erasure], sweep: Sweep, timeout_s: float
) -> dict[str, int]:
    """By name, how many predictions each has. The keys are gone already; each step may be done
    again. If the search fails, the ledger hears of them all the same, and nothing is returned."""
    if not some:
        return {}
    names = tuple(one.name for one in some)
    asked = query.Question(what="sealed_of", home=str(app.home.path), names=names)
    try:
        found = query.ask(asked, timeout_s=timeout_s)
    except DoorstepError as error:
        for one in some:
            _tell(app, one, None)
        _put_off(app, sweep, f"{error.code}: {error.message}")
        return {}
    rows = defaultdict[str, list[tuple[str, str]]](list)
    until = {one.name: one.at for one in some}
    for name, at, id, key in found:
        if at <= until[name]:
            rows[name].append((id, key))
    for one in some:
        mine = rows[one.name]
        _tell(app, one, len(mine))
        note_erased(app.home.journal, (id for id, _ in mine))
        subjects.finish(one, {text for row in mine for text in row if text})
    sweep.problem, sweep.timeout_s, sweep.pause_s = "", query.TIMEOUT_S, query.TIMEOUT_S
    sweep.again_s = -math.inf  # others that were put off may be found now, too
    return {name: len(rows[name]) for name in until}


def _put_off(app: App, sweep: Sweep, problem: str) -> None:
    """The next search may take longer, and comes later."""
    sweep.problem = problem
    sweep.again_s = app.clock.monotonic_s() + sweep.pause_s
    sweep.timeout_s = min(2 * sweep.timeout_s, SEARCH_S_MAX)
    sweep.pause_s = min(2 * sweep.pause_s, PAUSE_S_MAX)


def _tell(app: App, one: Erasure, predictions: int | None) -> None:
    """Once; and again when predictions are counted that were not."""
    about = Object("subject", one.name)
    said = {"at": one.at, "predictions": predictions, "by": one.by, "why": one.why}

    def act(unit: Unit) -> None:
        events = read_events(unit.connection, Filter(kind=ERASED, object=about), 1)
        told = events[0].data if events else {"at": None}
        is_news = told["at"] != one.at or (predictions is not None and told["predictions"] is None)
        if is_news:
            unit.record(ERASED, about, said)

    app.database.run(act, app.actor)
