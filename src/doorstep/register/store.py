"""Tables of services, their file's revisions, and versions. Only this room writes them."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    Row,
    Table,
    Text,
    UniqueConstraint,
    func,
    insert,
    select,
    update,
)

from doorstep.core.errors import NotFoundError
from doorstep.core.instant import Instant
from doorstep.core.verdict import Finding
from doorstep.kernel.schema import At, metadata
from doorstep.register.surface import Registered

services = Table(
    "service",
    metadata,
    Column("name", Text, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("created_at", At, nullable=False),
)
revisions = Table(
    "service_revision",
    metadata,
    Column("service", Text, ForeignKey("service.name"), primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("file", Text, nullable=False),
    Column("applied_at", At, nullable=False),
    Column("by", Text, nullable=False),
)
versions = Table(
    "version",
    metadata,
    Column("service", Text, ForeignKey("service.name"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("form", Text, nullable=False),
    Column("placement", Text, nullable=False),
    Column("trusted", Boolean, nullable=False),
    Column("holdout", Text, nullable=False),
    Column("speed_ms_p99", Float, nullable=False),
    Column("registered_at", At, nullable=False),
    Column("by", Text, nullable=False),
    Column("findings", LargeBinary, nullable=False),
    UniqueConstraint("service", "digest"),
)


class ServiceRow(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    revision: int
    created_at: Instant
    file: str
    applied_at: Instant
    by: str


class VersionRow(Registered, frozen=True, kw_only=True):
    """One registered version."""

    @property
    def name(self) -> str:
        return f"{self.service}@{self.number}"


def find_service(connection: Connection, name: str) -> ServiceRow | None:
    """The service with its newest revision, or None."""
    row = connection.execute(_SELECT_SERVICE.where(services.c.name == name)).one_or_none()
    return None if row is None else ServiceRow(**row._asdict())


def get_service(connection: Connection, name: str) -> ServiceRow:
    """Raises: NotFoundError (`no-service`), naming those that there are."""
    found = find_service(connection, name)
    if found is None:
        names = connection.scalars(select(services.c.name).order_by(services.c.name)).all()
        have = ", ".join(names[:8]) or "none yet"
        raise NotFoundError(
            "no-service",
            f"there is no service {name!r}; there is: {have}",
            "doorstep register MODEL makes one from its doorstep.yaml",
        )
    return found


def list_services(connection: Connection) -> list[ServiceRow]:
    found = connection.execute(_SELECT_SERVICE.order_by(services.c.name))
    return [ServiceRow(**row._asdict()) for row in found]


def save_revision(connection: Connection, row: ServiceRow) -> None:
    """Add the revision and make it the service's newest; the first one makes the service."""
    if row.revision == 1:
        values = {"name": row.name, "revision": 1, "created_at": row.created_at}
        connection.execute(insert(services).values(values))
    else:
        connection.execute(
            update(services).where(services.c.name == row.name).values(revision=row.revision)
        )
    connection.execute(
        insert(revisions).values(
            service=row.name,
            revision=row.revision,
            file=row.file,
            applied_at=row.applied_at,
            by=row.by,
        )
    )


def list_revisions(connection: Connection, service: str) -> list[tuple[int, str, str]]:
    """(revision, file, by whom) of each revision of the service file, oldest first."""
    columns = revisions.c.revision, revisions.c.file, revisions.c.by
    asked = select(*columns).where(revisions.c.service == service).order_by(revisions.c.revision)
    return [(row.revision, row.file, row.by) for row in connection.execute(asked)]


def find_digest(connection: Connection, service: str, digest: str) -> VersionRow | None:
    """The version of this service that has this bundle, or None."""
    mine = (versions.c.service == service) & (versions.c.digest == digest)
    row = connection.execute(select(versions).where(mine)).one_or_none()
    return None if row is None else _version(row)


def get_version(connection: Connection, service: str, number: int) -> VersionRow:
    """Raises: NotFoundError (`no-service`, `no-version`)."""
    mine = (versions.c.service == service) & (versions.c.number == number)
    row = connection.execute(select(versions).where(mine)).one_or_none()
    if row is None:
        get_service(connection, service)
        newest = next_number(connection, service) - 1
        raise NotFoundError(
            "no-version",
            f"there is no version {service}@{number}; the newest is "
            + (f"{service}@{newest}" if newest else "none yet"),
            f"doorstep list {service}",
        )
    return _version(row)


def list_versions(connection: Connection, service: str) -> list[VersionRow]:
    """Newest first."""
    asked = select(versions).where(versions.c.service == service)
    return [_version(row) for row in connection.execute(asked.order_by(versions.c.number.desc()))]


def next_number(connection: Connection, service: str) -> int:
    asked = select(func.max(versions.c.number)).where(versions.c.service == service)
    return int(connection.scalar(asked) or 0) + 1


def add_version(connection: Connection, row: VersionRow) -> None:
    values = msgspec.structs.asdict(row) | {"findings": msgspec.json.encode(row.findings)}
    connection.execute(insert(versions).values(values))


_SELECT_SERVICE = select(
    services.c.name,
    services.c.revision,
    services.c.created_at,
    revisions.c.file,
    revisions.c.applied_at,
    revisions.c.by,
).join(
    revisions,
    (revisions.c.service == services.c.name) & (revisions.c.revision == services.c.revision),
)


def _version(row: Row[Any]) -> VersionRow:
    values = row._asdict()
    findings = msgspec.json.decode(values.pop("findings"), type=tuple[Finding, ...])
    return VersionRow(**values, findings=findings)
