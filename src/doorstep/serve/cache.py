"""Answers that may be given again: the scores of rows that a version has read before.

A row is what the version reads of it, after the contract: its packed numbers and its texts. Exact
matches only. The least recently used go first; an age is judged by who asks, on the monotonic
clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from doorstep.formats.batch import Batch
from doorstep.serve.limits import CACHE_BYTES_MAX, CACHE_ENTRIES_MAX

ENTRY_BYTES = 400
"""Roughly what Python takes for an entry besides its row: two tuples, a list, a place."""
Source = tuple[str, str, str]
"""The service that was asked (nobody learns what another was), the bundle and form that score."""
RowKey = tuple[Source, bytes, tuple[str | None, ...]]


class AnswerCache:
    """Not thread-safe. bytes: about what all entries take."""

    def __init__(
        self, entries_max: int = CACHE_ENTRIES_MAX, bytes_max: int = CACHE_BYTES_MAX
    ) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._entries: OrderedDict[RowKey, tuple[int, list[float]]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: RowKey, since_ns: int) -> list[float] | None:
        """The scores of a row, if they were computed at `since_ns` or later."""
        found = self._entries.get(key)
        if found is None:
            return None
        if found[0] < since_ns:
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return found[1]

    def put(self, key: RowKey, scores: list[float], at_ns: int) -> None:
        """Keep what was computed for a request that came at `at_ns`."""
        if key in self._entries:
            self._forget(key)
        self._entries[key] = (at_ns, scores)
        self.bytes += _size(key, scores)
        while self.bytes > self._bytes_max or len(self._entries) > self._entries_max:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: RowKey) -> None:
        _, scores = self._entries.pop(key)
        self.bytes -= _size(key, scores)


def row_keys(source: Source, batch: Batch) -> list[RowKey]:
    """One key per row. batch: what the version reads."""
    texts: Sequence[tuple[str | None, ...]] = [()] * batch.rows
    if batch.texts:
        texts = list(zip(*batch.texts, strict=True))
    return [(source, batch.numbers[at].tobytes(), texts[at]) for at in range(batch.rows)]


def _size(key: RowKey, scores: list[float]) -> int:
    texts = sum(4 * len(one) for one in key[2] if one is not None)
    return ENTRY_BYTES + len(key[1]) + texts + 32 * len(scores)
