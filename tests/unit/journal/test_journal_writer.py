import errno
import os
import signal
import struct
import subprocess
import sys

import pytest
from journal_samples import LAYOUT, OUTCOME, VirtualClock, meta

from doorstep.core.errors import OverloadedError, RefusedError
from doorstep.journal import block, writer
from doorstep.journal.block import FrameKind, Stop
from doorstep.journal.writer import BlockWriter

MATRIX = struct.pack("<2d", 1, 2)


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def open_writer(tmp_path, clock):
    made = []

    def make(slot="front-0", **options):
        made.append(BlockWriter(tmp_path, node="n1", boot="b1", slot=slot, clock=clock, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def kinds(path):
    frames, _, stop = block.scan(memoryview(path.read_bytes()))
    assert stop == Stop.END
    return [FrameKind(frame.kind).name for frame in frames]


def files(tmp_path):
    return sorted(one.name for one in (tmp_path / "n1").iterdir() if one.suffix != ".lock")


def test_nothing_is_written_before_a_flush_and_no_file_without_records(tmp_path, open_writer):
    one = open_writer()
    one.flush()
    assert files(tmp_path) == []
    one.predictions(one.declare(LAYOUT), [meta()], MATRIX)
    assert one.buffered_bytes > 0
    assert files(tmp_path) == []
    one.flush()
    assert files(tmp_path) == ["b1-front-0-00000001.open"]
    assert one.buffered_bytes == 0


def test_a_closed_block_says_what_it_holds(tmp_path, open_writer):
    one = open_writer(durable=True)
    number = one.declare(LAYOUT)
    assert one.declare(LAYOUT) == number == 1
    one.predictions(number, [meta(0), meta(1)], MATRIX * 2)
    one.outcome(OUTCOME)
    one.close()
    path = tmp_path / "n1" / "b1-front-0-00000001.block"
    assert kinds(path) == ["HEADER", "LAYOUT", "PREDICTIONS", "OUTCOME", "END"]
    end = block.decode_end(block.scan(memoryview(path.read_bytes()))[0][-1])
    assert (end.frames, end.rows, end.outcomes) == (4, 2, 1)


def test_a_block_rolls_by_age_even_when_idle_and_the_next_declares_its_layouts_again(
    tmp_path, open_writer, clock
):
    one = open_writer()
    number = one.declare(LAYOUT)
    one.predictions(number, [meta()], MATRIX)
    one.flush()
    clock.move(59.9)
    one.flush()
    assert files(tmp_path) == ["b1-front-0-00000001.open"]
    clock.move(0.1)
    one.flush()
    assert files(tmp_path) == ["b1-front-0-00000001.block"]
    one.predictions(number, [meta()], MATRIX)
    one.flush()
    assert kinds(tmp_path / "n1" / "b1-front-0-00000002.open")[:3] == [
        "HEADER",
        "LAYOUT",
        "PREDICTIONS",
    ]


class JumpingClock(VirtualClock):
    """Its wall time goes where a test puts it; the monotonic one does not."""

    wall = 0

    def now(self) -> int:
        return self.wall


@pytest.mark.parametrize("years", [-1, 1])
def test_a_clock_that_jumps_neither_rolls_a_block_nor_keeps_one_open(tmp_path, years):
    clock = JumpingClock()
    one = BlockWriter(tmp_path, node="n1", boot="b1", slot="front-0", clock=clock)
    one.predictions(one.declare(LAYOUT), [meta()], MATRIX)
    one.flush()
    clock.wall = clock.at + years * 365 * 86_400 * 10**6
    one.flush()
    assert files(tmp_path) == ["b1-front-0-00000001.open"]
    clock.move(60)
    one.flush()
    assert files(tmp_path) == ["b1-front-0-00000001.block"]
    one.close()


def test_a_block_rolls_by_size(tmp_path, open_writer, monkeypatch):
    monkeypatch.setattr(writer, "BLOCK_BYTES_MAX", 600)
    one = open_writer()
    number = one.declare(LAYOUT)
    for _ in range(12):
        one.predictions(number, [meta()], MATRIX)
        one.flush()
    closed = [name for name in files(tmp_path) if name.endswith(".block")]
    assert len(closed) >= 2
    assert all(kinds(tmp_path / "n1" / name)[-1] == "END" for name in closed)


def test_numbers_that_do_not_fit_the_layout_are_refused_and_leave_the_buffer_alone(open_writer):
    one = open_writer()
    number = one.declare(LAYOUT)
    one.predictions(number, [meta()], memoryview(MATRIX).cast("d"))
    before = one.buffered_bytes
    with pytest.raises(ValueError, match="not 1 rows"):
        one.predictions(number, [meta()], MATRIX + b"x")
    with pytest.raises(UnicodeEncodeError):
        one.predictions(number, [meta(key="\ud800")], MATRIX)
    assert one.buffered_bytes == before


def test_a_buffer_that_nobody_flushes_is_limited(open_writer, monkeypatch):
    monkeypatch.setattr(writer, "BUFFER_BYTES_MAX", 500)
    one = open_writer()
    number = one.declare(LAYOUT)
    with pytest.raises(OverloadedError, match="journal-buffer-full"):
        for _ in range(100):
            one.predictions(number, [meta()], MATRIX)
    with pytest.raises(OverloadedError, match="journal-buffer-full"):
        for _ in range(100):
            one.outcome(OUTCOME)


def test_two_writers_cannot_have_one_slot_and_a_new_one_continues_the_sequence(
    tmp_path, open_writer
):
    one = open_writer()
    with pytest.raises(RefusedError, match="journal-slot-taken"):
        open_writer()
    one.predictions(one.declare(LAYOUT), [meta()], MATRIX)
    one.close()
    (tmp_path / "n1" / "b1-front-0-00000001.block").unlink()
    two = open_writer()
    two.predictions(two.declare(LAYOUT), [meta()], MATRIX)
    two.flush()
    assert files(tmp_path) == ["b1-front-0-00000002.open"]


def test_a_flush_to_a_full_disk_raises_and_cuts_the_file_back(tmp_path):
    """A file size limit stands in for the disk: the write is short first, then fails."""
    script = f"""
import resource, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
from test_journal_writer import BlockWriter, LAYOUT, MATRIX, meta
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
one = BlockWriter(Path({str(tmp_path)!r}), node="n1", boot="b1", slot="front-0")
number = one.declare(LAYOUT)
one.predictions(number, [meta(0)], MATRIX)
one.flush()
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
path = Path({str(tmp_path)!r}) / "n1" / "b1-front-0-00000001.open"
good = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (good + 200, limits[1]))
for row in range(10):
    one.predictions(number, [meta(100 + row)], MATRIX)
try:
    one.flush()
except OSError as error:
    print(error.errno, path.stat().st_size == good, one.buffered_bytes)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
one.predictions(number, [meta(1)], MATRIX)
one.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == [str(errno.EFBIG), "True", "0"], done.stderr
    path = tmp_path / "n1" / "b1-front-0-00000001.block"
    frames, _, stop = block.scan(memoryview(path.read_bytes()))
    rows = [
        row.row
        for frame in frames
        if frame.kind == FrameKind.PREDICTIONS
        for row in block.decode_predictions(frame, LAYOUT)
    ]
    assert (rows, stop) == ([0, 1], Stop.END)


def test_a_writer_needs_neither_numpy_nor_duckdb():
    script = (
        "import sys, doorstep.journal.writer\n"
        "heavy = {'numpy', 'duckdb', 'pandas', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_slot_is_free_again_when_its_writer_was_killed(tmp_path, open_writer):
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from doorstep.journal.writer import BlockWriter\n"
        "one = BlockWriter(Path(sys.argv[1]), node='n1', boot='b1', slot='front-0')\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(RefusedError):
            open_writer()
        process.send_signal(signal.SIGKILL)
        process.wait()
        open_writer().flush()
