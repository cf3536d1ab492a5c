"""The table of tokens: who may call the data plane, and who is who at the control plane. Only
digests are in it, never a key.

It lies here and not with the operations (`govern`), because plans are made from it.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Float,
    Table,
    Text,
    func,
    insert,
    select,
    text,
    update,
)

from doorstep.core.errors import NotFoundError
from doorstep.core.instant import Instant
from doorstep.core.plan import ApiKey
from doorstep.kernel.schema import At, metadata

tokens = Table(
    "token",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("rate", Float, nullable=False),
    Column("created_at", At, nullable=False),
    Column("by", Text, nullable=False),
    Column("expires_at", At, nullable=False),
    Column("revoked_at", At, nullable=True),
    Column("scope", Text, nullable=False, server_default=text("''")),
)


class TokenRow(msgspec.Struct, frozen=True, kw_only=True):
    """service: "" for all. digest: sha256 of the key. rate: requests per second, 0 for no limit.
    scope: of a person's token, whose name is theirs; "" for an API key."""

    id: str
    name: str
    service: str
    digest: str
    rate: float
    created_at: Instant
    by: str
    expires_at: Instant
    revoked_at: Instant | None = None
    scope: str = ""

    def state(self, now: Instant) -> str:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at <= now else "live"


def add_token(connection: Connection, row: TokenRow) -> None:
    connection.execute(insert(tokens).values(msgspec.structs.asdict(row)))


def list_tokens(connection: Connection) -> list[TokenRow]:
    """All that were ever made, newest first."""
    asked = select(tokens).order_by(tokens.c.created_at.desc(), tokens.c.id)
    return [TokenRow(**row._asdict()) for row in connection.execute(asked)]


def find_token(connection: Connection, name: str) -> TokenRow | None:
    row = connection.execute(select(tokens).where(tokens.c.id == name)).one_or_none()
    return None if row is None else TokenRow(**row._asdict())


def get_token(connection: Connection, name: str) -> TokenRow:
    """Raises: NotFoundError (`no-token-id`)."""
    row = find_token(connection, name)
    if row is None:
        raise NotFoundError(
            "no-token-id", f"there is no token {name[:40]!r}", "doorstep token list"
        )
    return row


def revoke_token(connection: Connection, name: str, at: Instant) -> None:
    connection.execute(update(tokens).where(tokens.c.id == name).values(revoked_at=at))


def count_live(connection: Connection, now: Instant) -> int:
    return int(connection.scalar(select(func.count()).where(_is_live(now))) or 0)


def live_keys(connection: Connection, now: Instant) -> tuple[ApiKey, ...]:
    """What nodes must know: the keys that are neither revoked nor expired, by id."""
    columns = [tokens.c[name] for name in ApiKey.__struct_fields__]
    asked = select(*columns).where(_is_live(now) & (tokens.c.scope == "")).order_by(tokens.c.id)
    return tuple(ApiKey(**row._asdict()) for row in connection.execute(asked))


def list_people(connection: Connection, now: Instant) -> tuple[str, ...]:
    """Names of those who have a live token, in order."""
    asked = select(tokens.c.name).where(_is_live(now) & (tokens.c.scope != ""))
    return tuple(sorted(set(connection.scalars(asked))))


def _is_live(now: Instant) -> ColumnElement[bool]:
    return tokens.c.revoked_at.is_(None) & (tokens.c.expires_at > now)
