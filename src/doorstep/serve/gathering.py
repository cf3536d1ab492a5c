"""How long an engine waits for callers that it has just answered to ask again. Pure.

A call of a model takes `a + b * rows`, and often nearly all of it is `a`. Callers that ask again as
soon as they are answered then fall into groups that take turns: while one group's rows are scored,
the other's wait. Asked together they are answered no later, and for half the CPU. So after a batch
an engine waits for those whom it answered, as long as fewer are back: about as long as a call takes
that it may spare, and only where waiting has lately brought nearly all of them. Where rows cost and
calls do not, and for callers that come when they like, it comes to no wait at all.
"""

from __future__ import annotations

WAIT_NS_MAX = 4_000_000
WAIT_SHARE = 1.25
"""Of what a call costs whatever its rows: what it may cost to spare one."""
FORGET = 1 / 32
FRUIT_LEAST = 0.85
"""Share of those answered that came back in the wait. Callers that ask again at once all do; those
that come when they like are fewer, and pay for the wait with their time."""
TRY_EVERY = 128
TRIES = 8
"""So many batches out of so many it is tried again whether waiting brings something."""


class Gathering:
    """What the batches of an engine took, and who came back after them. Times in nanoseconds."""

    def __init__(self) -> None:
        self._batches = 0
        self._rows = self._ns = self._rows_squared = self._rows_ns = 0.0
        self._fruit = 1.0
        self._answered = 0
        self._until_ns = 0

    @property
    def call_ns(self) -> float:
        """`a`: what a call takes whatever its rows, by least squares over the last batches; half
        of it all as long as all batches were alike."""
        spread = self._rows_squared - self._rows**2
        if spread <= 0.01 * self._rows_squared:
            return self._ns / 2
        each_ns = max((self._rows_ns - self._rows * self._ns) / spread, 0.0)
        return max(self._ns - each_ns * self._rows, 0.0)

    def note_batch(self, calls: int, rows: int, took_ns: int, now_ns: int) -> None:
        """A batch of so many callers was answered."""
        weight = max(FORGET, 1 / (self._batches + 1))
        self._batches += 1
        self._rows += weight * (rows - self._rows)
        self._ns += weight * (took_ns - self._ns)
        self._rows_squared += weight * (rows * rows - self._rows_squared)
        self._rows_ns += weight * (rows * took_ns - self._rows_ns)
        self._answered = calls
        self._until_ns = now_ns + int(min(WAIT_SHARE * self.call_ns, WAIT_NS_MAX))

    def wait_ns(self, late: int, fresh: int, now_ns: int) -> int:
        """How much longer to wait. late: calls that came while the last batch was scored; fresh:
        since then, from those whom it answered or from others."""
        if fresh >= self._answered or not late + fresh:
            return 0
        if self._fruit < FRUIT_LEAST and self._batches % TRY_EVERY >= TRIES:
            return 0
        return max(self._until_ns - now_ns, 0)

    def note_wait(self, fresh: int) -> None:
        """It was waited, and so many came."""
        share = min(fresh / self._answered, 1.0)
        self._fruit += (share - self._fruit) / 8
