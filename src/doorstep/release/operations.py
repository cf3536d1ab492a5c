"""Operations of releases."""

from __future__ import annotations

from doorstep.core.operation import operation
from doorstep.kernel.app import App
from doorstep.register.store import get_service
from doorstep.register.surface import Rule
from doorstep.release import actions, killing, permits, store
from doorstep.release.back import roll_back_service
from doorstep.release.callers import read_callers
from doorstep.release.collect import collect
from doorstep.release.forecast import forecast_of
from doorstep.release.surface import (
    Approvals,
    ApproveRevision,
    ApproveVersion,
    ChangeRelease,
    EstimateRelease,
    Forecast,
    Kill,
    KillVersion,
    ListReleases,
    Recomputed,
    RecomputeRelease,
    Release,
    Releases,
    ReviveVersion,
    Rollback,
    ShowRelease,
    StartRelease,
    WithdrawApproval,
)
from doorstep.release.types import Evidence, Person, State
from doorstep.release.views import recomputed_view, release_view


@operation("release.start", permission="release:write", effect="write")
def start_release(app: App, asked: StartRelease) -> Release:
    """Start to carry a version onto its service: shadow, steps, bake."""
    return release_view(app, actions.start_release(app, asked, _requests_per_s(app, asked.version)))


def _requests_per_s(app: App, version: str) -> float:
    """Of the service now, as the nodes report it: what `steps: auto` is chosen by."""
    service = version.partition("@")[0]
    total = sum(
        one.requests_per_s
        for report in app.nodes.alive()
        for one in report.services
        if one.service == service
    )
    return float(total)


@operation("release.estimate", permission="release:read", effect="read")
def estimate_release(app: App, asked: EstimateRelease) -> Forecast:
    """Say what a release would need at the present traffic, before it starts."""
    per_s = _requests_per_s(app, asked.version)
    return forecast_of(asked.version, *actions.plan_release(app, asked.version, per_s))


@operation("release.show", permission="release:read", effect="read")
def show_release(app: App, asked: ShowRelease) -> Release:
    """Show a release: where it stands, its evidence, its decisions."""
    return release_view(app, _get(app, asked.release))


@operation("release.recompute", permission="release:read", effect="read")
def recompute_release(app: App, asked: RecomputeRelease) -> Recomputed:
    """Make a release's decisions again, and compare its evidence with the journal."""
    return recomputed_view(app, _get(app, asked.release))


@operation("release.list", permission="release:read", effect="read")
def list_releases(app: App, asked: ListReleases) -> Releases:
    """List releases, newest first."""
    with app.database.reading() as connection:
        rows = store.list_releases(connection, asked.service)
    return Releases(releases=tuple(release_view(app, row, with_decisions=False) for row in rows))


@operation("version.approve", permission="version:approve", effect="write")
def approve_version(app: App, asked: ApproveVersion) -> Approvals:
    """Say yes to a version that somebody else registered: it may be released as it is."""
    actions.require_why("approve", asked.why)
    return permits.approve_version(app, asked.version, asked.why)


@operation("version.withdraw", permission="version:approve", effect="write")
def withdraw_approval(app: App, asked: WithdrawApproval) -> Approvals:
    """Take back a yes to a version: it counts for nothing that is asked from now on."""
    actions.require_why("withdraw", asked.why)
    return permits.withdraw_approval(app, asked.version, asked.why, asked.by)


@operation("service.approve", permission="version:approve", effect="write")
def approve_revision(app: App, asked: ApproveRevision) -> Rule:
    """Say yes to a revision of the service file that asks for less: then it holds."""
    actions.require_why("approve", asked.why)
    return permits.approve_revision(app, asked.service, asked.revision, asked.why)


@operation("release.pause", permission="release:write", effect="write")
def pause_release(app: App, asked: ChangeRelease) -> Release:
    """Pause a release: its share stays, nothing advances, its guardrails still watch."""
    return _change(app, asked, "pause")


@operation("release.resume", permission="release:write", effect="write")
def resume_release(app: App, asked: ChangeRelease) -> Release:
    """Resume a paused release where it was."""
    return _change(app, asked, "resume")


@operation("release.promote", permission="release:promote", effect="write")
def promote_release(app: App, asked: ChangeRelease) -> Release:
    """Make the challenger champion now, on a person's word."""
    return _change(app, asked, "promote")


def _change(app: App, asked: ChangeRelease, action: str) -> Release:
    row = _get(app, asked.release)
    person = _person(app, action, asked.why)
    changed = actions.change_release(app, row.release.id, person, collect(app, row.release))
    return release_view(app, changed)


@operation("service.rollback", permission="release:rollback", effect="write")
def roll_back(app: App, asked: Rollback) -> Release:
    """Give a service back to its champion, or, with no release running, to the last one.

    A first version that is watched has none: then no version serves, and callers get the constant
    of its fallback, or 503.
    """
    with app.database.reading() as connection:
        running = store.find_running(connection, asked.service)
    evidence = collect(app, running.release) if running else Evidence()
    person = _person(app, "rollback", asked.why)
    release_id = roll_back_service(app, asked.service, person, evidence, asked.to)
    return release_view(app, _get(app, release_id))


@operation("version.kill", permission="release:rollback", effect="write")
def kill_version(app: App, asked: KillVersion) -> Kill:
    """Let nobody ask a version any more: its traffic goes down the fallback chain."""
    return _kill(app, *killing.kill_version(app, asked.version, asked.why))


@operation("version.revive", permission="release:write", effect="write")
def revive_version(app: App, asked: ReviveVersion) -> Kill:
    """Let a killed version be asked again."""
    return _kill(app, *killing.revive_version(app, asked.version, asked.why))


def _kill(app: App, row: store.KillRow, plan_number: int) -> Kill:
    with app.database.reading() as connection:
        service = get_service(connection, row.service)
        callers = read_callers(connection, service, app.home.environment)
        running = store.find_running(connection, row.service)
    is_paused = running is not None and running.release.state is State.PAUSED
    return Kill(
        version=f"{row.service}@{row.number}",
        at=row.at,
        by=row.by,
        why=row.why,
        plan_number=plan_number,
        callers=callers.get,
        paused=running.release.id if running is not None and is_paused else "",
    )


def _person(app: App, action: str, why: str) -> Person:
    match action:
        case "pause" | "resume" | "rollback" | "promote":
            return Person(app.actor.id, action, why)
        case _:
            raise ValueError(f"{action} is not something that a person does to a release")


def _get(app: App, name: str) -> store.ReleaseRow:
    with app.database.reading() as connection:
        return store.find_running(connection, name) or store.get_release(connection, name)
