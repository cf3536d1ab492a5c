"""What Alembic runs: the migrations, on the connection that `upgrade` hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from doorstep.migrations.tables import all_tables

connection: Connection = context.config.attributes["connection"]
# The caller's transaction holds everything: a half-migrated database cannot be left behind, on
# SQLite neither (its DDL is transactional, though Alembic does not rely on that by itself).
context.configure(
    connection=connection,
    target_metadata=all_tables(),
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
