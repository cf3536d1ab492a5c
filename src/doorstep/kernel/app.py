"""What an operation's handler is given: this installation, and who asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from doorstep.core.instant import Clock, Instant
from doorstep.kernel.blobs import Blobs
from doorstep.kernel.db import Database
from doorstep.kernel.event import Actor
from doorstep.kernel.home import Home
from doorstep.kernel.nodes import NodeWatch

UPLOADS = "uploads"


@dataclass(frozen=True, slots=True)
class App:
    """One control plane, acting for `actor`. addresses: `console`, `data`: URLs for messages.
    leader_term: the term in which this process leads, 0 if it does not. trust_folder: of the user
    whom this server believes when they vouch for a file. nodes: what the data plane reports."""

    database: Database
    home: Home
    clock: Clock
    actor: Actor
    addresses: Mapping[str, str]
    trust_folder: Path
    nodes: NodeWatch
    started_at: Instant = 0
    leader_term: int = 0

    @property
    def uploads(self) -> Blobs:
        """Files on their way into a bundle, by digest."""
        return Blobs(self.home.path / UPLOADS)

    @property
    def data(self) -> Blobs:
        """Snapshots of held-out data, by digest."""
        return Blobs(self.home.data, ".parquet")
