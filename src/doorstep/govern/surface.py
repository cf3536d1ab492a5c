"""What the operations of history, the ledger and the installation take and give."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from doorstep.core.instant import Instant
from doorstep.core.record import Layout
from doorstep.core.report import JournalMode

EVENTS_MAX = 1_000
ProofState = Literal["proven", "erased", "not-sealed", "broken"]


class ListEvents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """service: "" for all. kind: a prefix such as "release.", "" for all. before: sequence, 0 is
    the newest."""

    service: str = ""
    kind: str = ""
    limit: int = 100
    before: int = 0


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """sentence: what happened, in words."""

    sequence: int
    at: Instant
    kind: str
    actor: str
    object: str
    sentence: str
    data: dict[str, Any]
    leaf_hash: str


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    events: tuple[EventView, ...]
    size: int


class VerifyLedger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class LedgerVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """problems: each a sentence that names the first event it concerns."""

    intact: bool
    size: int
    root: str
    checkpoint: str
    checkpoint_size: int
    key: str
    problems: tuple[str, ...]


class ProvePrediction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prediction: str


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """record: base64 of what the leaf hashes, with inputs and answer; "" if its contents are gone.
    erased: nothing opens its sealed fields any more, says the home that made the proof.
    leaf, path, event_path: hex. ordinal: the record's place among `records` of its block. event:
    the ledger's line as it is stored. checkpoint: the signed note. key: who signed it."""

    format: int = 1
    prediction: str
    layout: Layout | None
    record: str
    leaf: str
    ordinal: int
    records: int
    path: tuple[str, ...]
    event: str
    event_path: tuple[str, ...]
    checkpoint: str
    key: str
    erased: bool = False


class PredictionProof(msgspec.Struct, frozen=True, kw_only=True):
    """said: what was found, step by step. problems: why it is no proof. proof: None if there is
    none to give. state: `erased` is proven as stored: sealed, and its key is
    destroyed."""

    prediction: str
    state: ProofState
    said: tuple[str, ...]
    problems: tuple[str, ...] = ()
    proof: Proof | None = None


class ShowHistory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """at: what was live then; 0 is now. whole: also when evidence began to be counted anew."""

    service: str
    at: Instant = 0
    whole: bool = False


class Tenure(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of time in which a version was champion. because: the reason of the decision."""

    version: int
    since: Instant
    until: Instant | None
    release: str
    because: str
    by: str


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time in which a version answered callers: as champion, or as challenger up to
    `share` of the units. because, evidence: of the decision that made it champion, or that ended
    the challenger. goal: how it keeps the service's goal, in words, "" without one."""

    version: int
    role: Literal["champion", "challenger"]
    share: float
    since: Instant
    until: Instant | None
    release: str
    asked_by: str
    decided_by: str
    because: str
    evidence: str
    approved_by: tuple[str, ...] = ()
    goal: str = ""


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """A version was killed, and nobody might ask it until it was revived."""

    version: int
    since: Instant
    until: Instant | None
    by: str
    why: str


class History(msgspec.Struct, frozen=True, kw_only=True):
    """tenures: newest first. events: of this service, newest first. live: champion at `at`.
    killed: by whom and why it had been killed then, "" if it was not. served, stops: newest first.
    answering: (version, share) at `at`, the champion first. answering_in: where a release carries
    one wave after the other, the one of which these are the shares, in words; else ""."""

    service: str
    at: Instant
    live: int | None
    killed: str
    tenures: tuple[Tenure, ...]
    events: tuple[EventView, ...]
    served: tuple[Served, ...] = ()
    stops: tuple[Stop, ...] = ()
    answering: tuple[tuple[int, float], ...] = ()
    answering_in: str = ""


class ShowInstallation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class NodeStore(msgspec.Struct, frozen=True, kw_only=True):
    """What of a node's journal is in its object store. waiting_*: is not yet. behind_since: 0 if
    the last try went through; problem: what it said if not."""

    url: str
    files: int
    bytes: int
    waiting_files: int
    waiting_bytes: int
    behind_since: Instant
    problem: str


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """store: None without one, or before its first try."""

    node: str
    live: bool
    data_url: str
    plan_number: int
    lease_held: bool
    workers: int
    restarts: int
    loaded: tuple[str, ...]
    problems: tuple[str, ...]
    journal: JournalMode = "default"
    store: NodeStore | None = None


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    environment: str
    home: str
    database: str
    console_url: str
    data_url: str
    plan_term: int
    plan_number: int
    ledger_size: int
    started_at: Instant
    nodes: tuple[NodeView, ...]
    problems: tuple[str, ...] = ()


class CreateToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An API key, or with a scope a person's token for the control plane, whose name is theirs.
    service: "" for all. rate: requests per second on all nodes together, 0 for no limit."""

    service: str
    name: str = ""
    expires_s: float = 90 * 86400.0
    rate: float = 0.0
    scope: Literal["", "approve", "release"] = ""


class ListTokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """service: "" for all."""

    service: str = ""


class RevokeToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """token: its id."""

    token: str
    why: str


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token without its secret. state: live, expired, revoked. service: "" for all. scope: of a
    person's, "" for an API key."""

    id: str
    name: str
    service: str
    state: str
    rate: float
    created_at: Instant
    by: str
    expires_at: Instant
    revoked_at: Instant | None
    scope: str = ""


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """secret: the key; nobody can show it again. plan_number: of the plan that lets it in."""

    token: Token
    secret: str
    plan_number: int


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    tokens: tuple[Token, ...]
