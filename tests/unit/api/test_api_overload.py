"""A flood of one operation is refused early and keeps no other waiting."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from doorstep.kernel import turns


class SlowOperation:
    """The control plane, one operation of which takes as long as the test wants."""

    def __init__(self, control, name: str) -> None:
        self._ask = control.ask
        self._name = name
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()

    def ask(self, name: str, asked: object, *, by: str):
        if name == self._name:
            self.begun.release()
            assert self.go_on.wait(60)
        return self._ask(name, asked, by=by)


def test_gates_that_take_long_keep_nobody_else_waiting(api, monkeypatch: pytest.MonkeyPatch):
    slow = SlowOperation(api.serving.control, "gate.run")
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


PREDICTION = "/predictions/0190a5b2-7c3d-7e4f-8a1b-2c3d4e5f6071.0"


def test_slow_pages_keep_no_rollback_waiting(api, monkeypatch: pytest.MonkeyPatch):
    slow = SlowOperation(api.serving.control, "prediction.show")
    monkeypatch.setattr(api.serving.control, "ask", slow.ask)
    monkeypatch.setattr(turns, "CALLS_WAITING_MAX", 2)
    sessions = api.serving.sessions
    cookie = sessions.accept(sessions.invite())
    signed = {"cookie": f"{sessions.cookie}={cookie}"}
    asked = turns.CALLS_AT_ONCE + 4
    with ThreadPoolExecutor(asked) as pool:
        pages = [pool.submit(api.client.get, PREDICTION, headers=signed) for _ in range(asked)]
        for _ in range(turns.CALLS_AT_ONCE):
            assert slow.begun.acquire(timeout=60)
        for path in ("/", "/installation", "/ledger", "/services/loans"):
            assert api.client.get(path, headers=signed).status_code == 200
        form = {"csrf": sessions.csrf(cookie), "why": "because"}
        sent = api.client.post("/services/loans/rollback", data=form, headers=signed)
        # Understood at once; this service has nothing to roll back to.
        assert sent.status_code == 409
        while sum(one.done() for one in pages) < 2:
            time.sleep(0.01)
        slow.go_on.set()
        statuses = sorted(one.result().status_code for one in pages)
    assert statuses == [404] * (turns.CALLS_AT_ONCE + 2) + [429] * 2
