"""What each gate measured. A verdict is a function of one of these and of nothing else.

Evidence is kept as JSON in `Finding.evidence`; `gate.decide.recompute` reads it back and must give
the same verdict. None stands for a number that could not be measured or has no end.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from doorstep.core.contract import Contract

Order = Literal["<=", ">=", "<", ">"]
GROUPS_MAX = 100
"""Groups of one slice or attribute; more is an id, not a group."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """value with its 95 % interval (or wider, where several groups are looked at at once).
    counted: the rows that carry the number, such as those of the rarer class; what: which."""

    value: float | None
    low: float | None
    high: float | None
    counted: int
    counted_min: int
    what: str = "held-out rows"


class ColumnChange(msgspec.Struct, frozen=True, kw_only=True):
    """One input column: hold-out against the version's training reference.

    shift_sd: earth mover's distance in reference standard deviations (numbers). ks: 0..1 (numbers).
    divergence: Jensen-Shannon, bits (categories). scale: hold-out median / reference median.
    unseen: share of hold-out values that training never had, beyond its own (categories)."""

    column: str
    shift_sd: float | None = None
    ks: float | None = None
    divergence: float | None = None
    holdout_p50: float | None = None
    reference_p50: float | None = None
    scale: float | None = None
    unseen: float = 0.0
    missing_holdout: float = 0.0
    missing_reference: float = 0.0
    range_min: float | None = None
    range_max: float | None = None


class Unseen(msgspec.Struct, frozen=True, kw_only=True):
    """Whether this version may have trained on the held-out rows.

    compared: with which rows; "nothing" when no training data is known. shared: of `rows` of the
    hold-out (or of `compared_rows` of the background sample), how many are in the other table.
    by_chance: the share of rows that have a twin within one table, so that equal rows of a small
    table are not taken for a leak. is_same_file: the hold-out has the digest of the training data.
    """

    compared: Literal["training data", "background sample", "nothing"]
    rows: int
    shared: int
    compared_rows: int
    by_chance: float
    is_same_file: bool = False


class QualityEvidence(msgspec.Struct, frozen=True, kw_only=True, tag="quality", tag_field="gate"):
    """A metric against a number."""

    check: str
    metric: str
    operator: Order
    bound: float
    found: Estimate
    unseen: Unseen
    changed: tuple[ColumnChange, ...] = ()


class ChampionEvidence(msgspec.Struct, frozen=True, kw_only=True, tag="champion", tag_field="gate"):
    """A metric against the champion's on the same rows.

    difference: this version minus champion. slack: what the condition adds to the champion's value.
    tolerance: None for a condition that somebody wrote; else the loss that these rows must be able
    to show. champion: its name, "" if there is none."""

    check: str
    metric: str
    operator: Order
    slack: float
    champion: str
    found: Estimate
    of_champion: Estimate
    difference: Estimate
    tolerance: float | None
    unseen: Unseen
    changed: tuple[ColumnChange, ...] = ()


class UnseenEvidence(msgspec.Struct, frozen=True, kw_only=True, tag="unseen", tag_field="gate"):
    check: str
    unseen: Unseen


class SchemaEvidence(msgspec.Struct, frozen=True, kw_only=True, tag="schema", tag_field="gate"):
    """breaks: sentences, each a caller that works today and would not with this version."""

    check: str
    against: str
    breaks: tuple[str, ...]


class SizeEvidence(msgspec.Struct, frozen=True, kw_only=True, tag="size", tag_field="gate"):
    check: str
    operator: Order
    bound_bytes: float
    bytes: int


class SpeedEvidence(msgspec.Struct, frozen=True, kw_only=True, tag="speed", tag_field="gate"):
    """One row a call, in one process, without the network. form: onnx or native."""

    check: str
    measure: str
    operator: Order
    bound_ms: float
    form: str
    ms: Estimate


class SanityEvidence(msgspec.Struct, frozen=True, kw_only=True, tag="sanity", tag_field="gate"):
    """outside: probabilities below 0 or above 1. sum_difference: largest distance of a row's
    probabilities from 1; None for a regression. distinct: different answers among the rows."""

    check: str
    rows: int
    columns_expected: int
    columns_found: int
    not_finite: int
    outside: int
    sum_difference: float | None
    distinct: int


class AgreementEvidence(
    msgspec.Struct, frozen=True, kw_only=True, tag="agreement", tag_field="gate"
):
    """Two ways of asking the same rows. difference: the largest, relative to max(1, |score|)."""

    check: str
    what: Literal["twice", "alone"]
    rows: int
    difference: float | None
    tolerance: float


class DataEvidence(msgspec.Struct, frozen=True, kw_only=True, tag="data", tag_field="gate"):
    check: str
    rows: int
    reference_rows: int
    columns: tuple[ColumnChange, ...]


class GroupQuality(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    rows: int
    found: Estimate


class SlicesEvidence(msgspec.Struct, frozen=True, kw_only=True, tag="slices", tag_field="gate"):
    """groups: those with at least rows_min rows, intervals widened for their number. small: the
    others, name and rows."""

    check: str
    metric: str
    operator: Order
    bound: float
    by: str
    rows_min: int
    groups: tuple[GroupQuality, ...]
    small: dict[str, int]
    unseen: Unseen


class GroupAnswers(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    rows: int
    selected: int


class FairnessEvidence(msgspec.Struct, frozen=True, kw_only=True, tag="fairness", tag_field="gate"):
    """selected: rows answered `favourable`. missing: rows without the attribute."""

    check: str
    attribute: str
    favourable: str
    operator: Order
    bound: float
    groups: tuple[GroupAnswers, ...]
    missing: int = 0


class UnmeasuredEvidence(
    msgspec.Struct, frozen=True, kw_only=True, tag="unmeasured", tag_field="gate"
):
    """A gate that could not be measured. is_fault: the version is to blame (it raised)."""

    check: str
    problem: str
    is_fault: bool = False
    next: str = ""


Evidence = (
    QualityEvidence
    | ChampionEvidence
    | UnseenEvidence
    | SchemaEvidence
    | SizeEvidence
    | SpeedEvidence
    | SanityEvidence
    | AgreementEvidence
    | DataEvidence
    | SlicesEvidence
    | FairnessEvidence
    | UnmeasuredEvidence
)


class Candidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version to load: `folder` holds manifest.json with this digest. trusted: from the trust
    store of this installation, never from the bundle."""

    name: str
    folder: str
    digest: str
    trusted: bool = False


class SliceAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    check: str
    by: tuple[str, ...]
    min_rows: int = 50


class GatesAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The conditions of the service file, as text. Empty: the defaults of `gate.defaults`."""

    quality: tuple[str, ...] = ()
    slices: tuple[SliceAsked, ...] = ()
    fairness: tuple[str, ...] = ()
    speed: tuple[str, ...] = ()


class GateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the gate's child is asked. holdout: a Parquet file, "" if there is none.
    promised: the contract of the service file, None if it has none. favourable: the label that a
    person would rather get; "" leaves fairness inconclusive. timeout_ms: of the service,
    the limit for a single row when no speed is asked for."""

    version: Candidate
    champion: Candidate | None = None
    holdout: str = ""
    promised: Contract | None = None
    gates: GatesAsked = GatesAsked()
    favourable: str = ""
    timeout_ms: float = 1000.0
