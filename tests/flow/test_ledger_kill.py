"""A writer that is killed at any moment leaves a ledger without gaps that verifies."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from doorstep.kernel import ledger
from doorstep.kernel.checkpoints import Signer, sign_checkpoint
from doorstep.kernel.db import Database
from doorstep.kernel.keys import ensure_signing_key
from doorstep.kernel.ledger_check import verify_ledger
from doorstep.migrations.upgrade import upgrade

KILLS = 10
LINES_MAX = 30

WRITER = """
import sys
from doorstep.core.instant import SystemClock
from doorstep.kernel.db import Database
from doorstep.kernel.event import Object
database = Database(sys.argv[1], SystemClock())
while True:
    with database.transaction() as unit:
        seqs = [unit.record("thing.added", Object("thing", "a"), {}).seq for _ in range(3)]
    print(seqs[-1], flush=True)
"""


def write_and_kill(url: str, lines: int) -> int:
    """The last event that the writer said was committed, before it was killed."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    said = [writer.stdout.readline() for _ in range(lines)]
    writer.kill()
    said += writer.stdout.readlines()
    writer.stdout.close()
    writer.wait()
    whole = [line for line in said if line.endswith(b"\n")]
    return int(whole[-1])


def test_a_killed_writer_leaves_a_gapless_ledger_that_verifies(
    database_url: str, open_database: Callable[..., Database], tmp_path: Path
):
    database = open_database(database_url)
    upgrade(database)
    key = ensure_signing_key(tmp_path / "ledger.key", "doorstep/test")
    signer, seeded = Signer(key, tmp_path / "ledger.note"), random.Random(7)
    for kill in range(KILLS):
        last = write_and_kill(database_url, seeded.randint(1, LINES_MAX))
        sign_checkpoint(database, signer, kill)
        with database.reading() as connection:
            report = verify_ledger(connection, key.public)
            seqs = [row.seq for row in ledger.scan(connection)]
        assert report.is_whole, report.problems
        assert seqs == list(range(report.size))
        assert report.size > last and report.size % 3 == 0
        assert report.checkpoints == kill + 1
