"""Plans, rolls and stops under load: no request is dropped, and a bad plan changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from doorstep.core.plan import ReleasePlan
from doorstep.core.record import Status
from doorstep.core.report import NodeReport
from doorstep.release.collect import crash_loops
from doorstep.release.transition import Beginning, begin
from doorstep.release.types import ReleaseSpec
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode
from doorstep.testing.processes import wait_for
from fakes.faults import broken_model
from fakes.load import Load, Tally

PATH = "/v1/services/loans/predict"


def body_of(number: int) -> bytes:
    return json.dumps({"x0": number % 7, "x1": 0.5, "x2": -1}).encode()


@pytest.fixture
def home(tmp_path: Path) -> TestHome:
    return TestHome(tmp_path / "home")


@pytest.fixture
def node(home: TestHome, tmp_path: Path) -> Iterator[RunningNode]:
    with RunningNode(home.path, tmp_path / "state", workers=2) as running:
        yield running


def release(share: float) -> ReleasePlan:
    return ReleasePlan(id="r1", challenger=2, state="step", epoch=1, shares={"": share})


def predict(node: RunningNode, row: dict[str, object]) -> tuple[int, dict[str, object]]:
    request = urllib.request.Request(node.data_url + PATH, data=json.dumps(row).encode())
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_changes_of_shares_a_roll_and_a_promotion_under_load_fail_no_request(
    home: TestHome, node: RunningNode
) -> None:
    contract = home.contract(3)
    bundles = {1: home.bundle(contract), 2: home.bundle(contract, seed=2)}
    home.publish(home.service("loans", {1: bundles[1]}))
    node.wait_plan(1)

    async def story() -> Tally:
        async with Load(node.data_url, PATH, body_of, connections=8) as load:
            await load.wait_answers(200)
            for share in (0.01, 0.25, 0.5, 1.0):
                number = home.publish(home.service("loans", bundles, release=release(share)))
                await asyncio.to_thread(node.wait_plan, number)
                await load.wait_answers(200)
            first = await asyncio.to_thread(node.wait_plan, number)
            node.signal(signal.SIGHUP)
            await asyncio.to_thread(node.wait, lambda report: all_replaced(first, report))
            number = home.publish(home.service("loans", bundles, champion=2))
            await asyncio.to_thread(node.wait_plan, number)
            await load.wait_answers(200)
            return await load.stop()

    tally = asyncio.run(story())
    assert tally.dropped == 0
    assert tally.refused_connections == 0
    assert set(tally.statuses) == {200}
    assert {1, 2} == set(tally.answered.values())
    times = Counter(name for name, _ in node.journaled())
    assert all(times[name] == 1 for name in tally.answered)


def all_replaced(before: NodeReport, now: NodeReport) -> bool:
    """Whether every front worker is another than before, and nobody is leaving."""
    old = {one.pid for one in before.workers}
    fronts = [one for one in now.workers if one.kind == "front"]
    return len(fronts) == 2 and not old & {one.pid for one in fronts}


def test_a_term_signal_under_load_finishes_what_was_sent_and_exits_zero(
    home: TestHome, node: RunningNode
) -> None:
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    node.wait_plan(1)

    async def story() -> tuple[Tally, int]:
        load = Load(node.data_url, PATH, body_of, connections=8)
        async with load:
            await load.wait_answers(300)
            load._stopping.set()
            code = await asyncio.to_thread(node.stop)
        return load.tally, code

    tally, code = asyncio.run(story())
    assert code == 0
    assert tally.dropped == 0
    assert set(tally.statuses) == {200}


def test_a_node_that_ends_refuses_who_comes_then_and_answers_who_is_there(
    home: TestHome, node: RunningNode
) -> None:
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    node.wait_plan(1)
    there = http.client.HTTPConnection("127.0.0.1", node.port)
    for is_ending in (False, True):
        if is_ending:
            node.signal(signal.SIGTERM)
            # Before, who came then waited in a backlog that nobody took from, and was reset.
            with pytest.raises(ConnectionRefusedError):
                while True:
                    # Who comes in the very moment of the close may be reset by the kernel.
                    with contextlib.suppress(ConnectionResetError):
                        socket.create_connection(("127.0.0.1", node.port)).close()
        there.request("POST", PATH, body_of(1))
        answer = there.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)
    there.close()


def test_a_challenger_that_nobody_renews_loses_its_share_until_somebody_does(
    home: TestHome, node: RunningNode
) -> None:
    contract = home.contract(3)
    bundles = {1: home.bundle(contract), 2: home.bundle(contract, seed=2)}
    home.publish(home.service("loans", bundles, release=release(1.0)), lease_s=2.0)
    node.wait_plan(1)

    def answered_by(version: int) -> bool:
        return predict(node, {"x0": 1, "x1": 1, "x2": 1})[1]["version"] == version

    def renewed() -> bool:
        home.renew()
        return answered_by(2)

    # Workers hear of a lease a moment after the report says it.
    for _ in range(2):
        wait_for(renewed, "the challenger while somebody watches")
        wait_for(lambda: answered_by(1), "the champion once nobody does")
        node.wait(lambda report: not report.lease_held, "lease lost")
    home.renew()
    node.wait(lambda report: report.lease_held, "lease held")


def corrupt_document(home: TestHome, plan: object) -> str:
    root = "ab" * 32
    (home.path / "plan" / f"{root}.json").write_bytes(b'{"format": 1}')
    home.publish(plan, spoil=lambda it: home.sign(msgspec.structs.replace(it, root=root)))
    return "another content"


def lower_number(home: TestHome, plan: object) -> str:
    home.publish(plan, number=0)
    return "older than plan 1"


def wrong_signature(home: TestHome, plan: object) -> str:
    home.publish(plan, number=5, spoil=lambda it: msgspec.structs.replace(it, number=6))
    return "does not verify"


def other_key(home: TestHome, plan: object) -> str:
    TestHome(home.path).publish(plan, number=7)
    return "this node trusts"


def unsigned(home: TestHome, plan: object) -> str:
    home.publish(plan, number=8, spoil=lambda it: msgspec.structs.replace(it, signature=""))
    return "is not signed"


def not_a_pointer(home: TestHome, plan: object) -> str:
    (home.path / "plan" / "current").write_bytes(b"\x00garbage")
    return "cannot be read"


def corrupt_bundle(home: TestHome, plan: object) -> str:
    digest = home.bundle(home.contract(3), seed=9)
    path = home.model_path(digest)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    home.publish(home.service("loans", {3: digest}), number=10)
    return "the manifest says"


def missing_bundle(home: TestHome, plan: object) -> str:
    version = msgspec.structs.replace(plan.versions[0], bundle="0" * 64)
    home.publish(msgspec.structs.replace(plan, versions=(version,)), number=11)
    return "cannot be read"


def test_a_plan_that_cannot_be_loaded_leaves_the_last_good_one_serving_and_is_reported(
    home: TestHome, node: RunningNode
) -> None:
    contract = home.contract(3)
    good = home.service("loans", {1: home.bundle(contract)})
    bad = home.service("loans", {2: home.bundle(contract, seed=2)})
    home.publish(good)
    node.wait_plan(1)
    for spoil in (
        corrupt_document, lower_number, wrong_signature, other_key, unsigned, not_a_pointer,
        corrupt_bundle, missing_bundle,
    ):  # fmt: skip
        expected = spoil(home, bad)
        report = node.wait(
            lambda found, expected=expected: any(expected in said for said in found.problems),
            f"{spoil.__name__}: {expected}",
        )
        assert report.plan_number == 1
        assert predict(node, {"x0": 1, "x1": 1, "x2": 1})[1]["version"] == 1
    home.publish(good, number=50)
    node.wait(lambda found: found.plan_number == 50 and not found.problems, "mended")


def test_a_worker_that_starts_while_a_plan_is_refused_serves_the_last_good_one(
    home: TestHome, node: RunningNode
) -> None:
    versions = {1: home.bundle(home.contract(3)), 2: home.bundle(home.contract(4), seed=2)}
    good = home.service("loans", {1: versions[1]})
    home.publish(good)
    node.wait_plan(1)
    home.publish(home.service("loans", versions))
    refused = node.wait(lambda found: any("has not" in said for said in found.problems))
    old = {one.pid for one in refused.workers if one.kind == "front"}
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    node.wait(
        lambda found: (
            found.plan_number == 1
            and not old & {one.pid for one in found.workers if one.kind == "front"}
            and any("has not" in said for said in found.problems)
        ),
        "new workers with the last good plan",
    )
    assert predict(node, {"x0": 1, "x1": 1, "x2": 1})[1]["version"] == 1
    number = home.publish(good)
    node.wait(lambda found: found.plan_number == number and not found.problems, "mended")


def test_a_service_that_cannot_be_loaded_holds_nobody_else_back_and_its_crash_loop_is_collected(
    home: TestHome, node: RunningNode
) -> None:
    contract = home.contract(3)
    one, two = home.bundle(contract), home.bundle(contract, seed=2)
    first = home.service("other", {1: one})
    home.publish(first, home.service("loans", {1: one, 2: two}, champion=2))
    node.wait_plan(1)
    stuck = home.service(
        "other", {1: one, 2: broken_model(home, one)}, placement="engine", release=release(0.5)
    )
    number = home.publish(stuck, home.service("loans", {1: one, 2: two}, champion=1))
    report = node.wait(lambda found: found.plan_number == number, "the others are swapped")
    assert report.held_back == ("other",)
    assert predict(node, {"x0": 1, "x1": 1, "x2": 1})[1]["version"] == 1
    beginning = Beginning(id="r1", service="other", champion=1, challenger=2, spec=ReleaseSpec())
    loop = begin(beginning, 0)
    node.wait(
        lambda found: (
            crash_loops(loop, [found]) == ["test"]
            and any("the engine of other@2 has ended" in said for said in found.problems)
        ),
        "a crash loop",
    )
    down = node.wait(
        lambda found: any(it.serves == "other@2" and it.pid == 0 for it in found.workers),
        "an engine between two starts",
    )
    assert crash_loops(loop, [down]) == ["test"]
    number = home.publish(first, home.service("loans", {1: one}))
    assert node.wait_plan(number).held_back == ()


def test_an_engine_that_answers_nothing_for_long_is_replaced(
    home: TestHome, node: RunningNode
) -> None:
    digest = home.bundle(home.contract(3))
    home.publish(home.service("loans", {1: digest}, placement="engine", timeout_ms=500))
    report = node.wait_plan(1)
    (hung,) = [one.pid for one in report.workers if one.kind == "engine"]
    os.kill(hung, signal.SIGSTOP)

    async def story() -> None:
        async with Load(node.data_url, PATH, body_of, connections=4) as load:
            await asyncio.to_thread(node.wait, lambda found: is_replaced(found, hung))
            answered = load.tally.statuses[200]
            # The breaker that the silence opened tries again after half a minute at most.
            async with asyncio.timeout(120):
                while load.tally.statuses[200] < answered + 100:
                    await asyncio.sleep(0.02)
            await load.stop()

    asyncio.run(story())


def is_replaced(report: NodeReport, hung: int) -> bool:
    return any(one.kind == "engine" and one.pid not in (0, hung) for one in report.workers)


def test_a_node_that_starts_while_the_home_is_spoilt_serves_what_it_served_last(
    home: TestHome, tmp_path: Path
) -> None:
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    node = RunningNode(home.path, tmp_path / "state")
    with node:
        node.wait_plan(1)
    (home.path / "plan" / "current").write_bytes(b"garbage")
    with node:
        node.wait(lambda report: report.plan_number == 1 and bool(report.problems))
        assert predict(node, {"x0": 1, "x1": 1, "x2": 1})[0] == 200


def test_a_second_node_on_one_state_folder_is_refused(home: TestHome, tmp_path: Path) -> None:
    import subprocess
    import sys

    with RunningNode(home.path, tmp_path / "state"):
        command = [sys.executable, "-m", "doorstep.serve.node", "--no-compactor", "--port", "0"]
        command += ["--health-port", "0", "--home", str(home.path)]
        found = subprocess.run(
            [*command, "--state", str(tmp_path / "state")], capture_output=True, text=True
        )
    assert found.returncode == 1
    assert "state-in-use" in found.stderr


@pytest.mark.parametrize("placement", ["inline", "engine"])
@pytest.mark.parametrize(
    ("behaviour", "status"), [("nan", Status.INVALID), ("raises", Status.FAILED)]
)
def test_where_the_challenger_fails_the_champion_answers_and_it_counts_against_the_challenger(
    home: TestHome, node: RunningNode, behaviour: str, status: Status, placement: str
) -> None:
    contract = home.contract(3)
    bundles = {1: home.bundle(contract), 2: home.bundle(contract, seed=2, behaviour=behaviour)}
    home.publish(home.service("loans", bundles, placement=placement, release=release(1.0)))
    node.wait_plan(1)
    code, answer = predict(node, {"x0": 1, "x1": 1, "x2": 1})
    assert (code, answer["version"], answer["fallback"]) == (200, 2, None)
    code, answer = predict(node, {"x0": -1, "x1": 1, "x2": 1})
    assert (code, answer["version"], answer["fallback"]) == (200, 1, "champion")
    report = node.wait(lambda found: sum(cell.requests for cell in found.cells) == 2)
    (cell,) = report.cells
    assert (cell.arm, cell.ok, cell.bad) == ("challenger", 1, 1)
    record = {meta.version: meta for _, meta in node.journaled()}[1]
    assert (record.assigned, record.status) == (2, status)


def test_a_failing_champion_gives_an_opaque_500_or_the_declared_answer(
    home: TestHome, node: RunningNode
) -> None:
    from doorstep.core.plan import FallbackStep

    digest = home.bundle(home.contract(3), behaviour="raises")
    home.publish(home.service("loans", {1: digest}))
    node.wait_plan(1)
    code, answer = predict(node, {"x0": -1, "x1": 1, "x2": 1})
    assert code == 500
    assert answer["error"]["code"] == "model-failed"
    assert "Gather" not in json.dumps(answer)
    refer = (FallbackStep(kind="version"), FallbackStep(kind="answer", answer="refer"))
    home.publish(home.service("loans", {1: digest}, fallback=refer))
    node.wait_plan(2)
    code, answer = predict(node, {"x0": -1, "x1": 1, "x2": 1})
    assert (code, answer["version"], answer["fallback"]) == (200, 0, "answer")
    assert answer["predictions"][0]["answer"] == "refer"
    versions = sorted(meta.version for _, meta in node.journaled())
    assert versions == [-1, 0]


def test_the_health_port_tells_liveness_readiness_and_counters(
    home: TestHome, node: RunningNode
) -> None:
    def fetch(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(node.health_url + path) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    assert fetch("/healthz")[0] == 200
    assert fetch("/readyz")[0] == 503
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    node.wait_plan(1)
    predict(node, {"x0": 1, "x1": 1, "x2": 1})
    node.wait(lambda report: sum(one.requests for one in report.services) == 1)
    assert fetch("/readyz")[0] == 200
    text = fetch("/metrics")[1]
    labels = 'code="2xx",protocol="native",service="loans",version="1"'
    assert f"doorstep_requests_total{{{labels}}} 1.0" in text
    assert 'doorstep_latency_seconds_count{service="loans"} 1.0' in text
    assert "doorstep_plan_number 1.0" in text
    assert fetch("/other")[0] == 404


def test_a_node_serves_at_sockets_that_were_bound_for_it(home: TestHome, tmp_path: Path) -> None:
    import subprocess
    import sys

    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    # Ours stay bound: a node that bound its ports itself would be refused.
    with socket.socket() as data, socket.socket() as health:
        for one in (data, health):
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in (data, health)]
        command = [sys.executable, "-m", "doorstep.serve.node", "--no-compactor"]
        command += ["--home", str(home.path), "--state", str(tmp_path / "state")]
        command += ["--port", str(ports[0]), "--health-port", str(ports[1])]
        command += ["--bound", f"port={data.fileno()}", "--bound", f"health-port={health.fileno()}"]
        fds = (data.fileno(), health.fileno())
        process = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=fds)
        said = json.loads(process.stdout.readline())
    try:
        assert said["data_url"] == f"http://127.0.0.1:{ports[0]}"
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/healthz") as answer:
            assert answer.status == 200

        def answers() -> bool:
            try:
                return urllib.request.urlopen(said["data_url"] + "/v1/services").status == 200
            except OSError:
                return False

        wait_for(answers, "its workers to serve at the port")
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


def test_a_port_in_use_is_an_error_that_says_so(home: TestHome, tmp_path: Path) -> None:
    import subprocess
    import sys

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "doorstep.serve.node", "--no-compactor", "--port", port]
        command += ["--health-port", "0", "--home", str(home.path)]
        found = subprocess.run(
            [*command, "--state", str(tmp_path / "state")], capture_output=True, text=True
        )
    assert found.returncode == 1
    assert "port-in-use" in found.stderr
    assert "--port" in found.stderr
