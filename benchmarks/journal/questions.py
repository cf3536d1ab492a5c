"""How long questions to a month of predictions take, beside SQLite and plain JSON lines.

    python benchmarks/journal/questions.py --rows 10000000

The journal is made as a node makes it: written in blocks, compacted, merged to a file a day. Each
question is asked QUESTIONS times; the table has the fastest, in this process and, where the
control plane does so, in a child that is started for it. SQLite has an index on the id and one on
the time, and the rows of DAYS_WRITTEN days; JSON lines are LINES_MAX: what reads all of them is
scaled up to all rows. Exits with 1 if a goal is missed, by CPU in this process: wall time is that
of an idle machine or of nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import duckdb
import msgspec
import numpy as np

from doorstep.core.manifest import ColumnProfile, PairProfile, Profile
from doorstep.core.record import Column, Layout, PredictionMeta
from doorstep.journal import duck, sql
from doorstep.journal.compactor import Compactor
from doorstep.journal.index import Entry, ListedFile, append_entry, fold, read_entries
from doorstep.journal.query import Question, ask, prediction, predictions
from doorstep.journal.rows import Filters
from doorstep.journal.sql import SqlQuestion, ask_sql
from doorstep.journal.summary import decode_summary, encode_summary
from doorstep.journal.tables import Span
from doorstep.journal.windows import SummaryCache, column_codes, counts
from doorstep.journal.writer import BlockWriter

ROWS = 2_000_000
DAYS, DAY_US = 30, 86_400_000_000
DAYS_WRITTEN = 3
"""Those that are written, compacted and merged; see `Made`."""
NUMBERS = 30
GROUP = 500
QUESTIONS = 7
LINES_MAX = 100_000
Times = tuple[float, float]
GOALS_MS = {"by day": 1000.0, "by id": 50.0, "month": 200.0}
LAYOUT = Layout(
    format=1,
    service="loans",
    numbers=(
        *(Column(f"in.n{i}", "float") for i in range(NUMBERS - 1)),
        Column("out.yes", "float"),
    ),
    texts=(Column("in.purpose", "category"), Column("out.answer", "text")),
)
PROFILE = Profile(
    format=1,
    rows=1000,
    columns=tuple(
        ColumnProfile(
            name=f"n{i}",
            type="float",
            edges=tuple(j / 32 for j in range(1, 32)),
            counts=(31,) * 32,
            nulls=0,
        )
        for i in range(NUMBERS - 1)
    ),
    pairs=PairProfile(
        columns=tuple(f"n{i}" for i in range(NUMBERS - 1)),
        correlations=(0.0,) * (PAIRS := (NUMBERS - 1) * (NUMBERS - 2) // 2),
        spreads=(1.0,) * PAIRS,
    ),
)  # fmt: skip
BY_DAY = (
    'SELECT date_trunc(\'day\', "time") AS day, count(*), avg("out.yes") FROM loans '
    "WHERE kind = 0 GROUP BY ALL ORDER BY ALL"
)


def rows_of_day(start: int, count: int, seed: int) -> Iterator[tuple[list[PredictionMeta], bytes]]:
    """Groups of one day in order of time, each with its matrix. They come in bursts: a
    daily summary is the same as of steady traffic, and is made much sooner."""
    chance, dice = np.random.default_rng(seed), random.Random(seed)
    for first in range(0, count, GROUP):
        size = min(GROUP, count - first)
        matrix = chance.random((size, NUMBERS))
        rows = []
        for i in range(size):
            at = start + first * (DAY_US // count) + i * 1000
            id = (at // 1000 << 80) | (7 << 76) | (2 << 62) | dice.getrandbits(61)
            answer = "yes" if matrix[i, -1] > 0.5 else "no"
            rows.append(
                PredictionMeta(
                    id.to_bytes(16, "big"), 0, at, 1 + i % 2, 1, 0, 0, "", 0, 0.0, "",
                    f"k{dice.randrange(100_000)}", "", 800, (), ("car", answer),
                )
            )  # fmt: skip
        yield rows, matrix.tobytes()


class Sqlite:
    def __init__(self, path: Path) -> None:
        self.con = sqlite3.connect(path, isolation_level=None)
        self.con.execute("PRAGMA journal_mode = OFF")
        self.con.execute("PRAGMA synchronous = OFF")
        numbers = ", ".join(f"n{i} REAL" for i in range(NUMBERS))
        self.con.execute(
            f"CREATE TABLE log (id BLOB, at INTEGER, version INTEGER, key TEXT, {numbers})"
        )
        self.insert = f"INSERT INTO log VALUES ({', '.join('?' * (NUMBERS + 4))})"

    def add(self, rows: list[PredictionMeta], matrix: bytes) -> None:
        numbers = np.frombuffer(matrix).reshape(-1, NUMBERS).tolist()
        self.con.execute("BEGIN")
        self.con.executemany(
            self.insert,
            [
                (row.request, row.at, row.version, row.key, *numbers[i])
                for i, row in enumerate(rows)
            ],
        )
        self.con.execute("COMMIT")

    def end(self) -> None:
        self.con.execute("CREATE INDEX by_id ON log (id)")
        self.con.execute("CREATE INDEX by_at ON log (at)")

    def by_day(self) -> list[tuple[int, int, float]]:
        text = f"SELECT at / {DAY_US}, count(*), avg(n{NUMBERS - 1}) FROM log GROUP BY 1"
        return self.con.execute(text).fetchall()

    def by_id(self, id: bytes) -> list[tuple[object, ...]]:
        return self.con.execute("SELECT * FROM log WHERE id = ?", (id,)).fetchall()


class JsonLines:
    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, 0
        self.file = path.open("w")

    def add(self, rows: list[PredictionMeta], matrix: bytes) -> None:
        if self.lines >= LINES_MAX:
            return
        numbers = np.frombuffer(matrix).reshape(-1, NUMBERS).tolist()
        for i, row in enumerate(rows):
            record = {"id": row.request.hex(), "at": row.at, "version": row.version, "key": row.key}
            self.file.write(json.dumps(record | {"numbers": numbers[i]}) + "\n")
        self.lines += len(rows)

    def end(self) -> None:
        self.file.close()

    def by_day(self) -> dict[int, list[float]]:
        days: dict[int, list[float]] = {}
        with self.path.open() as file:
            for line in file:
                record = json.loads(line)
                one = days.setdefault(record["at"] // DAY_US, [0, 0.0])
                one[0] += 1
                one[1] += record["numbers"][-1]
        return days

    def by_id(self, id: str) -> list[str]:
        with self.path.open() as file:
            return [line for line in file if id in line]


class Made:
    """A month in all three ways. some: one row of each block, to look up."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.home, self.rows = folder / "home", rows
        self.sqlite = Sqlite(folder / "log.db")
        self.lines = JsonLines(folder / "log.jsonl")
        self.some: list[PredictionMeta] = []
        today = time.time_ns() // 1000 // DAY_US * DAY_US
        self.since, self.until = today - (DAYS + 3) * DAY_US, today - 3 * DAY_US
        # Two writers, as two workers of a node would be, so that each day has something to merge.
        for slot in range(2):
            self._write(slot)
        self.sqlite.end()
        self.lines.end()
        with Compactor(self.home, "n1", lambda _service, _version: PROFILE) as compactor:
            compactor.run_once()
        self._repeat(self.home / "journal" / "n1")

    def _write(self, slot: int) -> None:
        for day in range(DAYS_WRITTEN):
            writer = BlockWriter(self.home / "journal", node="n1", boot=f"b{day}", slot=f"s{slot}")
            number = writer.declare(LAYOUT)
            seen: list[PredictionMeta] = []
            start, count = self.since + day * DAY_US, self.rows // DAYS // 2
            for rows, matrix in rows_of_day(start + slot, count, 2 * day + slot):
                writer.predictions(number, rows, matrix)
                writer.flush()
                self.sqlite.add(rows, matrix)
                self.lines.add(rows, matrix)
                seen.append(rows[len(rows) // 2])
            self.some.append(seen[(7 * day) % len(seen)])
            writer.close()

    def _repeat(self, folder: Path) -> None:
        """The files of the first days again, with later times and ids, for the rest of the month:
        such as the compactor would have made, but for the leaf hashes, in a tenth of the time."""
        written = list(fold(read_entries(folder)).files.values())
        with contextlib.closing(duck.connect(folder / ".spill")) as con:
            for day in range(DAYS_WRITTEN, DAYS):
                shift = day // DAYS_WRITTEN * DAYS_WRITTEN * DAY_US
                for file in written:
                    if (file.first - self.since) // DAY_US == day % DAYS_WRITTEN:
                        later = shifted(con, folder, file, shift)
                        append_entry(folder, Entry(at=file.last, files=(later,)))


def shifted(con: duckdb.DuckDBPyConnection, folder: Path, file: ListedFile, by: int) -> ListedFile:
    """A copy of the file and of its summary, so many microseconds later."""
    stem = f"{file.path.removesuffix('.parquet')}.{by}"
    parquet, beside = f"{stem}.parquet", f"{stem}.json"
    ms = f'(("at" + {by}) // 1000)'
    request = f"format('{{:08x}}-{{:04x}}', {ms} >> 16, {ms} & 65535) || substr(request, 14)"
    changed = f'"at" + {by} AS "at", {request} AS request, {request} || substr(id, 37) AS id'
    source = duck.parquet_of([folder / file.path])
    duck.copy_to(con, f"(SELECT * REPLACE ({changed}) FROM {source})", "", folder / parquet)
    summary = decode_summary((folder / file.summary).read_bytes())
    cells = tuple(msgspec.structs.replace(one, at=one.at + by) for one in summary.cells)
    later = msgspec.structs.replace(summary, cells=cells)
    (folder / beside).write_bytes(encode_summary(later))
    size = (folder / parquet).stat().st_size
    return msgspec.structs.replace(
        file, path=parquet, summary=beside, bytes=size, first=file.first + by, last=file.last + by
    )


def fastest_ms(question: Callable[[int], object], times: int = QUESTIONS) -> Times:
    """(wall, CPU of this process and of children that ended), each the least."""
    taken = []
    for number in range(times):
        begun, cpu = time.perf_counter(), cpu_s()
        assert question(number)
        taken.append((time.perf_counter() - begun, cpu_s() - cpu))
    wall, cpu = (min(one) * 1000 for one in zip(*taken, strict=True))
    return wall, cpu


def cpu_s() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def scaled(times: Times, scale: float) -> Times:
    return times[0] * scale, times[1] * scale


def query_here(made: Made, text: str) -> object:
    with tempfile.TemporaryDirectory() as temp:
        asked = SqlQuestion(
            home=str(made.home), temp=temp, sql=text, services=(), span=Span(), limit=1000
        )
        return sql.query(asked).rows


def measure(made: Made) -> list[tuple[str, str, Times]]:
    """(question, way, ms)."""
    home, some = made.home, made.some
    ids = [f"{UUID(bytes=one.request)}.0" for one in some]
    scale, sqlite_scale = made.rows / made.lines.lines, DAYS / DAYS_WRITTEN
    found = [
        ("by day", "journal", fastest_ms(lambda _: query_here(made, BY_DAY))),
        (
            "by day", "journal, in a child",
            fastest_ms(lambda _: ask_sql(home, BY_DAY, (), Span(), limit=99, timeout_s=60).rows),
        ),
        (
            "by day", "SQLite",
            scaled(fastest_ms(lambda _: made.sqlite.by_day(), 3), sqlite_scale),
        ),
        ("by day", "JSON lines", scaled(fastest_ms(lambda _: made.lines.by_day(), 1), scale)),
        ("by id", "journal", fastest_ms(lambda i: prediction(home, ids[i % len(ids)]))),
        (
            "by id", "journal, in a kept child",
            fastest_ms(
                lambda i: ask(Question(what="prediction", home=str(home), id=ids[i % len(ids)]))
            ),
        ),
        ("by id", "SQLite", fastest_ms(lambda i: made.sqlite.by_id(some[i % len(some)].request))),
        (
            "by id", "JSON lines",
            scaled(fastest_ms(lambda _: made.lines.by_id("nothing") == [], 1), scale),
        ),
        (
            "by key", "journal",
            fastest_ms(lambda i: predictions(
                home, "loans", 50, filters=Filters(key=some[i % len(some)].key))),
        ),
    ]  # fmt: skip
    cache = SummaryCache()
    month = (home, "loans", made.since, made.until)
    found.append(("month", "journal", fastest_ms(lambda _: column_codes(*month).cells)))
    column_codes(*month, cache=cache)
    found.append(
        (
            "month",
            "journal, summaries read",
            fastest_ms(lambda _: counts(*month, 3600, cache=cache)),
        )
    )
    return found


def main(rows: int = ROWS) -> int:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_DIR")) as folder:
        begun = time.perf_counter()
        made = Made(Path(folder), rows)
        files = list(made.home.rglob("*.parquet"))
        size_mb = sum(path.stat().st_size for path in files) / 1e6
        print(
            f"\n{rows:,} predictions of {DAYS} days, {NUMBERS} numbers each, made in "
            f"{time.perf_counter() - begun:.0f} s: {len(files)} Parquet files, {size_mb:.0f} MB\n"
        )
        found = measure(made)
    print(f"{'question':9} {'way':24} {'ms':>10} {'CPU ms':>10}")
    for question, way, (wall, cpu) in found:
        print(f"{question:9} {way:24} {wall:10.1f} {cpu:10.1f}")
    ours = {question: cpu for question, way, (_, cpu) in found if way == "journal"}
    met = all(ours[name] <= goal for name, goal in GOALS_MS.items())
    said = ", ".join(f"{n} {ours[n]:.0f} ms (goal {goal:g})" for n, goal in GOALS_MS.items())
    print(f"\n{'PASS' if met else 'FAIL'}: CPU of {said}; a child that is started costs more")
    return 0 if met else 1


def rows_asked() -> int:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("--rows", type=int, default=ROWS)
    return int(asked.parse_args().rows)


if __name__ == "__main__":
    sys.exit(main(rows_asked()))
