"""The seven steps of the demo. Each does what it says, looks at what came of it, and says so.

A step that does not go as told raises; nothing here knows a result beforehand.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from doorstep.cli.demo_traffic import Tally
from doorstep.cli.demo_watch import (
    find_answered,
    find_drift,
    find_ended,
    find_joined,
    find_prediction,
    follow,
    send_outcomes,
    wait_quiet,
)
from doorstep.cli.demo_world import NEW_PRODUCT, RATE_S, SERVICE, SHIFTED, World
from doorstep.cli.output import note
from doorstep.cli.registering import Registered, register_model
from doorstep.cli.release_wait import RUNNING, settle
from doorstep.core.errors import InputError, RefusedError
from doorstep.core.verdict import Finding, Verdict
from doorstep.explain.surface import Contribution
from doorstep.release.surface import Release
from doorstep.release.transition import METHOD_NAME

TRAIN_S_MAX = 120.0
FIRST_TRAFFIC = 1600
"""Requests to the first version, most of them while it is still being watched."""
ADDITIVE_WITHIN = 1e-6
WORDS_MAX = 4
TOLD_FROM = 0.01
"""Of a score between 0 and 1: what a column added, if it is to be told."""


class Told(msgspec.Struct, frozen=True):
    """What happened, in a sentence, and the numbers of it."""

    sentence: str
    numbers: dict[str, Any]


Step = Callable[[World], Told]


def train(world: World) -> Told:
    """Run the example's own training script in a process of its own."""
    world.shown.stage("training four models on 600 loans, testing them on 400 others")
    command = [sys.executable, "train.py", "--out", ".", "--seed", str(world.seed)]
    ran = subprocess.run(
        command, cwd=world.folder, capture_output=True, text=True, timeout=TRAIN_S_MAX, check=False
    )
    if ran.returncode != 0:
        raise InputError("not-as-told", f"train.py ended with code {ran.returncode}: {ran.stderr}")
    auc: dict[str, float] = json.loads((world.folder / "metrics.json").read_bytes())
    held_out = len(world.mixes().known.cases)
    listed = ", ".join(f"{name} {value:.3f}" for name, value in auc.items())
    return Told(
        f"trained four models on German credit data (real loans, CC BY 4.0); AUC on {held_out} "
        f"held-out loans that none of them has seen: {listed}",
        {"auc": auc, "held_out": held_out},
    )


def register_first(world: World) -> Told:
    found = _register(world, "first").version
    manifest = found.manifest
    expect(found.number == 1, f"the version is {SERVICE}@{found.number}")
    parity = manifest.parity
    expect(parity is not None and parity.passed, "ONNX and the original do not agree")
    lineage = manifest.lineage
    digests = ", ".join(f"{one.role} {one.digest[:12]}" for one in lineage.data)
    return Told(
        f"{SERVICE}@1 is registered: {len(manifest.contract.inputs)} inputs read from all "
        f"training rows; {_reason(found.findings, 'ONNX')}, so that form serves; lineage kept "
        f"({digests})",
        {
            "version": f"{SERVICE}@1",
            "inputs": len(manifest.contract.inputs),
            "form": found.form,
            "parity_rows": parity.rows if parity else 0,
            "libraries": lineage.libraries,
        },
    )


def release_first(world: World) -> Told:
    world.shown.stage("gates of loans@1")
    run = world.client.run_gates(f"{SERVICE}@1")
    expect(run.verdict is Verdict.PASS, f"the gates of {SERVICE}@1 say {run.verdict.value}")
    note(f"    {len(run.findings)} gates pass: {_gate(run.findings, 'auc')}")
    begun = settle(world.client, world.client.start_release(f"{SERVICE}@1"))
    before = world.traffic.tally()
    world.traffic.send(world.mixes().known, RATE_S)
    ended = world.wait_for(
        "real applications arrive over HTTP", lambda: find_ended(world, begun.id), expected_s=8.0
    )
    expect(ended.state == "done", f"the first release is {ended.state}: {ended.reason}")
    seen = world.wait_for(
        "real applications arrive over HTTP",
        lambda: find_answered(world, before, FIRST_TRAFFIC),
        expected_s=FIRST_TRAFFIC / RATE_S,
    )
    world.traffic.pause()
    seen = wait_quiet(world).since(before)
    expect_clean(seen)
    recorded = send_outcomes(world)
    view = world.wait_for("outcomes are joined by key", lambda: find_joined(world), expected_s=15.0)
    auc, low, high = view.quality["auc"]
    return Told(
        f"{SERVICE}@1 serves: {seen.answered:,} requests, 0 failed; later {recorded:,} outcomes "
        f"arrived and were joined by key: live AUC {auc:.3f} [{low:.3f}, {high:.3f}]",
        {
            "requests": seen.answered,
            "failed": seen.failed,
            "outcomes": recorded,
            "outcomes_joined": view.labelled_rows,
            "auc_live": [auc, low, high],
        },
    )


def refuse_and_roll_back(world: World) -> Told:
    refused, why = _refused_by_gates(world)
    rolled, seen = _rolled_back(world)
    return Told(
        f"{SERVICE}@2 was refused: {why}. {SERVICE}@3 got out and came back by itself: "
        f"{rolled.reason}. Clients saw 0 of {seen.answered:,} requests fail: "
        f"{SERVICE}@1 answered the {seen.fallbacks} that {SERVICE}@3 could not",
        {
            "refused": refused,
            "rolled_back_from": _stage_before(rolled),
            "reason": rolled.reason,
            "requests": seen.answered,
            "failed": seen.failed,
            "fallbacks": seen.fallbacks,
        },
    )


def _refused_by_gates(world: World) -> tuple[list[str], str]:
    """The checks that failed, and the reason of the one about quality."""
    own = world.folder / "doorstep-thousands.yaml"
    text = world.service_file.read_text(encoding="utf-8")
    own.write_text(text.replace("loans-train.csv", "loans-train-thousands.csv"), encoding="utf-8")
    found = _register(world, "wrong-unit", file=own.name)
    run = found.run
    expect(run is not None and run.verdict is Verdict.FAIL, f"the gates passed {SERVICE}@2")
    assert run is not None
    failed = [one for one in run.findings if one.verdict is Verdict.FAIL]
    for one in failed:
        note(f"    ✗ {one.check}: {one.reason}")
    by_quality = next((one for one in failed if one.check.startswith("auc >= champion")), None)
    if by_quality is None:
        raise RefusedError("not-as-told", f"{SERVICE}@2 is not seen to be worse than {SERVICE}@1")
    try:
        world.client.start_release(f"{SERVICE}@2")
    except RefusedError as error:
        expect(error.code == "gate-not-passed", f"refused for another reason: {error.message}")
        return [one.check for one in failed], by_quality.reason.partition(";")[0]
    raise RefusedError("not-as-told", f"a release of {SERVICE}@2 began although its gates failed")


def _rolled_back(world: World) -> tuple[Release, Tally]:
    """A version that no held-out row can fault meets a value that only live traffic has."""
    _register_sound(world, "strict", f"{SERVICE}@3")
    mixes = world.mixes()
    before = world.traffic.tally()
    world.traffic.send(mixes.known, RATE_S)
    begun = world.client.start_release(f"{SERVICE}@3")
    follow(world, begun.id, until=lambda one: one.state not in ("shadow",))
    note(
        f"    from now on some applications are for something new: "
        f"{', '.join(f'{name} = {value}' for name, value in NEW_PRODUCT.items())}"
    )
    world.traffic.send(mixes.with_new, RATE_S)
    ended = follow(world, begun.id, until=lambda one: one.state not in RUNNING)
    ended = settle(world.client, ended)
    world.traffic.pause()
    seen = wait_quiet(world).since(before)
    expect(ended.state == "rolled-back", f"{SERVICE}@3 is {ended.state}: {ended.reason}")
    last = max(ended.decisions, key=lambda one: one.sequence)
    expect(last.by == METHOD_NAME, f"{last.by} took it back, not the evidence")
    expect_clean(seen)
    expect(seen.fallbacks > 0, "the champion never had to answer for the challenger")
    send_outcomes(world)
    return ended, seen


def release_better(world: World) -> Told:
    _register_sound(world, "better", f"{SERVICE}@4")
    before = world.traffic.tally()
    world.traffic.send(world.mixes().with_new, RATE_S)
    begun = world.client.start_release(f"{SERVICE}@4")
    ended = follow(world, begun.id, until=lambda one: one.state not in RUNNING)
    ended = settle(world.client, ended)
    expect(ended.state == "done", f"{SERVICE}@4 is {ended.state}: {ended.reason}")
    expect(world.client.service(SERVICE).champion == 4, f"{SERVICE}@4 is not the champion")
    world.traffic.pause()
    seen = wait_quiet(world).since(before)
    expect_clean(seen)
    send_outcomes(world)
    states = [one.state for one in sorted(ended.decisions, key=lambda one: one.sequence)]
    took_s = ((ended.ended_at or ended.changed_at) - ended.started_at) / 1e6
    return Told(
        f"{SERVICE}@4 went through shadow, {_shares(ended)} and bake in {took_s:.0f} s, and is "
        f"champion; {seen.answered:,} requests, 0 failed, also those for the new product",
        {
            "states": list(dict.fromkeys(["shadow", *states])),
            "release_s": took_s,
            "requests": seen.answered,
            "failed": seen.failed,
        },
    )


def shift_and_take_back(world: World) -> Told:
    told = {one.id for one in world.client.findings(SERVICE, state="").findings if one.alert}
    mix = world.mixes().shifted
    before = world.traffic.tally()
    note(
        f"    other people apply now: only the {len(mix.cases)} held-out loans in the larger half "
        f"by {' and by '.join(SHIFTED)}; no value is changed"
    )
    world.traffic.send(mix, RATE_S)
    found = world.wait_for(
        "other applicants arrive; the monitor looks every 15 s",
        lambda: find_drift(world, told),
        expected_s=30.0,
        timeout_s=90.0,
    )
    note(f"    alert: {found.sentence}")
    took_s = _take_back(world)
    seen = world.traffic.tally().since(before)
    expect_clean(seen)
    return Told(
        f"{found.sentence}: an alert in the console. Then `doorstep rollback {SERVICE}`: "
        f"{SERVICE}@1 answered everything again after {took_s:.2f} s",
        {
            "finding": found.sentence,
            "severity": found.severity,
            "alert": found.alert,
            "rollback_s": took_s,
            "requests": seen.answered,
            "failed": seen.failed,
        },
    )


def _take_back(world: World) -> float:
    """Seconds from the word until every node has confirmed, with answers to prove it."""
    world.shown.stage(f"doorstep rollback {SERVICE}")
    started_s = time.monotonic()
    back = settle(world.client, world.client.rollback(SERVICE, "the applicants have changed"))
    took_s = time.monotonic() - started_s
    expect(back.settled, "not every node has confirmed the way back")
    # What was under way when the plan changed is answered by whom it was given to.
    world.traffic.pause()
    before = wait_quiet(world)
    world.traffic.send(world.mixes().shifted, RATE_S)
    world.wait_for("asking again", lambda: find_answered(world, before, 100), expected_s=1.0)
    world.traffic.pause()
    versions = wait_quiet(world).since(before).versions
    expect(set(versions) == {1}, f"answers still come from versions {sorted(versions)}")
    return took_s


def explain_and_show(world: World) -> Told:
    denied = [
        one.predictions[0].id
        for _, one in reversed(world.traffic.recent())
        if one.predictions and one.predictions[0].answer == "bad"
    ]
    expect(bool(denied), "no application was answered 'bad' lately")
    world.shown.stage("why was this loan refused?")
    world.wait_for(
        "the prediction is in the journal",
        lambda: find_prediction(world, denied[0]),
        expected_s=5.0,
    )
    reasons = world.client.explain(denied[0])
    total = reasons.base + sum(one.amount for one in reasons.contributions)
    expect(abs(total - reasons.score) <= ADDITIVE_WITHIN, f"{total} is not {reasons.score}")
    largest = [one for one in reasons.contributions if one.amount >= TOLD_FROM][:WORDS_MAX]
    ledger = world.client.verify_ledger()
    expect(ledger.intact, "; ".join(ledger.problems))
    tenures = [one.version for one in world.client.history(SERVICE).tenures]
    expect(tenures == [1, 4, 1], f"champions, newest first: {tenures}")
    return Told(
        f"prediction {denied[0]} of {reasons.version}: {reasons.of} {reasons.score:.2f} "
        f"(usual {reasons.base:.2f}) because of {', '.join(_words(one) for one in largest)}. "
        f"The ledger's {ledger.size:,} entries are intact",
        {
            "prediction": denied[0],
            "score": reasons.score,
            "base": reasons.base,
            "contributions": {one.column: one.amount for one in reasons.contributions},
            "ledger_size": ledger.size,
            "champions": tenures,
        },
    )


STEPS: tuple[tuple[str, Step], ...] = (
    ("Train a loan model on real data", train),
    ("Write the service file and register the model", register_first),
    ("Gate it, release it, ask it, learn what became true", release_first),
    ("Two bad versions: one is refused, one comes back by itself", refuse_and_roll_back),
    ("A better version goes out by steps", release_better),
    ("The applicants change; the service is taken back", shift_and_take_back),
    ("Explain one prediction, and prove all of it", explain_and_show),
)


def expect(is_so: bool, otherwise: str) -> None:
    """Raises: RefusedError (`not-as-told`) if it is not so."""
    if not is_so:
        raise RefusedError("not-as-told", otherwise)


def expect_clean(seen: Tally) -> None:
    """Clients saw no failed request."""
    first = seen.first_failure
    expect(seen.failed == 0, f"{seen.failed} of {seen.answered:,} requests failed: {first}")


def _register(world: World, model: str, file: str = "doorstep.yaml") -> Registered:
    """Version 1 is gated in a step of its own."""
    with_gates = model != "first"

    def shown(what: str, share: float) -> None:
        world.shown.stage(what if share == 1.0 else f"{model}.skops becomes a version", share)

    path = str(world.folder / f"{model}.skops")
    return register_model(world.client, path, world.folder / file, shown, with_gates=with_gates)


def _register_sound(world: World, model: str, version: str) -> None:
    """Register a model whose gates must pass."""
    run = _register(world, model).run
    expect(run is not None and run.verdict is Verdict.PASS, f"the gates refused {version}")
    assert run is not None
    note(f"    {version} passes all its gates: {_gate(run.findings, 'auc >= champion')}")


def _words(one: Contribution) -> str:
    value = f"{one.value:g}" if isinstance(one.value, float) else str(one.value)
    return f"{one.column} {value} (+{one.amount:.2f})"


def _stage_before(release: Release) -> str:
    """shadow, step or bake: where the release was when it was rolled back."""
    ordered = sorted(release.decisions, key=lambda one: one.sequence)
    return ordered[-2].state if len(ordered) > 1 else "shadow"


def _shares(release: Release) -> str:
    return ", ".join(f"{share:.0%}" for share in release.shares)


def _reason(findings: tuple[Finding, ...], check: str) -> str:
    return next((one.reason for one in findings if one.check == check), f"no finding on {check}")


def _gate(findings: tuple[Finding, ...], start: str) -> str:
    return next((one.reason for one in findings if one.check.startswith(start)), "")
