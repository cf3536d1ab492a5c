"""How commands speak: data to stdout, the rest to stderr; words before colours.

A command gives `emit(value, text)` its answer: with `--json` the value is printed, otherwise the
text. Everything said along the way goes through `note`, `done`, `warn` and `Progress`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from doorstep.cli.pointing import point

if TYPE_CHECKING:
    from doorstep.monitor.surface import GoalNow

MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
PROGRESS_AFTER_S = 1.0
REDRAW_S = 0.5
CLEARED = "\r\x1b[2K"
HARMLESS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "\ufffd")
"""Answers hold what callers sent and people wrote, and a terminal obeys control characters."""


def emit(value: Any, text: str | Callable[[], str], *, as_json: bool) -> None:
    """Print the answer of a command: `value` as JSON, or `text`."""
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    else:
        said = point(text() if callable(text) else text)
        sys.stdout.write(said.translate(HARMLESS) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    cleared = CLEARED if sys.stderr.isatty() else ""  # of a progress line
    print(cleared + point(text), file=sys.stderr, flush=True)


def done(text: str) -> None:
    note(f"{paint('✓', 32)} {text}")


def warn(text: str) -> None:
    note(f"{paint('!', 33)} {text}")


def fail(text: str) -> None:
    note(f"{paint('✗', 31)} {text}")


def paint(text: str, colour: int, stream: Any = None) -> str:
    """`text` in an ANSI colour where standard error is a terminal that wants colours."""
    import os

    stream = stream or sys.stderr
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[int] = ()) -> str:
    """Plain aligned columns; `right` names the columns of numbers. Wide cells are not cut."""
    cells = [[str(one) for one in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
    lines = [_line(head, widths, right)]
    lines += [_line(row, widths, right) for row in cells]
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    parts = [
        text.rjust(width) if i in right else text.ljust(width)
        for i, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()


def say_goal(one: GoalNow) -> str:
    """`kept, 21 % [18.4 %, 23.8 %] of 1,204 cases with an outcome`."""
    return f"{one.state.replace('-', ' ')}, {one.measured}"


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def when(at: int) -> str:
    """An instant in the reader's own time zone, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at / 1e6))


class Progress:
    """One line that tells how far long work is: a bar on a terminal, else a line a stage."""

    def __init__(self, total: int = 0, label: str = "", waiting: str = "") -> None:
        self._started = time.monotonic()
        self._total = total
        self._label = label
        self._stage, self._detail = waiting, ""
        self._share: float | None = None
        self.live = sys.stderr.isatty()
        self._drawing = threading.Lock()
        self._shown = False
        self._last = 0.0

    def stage(self, text: str, share: float | None = None, detail: str = "") -> None:
        """Say what is done now. share: 0..1 of the whole, None if it is not known. detail: what
        changes all the time, for a terminal only."""
        changed = text != self._stage
        self._stage, self._share, self._detail = text, share, detail
        self.draw(changed)
        if not self.live and changed and text:
            note(f"  {text}")

    def draw(self, changed: bool = False) -> None:
        """The line as it is now, on a terminal: also while nobody has anything new to say."""
        now = time.monotonic()
        with self._drawing:
            if not (self.live and self._stage) or now - self._started < PROGRESS_AFTER_S:
                return
            if not changed and now - self._last < 0.1:
                return
            self._last, self._shown = now, True
            bar = "" if self._share is None else _bar(self._share)
            took = f"  {now - self._started:.0f} s"
            sys.stderr.write(f"{CLEARED}{bar}{self._stage}{self._detail}{took}")
            sys.stderr.flush()

    def count(self, number: int) -> None:
        share = number / self._total if self._total else None
        shown = f"{number:,}" + (f" of {self._total:,}" if self._total else "")
        if self.live:
            self.stage(f"{self._label} {shown}", share)
        elif number == self._total:
            self.stage(f"{self._label} {shown}")

    def reach(self, number: int, total: int) -> None:
        """As `count`, where the total is known only on the way."""
        self._total = total
        self.count(number)

    def end(self) -> None:
        with self._drawing:
            self._stage = ""
            if self._shown:
                sys.stderr.write(CLEARED)
                sys.stderr.flush()


@contextmanager
def progress(total: int = 0, label: str = "", waiting: str = "") -> Iterator[Progress]:
    """waiting: what is said on a terminal when an answer takes long, and nowhere else."""
    shown, over = Progress(total, label, waiting), threading.Event()

    def redraw() -> None:
        while not over.wait(REDRAW_S):
            shown.draw()

    if shown.live:
        threading.Thread(target=redraw, daemon=True).start()
    try:
        yield shown
    finally:
        over.set()
        shown.end()


def _bar(share: float, width: int = 24) -> str:
    full = round(max(0.0, min(1.0, share)) * width)
    return f"{'█' * full}{'░' * (width - full)} {100 * share:3.0f} %  "
