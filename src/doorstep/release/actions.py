"""What changes a release: starting it, a person's word, and the tick that decides on evidence.

Each is: load, decide (pure), save row + decision + plan + ledger event in one transaction. After a
crash anywhere between two of them the next tick reads the state again and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec
from sqlalchemy import Connection

from doorstep.core.contract import Contract
from doorstep.core.errors import InputError, RefusedError
from doorstep.core.ids import new_id, parse_version
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.servicefile import stored_service_file
from doorstep.kernel.app import App
from doorstep.kernel.db import Unit
from doorstep.kernel.event import Object
from doorstep.register import store as versions
from doorstep.register.views import manifest_of
from doorstep.register.watched import require_model
from doorstep.release import store
from doorstep.release.before import measure
from doorstep.release.collect import collect
from doorstep.release.decide import decide, decide_person
from doorstep.release.estimate import Traffic, estimate
from doorstep.release.forecast import choose_spec, read_traffic
from doorstep.release.metrics import METRICS
from doorstep.release.permits import require_approvals, require_gates, require_may
from doorstep.release.planning import write_plan
from doorstep.release.spec import Before, guarded
from doorstep.release.surface import StartRelease
from doorstep.release.transition import METHOD_NAME, Beginning, apply, begin, unwatched
from doorstep.release.types import (
    Decision,
    Evidence,
    Finish,
    Hold,
    Person,
    Release,
    ReleaseSpec,
    State,
)

CELLS_SHOWN_MAX = 400
WHY_CHARS_MAX = 1_000
STARTS_MAX = 3


def start_release(app: App, asked: StartRelease, requests_per_s: float) -> store.ReleaseRow:
    """Begin to carry a version onto its service.

    Raises: NotFoundError, RefusedError (`gate-not-passed`, `gate-outdated`, `release-running`,
    `same-version`, `rehearsal-in-production`, `no-outcomes`, `no-traffic`, `service-changed`).
    """
    service, number = parse_version(asked.version)
    if asked.rehearsal and app.home.environment == "production":
        raise RefusedError(
            "rehearsal-in-production",
            "a rehearsal sends its own rows; this environment is production",
            f"doorstep release start {asked.version}",
        )
    for _ in range(STARTS_MAX):
        seen = _measured(app, service, number, requests_per_s, asked.rehearsal)
        start = partial(_start, app=app, service=service, number=number, asked=asked, seen=seen)
        if (started := app.database.run(start, app.actor)) is not None:
            return started
    raise RefusedError(
        "service-changed",
        f"the service file or the champion of {service} changed while the champion was measured, "
        f"{STARTS_MAX} times",
        f"doorstep release start {asked.version}",
    )


def plan_release(
    app: App, version: str, requests_per_s: float
) -> tuple[int | None, ReleaseSpec, Traffic]:
    """The champion that it would be compared with, what it would do, and the traffic it would meet.
    Raises: NotFoundError, RefusedError, as `start_release`."""
    service, number = parse_version(version)
    seen = _measured(app, service, number, requests_per_s)
    with app.database.reading() as connection:
        asked = versions.get_version(connection, service, number)
        contracts = _contracts(connection, app, asked, seen.champion)
    file = stored_service_file(seen.file, app.home.environment)
    return seen.champion, choose_spec(file, seen.traffic, contracts, seen.before), seen.traffic


class _Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a release would be frozen with; it holds for this text of the service file and this
    champion, and no other."""

    file: str
    champion: int | None
    before: Before
    traffic: Traffic


def _measured(
    app: App, service: str, number: int, requests_per_s: float, is_rehearsal: bool = False
) -> _Measured:
    """What is frozen into a release with somebody to compare with. Rows of a rehearsal come to
    nothing, so what is read from outcomes and records is left out of it. Raises: NotFoundError,
    RefusedError (see `measure`)."""
    with app.database.reading() as connection:
        row = versions.get_service(connection, service)
        champion = _to_compare(connection, service, number)
        if champion is None:
            traffic = Traffic(units_per_s=requests_per_s)
            return _Measured(file=row.file, champion=None, before=Before(), traffic=traffic)
        serving = versions.get_version(connection, service, champion)
    manifest = manifest_of(app.home.bundles, serving.digest)
    file = stored_service_file(row.file, app.home.environment)
    named = guarded(file)
    if is_rehearsal:
        named = frozenset(one for one in named if METRICS[one].read == "nodes")
    before = measure(app, file, champion, manifest, named)
    traffic = read_traffic(app, file, requests_per_s)
    return _Measured(file=row.file, champion=champion, before=before, traffic=traffic)


def _to_compare(connection: Connection, service: str, number: int) -> int | None:
    """The champion, or the first version that is still watched; None if there is no other."""
    running = store.find_running(connection, service)
    champion = store.champions(connection).get(service)
    if champion is None and running is not None:
        champion = running.release.challenger
    return None if champion == number else champion


def _start(
    unit: Unit,
    app: App,
    service: str,
    number: int,
    asked: StartRelease,
    seen: _Measured,
) -> store.ReleaseRow | None:
    """None if what was measured does not hold any more."""
    row = versions.get_service(unit.connection, service)
    if (row.file, _to_compare(unit.connection, service, number)) != (seen.file, seen.champion):
        return None
    version = versions.get_version(unit.connection, service, number)
    require_alive(unit, service, number)
    require_model(version)
    require_gates(unit, app, version)
    approved_by = require_approvals(unit, app, version, [unit.actor.id])
    champion = _settle_first(unit, app, service, version)
    file = stored_service_file(row.file, app.home.environment)
    contracts = _contracts(unit.connection, app, version, champion)
    spec = choose_spec(file, seen.traffic, contracts, seen.before)
    if asked.rehearsal:
        # Nobody waits for the answers of a rehearsal, so its first minute is evidence as well.
        spec = msgspec.structs.replace(spec, warmup_s=0.0)
    beginning = Beginning(
        id=new_id().hex,
        service=service,
        champion=champion,
        challenger=number,
        spec=spec,
        rehearsal=asked.rehearsal,
    )
    release = begin(beginning, unit.now())
    started = store.ReleaseRow(release=release, by=unit.actor.id, plan_number=0)
    store.add_release(unit.connection, started)
    unit.record(
        "release.started",
        Object("release", release.id),
        {
            "service": service,
            "version": version.name,
            "champion": champion,
            "state": release.state.value,
            "rehearsal": asked.rehearsal,
            "spec": spec,
            "approved_by": approved_by,
            "forecast": "" if champion is None else estimate(spec, seen.traffic).reason,
        },
    )
    return with_plan(unit, app, started)


def _contracts(
    connection: Connection, app: App, version: versions.VersionRow, champion: int | None
) -> list[Contract]:
    """Of the champion and of the version; none without a champion."""
    if champion is None:
        return []
    serving = versions.get_version(connection, version.service, champion)
    return [manifest_of(app.home.bundles, one.digest).contract for one in (serving, version)]


def require_alive(unit: Unit, service: str, number: int) -> None:
    """Raises: RefusedError (`version-killed`)."""
    killed = store.list_kills(unit.connection, service).get(number)
    if killed is not None:
        raise RefusedError(
            "version-killed",
            f"{service}@{number} was killed by {killed.by}: {killed.why}",
            f'doorstep revive {service}@{number} --why "..."',
        )


def _settle_first(unit: Unit, app: App, service: str, version: versions.VersionRow) -> int | None:
    """The champion that the new version is compared with. A first version that is still watched
    becomes champion now: the person who starts the next release says so."""
    running = store.find_running(unit.connection, service)
    if running is not None:
        release = running.release
        if not release.is_first or release.challenger == version.number:
            raise RefusedError(
                "release-running",
                f"{service}@{release.challenger} is being released ({release.state.value}); "
                "one release at a time",
                f"doorstep release show {service}",
            )
        require_may(unit, app, service, "promote")
        why = f"{version.name} is released against it"
        person = Person(unit.actor.id, "promote", why)
        decision = decide_person(release, collect(app, release), unit.now(), person)
        apply_decision(unit, app, running, decision, unit.actor.id)
    return store.champions(unit.connection).get(service)


def apply_decision(
    unit: Unit, app: App, row: store.ReleaseRow, decision: Decision, by: str
) -> store.ReleaseRow:
    """The release after the decision, saved with its reason, plan and ledger event."""
    before, after = row.release, apply(row.release, decision)
    sequence = store.add_decision(unit.connection, before.id, by, decision)
    ended_at = decision.at if after.is_over else None
    changed = store.ReleaseRow(
        release=after, by=row.by, plan_number=row.plan_number, ended_at=ended_at
    )
    if isinstance(decision.outcome, Finish):
        _crown(unit, after, decision, by)
    unit.record(
        _kind_of(decision, after),
        Object("release", before.id),
        {
            "service": before.service,
            "version": f"{before.service}@{before.challenger}",
            "from": before.state.value,
            "to": after.state.value,
            "share": after.share,
            "reason": decision.reason,
            "decision": sequence,
            "numbers": decision.numbers,
            "cells": decision.evidence.cells[:CELLS_SHOWN_MAX],
            "by": by,
        },
    )
    store.save_release(unit.connection, changed)
    return with_plan(unit, app, changed)


def _kind_of(decision: Decision, after: Release) -> str:
    if isinstance(decision.outcome, Hold):
        return "release.epoch"
    return {
        State.DONE: "release.finished",
        State.ROLLED_BACK: "release.rolled-back",
        State.PAUSED: "release.paused",
        State.INCONCLUSIVE: "release.inconclusive",
    }.get(after.state, "release.advanced")


def _crown(unit: Unit, release: Release, decision: Decision, by: str) -> None:
    store.crown(
        unit.connection,
        store.TenureRow(
            service=release.service,
            # A first version has served from the moment its release began.
            since=release.started_at if release.is_first else decision.at,
            version=release.challenger,
            until=None,
            release=release.id,
            because=decision.reason,
            by=by,
        ),
    )


def plan_now(unit: Unit, app: App) -> int:
    """The number of the plan that says what this transaction leaves."""
    nodes = len(app.nodes.alive())
    return write_plan(unit, app.home, app.leader_term, app.challenger_lease_s, nodes)


def with_plan(unit: Unit, app: App, row: store.ReleaseRow) -> store.ReleaseRow:
    planned = msgspec.structs.replace(row, plan_number=plan_now(unit, app))
    store.save_release(unit.connection, planned)
    return planned


def tick_release(app: App, release_id: str, evidence: Evidence) -> Decision | None:
    """Decide once on the evidence and act on it; None if nothing changed."""

    def act(unit: Unit) -> Decision | None:
        row = store.get_release(unit.connection, release_id)
        decision = decide(row.release, evidence, unit.now())
        if isinstance(decision.outcome, Hold) and decision.outcome.opens is None:
            return None
        apply_decision(unit, app, row, decision, METHOD_NAME)
        return decision

    return app.database.run(act)


def keep_watch(app: App, rows: Sequence[store.ReleaseRow]) -> None:
    """Note that these releases are being looked at. Where nobody looked for longer than the
    challenger's lease, after which nodes give its share back, that time is taken out of the step,
    the bake and the deadline: no version becomes champion for time in which nobody watched it, nor
    for a clock that jumped."""
    now = app.clock.now()
    with app.database.transaction() as unit:
        seen = store.read_watches(unit.connection)
        for row in rows:
            gap = now - seen.get(row.release.id, now)
            if gap > round(app.challenger_lease_s * SECOND_US):
                _take_out(unit, row, now, gap)
            store.note_watch(unit.connection, row.release.id, now)


def _take_out(unit: Unit, row: store.ReleaseRow, now: Instant, gap: Instant) -> None:
    release = unwatched(row.release, now, gap)
    store.save_release(unit.connection, msgspec.structs.replace(row, release=release))
    unit.record(
        "release.unwatched",
        Object("release", release.id),
        {"service": release.service, "gap_s": gap / SECOND_US},
    )


def would_act(release: Release, evidence: Evidence, now: int) -> bool:
    """Whether a tick would change anything: asked first, so that idle ticks write nothing."""
    outcome = decide(release, evidence, now).outcome
    return not (isinstance(outcome, Hold) and outcome.opens is None)


def change_release(app: App, name: str, person: Person, evidence: Evidence) -> store.ReleaseRow:
    """Pause, resume, promote or roll back on a person's word. Raises: RefusedError."""
    require_why(person.action, person.why)

    def act(unit: Unit) -> store.ReleaseRow:
        row = store.find_running(unit.connection, name) or store.get_release(unit.connection, name)
        if person.action == "promote":
            require_may(unit, app, row.release.service, "promote")
        decision = decide_person(row.release, evidence, unit.now(), person)
        if person.action == "promote":
            release = row.release
            asked = versions.get_version(unit.connection, release.service, release.challenger)
            require_approvals(unit, app, asked, [person.name, row.by])
        return apply_decision(unit, app, row, decision, person.name)

    return app.database.run(act, app.actor)


def require_why(action: str, why: str) -> None:
    """Raises: RefusedError (`no-reason`), InputError (`bad-reason`)."""
    if not why.strip():
        raise RefusedError(
            "no-reason", f"to {action} needs a reason; it is kept in the ledger", '--why "..."'
        )
    if len(why) > WHY_CHARS_MAX:
        raise InputError(
            "bad-reason", f"the reason has {len(why)} characters; at most {WHY_CHARS_MAX}"
        )


def running_releases(app: App) -> Sequence[store.ReleaseRow]:
    with app.database.reading() as connection:
        return store.list_running(connection)
