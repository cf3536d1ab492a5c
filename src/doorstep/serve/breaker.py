"""The circuit breaker of a version: after enough failures it is not asked for a while, then once.

Two things open it: failures of the version as a whole (late, dead, not there), and rows that fail
one by one. Rows may fail for what they hold, so for those nearly all of what was asked must fail.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from doorstep.core.record import Status
from doorstep.serve import limits

TOPIC = "breaker "
"""Before the version's name in the topic of an open breaker."""
Key = tuple[str, int]
WHOLE = (Status.TIMED_OUT, Status.DIED, Status.UNAVAILABLE)
"""What befalls a version as a whole, whatever the rows were."""


class Breaker:
    """Made at a version's first failure, of no use once `is_quiet`. Times: monotonic seconds."""

    def __init__(self) -> None:
        self._outcomes: deque[tuple[float, Status]] = deque(maxlen=limits.BREAKER_KEPT)
        self._pause_s = limits.BREAKER_OPEN_S[0]
        self._next_trial_s = self._failed_s = 0.0
        self._on_trial = False
        self.is_open = False

    def is_quiet(self, now_s: float) -> bool:
        """Whether nothing that failed is in the window any more."""
        return not self.is_open and now_s - self._failed_s > limits.BREAKER_WINDOW_S

    def take_trial(self, now_s: float) -> bool:
        """Whether an open breaker lets one request through now. The next one comes a pause later,
        also when nothing is heard of this one."""
        if now_s < self._next_trial_s:
            return False
        self._next_trial_s, self._on_trial = now_s + self._pause_s, True
        return True

    def note(self, now_s: float, status: Status) -> None:
        """How one request went that was asked."""
        self._outcomes.append((now_s, status))
        if status is Status.OK:
            if self.is_open:
                self._outcomes.clear()
                self._pause_s, self.is_open = limits.BREAKER_OPEN_S[0], False
            return
        self._failed_s = now_s
        if not self.is_open:
            if self._is_enough(now_s):
                self.is_open, self._next_trial_s = True, now_s + self._pause_s
        elif self._on_trial:
            self._on_trial = False
            self._pause_s = min(self._pause_s * 2, limits.BREAKER_OPEN_S[1])
            self._next_trial_s = now_s + self._pause_s

    def _is_enough(self, now_s: float) -> bool:
        recent = [status for at, status in self._outcomes if now_s - at <= limits.BREAKER_WINDOW_S]
        whole = sum(status in WHOLE for status in recent)
        failed = sum(status is not Status.OK for status in recent)
        return (
            whole >= limits.BREAKER_WHOLE and whole >= limits.BREAKER_WHOLE_SHARE * len(recent)
        ) or (failed >= limits.BREAKER_ROWS and failed >= limits.BREAKER_ROWS_SHARE * len(recent))


class Breakers:
    """Those of one worker, by service and number of the version. known: of versions that failed a
    while ago at most. tell: hears a topic and what is wrong, "" once it is over."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self.known: dict[Key, Breaker] = {}
        self._tell = tell

    def admits(self, key: Key, count: int) -> int:
        """How many of `count` requests the version may be asked now: all, none, or one to try."""
        breaker = self.known.get(key)
        if breaker is None or not breaker.is_open:
            return count
        return int(breaker.take_trial(time.monotonic()))

    def note(self, key: Key, status: Status) -> None:
        """How the version did."""
        now_s, breaker = time.monotonic(), self.known.get(key)
        if breaker is None:
            if status is Status.OK:
                return
            breaker = self.known[key] = Breaker()
        was_open = breaker.is_open
        breaker.note(now_s, status)
        if breaker.is_open != was_open:
            name = f"{key[0]}@{key[1]}"
            why = f"{name} failed too often ({status.name.lower()}): it is not asked for a while"
            self._tell(TOPIC + name, why if breaker.is_open else "")
        elif breaker.is_quiet(now_s):
            del self.known[key]

    def keep(self, keys: set[Key]) -> None:
        """Forget those of versions that are gone."""
        for key in self.known.keys() - keys:
            del self.known[key]
            self._tell(f"{TOPIC}{key[0]}@{key[1]}", "")
