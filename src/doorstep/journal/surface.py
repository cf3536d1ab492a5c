"""What the operations of predictions and outcomes take and give."""

from __future__ import annotations

from typing import Any

import msgspec

from doorstep.core.instant import Instant

OUTCOMES_MAX = 10_000
PREDICTIONS_MAX = 1_000
KEY_CHARS_MAX = 256
LABEL_CHARS_MAX = 1_000
AT_MAX = 2**53
"""In the year 2255: what is later is no time that anybody meant."""


class ShowPrediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    prediction: str


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the journal in words. answered_by: the version whose answer the caller got;
    None if it was a constant or an error. status: how the assigned version did. cached: the answer
    was computed for an earlier request."""

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


class ListPredictions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """before: only those answered before it; 0 is now. key: "" for any. status: "" for any. kind:
    "" for what callers saw (live, rehearsal), or one of live, rehearsal, shadow."""

    service: str
    limit: int = 50
    before: Instant = 0
    key: str = ""
    status: str = ""
    kind: str = ""


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    predictions: tuple[Prediction, ...]


class OutcomeGiven(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became true, by prediction id or by key. at: 0 is now."""

    prediction: str = ""
    key: str = ""
    label: str | None = None
    value: float | None = None
    at: Instant = 0


class RecordOutcomes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """batch: 64 hex digits that name this set, or ""; one that was recorded before is not again."""

    service: str
    outcomes: tuple[OutcomeGiven, ...]
    batch: str = ""


class OutcomesRecorded(msgspec.Struct, frozen=True, kw_only=True):
    recorded: int


class CountTraffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
