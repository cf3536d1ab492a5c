"""Operations of the ledger and the installation."""

from __future__ import annotations

from importlib.metadata import version as installed
from typing import Any

import msgspec

from doorstep.core.errors import InputError
from doorstep.core.operation import operation
from doorstep.core.report import NodeReport
from doorstep.govern.surface import (
    EVENTS_MAX,
    Events,
    Installation,
    LedgerVerdict,
    ListEvents,
    NodeStore,
    NodeView,
    ShowInstallation,
    VerifyLedger,
)
from doorstep.govern.views import event_view
from doorstep.journal.personal import erasure_problems
from doorstep.journal.stored import store_status
from doorstep.kernel.app import App
from doorstep.kernel.checkpoints import Signed, Signer, read_checkpoint, sign_checkpoint
from doorstep.kernel.db import Database
from doorstep.kernel.home import Home
from doorstep.kernel.keys import load_public_key, load_signing_key
from doorstep.kernel.ledger import Filter, read_events, read_head
from doorstep.kernel.ledger_check import verify_ledger
from doorstep.release import store as releases

LEDGER_KEY = "ledger.key"
LEDGER_MEMORY = "ledger.note"


def signer_of(app: App) -> Signer:
    """The ledger's key and its memory of what it signed last."""
    keys = app.home.keys
    return Signer(load_signing_key(keys / LEDGER_KEY), keys / LEDGER_MEMORY)


@operation("ledger.list", permission="ledger:read", effect="read")
def list_events(app: App, asked: ListEvents) -> Events:
    """List events of the ledger, newest first."""
    if not 1 <= asked.limit <= EVENTS_MAX:
        raise InputError("bad-limit", f"limit is {asked.limit}; expected 1 to {EVENTS_MAX}")
    wanted = Filter(service=asked.service, starts=asked.kind, before=asked.before or None)
    with app.database.reading() as connection:
        head = read_head(connection)
        events = read_events(connection, wanted, asked.limit)
    return Events(events=tuple(event_view(one) for one in events), size=head.size)


@operation("ledger.verify", permission="ledger:read", effect="read")
def verify(app: App, asked: VerifyLedger) -> LedgerVerdict:  # noqa: ARG001
    """Hash the whole ledger again and compare it with its signed checkpoints."""
    signer = signer_of(app)
    found = verdict_of(app.database, app.home)
    if not found.intact:
        return found
    sign_checkpoint(app.database, signer, app.clock.now())
    with app.database.reading() as connection:
        newest = read_checkpoint(connection)
    return msgspec.structs.replace(found, **_signed(newest))


def verdict_of(database: Database, home: Home) -> LedgerVerdict:
    """As the operation, of a ledger that nobody needs to serve; nothing is signed."""
    path = home.keys / LEDGER_KEY
    key = load_public_key(path.with_suffix(".pub"))
    last = Signer(load_signing_key(path), home.keys / LEDGER_MEMORY).last()
    with database.reading() as connection:
        report = verify_ledger(connection, key, [last] if last else [])
        newest = read_checkpoint(connection)
    return LedgerVerdict(
        intact=not report.problems,
        size=report.size,
        root=report.root,
        **_signed(newest),
        key=key.to_text(),
        problems=tuple(f"event {one.seq}: {one.what}" for one in report.problems),
    )


def _signed(newest: Signed | None) -> dict[str, Any]:
    return {
        "checkpoint": newest.note if newest else "",
        "checkpoint_size": newest.size if newest else 0,
    }


@operation("installation.show", permission="installation:read", effect="read")
def show_installation(app: App, asked: ShowInstallation) -> Installation:  # noqa: ARG001
    """Show what runs here: versions, addresses, nodes and their problems."""
    with app.database.reading() as connection:
        head = read_head(connection)
        plan = releases.newest_plan(connection)
    alive = {report.node for report in app.nodes.alive()}
    return Installation(
        version=installed("doorstep"),
        environment=app.home.environment,
        home=str(app.home.path),
        database=app.database.kind,
        console_url=app.addresses.get("console", ""),
        data_url=app.addresses.get("data", ""),
        plan_term=plan.term if plan else 0,
        plan_number=plan.number if plan else 0,
        ledger_size=head.size,
        started_at=app.started_at,
        nodes=tuple(_node(app, report, report.node in alive) for report in app.nodes.reports()),
        problems=erasure_problems(app),
    )


def _node(app: App, report: NodeReport, live: bool) -> NodeView:
    status = store_status(app.home.path, report.node)
    return NodeView(
        node=report.node,
        live=live,
        data_url=report.data_url,
        plan_number=report.plan_number,
        lease_held=report.lease_held,
        workers=sum(1 for one in report.workers if one.kind == "front"),
        restarts=sum(max(0, one.starts - 1) for one in report.workers),
        loaded=report.loaded,
        problems=report.problems,
        journal=report.journal,
        store=msgspec.convert(status, NodeStore, from_attributes=True) if status else None,
    )
