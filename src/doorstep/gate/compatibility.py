"""Whether callers of one contract can call another without a change. Pure."""

from __future__ import annotations

import math

from doorstep.core.contract import Contract, Field
from doorstep.core.manifest import Manifest

WIDENINGS = frozenset({("int", "float"), ("bool", "int"), ("bool", "float"), ("category", "text")})
"""Types that a caller may keep sending when the new version reads the second one."""


def contract_breaks(old: Contract, new: Contract) -> tuple[str, ...]:
    """Sentences, one for each way in which a row that `old` takes would be refused by `new`.

    A field that `new` no longer reads is no break. () if nothing breaks.
    """
    known = {field.name: field for field in (*old.inputs, *old.context)}
    found: list[str] = []
    for field in (*new.inputs, *new.context):
        before = known.get(field.name)
        if before is None:
            if field.required:
                found.append(f"'{field.name}' is required, and callers do not send it")
            continue
        found.extend(_field_breaks(before, field, old, new))
    return tuple(found)


def _field_breaks(before: Field, field: Field, old: Contract, new: Contract) -> list[str]:
    found: list[str] = []
    if before.type != field.type and (before.type, field.type) not in WIDENINGS:
        found.append(f"'{field.name}' was {before.type} and is {field.type}")
        return found
    if field.required and not before.required:
        found.append(f"'{field.name}' may be missing today and is required")
    if new.enforce == "reject" and _is_narrower(before, field, old):
        found.append(f"'{field.name}' refuses values outside {_span(field)}, which pass today")
    is_new_reject = field.unseen == "reject" and before.unseen != "reject"
    gone = sorted(set(before.values) - set(field.values))
    if is_new_reject:
        found.append(f"'{field.name}' refuses unseen categories, which pass today")
    elif field.unseen == "reject" and gone:
        named = ", ".join(gone[:3])
        found.append(f"'{field.name}' no longer takes {named}")
    return found


def _is_narrower(before: Field, field: Field, old: Contract) -> bool:
    is_open = old.enforce != "reject"
    low = -math.inf if is_open or before.range_min is None else before.range_min
    high = math.inf if is_open or before.range_max is None else before.range_max
    new_low = -math.inf if field.range_min is None else field.range_min
    new_high = math.inf if field.range_max is None else field.range_max
    return new_low > low or new_high < high


def _span(field: Field) -> str:
    low = "-" if field.range_min is None else f"{field.range_min:g}"
    high = "-" if field.range_max is None else f"{field.range_max:g}"
    return f"[{low}, {high}]"


def version_breaks(champion: Manifest, version: Manifest) -> tuple[str, ...]:
    """What callers of the champion would notice: their rows refused, or answers of another kind."""
    found = list(contract_breaks(champion.contract, version.contract))
    if champion.task != version.task:
        found.append(f"the task was {champion.task} and is {version.task}")
        return tuple(found)
    new = sorted(set(version.labels) - set(champion.labels))
    gone = sorted(set(champion.labels) - set(version.labels))
    if new:
        found.append(f"answers that callers do not know: {', '.join(new[:5])}")
    if gone:
        found.append(f"answers that are never given again: {', '.join(gone[:5])}")
    if champion.positive != version.positive:
        found.append(f"the positive label was {champion.positive!r} and is {version.positive!r}")
    return tuple(found)
