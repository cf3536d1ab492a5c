"""Who answers the callers of a service now: its version, or what its fallback chain has left."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import Connection

from doorstep.core.servicefile import read_stored
from doorstep.core.servicefile_running import FallbackSpec
from doorstep.register.store import ServiceRow
from doorstep.release import store
from doorstep.release.tenures import previous_champion, serving


class Callers(msgspec.Struct, frozen=True, kw_only=True):
    """serving: the champion, or a first version that is watched. kill: of that version, None while
    it may be asked. get: what callers get, in words."""

    serving: int | None
    kill: store.KillRow | None
    get: str


def read_callers(connection: Connection, row: ServiceRow, environment: str) -> Callers:
    tenures = store.list_tenures(connection, row.name)
    running = store.find_running(connection, row.name)
    champion = serving(tenures)
    number = champion.version if champion else None
    if number is None and running is not None and running.release.is_first:
        number = running.release.challenger
    kills = store.list_kills(connection, row.name)
    file, _ = read_stored(row.file, environment)
    chain = file.serve.fallback if file else ()
    alive = [one for one in (number, previous_champion(tenures)) if one not in kills]
    if number is not None and number in alive:
        return Callers(serving=number, kill=None, get=f"{row.name}@{number}")
    get = instead(row.name, chain, [one for one in alive if one is not None])
    return Callers(serving=number, kill=None if number is None else kills[number], get=get)


def instead(service: str, chain: Sequence[FallbackSpec], previous: Collection[int] = ()) -> str:
    """What the chain gives where the champion must not be asked: `the constant 'good'`. previous:
    the champion before it, unless there is none or it was killed."""
    found: list[str] = []
    for step in chain:
        if step.kind == "previous" and previous:
            return ", else ".join([*found, *(f"{service}@{one}" for one in previous)])
        if step.kind == "answer" and step.when is None:
            return ", else ".join([*found, f"the constant {step.answer!r}"])
        if step.kind == "answer":
            found.append(f"the constant {step.answer!r} where {step.when}")
    return ", else ".join([*found, "503"])
