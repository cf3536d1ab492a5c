"""A power cut under load: what a durable writer has acknowledged is on the disk, whatever is not.

The disk is a file with ext4 on it. A copy of that file, taken while the writer stands still in
whatever it was doing, has what reached the disk and nothing that was still in memory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from doorstep.core.report import JournalMode
from doorstep.journal.reader import Group, list_blocks, read_block
from doorstep.journal.recover import recover

DISK_MB = 48
CUTS = 5
ACKNOWLEDGED = 300
WRITER = """
import asyncio, itertools, os, struct, sys
from pathlib import Path
from doorstep.core.record import Column, Layout, PredictionMeta
from doorstep.journal import writer
from doorstep.journal.commit import commits_of

writer.BLOCK_BYTES_MAX = 40_000
mode = sys.argv[2]
layout = Layout(format=1, service="loans", numbers=(Column("in.x", "float"),), texts=())
numbers = itertools.count()

async def caller(block, commits, number):
    while True:
        row = next(numbers)
        meta = PredictionMeta(row.to_bytes(16, "big"), 0, 1, 1, 1, 0, 0, "", 0, 0.0, "", "", "u",
                              1, (), ())
        block.predictions(number, [meta], struct.pack("<d", row))
        kept = asyncio.get_running_loop().create_future()
        commits.commit(block.take(), kept.set_result)
        assert await kept is None
        os.write(1, b"%d\\n" % row)
        await asyncio.sleep(0)

async def main():
    block = writer.BlockWriter(Path(sys.argv[1]), node="n1", boot="b1", slot="s",
                               durable=mode == "durable")
    commits = commits_of(mode, block, asyncio.get_running_loop())
    number = block.declare(layout)
    await asyncio.gather(*(caller(block, commits, number) for _ in range(8)))

asyncio.run(main())
"""


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-o", "loop", str(image), str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    found = tmp_path / "disk.img"
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4 here")
    with found.open("wb") as file:
        file.truncate(DISK_MB * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(found)], check=True)
    return found


class Writer:
    """The process that writes, and what it has acknowledged."""

    def __init__(self, folder: Path, mode: JournalMode) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), mode], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self._out = self.process.stdout.fileno()
        self._said = b""

    @property
    def acknowledged(self) -> set[int]:
        return {int(one) for one in self._said.split(b"\n")[:-1]}

    def wait(self, more: int) -> None:
        wanted = self._said.count(b"\n") + more
        while self._said.count(b"\n") < wanted:
            data = os.read(self._out, 65536)
            assert data, "the writer ended"
            self._said += data

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)
        os.set_blocking(self._out, False)
        try:
            while data := os.read(self._out, 65536):
                self._said += data
        except BlockingIOError:
            pass
        os.set_blocking(self._out, True)
        yield
        self.process.send_signal(signal.SIGCONT)


def copy_still(image: Path, to: Path) -> None:
    """A copy of one moment: two in a row that are the same."""
    before = ""
    while True:
        shutil.copyfile(image, to)
        found = sha256(to.read_bytes()).hexdigest()
        if found == before:
            return
        before = found


def rows_after_the_cut(image: Path, folder: Path) -> list[int]:
    with mounted(image, folder) as disk:
        node = disk / "journal" / "n1"
        if not node.exists():
            return []
        recover(node)
        assert not list(node.glob("*.damaged"))
        blocks = [read_block(path.read_bytes()) for path in list_blocks(node).values()]
        parts = [part for one in blocks for part in one.parts()]
        return [
            int.from_bytes(row.request, "big")
            for part in parts
            if isinstance(part, Group)
            for row in part.rows
        ]


@pytest.mark.parametrize("mode", ["durable", "default"])
def test_what_was_acknowledged_before_a_power_cut_is_there_after_it_in_durable_mode_only(
    image: Path, tmp_path: Path, mode: JournalMode
) -> None:
    lost = 0
    with mounted(image, tmp_path / "disk") as disk:
        writer = Writer(disk / "journal", mode)
        try:
            for _ in range(CUTS if mode == "durable" else 1):
                writer.wait(ACKNOWLEDGED)
                with writer.standing_still():
                    copy_still(image, tmp_path / "cut.img")
                    acknowledged = writer.acknowledged
                found = rows_after_the_cut(tmp_path / "cut.img", tmp_path / "after")
                assert len(found) == len(set(found))
                lost += len(acknowledged - set(found))
        finally:
            writer.process.kill()
            writer.process.wait()
    # That something is lost without the syncs shows that this test would see it.
    assert (lost > 0) is (mode == "default")
