"""The table of findings. Only this room writes it.

Its numbers are measured anew at every look, which is no event; that a finding is opened, escalated
or resolved is one, appended in the transaction that saves it (`loop`).
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Boolean, Column, Connection, LargeBinary, Table, Text, insert, select, update

from doorstep.kernel.schema import OPERATIONAL, At, metadata
from doorstep.monitor.types import MonitorFinding

FINDINGS_MAX = 500

findings = Table(
    "finding",
    metadata,
    Column("id", Text, primary_key=True),
    Column("service", Text, nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("is_alert", Boolean, nullable=False),
    Column("since", At, nullable=False),
    Column("updated_at", At, nullable=False),
    Column("document", LargeBinary, nullable=False),
    info=dict(OPERATIONAL),
)


def list_findings(
    connection: Connection, service: str = "", state: str = ""
) -> list[MonitorFinding]:
    """Newest first, at most `FINDINGS_MAX`. "" is any."""
    asked = select(findings.c.document).order_by(findings.c.since.desc(), findings.c.id.desc())
    if service:
        asked = asked.where(findings.c.service == service)
    if state:
        asked = asked.where(findings.c.state == state)
    found = connection.scalars(asked.limit(FINDINGS_MAX))
    return [msgspec.json.decode(document, type=MonitorFinding) for document in found]


def save_finding(connection: Connection, finding: MonitorFinding) -> bool:
    """Add or replace it by id. Whether it is new."""
    values = {
        "service": finding.service,
        "kind": finding.kind,
        "subject": finding.subject,
        "state": finding.state,
        "is_alert": finding.alert,
        "since": finding.since,
        "updated_at": finding.updated_at,
        "document": msgspec.json.encode(finding),
    }
    mine = findings.c.id == finding.id
    known = connection.scalar(select(findings.c.id).where(mine)) is not None
    if known:
        connection.execute(update(findings).where(mine).values(values))
    else:
        connection.execute(insert(findings).values(id=finding.id, **values))
    return not known
