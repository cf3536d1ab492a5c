"""Services, versions, gate runs, releases, tenures, plans and findings.

Revision: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _create_register()
    _create_gate()
    _create_release()
    _create_plan()
    _create_monitor()


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _at(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, _WHOLE, autoincrement=False, nullable=nullable)


def _whole(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), autoincrement=False, nullable=False)


def _document(name: str = "document") -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def _truth(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def _create_register() -> None:
    op.create_table(
        "service",
        _text("name"),
        _whole("revision"),
        _at("created_at"),
        sa.PrimaryKeyConstraint("name", name="pk_service"),
    )
    op.create_table(
        "service_revision",
        _text("service"),
        _whole("revision"),
        _text("file"),
        _at("applied_at"),
        _text("by"),
        sa.PrimaryKeyConstraint("service", "revision", name="pk_service_revision"),
        sa.ForeignKeyConstraint(["service"], ["service.name"], name="fk_service_revision_service"),
    )
    op.create_table(
        "version",
        _text("service"),
        _whole("number"),
        _text("digest"),
        _text("form"),
        _text("placement"),
        _truth("trusted"),
        _text("holdout"),
        sa.Column("speed_ms_p99", sa.Float(), nullable=False),
        _at("registered_at"),
        _text("by"),
        _document("findings"),
        sa.PrimaryKeyConstraint("service", "number", name="pk_version"),
        sa.ForeignKeyConstraint(["service"], ["service.name"], name="fk_version_service"),
        sa.UniqueConstraint("service", "digest", name="uq_version_service_digest"),
    )


def _create_gate() -> None:
    op.create_table(
        "gate_run",
        _text("id"),
        _text("service"),
        _whole("number"),
        _text("verdict"),
        _at("started_at"),
        _document(),
        sa.PrimaryKeyConstraint("id", name="pk_gate_run"),
    )
    op.create_index("ix_gate_run_service", "gate_run", ["service"])


def _create_release() -> None:
    op.create_table(
        "release",
        _text("id"),
        _text("service"),
        _whole("challenger"),
        _text("state"),
        _truth("is_over"),
        _text("by"),
        _at("started_at"),
        _at("ended_at", nullable=True),
        _at("plan_number"),
        _document(),
        sa.PrimaryKeyConstraint("id", name="pk_release"),
    )
    op.create_index("ix_release_service", "release", ["service"])
    op.create_index("ix_release_is_over", "release", ["is_over"])
    op.create_table(
        "release_decision",
        _text("release"),
        _whole("sequence"),
        _at("at"),
        _text("by"),
        _document(),
        sa.PrimaryKeyConstraint("release", "sequence", name="pk_release_decision"),
    )
    op.create_table(
        "release_cells",
        _text("release"),
        _text("node"),
        _text("boot"),
        _document(),
        sa.PrimaryKeyConstraint("release", "node", "boot", name="pk_release_cells"),
    )
    op.create_table(
        "release_watch",
        _text("release"),
        _at("at"),
        sa.PrimaryKeyConstraint("release", name="pk_release_watch"),
    )
    op.create_table(
        "tenure",
        _text("service"),
        _at("since"),
        _whole("version"),
        _at("until", nullable=True),
        _text("release"),
        _text("because"),
        _text("by"),
        sa.PrimaryKeyConstraint("service", "since", name="pk_tenure"),
    )


def _create_plan() -> None:
    op.create_table(
        "plan",
        _at("number"),
        _at("term"),
        _at("made_at"),
        _document("root"),
        _text("basis"),
        sa.PrimaryKeyConstraint("number", name="pk_plan"),
    )
    op.create_table(
        "plan_document",
        _text("digest"),
        _document("body"),
        sa.PrimaryKeyConstraint("digest", name="pk_plan_document"),
    )


def _create_monitor() -> None:
    op.create_table(
        "finding",
        _text("id"),
        _text("service"),
        _text("kind"),
        _text("subject"),
        _text("state"),
        _truth("is_alert"),
        _at("since"),
        _at("updated_at"),
        _document(),
        sa.PrimaryKeyConstraint("id", name="pk_finding"),
    )
    op.create_index("ix_finding_service", "finding", ["service"])
    op.create_index("ix_finding_state", "finding", ["state"])
