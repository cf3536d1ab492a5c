"""The control plane as one object: the table of operations over a home and a database."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import BinaryIO

import msgspec

from doorstep.core.apikey import person_id_of
from doorstep.core.errors import ForbiddenError, NotFoundError, SignInError
from doorstep.core.ids import digest_of
from doorstep.core.instant import Clock
from doorstep.core.operation import Operation
from doorstep.core.people import SignedIn, may
from doorstep.journal.operations import export_journal
from doorstep.journal.surface import ExportJournal
from doorstep.kernel import api_keys
from doorstep.kernel.app import CHALLENGER_LEASE_S, UPLOADS, App, Kept
from doorstep.kernel.db import Database
from doorstep.kernel.event import DOORSTEP, Actor
from doorstep.kernel.home import Home
from doorstep.kernel.ledger import export_lines
from doorstep.kernel.nodes import NodeWatch

UPLOAD_BYTES_MAX = 8 * 1024**3


class ControlPlane:
    """What REST, the console and the loops share. Safe for several threads."""

    def __init__(
        self,
        home: Home,
        database: Database,
        clock: Clock,
        operations: Mapping[str, Operation],
        addresses: Mapping[str, str],
        trust_folder: Path,
    ) -> None:
        self.operations = operations
        self.version = installed("doorstep")
        self.home = home
        self.database = database
        self.clock = clock
        self.nodes = NodeWatch(home.nodes, clock)
        self.term = 0
        self.challenger_lease_s = CHALLENGER_LEASE_S
        self.changed = threading.Event()
        self.addresses = addresses
        self._kept = Kept()
        self._trust_folder = trust_folder
        self._started_at = clock.now()
        (home.path / UPLOADS).mkdir(exist_ok=True)

    def app(self, actor: Actor = DOORSTEP) -> App:
        """What a handler gets: this installation, acting for `actor`."""
        return App(
            database=self.database,
            home=self.home,
            clock=self.clock,
            actor=actor,
            addresses=self.addresses,
            trust_folder=self._trust_folder,
            nodes=self.nodes,
            kept=self._kept,
            started_at=self._started_at,
            leader_term=self.term,
            challenger_lease_s=self.challenger_lease_s,
        )

    def leading(self) -> App:
        """What the loops get: this installation, for as long as this process leads it."""
        return replace(self.app(), database=self.database.led(self.term))

    def find_person(self, token: str) -> SignedIn | None:
        """Whose token it is; None if nobody's. Whether it still holds is asked with each call."""
        name = person_id_of(token)
        if not name:
            return None
        with self.database.reading() as connection:
            row = api_keys.find_token(connection, name)
        if row is None or not row.scope:
            return None
        is_theirs = hmac.compare_digest(row.digest, digest_of(token.encode()))
        return SignedIn(row.name, row.id) if is_theirs else None

    def admit(self, by: SignedIn, permission: str) -> Actor:
        """Who acts, if they may. Raises: SignInError (`token-over`), ForbiddenError
        (`out-of-scope`)."""
        if not by.token:
            return Actor("token", by.name)
        with self.database.reading() as connection:
            row = api_keys.get_token(connection, by.token)
        if (state := row.state(self.clock.now())) != "live":
            raise SignInError(
                "token-over",
                f"the token {row.id} of {row.name} is {state}",
                f"the owner makes another: doorstep token create --person {row.name}",
            )
        if not may(row.scope, permission):
            raise ForbiddenError(
                "out-of-scope",
                f"{row.name} came with a token that is good for {row.scope}; this needs "
                f"{permission}",
                "doorstep token list says who may what; the owner of the installation may all",
            )
        return Actor("user", row.name)

    def ask(self, name: str, asked: msgspec.Struct, *, by: SignedIn) -> msgspec.Struct:
        """The answer of one operation. Raises: what it raises; NotFoundError (`no-operation`);
        as `admit`."""
        operation = self.operations.get(name)
        if operation is None:
            raise NotFoundError("no-operation", f"there is no operation {name!r}")
        handler: Callable[[App, msgspec.Struct], msgspec.Struct] = operation.handler
        try:
            return handler(self.app(self.admit(by, operation.permission)), asked)
        finally:
            if operation.effect == "write":
                self.changed.set()

    def upload(self, digest: str, stream: BinaryIO) -> None:
        """Keep an uploaded file, if its bytes have this digest. Raises: InputError."""
        self.app().uploads.put_file(digest, stream, UPLOAD_BYTES_MAX)

    def export_ledger(self) -> bytes:
        """Every event as it is stored, one a line."""
        with self.database.reading() as connection:
            return b"".join(export_lines(connection))

    def export_journal(self, asked: ExportJournal) -> BinaryIO:
        """The predictions of a service as a file, open and without a name. Raises: as it says."""
        return export_journal(self.app(), asked)

    def is_ready(self) -> bool:
        """Whether this process leads, so that it can change things, and a node is alive."""
        return self.term > 0 and bool(self.nodes.alive())
