"""Run the gates of a version: measured by a child process, decided there, stored here."""

from __future__ import annotations

import msgspec

from doorstep.core.contract import Contract
from doorstep.core.ids import new_id
from doorstep.core.instant import SECOND_US
from doorstep.core.servicefile import ServiceFile, stored_service_file
from doorstep.core.verdict import Finding, worst
from doorstep.gate import store
from doorstep.gate.basis import basis_of
from doorstep.gate.surface import GateRun
from doorstep.gate.types import Candidate, GateRequest
from doorstep.kernel.app import App
from doorstep.kernel.child import run_child
from doorstep.kernel.event import Object
from doorstep.register.store import VersionRow

TIMEOUT_S = 600.0
EVIDENCE_BYTES_MAX = 64 * 1024
"""Of all findings together, in the ledger event; the whole is kept in the table."""


def run_gates(
    app: App,
    version: VersionRow,
    champion: VersionRow | None,
    file: str,
    promised: Contract | None = None,
) -> GateRun:
    """Measure, decide, store. champion: what it is compared with, None for a first version.

    Raises: RefusedError (`child-died`, `child-timed-out`), InputError.
    """
    started_at, started_s = app.clock.now(), app.clock.monotonic_s()
    read = stored_service_file(file, app.home.environment)
    request = gate_request(app, version, champion, read, promised)
    answer = run_child("doorstep.gate.child", msgspec.json.encode(request), timeout_s=TIMEOUT_S)
    findings = msgspec.json.decode(answer, type=tuple[Finding, ...])
    run = GateRun(
        id=new_id().hex,
        version=version.name,
        champion=champion.name if champion else "",
        verdict=worst(one.verdict for one in findings),
        findings=findings,
        started_at=started_at,
        took_s=app.clock.monotonic_s() - started_s,
        by=app.actor.id,
        basis=basis_of(read, champion.digest if champion else "", version.holdout),
    )
    _store(app, version, run)
    return run


def _store(app: App, version: VersionRow, run: GateRun) -> None:
    with app.database.transaction(app.actor) as unit:
        store.add_run(unit.connection, version.service, version.number, run)
        unit.record(
            "gate.decided",
            Object("version", version.name),
            {
                "service": version.service,
                "verdict": run.verdict.value,
                "run": run.id,
                "champion": run.champion,
                "holdout": version.holdout,
                "conditions": run.basis.conditions,
                "findings": _for_ledger(run.findings),
                "took_s": round(run.took_s, 3),
                "at_s": run.started_at // SECOND_US,
            },
        )


def _for_ledger(findings: tuple[Finding, ...]) -> list[dict[str, object]]:
    """Findings with their evidence, or, when that is too much for one event, without it."""
    whole = [msgspec.to_builtins(one) for one in findings]
    if len(msgspec.json.encode(whole)) <= EVIDENCE_BYTES_MAX:
        return whole
    return [
        {"check": one.check, "verdict": one.verdict.value, "reason": one.reason[:500]}
        for one in findings
    ]


def gate_request(
    app: App,
    version: VersionRow,
    champion: VersionRow | None,
    file: ServiceFile,
    promised: Contract | None,
) -> GateRequest:
    """What the child is asked; paths of this installation, conditions of the service file."""
    return GateRequest(
        version=_candidate(app, version),
        champion=_candidate(app, champion) if champion else None,
        holdout=str(app.data.path(version.holdout)) if version.holdout else "",
        promised=promised,
        gates=file.gates,
        favourable=file.model.favourable,
        timeout_ms=file.serve.timeout_s * 1000,
    )


def _candidate(app: App, row: VersionRow) -> Candidate:
    return Candidate(
        name=row.name,
        folder=str(app.home.bundles / row.digest),
        digest=row.digest,
        trusted=row.trusted,
    )
