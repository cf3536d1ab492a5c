"""Every fault that is promised to do no harm, done for real on real processes under load.

    make bench-faults         .venv/bin/python benchmarks/faults/run.py [--quick] [--kills 84]

Clients send all the while; one that gets no answer, or 502 to 504, asks once more, after what
Retry-After says. Each row counts the requests that failed at first, and those that failed again,
and looks for every answer in the journal: it must be there once. Exits 1 if a promise is broken:
P1 to P11 of the design's reliability promises. What many callers at once do is
`benchmarks/overload`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import installation
import node
from table import CONNECTIONS, HEAD, Row, line

GROUPS = ("installation", "database", "node")


def rows(asked: argparse.Namespace) -> Iterator[Row]:
    times = 1 if asked.quick else 3
    groups = asked.only or GROUPS
    if "installation" in groups:
        kinds = tuple(asked.kind or installation.KINDS)
        kills = asked.kills or (1 if asked.quick else 3)
        yield from installation.rows(kills, 0 if asked.kind else times, kinds)
    if "database" in groups and not asked.kind:
        yield from installation.database_gone(1 if asked.quick else 2)
    if "node" in groups and not asked.kind:
        yield from node.rows(times, 4 if asked.quick else 50, 3 if asked.quick else 21)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="each fault once or a few times")
    parser.add_argument("--kills", type=int, help="kills of each kind of process; default 3")
    parser.add_argument("--kind", choices=installation.KINDS, action="append", help="only kills")
    parser.add_argument("--only", choices=GROUPS, action="append", help="only these faults")
    asked = parser.parse_args()
    began_s = time.monotonic()
    print(f"{CONNECTIONS} clients for each service, 2 front workers\n\n{HEAD}", flush=True)
    done = []
    for row in rows(asked):
        row.conclude()
        print(line(row), flush=True)
        done.append(row)
    return conclude(done, time.monotonic() - began_s)


def conclude(done: list[Row], took_s: float) -> int:
    broken = [row.fault for row in done if row.broken]
    skipped = sum(bool(row.skipped) for row in done)
    print(
        f"\nfaults: {sum(len(row.took_s) for row in done)} faults of {len(done) - skipped} kinds "
        f"under {sum(row.requests for row in done):,} requests: "
        f"{sum(row.failed for row in done if not row.may_fail):,} failed for clients that ask once "
        f"more, {sum(row.lost for row in done)} records lost, "
        f"{sum(row.doubled for row in done)} doubled; {len(broken)} promises broken"
        f"{': ' + ', '.join(broken) if broken else ''}; {skipped} skipped; {took_s:.0f} s"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
