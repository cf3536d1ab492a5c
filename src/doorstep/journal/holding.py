"""Who a person is to the ledger; and legal holds: while one stands, nobody erases them, and no file
with predictions of theirs is dropped."""

from __future__ import annotations

import threading

from sqlalchemy import Connection

from doorstep.core.errors import DoorstepError, InputError, NotFoundError, RefusedError
from doorstep.core.instant import to_text
from doorstep.core.operation import operation
from doorstep.core.outcome import KEY_CHARS_MAX
from doorstep.core.record import SEALED
from doorstep.journal import query
from doorstep.journal.erased import require_subjects
from doorstep.journal.held import knows_held, read_held, write_held
from doorstep.journal.operations import find_row
from doorstep.journal.sealing import pseudonym, subject_in
from doorstep.journal.surface import EraseSubject, Held, HoldSubject
from doorstep.kernel.app import App
from doorstep.kernel.db import Unit
from doorstep.kernel.event import Event, Object
from doorstep.kernel.ledger import EVENTS_READ_MAX, Filter, read_events

HELD, FREED = "subject.held", "subject.freed"
HOLDS = threading.Lock()
"""While it is taken, no hold begins or ends."""


@operation("subject.hold", permission="subject:hold", effect="write")
def hold_subject(app: App, asked: HoldSubject) -> Held:
    """Keep a person from being erased, or end that; the ledger says who did it, and why."""
    about = Object("subject", name_of(app, asked))

    def act(unit: Unit) -> bool:
        was_held = _hold(unit.connection, about) is not None
        if was_held == asked.ends:
            unit.record(FREED if asked.ends else HELD, about, {"why": asked.why})
        return was_held

    with HOLDS:
        was_held = app.database.run(act, app.actor)
    tell_compactors(app)
    count = None if asked.ends else _count(app, about.id)
    return Held(subject=about.id, is_held=not asked.ends, was_held=was_held, predictions=count)


def _count(app: App, name: str) -> int | None:
    """A hold may come before any prediction; who mistyped a name must see that it is nobody's."""
    asked = query.Question(what="sealed_of", home=str(app.home.path), names=(name,))
    try:
        return len(query.ask(asked))
    except DoorstepError:
        return None  # the hold stands all the same


def tell_compactors(app: App) -> None:
    """Who is held, by the ledger."""
    with HOLDS:
        with app.database.reading() as connection:
            began, ended = (_newest(connection, kind) for kind in (HELD, FREED))
        held = {name for name, seq in began.items() if seq > ended.get(name, -1)}
        if held != read_held(app.home.journal) or not knows_held(app.home.journal):
            write_held(app.home.journal, held)


def _newest(connection: Connection, kind: str) -> dict[str, int]:
    """Of each person, the number of the last event of this kind."""
    found: dict[str, int] = {}
    before: int | None = None
    while events := read_events(connection, Filter(kind=kind, before=before), EVENTS_READ_MAX):
        found = {one.object.id: one.seq for one in reversed(events)} | found
        before = events[-1].seq
    return found


def _hold(connection: Connection, about: Object) -> Event | None:
    """The event that began the hold that stands."""
    held, freed = (
        read_events(connection, Filter(kind=kind, object=about), 1) for kind in (HELD, FREED)
    )
    is_over = bool(held and freed) and freed[0].seq > held[0].seq
    return held[0] if held and not is_over else None


def require_free(app: App, name: str) -> None:
    """name: a pseudonym. Raises: RefusedError (`subject-held`)."""
    with app.database.reading() as connection:
        event = _hold(connection, Object("subject", name))
    if event is not None:
        raise RefusedError(
            "subject-held",
            f"the person is held since {to_text(event.ts)} by {event.actor.id} "
            f"({event.data['why']}); expected a hold that has ended before an erasure",
            'doorstep hold SUBJECT --end --why "..."',
        )


def name_of(app: App, asked: EraseSubject | HoldSubject) -> str:
    """The pseudonym of whom it is about. Raises: InputError (`bad-subject`, `no-reason`,
    `subject-in-reason`), NotFoundError (`no-key`, `no-prediction`, `nothing-sealed`)."""
    length = len(asked.subject)
    if bool(asked.subject) == bool(asked.prediction) or length > KEY_CHARS_MAX:
        raise InputError(
            "bad-subject",
            f"the subject has {length} characters; expected 1 to {KEY_CHARS_MAX}, or a prediction",
        )
    if not asked.why.strip():
        raise InputError("no-reason", "why it is to be done is not said", "add --why")
    if asked.subject and asked.subject in asked.why:
        raise InputError(
            "subject-in-reason",
            "the reason names the subject, and the ledger would keep it for ever",
            "name the request instead, such as a ticket",
        )
    subjects = require_subjects(app)
    if asked.subject:
        return pseudonym(subjects.secret, asked.subject)
    row = find_row(app, asked.prediction)
    if not row.get(SEALED):
        raise NotFoundError(
            "nothing-sealed", f"nothing of prediction {row['id']} is sealed, so it is nobody's"
        )
    return subject_in(row[SEALED])
