"""From the service file's `release:` to the frozen parameters of one release. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from doorstep.core.condition import Quantity
from doorstep.core.contract import Contract
from doorstep.core.errors import RefusedError
from doorstep.core.plan import REST, Segment
from doorstep.core.report import SLOW_MAX
from doorstep.core.servicefile import ServiceFile
from doorstep.core.servicefile_running import STEP_SHARES
from doorstep.core.servicefile_running import Guardrail as Asked
from doorstep.release.baselines import Baseline
from doorstep.release.metrics import METRICS
from doorstep.release.types import Experiment, Guardrail, ReleaseSpec

WARMUP_S = 60.0
WARMUP_OF_DWELL = 0.2
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
CEILING_LEAST = 1e-6
EPOCH_S = 3600.0
ROOM_EPOCHS = 48
"""Of the room of nodes, what steps may take: each has a warm-up, in every wave that is begun."""
EPOCHS_MAX = 40
"""Nodes have room for some 60 of one segment; steps and full sets open some besides."""


class Before(msgspec.Struct, frozen=True):
    """What was measured of the champion. baselines: by metric, of those that the journal is read
    for. slow_us: the champion's latency at SLOW_QUANTILES, () where it is not guarded."""

    baselines: dict[str, Baseline] = {}
    slow_us: tuple[int, ...] = ()


NOTHING_BEFORE = Before()


def spec_of(
    file: ServiceFile,
    contracts: Sequence[Contract] = (),
    before: Before = NOTHING_BEFORE,
) -> ReleaseSpec:
    """What a release of this service will do. `steps: auto` is all of STEP_SHARES: `forecast`
    chooses which of them fit the traffic. contracts: of the champion, whose rows are recorded, and
    of the challenger, which would score them; () for a first release, which has no shadow. before:
    what was measured of the champion; what was not is not guarded, as in a first release.

    Raises: InputError (`bad-release`), RefusedError (`shadow-needs-inputs`,
    `cannot-compare-answers`, `wave-matches-nothing`).
    """
    asked = file.release
    test = asked.experiment if contracts else None
    steps = asked.steps or STEP_SHARES
    steps = (test.share,) if test else steps
    deadline_s = test.for_s if test else asked.deadline.after_s
    errors = next((one for one in asked.guardrails if one.name == "errors"), None)
    shadow_requests = 0 if test else asked.shadow.requests
    if shadow_requests and contracts:
        shadow_requests = _shadow_requests(file, contracts)
    if contracts:
        _require_matches(file, contracts[0])
    if contracts and "disagreement" in guarded(file):
        _require_answers(file, shadow_requests)
    rises = [wave.steps or steps for wave in asked.waves] + [steps]
    counts = [len(rise) for rise in rises]
    _require_room(counts)
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
        guardrails=_guardrails(
            file, counts, before, shadow_requests if contracts else 0, is_first=not contracts
        ),
        # A minute, but never more than a fifth of a step: shortened releases stay decidable.
        warmup_s=min(WARMUP_S, WARMUP_OF_DWELL * min(dwell_s)),
        bake_s=asked.bake_s,
        holdback=asked.holdback,
        epoch_s=max(EPOCH_S, deadline_s / EPOCHS_MAX * (1 + len(asked.waves))),
        deadline_s=deadline_s,
        deadline_then=asked.deadline.then,
        segments=(*(wave.name for wave in asked.waves), REST),
        waves=waves_of(file),
        wave_steps=tuple(counts) if asked.waves else (),
        key=file.ids.key,
        unit=file.ids.unit,
        experiment=_experiment(file, before) if test else None,
    )


def guarded(file: ServiceFile) -> frozenset[str]:
    """Metrics that a release of it is decided on."""
    found = {one.name for one in file.release.guardrails} | {"errors"}
    if file.release.experiment is not None:
        found.add(file.release.experiment.metric)
    return frozenset(found)


def _margins(asked: Asked, counts: Sequence[int]) -> tuple[float, ...]:
    """counts: steps of each wave. Each wave goes down to the last margin."""
    return tuple(asked.margin_at(step, count) for count in counts for step in range(count))


def _experiment(file: ServiceFile, before: Before) -> Experiment | None:
    """Of which neither version may win for being a little better than tolerated: any difference
    counts."""
    test = file.release.experiment
    if test is None or (test.metric != "errors" and test.metric not in before.baselines):
        return None
    none = 1.0 if test.metric == "errors" else 0.0
    asked = Asked(name=test.metric, tolerance=none, margins=(none,))
    measured = before.baselines.get(test.metric)
    measure = _guardrail(file, asked, (1,), measured)
    return Experiment(measure=measure, alpha=file.release.alpha)


def _guardrails(
    file: ServiceFile, counts: Sequence[int], before: Before, pairs: int, *, is_first: bool
) -> tuple[Guardrail, ...]:
    """Each may spend an equal part of alpha. counts: steps of each wave. pairs: how many the shadow
    scores. Those of which nothing was measured are left out, as in a first release, which has what
    callers were promised instead."""
    asked = {one.name: one for one in file.release.guardrails}
    errors = asked.get("errors", Asked(name="errors"))
    found = [Guardrail(tolerance=errors.tolerance, ceiling=errors.ceiling)]
    if is_first:
        found = _promised(file, found[0])
    for one in file.release.guardrails:
        if one.name == "latency" and before.slow_us:
            found.append(_guardrail(file, one, counts, None, slow_us=before.slow_us))
        elif measured := before.baselines.get(one.name):
            found.append(_guardrail(file, one, counts, measured))
        elif one.name == "disagreement" and pairs:
            found.append(Guardrail(name="disagreement", tolerance=one.tolerance))
    return tuple(msgspec.structs.replace(one, weight=1.0 / len(found)) for one in found)


def _promised(file: ServiceFile, errors: Guardrail) -> list[Guardrail]:
    """What callers were promised, of a version that has nobody to be compared with."""
    slow: dict[float, int] = {}
    for one in file.monitor.slo:
        if not isinstance(one.right, Quantity):
            continue
        value, is_upper = one.right.value, one.operator in ("<", "<=")
        if one.left in QUANTILES and is_upper:
            slow[round(1.0 - QUANTILES[one.left], 6)] = round(value * 1000)
        ceiling = {("availability", False): 1.0 - value, ("error_rate", True): value}
        if (one.left, is_upper) in ceiling:
            rate = min(max(ceiling[one.left, is_upper], CEILING_LEAST), 0.5)
            errors = msgspec.structs.replace(errors, ceiling=rate)
    if not slow:
        return [errors]
    used = sorted(slow.items())[:SLOW_MAX]
    limits, times = (tuple(column) for column in zip(*used, strict=True))
    latency = Guardrail(name="latency", limits=limits, slow_us=times)
    return [errors, latency]


def _guardrail(
    file: ServiceFile, asked: Asked, counts: Sequence[int], measured: Baseline | None, **frozen: Any
) -> Guardrail:
    if measured is not None:
        frozen |= msgspec.structs.asdict(measured)
        waits = METRICS[asked.name].read == "outcomes" or METRICS[asked.name].are_units
        frozen["delay_s"] = file.monitor.outcomes.delay_s if waits else 0.0
    margins = _margins(asked, counts)
    return Guardrail(
        name=asked.name, tolerance=asked.tolerance, margins=margins, loss=asked.loss, **frozen
    )


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


def _require_room(counts: Sequence[int]) -> None:
    """counts: steps of each wave. Raises: RefusedError (`too-many-steps`)."""
    needed = sum(2 * count * (at + 1) for at, count in enumerate(counts))
    if len(counts) > 1 and needed > ROOM_EPOCHS:
        raise RefusedError(
            "too-many-steps",
            f"release.waves: steps of {', '.join(map(str, counts))} in {len(counts)} waves are "
            f"{needed} counts by wave and step on a node; it has room for {ROOM_EPOCHS}",
            "give later waves fewer steps, such as steps: [50%]",
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
