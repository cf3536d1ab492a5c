"""Tokens: API keys of the data plane.

Revision: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "token",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "name", "service")),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("rate", sa.Float(), nullable=False),
        sa.Column("created_at", _WHOLE, nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("expires_at", _WHOLE, nullable=False),
        sa.Column("revoked_at", _WHOLE, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_token"),
    )
