"""What must hold before a version is released: its gates passed, and people said yes."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from doorstep.core.errors import RefusedError
from doorstep.core.ids import digest_of, parse_version
from doorstep.core.servicefile import stored_service_file
from doorstep.core.verdict import Verdict
from doorstep.gate.basis import basis_of, what_changed
from doorstep.gate.store import find_newest
from doorstep.gate.surface import GateBasis
from doorstep.kernel.app import App
from doorstep.kernel.db import Unit
from doorstep.kernel.event import Object
from doorstep.register import store as versions
from doorstep.release import store
from doorstep.release.approvals import Approval, add_approval, list_approvals, may_release
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
    changed = what_changed(run.basis, _basis_now(unit, app, version, run.basis))
    if changed:
        raise RefusedError(
            "gate-outdated",
            f"{version.name} passed its gates, but {changed} since then",
            f"doorstep gate {version.name}",
        )


def _basis_now(
    unit: Unit, app: App, version: versions.VersionRow, known: GateBasis | None
) -> GateBasis:
    """What its gates would rest on now. known: what they rested on when they ran."""
    row = versions.get_service(unit.connection, version.service)
    file = stored_service_file(row.file, app.home.environment)
    compared = _compared_with(unit, version)
    if compared is None:
        compared = known.champion if known is not None else ""
    return basis_of(file, compared, version.holdout)


def _compared_with(unit: Unit, version: versions.VersionRow) -> str | None:
    """Digest of the version that gates would compare it with now, as `gate.run` chooses it: the
    champion, or a first version that is still watched. "" if there is none; None if it is the
    version itself, which nothing can make a challenger."""
    service = version.service
    champion = store.champions(unit.connection).get(service)
    running = store.find_running(unit.connection, service)
    if champion is None and running is not None:
        champion = running.release.challenger
    if champion is None:
        return ""
    if champion == version.number:
        return None
    return versions.get_version(unit.connection, service, champion).digest


def require_approvals(
    unit: Unit, app: App, version: versions.VersionRow, asked_by: Collection[str]
) -> tuple[str, ...]:
    """Who approved, where the service file wants people. asked_by: for the release, and for what is
    asked of it now. Raises: RefusedError (`not-approved`)."""
    need = _people(unit, app, version)
    found = _counted(unit, app, version, asked_by)
    if len(found) < need:
        asking = ", ".join(sorted(set(asked_by)))
        raise RefusedError(
            "not-approved",
            f"{version.name} needs the yes of {_count(need)} who neither registered it "
            f"({version.by}) nor ask for its release ({asking}); {_given(found)}",
            f'doorstep approve {version.name} --why "..."',
        )
    return found


def approve_version(app: App, version: str, why: str) -> Approvals:
    """Say yes to a version, as it is, on the evidence of its gates, in this environment.

    Raises: NotFoundError, RefusedError (`gate-not-passed`, `gate-outdated`, `own-version`).
    """
    service, number = parse_version(version)

    def act(unit: Unit) -> Approvals:
        row = versions.get_version(unit.connection, service, number)
        require_gates(unit, app, row)
        if unit.actor.id == row.by:
            raise RefusedError(
                "own-version",
                f"{version} was registered by {row.by}, whose yes does not count for it",
                "let somebody else approve it: the console, on the page of the version, is another "
                "person than the local token",
            )
        basis = _digest(unit, app, row)
        known = list_approvals(unit.connection, service, app.home.environment, number)
        if not any((one.by, one.basis) == (unit.actor.id, basis) for one in known):
            given = Approval(
                service=service, number=number, environment=app.home.environment,
                basis=basis, by=unit.actor.id, at=unit.now(), why=why.strip(),
            )  # fmt: skip
            add_approval(unit.connection, given)
            said = {"service": service, "basis": basis, "why": given.why}
            unit.record("version.approved", Object("version", version), said)
        return _view(unit, app, row)

    return app.database.run(act, app.actor)


def _view(unit: Unit, app: App, version: versions.VersionRow) -> Approvals:
    basis = _digest(unit, app, version)
    rows = list_approvals(unit.connection, version.service, app.home.environment, version.number)
    return Approvals(
        version=version.name,
        people=_people(unit, app, version),
        given=tuple(
            ApprovalView(by=one.by, at=one.at, why=one.why) for one in rows if one.basis == basis
        ),
    )


def _counted(
    unit: Unit, app: App, version: versions.VersionRow, asked_by: Collection[str]
) -> tuple[str, ...]:
    rows = list_approvals(unit.connection, version.service, app.home.environment, version.number)
    return may_release(rows, _digest(unit, app, version), asked_by, version.by) if rows else ()


def _people(unit: Unit, app: App, version: versions.VersionRow) -> int:
    row = versions.get_service(unit.connection, version.service)
    return stored_service_file(row.file, app.home.environment).approve.people


def _digest(unit: Unit, app: App, version: versions.VersionRow) -> str:
    """Of what an approval binds to, beside the environment."""
    run = find_newest(unit.connection, version.service, version.number)
    basis = _basis_now(unit, app, version, run.basis if run else None)
    return digest_of(msgspec.json.encode((version.digest, basis)))


def _count(people: int) -> str:
    return "1 person" if people == 1 else f"{people} people"


def _given(found: tuple[str, ...]) -> str:
    return f"{len(found)} gave it: {', '.join(found)}" if found else "nobody gave it"
