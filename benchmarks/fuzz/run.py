"""Every surface that listens, sent what its published description allows, nearly allows, and not.

Requests are made from the contract that a node publishes, the schemas of each protocol and the
OpenAPI document of the control plane: valid ones, ones with a place changed, and damaged bytes,
with odd headers, paths and framings. Nothing may be answered with a 5xx that is not a documented
refusal, with a message that is not HTTP by the letter, or in another shape than was published; no
process may die or grow; and a valid request is answered as before, all the while.

    python benchmarks/fuzz/run.py [--requests 20000] [--seed 1] [--only TEXT]     exit 1 on a breach
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

import fuzz_control
import fuzz_large
import fuzz_parser
import httpx
from fuzz_data import Asker, Judge
from fuzz_surfaces import HEALTH_ROUTE, PLAIN, PREDICT_ROUTE, SERVICE, Contract, surfaces_of
from fuzz_values import Maker
from fuzz_wire import Answer, Gone, Malformed, Wire

from doorstep.core.contract import Contract as Fields
from doorstep.core.contract import Field
from doorstep.core.plan import FallbackStep
from doorstep.kernel.keys import load_token
from doorstep.testing.home import TestHome
from doorstep.testing.installation import RunningInstallation, service_file
from doorstep.testing.node import RunningNode

GROWN_MB_MAX = 64.0
"""Of one process over one surface, once it has seen it for a while: its caches have a bound."""
CHECK_EVERY = 50
LARGE_SHARE = 10
"""So many times fewer requests of ten megabytes: each takes about half a second."""
WARM_UP = 0.25
"""Of the requests, before memory is first looked at."""
FAULTS_SHOWN = 5
ALSO_PLAIN = ("native", "V2 JSON", "V2 binary")
"""These read numbers in a way of their own where there is nothing else."""


class Tally:
    """What came of one surface. faults: sentences, each with the request."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.classes: Counter[str] = Counter()
        self.faults: list[str] = []
        self.sent = self.crashes = 0
        self.grown_mb = 0.0

    def count(self, status: int) -> None:
        self.classes[f"{status // 100}xx"] += 1

    def fault(self, what: str, request: bytes) -> None:
        self.faults.append(f"{self.name}: {what}\n      {request[:600]!r}")

    @property
    def row(self) -> str:
        shown = "".join(f"{self.classes[one]:>8}" for one in ("2xx", "4xx", "5xx"))
        return (
            f"{self.name:<18}{self.sent:>9}{shown}{len(self.faults):>8}{self.crashes:>8}"
            f"{self.grown_mb:>8.1f}"
        )


HEAD = f"{'surface':<18}{'sent':>9}" + "".join(
    f"{one:>8}" for one in ("2xx", "4xx", "5xx", "faults", "crashes", "MB up")
)


class Watched(NamedTuple):
    """pids: of the processes behind a surface, asked again each time. valid: asks what is right,
    and says what it was answered."""

    pids: Callable[[], set[int]]
    valid: Callable[[], object]


def rss_mb(pids: set[int]) -> float:
    def of(pid: int) -> float:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    return sum(map(of, pids))


def fuzz(name: str, count: int, send: Callable[[Tally], None], watched: Watched) -> Tally:
    """send: one request, judged and counted."""
    tally, right, before = Tally(name), watched.valid(), watched.pids()
    memory = 0.0
    for number in range(count):
        send(tally)
        tally.sent += 1
        if number == int(count * WARM_UP):
            memory = rss_mb(watched.pids())
        if number % CHECK_EVERY == 0 and (found := watched.valid()) != right:
            tally.fault(f"a valid request is answered {found!r}, and was {right!r}", b"")
    if watched.valid() != right:
        tally.fault("a valid request is answered otherwise than before", b"")
    after = watched.pids()
    tally.crashes = len(before - after)
    tally.grown_mb = rss_mb(after) - memory if not tally.crashes else 0.0
    if tally.crashes:
        tally.fault(f"{tally.crashes} processes have died", b"")
    if tally.grown_mb > GROWN_MB_MAX:
        tally.fault(f"its processes have grown by {tally.grown_mb:.0f} MB", b"")
    return tally


def asked(wire: Wire, tally: Tally, data: bytes, method: str) -> Answer | None:
    try:
        answer = wire.ask(data, head=method == "HEAD")
    except Gone as error:
        tally.fault(f"no answer, but {str(error)!r}", data)
    except (Malformed, TimeoutError, ValueError) as error:
        wire.close()
        tally.fault(f"{type(error).__name__}: {error}", data)
    else:
        tally.count(answer.status)
        return answer
    return None


# -- the data port


@contextmanager
def running_node(folder: Path) -> Iterator[tuple[RunningNode, dict[str, Contract], Watched]]:
    home = TestHome(folder / "home")
    fields = Fields(
        inputs=(
            Field(name="x0", type="float"),
            Field(name="x1", type="int", range_min=0, range_max=100),
            Field(name="flag", type="bool"),
            Field(name="since", type="time"),
            Field(name="kind", type="category", values=("a", "b")),
            Field(name="word", type="text", required=False),
        ),
        context=(
            Field(name="region", type="category", values=("north", "south"), required=False),
            Field(name="store", type="int", required=False),
        ),
    )
    # A model that cannot score a row is no fault of a protocol: then the constant answers.
    fallback = (FallbackStep(kind="answer", answer="bad"),)
    home.publish(
        home.service(SERVICE, {1: home.bundle(fields)}, key="customer", fallback=fallback),
        home.service(PLAIN, {1: home.bundle(home.contract(3), labels=())}),
    )
    more = ("--predict-route", PREDICT_ROUTE, "--health-route", HEALTH_ROUTE)
    with RunningNode(home.path, folder / "state", more=more) as node:
        node.wait_plan(1)
        with httpx.Client(base_url=node.data_url, trust_env=False, timeout=60) as http:
            contracts = {
                one: Contract(http.get(f"/v1/services/{one}").json()["contract"])
                for one in (SERVICE, PLAIN)
            }

            def pids() -> set[int]:
                report = node.report()
                assert report is not None
                return {one.pid for one in report.workers if one.kind == "front"}

            def valid() -> object:
                answer = http.post(f"/v1/services/{SERVICE}/predict", content=fuzz_parser.ROW)
                one = answer.json()["predictions"][0]
                return answer.status_code, one["answer"], one.get("probabilities")

            yield node, contracts, Watched(pids, valid)


def fuzz_data(folder: Path, count: int, seed: int, only: str = "") -> Iterator[Tally]:
    with running_node(folder) as (node, contracts, watched):
        listed = [(SERVICE, one, one.name) for one in surfaces_of(contracts[SERVICE])]
        listed += [(PLAIN, one, f"{one.name}, plain") for one in surfaces_of(contracts[PLAIN])
                   if one.name in ALSO_PLAIN]  # fmt: skip
        for service, surface, name in listed:
            if only not in name:
                continue
            asker = Asker(surface, Maker(Random(f"{seed} {name}"), {}, {}), service)
            judge, wire = Judge(surface.answer, surface.error), Wire(node.port)

            def send(
                tally: Tally, asker: Asker = asker, judge: Judge = judge, wire: Wire = wire
            ) -> None:
                data, method = asker.request()
                answer = asked(wire, tally, data, method)
                if answer is not None and (wrong := judge.fault(answer, method)):
                    tally.fault(wrong, data)

            yield fuzz(name, count, send, watched)
            wire.close()
        if only in "large bodies":
            yield fuzz_large_bodies(node, count, seed, watched)
        if only in "HTTP parser":
            yield from fuzz_parsers(node, count, seed, watched)


def fuzz_large_bodies(node: RunningNode, count: int, seed: int, watched: Watched) -> Tally:
    wire, judge, requests = Wire(node.port), Judge({}, {}), list(fuzz_large.large())
    Random(f"{seed} large").shuffle(requests)
    turn = iter(requests)

    def send(tally: Tally) -> None:
        data = next(turn)
        answer = asked(wire, tally, data, "POST")
        if answer is not None and (wrong := judge.fault(answer, "POST")):
            tally.fault(wrong, data)

    return fuzz("large bodies", min(count // LARGE_SHARE, len(requests)), send, watched)


def fuzz_parsers(node: RunningNode, count: int, seed: int, watched: Watched) -> Iterator[Tally]:
    wire, random = Wire(node.port), Random(f"{seed} parser")
    judge = Judge({}, {})

    def told(tally: Tally, pieces: tuple[bytes, ...]) -> list[Answer]:
        try:
            found = wire.all(*pieces)
        except (Malformed, TimeoutError, ValueError) as error:
            tally.fault(f"{type(error).__name__}: {error}", b"|".join(pieces))
            return []
        for one in found:
            tally.count(one.status)
            # What was a prediction's path once may be any protocol's now.
            if one.status >= 500 and (wrong := judge.fault(one, "POST")):
                tally.fault(wrong, b"|".join(pieces))
        return found

    yield fuzz(
        "bytes", count, lambda tally: told(tally, fuzz_parser.damaged(random)) and None, watched
    )
    smuggled = iter(fuzz_parser.SMUGGLED.items())

    def smuggle(tally: Tally) -> None:
        name, data = next(smuggled)
        found = told(tally, (data,))
        if len(found) != 1 or not 400 <= found[0].status < 600 or not found[0].closes:
            tally.fault(f"{name}: {[one.status for one in found]}", data)

    yield fuzz("smuggling", len(fuzz_parser.SMUGGLED), smuggle, watched)
    whole = {data: [one.status for one in wire.all(data)] for data in fuzz_parser.WHOLE}
    split = list(fuzz_parser.in_pieces())
    random.shuffle(split)
    pieces = iter(split)

    def in_pieces(tally: Tally) -> None:
        data, at = next(pieces)
        found = [one.status for one in told(tally, (data[:at], data[at:]))]
        if found != whole[data]:
            tally.fault(f"split at {at}: {found}, in one piece: {whole[data]}", data)

    yield fuzz("in pieces", min(count, len(split)), in_pieces, watched)


# -- the control plane


def fuzz_control_api(folder: Path, count: int, seed: int) -> Iterator[Tally]:
    with RunningInstallation(folder / "home", workers=1) as here:
        here.register("fuzzed")
        here.serve("fuzzed@1")
        url = here.console_url
        document = httpx.get(f"{url}/api/v1/openapi.json", trust_env=False).json()
        files = tuple(service_file(one) for one in ("fuzzed", "other", "third"))
        random = Random(f"{seed} control")
        asker = fuzz_control.Asker(document, load_token(here.home / "keys"), random, files)
        wire, turn = Wire(int(url.rpartition(":")[2])), iter(range(count))

        def send(tally: Tally) -> None:
            path = asker.paths[next(turn) % len(asker.paths)]
            data, method = asker.request(path)
            answer = asked(wire, tally, data, method)
            if answer is not None and (wrong := asker.fault(answer, path, method)):
                tally.fault(wrong, data)

        def valid() -> object:
            return [one.service for one in here.client.services() if one.service == "fuzzed"]

        yield fuzz("control API", count, send, Watched(lambda: {here.pid("control")}, valid))
        wire.close()


def run(count: int, seed: int, only: str) -> list[Tally]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        parts: list[Iterator[Tally]] = [fuzz_data(Path(folder) / "data", count, seed, only)]
        if only in "control API":
            parts.append(fuzz_control_api(Path(folder) / "control", count, seed))
        print(HEAD)
        for part in parts:
            for tally in part:
                found.append(tally)
                print("\n  ! ".join([tally.row, *tally.faults[:FAULTS_SHOWN]]), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=20_000, help="to each surface")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="surfaces whose name has this")
    asked_for = parser.parse_args()
    began_s = time.monotonic()
    found = run(asked_for.requests, asked_for.seed, asked_for.only)
    faults = sum(len(one.faults) for one in found)
    sent, took_s = sum(one.sent for one in found), time.monotonic() - began_s
    print(f"seed {asked_for.seed}: {sent:,} requests in {took_s:.0f} s, {faults or 'no'} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
