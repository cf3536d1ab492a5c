import os
import struct

import pytest
from journal_samples import LAYOUT, OUTCOME, VirtualClock, encode_predictions, meta

from doorstep.core.errors import InputError
from doorstep.journal import block
from doorstep.journal.reader import Group, Tail, list_blocks, read_block
from doorstep.journal.recover import LOCK_KEPT_S, recover, remove_old_locks
from doorstep.journal.writer import BlockWriter

MATRIX = struct.pack("<2d", 1, 2)


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "n1"


@pytest.fixture
def open_writer(tmp_path, clock):
    made = []

    def make(slot="front-0"):
        made.append(BlockWriter(tmp_path, node="n1", boot="b1", slot=slot, clock=clock))
        return made[-1]

    yield make
    for one in made:
        one.close()


def write(one, *rows):
    one.predictions(one.declare(LAYOUT), [meta(row) for row in rows], MATRIX * len(rows))
    one.flush()


def orphan(open_writer, folder, extra=b""):
    """A block as a killed writer leaves it: open, not locked, perhaps with something behind."""
    one = open_writer()
    write(one, 0)
    write(one, 1, 2)
    (path,) = list_blocks(folder).values()
    data = path.read_bytes()
    one.close()
    path.with_suffix(".block").unlink()
    path.write_bytes(data + extra)
    return path


def rows_of(groups):
    return [row.row for group in groups for row in group.rows]


def rows_in(path):
    return rows_of(part for part in read_block(path.read_bytes()).parts() if type(part) is Group)


def test_a_block_reads_as_what_was_written(open_writer, folder):
    one = open_writer()
    write(one, 0)
    one.outcome(OUTCOME)
    write(one, 1)
    (path,) = list_blocks(folder).values()
    found = read_block(path.read_bytes())
    parts = list(found.parts())
    assert [type(part).__name__ for part in parts] == ["Group", "OutcomeRecord", "Group"]
    assert parts[0].matrix == MATRIX
    assert parts[0].layout == LAYOUT
    assert not found.is_complete
    one.close()
    assert read_block(path.with_suffix(".block").read_bytes()).is_complete


def test_bytes_without_a_whole_header_are_no_block():
    for data in (b"", b"DSJ", bytes(100)):
        with pytest.raises(InputError, match="bad-block"):
            read_block(data)


def test_predictions_of_an_undeclared_layout_are_refused(open_writer):
    header = block.BlockHeader(format=1, node="n1", boot="b1", slot="s", sequence=1, opened_at=0)
    data = block.encode_header(header) + encode_predictions(1, [meta()], MATRIX)
    with pytest.raises(InputError, match="was not declared"):
        list(read_block(data).parts())


def test_a_dead_writers_block_is_cut_ended_and_closed(open_writer, folder):
    torn = encode_predictions(1, [meta(9)], MATRIX)[:-1]
    path = orphan(open_writer, folder, torn)
    (found,) = recover(folder)
    assert found.cut_bytes == len(torn)
    assert not path.exists()
    data = read_block(found.path.read_bytes())
    assert data.is_complete
    assert data.end.repaired
    assert rows_in(found.path) == [0, 1, 2]
    assert recover(folder) == []
    assert not found.path.with_suffix(".cut").exists()


def test_recovery_after_its_own_crash_at_any_offset_of_the_end_frame(open_writer, folder):
    path = orphan(open_writer, folder)
    good = path.read_bytes()
    recover(folder)
    ended = path.with_suffix(".block").read_bytes()
    for size in range(len(good), len(ended) + 1):
        path.with_suffix(".block").unlink()
        path.write_bytes(ended[:size])
        recover(folder)
        assert path.with_suffix(".block").read_bytes() == ended


def test_damage_is_cut_off_but_kept(open_writer, folder):
    path = orphan(open_writer, folder, b"not a frame")
    recover(folder)
    assert path.with_suffix(".cut").read_bytes() == b"not a frame"


def test_zeros_that_a_power_loss_left_are_not_kept(open_writer, folder):
    path = orphan(open_writer, folder, bytes(64))
    (found,) = recover(folder)
    assert found.cut_bytes == 64
    assert not path.with_suffix(".cut").exists()


def test_a_live_writers_block_is_left_alone(open_writer, folder):
    one = open_writer()
    write(one, 0)
    assert recover(folder) == []
    write(one, 1)
    (path,) = list_blocks(folder).values()
    assert path.suffix == ".open"
    assert rows_in(path) == [0, 1]


@pytest.mark.parametrize("data", [b"", bytes(4096)])
def test_a_block_of_which_power_loss_left_only_the_name_goes(folder, data):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "b1-s-00000001.open").write_bytes(data)
    assert recover(folder) == []
    assert list(folder.iterdir()) == []


def test_an_open_file_that_is_no_block_is_set_aside(folder):
    folder.mkdir()
    (folder / "x.open").write_bytes(b"hello")
    assert recover(folder) == []
    assert (folder / "x.damaged").exists()


def test_lock_files_go_only_when_their_whole_boot_is_old_and_dead(
    open_writer, folder, clock, tmp_path
):
    one, two = open_writer("front-0"), open_writer("front-1")
    write(one, 0)
    write(two, 0)
    later = clock.at / 1e6 + LOCK_KEPT_S + 10
    for path in folder.glob("*.lock"):
        os.utime(path, (clock.at / 1e6, clock.at / 1e6))
    two.close()
    assert remove_old_locks(folder, later) == []
    one.close()
    assert remove_old_locks(folder, clock.at / 1e6) == []
    assert len(remove_old_locks(folder, later)) == 2
    assert list(folder.glob("*.lock")) == []


def test_a_tail_gives_each_group_once_across_rolls_and_deletion(open_writer, folder, clock):
    one = open_writer()
    with Tail(folder, from_end=False) as tail:
        assert list(tail.poll()) == []
        write(one, 0)
        assert rows_of(tail.poll()) == [0]
        write(one, 1)
        clock.move(61)
        one.flush()
        write(one, 2)
        for path in folder.glob("*.block"):
            path.unlink()
        assert rows_of(tail.poll()) == [1, 2]
        assert rows_of(tail.poll()) == []
        assert tail.damaged_blocks == 0


def test_a_tail_from_the_end_passes_over_what_is_there(open_writer, folder):
    one = open_writer()
    write(one, 0)
    two = open_writer("front-1")
    write(two, 1)
    two.close()
    with Tail(folder) as tail:
        assert rows_of(tail.poll()) == []
        write(one, 2)
        assert tail.behind_bytes > 0
        assert rows_of(tail.poll()) == [2]
        assert tail.behind_bytes == 0
        write(one, 3)
        tail.skip_to_end()
        write(one, 4)
        assert rows_of(tail.poll()) == [4]


def test_a_tail_waits_for_the_rest_of_a_frame(open_writer, folder):
    path = orphan(open_writer, folder)
    good, frame = path.read_bytes(), encode_predictions(1, [meta(9)], MATRIX)
    with Tail(folder, from_end=False) as tail:
        assert rows_of(tail.poll()) == [0, 1, 2]
        for size in range(len(frame)):
            path.write_bytes(good + frame[:size])
            assert rows_of(tail.poll()) == []
        path.write_bytes(good + frame)
        assert rows_of(tail.poll()) == [9]


def test_a_tail_finds_its_feet_after_a_writer_took_frames_back(open_writer, folder):
    path = orphan(open_writer, folder)
    good = path.read_bytes()
    path.write_bytes(good + encode_predictions(1, [meta(8)], MATRIX))
    with Tail(folder, from_end=False) as tail:
        assert rows_of(tail.poll()) == [0, 1, 2, 8]
        longer = [meta(row, key="a key that is long enough") for row in (5, 6)]
        path.write_bytes(good + encode_predictions(1, longer, MATRIX * 2))
        seen = [row for _ in range(3) for row in rows_of(tail.poll())]
        assert seen == [5, 6]


def test_a_tail_gives_up_a_damaged_block_when_it_is_closed_and_goes_on(open_writer, folder):
    path = orphan(open_writer, folder, b"not a frame, and long enough to be one")
    with Tail(folder, from_end=False) as tail:
        assert rows_of(tail.poll()) == [0, 1, 2]
        path.rename(path.with_suffix(".block"))
        one = open_writer()
        write(one, 7)
        assert [row for _ in range(3) for row in rows_of(tail.poll())] == [7]
        assert tail.damaged_blocks == 1


def test_a_tail_leaves_out_the_slots_it_was_told_to(open_writer, folder):
    one, two = open_writer("front-0"), open_writer("shadow")
    with Tail(folder, from_end=False, skip_slots={"shadow"}) as tail:
        write(one, 0)
        write(two, 1)
        assert rows_of(tail.poll()) == [0]
        assert tail.behind_bytes == 0


def test_a_tail_reads_a_frame_that_is_larger_than_one_read(open_writer, folder, monkeypatch):
    monkeypatch.setattr("doorstep.journal.reader.READ_BYTES_MAX", 300)
    one = open_writer()
    write(one, *range(20))
    write(one, 20)
    with Tail(folder, from_end=False) as tail:
        assert [row for _ in range(4) for row in rows_of(tail.poll())] == list(range(21))
