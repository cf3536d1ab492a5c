"""The way back of a service: to its champion, to the one before, to one that is named, to nobody.

Sent twice, a rollback goes back once: after a change that was itself a way back, going further is
refused unless a person names where to.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from doorstep.core.errors import RefusedError
from doorstep.core.instant import Instant, to_text
from doorstep.kernel.app import App
from doorstep.kernel.db import Unit
from doorstep.kernel.event import Object
from doorstep.register import store as versions
from doorstep.release import store
from doorstep.release.actions import apply_decision, require_why, with_plan
from doorstep.release.decide import decide_person
from doorstep.release.permits import require_approvals, require_may
from doorstep.release.tenures import is_way_back, previous_champion, serving, standing
from doorstep.release.types import Evidence, Person

NOBODY = 0


def roll_back_service(
    app: App, service: str, person: Person, evidence: Evidence, to: int | None = None
) -> str:
    """Give the service back to the champion, or, with no release running, to the last one. While a
    first version is watched there is none: then nobody serves, and the fallback answers.

    to: the version that serves after it, one that has served before, or `NOBODY`. If it serves
    already, nothing changes. One that was taken back is no way back: it needs what promoting it
    would.
    Returns the id of the release that was rolled back, or that of the way back.
    Raises: NotFoundError, RefusedError (`nothing-to-roll-back`, `rolled-back-already`,
    `never-served`, `version-killed`, `release-running`, `not-approved`), ForbiddenError
    (`may-not`).
    """
    require_why(person.action, person.why)

    def act(unit: Unit) -> str:
        versions.get_service(unit.connection, service)
        running = store.find_running(unit.connection, service)
        if running is None:
            return _go_back(unit, app, service, person, to)
        _require_champion(unit, running, to)
        decision = decide_person(running.release, evidence, unit.now(), person)
        apply_decision(unit, app, running, decision, person.name)
        return running.release.id

    return app.database.run(act, app.actor)


def _require_champion(unit: Unit, running: store.ReleaseRow, to: int | None) -> None:
    """A release that is rolled back ends with its champion, if that may be asked."""
    release = running.release
    kill = store.list_kills(unit.connection, release.service).get(release.champion or NOBODY)
    if kill is not None:
        name = f"{kill.service}@{kill.number}"
        raise RefusedError(
            "version-killed",
            f"{name} was killed by {kill.by}: {kill.why}; rolled back, the release of "
            f"@{release.challenger} would give the service to it",
            f"doorstep release promote {kill.service} goes forward; doorstep revive {name} undoes "
            f"the kill; doorstep kill {kill.service}@{release.challenger} ends the release",
        )
    if to not in (None, release.champion or NOBODY):
        raise RefusedError(
            "release-running",
            f"{release.service}@{release.challenger} is being released ({release.state.value}); "
            f"rolled back, it gives the service to {_name(release.service, release.champion)}",
            f"doorstep rollback {release.service}, then the same with --to {to}",
        )


def _go_back(unit: Unit, app: App, service: str, person: Person, to: int | None) -> str:
    tenures = store.list_tenures(unit.connection, service)
    newest = next(iter(store.list_releases(unit.connection, service, 1)), None)
    kills = store.list_kills(unit.connection, service)
    choices = others_alive(tenures, kills)
    if to is None or not tenures:
        to = _last_champion(service, tenures, newest, choices)
    now = serving(tenures)
    left = tenures[0]
    if to not in (NOBODY, *(one.version for one in tenures)):
        raise RefusedError(
            "never-served",
            f"{service}@{to} has never been champion; expected one of "
            + ", ".join(f"@{one}" for one in sorted({one.version for one in tenures})),
            f"doorstep release start {service}@{to}",
        )
    if to == (now.version if now else NOBODY):
        return left.release
    if to in kills:
        raise _killed(kills[to], choices)
    if to not in (NOBODY, *standing(tenures)):
        require_may(unit, app, service, "promote")
        asked = versions.get_version(unit.connection, service, to)
        require_approvals(unit, app, asked, [person.name])
    _change(unit, service, person, left, to)
    unit.record(
        "service.rolled-back",
        Object("service", service),
        {
            "from": f"{service}@{now.version}" if now else "",
            "to": f"{service}@{to}" if to else "",
            "why": person.why,
        },
    )
    with_plan(unit, app, store.get_release(unit.connection, left.release))
    return left.release


def _change(unit: Unit, service: str, person: Person, left: store.TenureRow, to: int) -> None:
    if to == NOBODY:
        return store.vacate(unit.connection, service, unit.now())
    return store.crown(
        unit.connection,
        store.TenureRow(
            service=service,
            since=unit.now(),
            version=to,
            until=None,
            release=left.release,
            because=f"taken back from {service}@{left.version}: {person.why}",
            by=person.name,
        ),
    )


def others_alive(tenures: Sequence[store.TenureRow], killed: Collection[int]) -> list[int]:
    """Versions that served and may be asked, besides the one that serves: first the champion before
    it, then those that served last."""
    now, last = serving(tenures), previous_champion(tenures)
    served = dict.fromkeys((*([last] if last else []), *(one.version for one in tenures)))
    return [one for one in served if one not in killed and (now is None or one != now.version)]


def _further(service: str, choices: Sequence[int]) -> str:
    """The command that goes to the best of them, and the others."""
    to = choices[0] if choices else NOBODY
    also = f" (or to {', '.join(f'@{one}' for one in choices[1:])})" if len(choices) > 1 else ""
    return f"doorstep rollback {service} --to {to} goes to {_name(service, to)}{also}"


def _killed(kill: store.KillRow, choices: Sequence[int]) -> RefusedError:
    name = f"{kill.service}@{kill.number}"
    return RefusedError(
        "version-killed",
        f"{name} was killed by {kill.by}: {kill.why}",
        f"{_further(kill.service, choices)}; doorstep revive {name} undoes the kill",
    )


def _last_champion(
    service: str,
    tenures: list[store.TenureRow],
    newest: store.ReleaseRow | None,
    choices: Sequence[int],
) -> int:
    """Where a rollback goes that names no version. Raises: RefusedError."""
    now, last = serving(tenures), previous_champion(tenures)
    if now is None:
        raise RefusedError(
            "nothing-to-roll-back",
            f"no version of {service} serves" + (" any more" if newest else ": none was released"),
            f"doorstep history {service}",
        )
    further = _further(service, choices)
    ended_at = newest.ended_at or 0 if newest else 0
    if newest is not None and newest.release.id != now.release and ended_at > now.since:
        taken = f"{service}@{newest.release.challenger} was {newest.release.state.value}"
        raise _rolled_back_already(now, ended_at, taken, further)
    if is_way_back(tenures):
        raise _rolled_back_already(now, now.since, "it was given back", further)
    if last is None:
        raise RefusedError(
            "nothing-to-roll-back",
            f"{service} has no champion before @{now.version}, which serves since "
            f"{_say(now.since)}",
            further,
        )
    return last


def _rolled_back_already(
    now: store.TenureRow, at: Instant, taken: str, further: str
) -> RefusedError:
    return RefusedError(
        "rolled-back-already",
        f"{now.service}@{now.version} serves since {_say(now.since)}; {taken} at {_say(at)}, and a "
        "rollback that is sent twice goes back once",
        further,
    )


def _name(service: str, version: int | None) -> str:
    return f"{service}@{version}" if version else "no version: the constant of its fallback, or 503"


def _say(at: Instant) -> str:
    return f"{to_text(at)[:19]}Z"
