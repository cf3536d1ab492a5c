"""Every flushed record is there exactly once, however its writer or the compactor died."""

import os
import random
import signal
import subprocess
import sys
import textwrap
from uuid import UUID

import pytest

from doorstep.core.record import Column, Layout
from doorstep.journal.compactor import Compactor, pending_closed
from doorstep.journal.index import fold, read_entries
from doorstep.journal.query import predictions
from doorstep.journal.reader import Group, read_block
from doorstep.journal.rows import Filters
from doorstep.journal.snapshot import take_snapshots
from doorstep.journal.tally import no_profiles
from doorstep.journal.windows import counts
from doorstep.journal.writer import BlockWriter

LAYOUT = Layout(
    format=1,
    service="loans",
    numbers=(Column("in.age", "int"), Column("out.yes", "float")),
    texts=(Column("out.answer", "text"),),
)
WRITE = """
import os, struct, sys, time, uuid
from pathlib import Path
from doorstep.core.record import Column, Layout, PredictionMeta
from doorstep.journal import writer
from doorstep.journal.writer import BlockWriter

writer.BLOCK_BYTES_MAX = 4000
home, boot, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
layout = Layout(format=1, service="loans",
    numbers=(Column("in.age", "int"), Column("out.yes", "float")),
    texts=(Column("out.answer", "text"),))
one = BlockWriter(home / "journal", node="n1", boot=boot, slot="front-0")
number = one.declare(layout)
for group in range(limit):
    requests = [os.urandom(16) for _ in range(1 + group % 5)]
    rows = [PredictionMeta(request, 0, 1_700_000_000_000_000 + group, 1, 1, 0, 0, "", 0, 0.0, "",
                           "k", "u", 800, (), ("yes",)) for request in requests]
    one.predictions(number, rows, struct.pack("<2d", group, 0.5) * len(rows))
    one.flush()
    os.write(1, "".join(f"{uuid.UUID(bytes=request)}.0\\n" for request in requests).encode())
one.close()
"""


def start_writer(home, boot, limit=10**6):
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, str(home), boot, str(limit)], stdout=subprocess.PIPE
    )


def write_all(home, boot, limit):
    with start_writer(home, boot, limit) as process:
        out, _ = process.communicate()
    assert process.returncode == 0
    return out.decode().split()


def kill_after(home, boot, output_bytes):
    """Ids that the writer acknowledged before it was killed, whole lines only."""
    with start_writer(home, boot) as process:
        got = b""
        while len(got) < output_bytes:
            got += os.read(process.stdout.fileno(), 4096)
        process.send_signal(signal.SIGKILL)
        while chunk := os.read(process.stdout.fileno(), 65536):
            got += chunk
    return got[: got.rfind(b"\n") + 1].decode().split()


def ids_in(home):
    """Every id that a reader finds now: listed files by DuckDB, and unlisted blocks."""
    import duckdb

    found = []
    for snapshot in take_snapshots(home):
        for path in (folder / one.path for folder, one in snapshot.listed("loans", "predictions")):
            found += duckdb.sql(f"SELECT id FROM read_parquet('{path}')").fetchall()
        for tail in snapshot.tails:
            for one in tail.parts():
                assert isinstance(one.part, Group)
                found += [(str(UUID(bytes=row.request)) + ".0",)
                          for row in one.part.rows]  # fmt: skip
    return sorted(row[0] for row in found)


def compact(home, **options):
    with Compactor(home, "n1", no_profiles, **options) as compactor:
        return compactor.run_once()


def test_twenty_killed_writers_lose_nothing_that_they_acknowledged(tmp_path):
    seeded = random.Random(7)
    acknowledged = []
    for kill in range(20):
        acknowledged += kill_after(tmp_path, f"b{kill % 3}", seeded.randrange(1, 12_000))
        if kill % 4 == 3:
            compact(tmp_path)
    before = ids_in(tmp_path)
    assert len(before) == len(set(before))
    assert set(acknowledged) <= set(before)
    compact(tmp_path)
    assert ids_in(tmp_path) == before
    assert not list((tmp_path / "journal" / "n1").glob("*.open"))
    assert not list((tmp_path / "journal" / "n1").glob("*.block"))


STEPS = ["write", "sync", "rename", "closed", "list", "delete"]


def die_at(home, step, hours_later=0):
    """Run the compactor in a process that is killed when it reached the step."""
    script = textwrap.dedent(f"""
        import os, signal, time
        from pathlib import Path
        from doorstep.journal.compactor import Compactor
        from doorstep.journal.tally import no_profiles
        class Later:
            def now(self): return time.time_ns() // 1000 + {hours_later} * 3600 * 10**6
            def monotonic_s(self): return time.monotonic()
        def reached(step):
            if step == {step!r}:
                os.kill(os.getpid(), signal.SIGKILL)
        with Compactor(Path({str(home)!r}), "n1", no_profiles, clock=Later(), reached=reached) as c:
            c.run_once()
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("step", STEPS)
def test_a_compactor_killed_at_any_step_leaves_each_record_exactly_once(tmp_path, step):
    acknowledged = sorted(write_all(tmp_path, "b1", 20))
    blocks = sorted(path.stem for path in (tmp_path / "journal" / "n1").glob("*.block"))
    assert len(blocks) > 1
    die_at(tmp_path, step)
    assert ids_in(tmp_path) == acknowledged
    compact(tmp_path)
    assert ids_in(tmp_path) == acknowledged
    assert [one.block for one in pending_closed(tmp_path)] == blocks
    assert sum(row.rows for row in counts(tmp_path, "loans", 0, 2 * 10**15)) == len(acknowledged)
    listed = [one.block for one in read_entries(tmp_path / "journal" / "n1") if one.block]
    assert sorted(listed) == blocks
    assert not list((tmp_path / "journal" / "n1" / "compacted").glob(".*"))


@pytest.mark.parametrize("step", ["merge-write", "sync", "rename", "merge-list"])
def test_a_merge_killed_at_any_step_leaves_each_record_exactly_once(tmp_path, step):
    acknowledged = sorted(write_all(tmp_path, "b1", 20))

    class Before:
        """The records' own hour: nothing is due for a merge yet."""

        def now(self):
            return 1_700_000_000_000_000

    compact(tmp_path, clock=Before())
    files = fold(read_entries(tmp_path / "journal" / "n1")).files
    assert {one.level for one in files.values()} == {"block"}
    die_at(tmp_path, step)
    assert ids_in(tmp_path) == acknowledged
    compact(tmp_path)
    (merged,) = fold(read_entries(tmp_path / "journal" / "n1")).files.values()
    assert (merged.level, merged.rows) == ("day", len(acknowledged))
    assert ids_in(tmp_path) == acknowledged
    assert sum(row.rows for row in counts(tmp_path, "loans", 0, 2 * 10**15)) == len(acknowledged)


def test_a_torn_line_of_the_index_is_ignored_and_cut_off(tmp_path):
    acknowledged = sorted(write_all(tmp_path, "b1", 20))
    compact(tmp_path)
    index = tmp_path / "journal" / "n1" / "index.jsonl"
    index.write_bytes(index.read_bytes() + b'{"at": 17, "blo')
    assert ids_in(tmp_path) == acknowledged
    more = write_all(tmp_path, "b2", 3)
    compact(tmp_path)
    assert ids_in(tmp_path) == sorted(acknowledged + more)


def test_a_full_disk_stops_the_compactor_and_loses_nothing(tmp_path):
    acknowledged = sorted(write_all(tmp_path, "b1", 40))
    script = textwrap.dedent(f"""
        import resource, signal
        from pathlib import Path
        from doorstep.journal.compactor import Compactor
        from doorstep.journal.tally import no_profiles
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        with Compactor(Path({str(tmp_path)!r}), "n1", no_profiles) as compactor:
            compactor.run_once()
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert ids_in(tmp_path) == acknowledged
    compact(tmp_path)
    assert ids_in(tmp_path) == acknowledged


def test_readers_see_each_record_once_while_it_is_compacted(tmp_path):
    """The reader looks after each step of a compactor that goes on."""
    acknowledged = sorted(write_all(tmp_path, "b1", 12))
    seen = []

    def look(step):
        seen.append((step, ids_in(tmp_path) == acknowledged))

    compact(tmp_path, reached=look)
    assert {step for step, _ in seen} >= set(STEPS)
    assert all(is_right for _, is_right in seen)


def test_the_command_line_compacts_once_and_refuses_a_second_compactor(tmp_path):
    acknowledged = write_all(tmp_path, "b1", 5)
    command = [sys.executable, "-m", "doorstep.journal.compactor", "--home", str(tmp_path)]
    command += ["--node", "n1", "--once"]
    with Compactor(tmp_path, "n1", no_profiles):
        busy = subprocess.run(command, capture_output=True, text=True)
        assert busy.returncode == 1
        assert "compactor-running" in busy.stderr
    subprocess.run(command, check=True)
    rows = predictions(tmp_path, "loans", 100, filters=Filters(version=1))
    assert sorted(row["id"] for row in rows) == sorted(acknowledged)
    assert all(len(row["leaf_hash"]) == 64 for row in rows)


def test_a_damaged_closed_block_gives_its_whole_frames_and_is_kept(tmp_path):
    one = BlockWriter(tmp_path / "journal", node="n1", boot="b1", slot="front-0")
    one.close()
    write_all(tmp_path, "b1", 3)
    (path,) = (tmp_path / "journal" / "n1").glob("*.block")
    data = bytearray(path.read_bytes())
    last = read_block(bytes(data)).frames[-2]
    data[last.start + 40] ^= 1
    path.write_bytes(data)
    (entry,) = compact(tmp_path)
    assert entry.closed.damaged_bytes == len(data) - last.start
    assert path.with_suffix(".damaged").exists()
    assert len(ids_in(tmp_path)) == entry.closed.rows == 3
