"""What the operations of predictions and outcomes take and give."""

from __future__ import annotations

import importlib
from typing import Any, Literal

import msgspec

from doorstep.core.errors import MissingExtraError
from doorstep.core.instant import Instant
from doorstep.core.outcome import OutcomeGiven, Refused

OUTCOMES_MAX = 10_000
PREDICTIONS_MAX = 1_000
QUERY_ROWS_MAX = 100_000
QUERY_S_MAX = 600.0
"""Files that a merge replaced are kept 900 s: a query that read the list before finds them."""
IMPORTED_MAX = 2_000
MARK_SEEN_MAX = 100_000
"""Rows of one watermark: of a column that tells so few apart, no run takes only what is new."""


class ShowPrediction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prediction: str


Personal = Literal["none", "sealed", "open", "erased", "lost"]
"""Of the sealed fields of a record. lost: nobody was erased, and the key is not there."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the journal in words. answered_by: the version whose answer the caller got;
    None if it was a constant or an error. status: how the assigned version did. cached: the answer
    was computed for an earlier request. outcome: the label, else the value; value: what the case
    was worth, or the true number. personal: whether it has sealed fields, and whether they are in
    `inputs`, `context` and `key` here (open)."""

    id: str
    service: str
    at: Instant
    assigned: int
    answered_by: int | None
    status: str
    kind: str
    release: str
    segment: str
    key: str
    latency_ms: float
    warnings: tuple[str, ...]
    error: str
    inputs: dict[str, Any]
    context: dict[str, Any]
    answer: str | float | None
    scores: dict[str, float]
    outcome: str | float | None
    outcome_at: Instant | None
    cached: bool = False
    value: float | None = None
    personal: Personal = "none"


class OpenPrediction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """why: goes into the ledger."""

    prediction: str
    why: str


class EraseSubject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """subject: as callers send it; or prediction: whose it is. why: goes into the ledger, which
    keeps it for ever."""

    why: str
    subject: str = ""
    prediction: str = ""


class HoldSubject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """subject, prediction, why: as for an erasure. ends: the hold, if there is one."""

    why: str
    subject: str = ""
    prediction: str = ""
    ends: bool = False


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """subject: its pseudonym. was_held: before this was asked. predictions: how many of theirs
    with sealed fields are recorded, of a hold that begins; None: they could not be searched."""

    subject: str
    is_held: bool
    was_held: bool = False
    predictions: int | None = None


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """subject: its pseudonym, by which the ledger names it. at: what was answered until then cannot
    be read any more. predictions: how many of them were found with sealed fields; None: they could
    not be searched yet, for this problem, and the search goes on by itself."""

    subject: str
    at: Instant
    predictions: int | None
    problem: str = ""


class ListPredictions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """since, before: only those answered since and before it; 0 is any time and now. before_id: of
    the last one of the page before this one, which was answered at `before`. version: who answered,
    0 for any. kind: "" for what callers saw (live, rehearsal, watched), or one of these or
    shadow.
    subject: by the field that the service declares as `ids.subject`. Others: "" for any."""

    service: str
    limit: int = 50
    key: str = ""
    subject: str = ""
    since: Instant = 0
    before: Instant = 0
    before_id: str = ""
    version: int = 0
    segment: str = ""
    answer: str = ""
    status: str = ""
    kind: str = ""


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    predictions: tuple[Prediction, ...]


class QueryJournal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """sql: one SELECT over `predictions`, `outcomes`, or a service's name. since, until: only what
    was answered then (microseconds UTC, 0: no end); files outside are not read. limit: of rows."""

    sql: str
    since: Instant = 0
    until: Instant = 0
    limit: int = 1000
    timeout_s: float = 30.0


class JournalTable(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to SQL. types: DuckDB's. Times in `rows` are ISO 8601 in UTC. is_cut: there are
    more rows than the limit, or than fit into one answer."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    is_cut: bool

    def to_pandas(self) -> Any:
        """A pandas DataFrame. Raises: MissingExtraError."""
        pandas = _package("pandas")
        frame = pandas.DataFrame.from_records(list(self.rows), columns=list(self.columns))
        for place, kind in enumerate(self.types):
            if kind.startswith(("TIMESTAMP", "DATE")):
                frame.isetitem(place, pandas.to_datetime(frame.iloc[:, place], format="ISO8601"))
        return frame

    def to_polars(self) -> Any:
        """A polars DataFrame. Raises: MissingExtraError."""
        polars = _package("polars")
        frame = polars.DataFrame(
            list(self.rows), schema=list(self.columns), orient="row", infer_schema_length=None
        )
        times = (
            name
            for name, kind in zip(self.columns, self.types, strict=True)
            if kind.startswith(("TIMESTAMP", "DATE")) and frame.schema[name] == polars.String
        )
        return frame.with_columns(polars.col(name).str.to_datetime(strict=False) for name in times)


class ExportJournal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """since, until, kind: as in `QueryJournal` and `ListPredictions`. outcomes: join what became
    true, as `outcome`, `outcome_value`, `outcome_at`."""

    service: str
    format: Literal["parquet", "csv"] = "parquet"
    since: Instant = 0
    until: Instant = 0
    kind: str = ""
    outcomes: bool = False


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(
            "missing-extra", f"{name} is not installed, and this needs it", f"pip install {name}"
        ) from None


class RecordOutcomes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """batch: 64 hex digits that name this set, or ""; one that was recorded before is not again.
    partial: record what can be, and say what is refused; else all or none. check: record nothing,
    only say what would be refused."""

    service: str
    outcomes: tuple[OutcomeGiven, ...]
    batch: str = ""
    partial: bool = False
    check: bool = False


class OutcomesRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """erased: places of the outcomes that were left out."""

    recorded: int
    refused: tuple[Refused, ...] = ()


class OutcomesTold(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a stream of outcomes. known: recorded before. refused: the first of them;
    their index is the number of the line, from 1. refused_rows: how many in all."""

    recorded: int
    known: int
    refused_rows: int
    refused: tuple[Refused, ...]


class Mark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a source was read. value: of its watermark column, None before the first time.
    seen: digests of the rows that were read with exactly this value."""

    value: str | int | float | None = None
    seen: tuple[str, ...] = ()


class ShowMark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """source: 64 hex digits that name it."""

    service: str
    source: str


class KeepMark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    service: str
    source: str
    mark: Mark


class ImportedRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer of another service. id: what names it, where it has no key; the same id, or the
    same key at the same time by the same version, is imported once. version: what that service
    calls it. answer: a label or a number. scores: label -> chance, "" for the positive label or the
    number itself. fields: inputs and context by name. outcome: None if it is not yet known. error:
    why it gave no answer, "" if it did."""

    at: Instant
    id: str = ""
    version: str = "current"
    key: str = ""
    answer: str | float | bool | None = None
    scores: dict[str, float] = {}
    fields: dict[str, Any] = {}
    outcome: str | float | bool | None = None
    latency_ms: float = 0.0
    error: str = ""


class ImportRows(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """check: only say what would be refused, and record nothing."""

    service: str
    rows: tuple[ImportedRow, ...]
    check: bool = False


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """imported: recorded now. known: were recorded before. outcomes: recorded now."""

    imported: int
    known: int
    outcomes: int
    refused: tuple[Refused, ...] = ()


class CountTraffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last `minutes`, in buckets of `bucket_s`. kind: as in `ListPredictions`."""

    service: str
    minutes: int = 60
    bucket_s: int = 60
    kind: str = ""


class TrafficBucket(msgspec.Struct, frozen=True, kw_only=True):
    """requests: answered by this version (0: the fallback answer, -1: nobody, and then they are
    `errors`). assigned: requests whose turn it was. failed: of those, what it did not answer.
    rescued: of these, what the champion or the fallback answered in its place. latency_*: of its
    answers, None without any."""

    at: Instant
    version: int
    requests: int
    errors: int
    assigned: int
    failed: int
    rescued: int
    latency_ms_p50: float | None
    latency_ms_p99: float | None


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """buckets: only those with traffic, oldest first."""

    service: str
    since: Instant
    until: Instant
    bucket_s: int
    buckets: tuple[TrafficBucket, ...]
