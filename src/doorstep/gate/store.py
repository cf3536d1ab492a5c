"""The table of gate runs. Only this room writes it."""

from __future__ import annotations

import msgspec
from sqlalchemy import Column, Connection, Integer, LargeBinary, Table, Text, insert, select

from doorstep.core.verdict import Verdict
from doorstep.gate.surface import GateRun
from doorstep.kernel.schema import At, metadata

RUNS_SHOWN_MAX = 20

gate_runs = Table(
    "gate_run",
    metadata,
    Column("id", Text, primary_key=True),
    Column("service", Text, nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("started_at", At, nullable=False),
    Column("document", LargeBinary, nullable=False),
)


def add_run(connection: Connection, service: str, number: int, run: GateRun) -> None:
    connection.execute(
        insert(gate_runs).values(
            id=run.id,
            service=service,
            number=number,
            verdict=run.verdict.value,
            started_at=run.started_at,
            document=msgspec.json.encode(run),
        )
    )


def list_runs(connection: Connection, service: str, number: int) -> list[GateRun]:
    """Newest first, at most `RUNS_SHOWN_MAX`."""
    mine = (gate_runs.c.service == service) & (gate_runs.c.number == number)
    asked = select(gate_runs.c.document).where(mine).order_by(gate_runs.c.id.desc())
    found = connection.scalars(asked.limit(RUNS_SHOWN_MAX))
    return [msgspec.json.decode(document, type=GateRun) for document in found]


def find_newest(connection: Connection, service: str, number: int) -> GateRun | None:
    """The newest run of a version; None if its gates were never run."""
    mine = (gate_runs.c.service == service) & (gate_runs.c.number == number)
    asked = select(gate_runs.c.document).where(mine).order_by(gate_runs.c.id.desc()).limit(1)
    document = connection.scalar(asked)
    return None if document is None else msgspec.json.decode(document, type=GateRun)


def newest_verdicts(connection: Connection, service: str) -> dict[int, Verdict]:
    """Version number -> verdict of its newest run."""
    asked = (
        select(gate_runs.c.number, gate_runs.c.verdict)
        .where(gate_runs.c.service == service)
        .order_by(gate_runs.c.id)
    )
    return {number: Verdict(verdict) for number, verdict in connection.execute(asked)}
