"""A release driven with the rows of a file: each row a request of a unit never seen before."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from doorstep.cli.asking import rows_of
from doorstep.cli.output import done, fail, note, warn
from doorstep.cli.reaching import reach
from doorstep.cli.release_wait import follow, settle
from doorstep.cli.sending import Sender, Turn
from doorstep.client import Client
from doorstep.core.contract import Contract
from doorstep.core.plural import plural
from doorstep.core.servicefile import ServiceFile, stored_service_file
from doorstep.core.servicefile_types import IdsSpec
from doorstep.journal.surface import ListPredictions, Prediction, Predictions
from doorstep.monitor.cause import find_cause
from doorstep.release.metrics import METRICS
from doorstep.release.surface import Release

RATE_PER_S = 200.0
"""Enough for the 500 to 1,000 requests that a decision needs within seconds, and what one core
still serves beside everything else on a laptop."""
SLOW_AFTER = 20_000
SLOW_RATE_PER_S = 25.0
"""Once the evidence is in, a release only waits for its times; it must not run dry meanwhile."""
ROWS_MAX = 100_000
LOOKED_AT_MAX = 1000
"""Newest predictions of each kind that are compared; the most that one call gives."""
REFUSALS = (400, 413, 415, 422)
"""The contract refused the row: the caller's fault, whatever version serves."""
OK = 200
Row = dict[str, Any]


class Counts(msgspec.Struct):
    """What clients saw. failed: no answer, whoever should have given it."""

    answered: int = 0
    failed: int = 0
    refused: int = 0
    first_failure: str = ""
    first_refusal: str = ""


def rehearse_release(client: Client, begun: Release, file: str, timeout_s: float) -> Release:
    """Drive a release that was begun until it ends or the time is over, and say what clients saw.

    A first version serves everybody at once, so every row is sent once and that is all.
    Raises: what reading the file raises, UnreachableError.
    """
    contract = _contract(client, begun)
    here = client.installation()
    text = client.service(begun.service).file
    declared = stored_service_file(text, here.environment)
    if begun.champion is not None and (left := left_out(declared)):
        note(f"  not judged in a rehearsal, whose rows come to nothing: {', '.join(left)}")
    requests = Requests(begun.id, declared.ids, contract, rows_of(file, contract, ROWS_MAX))
    driver = Driver(reach(here.data_url, os.environ), begun.service, requests)
    with driver:
        if begun.champion is None:
            driver.wait_for(len(requests), timeout_s)
            ended = settle(client, client.release(begun.id))
        else:
            ended = follow(client, begun, timeout_s)
    _say(client, ended, driver.counts)
    return ended


def left_out(file: ServiceFile) -> list[str]:
    """Guardrails that a rehearsal says nothing of: they are read from outcomes and records."""
    named = (one.name for one in file.release.guardrails)
    return [one for one in named if METRICS[one].read != "nodes"]


def _contract(client: Client, begun: Release) -> Contract:
    """Callers keep to the contract of the version that they know."""
    number = begun.champion if begun.champion is not None else begun.challenger
    return client.version(f"{begun.service}@{number}").manifest.contract


class Requests:
    """Bodies without end: the rows in an order drawn anew for every pass, seeded by the release."""

    def __init__(
        self, release: str, ids: IdsSpec, contract: Contract, asked: tuple[list[Row], list[Row]]
    ) -> None:
        self._rows, self._contexts = asked
        self._ids = ids
        self._inputs = {one.name for one in contract.inputs}
        self._context = {one.name: one for one in contract.context}
        self._random = random.Random(release)  # noqa: S311  an order, not a secret
        self._name = f"rehearsal-{release[-8:]}"
        self._refused: set[int] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(which row, body). Ends only if the contract has refused every row."""
        number = 0
        while len(self._refused) < len(self._rows):
            order = list(range(len(self._rows)))
            self._random.shuffle(order)
            for at in order:
                if at not in self._refused:
                    number += 1
                    yield at, self._body(at, number)

    def leave_out(self, row: int) -> None:
        """Do not send a row again that no version may be asked."""
        self._refused.add(row)

    def _body(self, at: int, number: int) -> bytes:
        row, context = dict(self._rows[at]), dict(self._contexts[at])
        name = f"{self._name}-{number}"
        for field in {self._ids.unit, self._ids.key} - {""} - self._inputs:
            known = self._context.get(field)
            target = row if known is None else context
            target[field] = number if known is not None and known.is_number else name
        body: dict[str, Any] = {"rows": [row]}
        if context:
            body["context"] = context
        if not self._ids.key:
            body["keys"] = [name]
        return msgspec.json.encode(body)


class Driver:
    """Sends requests at a steady rate, in a thread of its own."""

    def __init__(self, reached: dict[str, Any], service: str, requests: Requests) -> None:
        path = f"/v1/services/{service}/rehearse"
        self._sender = Sender[int](reached, path, self._turn, self._count, self._count_failure)
        self._requests = requests
        self._bodies = iter(requests)
        self._pace = Pace()
        self._is_over = False
        self.counts = Counts()

    def __enter__(self) -> Driver:
        self._sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.stop()

    def wait_for(self, requests: int, timeout_s: float) -> None:
        """Wait until so many requests were answered, failed or refused."""
        deadline = time.monotonic() + timeout_s
        while self._sent() < requests and time.monotonic() < deadline and not self._is_over:
            time.sleep(0.05)

    def _sent(self) -> int:
        return self.counts.answered + self.counts.failed + self.counts.refused

    def _turn(self) -> Turn[int] | None:
        sent = next(self._bodies, None)
        if sent is None:
            self._is_over = True
            return None
        return *sent, self._pace.pause_s(time.monotonic())

    def _count(self, row: int, status: int, body: bytes) -> None:
        if status == OK:
            self.counts.answered += 1
        elif status in REFUSALS:
            self.counts.refused += 1
            self.counts.first_refusal = self.counts.first_refusal or _said(status, body)
            self._requests.leave_out(row)
        else:
            self._count_failure(_said(status, body))

    def _count_failure(self, what: str) -> None:
        self.counts.failed += 1
        self.counts.first_failure = self.counts.first_failure or what


class Pace:
    """When the next request may go: evenly spaced, without catching up on what was missed."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._sent = 0

    def pause_s(self, now_s: float) -> float:
        """Seconds to wait before the request that is asked about."""
        rate_per_s = RATE_PER_S if self._sent < SLOW_AFTER else SLOW_RATE_PER_S
        self._sent += 1
        at_s = max(self._next_s, now_s)
        self._next_s = at_s + 1.0 / rate_per_s
        return at_s - now_s


def _said(status: int, body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"HTTP {status}"


def _say(client: Client, ended: Release, counts: Counts) -> None:
    total = counts.answered + counts.failed
    seen = f"Clients saw {plural(counts.failed, 'failure')}"
    note(f"  {plural(total, 'request was', 'requests were')} sent as a rehearsal")
    if counts.first_failure:
        note(f"  the first failure: {counts.first_failure}")
    if counts.refused:
        refused = plural(counts.refused, "row was", "rows were")
        warn(f"{refused} refused by the contract: {counts.first_refusal}")
    if ended.state == "rolled-back":
        why = explain_failures(client, ended)
        fail(f"rolled back: {ended.reason}. {seen}." + (f" Why: {why}" if why else ""))
    elif ended.state == "done" or ended.champion is None:
        done(f"{ended.service}@{ended.challenger}: {ended.reason}. {seen}")
    else:
        warn(f"{ended.state}: {ended.reason}. {seen}")


def explain_failures(client: Client, release: Release) -> str:
    """What the rows that the challenger failed on have in common, or "" if nothing is telling.

    A record of the shadow has no inputs of its own: they are in the record that the caller got.
    """
    seen = {one.id: one.inputs for one in _listed(client, release, "rehearsal")}
    mine = [*_listed(client, release, "shadow"), *_listed(client, release, "rehearsal", "failed")]
    mine += _listed(client, release, "rehearsal", "timed-out")
    status = {one.id: one.status for one in mine if one.assigned == release.challenger}
    failed = [seen[id] for id, how in status.items() if how != "ok" and id in seen]
    answered = [row for id, row in seen.items() if status.get(id, "ok") == "ok"]
    contract = client.version(f"{release.service}@{release.challenger}").manifest.contract
    cause = find_cause(failed, answered, contract)
    return cause.sentence if cause else ""


def _listed(client: Client, release: Release, kind: str, status: str = "") -> list[Prediction]:
    asked = ListPredictions(service=release.service, limit=LOOKED_AT_MAX, kind=kind, status=status)
    found = client.call("prediction.list", asked, Predictions).predictions
    return [one for one in found if one.release == release.id]
