"""Importing this fills `kernel.schema.metadata`: every module that has tables is imported here.

To add tables: define them in the room's `store.py`, import it here, and write the next file in
`versions/` (`v0002_register.py`: revision "0002", down_revision "0001"). A test compares what the
migrations make with the tables in code, on both databases.
"""

from __future__ import annotations

from sqlalchemy import MetaData

from doorstep.gate import store as gate
from doorstep.kernel import api_keys, checkpoints, leases, ledger
from doorstep.kernel.schema import metadata
from doorstep.monitor import store as monitor
from doorstep.register import store as register
from doorstep.release import approvals
from doorstep.release import store as release

MODULES = (ledger, checkpoints, leases, api_keys, register, gate, release, approvals, monitor)


def all_tables() -> MetaData:
    """The metadata with the tables of every room in it."""
    return metadata
