"""What `durable` and `replicated` cost a real node: CPU per request of all its processes, beside
`default`, and how long a caller waits.

One model of 100 trees on 30 numbers, as ONNX, in the front worker; nodes with the same model on the
same disk, asked in turn, so that what the machine does besides hits all. The second places are
servers on the same machine, whose CPU is not counted: PostgreSQL that syncs each commit, and NATS
JetStream as it comes, which syncs every two minutes.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import run as serving
import servers

from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode
from fakes.faults import Missing
from fakes.nats import running_nats
from fakes.postgres import create_database, running_postgres

CONNECTIONS = (1, 16, 64)
ROUNDS = 5
SECONDS = 2.0
WARM_S = 0.3
RATIO_GOAL = 2.0
"""Of the CPU of `default`, at the largest number of connections."""
PLACES = ("postgresql", "nats")
MODES = ("default", "durable", *PLACES)


class Asked:
    """A node's one service, as the generator asks it. root: of the node's processes."""

    title = "Doorstep"

    def __init__(self, node: RunningNode) -> None:
        assert node.process is not None
        self.root, self.port, self.path = node.process.pid, node.port, servers.PREDICT

    def ask(self, row: dict[str, float]) -> dict[str, list[dict[str, float]]]:
        return {"rows": [row]}


@contextmanager
def nodes(folder: Path) -> Iterator[dict[str, Asked]]:
    """A node of each mode that answers; without the modes whose servers are not here."""
    data = serving.make_model(1)
    with ExitStack() as stack:
        found = {}
        for mode, words in _options(stack).items():
            home = TestHome(folder / mode)
            digest = serving.add_version(home, data, target="bench")
            home.publish(home.service("bench", {1: digest}, timeout_ms=10_000), lease_s=3600)
            node = RunningNode(home.path, folder / f"state-{mode}", more=words)
            stack.enter_context(node).wait_plan(1)
            found[mode] = Asked(node)
        yield found


def _options(stack: ExitStack) -> dict[str, list[str]]:
    found = {mode: ["--journal", mode] for mode in MODES if mode not in PLACES}
    try:
        url = create_database(stack.enter_context(running_postgres(durable=True)))
        found["postgresql"] = ["--journal", "replicated", "--replica", url]
        port = stack.enter_context(running_nats())
        found["nats"] = ["--journal", "replicated", "--replica", f"nats://127.0.0.1:{port}"]
    except Missing as missing:
        print(f"without a second place: {missing}")
    return found


def measure(folder: Path) -> bool:
    """Print the table; whether the goal is met."""
    row = {name: at * 0.01 for at, name in enumerate(serving.NAMES)}
    print(f"\na node, CPU us a request of all its processes, median of {ROUNDS} rounds")
    ratio = 0.0
    with nodes(folder) as asked:
        print(f"{'connections':>11} " + " ".join(f"{one:>30}" for one in asked))
        print(
            f"{'':11} " + " ".join(f"{'CPU us':>9} {'p50 ms':>8} {'answers/s':>11}" for _ in asked)
        )
        for connections in CONNECTIONS:
            rounds = [
                {mode: _ask(one, row, connections) for mode, one in asked.items()}
                for _ in range(ROUNDS)
            ]
            shown = [
                [statistics.median(one[mode][at] for one in rounds) for at in range(3)]
                for mode in asked
            ]
            said = " ".join(f"{cpu:9.1f} {p50:8.2f} {rate:11,.0f}" for cpu, p50, rate in shown)
            print(f"{connections:11} {said}")
            ratio = statistics.median(one["durable"][0] / one["default"][0] for one in rounds)
    met = ratio <= RATIO_GOAL
    print(
        f"{'PASS' if met else 'FAIL'}: durable costs {ratio:.2f} times the CPU of default at "
        f"{CONNECTIONS[-1]} connections (goal {RATIO_GOAL:g})"
    )
    return met


def _ask(asked: Any, row: dict[str, float], connections: int) -> tuple[float, float, float]:
    """CPU us per request; the median of how long one took at half of that rate, ms; and the rate,
    answers per second."""
    serving.drive(asked, row, connections, WARM_S)
    before_s = servers.cpu_s(asked.root)
    said = serving.drive(asked, row, connections, SECONDS)
    cpu_us = 1e6 * (servers.cpu_s(asked.root) - before_s) / said.good
    rate = said.good / said.s
    calm = serving.drive(asked, row, connections, SECONDS, rate / 2)
    return cpu_us, statistics.median(calm.latencies_ms), rate
