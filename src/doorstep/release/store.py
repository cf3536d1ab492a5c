"""Tables of releases, who serves, and plans. Only this room writes them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Integer,
    LargeBinary,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from doorstep.core.errors import NotFoundError
from doorstep.core.instant import Instant
from doorstep.core.plan import PlanRoot
from doorstep.core.report import Cell
from doorstep.kernel.schema import OPERATIONAL, At, Whole, metadata
from doorstep.release.types import Decision, Release

PLANS_KEPT = 100
"""Enough to see what a node that lags was told; a plan that is served is the newest one."""

releases = Table(
    "release",
    metadata,
    Column("id", Text, primary_key=True),
    Column("service", Text, nullable=False, index=True),
    Column("challenger", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("is_over", Boolean, nullable=False, index=True),
    Column("by", Text, nullable=False),
    Column("started_at", At, nullable=False),
    Column("ended_at", At),
    Column("plan_number", Whole, nullable=False),
    Column("document", LargeBinary, nullable=False),
)
decisions = Table(
    "release_decision",
    metadata,
    Column("release", Text, primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("at", At, nullable=False),
    Column("by", Text, nullable=False),
    Column("document", LargeBinary, nullable=False),
)
tenures = Table(
    "tenure",
    metadata,
    Column("service", Text, primary_key=True),
    Column("since", At, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("until", At),
    Column("release", Text, nullable=False),
    Column("because", Text, nullable=False),
    Column("by", Text, nullable=False),
)
kills = Table(
    "kill",
    metadata,
    Column("service", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", At, nullable=False),
    Column("by", Text, nullable=False),
    Column("why", Text, nullable=False),
)
plans = Table(
    "plan",
    metadata,
    Column("number", Whole, primary_key=True, autoincrement=False),
    Column("term", Whole, nullable=False),
    Column("made_at", At, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("basis", Text, nullable=False),
    info=dict(OPERATIONAL),
)
documents = Table(
    "plan_document",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    info=dict(OPERATIONAL),
)
watches = Table(
    "release_watch",
    metadata,
    Column("release", Text, primary_key=True),
    Column("at", At, nullable=False),
    info=dict(OPERATIONAL),
)
moments = Table(
    "release_moments",
    metadata,
    Column("release", Text, primary_key=True),
    Column("document", LargeBinary, nullable=False),
    info=dict(OPERATIONAL),
)
cells = Table(
    "release_cells",
    metadata,
    Column("release", Text, primary_key=True),
    Column("node", Text, primary_key=True),
    Column("boot", Text, primary_key=True),
    Column("document", LargeBinary, nullable=False),
    info=dict(OPERATIONAL),
)


class ReleaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """A release and what this room keeps beside it. plan_number: of the plan that carries its
    newest decision."""

    release: Release
    by: str
    plan_number: int
    ended_at: Instant | None = None


class TenureRow(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of time in which a version was champion of its service."""

    service: str
    since: Instant
    version: int
    until: Instant | None
    release: str
    because: str
    by: str


class KillRow(msgspec.Struct, frozen=True, kw_only=True):
    """A version that nobody may ask, until it is revived."""

    service: str
    number: int
    at: Instant
    by: str
    why: str


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """basis: digest of everything that the plan was made from, so that a change is seen."""

    number: int
    term: int
    made_at: Instant
    root: bytes
    basis: str


def add_release(connection: Connection, row: ReleaseRow) -> None:
    values = _columns(row) | {
        "id": row.release.id,
        "service": row.release.service,
        "challenger": row.release.challenger,
        "by": row.by,
        "started_at": row.release.started_at,
    }
    connection.execute(insert(releases).values(values))


def save_release(connection: Connection, row: ReleaseRow) -> None:
    mine = releases.c.id == row.release.id
    connection.execute(update(releases).where(mine).values(_columns(row)))


def find_running(connection: Connection, service: str) -> ReleaseRow | None:
    """The release of this service that is not over, or None. There is at most one."""
    mine = (releases.c.service == service) & releases.c.is_over.is_(False)
    return _one(connection, mine)


def list_running(connection: Connection) -> list[ReleaseRow]:
    return _all(connection, releases.c.is_over.is_(False), 10_000)


def list_releases(connection: Connection, service: str = "", limit: int = 100) -> list[ReleaseRow]:
    """Newest first."""
    return _all(connection, releases.c.service == service if service else None, limit)


def list_named(connection: Connection, ids: Sequence[str]) -> list[ReleaseRow]:
    """Those of these ids that there are."""
    return _all(connection, releases.c.id.in_(ids), len(ids))


def get_release(connection: Connection, name: str) -> ReleaseRow:
    """By id, or the newest of a service. Raises: NotFoundError (`no-release`)."""
    found = _one(connection, releases.c.id == name) or _one(connection, releases.c.service == name)
    if found is None:
        raise NotFoundError("no-release", f"there is no release {name!r}", "doorstep release list")
    return found


def add_decision(connection: Connection, release: str, by: str, decision: Decision) -> int:
    """Its sequence within the release, from 1."""
    mine = decisions.c.release == release
    sequence = int(connection.scalar(select(func.count()).where(mine)) or 0) + 1
    connection.execute(
        insert(decisions).values(
            release=release,
            sequence=sequence,
            at=decision.at,
            by=by,
            document=msgspec.json.encode(decision),
        )
    )
    return sequence


def list_decisions(connection: Connection, release: str) -> list[tuple[int, str, Decision]]:
    """(sequence, by, decision), oldest first."""
    asked = select(decisions).where(decisions.c.release == release)
    return [
        (row.sequence, row.by, msgspec.json.decode(row.document, type=Decision))
        for row in connection.execute(asked.order_by(decisions.c.sequence))
    ]


def last_decisions(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[str, Decision]]:
    """(by, decision) of the newest decision of each release: what ended it, if it is over."""
    newest = (
        select(decisions.c.release, func.max(decisions.c.sequence).label("sequence"))
        .where(decisions.c.release.in_(ids))
        .group_by(decisions.c.release)
        .subquery()
    )
    asked = select(decisions).join(
        newest,
        (decisions.c.release == newest.c.release) & (decisions.c.sequence == newest.c.sequence),
    )
    return {
        row.release: (row.by, msgspec.json.decode(row.document, type=Decision))
        for row in connection.execute(asked)
    }


def list_tenures(connection: Connection, service: str) -> list[TenureRow]:
    """Newest first; the newest one has no end."""
    asked = select(tenures).where(tenures.c.service == service).order_by(tenures.c.since.desc())
    return [TenureRow(**row._asdict()) for row in connection.execute(asked)]


def champions(connection: Connection) -> dict[str, int]:
    """Service -> number of its champion now."""
    asked = select(tenures.c.service, tenures.c.version).where(tenures.c.until.is_(None))
    return {row.service: row.version for row in connection.execute(asked)}


def crown(connection: Connection, row: TenureRow) -> None:
    """End the tenure that is open, if any, and begin this one: after it, even where the clock was
    set back meanwhile, because tenures are told in the order of their beginnings."""
    mine = tenures.c.service == row.service
    ends = select(func.max(tenures.c.since), func.max(tenures.c.until)).where(mine)
    newest = max((one for one in connection.execute(ends).one() if one is not None), default=None)
    since = row.since if newest is None else max(row.since, int(newest) + 1)
    is_open = mine & tenures.c.until.is_(None)
    connection.execute(update(tenures).where(is_open).values(until=since))
    connection.execute(insert(tenures).values(msgspec.structs.asdict(row) | {"since": since}))


def vacate(connection: Connection, service: str, at: Instant) -> None:
    """End the tenure that is open, and begin none."""
    is_open = (tenures.c.service == service) & tenures.c.until.is_(None)
    since = connection.scalar(select(tenures.c.since).where(is_open))
    until = max(at, int(since or 0) + 1)
    connection.execute(update(tenures).where(is_open).values(until=until))


def list_kills(connection: Connection, service: str) -> dict[int, KillRow]:
    """By number of the version."""
    asked = select(kills).where(kills.c.service == service)
    return {row.number: KillRow(**row._asdict()) for row in connection.execute(asked)}


def add_kill(connection: Connection, row: KillRow) -> None:
    connection.execute(insert(kills).values(msgspec.structs.asdict(row)))


def remove_kill(connection: Connection, row: KillRow) -> None:
    mine = (kills.c.service == row.service) & (kills.c.number == row.number)
    connection.execute(delete(kills).where(mine))


def newest_plan(connection: Connection) -> PlanRow | None:
    asked = select(plans).order_by(plans.c.number.desc()).limit(1)
    row = connection.execute(asked).one_or_none()
    return None if row is None else PlanRow(**row._asdict())


def add_plan(connection: Connection, row: PlanRow, bodies: dict[str, bytes]) -> None:
    """Store the root and those documents that are not stored yet."""
    for digest, body in bodies.items():
        if (
            connection.scalar(select(documents.c.digest).where(documents.c.digest == digest))
            is None
        ):
            connection.execute(insert(documents).values(digest=digest, body=body))
    connection.execute(insert(plans).values(msgspec.structs.asdict(row)))


def prune_plans(connection: Connection) -> None:
    """Forget all but the newest `PLANS_KEPT` plans and those that a running release names, and the
    service documents that none of them names. The changes that made them are in the ledger."""
    newest = select(plans.c.number).order_by(plans.c.number.desc()).limit(PLANS_KEPT)
    named = select(releases.c.plan_number).where(releases.c.is_over.is_(False))
    is_old = plans.c.number.not_in(newest) & plans.c.number.not_in(named)
    connection.execute(delete(plans).where(is_old))
    roots = connection.scalars(select(plans.c.root))
    kept = {one for root in roots for one in _root_of(root).services.values()}
    gone = set(connection.scalars(select(documents.c.digest))) - kept
    if gone:
        mine = documents.c.digest == bindparam("gone")
        connection.execute(delete(documents).where(mine), [{"gone": one} for one in gone])


def _root_of(body: bytes) -> PlanRoot:
    return msgspec.json.decode(body, type=PlanRoot)


def read_documents(connection: Connection, root: PlanRoot) -> dict[str, bytes]:
    """Digest -> body of the documents of a plan."""
    found = {digest: read_document(connection, digest) for digest in root.documents}
    return {digest: body for digest, body in found.items() if body}


def read_document(connection: Connection, digest: str) -> bytes:
    """b"" if it is not stored."""
    mine = documents.c.digest == digest
    return bytes(connection.scalar(select(documents.c.body).where(mine)) or b"")


def read_watches(connection: Connection) -> dict[str, Instant]:
    """Release -> when somebody last looked whether it must be decided."""
    return {row.release: row.at for row in connection.execute(select(watches))}


def note_watch(connection: Connection, release: str, at: Instant) -> None:
    mine = watches.c.release == release
    if connection.scalar(select(watches.c.release).where(mine)) is None:
        connection.execute(insert(watches).values(release=release, at=at))
    else:
        connection.execute(update(watches).where(mine).values(at=at))


def read_moments(connection: Connection, release: str) -> bytes:
    """b"" before there are any."""
    asked = select(moments.c.document).where(moments.c.release == release)
    return bytes(connection.scalar(asked) or b"")


def save_moments(connection: Connection, release: str, document: bytes) -> None:
    connection.execute(delete(moments).where(moments.c.release == release))
    connection.execute(insert(moments).values(release=release, document=document))


def save_cells(
    connection: Connection, release: str, node: str, boot: str, found: tuple[Cell, ...]
) -> None:
    """Keep what one boot of a node has reported, so that it outlives the node's report."""
    mine = (cells.c.release == release) & (cells.c.node == node) & (cells.c.boot == boot)
    document = msgspec.json.encode(found)
    known = connection.scalar(select(cells.c.node).where(mine))
    if known is None:
        values = {"release": release, "node": node, "boot": boot, "document": document}
        connection.execute(insert(cells).values(values))
    else:
        connection.execute(update(cells).where(mine).values(document=document))


def read_cells(connection: Connection, release: str) -> list[tuple[str, str, tuple[Cell, ...]]]:
    """(node, boot, cells) of every boot that ever reported on this release."""
    asked = select(cells).where(cells.c.release == release)
    return [
        (row.node, row.boot, msgspec.json.decode(row.document, type=tuple[Cell, ...]))
        for row in connection.execute(asked)
    ]


def _columns(row: ReleaseRow) -> dict[str, object]:
    return {
        "state": row.release.state.value,
        "is_over": row.release.is_over,
        "ended_at": row.ended_at,
        "plan_number": row.plan_number,
        "document": msgspec.json.encode(row.release),
    }


def _one(connection: Connection, where: object) -> ReleaseRow | None:
    found = _all(connection, where, 1)
    return found[0] if found else None


def _all(connection: Connection, where: object, limit: int) -> list[ReleaseRow]:
    asked = select(releases).order_by(releases.c.started_at.desc(), releases.c.id.desc())
    if where is not None:
        asked = asked.where(where)  # type: ignore[arg-type]
    return [
        ReleaseRow(
            release=msgspec.json.decode(row.document, type=Release),
            by=row.by,
            plan_number=row.plan_number,
            ended_at=row.ended_at,
        )
        for row in connection.execute(asked.limit(limit))
    ]
