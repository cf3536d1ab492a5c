"""What a person at a terminal sees of work that takes long."""

from __future__ import annotations

import io
import sys
import time

import pytest

from doorstep.cli import output
from doorstep.testing.processes import wait_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called by each test: pytest puts its own streams there after fixtures."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setattr(output, "PROGRESS_AFTER_S", 0.0)
    monkeypatch.setattr(output, "REDRAW_S", 0.01)
    return made


def test_a_stage_that_lasts_is_drawn_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch)
    with output.progress() as shown:
        shown.stage("asking the journal")
        wait_for(lambda: terminal.getvalue().count("asking the journal") >= 3, "it is drawn")
    assert terminal.getvalue().endswith(output.CLEARED)


def test_what_is_waited_for_is_said_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch)
    with output.progress(waiting="measuring"):
        wait_for(lambda: "measuring" in terminal.getvalue(), "it is drawn")
    piped = io.StringIO()
    monkeypatch.setattr(sys, "stderr", piped)
    with output.progress(waiting="measuring") as shown:
        shown.draw()
    assert piped.getvalue() == ""


def test_a_note_takes_the_place_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch)
    shown = output.Progress()
    shown._started = time.monotonic() - 10
    shown.stage("asking")
    output.note("by the way")
    assert terminal.getvalue().endswith(f"{output.CLEARED}by the way\n")


def test_what_callers_sent_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit("", "x=\x1b[2Jhi\r\x9b31m\n\tü ✓ –", as_json=False)
    assert capsys.readouterr().out == "x=\ufffd[2Jhi\ufffd\ufffd31m\n\tü ✓ –\n"
