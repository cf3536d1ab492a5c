"""What an operation's handler is given: this installation, and who asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from doorstep.core.instant import Clock, Instant
from doorstep.kernel.blobs import Blobs
from doorstep.kernel.db import Database
from doorstep.kernel.event import Actor
from doorstep.kernel.home import Home
from doorstep.kernel.nodes import NodeWatch

UPLOADS = "uploads"
CHALLENGER_LEASE_S = 60.0
KeptT = TypeVar("KeptT")


class Kept:
    """What rooms keep in memory between two asks: caches of what never changes. One of a type."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._things: dict[type[Any], Any] = {}

    def get(self, kind: type[KeptT], make: Callable[[], KeptT]) -> KeptT:
        """The one thing of this type, made when first asked for."""
        with self._lock:
            if kind not in self._things:
                self._things[kind] = make()
            found: KeptT = self._things[kind]
        return found

    def find(self, kind: type[KeptT]) -> KeptT | None:
        """The one thing of this type, if it was made."""
        with self._lock:
            found: KeptT | None = self._things.get(kind)
        return found


@dataclass(frozen=True, slots=True)
class App:
    """One control plane, acting for `actor`. addresses: `console`, `data`: URLs for messages.
    leader_term: the term in which this process leads, 0 if it does not. challenger_lease_s: how
    long nodes let a challenger serve that nobody watches. trust_folder: of the user whom this
    server believes when they vouch for a file. nodes: what the data plane reports."""

    database: Database
    home: Home
    clock: Clock
    actor: Actor
    addresses: Mapping[str, str]
    trust_folder: Path
    nodes: NodeWatch
    kept: Kept
    started_at: Instant = 0
    leader_term: int = 0
    challenger_lease_s: float = CHALLENGER_LEASE_S

    @property
    def uploads(self) -> Blobs:
        """Files on their way into a bundle, by digest."""
        return Blobs(self.home.path / UPLOADS)

    @property
    def data(self) -> Blobs:
        """Snapshots of held-out data, by digest."""
        return Blobs(self.home.data, ".parquet")
