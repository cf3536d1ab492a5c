"""A child that will not end holds nobody up."""

from __future__ import annotations

from pathlib import Path

from doorstep.serve.children import Child

STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); input()"


def test_a_child_that_ignores_the_request_to_end_is_killed_by_a_later_call(tmp_path: Path) -> None:
    child = Child("shadow", "shadow", ("-c", STUBBORN), tmp_path)
    assert child.keep()
    while child.last_words() != "deaf":
        assert child.running
    assert not child.stop(grace_s=0.0)
    assert child.stopping
    while not child.stop():
        assert child.stopping
    assert (child.running, child.stopping, child.pid) == (False, False, 0)
