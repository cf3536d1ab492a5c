"""Pure decisions of this room: what a revision changes, where a version is placed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from doorstep.core.condition import Champion, Condition, Quantity
from doorstep.core.manifest import Manifest
from doorstep.core.servicefile import ServiceFile
from doorstep.core.servicefile_explain import values_of
from doorstep.core.servicefile_running import Guardrail
from doorstep.core.servicefile_types import SliceSpec
from doorstep.register.surface import KeyChange

RuleT = TypeVar("RuleT")
AT_ONCE = "at once"
_NEXT_REGISTER = "at the next register"
_TAKES_EFFECT = {
    "ids": "at once, or when a release that runs has ended",
    "model": _NEXT_REGISTER,
    "runtime": _NEXT_REGISTER,
    "data": _NEXT_REGISTER,
    "contract": _NEXT_REGISTER,
    "gates": "when gates run next",
    "release": "with the next release",
    "serve.cache": "once no release runs",
}
"""A release that runs keeps what it began with; a version keeps what it was registered with.
Evidence for a release, or for a first version that is watched, is not answered by a cache."""
INLINE_MS_P99_MAX = 1.0
"""An inline call cannot be timed out, so only versions that are surely short run in the worker."""


def changes(before: ServiceFile | None, after: ServiceFile) -> tuple[KeyChange, ...]:
    """The keys whose values differ, in the order of the documentation; of a first revision: those
    that the file writes. Both as they are in the same environment."""
    old, new = values_of(before) if before else {}, values_of(after)
    if before is None:
        new = {key: value for key, value in new.items() if key in after.written}
    loose = loosened(before, after) if before else frozenset()
    return tuple(
        KeyChange(
            key=key,
            now=old.get(key, ""),
            after=new.get(key, ""),
            takes_effect=_TAKES_EFFECT.get(key, _TAKES_EFFECT.get(key.partition(".")[0], AT_ONCE)),
            loosens=any(key.startswith(one) for one in loose),
        )
        for key in dict.fromkeys((*new, *old))
        if old.get(key) != new.get(key)
    )


def loosened(before: ServiceFile, after: ServiceFile) -> frozenset[str]:
    """The rules by which something passes, or somebody may, that would not have before."""
    old, new = before.gates, after.gates
    rails = before.release.guardrails, after.release.guardrails
    is_kept = {
        "gates.quality": _is_kept(old.quality, new.quality, _is_as_tight),
        "gates.fairness": _is_kept(old.fairness, new.fairness, _is_as_tight),
        "gates.speed": _is_kept(old.speed, new.speed, _is_as_tight),
        "gates.slices": _is_kept(old.slices, new.slices, _is_slice_as_tight),
        "release.guardrails": _is_kept(*rails, _is_guardrail_as_tight),
        "approve.people": after.approve.people >= before.approve.people,
        "may.approve": _is_narrower(before.may.approve, after.may.approve),
        "may.promote": _is_narrower(before.may.promote, after.may.promote),
    }
    return frozenset(key for key, kept in is_kept.items() if not kept)


def _is_narrower(were: tuple[str, ...], are: tuple[str, ...]) -> bool:
    """() is anybody."""
    return not were or (bool(are) and set(are) <= set(were))


def _is_kept(
    were: Sequence[RuleT], are: Sequence[RuleT], is_as_tight: Callable[[RuleT, RuleT], bool]
) -> bool:
    return all(any(is_as_tight(one, it) for one in are) for it in were)


def _is_as_tight(one: Condition, than: Condition) -> bool:
    """Whether what meets `one` meets `than`."""
    if (one.left, one.operator) != (than.left, than.operator) or one.unit != than.unit:
        return False
    match one.right, than.right:
        case Quantity(value=new), Quantity(value=old):
            bounds = new, old
        case Champion(offset=new_offset), Champion(offset=old_offset):
            bounds = new_offset.value, old_offset.value
        case _:
            return one.right == than.right
    if one.operator in (">=", ">"):
        return bounds[0] >= bounds[1]
    return bounds[0] <= bounds[1] if one.operator in ("<=", "<") else bounds[0] == bounds[1]


def _is_slice_as_tight(one: SliceSpec, than: SliceSpec) -> bool:
    """Parts with fewer rows than `min_rows` are inconclusive, which never passes."""
    is_alike = one.by == than.by and one.min_rows >= than.min_rows
    return is_alike and _is_as_tight(one.check, than.check)


def _is_guardrail_as_tight(one: Guardrail, than: Guardrail) -> bool:
    margins = zip(one.margins, than.margins, strict=False)
    return (
        (one.name, one.loss) == (than.name, than.loss)
        and one.tolerance <= than.tolerance
        and one.ceiling <= than.ceiling
        and len(one.margins) >= len(than.margins)
        and all(new <= old for new, old in margins)
    )


def form_of(manifest: Manifest) -> Literal["onnx", "native"]:
    """Which model file serves: ONNX where its parity was proven, else the native one."""
    proven = manifest.parity is None or manifest.parity.passed
    return "onnx" if manifest.onnx is not None and proven else "native"


def placement_of(form: str, speed_ms_p99: float) -> Literal["inline", "engine"]:
    """inline only for ONNX whose measured single-row p99 is at most 1 ms; unmeasured is engine."""
    quick = 0.0 < speed_ms_p99 <= INLINE_MS_P99_MAX
    return "inline" if form == "onnx" and quick else "engine"
