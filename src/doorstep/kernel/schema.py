"""What all tables share: one `MetaData` that the rooms' `store.py` attach their tables to.

    releases = Table("release", metadata, Column("id", Text, primary_key=True), ...)

Every table says in `info` whether changing it is a change of domain state: a transaction that
changes a table without `info=OPERATIONAL` and appends no ledger event is refused when it commits.
Operational are leases, heartbeats, sessions, job steps, caches, and the ledger's own tables.

Rules for tables: `_at` columns are `At` (microseconds UTC), ids are text, digests are 64 hex
digits, documents are `LargeBinary` holding the bytes of one msgspec Struct. A migration expands
first (new column with a default, new table); what it replaces goes one release later.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sqlalchemy import BigInteger, Integer, MetaData

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

Whole = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits; on SQLite the type that makes a primary key the row id."""

At = Whole
"""An instant: microseconds UTC since 1970."""

OPERATIONAL: Mapping[str, bool] = MappingProxyType({"operational": True})
"""`info` of tables whose changes are not ledger events."""
