"""Operations of sealed fields: who may read them, and the end of all reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from doorstep.core.errors import InputError, NotFoundError
from doorstep.core.operation import operation
from doorstep.core.outcome import KEY_CHARS_MAX
from doorstep.core.record import SEALED
from doorstep.journal import query
from doorstep.journal.erased import erased_error, kept_subjects
from doorstep.journal.erasedlist import note_erased
from doorstep.journal.operations import find_row, views_of
from doorstep.journal.sealing import pseudonym
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

ERASED, OPENED = "subject.erased", "prediction.opened"


@operation("prediction.open", permission="prediction:open", effect="write")
def open_prediction(app: App, asked: OpenPrediction) -> Prediction:
    """Show one prediction with its sealed fields; the ledger says who read them, and why."""
    if not asked.why.strip():
        raise InputError("no-reason", "why the personal fields are read is not said", "add --why")
    row = find_row(app, asked.prediction)
    values = require_subjects(app).open([row])[0] if row.get(SEALED) else {}
    if values is None:
        raise erased_error(row["id"])

    def act(unit: Unit) -> None:
        about = Object("prediction", row["id"])
        unit.record(OPENED, about, {"service": row["service"], "why": asked.why})

    if values:
        app.database.run(act, app.actor)
    return views_of(app, row["service"], [row], [values])[0]


def require_subjects(app: App) -> Subjects:
    """Raises: NotFoundError (`no-key`)."""
    found = kept_subjects(app)
    if found is None:
        raise NotFoundError(
            "no-key", f"{app.home.path} has no key of personal fields", "doorstep up"
        )
    return found


@operation("subject.erase", permission="subject:erase", effect="write")
def erase_subject(app: App, asked: EraseSubject) -> Erased:
    """Destroy the key of a person: what was recorded of them cannot be read any more."""
    _check(asked)
    subjects = require_subjects(app)
    name = pseudonym(subjects.secret, asked.subject)
    one = Erasure(name, app.clock.now(), app.actor.id, asked.why)
    subjects.erase(one)
    return _finish(app, subjects, one)


def _check(asked: EraseSubject) -> None:
    if not asked.subject or len(asked.subject) > KEY_CHARS_MAX:
        raise InputError(
            "bad-subject",
            f"the subject has {len(asked.subject)} characters; expected 1 to {KEY_CHARS_MAX}",
        )
    if not asked.why.strip():
        raise InputError("no-reason", "why the subject is erased is not said", "add --why")
    if asked.subject in asked.why:
        raise InputError(
            "subject-in-reason",
            "the reason names the subject, and the ledger would keep it for ever",
            "name the request instead, such as a ticket",
        )


def finish_erasures(app: App) -> int:
    """Tell the ledger of erasures that were broken off; how many. Call it now and then."""
    subjects = kept_subjects(app)
    undone = subjects.undone() if subjects else []
    for one in undone:
        assert subjects is not None
        _finish(app, subjects, one)
    return len(undone)


def _finish(app: App, subjects: Subjects, one: Erasure) -> Erased:
    """The key is gone already. Each step may be done again."""
    found: Sequence[tuple[str, str]] = query.ask(
        query.Question(what="sealed_of", home=str(app.home.path), id=one.name, until=one.at)
    )
    about = Object("subject", one.name)
    said: dict[str, Any] = {"at": one.at, "predictions": len(found), "by": one.by, "why": one.why}

    def act(unit: Unit) -> None:
        told = read_events(unit.connection, Filter(kind=ERASED, object=about), 1)
        if not told or told[0].data["at"] != one.at:
            unit.record(ERASED, about, said)

    app.database.run(act, app.actor)
    note_erased(app.home.path / "journal", (name for name, _ in found))
    subjects.finish(one, {text for row in found for text in row if text})
    return Erased(subject=one.name, at=one.at, predictions=len(found))
