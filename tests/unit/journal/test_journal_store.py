"""The journal in an object store (here a folder): each file once, whatever dies; questions find
what has left the disk."""

from __future__ import annotations

import os
import shutil
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID

import msgspec
import numpy as np
import pytest

from doorstep.core.errors import DoorstepError, RefusedError, UnreachableError, UsageError
from doorstep.core.ids import new_id
from doorstep.core.instant import SECOND_US, Instant
from doorstep.core.record import Column, Layout, PredictionMeta
from doorstep.journal import away
from doorstep.journal.away import declare, fetch, locate, read_place
from doorstep.journal.compactor import Compactor
from doorstep.journal.index import fold, read_entries
from doorstep.journal.query import Question, ask
from doorstep.journal.reports import leave_report
from doorstep.journal.retain import Bounds
from doorstep.journal.snapshot import take_snapshots
from doorstep.journal.sql import ask_sql
from doorstep.journal.stored import read_status, read_stored
from doorstep.journal.tables import Span
from doorstep.journal.tally import no_profiles
from doorstep.journal.troubles import read_troubles
from doorstep.journal.upload import StoredIndex, Uploader
from doorstep.journal.windows import counts
from doorstep.journal.writer import BlockWriter

pytest.importorskip("obstore")
DAY = 86400 * SECOND_US
NOW = 20_000 * DAY
LAYOUT = Layout(
    format=1, service="loans", numbers=(Column("out.yes", "float"),),
    texts=(Column("out.answer", "text"),),
)  # fmt: skip
STEPS = ("store-put-one", "store-put", "store-delete", "store-noted", "store-list")


class Clock:
    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> Instant:
        return self.at

    def monotonic_s(self) -> float:
        return self.at / SECOND_US


class Crash(Exception):
    """The process is gone."""


class World:
    """A home with one node, and a folder that is its store."""

    def __init__(self, root: Path, name: str = "home") -> None:
        self.home, self.store, self.clock = root / name, root / "store", Clock()
        self.folder = self.home / "journal" / "n"
        self.home.mkdir()
        declare(self.home, f"file://{self.store}")
        self.ids: list[str] = []

    @property
    def place(self) -> Path:
        place = read_place(self.home)
        assert place is not None
        return self.store / "journal" / place.of("n")

    def write(self, days_ago: float) -> None:
        """One closed block with one record."""
        writer = BlockWriter(self.home / "journal", node="n", boot=new_id().hex[-12:], slot="s")
        at = NOW - round(days_ago * DAY)
        request = UUID(int=(at // 1000) << 80 | new_id().int % 2**80)
        row = PredictionMeta(
            request.bytes, 0, at, 1, 1, 0, 0, "", 0, 0.0, "", "", "u", 1, (), ("yes",)
        )
        writer.predictions(writer.declare(LAYOUT), [row], np.ones(1).tobytes())
        writer.close()
        self.ids.append(f"{request}.0")

    def compact(self, bytes_max: float = 1e12, keep_s: dict[str, float] | None = None) -> None:
        bounds = Bounds(keep_s or {}, bytes_max)
        with Compactor(
            self.home, "n", no_profiles, bounds=lambda: bounds, clock=self.clock
        ) as compactor:
            compactor.run_once()

    def uploader(self, reached: away.Callable[[str], None] = lambda _: None) -> Uploader:
        place = read_place(self.home)
        assert place is not None
        return Uploader(self.folder, place, clock=self.clock, reached=reached)

    def upload(self) -> None:
        self.uploader().run_once()
        status = read_status(self.folder)
        assert status is not None
        assert status.problem == ""

    def check(self) -> StoredIndex:
        """What is in the store is what is listed there and here, byte for byte."""
        stored = msgspec.json.decode((self.place / "index.json").read_bytes(), type=StoredIndex)
        listed = {one.path: one for one in stored.files}
        assert listed == fold(read_entries(self.folder)).files
        for path, one in listed.items():
            assert sha256((self.place / path).read_bytes()).hexdigest() == one.sha256
        there = {f"compacted/{one.name}" for one in (self.place / "compacted").iterdir()}
        wanted = {*listed, *stored.gone}
        assert there == wanted | {str(Path(one).with_suffix(".json")) for one in wanted}
        return stored

    def leave(self) -> None:
        """All that is old enough leaves this disk for the store, and the cache is emptied."""
        self.compact(bytes_max=0)
        for path in (self.home / "store").glob("*/compacted/*.parquet"):
            os.utime(path, (1, 1))
        self.compact(bytes_max=0)
        for path in (self.home / "store").glob("*/compacted/*.parquet"):
            path.unlink()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_each_file_is_put_once_and_again_by_nobody(world: World) -> None:
    for days in (9, 1, 0):
        world.write(days)
    world.compact()
    world.upload()
    assert len(world.check().files) == 3
    # The list is written by each who starts, to say that it is theirs.
    before = {
        one: one.stat().st_mtime_ns for one in world.place.rglob("*.*") if one.parent != world.place
    }
    world.upload()
    world.uploader().run_once()
    assert {one: one.stat().st_mtime_ns for one in before} == before
    status = read_status(world.folder)
    assert status is not None
    assert (status.files, status.waiting_files, status.behind_since) == (3, 0, 0)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("later", [0, 1, 2])
def test_a_crash_at_any_step_is_repaired_by_the_next_run(
    world: World, step: str, later: int
) -> None:
    """With files to be put, others that a merge replaced, and others that are to be deleted."""
    for minute in range(3):
        world.write(-minute / 1440)
    world.compact()
    world.upload()
    world.clock.at += 2 * 3600 * SECOND_US
    world.write(0.5)
    world.compact()
    world.clock.at += 1000 * SECOND_US
    left = later

    def die(reached: str) -> None:
        nonlocal left
        left -= reached == step
        if left < 0:
            raise Crash

    uploader = world.uploader(die)
    for _ in range(3):
        try:
            uploader.run_once()
        except Crash:
            if (world.place / "index.json").exists():
                there = msgspec.json.decode((world.place / "index.json").read_bytes())
                assert {one["path"] for one in there["files"]} <= read_stored(world.folder)
            break
        world.clock.at += 1000 * SECOND_US
    world.compact()
    world.upload()
    world.clock.at += 1000 * SECOND_US
    world.upload()
    assert not world.check().gone
    world.compact()
    assert len(ask(Question(what="predictions", home=str(world.home), service="loans"))) == 4


def test_a_file_that_left_the_disk_before_the_list_of_the_store_was_up_is_there(
    world: World,
) -> None:
    for days in (9, 8):
        world.write(days)
    world.compact()

    noted = 0

    def go_away(reached: str) -> None:
        nonlocal noted
        noted += reached == "store-noted"
        if noted == 2:
            raise UnreachableError("store-unreachable", "the list did not get there")

    world.uploader(go_away).run_once()
    assert b"parquet" not in (world.place / "index.json").read_bytes()
    world.leave()
    assert not list((world.folder / "compacted").glob("*.parquet"))
    world.upload()
    world.check()
    gone = next((world.place / "compacted").glob("*.parquet"))
    (world.place / "index.json").unlink()
    gone.unlink()
    world.uploader().run_once()
    status = read_status(world.folder)
    assert status is not None
    assert "store-file-gone" in status.problem


def test_a_report_waits_for_the_store_and_is_put_once(world: World) -> None:
    leave_report(world.home, "loans", "f1-opened", 1, b'{"format": 1}')
    world.write(0)
    world.compact()

    def go_away(reached: str) -> None:
        if reached == "store-put":
            raise UnreachableError("store-unreachable", "away")

    world.uploader(go_away).run_once()
    place = read_place(world.home)
    assert place is not None
    there = world.store / "reports" / place.id / "loans" / "f1-opened-1.json"
    assert not there.exists()
    world.upload()
    assert there.read_bytes() == b'{"format": 1}'
    assert not list((world.home / "store" / "reports").rglob("*.json"))
    put_at = there.stat().st_mtime_ns
    # Another node of this home, or this one after a crash, has it still.
    leave_report(world.home, "loans", "f1-opened", 1, b'{"format": 1}')
    world.upload()
    assert there.stat().st_mtime_ns == put_at
    world.check()


def test_reports_go_when_they_are_older_than_the_service_keeps_its_records(world: World) -> None:
    for service, days in (("loans", 12), ("loans", 2), ("loans2", 12)):
        leave_report(world.home, service, "f1-opened", NOW - days * DAY, b"{}")
    world.write(0)
    world.compact()
    world.upload()
    place = read_place(world.home)
    assert place is not None

    def left() -> list[str]:
        there = (world.store / "reports" / place.id).rglob("*.json")
        return sorted(f"{one.parent.name} {(NOW - int(one.stem[10:])) // DAY}" for one in there)

    assert left() == ["loans 12", "loans 2", "loans2 12"]
    keep_s = {"loans": 10 * 86_400.0}

    def look(hours: int) -> list[str]:
        world.clock.at = NOW + hours * DAY // 24
        Uploader(world.folder, place, clock=world.clock, keep_s=lambda: keep_s).run_once()
        return left()

    for hours in (0, 23):
        assert look(hours) == ["loans 12", "loans 2", "loans2 12"]
    # Neither a clock that jumps, and comes back, nor one that stays there for less than a day.
    for hours in (24, 900 * 24, 900 * 24 + 23, 5 * 24, 9 * 24):
        assert look(hours) == ["loans 2", "loans2 12"]
    assert look(10 * 24) == ["loans2 12"]


def test_without_a_store_no_report_is_left(tmp_path: Path) -> None:
    leave_report(tmp_path, "loans", "f1-opened", 1, b"{}")
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_nobody_listed_is_removed_when_its_file_is_gone(world: World) -> None:
    world.write(1)
    world.compact()
    world.upload()
    (world.place / "compacted" / "dead.parquet").write_bytes(b"put and never listed")
    world.upload()
    world.check()


def test_what_a_merge_replaced_goes_once_the_new_list_is_up_and_nobody_reads_it(
    world: World,
) -> None:
    for minute in range(3):
        world.write(-minute / 1440)
    world.compact()
    world.upload()
    world.clock.at += 2 * 3600 * SECOND_US
    world.compact()
    # The merge is done here and not told: its inputs stay here as long as the store lists them.
    world.clock.at += 1000 * SECOND_US
    world.compact()
    assert len(list(world.folder.glob("compacted/*.parquet"))) == 4
    world.upload()
    stored = world.check()
    assert (len(stored.files), len(stored.gone)) == (1, 3)
    world.compact()
    assert len(list(world.folder.glob("compacted/*.parquet"))) == 1
    world.upload()
    assert len(world.check().gone) == 3
    world.clock.at += 1000 * SECOND_US
    world.upload()
    assert not world.check().gone


def test_a_question_fetches_what_has_left_the_disk(world: World) -> None:
    for days in (9, 8, 0):
        world.write(days)
    world.compact()
    world.upload()
    world.leave()
    assert len(list(world.folder.glob("compacted/*.parquet"))) == 1
    home = str(world.home)
    with pytest.raises(RefusedError, match="files-away"):
        locate(
            file
            for one in take_snapshots(world.home)
            for file in one.listed("loans", "predictions")
        )
    assert ask(Question(what="prediction", home=home, id=world.ids[0]))["id"] == world.ids[0]
    assert len(list(world.home.glob("store/*/compacted/*.parquet"))) == 1
    rows = ask(Question(what="predictions", home=home, service="loans"))
    assert sorted(row["id"] for row in rows) == sorted(world.ids)
    found = ask_sql(
        world.home, "SELECT count(*) FROM predictions", (), Span(), limit=10, timeout_s=60
    )
    assert found.rows == ((3,),)
    world.upload()
    world.check()


def test_the_cache_is_bounded_and_says_so(world: World) -> None:
    for days in (9, 8):
        world.write(days)
    world.compact()
    world.upload()
    world.leave()
    one, other = sorted(fold(read_entries(world.folder)).files.values(), key=lambda file: file.last)
    names = [f"journal/n/{file.path}" for file in (one, other)]
    with pytest.raises(RefusedError, match="store-cache-full"):
        fetch(world.home, names, bytes_max=one.bytes + other.bytes - 1)
    fetch(world.home, names[:1], bytes_max=one.bytes)
    with pytest.raises(RefusedError, match="store-cache-full"):
        fetch(world.home, names[1:], bytes_max=other.bytes)
    (cached,) = world.home.glob("store/*/compacted/*.parquet")
    os.utime(cached, (1, 1))
    fetch(world.home, names[1:], bytes_max=other.bytes)
    (cached,) = world.home.glob("store/*/compacted/*.parquet")
    assert cached.name == Path(other.path).name


def test_an_object_that_changed_or_went_is_no_answer(world: World) -> None:
    world.write(9)
    world.compact()
    world.upload()
    world.leave()
    (path,) = fold(read_entries(world.folder)).files
    (world.place / path).write_bytes(b"something else")
    with pytest.raises(DoorstepError, match="store-file-changed"):
        fetch(world.home, [f"journal/n/{path}"])
    (world.place / path).unlink()
    with pytest.raises(RefusedError, match="store-file-gone"):
        fetch(world.home, [f"journal/n/{path}"])
    assert not list(world.home.glob("store/*/compacted/*"))


def test_what_is_too_old_goes_from_the_store_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The list is shortened at each run.
    monkeypatch.setattr("doorstep.journal.merge.ENTRIES_SPARE_MAX", -100)
    keep_s = {"loans": 10 * 86400.0}
    for days in (20, 1):
        world.write(days)
    world.compact(keep_s=keep_s)
    world.upload()
    world.leave()
    world.compact(keep_s=keep_s)
    world.clock.at += DAY
    for _ in range(3):
        world.compact(keep_s=keep_s)
        world.clock.at += 1000 * SECOND_US
    world.upload()
    world.clock.at += 1000 * SECOND_US
    world.upload()
    stored = world.check()
    assert [one.rows for one in stored.files] == [1]
    assert not stored.gone


def test_an_older_copy_of_the_home_removes_nothing_from_the_store(world: World) -> None:
    world.write(2)
    world.compact()
    world.upload()
    shutil.copytree(world.folder, world.home / "copy")
    world.write(1)
    world.compact()
    world.upload()
    before = world.check()
    shutil.rmtree(world.folder)
    (world.home / "copy").rename(world.folder)
    world.uploader().run_once()
    status = read_status(world.folder)
    assert status is not None
    assert "store-ahead" in status.said(world.clock.now())
    stored = msgspec.json.decode((world.place / "index.json").read_bytes(), type=StoredIndex)
    assert stored == before
    for name in ("index.jsonl", "compacted"):
        (world.folder / name).rename(world.home / f"{name}.aside")
    (world.home / "store.json").unlink()
    declare(world.home, f"file://{world.store}")
    world.upload()
    rows = ask(Question(what="predictions", home=str(world.home), service="loans"))
    assert sorted(one["id"] for one in rows) == sorted(world.ids)


def test_of_two_live_copies_of_a_home_the_one_that_started_last_writes(
    tmp_path: Path, world: World
) -> None:
    world.write(1)
    world.compact()
    world.upload()
    shutil.copytree(world.home, tmp_path / "copy")
    first = world.uploader()
    first.run_once()
    world.write(0)
    world.compact()
    copy = Uploader(tmp_path / "copy" / "journal" / "n", read_place(world.home), clock=world.clock)
    steps = []

    def start_the_copy(reached: str) -> None:
        steps.append(reached)
        if reached == "store-put":
            # What the first has put and not listed is nothing to the copy.
            copy.run_once()

    first._reached = start_the_copy
    first.run_once()
    assert steps[-1] == "store-noted", "nothing is deleted behind a list that was refused"
    status = read_status(world.folder)
    assert "store-shared" in status.said(world.clock.now())
    assert status.waiting_files == 1
    stored = msgspec.json.decode((world.place / "index.json").read_bytes(), type=StoredIndex)
    assert [one.rows for one in stored.files] == [1]
    assert {f"compacted/{one.name}" for one in world.place.glob("compacted/*.parquet")} == {
        one.path for one in stored.files
    }
    assert read_stored(world.folder) == {one.path for one in stored.files}
    for _ in range(2):
        first.run_once()
        assert "store-shared" in read_status(world.folder).said(world.clock.now())
    copy.run_once()
    assert read_status(tmp_path / "copy" / "journal" / "n").problem == ""
    # Whoever is started again is the last, and the other hears of it though it writes nothing.
    world.upload()
    world.check()
    world.clock.at += 30 * SECOND_US
    copy.run_once()
    assert "store-shared" in read_status(tmp_path / "copy" / "journal" / "n").problem


def test_a_file_that_cannot_be_merged_keeps_no_other_from_going(world: World) -> None:
    for days_ago in (9.9, 9.901, 2.9):
        world.write(days_ago)
    world.clock.at = NOW - 11 * DAY
    world.compact()
    for path in world.folder.glob("compacted/*.parquet"):
        path.write_bytes(b"PAR1")
    world.clock.at = NOW
    for _ in range(2):
        world.compact(keep_s={"loans": 5.0 * 86_400})
        world.clock.at += DAY
    assert any("Invalid Input Error" in one.why for one in read_troubles(world.folder))
    assert len(fold(read_entries(world.folder)).files) == 1


def test_a_copy_that_lost_its_place_replaces_nothing_of_the_other(
    tmp_path: Path, world: World
) -> None:
    world.write(1)
    first = world.uploader()
    first.run_once()
    shutil.copytree(world.home, tmp_path / "copy")
    world.compact()
    copy = World.__new__(World)
    copy.home, copy.folder, copy.clock = tmp_path / "copy", tmp_path / "copy/journal/n", world.clock
    copy.store, copy.ids = world.store, world.ids
    copy.compact()
    copy.upload()
    # As where the two made different keys of the same person.
    (path,) = world.folder.glob("compacted/*.parquet")
    path.write_bytes(path.read_bytes() + b"another")
    first.run_once()
    assert "store-shared" in read_status(world.folder).problem
    copy.check()


def test_a_bucket_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    class Nothing(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            said = b"<Error><Code>NoSuchBucket</Code></Error>"
            self.send_response(404)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_PUT = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}"),
            ("AWS_ACCESS_KEY_ID", "who"),
            ("AWS_SECRET_ACCESS_KEY", "ever"),
        ):
            monkeypatch.setenv(name, value)
        (world.home / "store.json").unlink()
        declare(world.home, "s3://nobody/here")
        world.write(1)
        world.compact()
        world.uploader().run_once()
        server.shutdown()
    status = read_status(world.folder)
    assert "NoSuchBucket" in status.said(world.clock.now())
    assert status.waiting_files == 1


def test_a_store_that_does_not_answer_is_said_after_a_quarter_of_an_hour(world: World) -> None:
    world.write(1)
    world.compact()
    world.store.write_bytes(b"a file is no folder")
    uploader = world.uploader()
    for minutes, is_said in ((0, False), (14, False), (2, True)):
        world.clock.at += minutes * 60 * SECOND_US
        uploader.run_once()
        status = read_status(world.folder)
        assert status is not None
        assert status.waiting_files == 1
        assert bool(status.said(world.clock.now())) is is_said
    world.store.unlink()
    uploader.run_once()
    status = read_status(world.folder)
    assert status is not None
    assert (status.said(world.clock.now()), status.waiting_files) == ("", 0)
    world.check()


URLS = ("", "bucket", "ftp://x", "s3://", "s3://key:secret@bucket/x", "s3://bucket?key=secret")


@pytest.mark.parametrize("url", URLS)
def test_a_store_is_a_url_without_secrets_and_none_is_said(world: World, url: str) -> None:
    with pytest.raises(UsageError, match="bad-store") as refused:
        declare(world.home, url)
    assert "secret" not in str(refused.value)


def test_a_store_stays_while_files_are_in_it_alone(world: World) -> None:
    world.write(9)
    world.compact()
    world.upload()
    declare(world.home, f"file://{world.store}")
    world.leave()
    for url in ("none", "file:///elsewhere"):
        with pytest.raises(RefusedError, match="store-needed"):
            declare(world.home, url)
    assert read_place(world.home).url == f"file://{world.store}"


def test_another_home_with_the_same_store_finds_what_is_there(tmp_path: Path, world: World) -> None:
    other = World(tmp_path, "other")
    other.write(0)
    for minute in range(3):
        world.write(-minute / 1440)
    for one in (world, other):
        one.compact()
        one.upload()
    home = str(other.home)
    assert ask(Question(what="prediction", home=home, id=world.ids[0]))["id"] == world.ids[0]
    assert counts(other.home, "loans", NOW, NOW + DAY, 3600)[0].rows == 4

    world.clock.at += 2 * 3600 * SECOND_US
    world.compact()
    world.upload()
    world.clock.at += 1000 * SECOND_US
    world.upload()
    other.clock.at = world.clock.at
    other.upload()
    rows = ask(Question(what="predictions", home=home, service="loans"))
    assert sorted(row["id"] for row in rows) == sorted(world.ids + other.ids)
    assert counts(other.home, "loans", NOW, NOW + DAY, 3600)[0].rows == 4
    shutil.rmtree(world.place)
    other.clock.at += 60 * SECOND_US
    other.upload()
    assert len(ask(Question(what="predictions", home=home, service="loans"))) == 1


def test_another_home_s_list_writes_nowhere_but_in_its_folder(
    tmp_path: Path, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    world.write(0)
    world.compact()
    world.upload()
    other = World(tmp_path, "other")
    stored = world.check()
    bad = [msgspec.structs.replace(one, summary="../../../stolen") for one in stored.files]
    text = msgspec.json.encode(msgspec.structs.replace(stored, files=tuple(bad)))
    (world.place / "index.json").write_bytes(text)
    (world.place.parent / "stolen").write_bytes(b"{}")
    other.folder.mkdir(parents=True)
    other.upload()
    assert "unsafe-path" in capfd.readouterr().err
    assert not list(other.home.rglob("stolen"))
