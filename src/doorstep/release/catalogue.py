"""Operations of services, versions and gates, which say what serves and what passed."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from doorstep.core.ids import parse_version
from doorstep.core.operation import operation
from doorstep.core.plural import plural
from doorstep.core.servicefile import read_stored
from doorstep.core.verdict import Verdict
from doorstep.gate import actions as gates
from doorstep.gate import store as gate_store
from doorstep.gate.surface import GateRun, GateRuns, RunGates, ShowGates
from doorstep.journal.importing import note_versions
from doorstep.kernel.app import App
from doorstep.register import actions, store, watched
from doorstep.register.surface import (
    NAME_CHARS_MAX,
    ApplyService,
    ListServices,
    ListVersions,
    RegisterVersion,
    Service,
    ServiceDiff,
    Services,
    ShowService,
    ShowVersion,
    Unapproved,
    Version,
    Versions,
    WatchVersion,
)
from doorstep.register.views import manifest_of, service_view, version_view
from doorstep.release import store as releases
from doorstep.release.permits import approved_by, rule_view, unapproved
from doorstep.release.policies import rule_of
from doorstep.release.policy import InForce, looser_keys, policy_of
from doorstep.release.tenures import previous_champion


@operation("service.list", permission="service:read", effect="read")
def list_services(app: App, asked: ListServices) -> Services:  # noqa: ARG001
    """List the services."""
    with app.database.reading() as connection:
        rows = store.list_services(connection)
        return Services(services=tuple(_service(app, connection, row) for row in rows))


@operation("service.show", permission="service:read", effect="read")
def show_service(app: App, asked: ShowService) -> Service:
    """Show one service and its file."""
    with app.database.reading() as connection:
        return _service(app, connection, store.get_service(connection, asked.service))


@operation("service.diff", permission="service:read", effect="read")
def diff_service(app: App, asked: ApplyService) -> ServiceDiff:
    """Say what applying a service file would change, and when it takes effect."""
    parsed = actions.read_file(app, asked.file, asked.name[:NAME_CHARS_MAX])
    found = actions.diff_service(app, asked, parsed)
    with app.database.reading() as connection:
        before = rule_of(connection, app, found.service).loosened_from
    looser = looser_keys(before, policy_of(parsed))
    if not looser:
        return found
    people = plural(before.guards, "other person says", "other people say")
    changes = [
        msgspec.structs.replace(one, takes_effect=f"once {people} yes to it", loosens=True)
        if one.key in looser
        else one
        for one in found.changes
    ]
    return msgspec.structs.replace(found, changes=tuple(changes))


def _service(app: App, connection: Connection, row: store.ServiceRow) -> Service:
    tenures = releases.list_tenures(connection, row.name)
    champion = releases.champions(connection).get(row.name)
    shown = service_view(row, champion, previous_champion(tenures))
    rule = rule_of(connection, app, row.name)
    waits = _unapproved(connection, app, row, rule)
    return msgspec.structs.replace(shown, rule=rule_view(rule), unapproved=waits)


def _unapproved(
    connection: Connection, app: App, row: store.ServiceRow, rule: InForce
) -> Unapproved | None:
    """Of the newest version that passed its gates and was not released yet."""
    if not _asks(app, row, rule):
        return None
    number = store.next_number(connection, row.name) - 1
    if version_states(connection, row.name).get(number) != "passed":
        return None
    return unapproved(connection, app, store.get_version(connection, row.name, number), rule)


def _asks(app: App, row: store.ServiceRow, rule: InForce) -> bool:
    """Whether somebody must say yes, to a version of a file that can be read."""
    return rule.policy.people > 0 and read_stored(row.file, app.home.environment)[0] is not None


@operation("version.register", permission="version:write", effect="write")
def register_version(app: App, asked: RegisterVersion) -> Version:
    """Make an uploaded bundle a version of its service."""
    row, created = actions.register_version(app, asked)
    with app.database.reading() as connection:
        states = version_states(connection, row.service)
    return version_view(app, row, states, created=created)


@operation("version.watch", permission="version:write", effect="write")
def watch_version(app: App, asked: WatchVersion) -> Version:
    """Make a version of what another service serves, so that its records can be compared."""
    row, created = watched.watch_version(app, asked.file, asked.name, asked.reference)
    note_versions(app.home.path, row.service, {asked.name: row})
    return version_view(app, row, {}, created=created)


@operation("version.show", permission="version:read", effect="read")
def show_version(app: App, asked: ShowVersion) -> Version:
    """Show one version: lineage, contract, form, state."""
    service, number = parse_version(asked.version)
    with app.database.reading() as connection:
        row = store.get_version(connection, service, number)
        states = _states_now(app, connection, service)
        shown = version_view(app, row, states)
        verdict = gate_store.newest_verdicts(connection, service).get(number)
        if verdict is Verdict.PASS and states[number] not in ("serving", "killed"):
            rule = rule_of(connection, app, service)
            if _asks(app, store.get_service(connection, service), rule):
                return msgspec.structs.replace(
                    shown,
                    unapproved=unapproved(connection, app, row, rule),
                    approved_by=approved_by(connection, app, row),
                )
    return shown


def _states_now(app: App, connection: Connection, service: str) -> dict[int, str]:
    """Also what a live node has in its plan and cannot load."""
    states = version_states(connection, service)
    for name in {name for report in app.nodes.alive() for name in report.unloaded}:
        owner, _, number = name.rpartition("@")
        if owner == service and states.get(int(number)) != "killed":
            states[int(number)] = "not loadable"
    return states


@operation("version.list", permission="version:read", effect="read")
def list_versions(app: App, asked: ListVersions) -> Versions:
    """List the versions of a service, newest first."""
    with app.database.reading() as connection:
        store.get_service(connection, asked.service)
        rows = store.list_versions(connection, asked.service)
        states = _states_now(app, connection, asked.service)
    return Versions(versions=tuple(version_view(app, row, states) for row in rows))


def version_states(connection: Connection, service: str) -> dict[int, str]:
    """Where each version stands: passed or refused by its gates, releasing, serving, retired."""
    words = {Verdict.PASS: "passed", Verdict.FAIL: "refused", Verdict.INCONCLUSIVE: "inconclusive"}
    found = {
        number: words[verdict]
        for number, verdict in gate_store.newest_verdicts(connection, service).items()
    }
    for row in reversed(releases.list_releases(connection, service)):
        if row.release.state.value == "rolled-back":
            found[row.release.challenger] = "rolled-back"
    for tenure in releases.list_tenures(connection, service):
        found[tenure.version] = "retired"
    running = releases.find_running(connection, service)
    if running is not None:
        found[running.release.challenger] = "releasing"
    champion = releases.champions(connection).get(service)
    if champion is not None:
        found[champion] = "serving"
    found |= dict.fromkeys(releases.list_kills(connection, service), "killed")
    return found


@operation("gate.run", permission="gate:run", effect="write")
def run_gates(app: App, asked: RunGates) -> GateRun:
    """Run the gates of a version against the champion that serves now."""
    service, number = parse_version(asked.version)
    with app.database.reading() as connection:
        version = store.get_version(connection, service, number)
        watched.require_model(version)
        file = store.get_service(connection, service).file
        champion = releases.champions(connection).get(service)
        running = releases.find_running(connection, service)
        if champion is None and running is not None and running.release.challenger != number:
            champion = running.release.challenger
        against = None
        if champion is not None and champion != number:
            against = store.get_version(connection, service, champion)
    promised = manifest_of(app.home.bundles, against.digest).contract if against else None
    return gates.run_gates(app, version, against, file, promised)


@operation("gate.show", permission="version:read", effect="read")
def show_gates(app: App, asked: ShowGates) -> GateRuns:
    """Show the gate runs of a version, newest first."""
    service, number = parse_version(asked.version)
    with app.database.reading() as connection:
        store.get_version(connection, service, number)
        return GateRuns(runs=tuple(gate_store.list_runs(connection, service, number)))
