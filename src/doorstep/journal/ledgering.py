"""Each closed block becomes one ledger event, once: its digest and the root of its records. So does
each file that went because it was too old or too much."""

from __future__ import annotations

import msgspec

from doorstep.journal.compactor import forget_closed, pending_closed
from doorstep.journal.retain import pending_dropped
from doorstep.kernel.app import App
from doorstep.kernel.event import Object
from doorstep.kernel.ledger import Filter, read_events

BLOCKS_A_TIME = 200


def record_closed(app: App) -> int:
    """Ledger what was closed since the last call; how many events that made.

    A crash between the commit and the forgetting offers a block again: it is found in the ledger
    and only forgotten.
    """
    waiting = pending_closed(app.home.path)[:BLOCKS_A_TIME]
    if not waiting:
        return 0
    made = 0
    with app.database.transaction() as unit:
        for closed in waiting:
            about = Object("block", f"{closed.node}/{closed.block}")
            if not read_events(unit.connection, Filter(object=about), 1):
                unit.record("journal.closed", about, msgspec.to_builtins(closed))
                made += 1
    for closed in waiting:
        forget_closed(app.home.path, closed)
    return made


def record_dropped(app: App) -> int:
    """The same for files that went."""
    waiting = pending_dropped(app.home.path)[:BLOCKS_A_TIME]
    if not waiting:
        return 0
    made = 0
    with app.database.transaction() as unit:
        for _, dropped in waiting:
            about = Object("journal-file", f"{dropped.node}/{dropped.file}")
            if not read_events(unit.connection, Filter(object=about), 1):
                unit.record("journal.dropped", about, msgspec.to_builtins(dropped))
                made += 1
    for path, _ in waiting:
        path.unlink(missing_ok=True)
    return made
