"""Pages of what was, and of what a person may change of it: history, ledger, service file,
installation."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode

import msgspec

from doorstep.console.asking import Ask, Page, Query, answer
from doorstep.core.errors import DoorstepError, InputError, NotFoundError
from doorstep.core.ids import parse_name
from doorstep.core.instant import parse_instant
from doorstep.govern.surface import (
    Events,
    EventView,
    History,
    Installation,
    LedgerVerdict,
    ListEvents,
    Served,
    ShowHistory,
    ShowInstallation,
    VerifyLedger,
)
from doorstep.journal.options import SURVIVES
from doorstep.monitor.surface import ServiceStatus, ShowStatus, Statuses
from doorstep.register.surface import ListServices, Service, ServiceDiff, Services, ShowService

EVENTS_PER_PAGE = 50
SERVED_PER_PAGE = 100
PEOPLE_EVENTS = 10
HOLDS_PER_QUESTION = 1000
NOISE = ("release.epoch", "journal.closed")
"""What happens by itself, again and again."""
HISTORY_FILTERS = ("from", "to", "role")


def history(ask: Ask, query: Query) -> Page:
    name = name_in(query)
    asked_at = query.text("at", 40)
    at = parse_instant(asked_at) if asked_at else 0
    shown = answer(ask, "service.history", ShowHistory(service=name, at=at), History)
    served = served_in(shown, query)
    start = min(query.number("start"), len(served))
    given = {one: query.text(one, 40) for one in HISTORY_FILTERS}
    return Page(
        template="history.html",
        title=f"{name} history",
        section="overview",
        fragments=(),
        found={
            "service": name,
            "services": answer(ask, "service.list", ListServices(), Services).services,
            "history": shown,
            "served": served[start : start + SERVED_PER_PAGE],
            "found": len(served),
            "start": start,
            "asked_at": asked_at,
            "given": given,
            "filtered": urlencode({key: value for key, value in given.items() if value}),
            "per_page": SERVED_PER_PAGE,
            "status": status_of(ask, name),
        },
    )


def served_in(shown: History, query: Query) -> tuple[Served, ...]:
    """What answered at any time between `from` and `to`, in the role that is asked for."""
    since, until = (query.text(one, 40) for one in ("from", "to"))
    begin = parse_instant(since) if since else 0
    end = parse_instant(until) if until else None
    return tuple(
        one
        for one in shown.served
        if (one.until is None or one.until > begin)
        and (end is None or one.since < end)
        and query.text("role") in ("", one.role)
    )


def edit(ask: Ask, query: Query) -> Page:
    """The service file in effect, to be edited."""
    name = name_in(query)
    of = answer(ask, "service.show", ShowService(service=name), Service)
    return edited(of, of.file, None, None)


def edited(
    of: Service, file: str, diff: ServiceDiff | None, why_not: DoorstepError | None, seen: str = ""
) -> Page:
    """diff: what `file` would change, None while nobody asked; why_not: there is an error in it.
    seen: the revision that it was to be applied to, where that is not in effect any more."""
    return Page(
        template="edit.html",
        title=f"{of.service} service file",
        section="overview",
        fragments=(),
        found={"service": of, "file": file, "diff": diff, "why_not": why_not, "seen": seen},
    )


def ledger(ask: Ask, query: Query) -> Page:
    asked = ListEvents(
        service=query.text("service"),
        kind=query.text("kind", 60),
        before=query.number("before"),
        limit=EVENTS_PER_PAGE,
    )
    shown = answer(ask, "ledger.list", asked, Events)
    verdict = None
    if query.text("verify"):
        verdict = answer(ask, "ledger.verify", VerifyLedger(), LedgerVerdict)
    events = shown.events
    more = len(events) == asked.limit and events[-1].sequence > 1
    return Page(
        template="ledger.html",
        title="Ledger",
        section="ledger",
        fragments=(),
        found={
            "events": fold(events),
            "size": shown.size,
            "asked": asked,
            "verdict": verdict,
            "older": events[-1].sequence if more else 0,
        },
    )


def fold(events: Iterable[EventView]) -> list[tuple[EventView, list[EventView]]]:
    """Runs of what happens by itself, again and again, under the first of each."""
    found: list[tuple[EventView, list[EventView]]] = []
    for one in events:
        if found and one.kind in NOISE and found[-1][0].kind in NOISE:
            found[-1][1].append(one)
        else:
            found.append((one, []))
    return found


def installation(ask: Ask, query: Query) -> Page:
    shown = answer(ask, "installation.show", ShowInstallation(), Installation)
    # Only the nodes are fetched again and again: of the rest nothing is asked then.
    whole = not query.fragments
    asked = ListEvents(kind="subject.", limit=PEOPLE_EVENTS)
    return Page(
        template="installation.html",
        title="Installation",
        section="installation",
        fragments=("nodes",),
        found={
            "installation": shown,
            "troubled": sum(bool(one.problems) for one in shown.nodes),
            "survives": SURVIVES,
            "people": answer(ask, "ledger.list", asked, Events).events if whole else (),
            "held": _held(ask) if whole else (),
        },
    )


def _held(ask: Ask) -> list[str]:
    """Whose hold stands, however many others were erased or held since."""
    began, ended = (_newest(ask, kind) for kind in ("subject.held", "subject.freed"))
    return [name for name, number in began.items() if number > ended.get(name, 0)]


def _newest(ask: Ask, kind: str) -> dict[str, int]:
    """Of each person, the number of the last event of this kind."""
    found: dict[str, int] = {}
    asked = ListEvents(kind=kind, limit=HOLDS_PER_QUESTION)
    while events := answer(ask, "ledger.list", asked, Events).events:
        found = {one.object: one.sequence for one in reversed(events)} | found
        asked = msgspec.structs.replace(asked, before=events[-1].sequence)
    return found


def status_of(ask: Ask, name: str) -> ServiceStatus | None:
    found = answer(ask, "service.status", ShowStatus(service=name), Statuses).services
    return next(iter(found), None)


def name_in(query: Query) -> str:
    """Raises: NotFoundError: what cannot be a name cannot be the name of a service."""
    given = query.path["service"]
    try:
        return parse_name(given)
    except InputError as error:
        raise NotFoundError("no-such-service", error.message, "doorstep status") from None
