"""A writer with a second place, and what comes back from it, over real servers."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from uuid import UUID

import msgspec
import nats
import pytest
from journal_samples import LAYOUT, OUTCOME, VirtualClock, meta
from nats.js import JetStreamContext
from nats.js.api import StreamConfig, StreamInfo

from doorstep.core.errors import NotFoundError, RefusedError, UnreachableError, UsageError
from doorstep.core.instant import SECOND_US, SystemClock
from doorstep.journal import replica
from doorstep.journal.away import declare, read_place
from doorstep.journal.compactor import Compactor
from doorstep.journal.held import write_held
from doorstep.journal.index import Listing, fold, read_entries
from doorstep.journal.profiles import PlanProfiles
from doorstep.journal.query import Question, ask
from doorstep.journal.reader import list_blocks
from doorstep.journal.replica import Segment, rebuild, replica_of, require_replica
from doorstep.journal.replica_nats import MADE
from doorstep.journal.restore import restore
from doorstep.journal.retain import Bounds
from doorstep.journal.stored import StoredIndex, read_trim, store_problems
from doorstep.journal.subjects import Erasure, subjects_of
from doorstep.journal.telling import CONTROL_NODE, OutcomeWriter
from doorstep.journal.upload import Uploader
from doorstep.journal.writer import BlockWriter
from doorstep.kernel.keys import create_keys
from fakes.places import PASSWORD, Place, listed_ids

DAY_US = 86_400 * SECOND_US
CARDS = msgspec.structs.replace(LAYOUT, service="cards")
MATRIX = struct.pack("<2d", 1, 2)


class Writing:
    """A writer of a home with a second place."""

    def __init__(self, home: Path, url: str, boot: str = "b1") -> None:
        self.home, self.clock = home, VirtualClock(SystemClock().now())
        self.writer = BlockWriter(
            home / "journal", node="n1", boot=boot, slot="s", replica=replica_of(url),
            clock=self.clock,
        )  # fmt: skip

    def write(self, *rows: int) -> None:
        for row in rows:
            one = meta(row, request=row.to_bytes(16, "big"), at=self.clock.now())
            self.writer.predictions(self.writer.declare(LAYOUT), [one], MATRIX)
            self.writer.flush()

    def write_cards(self, *rows: int) -> None:
        """Of another service."""
        for row in rows:
            one = meta(row, request=row.to_bytes(16, "big"), at=self.clock.now())
            self.writer.predictions(self.writer.declare(CARDS), [one], MATRIX)
            self.writer.flush()

    def compact(self) -> None:
        with Compactor(self.home, "n1", PlanProfiles(self.home)) as found:
            found.run_once()


def rows_of(home: Path) -> list[int]:
    found = listed_ids(home, "n1")
    return sorted(int(UUID(one.partition(".")[0])) for one in found.elements())


def test_of_a_block_that_is_here_in_part_the_rest_comes_back_also_behind_a_compaction(
    tmp_path: Path, place: Place
) -> None:
    one = Writing(tmp_path, place.url)
    one.write(1, 2)
    (path,) = list_blocks(tmp_path / "journal" / "n1").values()
    size = path.stat().st_size
    one.write(3, 4)
    one.writer.outcome(OUTCOME)
    one.writer.flush()
    one.writer.close()
    # The power went, and the disk has the beginning only.
    path = path.with_suffix(".block")
    os.truncate(path, size)
    path.rename(path.with_suffix(".open"))
    one.compact()
    assert rows_of(tmp_path) == [1, 2]
    with closing(replica_of(place.url)) as found:
        (told,) = restore(tmp_path, found)
    assert (told.blocks, told.predictions, told.outcomes) == (1, 2, 1)
    assert rows_of(tmp_path) == [1, 2, 3, 4]
    assert place.bring_back(tmp_path) == (0, 0)


def test_what_a_lost_home_had_in_the_store_does_not_come_back_a_second_time(
    tmp_path: Path, place: Place
) -> None:
    pytest.importorskip("obstore")
    lost, found = tmp_path / "lost", tmp_path / "found"
    for home in (lost, found):
        home.mkdir()
        declare(home, f"file://{tmp_path / 'store'}")
    one = Writing(lost, place.url)
    one.write(1, 2)
    one.writer.close()
    one.compact()
    where = read_place(lost)
    assert where is not None
    Uploader(lost / "journal" / "n1", where).run_once()
    one = Writing(lost, place.url, boot="b2")
    one.write(3)
    one.writer.close()
    shutil.rmtree(lost)
    assert place.bring_back(found) == (1, 1)
    assert rows_of(found) == [3]
    rows = ask(Question(what="predictions", home=str(found), service=LAYOUT.service))
    assert len(rows) == 3
    assert place.bring_back(found) == (0, 0)


def test_a_store_is_not_declared_behind_a_restore_that_did_not_know_it(
    tmp_path: Path, place: Place
) -> None:
    pytest.importorskip("obstore")
    lost, found, url = tmp_path / "lost", tmp_path / "found", f"file://{tmp_path / 'store'}"
    for home in (lost, found):
        home.mkdir()
    declare(lost, url)
    one = Writing(lost, place.url)
    one.write(1, 2)
    one.writer.close()
    one.compact()
    where = read_place(lost)
    assert where is not None
    Uploader(lost / "journal" / "n1", where).run_once()
    assert place.bring_back(found) == (1, 2)
    with pytest.raises(RefusedError, match=r"restored-before: .*n1 .*count twice"):
        declare(found, url)
    assert read_place(found) is None
    declare(found, f"file://{tmp_path / 'empty'}")
    # What was compared with the store is no second time, whatever was declared in between.
    shutil.rmtree(found)
    found.mkdir()
    declare(found, url)
    assert place.bring_back(found) == (0, 0)
    one = Writing(lost, place.url, boot="b2")
    one.write(3)
    one.writer.close()
    assert place.bring_back(found) == (1, 1)
    declare(found, "none")
    declare(found, url)
    # And what comes while none is declared was compared with none.
    declare(found, "none")
    one = Writing(lost, place.url, boot="b3")
    one.write(4)
    one.writer.close()
    with closing(replica_of(place.url)) as replica_here:
        list(restore(found, replica_here))
    with pytest.raises(RefusedError, match=r"restored-before"):
        declare(found, url)


def test_of_a_block_that_the_store_has_in_part_the_rest_comes_back(
    tmp_path: Path, place: Place
) -> None:
    pytest.importorskip("obstore")
    lost, found = tmp_path / "lost", tmp_path / "found"
    for home in (lost, found):
        home.mkdir()
        declare(home, f"file://{tmp_path / 'store'}")
    one = Writing(lost, place.url)
    one.write(1, 2)
    one.write_cards(7, 8)
    one.write(3)
    one.write_cards(9)
    one.writer.close()
    one.compact()
    where = read_place(lost)
    assert where is not None
    Uploader(lost / "journal" / "n1", where).run_once()
    # It went while the second file of the block was on its way.
    listed = next((tmp_path / "store").rglob("index.json"))
    index = msgspec.json.decode(listed.read_bytes(), type=StoredIndex)
    assert len(index.files) == 2
    files = tuple(file for file in index.files if file.service == "cards")
    listed.write_bytes(msgspec.json.encode(msgspec.structs.replace(index, files=files)))
    assert place.bring_back(found) == (2, 3)
    assert rows_of(found) == [1, 2, 3]
    for service, count in ((LAYOUT.service, 3), ("cards", 3)):
        rows = ask(Question(what="predictions", home=str(found), service=service))
        assert len(rows) == count
    assert place.bring_back(found) == (0, 0)


def test_what_retention_dropped_does_not_come_back(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The list is shortened at each run, and forgets which blocks there were.
    monkeypatch.setattr("doorstep.journal.merge.ENTRIES_SPARE_MAX", -100)
    one = Writing(tmp_path, place.url)
    one.write(1, 2)
    one.writer.close()
    later, bounds = VirtualClock(one.clock.now()), Bounds({}, 0)
    for _ in range(3):
        later.move(5 * 86_400)
        with Compactor(
            tmp_path, "n1", PlanProfiles(tmp_path), bounds=lambda: bounds, clock=later
        ) as found:
            found.run_once()
    assert fold(read_entries(tmp_path / "journal" / "n1")) == Listing({}, frozenset(), {})
    with closing(replica_of(place.url)) as replica_here:
        (told,) = restore(tmp_path, replica_here)
    assert (told.blocks, told.past) == (0, 1)
    # Whom a legal hold keeps comes back all the same; here by the text that says whose a record is.
    write_held(tmp_path / "journal", ["nobody", meta().texts[0]])
    with closing(replica_of(place.url)) as replica_here:
        (told,) = restore(tmp_path, replica_here)
    assert (told.blocks, told.past) == (1, 0)
    # A home that never had them takes them.
    other = tmp_path / "other"
    other.mkdir()
    assert place.bring_back(other) == (1, 2)


def test_where_nobody_knows_who_is_held_old_blocks_come_back_too(
    tmp_path: Path, place: Place
) -> None:
    one = Writing(tmp_path, place.url)
    one.write(1)
    one.writer.close()
    (tmp_path / "keys").mkdir()
    create_keys(tmp_path / "keys", "test")
    shutil.rmtree(tmp_path / "journal")
    later = VirtualClock(SystemClock().now())
    later.move(90 * 86_400)
    keep_s = {LAYOUT.service: 86_400.0}

    def bring_back() -> tuple[int, int]:
        with closing(replica_of(place.url)) as found, pytest.MonkeyPatch.context() as patched:
            patched.setattr(PlanProfiles, "keep_s", lambda _: keep_s)
            (told,) = restore(tmp_path, found, later)
        return told.blocks, told.past

    write_held(tmp_path / "journal", [])
    assert bring_back() == (0, 1)
    shutil.rmtree(tmp_path / "journal")
    assert bring_back() == (1, 0)


def test_erasures_look_again_though_the_restore_is_killed(tmp_path: Path, place: Place) -> None:
    one = Writing(tmp_path, place.url)
    one.write(1)
    one.writer.close()
    (tmp_path / "keys").mkdir()
    create_keys(tmp_path / "keys", "test")
    shutil.rmtree(tmp_path / "journal")
    subjects, erasure = subjects_of(tmp_path), Erasure("p", 1, "u", "w")
    subjects.erase(erasure)
    subjects.finish(erasure, [])
    with closing(replica_of(place.url)) as found, pytest.MonkeyPatch.context() as patched:
        patched.setattr(Compactor, "run_once", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            list(restore(tmp_path, found))
    assert subjects.undone() == [erasure]


def test_a_restore_from_an_address_where_nothing_is_says_so(tmp_path: Path, place: Place) -> None:
    if place.url.startswith("nats"):
        with closing(replica_of(f"{place.url}-typo")) as found:
            for _ in range(2):  # the first made none
                with pytest.raises(NotFoundError, match=r"no-replica: there is no stream .*-typo"):
                    list(restore(tmp_path, found))
    place.way.cut()
    with closing(replica_of(place.url)) as found:
        with pytest.raises(UnreachableError, match="does not answer") as said:
            list(restore(tmp_path, found))
        assert PASSWORD not in str(said.value)


def test_a_restore_asks_no_file_about_blocks_that_the_list_names(
    tmp_path: Path, place: Place
) -> None:
    one = Writing(tmp_path, place.url)
    one.write(1)
    one.writer.close()
    one.compact()
    (path,) = fold(read_entries(tmp_path / "journal" / "n1")).files
    (tmp_path / "journal" / "n1" / path).unlink()
    assert place.bring_back(tmp_path) == (0, 0)


def test_blocks_that_are_being_written_are_left_alone(tmp_path: Path, place: Place) -> None:
    one = Writing(tmp_path, place.url)
    one.write(1, 2)
    with closing(replica_of(place.url)) as found:
        (told,) = restore(tmp_path, found)
    assert (told.blocks, told.live) == (0, 1)
    one.writer.close()
    one.compact()
    assert place.bring_back(tmp_path) == (0, 0)
    assert rows_of(tmp_path) == [1, 2]


def test_what_was_given_up_is_not_there_after_the_next_that_is_kept(
    tmp_path: Path, place: Place
) -> None:
    one = Writing(tmp_path, place.url)
    one.write(1)
    (path,) = list_blocks(tmp_path / "journal" / "n1").values()
    before = path.read_bytes()
    place.way.cut()
    with pytest.raises(UnreachableError, match="second place"):
        one.write(2)
    assert path.read_bytes() == before
    # It may arrive all the same, late: then under the number that it had.
    late = Segment("n1", path.stem, 90, len(before), 1, b"late")
    place.way.mend()
    one.writer._mirror._number = 91
    one.write(3)
    with closing(replica_of(place.url)) as found:
        found.keep([late])
    one.writer.close()
    shutil.rmtree(tmp_path / "journal" / "n1")
    place.bring_back(tmp_path)
    assert rows_of(tmp_path) == [1, 3]


def test_an_outcome_that_is_told_to_the_control_plane_is_at_the_second_place_or_refused(
    tmp_path: Path, place: Place
) -> None:
    told = OutcomeWriter(tmp_path / "journal", replica_of(place.url))
    assert told.write([OUTCOME]) == 1
    assert [node for node, _ in place.blocks()] == [CONTROL_NODE]
    place.way.cut()
    with pytest.raises(UnreachableError):
        told.write([OUTCOME])
    place.way.mend()
    told.close()
    shutil.rmtree(tmp_path / "journal")
    with closing(replica_of(place.url)) as found:
        (back,) = restore(tmp_path, found)
    assert (back.node, back.outcomes) == (CONTROL_NODE, 1)


def test_a_place_keeps_each_segment_once_and_forgets_old_blocks(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "SEGMENT_BYTES_MAX", 1000)
    now = SystemClock().now()
    first = Segment("n1", "b-s-00000001", 0, 0, now - 2 * DAY_US, b"one")
    second = Segment("n1", "b-s-00000002", 0, 0, now, b"two")
    with closing(replica_of(place.url)) as found:
        found.keep([])
        found.keep([first])
        found.keep([first, second])
        there = found.blocks()
        assert there.blocks == (("n1", "b-s-00000001"), ("n1", "b-s-00000002"))
        assert there.since == first.opened_at
        assert found.read("n1", "b-s-00000001") == [first]
        mirror = replica.Mirror(found, "n2", SystemClock())
        mirror.begin("b-s-00000003", b"h")
        mirror.keep(1, b"x" * 2500)
        assert len(found.read("n2", "b-s-00000003")) == 4
        assert rebuild(found.read("n2", "b-s-00000003")) == b"h" + b"x" * 2500
        found.trim(1, now)
        if place.url.startswith("nats"):  # which goes by its own clock: nothing here is a day old
            assert len(found.blocks().blocks) == 3
        else:
            assert [block for _, block in found.blocks().blocks] == ["b-s-00000002", "b-s-00000003"]


def test_a_compactor_that_was_not_told_for_how_long_forgets_nothing(
    tmp_path: Path, place: Place
) -> None:
    opened_at = SystemClock().now() - 60 * DAY_US
    with closing(replica_of(place.url)) as found:
        found.keep([Segment("n", "b-s-00000001", 0, 0, opened_at, b"x")])
    words = [sys.executable, "-m", "doorstep.journal.compactor", "--once", "--node", CONTROL_NODE]
    for more, is_left in (([], True), (["--replica-days", "30"], place.url.startswith("nats"))):
        subprocess.run(
            [*words, "--home", str(tmp_path), *more],
            env={**os.environ, replica.VARIABLE: place.url}, check=True, timeout=120,
        )  # fmt: skip
        assert bool(place.blocks()) == is_left, more


@pytest.mark.parametrize("place", ["nats"], indirect=True)
def test_a_stream_that_somebody_else_made_keeps_what_they_said(place: Place) -> None:
    stream = place.url.rpartition("/")[2]

    async def ask(work: Callable[[JetStreamContext], Awaitable[StreamInfo]]) -> float:
        client = await nats.connect(f"nats://127.0.0.1:{place.way.port}")
        found = await work(client.jetstream())
        await client.close()
        assert found.config.max_age is not None
        return found.config.max_age

    made = StreamConfig(name=stream, subjects=[f"{stream}.>"], max_age=7200)
    asyncio.run(ask(lambda streams: streams.add_stream(made)))
    with closing(replica_of(place.url)) as found:
        found.keep([])
        found.trim(1, 0)
    assert asyncio.run(ask(lambda streams: streams.stream_info(stream))) == 7200
    asyncio.run(ask(lambda streams: streams.update_stream(made.evolve(description=MADE))))
    with closing(replica_of(place.url)) as found:
        found.trim(1, 0)
    assert asyncio.run(ask(lambda streams: streams.stream_info(stream))) == 86_400


def test_whoever_looks_at_a_place_that_hangs_waits_a_limited_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("nats", "postgres"):
        for name in ("READ_WAIT_S", "WAIT_S"):
            monkeypatch.setattr(f"doorstep.journal.replica_{module}.{name}", 1.0)
    with closing(replica_of(place.url)) as found:
        for look in (lambda: found.trim(1, 0), found.blocks, lambda: found.read("n1", "b")):
            found.keep([])
            place.way.hang()
            with pytest.raises(UnreachableError, match=r"no answer within [12] s"):
                look()
            place.way.mend()


def test_a_replica_that_forgets_nothing_is_a_problem_of_the_node(
    tmp_path: Path, place: Place
) -> None:
    words = [sys.executable, "-m", "doorstep.journal.compactor", "--once", "--node", "n1"]
    command = [*words, "--home", str(tmp_path), "--replica-days", "30"]

    def trim() -> None:
        environ = {**os.environ, replica.VARIABLE: place.url}
        subprocess.run(command, env=environ, check=True, timeout=120)

    place.way.cut()
    trim()
    told = read_trim(tmp_path / "journal" / "n1")
    assert told is not None
    later = told.since + 901 * SECOND_US
    (said,) = store_problems(tmp_path, "n1", later)
    assert said.startswith("for 15 minutes the replica has forgotten nothing: the journal's second")
    assert PASSWORD not in said
    assert not store_problems(tmp_path, "n1", told.since)
    trim()
    assert read_trim(tmp_path / "journal" / "n1").since == told.since
    place.way.mend()
    trim()
    assert not store_problems(tmp_path, "n1", later)


def test_a_url_that_names_no_second_place_is_refused() -> None:
    for url in ("", "postgresql:", "redis://here", "nats://"):
        with pytest.raises(UsageError, match=r"expected postgresql://\.\.\. or nats://"):
            require_replica(url)


@pytest.mark.parametrize("secret", ["hun/ter2", "hun?ter2", "hun#ter2", "hun[ter2", "hun%ter2"])
def test_a_password_that_breaks_the_url_is_not_said(secret: str) -> None:
    for scheme in ("postgresql", "nats"):
        with pytest.raises(UsageError) as caught:
            require_replica(f"{scheme}://doorstep:{secret}@db.example:5432/journal")
        assert "hun" not in str(caught.value)
        assert "ter2" not in str(caught.value)
    many = "postgresql://u:hunter%2F2@one:5432,two:5432/x?target_session_attrs=read-write"
    require_replica(many)
    assert replica.say_replica(many) == "postgresql://one:5432,two:5432/x"


def test_what_arrived_of_a_group_that_was_given_up_is_no_hole() -> None:
    tries = ((0, 0, b"ab"), (2, 4, b"rest of what was given up"), (3, 2, b"cd"), (4, 4, b"ef"))
    parts = [Segment("n", "b", number, start, 1, data) for number, start, data in tries]
    assert rebuild(parts) == b"abcdef"


def test_a_hole_ends_what_can_be_rebuilt() -> None:
    parts = [Segment("n", "b", number, start, 1, b"xx") for number, start in ((0, 0), (2, 4))]
    assert rebuild(parts) == b"xx"
    assert rebuild(parts[1:]) == b""
