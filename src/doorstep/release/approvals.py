"""Who said yes to a version, and whether that is enough to release it.

An approval is of one bundle, for one environment, on the evidence of one gate basis; it counts for
nothing else. Nobody's own work is approved by themselves: neither who registered the version nor
who asks for its release counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec
from sqlalchemy import Column, Connection, Integer, Table, Text, delete, insert, select

from doorstep.core.instant import Instant
from doorstep.kernel.schema import At, metadata

approvals = Table(
    "approval",
    metadata,
    Column("service", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("environment", Text, primary_key=True),
    Column("basis", Text, primary_key=True),
    Column("by", Text, primary_key=True),
    Column("at", At, nullable=False),
    Column("why", Text, nullable=False),
)


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """basis: digest of the bundle and of what its gates rested on."""

    service: str
    number: int
    environment: str
    basis: str
    by: str
    at: Instant
    why: str


def may_release(
    given: Iterable[Approval], basis: str, asked_by: Collection[str], registered_by: str
) -> tuple[str, ...]:
    """Names of the people whose yes counts, for exactly this basis: each once, in order."""
    found = {one.by for one in given if one.basis == basis}
    return tuple(sorted(found - {*asked_by, registered_by}))


def add_approval(connection: Connection, row: Approval) -> None:
    connection.execute(insert(approvals).values(msgspec.structs.asdict(row)))


def remove_approvals(
    connection: Connection, service: str, environment: str, number: int, by: str
) -> int:
    """How many there were, on whatever basis."""
    mine = (
        (approvals.c.service == service)
        & (approvals.c.environment == environment)
        & (approvals.c.number == number)
        & (approvals.c.by == by)
    )
    return connection.execute(delete(approvals).where(mine)).rowcount


def list_approvals(
    connection: Connection, service: str, environment: str, number: int | None = None
) -> list[Approval]:
    """Oldest first. number: None for all versions."""
    asked = select(approvals).where(
        (approvals.c.service == service) & (approvals.c.environment == environment)
    )
    if number is not None:
        asked = asked.where(approvals.c.number == number)
    rows = connection.execute(asked.order_by(approvals.c.at, approvals.c.by))
    return [Approval(**row._asdict()) for row in rows]
