"""What must hold before a version is released: its gates passed, and people said yes who may."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

import msgspec
from sqlalchemy import Connection

from doorstep.core.errors import ForbiddenError, InputError, RefusedError
from doorstep.core.ids import digest_of, parse_version
from doorstep.core.people import OWNER
from doorstep.core.plural import plural
from doorstep.core.servicefile import stored_service_file
from doorstep.core.verdict import Verdict
from doorstep.gate.basis import basis_of, what_changed
from doorstep.gate.store import find_newest
from doorstep.gate.surface import GateBasis
from doorstep.kernel import api_keys
from doorstep.kernel.app import App
from doorstep.kernel.db import Unit
from doorstep.kernel.event import Object
from doorstep.register import store as versions
from doorstep.register.surface import Rule, Unapproved
from doorstep.release import store
from doorstep.release.approvals import (
    Approval,
    add_approval,
    list_approvals,
    may_release,
    remove_approvals,
)
from doorstep.release.policies import REVISION, rule_of
from doorstep.release.policy import InForce, is_named
from doorstep.release.surface import Approvals, ApprovalView


def require_gates(unit: Unit, app: App, version: versions.VersionRow) -> None:
    """The newest run says pass, and what it rests on is what would be asked now.

    Raises: RefusedError (`gate-not-passed`, `gate-outdated`)."""
    run = find_newest(unit.connection, version.service, version.number)
    if run is None or run.verdict is not Verdict.PASS:
        said = "it has not been through its gates"
        if run is not None:
            said = f"its gates say {run.verdict.value}"
        raise RefusedError(
            "gate-not-passed",
            f"{version.name} cannot be released: {said}; a release needs pass",
            f"doorstep gate {version.name}",
        )
    changed = what_changed(run.basis, _basis_now(unit.connection, app, version, run.basis))
    if changed:
        raise RefusedError(
            "gate-outdated",
            f"{version.name} passed its gates, but {changed} since then",
            f"doorstep gate {version.name}",
        )


def _basis_now(
    connection: Connection, app: App, version: versions.VersionRow, known: GateBasis | None
) -> GateBasis:
    """What its gates would rest on now. known: what they rested on when they ran."""
    row = versions.get_service(connection, version.service)
    file = stored_service_file(row.file, app.home.environment)
    compared = _compared_with(connection, version)
    if compared is None:
        compared = known.champion if known is not None else ""
    return basis_of(file, compared, version.holdout)


def _compared_with(connection: Connection, version: versions.VersionRow) -> str | None:
    """Digest of the version that gates would compare it with now, as `gate.run` chooses it: the
    champion, or a first version that is still watched. "" if there is none; None if it is the
    version itself, which nothing can make a challenger."""
    service = version.service
    champion = store.champions(connection).get(service)
    running = store.find_running(connection, service)
    if champion is None and running is not None:
        champion = running.release.challenger
    if champion is None:
        return ""
    if champion == version.number:
        return None
    return versions.get_version(connection, service, champion).digest


def require_approvals(
    unit: Unit, app: App, version: versions.VersionRow, asked_by: Collection[str]
) -> tuple[str, ...]:
    """Who approved, where the rule in force wants people. asked_by: for the release, and for what
    is asked of it now. Raises: RefusedError (`not-approved`)."""
    rule = rule_of(unit.connection, app, version.service)
    need, may = rule.policy.people, rule.policy.approve
    found = tuple(
        one for one in _counted(unit.connection, app, version, asked_by) if is_named(one, may)
    )
    if len(found) >= need:
        return found
    asking = ", ".join(sorted(set(asked_by)))
    said = f"{version.name} needs the yes of {plural(need, 'person', 'people')}"
    said += f" of {', '.join(may)}" if may else ""
    said += (
        f" who neither registered it ({version.by}) nor ask for its release ({asking}); "
        f"{say_given(found)}"
    )
    if rule.waiting:
        said += f"; revision {rule.waiting} of its file asks for less and does not hold yet"
    known = {*api_keys.list_people(unit.connection, unit.now()), OWNER.name}
    could = sorted((known & {*may} if may else known) - {*asked_by, version.by})
    hint = f'doorstep approve {version.name} --why "..."'
    if len({*could, *found}) < need:
        said += f"; only {', '.join(could)} could" if could else "; nobody here could"
        name = next((one for one in may if one not in known), "NAME")
        hint = f"doorstep token create --person {name}"
    raise RefusedError("not-approved", said, hint)


def require_may(unit: Unit, app: App, service: str, what: str) -> None:
    """Whether the rule in force names whoever acts. what: approve or promote.
    Raises: ForbiddenError (`may-not`)."""
    policy = rule_of(unit.connection, app, service).policy
    _require_named(unit, service, what, policy.promote if what == "promote" else policy.approve)


def _require_named(unit: Unit, service: str, what: str, names: tuple[str, ...]) -> None:
    if not is_named(unit.actor.id, names):
        raise ForbiddenError(
            "may-not",
            f"{unit.actor.id} may not {what} a version of {service}; may.{what} of its service "
            f"file names {', '.join(names)}",
            f"ask one of them, or say what you saw: doorstep release show {service}",
        )


def approve_version(app: App, version: str, why: str) -> Approvals:
    """Say yes to a version, as it is, on the evidence of its gates, in this environment.

    Raises: NotFoundError, ForbiddenError (`may-not`), RefusedError (`gate-not-passed`,
    `gate-outdated`, `own-version`).
    """
    service, number = parse_version(version)

    def act(unit: Unit) -> Approvals:
        row = versions.get_version(unit.connection, service, number)
        require_may(unit, app, service, "approve")
        require_gates(unit, app, row)
        if unit.actor.id == row.by:
            raise RefusedError(
                "own-version",
                f"{version} was registered by {row.by}, whose yes does not count for it",
                "let somebody else approve it, with a token of their own: "
                "doorstep token create --person NAME",
            )
        basis = _digest(unit.connection, app, row)
        if say_yes(unit, app, service, number, basis, why):
            said = {"service": service, "basis": basis, "why": why.strip()}
            unit.record("version.approved", Object("version", version), said)
        return _view(unit, app, row)

    return app.database.run(act, app.actor)


def withdraw_approval(app: App, version: str, why: str, by: str = "") -> Approvals:
    """Take back the yes of whoever acts, or of `by`, which only the owner may.

    Raises: NotFoundError, ForbiddenError (`not-your-yes`), RefusedError (`nothing-given`).
    """
    service, number = parse_version(version)

    def act(unit: Unit) -> Approvals:
        row = versions.get_version(unit.connection, service, number)
        whose = by or unit.actor.id
        if whose != unit.actor.id and unit.actor.id != OWNER.name:
            raise ForbiddenError(
                "not-your-yes",
                f"the yes of {whose} to {version} is taken back by {whose} or by {OWNER.name}, "
                f"not by {unit.actor.id}",
                f"ask them, or say what you saw: doorstep release show {service}",
            )
        environment = app.home.environment
        if not remove_approvals(unit.connection, service, environment, number, whose):
            raise RefusedError(
                "nothing-given",
                f"{whose} has not said yes to {version}",
                f"doorstep show {version}",
            )
        said = {"service": service, "by": whose, "why": why.strip()}
        unit.record("version.approval-withdrawn", Object("version", version), said)
        return _view(unit, app, row)

    return app.database.run(act, app.actor)


def approve_revision(app: App, service: str, revision: int, why: str) -> Rule:
    """Say yes to a revision of the file that asks for less than the rule in force.

    Raises: NotFoundError, ForbiddenError (`may-not`), RefusedError (`nothing-waits`,
    `own-revision`).
    """

    def act(unit: Unit) -> Rule:
        versions.get_service(unit.connection, service)
        rule = rule_of(unit.connection, app, service)
        if revision != rule.waiting:
            raise RefusedError(
                "nothing-waits",
                f"revision {revision} of {service} waits for nobody's yes; "
                + (f"revision {rule.waiting} does" if rule.waiting else "none does"),
                f"doorstep history {service}",
            )
        # Whom the rule before it names: a looser one does not choose who says yes to it.
        _require_named(unit, service, "approve", rule.agreed.approve)
        if unit.actor.id == rule.by:
            raise RefusedError(
                "own-revision",
                f"revision {revision} of {service} was applied by {rule.by}, whose yes does not "
                "count for it",
                "let somebody else approve it, with a token of their own: "
                "doorstep token create --person NAME",
            )
        if say_yes(unit, app, service, REVISION, str(revision), why):
            said = {"service": service, "why": why.strip()}
            unit.record("service.approved", Object("service", service, str(revision)), said)
        return rule_view(rule_of(unit.connection, app, service))

    return app.database.run(act, app.actor)


def rule_view(rule: InForce) -> Rule:
    policy = rule.policy
    return Rule(
        people=policy.people,
        approve=policy.approve,
        promote=policy.promote,
        waiting=rule.waiting,
        needs=rule.agreed.guards if rule.waiting else 0,
        given=rule.given,
        by=rule.by,
    )


def unapproved(
    connection: Connection, app: App, version: versions.VersionRow, rule: InForce
) -> Unapproved | None:
    """What it still needs; None if it has the yes of as many as the rule in force wants."""
    found, may = approved_by(connection, app, version), rule.policy.approve
    missing = rule.policy.people - sum(is_named(one, may) for one in found)
    if missing <= 0:
        return None
    return Unapproved(version=version.name, by=version.by, missing=missing, of=may)


def approved_by(connection: Connection, app: App, version: versions.VersionRow) -> tuple[str, ...]:
    """Who said yes to it as it is now, but for who registered it."""
    return _counted(connection, app, version, ())


def say_yes(unit: Unit, app: App, service: str, number: int, basis: str, why: str) -> bool:
    """Note it; whether it is new. number: of the version, 0 for a revision of the file."""
    known = list_approvals(unit.connection, service, app.home.environment, number)
    if any((one.by, one.basis) == (unit.actor.id, basis) for one in known):
        return False
    given = Approval(
        service=service, number=number, environment=app.home.environment,
        basis=basis, by=unit.actor.id, at=unit.now(), why=why.strip(),
    )  # fmt: skip
    add_approval(unit.connection, given)
    return True


def _view(unit: Unit, app: App, version: versions.VersionRow) -> Approvals:
    basis = ""
    with contextlib.suppress(InputError):  # a file that cannot be read: no yes counts
        basis = _digest(unit.connection, app, version)
    rows = list_approvals(unit.connection, version.service, app.home.environment, version.number)
    return Approvals(
        version=version.name,
        people=rule_of(unit.connection, app, version.service).policy.people,
        given=tuple(
            ApprovalView(by=one.by, at=one.at, why=one.why) for one in rows if one.basis == basis
        ),
    )


def _counted(
    connection: Connection, app: App, version: versions.VersionRow, asked_by: Collection[str]
) -> tuple[str, ...]:
    rows = list_approvals(connection, version.service, app.home.environment, version.number)
    return (
        may_release(rows, _digest(connection, app, version), asked_by, version.by) if rows else ()
    )


def _digest(connection: Connection, app: App, version: versions.VersionRow) -> str:
    """Of what an approval binds to, beside the environment: the bundle, what its gates rest on, and
    how the file would release it."""
    run = find_newest(connection, version.service, version.number)
    basis = _basis_now(connection, app, version, run.basis if run else None)
    row = versions.get_service(connection, version.service)
    carried = stored_service_file(row.file, app.home.environment).release
    return digest_of(msgspec.json.encode((version.digest, basis, carried), enc_hook=str))


def say_given(found: tuple[str, ...]) -> str:
    return f"{len(found)} gave it: {', '.join(found)}" if found else "nobody gave it"
