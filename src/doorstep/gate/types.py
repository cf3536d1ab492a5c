"""What each gate measured. A verdict is a function of one of these and of nothing else.

Evidence is kept as JSON in `Finding.evidence`; `gate.decide.recompute` reads it back and must give
the same verdict. None stands for a number that could not be measured or has no end.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from doorstep.core.contract import Contract
from doorstep.core.servicefile_types import GatesSpec

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
    shared: int = 0
    compared_rows: int = 0
    by_chance: float = 0.0
    is_same_file: bool = False


class _Measured(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="gate",
    tag=lambda name: name.removesuffix("Evidence").lower(),
):
    """check: what was asked, in the words of the service file."""

    check: str


class QualityEvidence(_Measured, frozen=True, kw_only=True):
    """A metric against a number."""

    metric: str
    operator: Order
    bound: float
    found: Estimate
    unseen: Unseen
    changed: tuple[ColumnChange, ...] = ()


class ChampionEvidence(_Measured, frozen=True, kw_only=True):
    """A metric against the champion's on the same rows.

    difference: this version minus champion. slack: what the condition adds to the champion's value.
    tolerance: None for a condition that somebody wrote; else the loss that these rows must be able
    to show. champion: its name, "" if there is none."""

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


class UnseenEvidence(_Measured, frozen=True, kw_only=True):
    unseen: Unseen


class SchemaEvidence(_Measured, frozen=True, kw_only=True):
    """breaks: sentences, each a caller that works today and would not with this version."""

    against: str
    breaks: tuple[str, ...]


class SizeEvidence(_Measured, frozen=True, kw_only=True):
    operator: Order
    bound_bytes: float
    bytes: int


class SpeedEvidence(_Measured, frozen=True, kw_only=True):
    """One row a call, in one process, without the network. form: onnx or native."""

    measure: str
    operator: Order
    bound_ms: float
    form: str
    ms: Estimate


class SanityEvidence(_Measured, frozen=True, kw_only=True):
    """outside: probabilities below 0 or above 1. sum_difference: largest distance of a row's
    probabilities from 1; None for a regression. distinct: different answers among the rows."""

    rows: int
    columns_expected: int
    columns_found: int
    not_finite: int
    outside: int
    sum_difference: float | None
    distinct: int


class AgreementEvidence(_Measured, frozen=True, kw_only=True):
    """Two ways of asking the same rows. difference: the largest, relative to max(1, |score|)."""

    what: Literal["twice", "alone"]
    rows: int
    difference: float | None
    tolerance: float


class DataEvidence(_Measured, frozen=True, kw_only=True):
    rows: int
    reference_rows: int
    columns: tuple[ColumnChange, ...]


class GroupQuality(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    rows: int
    found: Estimate


class SlicesEvidence(_Measured, frozen=True, kw_only=True):
    """groups: those with at least rows_min rows, intervals widened for their number. small: the
    others, name and rows."""

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


class FairnessEvidence(_Measured, frozen=True, kw_only=True):
    """selected: rows answered `favourable`. missing: rows without the attribute."""

    attribute: str
    favourable: str
    operator: Order
    bound: float
    groups: tuple[GroupAnswers, ...]
    missing: int = 0


class UnmeasuredEvidence(_Measured, frozen=True, kw_only=True):
    """A gate that could not be measured. is_fault: the version is to blame (it raised)."""

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


class GateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the gate's child is asked. holdout: a Parquet file, "" if there is none.
    promised: the contract of the service file, None if it has none. favourable: the label that a
    person would rather get; "" leaves fairness inconclusive. timeout_ms: of the service,
    the limit for a single row when no speed is asked for."""

    version: Candidate
    champion: Candidate | None = None
    holdout: str = ""
    promised: Contract | None = None
    gates: GatesSpec = GatesSpec()
    favourable: str = ""
    timeout_ms: float = 1000.0
