"""What the operations of the journal ask about sealed fields and those whose are erased."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from doorstep.core.errors import RefusedError
from doorstep.core.instant import Instant
from doorstep.core.record import SEALED, OutcomeRecord, outcome_refused
from doorstep.journal import query
from doorstep.journal.rows import Filters
from doorstep.journal.subjects import Subjects, has_key, subjects_of
from doorstep.journal.surface import Personal
from doorstep.kernel.app import App


def kept_subjects(app: App) -> Subjects | None:
    """None where the home has no key of personal fields."""
    if not has_key(app.home.path):
        return None
    return app.kept.get(Subjects, lambda: subjects_of(app.home.path))


def erased_error(prediction: str) -> RefusedError:
    return RefusedError(
        "subject-erased",
        f"the personal fields of {prediction} were erased: the key of the person is destroyed",
        f"doorstep ledger verify --prediction {prediction}",
    )


def personal_of(app: App, row: dict[str, Any]) -> Personal:
    """Whether the record has sealed fields, and whether they were erased."""
    if not row.get(SEALED):
        return "none"
    subjects = kept_subjects(app)
    return "erased" if subjects is not None and subjects.open([row]) == [None] else "sealed"


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
    gone = subjects.erased_among(one.prediction or one.key for one in records)
    return {
        place
        for place, one in enumerate(records)
        if (until := gone.get(one.prediction or one.key)) is not None
        and not (one.key and _is_back(app, one, until))
    }


def _is_back(app: App, one: OutcomeRecord, until: Instant) -> bool:
    """Whether the key has a prediction since, which the outcome may be about."""
    question = query.Question(
        what="predictions",
        home=str(app.home.path),
        service=one.service,
        limit=1,
        before=(one.at + 1, ""),
        filters=Filters(key=one.key, since=until + 1),
    )
    return bool(query.ask(question))
