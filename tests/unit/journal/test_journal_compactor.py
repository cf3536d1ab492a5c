"""What one odd block does to the blocks behind it: nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from doorstep.core.record import FORMAT, Column, Layout, PredictionMeta
from doorstep.journal.compactor import Compactor
from doorstep.journal.tally import no_profiles
from doorstep.journal.writer import BlockWriter

ROW = PredictionMeta(
    request=bytes(16), row=0, at=1_700_000_000_000_000, version=1, assigned=1, status=0, kind=0,
    release="", epoch=0, share=0.0, segment="", key="", unit="u", latency_us=1, warnings=(),
    texts=("a",),
)  # fmt: skip


def write(home: Path, slot: str, *numbers: str) -> None:
    layout = Layout(
        format=FORMAT,
        service=f"s{slot}",
        numbers=tuple(Column(name, "float") for name in numbers),
        texts=(Column("out.answer", "text"),),
    )
    writer = BlockWriter(home / "journal", node="n", boot="b", slot=slot)
    number = writer.declare(layout)
    row = msgspec.structs.replace(ROW, request=slot.encode() * 16)
    writer.predictions(number, [row], np.zeros(len(numbers)).tobytes())
    writer.close()


@pytest.mark.parametrize("odd", [("in.Age", "in.age"), ("out.answer",), ("out.yes", "out.YES")])
def test_an_odd_block_is_set_aside_and_those_behind_it_are_compacted(
    tmp_path: Path, odd: tuple[str, ...]
) -> None:
    write(tmp_path, "a", *odd)
    write(tmp_path, "b", "in.x")
    with Compactor(tmp_path, "n", no_profiles) as compactor:
        entries = compactor.run_once()
        assert compactor.run_once() == []
    listed = [file.service for entry in entries for file in entry.files]
    assert "sb" in listed
    assert not list((tmp_path / "journal/n").glob("*.block"))
    damaged = list((tmp_path / "journal/n").glob("*.damaged"))
    assert len(damaged) + listed.count("sa") == 1
