"""Sets of outcomes are recorded once; the newest are remembered, and no more than fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from doorstep.core.ids import digest_of
from doorstep.journal import received
from doorstep.journal.received import Received


def names(count: int) -> list[str]:
    return [digest_of(str(number).encode()) for number in range(count)]


def test_a_set_is_recorded_once_also_after_a_start_and_behind_a_torn_line(tmp_path: Path) -> None:
    path, (one, other) = tmp_path / "received.txt", names(2)
    assert [Received(path).once(name, lambda: 3) for name in (one, one)] == [3, 0]
    path.write_bytes(path.read_bytes() + b"\nabc")
    assert [Received(path).once(name, lambda: 3) for name in (other, one, other)] == [3, 0, 0]


def test_the_newest_are_remembered_and_the_file_does_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received, "BATCHES_MAX", 10)
    path, sets = tmp_path / "received.txt", names(95)
    kept, sizes = Received(path), []
    for name in sets:
        assert kept.once(name, lambda: 1) == 1
        sizes.append(path.stat().st_size)
    assert max(sizes) <= 20 * 65
    for here in (kept, Received(path)):
        assert [here.once(name, lambda: 1) for name in sets[-10:]] == [0] * 10
    assert Received(path).once(sets[0], lambda: 1) == 1
