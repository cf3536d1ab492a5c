"""The leader: one row with a term, so that only one control plane acts.

A holder renews its lease by counting `beat` up. Others watch the beat on their own monotonic clock
and take over, with the next term, when it stood still for `LEASE_S`: wall clocks that disagree do
no harm. What makes it safe is not the timing but the term: each transaction of a loop checks it
under the write lock, so a leader that slept through its lease can change nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Column, Connection, CursorResult, Table, Text, insert, select, update

from doorstep.core.errors import RefusedError
from doorstep.kernel.schema import OPERATIONAL, Whole, metadata

LEASE_S = 10.0
LEADER = "leader"

leases = Table(
    "lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("term", Whole, nullable=False),
    Column("beat", Whole, nullable=False),
    Column("owner", Text, nullable=False),
    info=dict(OPERATIONAL),
)


class Lease(msgspec.Struct, frozen=True):
    """term: 1, 2, ...: rises with each taking. beat: rises with each renewal. owner: "" if free."""

    name: str
    term: int
    beat: int
    owner: str


class Sighting(msgspec.Struct, frozen=True):
    """When, on this process's monotonic clock, the lease was first seen as it is."""

    lease: Lease | None
    since_s: float


def is_free(sighting: Sighting, now_s: float) -> bool:
    """Whether the lease may be taken: never held, given back, or unrenewed for `LEASE_S`."""
    lease = sighting.lease
    return lease is None or not lease.owner or now_s - sighting.since_s >= LEASE_S


def see(sighting: Sighting | None, lease: Lease | None, now_s: float) -> Sighting:
    """The sighting after a look at the row: unchanged for as long as the row is unchanged."""
    if sighting is not None and sighting.lease == lease:
        return sighting
    return Sighting(lease, now_s)


def read_lease(connection: Connection) -> Lease | None:
    """The lease, or None if nobody ever took it."""
    row = connection.execute(select(leases).where(leases.c.name == LEADER)).one_or_none()
    return None if row is None else Lease(row.name, row.term, row.beat, row.owner)


def take_lease(connection: Connection, owner: str, seen: Lease | None) -> Lease:
    """The lease in a new term. `seen` must be what the row still says.

    Raises: RefusedError (`lease-taken`) if it was renewed or taken since it was seen.
    """
    if read_lease(connection) != seen:
        raise RefusedError("lease-taken", f"the lease {LEADER!r} was renewed or taken meanwhile")
    taken = Lease(LEADER, seen.term + 1 if seen else 1, 0, owner)
    values = msgspec.structs.asdict(taken)
    if seen is None:
        connection.execute(insert(leases).values(values))
    else:
        connection.execute(update(leases).where(leases.c.name == LEADER).values(values))
    return taken


def renew_lease(connection: Connection, lease: Lease) -> Lease:
    """The lease, one beat later. Raises: RefusedError (`not-leader`) if it was taken."""
    renewed = msgspec.structs.replace(lease, beat=lease.beat + 1)
    _change(connection, lease, beat=renewed.beat)
    return renewed


def free_lease(connection: Connection, lease: Lease) -> None:
    """Give the lease back, so that the next holder need not wait. Raises: as `renew_lease`."""
    _change(connection, lease, owner="")


def require_term(connection: Connection, term: int) -> None:
    """Raises: RefusedError (`not-leader`) unless the lease is held in this term."""
    lease = read_lease(connection)
    if lease is None or not lease.owner or lease.term != term:
        raise _not_leader(LEADER, term)


def _change(connection: Connection, lease: Lease, **values: Any) -> None:
    held = (leases.c.name == lease.name) & (leases.c.term == lease.term)
    done = connection.execute(
        update(leases).where(held & (leases.c.owner == lease.owner)).values(**values)
    )
    if not isinstance(done, CursorResult) or done.rowcount != 1:
        raise _not_leader(lease.name, lease.term)


def _not_leader(name: str, term: int) -> RefusedError:
    return RefusedError(
        "not-leader",
        f"the lease {name!r} is no longer held in term {term}; another control plane leads",
    )
