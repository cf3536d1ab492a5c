"""The steps run one after the other, and what came of them, for people and for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from doorstep.cli.demo_story import STEPS, Step, Told
from doorstep.cli.demo_world import SERVICE, World
from doorstep.cli.output import done, fail, note, paint
from doorstep.core.errors import DoorstepError
from doorstep.core.verdict import Verdict


class StepDone(msgspec.Struct, frozen=True, kw_only=True):
    """verdict: pass if it went as told, fail if not, inconclusive if it was never reached."""

    number: int
    title: str
    verdict: Verdict
    sentence: str
    took_s: float
    numbers: dict[str, Any] = {}


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """told: every step went as told. folder: the example's files. console_url, data_url: while it
    was running."""

    told: bool
    took_s: float
    home: str
    folder: str
    console_url: str
    data_url: str
    steps: tuple[StepDone, ...]


def run_story(world: World, steps: tuple[tuple[str, Step], ...] = STEPS) -> Summary:
    """Each step in turn; after one that fails the others are not begun."""
    started_s = time.monotonic()
    found: list[StepDone] = []
    for number, (title, step) in enumerate(steps, start=1):
        if found and found[-1].verdict is not Verdict.PASS:
            found.append(not_reached(number, title))
            continue
        note(f"\n{paint(f'{number}  {title}', 1)}")
        found.append(_run(world, number, title, step))
    return summarise(world, found, time.monotonic() - started_s)


def _run(world: World, number: int, title: str, step: Step) -> StepDone:
    started_s = time.monotonic()
    try:
        told, verdict = step(world), Verdict.PASS
    except DoorstepError as error:
        told, verdict = Told(str(error), {}), Verdict.FAIL
        world.shown.end()
        fail(error.message)
    took_s = time.monotonic() - started_s
    if verdict is Verdict.PASS:
        world.shown.end()
        done(f"{told.sentence}  ({took_s:.0f} s)")
    return StepDone(
        number=number,
        title=title,
        verdict=verdict,
        sentence=told.sentence,
        took_s=took_s,
        numbers=told.numbers,
    )


def not_reached(number: int, title: str) -> StepDone:
    return StepDone(
        number=number,
        title=title,
        verdict=Verdict.INCONCLUSIVE,
        sentence="not begun: the step before it did not go as told",
        took_s=0.0,
    )


def summarise(world: World, steps: Iterable[StepDone], took_s: float) -> Summary:
    """told only if there are steps and all of them passed."""
    kept = tuple(steps)
    return Summary(
        told=bool(kept) and all(one.verdict is Verdict.PASS for one in kept),
        took_s=took_s,
        home=str(world.home),
        folder=str(world.folder),
        console_url=world.ready.console_url,
        data_url=world.ready.data_url,
        steps=kept,
    )


def summary_text(summary: Summary) -> str:
    """The last line."""
    went = sum(one.verdict is Verdict.PASS for one in summary.steps)
    mark = "✓" if summary.told else "✗"
    return f"{mark} {went} of {len(summary.steps)} steps went as told, in {summary.took_s:.0f} s"


def where_to_look(world: World, *, stays_up: bool) -> str:
    """Console, endpoint, files and commands of what has just run. stays_up: it runs on; else its
    links are dead in a moment, and what starts it again comes first."""
    case = world.mixes().known.cases[0]
    body = msgspec.json.encode({"rows": [case.row], "context": case.context}).decode()
    url = f"{world.ready.data_url}/v1/services/{SERVICE}/predict"
    own = f"--home {world.home}"
    if stays_up:
        console = f"{world.client.invite()}   (signs one browser in)"
        first = []
    else:
        console = f"doorstep console {own}   (prints a link that signs one browser in)"
        first = [f"  start      doorstep up -d {own}   (it stops now; the folder stays)"]
        url = f"PREDICT/v1/services/{SERVICE}/predict"
    lines = [
        "",
        paint("Where to look", 1),
        *first,
        f"  console    {console}",
        f"  endpoint   curl -s {url} -H 'content-type: application/json' -d '{body}'"
        + ("" if stays_up else "   (PREDICT: as `up` says it)"),
        f"  journal    {world.home / 'journal'}   (predictions and outcomes, Parquet)",
        f"  ledger     doorstep ledger verify {own}",
        f"  history    doorstep history {SERVICE} {own}",
        f"  files      {world.folder}   (train.py, doorstep.yaml, the data, the models)",
    ]
    return "\n".join(lines)
