"""Bring a database to this release's schema, or refuse one that a newer release made.

Migrations *expand first*: a release adds what it needs and keeps writing what the release before
it reads; what is then unused is dropped one release later. So the release before can still run on
a database that was upgraded, and going back needs no downgrade. There are none.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from doorstep.core.errors import RefusedError
from doorstep.core.instant import SystemClock
from doorstep.kernel.db import Database
from doorstep.kernel.engine import parse_url


def upgrade(database: Database) -> str:
    """The schema's revision after every migration that was missing, in one transaction.

    Raises: RefusedError (`database-too-new`), and nothing is changed; and as
    `Database.transaction`.
    """
    with database.writing() as connection:
        config = _config(connection)
        refuse_newer(revision_of(connection), config)
        command.upgrade(config, "head")
        return revision_of(connection)


def require_usable(url: str) -> None:
    """Refuse a database that `upgrade` would, and change nothing. One that is not there yet is made
    later. Raises: as `upgrade`."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return
    database = Database(url, SystemClock())
    try:
        with database.reading() as connection:
            refuse_newer(revision_of(connection), _config(None))
    finally:
        database.close()


def revision_of(connection: Connection) -> str:
    """The revision that the database is at; "" for an empty one."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def head_revision() -> str:
    """The revision that this release brings a database to."""
    return ScriptDirectory.from_config(_config(None)).get_current_head() or ""


def refuse_newer(found: str, config: Config) -> None:
    """Raises: RefusedError (`database-too-new`) for a revision that this release does not know."""
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    if found and found not in known:
        raise RefusedError(
            "database-too-new",
            f"the database has schema {found}; this release knows up to "
            f"{script.get_current_head()}: a newer Doorstep has used it",
            "pip install --upgrade doorstep, or restore a backup from before",
        )


def _config(connection: Connection | None) -> Config:
    config = Config()
    # '%' is the escape of the configuration format that Alembic reads its options with.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
