"""What the ledger costs: appended events per second, beside plain inserts of the same bytes.

    python benchmarks/ledger/run.py

Both write to SQLite in WAL mode with synchronous=FULL, one transaction per batch, in the same run
and to the same disk, so that the ratio holds on any machine. The ledger's part is: encode the
event, hash it, grow the tree, keep the index columns and the head.

Goal: batches of 100 reach 2,000 events/s, and a ledger event in its own transaction costs at most
4 times a plain insert in one. Verifying reaches 10,000 events/s.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Column, LargeBinary, MetaData, Table, insert

from doorstep.core.instant import SystemClock
from doorstep.kernel.checkpoints import Signer, sign_checkpoint
from doorstep.kernel.db import Database
from doorstep.kernel.event import Object
from doorstep.kernel.keys import new_signing_key
from doorstep.kernel.ledger import export_lines, prove_inclusion, read_head, read_leaf
from doorstep.kernel.ledger_check import verify_ledger
from doorstep.kernel.schema import OPERATIONAL, Whole
from doorstep.migrations.upgrade import upgrade

BATCHES = {1: 300, 10: 2_000, 100: 10_000, 1_000: 20_000}  # events per commit: events in all
PER_SECOND_AT_100_MIN = 2_000
RATIO_AT_1_MAX = 4.0
VERIFIED_PER_SECOND_MIN = 10_000
DATA = {"service": "loans", "digest": "0" * 64, "evidence": {"auc": 0.781, "rows": 5000}}

plain = Table(
    "plain",
    MetaData(),
    Column("id", Whole, primary_key=True),
    Column("leaf", LargeBinary),
    info=dict(OPERATIONAL),
)


def append_events(database: Database, batch: int) -> None:
    with database.transaction() as unit:
        for _ in range(batch):
            unit.record("version.registered", Object("version", "loans@7"), DATA)


def insert_plain(database: Database, batch: int, leaf: bytes) -> None:
    with database.transaction() as unit:
        unit.connection.execute(insert(plain), [{"leaf": leaf} for _ in range(batch)])


def per_second(work: Callable[[int], None], batch: int, total: int) -> float:
    started_s = time.perf_counter()
    for _ in range(total // batch):
        work(batch)
    return total / (time.perf_counter() - started_s)


def measure_appends(database: Database) -> dict[int, tuple[float, float]]:
    """events per commit -> (ledger events/s, plain inserts/s)."""
    append_events(database, 1)
    with database.writing() as connection:
        plain.create(connection)
        leaf = read_leaf(connection, 0)
    print(f"{'events/commit':>14} {'ledger/s':>10} {'plain/s':>10} {'ratio':>7}")
    found = {}
    for batch, total in BATCHES.items():
        ledger_rate = per_second(lambda n: append_events(database, n), batch, total)
        plain_rate = per_second(lambda n: insert_plain(database, n, leaf), batch, total)
        found[batch] = ledger_rate, plain_rate
        print(
            f"{batch:>14,} {ledger_rate:>10,.0f} {plain_rate:>10,.0f} "
            f"{plain_rate / ledger_rate:>7.2f}"
        )
    return found


def measure_reads(database: Database, signer: Signer) -> float:
    """Verified events/s."""
    with database.reading() as connection:
        size = read_head(connection).size
        started_s = time.perf_counter()
        proofs = 200
        for number in range(proofs):
            prove_inclusion(connection, number * size // proofs, size)
        proof_ms = (time.perf_counter() - started_s) * 1000 / proofs
        started_s = time.perf_counter()
        exported = sum(len(line) for line in export_lines(connection))
        export_s = time.perf_counter() - started_s
    sign_checkpoint(database, signer, 1)
    with database.reading() as connection:
        started_s = time.perf_counter()
        report = verify_ledger(connection, signer.key.public)
        verified = size / (time.perf_counter() - started_s)
    assert report.is_whole, report.problems
    print(
        f"\n{size:,} events: inclusion proof {proof_ms:.2f} ms, export {exported / 1e6:.1f} MB in "
        f"{export_s:.2f} s, verified {verified:,.0f} events/s"
    )
    return verified


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/doorstep.db", SystemClock())
        upgrade(database)
        rates = measure_appends(database)
        signer = Signer(new_signing_key("benchmark"), Path(folder) / "ledger.note")
        verified = measure_reads(database, signer)
        database.close()
    batched, ratio = rates[100][0], rates[1][1] / rates[1][0]
    met = (
        batched >= PER_SECOND_AT_100_MIN
        and ratio <= RATIO_AT_1_MAX
        and verified >= VERIFIED_PER_SECOND_MIN
    )
    print(
        f"ledger: {batched:,.0f} events/s in batches of 100 (goal {PER_SECOND_AT_100_MIN:,}), "
        f"one alone costs {ratio:.2f} plain inserts (goal {RATIO_AT_1_MAX:g}), verified "
        f"{verified:,.0f}/s (goal {VERIFIED_PER_SECOND_MIN:,}): {'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
