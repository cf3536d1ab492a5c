"""Write the plan: the effects around `plan.py`. One row per change, in the change's transaction."""

from __future__ import annotations

import contextlib
import time

import msgspec
from sqlalchemy import Connection

from doorstep.core.ids import digest_of
from doorstep.core.plan import FORMAT, PlanPointer, PlanRoot, ServicePlan
from doorstep.core.servicefile import read_stored
from doorstep.kernel.api_keys import live_keys
from doorstep.kernel.db import Unit
from doorstep.kernel.files import write_atomic
from doorstep.kernel.home import Home
from doorstep.kernel.keys import SigningKey
from doorstep.register import store as versions
from doorstep.register.views import manifest_of
from doorstep.release import store
from doorstep.release.plan import ServiceState, plan_root, service_plan
from doorstep.release.tenures import previous_champion

PLAN_KEPT_S = 3600.0


def write_plan(unit: Unit, home: Home, term: int, lease_s: float, nodes: int) -> int:
    """The number of the plan that says what this transaction leaves; a new row if it differs from
    the newest plan. lease_s: of challengers. nodes: how many are alive, who share each limit."""
    newest = store.newest_plan(unit.connection)
    number = newest.number + 1 if newest else 1
    plans = [
        plan
        for row in versions.list_services(unit.connection)
        if (state := _state(unit.connection, home, row)) is not None
        if (plan := service_plan(state, _planned(unit.connection, newest, state))) is not None
    ]
    root, bodies = plan_root(
        plans,
        live_keys(unit.connection, unit.now()),
        nodes=nodes,
        environment=home.environment,
        term=term,
        number=number,
        made_at=unit.now(),
        lease_s=lease_s,
    )
    made_of = (term, root.services, lease_s, root.keys, root.node_share)
    basis = digest_of(msgspec.json.encode(made_of))
    if newest is not None and newest.basis == basis:
        return newest.number
    row = store.PlanRow(
        number=number,
        term=term,
        made_at=root.made_at,
        root=msgspec.json.encode(root),
        basis=basis,
    )
    store.add_plan(unit.connection, row, bodies)
    return number


def publish_plan(connection: Connection, home: Home, key: SigningKey, renewal: int) -> int:
    """Put the newest plan into the home and point at it; 0 if there is none. Idempotent: documents
    are content-addressed, and the pointer is replaced last."""
    newest = store.newest_plan(connection)
    if newest is None:
        return 0
    root = msgspec.json.decode(newest.root, type=PlanRoot)
    files = store.read_documents(connection, root) | {digest_of(newest.root): newest.root}
    for digest, body in files.items():
        path = home.plan / f"{digest}.json"
        if not path.exists():
            write_atomic(path, body)
    write_atomic(home.plan / "current", msgspec.json.encode(_pointer(newest, key, renewal)))
    return newest.number


def _pointer(newest: store.PlanRow, key: SigningKey, renewal: int) -> PlanPointer:
    pointer = PlanPointer(
        format=FORMAT,
        term=newest.term,
        number=newest.number,
        root=digest_of(newest.root),
        renewal=renewal,
        key=key.public.raw.hex(),
    )
    signature = key.sign(pointer.signed_bytes()).hex()
    return msgspec.structs.replace(pointer, signature=signature)


def sweep_plans(unit: Unit, home: Home) -> None:
    """Prune the rows of plans; remove documents from the home that the newest plan does not name,
    if they have lain for an hour: a node may still be reading them. Only whoever publishes may
    call it, between two publications."""
    store.prune_plans(unit.connection)
    newest = store.newest_plan(unit.connection)
    if newest is None:
        return
    root = msgspec.json.decode(newest.root, type=PlanRoot)
    keep = {digest_of(newest.root), *root.documents}
    for path in home.plan.glob("*.json"):
        if path.stem not in keep and time.time() - path.stat().st_mtime > PLAN_KEPT_S:
            path.unlink(missing_ok=True)


def _state(connection: Connection, home: Home, row: versions.ServiceRow) -> ServiceState | None:
    """None for a service of which nothing was ever released. Where nothing serves any more, the
    service stays: callers get its fallback, by the contract of what was released last."""
    tenures = store.list_tenures(connection, row.name)
    champion = tenures[0].version if tenures and tenures[0].until is None else None
    running = store.find_running(connection, row.name)
    newest = running or next(iter(store.list_releases(connection, row.name, 1)), None)
    if newest is None:
        return None
    last = previous_champion(tenures)
    spoken_for = champion or newest.release.challenger
    rows = {
        number: versions.get_version(connection, row.name, number)
        for number in {champion, last, newest.release.challenger}
        if number is not None
    }
    return ServiceState(
        service=row.name,
        file=read_stored(row.file, home.environment)[0],
        contract=manifest_of(home.bundles, rows[spoken_for].digest).contract,
        versions=rows,
        champion=champion,
        last_champion=last,
        release=running.release if running else None,
        killed=rows.keys() & store.list_kills(connection, row.name).keys(),
    )


def _planned(
    connection: Connection, newest: store.PlanRow | None, state: ServiceState
) -> ServicePlan | None:
    """What the newest plan says of a service whose file cannot be read."""
    if state.file is not None or newest is None:
        return None
    digest = msgspec.json.decode(newest.root, type=PlanRoot).services.get(state.service, "")
    body = store.read_document(connection, digest)
    with contextlib.suppress(msgspec.MsgspecError):  # as another Doorstep wrote it
        return msgspec.json.decode(body, type=ServicePlan) if body else None
    return None
