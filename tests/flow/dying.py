"""`up` that is shot at named points of the changes of a release, as a file tells it: one a life.

A line of the file is `RELEASE POINT CHANGE`: decided (in the transaction of its change number
CHANGE), committed (before the plan of it is published) or published (right after).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection

from doorstep.compose import loops
from doorstep.core.plan import PlanPointer
from doorstep.kernel.db import Unit
from doorstep.kernel.home import Home
from doorstep.release import actions, store
from doorstep.release.types import Hold
from doorstep.testing import installation

DEATHS = Path(os.environ.get("DYING", "/dev/null"))
with_plan, publish_plan = actions.with_plan, loops.publish_plan


def changes_of(connection: Connection, release: str) -> list[str]:
    """What was decided of it, without holding."""
    found = [one.outcome for _, _, one in store.list_decisions(connection, release)]
    return [type(one).__name__.lower() for one in found if not isinstance(one, Hold)]


def die_at(point: str, connection: Connection) -> None:
    lines = DEATHS.read_text().splitlines()
    if not lines:
        return
    release, where, change = lines[0].split()
    if where == point and len(changes_of(connection, release)) >= int(change):
        DEATHS.write_text("\n".join(lines[1:]))
        os.kill(os.getpid(), signal.SIGKILL)


def planned(unit: Unit, *asked: Any) -> store.ReleaseRow:
    found = with_plan(unit, *asked)
    die_at("decided", unit.connection)
    return found


def published(connection: Connection, home: Home, *asked: Any) -> int:
    current, newest = home.plan / "current", store.newest_plan(connection)
    known = (
        msgspec.json.decode(current.read_bytes(), type=PlanPointer) if current.exists() else None
    )
    is_new = newest is not None and (known is None or newest.number > known.number)
    if is_new:
        die_at("committed", connection)
    number = publish_plan(connection, home, *asked)
    if is_new:
        die_at("published", connection)
    return number


if __name__ == "__main__":
    actions.with_plan, loops.publish_plan = planned, published
    installation.main()
