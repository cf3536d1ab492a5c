"""What `durable` costs a real node: CPU per request of all its processes, beside `default`.

One model of 100 trees on 30 numbers, as ONNX, in the front worker; two nodes with the same model on
the same disk, asked in turn, so that what the machine does besides hits both.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
import run as serving
import servers

from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode

CONNECTIONS = (1, 16, 64)
ROUNDS = 5
SECONDS = 2.0
WARM_S = 0.3
RATIO_GOAL = 2.0
"""Of the CPU of `default`, at the largest number of connections."""
MODES = ("default", "durable")


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
    """A node of each mode that answers."""
    data = serving.make_model(1)
    with ExitStack() as stack:
        found = {}
        for mode in MODES:
            home = TestHome(folder / mode)
            digest = serving.add_version(home, data, target="bench")
            home.publish(home.service("bench", {1: digest}, timeout_ms=10_000), lease_s=3600)
            node = RunningNode(home.path, folder / f"state-{mode}", more=["--journal", mode])
            stack.enter_context(node).wait_plan(1)
            found[mode] = Asked(node)
        yield found


def measure(folder: Path) -> bool:
    """Print the table; whether the goal is met."""
    row = {name: at * 0.01 for at, name in enumerate(serving.NAMES)}
    print(f"\na node, CPU us a request of all its processes, median of {ROUNDS} rounds")
    print(f"{'connections':>11} " + " ".join(f"{one:>9}" for one in MODES) + "   ratio  answers/s")
    ratio = 0.0
    with nodes(folder) as asked:
        for connections in CONNECTIONS:
            rounds = [
                {mode: _ask(one, row, connections) for mode, one in asked.items()}
                for _ in range(ROUNDS)
            ]
            cpu = {mode: statistics.median(one[mode][0] for one in rounds) for mode in MODES}
            rate = [statistics.median(one[mode][1] for one in rounds) for mode in MODES]
            ratio = statistics.median(one["durable"][0] / one["default"][0] for one in rounds)
            shown = " ".join(f"{cpu[mode]:9.1f}" for mode in MODES)
            print(f"{connections:11} {shown} {ratio:7.2f}  {rate[0]:,.0f} and {rate[1]:,.0f}")
    met = ratio <= RATIO_GOAL
    print(
        f"{'PASS' if met else 'FAIL'}: durable costs {ratio:.2f} times the CPU of default at "
        f"{CONNECTIONS[-1]} connections (goal {RATIO_GOAL:g})"
    )
    return met


def _ask(asked: Any, row: dict[str, float], connections: int) -> tuple[float, float]:
    """CPU us per request, and answers per second."""
    serving.drive(asked, row, connections, WARM_S)
    before_s = servers.cpu_s(asked.root)
    said = serving.drive(asked, row, connections, SECONDS)
    return 1e6 * (servers.cpu_s(asked.root) - before_s) / said.good, said.good / said.s
