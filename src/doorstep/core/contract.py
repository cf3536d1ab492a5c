"""The contract: which fields a row has, and what is enforced. Resolved: no defaults are left open.

`int`, `float`, `bool` and `time` are numbers on the wire between our processes (float64; a missing
value is NaN; a time is microseconds UTC). `category` and `text` are strings (missing: None).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

FieldType = Literal["int", "float", "bool", "category", "text", "time"]
NUMBER_TYPES: frozenset[FieldType] = frozenset({"int", "float", "bool", "time"})
FIELDS_MAX = 4096
Personal = Literal["no", "pseudonymise", "drop", "seal"]


ALIKE = "names that differ in nothing but case are one column of the journal"


def alike(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that are the same when case is ignored, which a journal's file does."""
    seen: dict[str, str] = {}
    for name in names:
        folded = name.casefold()
        if folded in seen:
            return seen[folded], name
        seen[folded] = name
    return None


class Field(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One field of a row.

    required: False lets it be absent or null. range_*: inclusive, None is open. values: the known
    categories, in profile order. unseen: what an unknown category does: it passes with a warning
    (allow), counts as missing (missing), or refuses the row (reject). personal: what the journal
    keeps of it: all (no), a keyed hash (pseudonymise), nothing (drop), or what only the key of the
    person opens (seal).
    """

    name: str
    type: FieldType
    required: bool = True
    range_min: float | None = None
    range_max: float | None = None
    values: tuple[str, ...] = ()
    unseen: Literal["allow", "missing", "reject"] = "allow"
    unit: str = ""
    personal: Personal = "no"
    protected: bool = False

    @property
    def is_number(self) -> bool:
        return self.type in NUMBER_TYPES


class Contract(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a caller may send. Types and required fields are always enforced; ranges and unseen
    categories warn under `enforce: warn` and refuse under `enforce: reject`."""

    inputs: tuple[Field, ...]
    context: tuple[Field, ...] = ()
    enforce: Literal["warn", "reject"] = "warn"

    def __post_init__(self) -> None:
        both = alike(one.name for one in self.inputs) or alike(one.name for one in self.context)
        if both is not None:
            raise ValueError(f"two fields are named {both[0]!r} and {both[1]!r}: {ALIKE}")

    @property
    def numbers(self) -> tuple[Field, ...]:
        """The number inputs, in contract order: the columns of a batch's matrix."""
        return tuple(field for field in self.inputs if field.is_number)

    @property
    def texts(self) -> tuple[Field, ...]:
        """The string inputs, in contract order: the text columns of a batch."""
        return tuple(field for field in self.inputs if not field.is_number)

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.inputs + self.context

    @property
    def seals(self) -> bool:
        """Whether records of it have sealed fields."""
        return any(field.personal == "seal" for field in self.fields)

    def hidden(self, subject: str) -> frozenset[str]:
        """Names whose values are recorded nowhere as they came: personal fields, and whose data it
        is, where any of it is sealed."""
        found = {field.name for field in self.fields if field.personal != "no"}
        return frozenset(found | ({subject} - {""} if self.seals else set()))
