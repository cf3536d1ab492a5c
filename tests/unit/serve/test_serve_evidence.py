"""What the dead left behind is counted once, also while it cannot be saved."""

from __future__ import annotations

import os
from pathlib import Path

from doorstep.serve.cells import CellKey, CellWriter, create_cells
from doorstep.serve.evidence import BASE_FILE, Evidence


def test_a_dead_process_is_counted_once_while_and_after_its_counts_cannot_be_saved(
    tmp_path: Path,
) -> None:
    evidence = Evidence(tmp_path)
    path = tmp_path / "cells" / "w-1.cells"
    create_cells(path)
    writer = CellWriter(path)
    slot = writer.slot(CellKey("r", 1, "", "challenger"))
    assert slot is not None
    for unit in range(10):
        writer.end(slot, [unit], writer.begin(slot, [unit]), unit % 2 == 0)
    writer.close()
    os.utime(path, (1, 1))
    base = tmp_path / "cells" / BASE_FILE
    base.unlink()
    base.mkdir()
    for _ in range(3):
        evidence.collect(set(), {"r"})
        assert [one.requests for one in evidence.cells()] == [10]
    base.rmdir()
    for _ in range(2):
        evidence.collect(set(), {"r"})
        assert [(one.requests, one.bad) for one in evidence.cells()] == [(10, 5)]
    assert not path.exists()
