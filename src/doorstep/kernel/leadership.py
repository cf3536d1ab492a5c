"""One process's part in the question who leads: called at each tick of a loop."""

from __future__ import annotations

from doorstep.core.errors import RefusedError
from doorstep.core.instant import Clock
from doorstep.kernel.db import Database
from doorstep.kernel.leases import (
    Lease,
    Sighting,
    free_lease,
    is_free,
    read_lease,
    renew_lease,
    see,
    take_lease,
)


class Leadership:
    """owner: names this process, fresh at each start (host, pid and a random part).

    alone: nobody else can lead, because this process holds the lock of a home with the database
    in it; then a lease that a killed process left behind is taken at once.
    """

    def __init__(self, database: Database, clock: Clock, owner: str, *, alone: bool) -> None:
        self._database = database
        self._clock = clock
        self._owner = owner
        self._alone = alone
        self._held: Lease | None = None
        self._sighting: Sighting | None = None

    def tick(self) -> int | None:
        """The term in which this process leads now, or None. Call it at least each LEASE_S / 3.

        Renews what is held; takes what is free. The term is what the loops' transactions
        then check (`Database.led`). Raises: as `Database.transaction`.
        """
        if self._held is not None:
            self._held = self._renewed(self._held)
        else:
            self._held = self._taken()
        return self._held.term if self._held else None

    def step_down(self) -> None:
        """Give the lease back, if it is held, so that the next leader need not wait."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            with self._database.transaction() as unit:
                free_lease(unit.connection, held)
        except RefusedError:
            return  # Somebody else leads already: there is nothing to give back.

    def _renewed(self, held: Lease) -> Lease | None:
        try:
            with self._database.transaction() as unit:
                return renew_lease(unit.connection, held)
        except RefusedError:
            return None

    def _taken(self) -> Lease | None:
        with self._database.reading() as connection:
            lease = read_lease(connection)
        now_s = self._clock.monotonic_s()
        self._sighting = see(self._sighting, lease, now_s)
        if not (self._alone or is_free(self._sighting, now_s)):
            return None
        try:
            with self._database.transaction() as unit:
                return take_lease(unit.connection, self._owner, lease)
        except RefusedError:
            return None
