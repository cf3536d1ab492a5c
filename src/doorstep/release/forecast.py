"""What a service sees now, the steps that fit it, and what a release of it would need."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import msgspec

from doorstep.core.contract import Contract
from doorstep.core.errors import RefusedError
from doorstep.core.instant import SECOND_US
from doorstep.core.record import TRAFFIC, Kind
from doorstep.core.servicefile import ServiceFile
from doorstep.core.servicefile_running import STEP_SHARES
from doorstep.journal import query
from doorstep.journal.operations import count_rows
from doorstep.journal.summary import Cell
from doorstep.kernel.app import App
from doorstep.release.estimate import Estimate, Regression, Traffic, estimate
from doorstep.release.spec import Before, guarded, spec_of
from doorstep.release.surface import Forecast, RegressionView, StageView
from doorstep.release.types import ReleaseSpec
from doorstep.release.wording import say_segment

LOOKED_S = (3_600, 86_400)
"""The last hour, or, where that is too quiet, the last day."""
REQUESTS_MIN = 100
OUTCOMES_S = 7 * 86_400
BUCKET_S = 10


def read_traffic(app: App, file: ServiceFile, now_per_s: float) -> Traffic:
    """now_per_s: as the nodes report it; used where nothing is recorded yet."""
    now = app.clock.now()
    service = file.service
    for seconds in LOOKED_S:
        counted = count_rows(app, service, now - seconds * SECOND_US, now, BUCKET_S)
        live = [one for one in counted if one.kind == int(Kind.LIVE)]
        rows = sum(one.rows for one in live)
        if rows >= REQUESTS_MIN:
            break
    if not rows:
        return Traffic(units_per_s=now_per_s)
    seen_s = max((now - min(one.at for one in live)) / SECOND_US, BUCKET_S)
    marked = _marked(live, {one.name for one in file.release.waves})
    return Traffic(
        units_per_s=rows / seen_s,
        error_rate=sum(one.failed for one in live) / rows,
        outcomes_per_s=_outcomes_per_s(app, file) if "quality" in guarded(file) else 0.0,
        of_segment={
            name: sum(one.rows for one in marked if one.segment == name)
            / sum(one.rows for one in marked)
            for name in {one.segment for one in marked}
        },
    )


def _marked(live: Sequence[Cell], waves: Collection[str]) -> Sequence[Cell]:
    """Since the first request of a wave: what came before the waves were declared is of none, and
    would make each of them seem to have little traffic. The first bucket has both kinds."""
    since = min((one.at for one in live if one.segment in waves), default=-1)
    return [one for one in live if one.at > since] or [one for one in live if one.at == since]


def _outcomes_per_s(app: App, file: ServiceFile) -> float:
    """Of predictions that are old enough to have theirs."""
    until = app.clock.now() - round(file.monitor.outcomes.delay_s * SECOND_US)
    asked = query.Question(
        what="outcomes_joined", home=str(app.home.path), service=file.service,
        since=until - OUTCOMES_S * SECOND_US, until=until, kinds=tuple(int(one) for one in TRAFFIC),
    )  # fmt: skip
    told = query.ask(asked)
    if not told.rows:
        return 0.0
    return float(told.rows) / max((until - int(told.at.min())) / SECOND_US, BUCKET_S)


def choose_spec(
    file: ServiceFile, traffic: Traffic, contracts: Sequence[Contract], before: Before
) -> ReleaseSpec:
    """What a release would do. `steps: auto`: from as small a share as fits the deadline; where
    none does, those that take the least time. contracts: () for a first release, without steps."""
    if not contracts:
        return spec_of(file, (), before)
    found = []
    for first in range(1 if file.release.steps else len(STEP_SHARES)):
        steps = file.release.steps or STEP_SHARES[first:]
        release = msgspec.structs.replace(file.release, steps=steps)
        tried = msgspec.structs.replace(file, release=release)
        try:
            spec = spec_of(tried, contracts, before)
        except RefusedError as error:
            if error.code != "too-many-steps" or len(steps) == 1 or file.release.steps:
                raise
            continue
        took = estimate(spec, traffic)
        if took.fits:
            return spec
        found.append((took.total_s, -first, spec))
    return min(found, key=lambda one: one[:2])[2]


def forecast_of(
    version: str, champion: int | None, spec: ReleaseSpec, traffic: Traffic
) -> Forecast:
    """champion: None for a first release, which serves at once and has nothing to wait for."""
    found = Forecast(
        version=version,
        champion=champion,
        requests_per_s=traffic.units_per_s,
        error_rate=traffic.error_rate,
        outcomes_per_s=traffic.outcomes_per_s,
        stages=(),
        total_s=spec.bake_s,
        deadline_s=spec.deadline_s,
        fits=True,
        reason="",
        regressions=(),
    )
    if champion is None:
        return found
    took = estimate(spec, traffic)
    return msgspec.structs.replace(
        found,
        stages=_stages(spec, took),
        total_s=_finite(took.total_s + spec.bake_s),
        fits=took.fits,
        reason=took.reason,
        regressions=tuple(map(_regression, took.regressions)),
    )


def _regression(one: Regression) -> RegressionView:
    return RegressionView(
        guardrail=one.guardrail,
        what=one.what,
        counted=one.counted,
        needs=_finite(one.units),
        seconds=_finite(one.seconds),
        shadow_needs=_finite(one.pairs),
        shadow_s=_finite(one.pairs_s),
    )


def _stages(spec: ReleaseSpec, took: Estimate) -> tuple[StageView, ...]:
    stages = []
    if spec.shadow_requests:
        stages.append(
            StageView(
                name="shadow",
                share=0.0,
                needs=_finite(took.shadow_pairs),
                seconds=_finite(took.shadow_s),
                waits_for=took.shadow_waits_for,
            )
        )
    for at, one in enumerate(took.steps):
        where = "" if one.wave is None else f"{say_segment(one.wave)}, "
        stages.append(
            StageView(
                name=f"{where}step {spec.wave_of(at)[1] + 1}",
                share=one.share,
                needs=_finite(one.units),
                seconds=_finite(one.seconds),
                waits_for=one.waits_for,
            )
        )
    bake = StageView(
        name="bake", share=spec.bake_share, needs=0.0, seconds=spec.bake_s, waits_for=""
    )
    return (*stages, bake)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
