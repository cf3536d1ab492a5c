"""The rule of who says yes, as it is in force for a service."""

from __future__ import annotations

from sqlalchemy import Connection

from doorstep.core.ids import digest_of
from doorstep.core.servicefile import read_rules, read_stored
from doorstep.kernel.app import App
from doorstep.register.store import list_revisions
from doorstep.release.approvals import list_approvals
from doorstep.release.policy import InForce, Policy, Revised, in_force, policy_of

REVISION = 0
"""The number under which approvals of revisions of the file are kept: no version has it."""
POLICIES_KEPT = 100_000
"""Some tens of megabytes. Every revision of a service is asked for by each of its pages, and of
many services they are more than the files that are kept whole."""


class Policies:
    """What revisions said, by their text: it never changes, and reading it takes 10 ms."""

    def __init__(self) -> None:
        self._known: dict[str, Policy | None] = {}

    def of(self, text: str, environment: str) -> Policy | None:
        """None for what is no file."""
        digest = digest_of(text.encode())
        known = self._known  # another thread may begin anew
        if digest not in known:
            if len(known) >= POLICIES_KEPT:
                known = self._known = {}
            file, _ = read_stored.__wrapped__(text, environment)  # which keeps the newest ones
            file = file or read_rules(text, environment)
            known[digest] = policy_of(file) if file else None
        return known[digest]


def rule_of(connection: Connection, app: App, service: str) -> InForce:
    yes: dict[int, list[str]] = {}
    for one in list_approvals(connection, service, app.home.environment, REVISION):
        yes.setdefault(int(one.basis), []).append(one.by)
    known, revised = app.kept.get(Policies, Policies), []
    for revision, file, by in list_revisions(connection, service):
        policy = known.of(file, app.home.environment)
        if policy is not None:
            revised.append(Revised(revision, by, policy))
    return in_force(revised, yes)
