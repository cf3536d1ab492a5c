import asyncio
import errno
import os
import struct
import threading

import pytest
from journal_samples import LAYOUT, OUTCOME, meta

from doorstep.core.errors import OverloadedError, UsageError
from doorstep.journal import commit, writer
from doorstep.journal.commit import Direct, Grouped
from doorstep.journal.options import JournalOptions, journal_options
from doorstep.journal.reader import Group, list_blocks, read_block
from doorstep.journal.recover import recover
from doorstep.journal.writer import BlockWriter

MATRIX = struct.pack("<2d", 1, 2)


class Disk:
    """What a sync waits for, how often it was asked, and what it ends with."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.may_end.set()
        self.began = threading.Semaphore(0)
        self.syncs = 0
        self.fails = False

    def sync(self, fd: int) -> None:
        self.syncs += 1
        self.began.release()
        self.may_end.wait()
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        os.fsync(fd)


@pytest.fixture
def disk(monkeypatch):
    made = Disk()
    monkeypatch.setattr(writer, "_sync", made.sync)
    return made


def open_writer(folder):
    return BlockWriter(folder, node="n1", boot="b1", slot="s", durable=True)


def one_row(open_block, row):
    open_block.predictions(open_block.declare(LAYOUT), [meta(row)], MATRIX)
    return open_block.take()


def rows_in(folder):
    recover(folder / "n1")
    blocks = [read_block(path.read_bytes()) for path in list_blocks(folder / "n1").values()]
    parts = [part for one in blocks for part in one.parts() if isinstance(part, Group)]
    return [row.row for part in parts for row in part.rows]


async def wait_for(told, count):
    async with asyncio.timeout(60):
        while len(told) < count:
            await asyncio.sleep(0)


def test_nobody_is_told_before_the_disk_has_it_and_who_comes_meanwhile_shares_the_next_sync(
    tmp_path, disk
):
    async def story():
        block = open_writer(tmp_path)
        ways = Grouped(block, asyncio.get_running_loop())
        told = []
        disk.may_end.clear()
        for row in range(6):
            ways.commit(one_row(block, row), lambda error, row=row: told.append((row, error)))
            if not row:
                await asyncio.to_thread(disk.began.acquire)
        await asyncio.sleep(0)
        assert told == []
        disk.may_end.set()
        await wait_for(told, 6)
        assert told == [(row, None) for row in range(6)]
        assert disk.syncs == 2
        ways.close()

    asyncio.run(story())
    assert rows_in(tmp_path) == list(range(6))


def test_a_sync_that_fails_is_told_to_all_who_shared_it_and_keeps_nothing_of_theirs(tmp_path, disk):
    async def story():
        block = open_writer(tmp_path)
        ways = Grouped(block, asyncio.get_running_loop())
        told = []
        ways.commit(one_row(block, 0), told.append)
        await wait_for(told, 1)
        disk.fails = True
        ways.commit(one_row(block, 1), told.append)
        await wait_for(told, 2)
        disk.fails = False
        ways.commit(one_row(block, 2), told.append)
        await wait_for(told, 3)
        ways.close()
        return told

    told = asyncio.run(story())
    assert [getattr(one, "errno", None) for one in told] == [None, errno.EIO, None]
    # What came after is in another file: nobody knows what the disk has of the first one's end.
    assert len(list_blocks(tmp_path / "n1")) == 2
    assert rows_in(tmp_path) == [0, 2]


def test_a_mistake_of_who_hears_that_the_disk_is_done_leaves_nobody_waiting(tmp_path, disk, capsys):
    async def story():
        block = open_writer(tmp_path)
        ways = Grouped(block, asyncio.get_running_loop())
        ways.when_kept(lambda: 1 / 0)
        told = []
        disk.may_end.clear()
        ways.commit(one_row(block, 0), told.append)
        await asyncio.to_thread(disk.began.acquire)
        ways.commit(one_row(block, 1), told.append)
        disk.may_end.set()
        await wait_for(told, 2)
        ways.close()
        return told

    assert asyncio.run(story()) == [None, None]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_what_waits_when_the_writer_is_closed_is_written(tmp_path, disk):
    async def story():
        block = open_writer(tmp_path)
        ways = Grouped(block, asyncio.get_running_loop())
        disk.may_end.clear()
        ways.commit(one_row(block, 0), lambda _: None)
        await asyncio.to_thread(disk.began.acquire)
        block.outcome(OUTCOME)
        ways.commit(one_row(block, 1), lambda _: None)
        disk.may_end.set()
        ways.close()

    asyncio.run(story())
    assert rows_in(tmp_path) == [0, 1]


def test_a_disk_that_hangs_does_not_eat_the_memory(tmp_path, disk, monkeypatch):
    async def story():
        block = open_writer(tmp_path)
        ways = Grouped(block, asyncio.get_running_loop())
        told = []
        disk.may_end.clear()
        ways.commit(one_row(block, 0), told.append)
        await asyncio.to_thread(disk.began.acquire)
        taken = one_row(block, 1)
        monkeypatch.setattr(commit, "BUFFER_BYTES_MAX", len(taken.data))
        ways.commit(taken, told.append)
        ways.commit(one_row(block, 2), told.append)
        (refused,) = told
        assert isinstance(refused, OverloadedError)
        disk.may_end.set()
        await wait_for(told, 3)
        ways.close()

    asyncio.run(story())
    assert rows_in(tmp_path) == [0, 1]


def test_in_default_mode_who_commits_is_told_at_once_and_nothing_is_synced(tmp_path, disk):
    block = BlockWriter(tmp_path, node="n1", boot="b1", slot="s")
    told = []
    Direct(block).commit(one_row(block, 0), told.append)
    assert (told, disk.syncs) == ([None], 0)
    assert [len(one) for one in [list_blocks(tmp_path / "n1")]] == [1]
    block.close()


def test_the_options_of_a_node_say_its_mode():
    assert journal_options("durable").words == ["--journal", "durable"]
    assert JournalOptions().words == []
    assert journal_options(gb_max=2.5, reserve_mb=0, disk_low="no-inputs").words == [
        *("--journal-max", "2.5", "--disk-reserve", "0.0", "--disk-low", "no-inputs")
    ]
    with pytest.raises(UsageError, match="more than 0"):
        journal_options(gb_max=0)
    with pytest.raises(UsageError, match="refuse, no-inputs"):
        journal_options(disk_low="panic")
    with pytest.raises(UsageError, match="expected one of default, durable, replicated"):
        journal_options("twice")
    with pytest.raises(UsageError, match="expected postgresql"):
        journal_options("replicated")
    kept = journal_options("replicated", replica="nats://who:hidden@here", replica_days=2)
    assert kept.words == ["--journal", "replicated", "--replica-days", "2.0"]
    assert journal_options("durable", replica="nats://here").replica == ""
