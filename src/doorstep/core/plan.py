"""The plan: what the data plane must serve now. Small, numbered, signed, swapped whole.

    plan/current              PlanPointer: term, number, root digest, renewal, signature
    plan/<digest>.json        PlanRoot: a digest per service
    plan/<digest>.json        ServicePlan: everything a node needs to serve one service
    plan/<digest>.json        KeysPlan: who may call, in one document for all services

Documents are content-addressed and immutable; only the pointer is replaced (atomically). A node
refuses a pointer with a lower (term, number) than it has seen, and one whose signature does not
verify with the key it has pinned.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import msgspec

from doorstep.core.contract import Contract
from doorstep.core.ids import hash_unit
from doorstep.core.instant import Instant

FORMAT = 1
PLAN_BYTES_MAX = 16 * 1024 * 1024
REST = ""
"""The name of the implied segment: everybody whom no declared segment matched."""


class VersionPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """number: of the service. bundle: digest. form: which model file scores. placement: inline in
    the front worker, or an engine process. trusted: somebody of this installation vouched for the
    file (its trust is in the ledger), so an engine may load a pickle or types outside our list."""

    number: int
    bundle: str
    form: Literal["onnx", "native"]
    placement: Literal["inline", "engine"]
    trusted: bool = False


class Segment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows whose context has, for every field of `match`, one of the given values (as text)."""

    name: str
    match: dict[str, tuple[str, ...]]


class ReleasePlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A release as a node sees it.

    shares: part of the units of each segment that is assigned to the challenger, 0..1; a segment
    that is not named has share 0. sample: part of the requests that the shadow scorer scores.
    epoch: the evidence epoch that new requests belong to; the first seconds of a step have one of
    their own. slow_us, slow_challenger_us: latencies above which a request of that arm counts as
    slow, at most SLOW_MAX each; empty where latency is not guarded.
    """

    id: str
    challenger: int
    state: Literal["shadow", "step", "bake", "paused"]
    epoch: int
    shares: dict[str, float] = {}
    sample: float = 0.0
    rehearsal: bool = False
    slow_us: tuple[int, ...] = ()
    slow_challenger_us: tuple[int, ...] = ()


class FallbackStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """version: ask that version (0: the champion). answer: give this constant; when: to rows that
    satisfy this condition (`core.condition`), "" to all."""

    kind: Literal["version", "answer"]
    version: int = 0
    answer: str | float | None = None
    when: str = ""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """digest: sha256 of the whole key, hex; the key itself is nowhere. service: that it is for, ""
    for all. rate: requests per second that it may make on all nodes together, 0 for no limit."""

    id: str
    digest: str
    service: str
    expires_at: Instant
    rate: float = 0.0


class KeysPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    keys: tuple[ApiKey, ...]


class ServicePlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """champion: None for a service whose first version is not yet released (it answers 503).
    versions: every version that must be resident: champion, challenger, last champion, fallbacks.
    record: which part of the rows' inputs the journal keeps. cache_s: how long an answer to the
    same row may be given again; 0: never. killed: numbers of versions that must not be asked.
    keep_s: how long the journal keeps its records; 0: for ever.
    access: whether callers need an API key. limit: requests per second on all nodes together, 0
    for no limit. has_values: outcomes may say what a case was worth."""

    format: int
    service: str
    contract: Contract
    versions: tuple[VersionPlan, ...]
    champion: int | None
    release: ReleasePlan | None = None
    segments: tuple[Segment, ...] = ()
    fallback: tuple[FallbackStep, ...] = (FallbackStep(kind="version"),)
    key: str = ""
    unit: str = ""
    subject: str = ""
    timeout_ms: int = 1000
    rows_max: int = 1000
    record: Literal["full", "no-inputs", "sample"] = "full"
    record_share: float = 1.0
    cache_s: float = 0.0
    killed: tuple[int, ...] = ()
    keep_s: float = 0.0
    access: Literal["open", "keys"] = "open"
    limit: float = 0.0
    has_values: bool = False

    def version(self, number: int) -> VersionPlan | None:
        return next((one for one in self.versions if one.number == number), None)

    def name_of(self, number: int) -> str:
        return f"{self.service}@{number}"

    @property
    def assigned(self) -> set[int]:
        """The versions that requests are assigned to, if they are let."""
        named = {self.champion, self.release.challenger if self.release else None}
        return {one for one in named if one is not None}

    def can_do_without(self, unloaded: Collection[int], before: ServicePlan | None) -> bool:
        """Whether the fallback chain may answer for versions that cannot be loaded.

        before: what serves well now and would go on otherwise, None if nothing does. It gives way
        to a model of the chain, and not to a declared answer; but to that as well if its champion
        was killed.
        """
        if self.assigned.isdisjoint(unloaded):
            return True
        gone = {*unloaded, *self.killed}
        others = {one.number for one in self.versions} - gone
        links = {(one.version or self.champion) for one in self.fallback if one.kind == "version"}
        if links & others:
            return True
        is_well = before is not None and before.champion not in (None, *self.killed)
        return not is_well and any(one.kind == "answer" for one in self.fallback)


class PlanRoot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """keys: digest of the KeysPlan, "" where there is no key. node_share: what each node may give
    out of a limit that holds for all of them together."""

    format: int
    environment: str
    term: int
    number: int
    made_at: Instant
    services: dict[str, str]
    challenger_lease_s: float = 60.0
    keys: str = ""
    node_share: float = 1.0

    @property
    def documents(self) -> set[str]:
        """Digests of everything that belongs to this plan besides the root."""
        return {*self.services.values(), self.keys} - {""}


class PlanPointer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """renewal: rises at each renewal of the challenger lease; a node that sees no rise for
    `challenger_lease_s` on its own monotonic clock gives every challenger's share back.
    signature: Ed25519 over `signed_bytes`, hex. key: the public key, hex (pinned on first sight).
    """

    format: int
    term: int
    number: int
    root: str
    renewal: int
    key: str = ""
    signature: str = ""

    def signed_bytes(self) -> bytes:
        return (
            f"doorstep-plan-v1\n{self.term}\n{self.number}\n{self.root}\n{self.renewal}\n".encode()
        )


def is_challengers(release_id: str, unit: str, share: float) -> bool:
    """Whether `unit` is assigned to the challenger: hash(release, unit) / 2^64 < share.

    The share only grows within a release, so a unit never goes back and forth.
    """
    return hash_unit(release_id, unit) < share * 2.0**64
