"""People: a token may be a person's.

Revision: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    scope = sa.Column("scope", sa.Text(), nullable=False, server_default=sa.text("''"))
    op.add_column("token", scope)
