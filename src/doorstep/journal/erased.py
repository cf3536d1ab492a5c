"""What the operations of the journal ask about sealed fields and those whose are erased."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from doorstep.core.errors import NotFoundError, RefusedError
from doorstep.core.instant import Instant
from doorstep.core.record import SEALED, OutcomeRecord, outcome_refused
from doorstep.journal import query
from doorstep.journal.sealing import subject_in
from doorstep.journal.snapshot import NO_END
from doorstep.journal.subjects import Subjects, has_key, subjects_of
from doorstep.journal.surface import Personal
from doorstep.kernel.app import App
from doorstep.kernel.event import Object
from doorstep.kernel.keys import SUBJECTS_FILE
from doorstep.kernel.ledger import Filter, read_events

ERASED = "subject.erased"


def kept_subjects(app: App) -> Subjects | None:
    """None where the home has no key of personal fields."""
    if not has_key(app.home.path):
        return None
    return app.kept.get(Subjects, lambda: subjects_of(app.home.path))


def require_subjects(app: App) -> Subjects:
    """Raises: NotFoundError (`no-key`)."""
    found = kept_subjects(app)
    if found is None:
        raise NotFoundError(
            "no-key", f"{app.home.path} has no key of personal fields", "doorstep up"
        )
    return found


def closed_error(app: App, row: dict[str, Any]) -> RefusedError:
    """Of a record that nothing opens."""
    prediction = row["id"]
    if personal_of(app, [row]) == ["lost"]:
        return RefusedError(
            "subject-key-lost",
            f"the key that opens the personal fields of {prediction} is not in "
            f"{app.home.keys / SUBJECTS_FILE}, and the person was not erased: the keys are lost",
            f"restore {SUBJECTS_FILE} from its newest backup, then: doorstep up",
        )
    return RefusedError(
        "subject-erased",
        f"the personal fields of {prediction} were erased: the key of the person is destroyed",
        f"doorstep ledger verify --prediction {prediction}",
    )


def personal_of(app: App, rows: Sequence[dict[str, Any]]) -> list[Personal]:
    """Whether each record has sealed fields, and whether they were erased, or their key is lost."""
    subjects = kept_subjects(app) if any(row.get(SEALED) for row in rows) else None
    opened: Sequence[object] = [{}] * len(rows)
    if subjects is not None:
        # Of another key nothing is known; what does not need it can be read all the same.
        with contextlib.suppress(RefusedError):
            opened = subjects.open(rows)
    return [
        "none" if not row.get(SEALED) else "sealed" if values is not None else _closed(app, row)
        for row, values in zip(rows, opened, strict=True)
    ]


def _closed(app: App, row: dict[str, Any]) -> Personal:
    """Of an erasure the ledger knows too, where what knew it here was lost with the keys."""
    if not require_subjects(app).lost([row])[0]:
        return "erased"
    about = Object("subject", subject_in(row[SEALED]))
    with app.database.reading() as connection:
        events = read_events(connection, Filter(kind=ERASED, object=about), 1)
    return "erased" if events and row["at"] <= events[0].data["at"] else "lost"


def without_erased(
    app: App, records: Sequence[OutcomeRecord], *, skips: bool
) -> tuple[list[OutcomeRecord], tuple[int, ...]]:
    """The outcomes, and the places of those that are left out, of predictions whose subject was
    erased. skips: False refuses them all for one. Raises: InputError (`subject-erased`)."""
    gone = _find_erased(app, records)
    if gone and not skips:
        raise outcome_refused(min(gone))
    kept = [one for place, one in enumerate(records) if place not in gone]
    return kept, tuple(sorted(gone))


def _find_erased(app: App, records: Sequence[OutcomeRecord]) -> set[int]:
    subjects = kept_subjects(app)
    if subjects is None:
        return set()
    until = subjects.erased_among(one.prediction or one.key for one in records)
    gone = {place for place, one in enumerate(records) if (one.prediction or one.key) in until}
    # Of a key that has predictions since, the outcome may be about one of these.
    keys = defaultdict[str, dict[str, Instant]](dict)
    for one in (records[place] for place in gone if records[place].key):
        keys[one.service][one.key] = until[one.prediction or one.key]
    home = str(app.home.path)
    back = {
        (service, key): at
        for service, after in keys.items()
        for key, at in query.ask(
            query.Question(what="first_after", home=home, service=service, after=after)
        ).items()
    }
    return {
        place
        for place in gone
        if back.get((records[place].service, records[place].key), NO_END) > records[place].at
    }
