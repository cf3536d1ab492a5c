"""The journal in a real S3 store that is killed, and whose uploader is killed, under load."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from doorstep.journal.away import declare, read_place
from doorstep.journal.compactor import Compactor
from doorstep.journal.index import fold, read_entries
from doorstep.journal.reports import leave_report
from doorstep.journal.stored import StoreStatus, read_status
from doorstep.journal.tally import no_profiles
from doorstep.journal.upload import StoredIndex, Uploader
from doorstep.kernel.store import Store
from doorstep.testing.home import TestHome
from doorstep.testing.node import RunningNode
from fakes.faults import Missing
from fakes.s3 import SECRET, S3Server, running_s3
from flow.test_journal_kill import start_writer, write_all

WAIT_S = 300
KILLS = 12


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One for all, as it takes long to start: a test has a prefix of its own, and starts it again
    if it killed it."""
    try:
        with running_s3(tmp_path_factory.mktemp("s3")) as server:
            yield server
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def home(tmp_path: Path, s3: S3Server) -> Path:
    (tmp_path / "home").mkdir()
    declare(tmp_path / "home", f"s3://doorstep/{tmp_path.name}")
    return tmp_path / "home"


def wait(what: Callable[[], object], about: str) -> None:
    until_s = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < until_s, f"waited {WAIT_S} s for {about}"
        time.sleep(0.1)


def start_compactor(home: Path, **variables: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "doorstep.journal.compactor", "--home", str(home)]
    return subprocess.Popen(
        [*command, "--node", "n1", "--every", "0.2"],
        env=os.environ | variables, stdin=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def status(home: Path) -> StoreStatus:
    return read_status(home / "journal" / "n1") or StoreStatus(at=0, url="")


class Writer:
    """It writes until it is killed, some thousands a second: it waits while nobody reads what it
    says, and would wait for ever if nobody did."""

    def __init__(self, home: Path) -> None:
        self._process = start_writer(home, "b1")
        self._said = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while part := os.read(self._process.stdout.fileno(), 4096):
            self._said += part
            time.sleep(0.05 if self._process.poll() is None else 0.0)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def end(self) -> list[str]:
        """What it acknowledged; whole lines."""
        self.kill()
        return self._said[: self._said.rfind(b"\n") + 1].decode().split()


def listed_rows(home: Path) -> int:
    return sum(one.rows for one in fold(read_entries(home / "journal" / "n1")).files.values())


def is_whole(home: Path) -> bool:
    """Nothing is open or waits, and the store's list is ours."""
    folder = home / "journal" / "n1"
    if list(folder.glob("*.open")) + list(folder.glob("*.block")):
        return False
    found = Store(read_place(home).url).get(f"journal/{read_place(home).of('n1')}/index.json")
    stored = msgspec.json.decode(found.data, type=StoredIndex) if found else None
    return stored is not None and {one.path: one for one in stored.files} == (
        fold(read_entries(folder)).files
    )


def ids_in_store(home: Path, temp: Path) -> list[str]:
    """From the store's list and objects alone, whose digests must be as listed."""
    import duckdb

    store, prefix = Store(read_place(home).url), f"journal/{read_place(home).of('n1')}"
    stored = msgspec.json.decode(store.get(f"{prefix}/index.json").data, type=StoredIndex)
    temp.mkdir()
    found = []
    for number, one in enumerate(stored.files):
        path = temp / f"{number}.parquet"
        assert store.fetch(f"{prefix}/{one.path}", path) == one.sha256
        assert sha256((home / "journal" / "n1" / one.path).read_bytes()).hexdigest() == one.sha256
        found += duckdb.sql(f"SELECT id FROM read_parquet('{path}')").fetchall()
    wanted = {*(one.path for one in stored.files), *stored.gone}
    objects = {f"{prefix}/{Path(one).with_suffix(end)}" for one in wanted for end in SUFFIXES}
    assert store.names(f"{prefix}/compacted") == objects
    return sorted(row[0] for row in found)


SUFFIXES = (".parquet", ".json")


def test_an_outage_under_load_loses_nothing_and_doubles_nothing(
    home: Path, s3: S3Server, tmp_path: Path
) -> None:
    writer, compactor = Writer(home), start_compactor(home)
    try:
        wait(lambda: status(home).files > 0, "the first upload")
        s3.kill()
        wait(lambda: status(home).behind_since, "an upload that fails")
        was = listed_rows(home)
        wait(lambda: listed_rows(home) > 2 * was, "compaction without it")
        s3.start()
        wait(lambda: not status(home).behind_since, "an upload that succeeds")
        acknowledged = writer.end()
        wait(lambda: is_whole(home), "the rest of it")
    finally:
        writer.kill()
        compactor.kill()
        compactor.wait()
    found = ids_in_store(home, tmp_path / "fetched")
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)


def test_an_uploader_that_is_killed_at_random_leaves_each_file_once(
    home: Path, s3: S3Server, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    writer = Writer(home)
    compactor = start_compactor(home)
    try:
        wait(lambda: status(home).files > 0, "the first upload")
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.05, 1.5))
            compactor.kill()
            compactor.wait()
            compactor = start_compactor(home)
        acknowledged = writer.end()
        wait(lambda: is_whole(home), "the rest of it")
    finally:
        writer.kill()
        compactor.kill()
        compactor.wait()
    found = ids_in_store(home, tmp_path / "fetched")
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)


def compact(home: Path, boot: str) -> None:
    """Some more records, compacted."""
    write_all(home, boot, 3)
    with Compactor(home, "n1", no_profiles) as compactor:
        compactor.run_once()


def test_two_copies_of_a_home_do_not_write_over_each_other(home: Path, s3: S3Server) -> None:
    folder = home / "journal" / "n1"
    uploaders = [Uploader(folder, read_place(home)) for _ in range(2)]
    for number, one in enumerate(uploaders):
        compact(home, f"b{number}")
        one.run_once()
    assert status(home).problem == ""
    compact(home, "b2")
    for _ in range(3):
        uploaders[0].run_once()
        assert "store-shared" in status(home).said(0)
    uploaders[1].run_once()
    assert status(home).problem == ""
    assert is_whole(home)


def test_a_report_of_a_monitor_goes_there_once(home: Path, s3: S3Server) -> None:
    place = read_place(home)
    assert place is not None
    uploader, store = Uploader(home / "journal" / "n1", place), Store(place.url)
    compact(home, "b0")
    for _ in range(2):  # the second is that of a node that was killed before it forgot it
        leave_report(home, "loans", "f1-opened", 1, b'{"format": 1}')
        uploader.run_once()
        assert status(home).problem == ""
    name = f"reports/{place.id}/loans/f1-opened-1.json"
    assert store.names("reports") == {name}
    found = store.get(name)
    assert found is not None
    assert found.data == b'{"format": 1}'
    assert not list((home / "store" / "reports").rglob("*.json"))


def test_a_wrong_key_is_a_problem_of_the_node_and_of_nobody_else(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = TestHome(tmp_path / "home")
    home.publish(home.service("loans", {1: home.bundle(home.contract(3))}))
    declare(home.path, "s3://doorstep/keys")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-" + SECRET)
    with RunningNode(home.path, tmp_path / "state", compactor=True) as node:
        node.wait_plan(1)
        body = b'{"x0": 1.0, "x1": 0.5, "x2": -1}'
        url = f"{node.data_url}/v1/services/loans/predict"
        with urllib.request.urlopen(url, body, timeout=60) as answer:
            assert answer.status == 200
        wait(lambda: "store-refused" in str(node.report().problems), "the problem")
        said = str(node.report().problems)
        assert "SignatureDoesNotMatch" in said
        assert SECRET not in said
        with urllib.request.urlopen(f"{node.health_url}/metrics", timeout=60) as answer:
            assert b"doorstep_store_behind_since_timestamp_seconds 0.0" not in answer.read()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with RunningNode(home.path, tmp_path / "state", compactor=True) as node:
        folder = home.path / "journal" / node.report().node
        wait(lambda: (read_status(folder) or StoreStatus(at=0, url="")).files, "the upload")
        assert not node.report().problems
