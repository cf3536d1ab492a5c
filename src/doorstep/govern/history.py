"""What served a service when, who said so, and on what evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from sqlalchemy import Connection

from doorstep.core.instant import Instant, to_text
from doorstep.core.operation import operation
from doorstep.core.servicefile import read_stored
from doorstep.govern.surface import History, Served, ShowHistory, Stop, Tenure
from doorstep.govern.views import event_view
from doorstep.kernel.app import App
from doorstep.kernel.event import Event, Object
from doorstep.kernel.ledger import Filter, read_events
from doorstep.monitor.goals import goals_of
from doorstep.register.store import get_service
from doorstep.release import store as releases
from doorstep.release.types import Decision, Epoch, Finish, Release
from doorstep.release.wording import say_basis, say_wave

HISTORY_EVENTS = 200
KILLS_MAX = 1_000
RELEASES_MAX = 1_000
WORD = "a person's word"


class _Known(msgspec.Struct, frozen=True):
    """rows: releases by id. decided: the decision that ended each, where one did. approved: whose
    yes counted when each began, as the ledger has it."""

    service: str
    tenures: Sequence[releases.TenureRow]
    rows: Mapping[str, releases.ReleaseRow]
    decided: Mapping[str, tuple[str, Decision]]
    approved: Mapping[str, Sequence[str]]

    def approved_by(self, row: releases.ReleaseRow) -> tuple[str, ...]:
        return tuple(self.approved.get(row.release.id, ()))


@operation("service.history", permission="service:read", effect="read")
def show_history(app: App, asked: ShowHistory) -> History:
    """Say who served a service when, on whose word and on what evidence."""
    with app.database.reading() as connection:
        service = get_service(connection, asked.service)
        tenures = releases.list_tenures(connection, asked.service)
        rows = releases.list_releases(connection, asked.service, RELEASES_MAX)
        rows += _older(connection, tenures, rows)
        ids = [one.release.id for one in rows]
        known = _Known(
            service=asked.service,
            tenures=tenures,
            rows={one.release.id: one for one in rows},
            decided=releases.last_decisions(connection, ids),
            approved=_approved(connection, asked.service, rows),
        )
        shown = Filter(service=asked.service, without="" if asked.whole else "release.epoch")
        events = read_events(connection, shown, HISTORY_EVENTS)
        killed = [
            event
            for kind in ("version.killed", "version.revived")
            for event in read_events(
                connection, Filter(kind=kind, service=asked.service), KILLS_MAX
            )
        ]
    at = asked.at or app.clock.now()
    file, _ = read_stored(service.file, app.home.environment)
    goals = goals_of(app, asked.service, file.goal) if file else ()
    kept = {one.version: f"{one.text}: {one.state}, {one.measured}" for one in goals}
    served = tuple(
        msgspec.structs.replace(one, goal=kept.get(one.version, ""))
        for one in sorted(_served(known), key=lambda one: -one.since)
    )
    champions = [one for one in served if one.role == "champion"]
    live = next((one.version for one in champions if _holds(one, at)), None)
    stops = tuple(_stops(asked.service, killed))
    return History(
        service=asked.service,
        at=at,
        live=live,
        killed=_say_killed(stops, live, at),
        tenures=tuple(_tenure(one) for one in champions),
        events=tuple(event_view(one) for one in events),
        served=served,
        stops=stops,
        answering=tuple(_answering(known, live, at)),
        answering_in=_wave_at(known, at),
    )


def _older(
    connection: Connection,
    tenures: Sequence[releases.TenureRow],
    newest: Sequence[releases.ReleaseRow],
) -> list[releases.ReleaseRow]:
    """The releases that made champions, however many came after them."""
    wanted = {one.release for one in tenures if one.release}
    wanted -= {one.release.id for one in newest}
    return releases.list_named(connection, sorted(wanted))


def _approved(
    connection: Connection, service: str, rows: Sequence[releases.ReleaseRow]
) -> dict[str, Sequence[str]]:
    started = Filter(kind="release.started", service=service)
    events = read_events(connection, started, RELEASES_MAX)
    for row in rows[RELEASES_MAX:]:
        one = Filter(kind="release.started", object=Object("release", row.release.id))
        events += read_events(connection, one, 1)
    return {event.object.id: event.data.get("approved_by", ()) for event in events}


def _holds(one: Served | Stop, at: Instant) -> bool:
    return one.since <= at and (one.until is None or at < one.until)


def _tenure(one: Served) -> Tenure:
    return Tenure(
        version=one.version,
        since=one.since,
        until=one.until,
        release=one.release,
        because=one.because,
        by=one.decided_by,
    )


def _served(known: _Known) -> Iterator[Served]:
    for tenure in known.tenures:
        yield _as_champion(known, tenure)
    is_open = bool(known.tenures) and known.tenures[0].until is None
    for row in known.rows.values():
        if row.release.is_first and row.ended_at is None and not is_open:
            yield _watched(known, row)
        elif (found := _as_challenger(known, row)) is not None:
            yield found


def _as_champion(known: _Known, tenure: releases.TenureRow) -> Served:
    row = known.rows.get(tenure.release)
    carried = row is not None and row.release.challenger == tenure.version
    _, decision = known.decided.get(tenure.release, ("", None))
    is_evidence = decision is not None and isinstance(decision.outcome, Finish) and carried
    return Served(
        version=tenure.version,
        role="champion",
        share=1.0,
        since=tenure.since,
        until=tenure.until,
        release=tenure.release,
        asked_by=row.by if row is not None and carried else tenure.by,
        approved_by=known.approved_by(row) if row is not None and carried else (),
        decided_by=tenure.by,
        because=tenure.because,
        evidence=say_basis(decision) if decision is not None and is_evidence else WORD,
    )


def _watched(known: _Known, row: releases.ReleaseRow) -> Served:
    return Served(
        version=row.release.challenger,
        role="champion",
        share=1.0,
        since=row.release.started_at,
        until=None,
        release=row.release.id,
        asked_by=row.by,
        approved_by=known.approved_by(row),
        decided_by=row.by,
        because="the first version: serves, and is watched",
        evidence="the gates that it passed",
    )


def _as_challenger(known: _Known, row: releases.ReleaseRow) -> Served | None:
    """None if it never answered a caller."""
    release = row.release
    answered = [one for one in release.epochs if one.share > 0.0 and one.opened != "stop"]
    if release.is_first or not answered:
        return None
    by, decision = known.decided.get(release.id, ("", None))
    return Served(
        version=release.challenger,
        role="challenger",
        share=max(one.share for one in answered),
        since=answered[0].started_at,
        until=row.ended_at,
        release=release.id,
        asked_by=row.by,
        approved_by=known.approved_by(row),
        decided_by=by or "doorstep",
        because=f"{release.state.value}: {release.reason}" if release.reason else "it goes on",
        evidence=say_basis(decision) if decision is not None else "",
    )


def _answering(known: _Known, live: int | None, at: Instant) -> Iterator[tuple[int, float]]:
    """(version, share) of those that answered at this time, the champion first."""
    share, challenger = 0.0, None
    for release, epoch in _running(known, at):
        share, challenger = epoch.share, release.challenger
    if live is not None:
        yield live, 1.0 - share
    if challenger is not None:
        yield challenger, share


def _running(known: _Known, at: Instant) -> Iterator[tuple[Release, Epoch]]:
    """Releases whose challenger answered beside a champion at this time, and the epoch of then."""
    for row in known.rows.values():
        epochs = [one for one in row.release.epochs if one.started_at <= at]
        is_on = epochs and (row.ended_at is None or at < row.ended_at)
        if is_on and not row.release.is_first and epochs[-1].share > 0.0:
            yield row.release, epochs[-1]


def _wave_at(known: _Known, at: Instant) -> str:
    for release, epoch in _running(known, at):
        if (name := release.wave_in(epoch)) is not None:
            return say_wave(name)
    return ""


def _stops(service: str, events: Iterable[Event]) -> Iterator[Stop]:
    """When versions were killed, until when, newest first."""
    by_version: dict[str, list[Event]] = {}
    for event in sorted(events, key=lambda one: one.seq):
        by_version.setdefault(event.object.id, []).append(event)
    found = [
        Stop(
            version=int(name.removeprefix(f"{service}@")),
            since=event.ts,
            until=mine[place + 1].ts if place + 1 < len(mine) else None,
            by=event.actor.id,
            why=str(event.data["why"]),
        )
        for name, mine in by_version.items()
        for place, event in enumerate(mine)
        if event.kind == "version.killed"
    ]
    yield from sorted(found, key=lambda one: -one.since)


def _say_killed(stops: Iterable[Stop], live: int | None, at: Instant) -> str:
    last = next((one for one in stops if one.version == live and _holds(one, at)), None)
    if last is None:
        return ""
    return f"killed by {last.by} at {to_text(last.since)[:19]}Z: {last.why}"
