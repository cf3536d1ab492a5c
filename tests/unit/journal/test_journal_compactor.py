"""What one odd block does to the blocks behind it: nothing."""

from __future__ import annotations

from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pytest

from doorstep.core.errors import InputError
from doorstep.core.record import FORMAT, Column, Layout, PredictionMeta
from doorstep.journal.compact import BlockCompaction
from doorstep.journal.compactor import Compactor
from doorstep.journal.index import Entry
from doorstep.journal.tally import no_profiles
from doorstep.journal.troubles import read_troubles
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


def test_a_duckdb_that_takes_no_block_sets_none_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too old a DuckDB, or a mistake of ours: the records are there when it is mended."""
    for slot in "ab":
        write(tmp_path, slot, "in.x")

    def refuse(*_: object) -> None:
        raise duckdb.BinderException("no function rowid_of")

    with Compactor(tmp_path, "n", no_profiles) as compactor:
        with monkeypatch.context() as patched:
            patched.setattr(BlockCompaction, "run", refuse)
            assert compactor.run_once() == []
            said = troubles(tmp_path)
            assert len(said) == 2
            assert all("is not compacted" in one and "no function rowid_of" in one for one in said)
        assert len(compactor.run_once()) == 2
        assert troubles(tmp_path) == []


@pytest.mark.parametrize("refusals", [1, 2])
def test_a_block_that_duckdb_refuses_twice_beside_others_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    """Once may be the connection, which an error of another block can end."""
    for slot in "abc":
        write(tmp_path, slot, "in.x")
    run, refused = BlockCompaction.run, []

    def moody(self: BlockCompaction, path: Path) -> Entry:
        if path.name.startswith("b-b-") and len(refused) < refusals:
            refused.append(path)
            raise duckdb.FatalException("the database has been invalidated")
        return run(self, path)

    monkeypatch.setattr(BlockCompaction, "run", moody)
    with Compactor(tmp_path, "n", no_profiles) as compactor:
        entries = compactor.run_once()
    assert len(entries) == 4 - refusals
    aside = [path.name for path in (tmp_path / "journal/n").glob("*.damaged")]
    assert aside == ["b-b-00000001.damaged"] * (refusals - 1)
    assert not list((tmp_path / "journal/n").glob("*.block"))


def troubles(home: Path) -> list[str]:
    return [one.text for one in read_troubles(home / "journal/n")]


def test_what_a_run_cannot_do_is_noted_and_goes_when_it_is_mended(tmp_path: Path) -> None:
    write(tmp_path, "b", "in.x")
    folder = tmp_path / "journal/n"
    (folder / "b-a-00000001.block").write_bytes(b"no block")
    with Compactor(tmp_path, "n", no_profiles) as compactor:
        (entry,) = compactor.run_once()
        (aside,) = troubles(tmp_path)
        assert aside.startswith("b-a-00000001.damaged could not be read to the end")
        assert "the block has 8 bytes and no whole header" in aside
    unreadable = folder / entry.files[0].path
    content = unreadable.read_bytes()
    unreadable.write_bytes(b"no parquet")
    write(tmp_path, "b", "in.x")
    with Compactor(tmp_path, "n", no_profiles) as compactor:
        compactor.run_once()
        said = troubles(tmp_path)
        assert len(said) == 2
        assert aside in said  # the reason is known after a restart too
        assert any(one.startswith(f"{entry.files[0].path} and those") for one in said)
        unreadable.write_bytes(content)
        compactor.run_once()
        assert troubles(tmp_path) == [aside]
        (folder / "b-a-00000001.damaged").unlink()
        compactor.run_once()
    assert troubles(tmp_path) == []


def test_a_run_that_ends_early_is_noted_until_one_that_does_not(tmp_path: Path) -> None:
    write(tmp_path, "b", "in.x")
    index = tmp_path / "journal/n/index.jsonl"
    index.write_bytes(b"no list\n")
    with Compactor(tmp_path, "n", no_profiles) as compactor:
        with pytest.raises(InputError, match="bad-index"):
            compactor.run_once()
        (found,) = read_troubles(tmp_path / "journal/n")
        assert "index.jsonl cannot be read" in found.text
        assert found.next == "restore it from a backup"
        index.unlink()
        compactor.run_once()
    assert troubles(tmp_path) == []
