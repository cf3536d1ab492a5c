"""The rule of who says yes, as it is in force for a service."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection

from doorstep.core.servicefile import read_stored
from doorstep.kernel.app import App
from doorstep.register.store import list_revisions
from doorstep.release.approvals import list_approvals
from doorstep.release.policy import InForce, Revised, in_force, policy_of

REVISION = 0
"""The number under which approvals of revisions of the file are kept: no version has it."""


def rule_of(connection: Connection, app: App, service: str) -> InForce:
    yes: dict[int, list[str]] = {}
    for one in list_approvals(connection, service, app.home.environment, REVISION):
        yes.setdefault(int(one.basis), []).append(one.by)
    return in_force(_revised(connection, app, service), yes)


def _revised(connection: Connection, app: App, service: str) -> Iterator[Revised]:
    for revision, file, by in list_revisions(connection, service):
        read, _ = read_stored(file, app.home.environment)
        # What this Doorstep cannot read neither tightens nor loosens.
        if read is not None:
            yield Revised(revision, by, policy_of(read))
