"""The kill switch: a version that nobody may ask any more, on a person's word, until it is revived.

Nodes learn it with the next plan and load nothing for it. A challenger that is killed has ended its
release. A champion that is killed sends its traffic down the fallback chain, and stops the release
that is compared with it: what a killed version fails to answer is no evidence.
"""

from __future__ import annotations

from doorstep.core.errors import RefusedError
from doorstep.core.ids import parse_version
from doorstep.kernel.app import App
from doorstep.kernel.db import Unit
from doorstep.kernel.event import Object
from doorstep.register import store as versions
from doorstep.release import store
from doorstep.release.actions import apply_decision, plan_now, require_why
from doorstep.release.collect import collect
from doorstep.release.decide import MOVING, decide_person
from doorstep.release.types import Person


def kill_version(app: App, version: str, why: str) -> tuple[store.KillRow, int]:
    """The kill and the number of the plan that has it.

    Raises: NotFoundError, RefusedError (`no-reason`, `killed-already`).
    """
    service, number = parse_version(version)
    require_why("kill", why)

    def act(unit: Unit) -> tuple[store.KillRow, int]:
        versions.get_version(unit.connection, service, number)
        known = store.list_kills(unit.connection, service).get(number)
        if known is not None:
            raise RefusedError(
                "killed-already",
                f"{version} was killed by {known.by}: {known.why}",
                f'doorstep revive {version} --why "..."',
            )
        row = store.KillRow(
            service=service, number=number, at=unit.now(), by=unit.actor.id, why=why.strip()
        )
        store.add_kill(unit.connection, row)
        _say(unit, "version.killed", row, row.why)
        _stop_release(unit, app, row)
        return row, plan_now(unit, app)

    return app.database.run(act, app.actor)


def revive_version(app: App, version: str, why: str) -> tuple[store.KillRow, int]:
    """The kill that is over and the number of the plan without it.

    Raises: NotFoundError, RefusedError (`no-reason`, `not-killed`).
    """
    service, number = parse_version(version)
    require_why("revive", why)

    def act(unit: Unit) -> tuple[store.KillRow, int]:
        versions.get_version(unit.connection, service, number)
        row = store.list_kills(unit.connection, service).get(number)
        if row is None:
            raise RefusedError("not-killed", f"{version} is not killed; there is nothing to revive")
        store.remove_kill(unit.connection, row)
        _say(unit, "version.revived", row, why.strip())
        return row, plan_now(unit, app)

    return app.database.run(act, app.actor)


def _say(unit: Unit, kind: str, row: store.KillRow, why: str) -> None:
    name = f"{row.service}@{row.number}"
    unit.record(kind, Object("version", name), {"service": row.service, "why": why})


def _stop_release(unit: Unit, app: App, row: store.KillRow) -> None:
    """A challenger's release is rolled back; one whose other version is killed is paused. A first
    version keeps its release: without it the service would be gone, and its fallback with it."""
    running = store.find_running(unit.connection, row.service)
    if running is None:
        return
    release = running.release
    why = f"{row.service}@{row.number} was killed: {row.why}"
    if release.challenger == row.number and not release.is_first:
        person = Person(row.by, "rollback", why)
    elif row.number in (release.champion, release.challenger) and release.state in MOVING:
        person = Person(row.by, "pause", why)
    else:
        return
    decision = decide_person(release, collect(app, release), unit.now(), person)
    apply_decision(unit, app, running, decision, row.by)
