"""From what is decided to what is served: pure construction of plan documents."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from doorstep.core.contract import Contract
from doorstep.core.ids import digest_of
from doorstep.core.plan import (
    FORMAT,
    ApiKey,
    FallbackStep,
    KeysPlan,
    PlanRoot,
    ReleasePlan,
    ServicePlan,
    VersionPlan,
)
from doorstep.core.servicefile import ServiceFile
from doorstep.register.store import VersionRow
from doorstep.release.spec import waves_of
from doorstep.release.types import Release, State

StateName = Literal["shadow", "step", "bake", "paused"]
_RUNNING: dict[State, StateName] = {
    State.SHADOW: "shadow",
    State.STEP: "step",
    State.BAKE: "bake",
    State.PAUSED: "paused",
    State.INCONCLUSIVE: "paused",
}


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one service's document is made from. versions: by number, at least those
    that are named here. contract: what callers may send now. killed: not to be asked. file: None
    where this Doorstep cannot read it."""

    service: str
    file: ServiceFile | None
    contract: Contract
    versions: Mapping[int, VersionRow]
    champion: int | None
    last_champion: int | None
    release: Release | None
    killed: Collection[int] = ()


def service_plan(state: ServiceState, last: ServicePlan | None = None) -> ServicePlan | None:
    """The document that nodes get for one service. last: what they have. Where the file cannot be
    read, what it says there stays, and who serves whom goes on; None where nothing was said yet."""
    release = state.release
    if state.file is None:
        return last and msgspec.structs.replace(
            last,
            contract=state.contract,
            versions=_versions(state),
            champion=_serving(state),
            release=_release_plan(release, is_recorded=last.record == "full"),
            fallback=tuple(_fallback_again(last, state.last_champion)),
            killed=tuple(sorted(state.killed)),
        )
    file, serve = state.file, state.file.serve
    # Units must not change sides because the file was edited while a release runs.
    frozen = release.spec if release is not None else None
    return ServicePlan(
        format=FORMAT,
        service=state.service,
        contract=state.contract,
        versions=_versions(state),
        champion=_serving(state),
        release=_release_plan(release, is_recorded=serve.record.mode == "full"),
        segments=frozen.waves if frozen else waves_of(file),
        fallback=tuple(_fallback(file, state.last_champion)),
        key=frozen.key if frozen else file.ids.key,
        unit=frozen.unit if frozen else file.ids.unit,
        subject=file.ids.subject,
        timeout_ms=max(1, round(serve.timeout_s * 1000)),
        record=serve.record.mode,
        record_share=serve.record.share,
        cache_s=serve.cache_s,
        killed=tuple(sorted(state.killed)),
        keep_s=file.privacy.keep_s,
        access=serve.access,
        limit=serve.limit,
        has_values=bool(file.monitor.outcomes.unit),
    )


def _fallback_again(last: ServicePlan, last_champion: int | None) -> Iterator[FallbackStep]:
    for step in last.fallback:
        if not step.version:
            yield step
        elif last_champion is not None:
            yield msgspec.structs.replace(step, version=last_champion)


def _fallback(file: ServiceFile, last_champion: int | None) -> Iterator[FallbackStep]:
    """The chain with its versions named; a champion before this one may not be there."""
    for step in file.serve.fallback:
        match step.kind:
            case "champion":
                yield FallbackStep(kind="version")
            case "previous":
                if last_champion is not None:
                    yield FallbackStep(kind="version", version=last_champion)
            case "answer":
                when = "" if step.when is None else str(step.when)
                yield FallbackStep(kind="answer", answer=step.answer, when=when)


def _serving(state: ServiceState) -> int | None:
    # A first release has no champion beside it: the version itself serves while it is watched.
    release = state.release
    if release is not None and release.is_first and release.share > 0.0:
        return release.challenger
    return state.champion


def _versions(state: ServiceState) -> tuple[VersionPlan, ...]:
    challenger = state.release.challenger if state.release and not state.release.is_over else None
    named = (state.champion, state.last_champion, challenger)
    numbers = sorted({number for number in named if number is not None})
    rows = [state.versions[number] for number in numbers]
    # Both arms of a release are placed alike; else the latency guardrail would compare hand-offs.
    arms = [row for row in rows if row.number in (state.champion, challenger)]
    alike = challenger is not None and any(row.placement == "engine" for row in arms)
    return tuple(_version(row, to_engine=alike and row in arms) for row in rows)


def _version(row: VersionRow, *, to_engine: bool) -> VersionPlan:
    form: Literal["onnx", "native"] = "onnx" if row.form == "onnx" else "native"
    inline = row.placement == "inline" and not to_engine
    return VersionPlan(
        number=row.number,
        bundle=row.digest,
        form=form,
        placement="inline" if inline else "engine",
        trusted=row.trusted,
    )


def _release_plan(release: Release | None, *, is_recorded: bool) -> ReleasePlan | None:
    """is_recorded: whether the journal has what a shadow scores; rows without their inputs are
    no evidence against the challenger."""
    if release is None or release.is_over:
        return None
    latency = next((one for one in release.spec.guardrails if one.name == "latency"), None)
    return ReleasePlan(
        id=release.id,
        challenger=release.challenger,
        state=_RUNNING[release.state],
        epoch=release.epoch.number,
        shares=release.plan_shares(),
        sample=release.spec.shadow_sample if is_recorded and release.state is State.SHADOW else 0.0,
        rehearsal=release.rehearsal,
        slow_us=latency.slow_us if latency else (),
        slow_challenger_us=latency.slow_challenger_us if latency else (),
    )


def plan_root(
    plans: Sequence[ServicePlan],
    keys: tuple[ApiKey, ...] = (),
    *,
    nodes: int = 1,
    environment: str,
    term: int,
    number: int,
    made_at: int,
    lease_s: float,
) -> tuple[PlanRoot, dict[str, bytes]]:
    """The root and the bodies of its documents by digest. lease_s: of challengers."""
    bodies = {one.service: msgspec.json.encode(one) for one in plans}
    known = msgspec.json.encode(KeysPlan(format=FORMAT, keys=keys)) if keys else b""
    # Nodes come and go: a plan without limits does not change with them.
    is_limited = any(one.limit for one in plans) or any(one.rate for one in keys)
    root = PlanRoot(
        format=FORMAT,
        environment=environment,
        term=term,
        number=number,
        made_at=made_at,
        services={service: digest_of(body) for service, body in sorted(bodies.items())},
        challenger_lease_s=lease_s,
        keys=digest_of(known) if known else "",
        node_share=1 / max(nodes, 1) if is_limited else 1.0,
    )
    return root, {digest_of(body): body for body in (*bodies.values(), known) if body}
