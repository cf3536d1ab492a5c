"""What became true, told to the control plane; and how far each source of it was read."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from doorstep.core.errors import InputError
from doorstep.core.ids import digest_of, new_id
from doorstep.core.operation import operation
from doorstep.core.outcome import Refused, require_all, sort_out
from doorstep.core.record import Layout, OutcomeRecord, PredictionMeta
from doorstep.core.servicefile import stored_service_file
from doorstep.journal.erased import without_erased
from doorstep.journal.operations import recorded_key
from doorstep.journal.received import Received
from doorstep.journal.replica import Replica
from doorstep.journal.surface import (
    MARK_SEEN_MAX,
    OUTCOMES_MAX,
    KeepMark,
    Mark,
    OutcomesRecorded,
    RecordOutcomes,
    ShowMark,
)
from doorstep.journal.writer import BlockWriter
from doorstep.kernel.app import App
from doorstep.kernel.files import write_atomic
from doorstep.register.store import get_service, list_versions
from doorstep.register.views import manifest_of

CONTROL_NODE = "control"
ERASED = "the person whose prediction this is was erased"
Rows = tuple[Layout, Sequence[PredictionMeta], bytes, bytes]
"""Rows of one layout, their numbers, row by row, and the seal of what is sealed in them."""
_SOURCE = re.compile(r"[0-9a-f]{64}\Z")


class OutcomeWriter:
    """The control plane's own block: outcomes that were told to it, and rows that it imported. They
    come many at a time, and nobody can tell them again: each lot is on the disk before it is
    answered, and at the replica if there is one."""

    def __init__(self, journal: Path, replica: Replica | None = None) -> None:
        self._lock = threading.Lock()
        self.boot = new_id().hex[:12]
        self._writer = BlockWriter(
            journal, node=CONTROL_NODE, boot=self.boot, slot="api", durable=True, replica=replica
        )

    def write(self, records: Iterable[OutcomeRecord], groups: Iterable[Rows] = ()) -> int:
        """Write outcomes, then rows, at once; how many outcomes. Raises: OSError,
        UnreachableError (`replica-unreachable`); then none was."""
        with self._lock:
            written = 0
            for record in records:
                self._writer.outcome(record)
                written += 1
            for layout, rows, matrix, seal in groups:
                self._writer.predictions(self._writer.declare(layout), rows, matrix, seal)
            self._writer.flush()
        return written

    def idle(self) -> None:
        """Close a block that is old; call it every second or so. Raises: OSError."""
        with self._lock:
            self._writer.flush()

    def close(self) -> None:
        """Close the block. Raises: OSError."""
        with self._lock:
            self._writer.close()


@operation("outcome.record", permission="outcome:write", effect="read")
def record_outcomes(app: App, asked: RecordOutcomes) -> OutcomesRecorded:
    """Record what became true, by prediction id or by key."""
    if len(asked.outcomes) > OUTCOMES_MAX:
        raise InputError(
            "too-many", f"{len(asked.outcomes)} outcomes; at most {OUTCOMES_MAX} at a time"
        )
    records, refused = _sorted_out(app, asked)
    if not (asked.partial or asked.check):
        require_all(refused)
    if asked.check:
        return OutcomesRecorded(recorded=0, refused=tuple(refused))
    writer = app.kept.get(OutcomeWriter, lambda: OutcomeWriter(app.home.journal))
    received = app.kept.get(
        Received, lambda: Received(app.home.journal / CONTROL_NODE / "received.txt")
    )
    if asked.batch:
        name = name_of_taken(asked.batch, refused)
        recorded = received.once(name, lambda: writer.write(records))
    else:
        recorded = writer.write(records)
    return OutcomesRecorded(recorded=recorded, refused=tuple(refused))


def name_of_taken(batch: str, refused: Iterable[Refused]) -> str:
    """What of a batch was taken is part of its name: a label that no version knew then may be known
    when the same is sent again, and must not count as there already."""
    left_out = [one.index for one in refused]
    return digest_of(msgspec.json.encode([batch, left_out])) if left_out else batch


def _sorted_out(app: App, asked: RecordOutcomes) -> tuple[list[OutcomeRecord], list[Refused]]:
    """As `sort_out`, by key as the journal has it, and without those of subjects who were erased.

    Raises: InputError (`subject-erased`) if all or none are taken."""
    with app.database.reading() as connection:
        text = get_service(connection, asked.service).file
        versions = list_versions(connection, asked.service)
    manifests = [manifest_of(app.home.bundles, one.digest) for one in versions]
    known = {one.labels for one in manifests}
    if known and stored_service_file(text).monitor.outcomes.unit:
        known.add(())
    possible, refused = sort_out(asked.service, asked.outcomes, known, app.clock.now())
    gone = {one.index for one in refused}
    places = [place for place in range(len(asked.outcomes)) if place not in gone]
    in_journal = recorded_key(app, text, [one.contract for one in manifests])
    named = [replace(one, key=in_journal(one.key)) if one.key else one for one in possible]
    records, erased = without_erased(app, named, skips=asked.partial or asked.check)
    refused += [Refused(index=places[at], reason=ERASED) for at in erased]
    return records, refused


@operation("journal.mark", permission="outcome:write", effect="read")
def show_mark(app: App, asked: ShowMark) -> Mark:
    """Say how far a source of outcomes or predictions was read."""
    try:
        return msgspec.json.decode(
            _marked(app, asked.service, asked.source).read_bytes(), type=Mark
        )
    except FileNotFoundError:
        return Mark()


@operation("journal.keep-mark", permission="outcome:write", effect="read")
def keep_mark(app: App, asked: KeepMark) -> Mark:
    """Keep how far a source was read, once what it gave is recorded."""
    if len(asked.mark.seen) > MARK_SEEN_MAX:
        raise InputError(
            "too-many",
            f"{len(asked.mark.seen):,} rows have the watermark {asked.mark.value!r}; at most "
            f"{MARK_SEEN_MAX:,}",
            "name a column that tells rows apart, such as when they were last changed",
        )
    path = _marked(app, asked.service, asked.source)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.encode(asked.mark))
    return asked.mark


def _marked(app: App, service: str, source: str) -> Path:
    """Raises: NotFoundError (`no-service`), InputError (`bad-source`)."""
    with app.database.reading() as connection:
        get_service(connection, service)
    if not _SOURCE.match(source):
        raise InputError("bad-source", "the source is not named by a SHA-256 of 64 hex digits")
    return app.home.path / "marks" / service / f"{source}.json"
