"""What the journal keeps of a call: one record per row, in the service's layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from doorstep.core.errors import OverloadedError
from doorstep.core.plan import REST
from doorstep.core.record import PredictionMeta
from doorstep.journal.commit import Commits, Direct, Then
from doorstep.journal.masking import NAN_BYTES, Row, Texts
from doorstep.journal.writer import BlockWriter
from doorstep.serve.call import CONSTANT, NOBODY, Call, Part
from doorstep.serve.plain import PlainBatch
from doorstep.serve.rows import Parsed
from doorstep.serve.service import Service, keep_nothing
from doorstep.serve.version import Version

if TYPE_CHECKING:
    from doorstep.journal.sealing import Session


class Recorder:
    """Collects the records of a turn and commits them together. commits: how the writer's are
    kept; each at once, if it does not say. is_short: of disk; no inputs are kept then. refusal: why
    nothing at all is, "" as long as it is."""

    def __init__(self, writer: BlockWriter, commits: Commits | None = None) -> None:
        self.writer = writer
        self.commits = commits or Direct(writer)
        self.is_short = False
        self.refusal = ""
        self._rows: dict[tuple[int, bytes], tuple[list[PredictionMeta], list[bytes]]] = {}

    def add(self, call: Call, latency_us: int) -> None:
        """One record per row. When a part of the call has no answer the caller gets none, so none
        of its records names a version that answered."""
        failed = len(call.parts) > 1 and call.failed is not None
        for part in call.parts:
            self._add_part(call, part, latency_us, NOBODY if failed else part.answered)

    def add_plain(self, batch: PlainBatch, now: int) -> None:
        """As `add`, of calls that are answered; now: monotonic, nanoseconds."""
        keeps = keep_nothing if self.is_short else batch.service.keeps
        if keeps is None:
            return self._add_plain(batch, now, bare=False)
        kept = np.array([keeps(call.id) for call in batch.calls])
        for bare in (False, True):
            places = np.flatnonzero(kept != bare).tolist()
            if places:
                self._add_plain(batch.at(places), now, bare=bare)
        return None

    def _add_plain(self, batch: PlainBatch, now: int, *, bare: bool) -> None:
        service, version, number = batch.service, batch.version, batch.version.number
        has_labels = bool(version.labels)
        mask = service.mask
        session = _session(service, bare=bare)
        place = (service.layout(version, bare=bare), session.seal if session else b"")
        metas, pieces = self._rows.setdefault(place, ([], []))
        # A model may give integers, or half the digits.
        found = batch.found.astype(np.float64, copy=False)
        if mask is None or bare:
            kept = (found,) if bare else (batch.numbers, found)
            pieces.append(np.hstack(kept).tobytes())
        for at, (call, _, said) in enumerate(batch.each()):
            parsed = call.parsed
            keys, units, warnings = parsed.keys, parsed.units, parsed.warnings
            texts: Texts = parsed.texts[0] if parsed.texts and not bare else ()
            key, unit = keys[0] if keys else "", units[0] if units else ""
            if mask is not None:
                came = Row(0, parsed.numbers, texts, _subject(parsed, 0), key, unit)
                key, unit = mask.ids(key, unit)
                if not bare:
                    inputs, texts = mask.inputs(parsed.numbers, texts)
                    pieces += (inputs, found[at].tobytes())
                if session is not None:
                    texts = (*texts, mask.sealed(session, call.request, came))
            answer: Any = said if has_labels else None
            metas.append(
                PredictionMeta(
                    call.request, 0, call.at, number, number, 0, call.kind, "", 0, 0.0, REST,
                    key,
                    unit or call.id,
                    (now - call.began_ns) // 1000,
                    warnings[0] if warnings else (),
                    (*texts, answer) if texts else (answer,),
                )
            )  # fmt: skip

    def commit(self, then: Then) -> None:
        """Keep everything that was collected, and what else is in the writer's buffer; `then` is
        told when that is done, or why it cannot be (OSError, OverloadedError)."""
        rows, self._rows = self._rows, {}
        if self.refusal and (rows or self.writer.buffered_bytes):
            self.drop()
            return then(OverloadedError("journal-reserve", self.refusal))
        try:
            for (layout, seal), (metas, pieces) in rows.items():
                self.writer.predictions(layout, metas, b"".join(pieces), seal)
        except OverloadedError as error:
            self.writer.take()
            return then(error)
        return self.commits.commit(self.writer.take(), then)

    def close(self) -> None:
        """Write what waits, and give the slot back. Raises: OSError."""
        self.commits.close()

    def drop(self) -> None:
        """Forget what was collected and is not committed."""
        self._rows = {}
        self.writer.take()

    def _add_part(self, call: Call, part: Part, latency_us: int, answered: int) -> None:
        service, parsed = call.service, call.parsed
        version = service.versions.get(part.answered)
        keeps = keep_nothing if self.is_short else service.keeps
        bare = keeps is not None and not keeps(call.id)
        session = _session(service, bare=bare)
        place = (service.layout(version, bare=bare), session.seal if session else b"")
        found = self._rows.get(place)
        if found is None:
            found = self._rows[place] = ([], [])
        metas, pieces = found
        answers = _answers(part, version)
        scores = _scores(part, version, service)
        mask = service.mask
        release = "" if call.pinned else service.release_id
        epoch = service.epoch if release else 0
        status, keys, units, warnings = int(part.status), parsed.keys, parsed.units, parsed.warnings
        # What a model says of a row that it cannot take often quotes it.
        error = part.error if mask is None else part.error.partition(":")[0]
        for at, row in enumerate(part.rows or range(parsed.count)):
            texts: Texts = ()
            inputs = b""
            if not bare:
                inputs = parsed.numbers if parsed.count == 1 else _row_of(service, parsed, row)
                texts = parsed.texts[row] if parsed.texts else ()
            key, unit = keys[row] if keys else "", units[row] if units else ""
            if mask is not None:
                came = Row(row, inputs, texts, _subject(parsed, row), key, unit)
                inputs, texts = mask.inputs(inputs, texts) if not bare else (inputs, texts)
                key, unit = mask.ids(key, unit)
                if session is not None:
                    texts = (*texts, mask.sealed(session, call.request, came))
            pieces += (scores[at],) if bare else (inputs, scores[at])
            metas.append(
                PredictionMeta(
                    call.request, row, call.at, answered, part.assigned, status, call.kind,
                    release, epoch, part.share, part.segment,
                    key,
                    unit or call.id,
                    latency_us,
                    warnings[row] if warnings else (),
                    (*texts, answers[at]) if texts else (answers[at],),
                    error,
                    part.cached,
                )
            )  # fmt: skip


def _session(service: Service, *, bare: bool) -> Session | None:
    """What sealed fields of a record are sealed with, if it has some."""
    mask = service.mask
    if bare or mask is None or not mask.seals or mask.sealer is None:
        return None
    return mask.sealer.session()


def _subject(parsed: Parsed, row: int) -> str:
    return parsed.subjects[row] if parsed.subjects else ""


def _scores(part: Part, version: Version | None, service: Service) -> list[bytes]:
    """The score columns of each row."""
    if part.scores is not None and version is not None:
        pack = version.pack
        return [pack(*row) for row in part.scores]
    width = len(version.outputs if version else service.default_outputs)
    return [NAN_BYTES * width] * part.count


def _row_of(service: Service, parsed: Parsed, row: int) -> bytes:
    size = service.reader.width * 8
    return parsed.numbers[row * size : row * size + size]


def _answers(part: Part, version: Version | None) -> Sequence[str | None]:
    """The text of `out.answer`; a regression's answer is its score."""
    if part.answers is not None and version is not None and version.labels:
        return part.answers  # type: ignore[return-value]
    return [str(part.constant) if part.answered == CONSTANT else None] * part.count
