"""A flood of one operation is refused early and keeps no other waiting."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from doorstep.api import turns


class SlowGates:
    """The control plane, whose gates take as long as the test wants."""

    def __init__(self, control) -> None:
        self._ask = control.ask
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()

    def ask(self, name: str, asked: object, *, by: str):
        if name == "gate.run":
            self.begun.release()
            assert self.go_on.wait(60)
        return self._ask(name, asked, by=by)


def test_gates_that_take_long_keep_nobody_else_waiting(api, monkeypatch: pytest.MonkeyPatch):
    slow = SlowGates(api.serving.control)
    monkeypatch.setattr(api.serving.control, "ask", slow.ask)
    monkeypatch.setattr(turns, "CALLS_WAITING_MAX", 2)
    asked = turns.CALLS_AT_ONCE + 6
    with ThreadPoolExecutor(asked) as pool:
        calls = [pool.submit(api.ask, "gate.run", '{"version": "loans@1"}') for _ in range(asked)]
        for _ in range(turns.CALLS_AT_ONCE):
            assert slow.begun.acquire(timeout=60)
        assert api.ask("service.list", "{}").status_code == 200
        while sum(one.done() for one in calls) < 4:
            time.sleep(0.01)
        slow.go_on.set()
        statuses = sorted(one.result().status_code for one in calls)
    # 404: they were asked in the end, and there is no such version.
    assert statuses == [404] * (turns.CALLS_AT_ONCE + 2) + [429] * 4
