"""From the service file's `release:` to the frozen parameters of one release. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from doorstep.core.contract import Contract
from doorstep.core.errors import RefusedError
from doorstep.core.plan import REST, Segment
from doorstep.core.servicefile import ServiceFile
from doorstep.core.servicefile_running import STEP_SHARES
from doorstep.core.servicefile_running import Guardrail as Asked
from doorstep.release.losses import Baseline
from doorstep.release.types import Guardrail, GuardrailName, ReleaseSpec

WARMUP_S = 60.0
WARMUP_OF_DWELL = 0.2


class Before(msgspec.Struct, frozen=True):
    """quality: None where it is not guarded. slow_us: the champion's latency at SLOW_QUANTILES,
    () where it is not guarded."""

    quality: Baseline | None = None
    slow_us: tuple[int, ...] = ()


NOTHING_BEFORE = Before()


def spec_of(
    file: ServiceFile,
    requests_per_s: float,
    contracts: Sequence[Contract] = (),
    before: Before = NOTHING_BEFORE,
) -> ReleaseSpec:
    """What a release of this service will do. requests_per_s: measured, for `steps: auto`.
    contracts: of the champion, whose rows are recorded, and of the challenger, which would score
    them; () for a first release, which has no shadow. before: what was measured of
    the champion; what was not is not guarded, as in a first release.

    Fairness is not decided on yet, which `doorstep check` says. Raises: InputError (`bad-release`),
    RefusedError (`shadow-needs-inputs`, `cannot-compare-answers`, `wave-matches-nothing`).
    """
    asked = file.release
    steps = asked.steps or auto_steps(requests_per_s, asked.deadline.after_s)
    errors = next((one for one in asked.guardrails if one.name == "errors"), None)
    shadow_requests = asked.shadow.requests
    if shadow_requests and contracts:
        shadow_requests = _shadow_requests(file, contracts)
    if contracts:
        _require_matches(file, contracts[0])
    if contracts and "disagreement" in guarded(file):
        _require_answers(file, shadow_requests)
    rises = [wave.steps or steps for wave in asked.waves] + [steps]
    counts = [len(rise) for rise in rises]
    dwell_s = tuple(
        asked.dwell_s_at(step, len(rise), wave)
        for rise, wave in zip(rises, (*asked.waves, None), strict=True)
        for step in range(len(rise))
    )
    return ReleaseSpec(
        shadow_requests=shadow_requests,
        steps=tuple(share for rise in rises for share in rise),
        dwell_s=dwell_s,
        margins=_margins(errors, counts) if errors else (1.5,) * sum(counts),
        alpha=asked.alpha,
        guardrails=_guardrails(file, counts, before, shadow_requests if contracts else 0),
        # A minute, but never more than a fifth of a step: shortened releases stay decidable.
        warmup_s=min(WARMUP_S, WARMUP_OF_DWELL * min(dwell_s)),
        bake_s=asked.bake_s,
        holdback=asked.holdback,
        deadline_s=asked.deadline.after_s,
        deadline_then=asked.deadline.then,
        segments=(*(wave.name for wave in asked.waves), REST),
        waves=waves_of(file),
        wave_steps=tuple(counts) if asked.waves else (),
        key=file.ids.key,
        unit=file.ids.unit,
    )


def guarded(file: ServiceFile) -> frozenset[str]:
    """Names of the guardrails that a release of it is decided on."""
    return frozenset(one.name for one in file.release.guardrails) | {"errors"}


def _margins(asked: Asked, counts: Sequence[int]) -> tuple[float, ...]:
    """counts: steps of each wave. Each wave goes down to the last margin."""
    return tuple(asked.margin_at(step, count) for count in counts for step in range(count))


def _guardrails(
    file: ServiceFile, counts: Sequence[int], before: Before, pairs: int
) -> tuple[Guardrail, ...]:
    """Each may spend an equal part of alpha. counts: steps of each wave. pairs: how many the shadow
    scores."""
    asked = {one.name: one for one in file.release.guardrails}
    errors = asked.get("errors", Asked(name="errors"))
    found = [Guardrail(tolerance=errors.tolerance, ceiling=errors.ceiling)]
    if before.slow_us and (latency := asked.get("latency")):
        found.append(_stepped("latency", latency, counts, slow_us=before.slow_us))
    if before.quality is not None and (quality := asked.get("quality")):
        found.append(
            _stepped(
                "quality", quality, counts,
                reference=before.quality.reference, loss_max=before.quality.loss_max,
                delay_s=file.monitor.outcomes.delay_s,
            )
        )  # fmt: skip
    if pairs and (differ := asked.get("disagreement")):
        found.append(Guardrail(name="disagreement", tolerance=differ.tolerance))
    return tuple(msgspec.structs.replace(one, weight=1.0 / len(found)) for one in found)


def _require_answers(file: ServiceFile, shadow_requests: int) -> None:
    why = ""
    if file.model.task == "regression":
        why = "a regression answers with numbers, which nearly always differ"
    elif shadow_requests == 0:
        why = "this release has no shadow, in which both versions answer the same"
    if why:
        raise RefusedError(
            "cannot-compare-answers",
            f"release.guardrails names disagreement, but {why}",
            "take disagreement out of the guardrails",
        )


def _require_matches(file: ServiceFile, contract: Contract) -> None:
    """contract: of the champion, by which requests are read. Raises: RefusedError
    (`wave-matches-nothing`)."""
    known = {one.name: one.values for one in contract.context}
    for wave in file.release.waves:
        for field, values in wave.match.items():
            found = known.get(field)
            if found is None or (found and not set(found) & set(values)):
                said = f"no field {field!r}" if found is None else f"{field} {', '.join(found[:5])}"
                raise RefusedError(
                    "wave-matches-nothing",
                    f"release.waves: {wave.name} matches {field} {', '.join(values[:5])}, but the "
                    f"context of {file.service} has {said}",
                    "correct release.waves, or declare the field in contract.context",
                )


def _stepped(name: GuardrailName, asked: Asked, counts: Sequence[int], **frozen: Any) -> Guardrail:
    margins = _margins(asked, counts)
    return Guardrail(name=name, tolerance=asked.tolerance, margins=margins, **frozen)


def waves_of(file: ServiceFile) -> tuple[Segment, ...]:
    return tuple(Segment(name=wave.name, match=wave.match) for wave in file.release.waves)


def _shadow_requests(file: ServiceFile, contracts: Sequence[Contract]) -> int:
    """As the file says; 0 where the shadow was left to its default and cannot be had."""
    try:
        _require_inputs(file, contracts)
    except RefusedError:
        if any(path.startswith("release.shadow") for path in file.written):
            raise
        return 0
    return file.release.shadow.requests


def _require_inputs(file: ServiceFile, contracts: Sequence[Contract]) -> None:
    """The shadow scores what the journal has: with inputs that it lacks, a challenger would be
    judged on rows that nobody sent. Raises: RefusedError (`shadow-needs-inputs`)."""
    mode = file.serve.record.mode
    if mode != "full":
        raise RefusedError(
            "shadow-needs-inputs",
            f"release.shadow scores recorded requests, but serve.record: {mode} does not keep "
            "the inputs of all of them",
            "set release.shadow.requests: 0, or serve.record: full",
        )
    masked = masked_inputs(file, contracts)
    if masked:
        raise RefusedError(
            "shadow-needs-inputs",
            f"release.shadow scores recorded requests, but {', '.join(masked[:5])} of them "
            "is personal, and is not recorded as it was sent",
            "set release.shadow.requests: 0",
        )


def masked_inputs(file: ServiceFile, contracts: Sequence[Contract]) -> tuple[str, ...]:
    """What the last contract reads and is personal in any of them or in the service file."""
    personal = {
        one.name
        for contract in contracts
        for one in (*contract.inputs, *contract.context)
        if one.personal != "no"
    }
    stated = {**file.contract.inputs, **file.contract.context}
    personal |= {name for name, one in stated.items() if one.personal != "no"}
    return tuple(one.name for one in contracts[-1].inputs if one.name in personal)


def auto_steps(requests_per_s: float, deadline_s: float) -> tuple[float, ...]:
    """Shares for `steps: auto`: the first is the smallest at which 500 challenger requests, what a
    ceiling of 1 % needs without an error, arrive in a quarter of the deadline."""
    needed = 500.0 / max(requests_per_s * deadline_s / 4.0, 1e-9)
    fitting = tuple(share for share in STEP_SHARES if share >= needed)
    return fitting or STEP_SHARES[-1:]
