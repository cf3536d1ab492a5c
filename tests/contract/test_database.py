"""What the rooms rely on, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, MetaData, Table, Text, insert, select, text, update

from doorstep.core import merkle
from doorstep.core.errors import (
    InputError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from doorstep.kernel import engine, ledger
from doorstep.kernel.db import Database, Unit
from doorstep.kernel.event import Actor, Object, decode_event
from doorstep.kernel.leases import free_lease, read_lease, renew_lease, require_term, take_lease
from doorstep.migrations.tables import all_tables
from doorstep.migrations.upgrade import head_revision, revision_of, upgrade

LOANS = Object("service", "loans")
OpenDatabase = Callable[..., Database]

things = Table("thing", MetaData(), Column("id", Text, primary_key=True))


@pytest.fixture
def shop(database: Database) -> Database:
    with database.writing() as connection:
        things.create(connection)
    return database


def names(database: Database) -> list[str]:
    with database.reading() as connection:
        return list(connection.execute(select(things.c.id).order_by(things.c.id)).scalars())


def sizes(database: Database) -> int:
    with database.reading() as connection:
        return ledger.read_head(connection).size


def add(unit: Unit, name: str) -> None:
    unit.connection.execute(insert(things).values(id=name))
    unit.record("thing.added", Object("thing", name), {"service": "loans"})


def test_a_row_and_its_event_are_committed_together(shop: Database):
    with shop.transaction(Actor("user", "ada")) as unit:
        add(unit, "a")
    assert names(shop) == ["a"]
    with shop.reading() as connection:
        event = decode_event(ledger.read_leaf(connection, 0))
    assert (event.kind, event.actor.id, event.service) == ("thing.added", "ada", "loans")


def test_a_failure_leaves_neither_the_row_nor_its_event(shop: Database):
    with pytest.raises(KeyError), shop.transaction() as unit:
        add(unit, "a")
        raise KeyError
    assert (names(shop), sizes(shop)) == ([], 0)
    with shop.transaction() as unit:
        add(unit, "b")
    assert (names(shop), sizes(shop)) == (["b"], 1)


def test_domain_state_cannot_change_without_an_event(shop: Database):
    with pytest.raises(RuntimeError, match="thing"), shop.transaction() as unit:
        unit.connection.execute(insert(things).values(id="a"))
    assert names(shop) == []


def test_the_check_of_one_transaction_does_not_reach_into_the_next(shop: Database):
    with pytest.raises(RuntimeError), shop.transaction() as unit:
        unit.connection.execute(insert(things).values(id="a"))
    with shop.transaction():
        pass


def test_a_transaction_without_changes_needs_no_event(shop: Database):
    with shop.transaction() as unit:
        assert unit.connection.execute(select(things)).all() == []
    assert sizes(shop) == 0


def test_a_reading_transaction_cannot_change_anything(shop: Database):
    with pytest.raises(RuntimeError, match="reading"), shop.reading() as connection:
        connection.execute(insert(things).values(id="a"))


def test_a_reader_sees_one_state_while_a_writer_commits(shop: Database):
    with shop.reading() as connection:
        before = connection.execute(select(things)).all()
        with shop.transaction() as unit:
            add(unit, "a")
        assert connection.execute(select(things)).all() == before == []
    assert names(shop) == ["a"]


def test_a_writer_inside_a_writer_is_refused_instead_of_waiting_for_itself(shop: Database):
    with (
        pytest.raises(RuntimeError, match="inside"),
        shop.transaction(),
        shop.transaction(),
    ):
        pass
    with shop.transaction() as unit:
        add(unit, "a")


def test_events_of_threads_that_write_at_once_have_no_gaps(shop: Database):
    def write(who: int) -> None:
        for number in range(10):
            with shop.transaction() as unit:
                add(unit, f"{who}-{number}")
                unit.record("thing.seen", LOANS, {})

    threads = [threading.Thread(target=write, args=[who]) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with shop.reading() as connection:
        rows = list(ledger.scan(connection))
    assert [row.seq for row in rows] == list(range(80))
    assert len(names(shop)) == 40


def test_what_a_transaction_read_is_still_true_when_it_writes(shop: Database):
    """Lost updates: each thread adds one to what it read."""
    with shop.transaction() as unit:
        add(unit, "0")

    def count_up() -> None:
        for _ in range(10):
            with shop.transaction() as unit:
                now = unit.connection.execute(select(things.c.id)).scalar_one()
                unit.connection.execute(update(things).values(id=str(int(now) + 1)))
                unit.record("thing.counted", LOANS, {})

    threads = [threading.Thread(target=count_up) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(shop) == ["30"]


def test_a_writer_that_waits_too_long_is_told_that_the_database_is_busy(
    database_url: str, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "BUSY_WAIT_S", 1)
    monkeypatch.setattr("doorstep.kernel.db.BUSY_WAIT_S", 1)
    first, second = open_database(database_url), open_database(database_url)
    upgrade(first)
    with first.transaction(), pytest.raises(OverloadedError) as refused, second.transaction():
        pass
    assert refused.value.code == "database-busy"


def test_work_that_the_database_undid_is_run_again(shop: Database):
    attempts = []

    def work(unit: Unit) -> int:
        attempts.append(1)
        add(unit, "a")
        if len(attempts) < 3:
            raise engine_conflict(shop.kind)
        return len(attempts)

    assert shop.run(work) == 3
    assert (names(shop), sizes(shop)) == (["a"], 1)


def engine_conflict(kind: str) -> Exception:
    from sqlalchemy.exc import OperationalError

    cause = Exception("conflict")
    if kind == "sqlite":
        cause.sqlite_errorcode = 5  # type: ignore[attr-defined]
    else:
        cause.sqlstate = "40001"  # type: ignore[attr-defined]
    return OperationalError("COMMIT", {}, cause)


def test_an_ordinary_failure_is_not_run_again(shop: Database):
    attempts = []

    def work(unit: Unit) -> None:
        attempts.append(1)
        raise KeyError

    with pytest.raises(KeyError):
        shop.run(work)
    assert len(attempts) == 1


# --- schema ---------------------------------------------------------------------------------


def test_the_migrations_make_exactly_the_tables_in_code(database: Database):
    with database.reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, all_tables()) == []


def test_upgrading_again_changes_nothing(database: Database):
    with database.transaction() as unit:
        unit.record("service.created", LOANS, {})
    assert upgrade(database) == head_revision()
    assert sizes(database) == 1


def test_a_database_of_a_newer_release_is_refused_and_left_alone(database: Database):
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(RefusedError, match=rf"9999.*{head_revision()}") as refused:
        upgrade(database)
    assert refused.value.code == "database-too-new"
    with database.reading() as connection:
        assert revision_of(connection) == "9999"


def test_two_processes_that_upgrade_at_once_both_succeed(
    database_url: str, open_database: OpenDatabase
):
    done: list[str] = []
    databases = [open_database(database_url) for _ in range(3)]
    threads = [threading.Thread(target=lambda d=d: done.append(upgrade(d))) for d in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [head_revision()] * 3


def test_foreign_keys_are_enforced(database: Database):
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
        connection.execute(text("CREATE TABLE child (of INTEGER REFERENCES parent (id))"))
    with pytest.raises(Exception, match=r"(?i)foreign key"), database.writing() as connection:
        connection.execute(text("INSERT INTO child VALUES (1)"))


# --- the ledger -----------------------------------------------------------------------------


@pytest.fixture
def grown(database: Database) -> Database:
    """A ledger of 600 events: two stored nodes of level 8, and a torn edge."""
    for start in range(0, 600, 200):
        with database.transaction() as unit:
            for number in range(start, start + 200):
                unit.record("thing.added", Object("thing", str(number)), {"n": number})
    return database


def test_proofs_from_the_database_verify(grown: Database):
    with grown.reading() as connection:
        size, root = 600, ledger.read_head(connection).root
        for seq in (0, 1, 255, 256, 511, 512, 598, 599):
            leaf = merkle.hash_leaf(ledger.read_leaf(connection, seq))
            proof = ledger.prove_inclusion(connection, seq, size)
            assert merkle.verify_inclusion(seq, size, leaf, proof, root)
        hash_at = ledger.hash_at(connection)
        for old in (0, 1, 200, 256, 300, 512, 599, 600):
            old_root = merkle.root_at(old, hash_at)
            proof = ledger.prove_consistency(connection, old, size)
            assert merkle.verify_consistency(old, size, old_root, root, proof)


@pytest.mark.parametrize(("seq", "size"), [(-1, 600), (600, 600), (3, 3), (0, 601)])
def test_a_proof_of_what_is_not_there_is_refused(sqlite_database: Database, seq: int, size: int):
    with sqlite_database.reading() as connection, pytest.raises(NotFoundError):
        ledger.prove_inclusion(connection, seq, size)


def test_events_are_found_by_service_kind_and_object(database: Database):
    with database.transaction() as unit:
        unit.record("service.created", LOANS, {})
        unit.record("release.started", Object("release", "r1"), {"service": "loans"})
        unit.record("release.started", Object("release", "r2"), {"service": "fraud"})
    with database.reading() as connection:

        def seqs(**wanted: object) -> list[int]:
            found = ledger.read_events(connection, ledger.Filter(**wanted))  # type: ignore[arg-type]
            return [event.seq for event in found]

        assert seqs() == [2, 1, 0]
        assert seqs(service="loans") == [1, 0]
        assert seqs(kind="release.started", before=2) == [1]
        assert seqs(object=Object("release", "r2")) == [2]
        assert seqs(without="release.started") == [0]
        assert seqs(starts="release.") == [2, 1]
        assert seqs(starts="release_") == []


def test_an_event_with_nan_is_refused_and_nothing_is_written(shop: Database):
    with pytest.raises(InputError, match="nan") as refused, shop.transaction() as unit:
        add(unit, "a")
        unit.record("thing.measured", LOANS, {"deep": [{"auc": float("nan")}]})
    assert refused.value.code == "not-json"
    assert (names(shop), sizes(shop)) == ([], 0)


def test_the_export_is_the_stored_bytes_one_event_a_line(grown: Database):
    with grown.reading() as connection:
        lines = list(ledger.export_lines(connection))
        assert [ledger.read_leaf(connection, seq) for seq in (0, 599)] == [
            lines[0][:-1],
            lines[-1][:-1],
        ]
        assert list(ledger.export_lines(connection, 100, 103)) == lines[100:103]
    assert len(lines) == 600 and all(line.count(b"\n") == 1 for line in lines)


# --- the leader -----------------------------------------------------------------------------


def test_a_term_rises_with_each_taking(database: Database):
    with database.transaction() as unit:
        first = take_lease(unit.connection, "a", None)
        require_term(unit.connection, 1)
    with database.transaction() as unit:
        second = take_lease(unit.connection, "b", first)
    assert (first.term, second.term) == (1, 2)


def test_a_leader_of_an_earlier_term_can_do_nothing(shop: Database):
    with shop.transaction() as unit:
        old = take_lease(unit.connection, "a", None)
    with shop.transaction() as unit:
        take_lease(unit.connection, "b", old)
    led = shop.led(old.term)
    with pytest.raises(RefusedError) as refused, led.transaction() as unit:
        add(unit, "a")
    assert refused.value.code == "not-leader"
    with pytest.raises(RefusedError):
        led.run(lambda unit: add(unit, "a"))
    with pytest.raises(RefusedError), led.reading():
        pass
    assert (names(shop), sizes(shop)) == ([], 0)
    for change in (renew_lease, free_lease):
        with pytest.raises(RefusedError), shop.transaction() as unit:
            change(unit.connection, old)


def test_a_lease_that_was_renewed_meanwhile_cannot_be_taken(database: Database):
    with database.transaction() as unit:
        seen = take_lease(unit.connection, "a", None)
        renewed = renew_lease(unit.connection, seen)
    with pytest.raises(RefusedError) as refused, database.transaction() as unit:
        take_lease(unit.connection, "b", seen)
    assert refused.value.code == "lease-taken"
    with database.reading() as connection:
        assert read_lease(connection) == renewed


def test_a_lease_that_was_given_back_is_free_and_nobodys(database: Database):
    with database.transaction() as unit:
        held = take_lease(unit.connection, "a", None)
        free_lease(unit.connection, held)
        with pytest.raises(RefusedError):
            require_term(unit.connection, held.term)
    with database.reading() as connection:
        lease = read_lease(connection)
    assert lease is not None and (lease.owner, lease.term) == ("", 1)


def test_of_two_that_take_a_free_lease_at_once_one_leads(database: Database):
    outcomes: list[str] = []

    def take(who: str) -> None:
        try:
            with database.transaction() as unit:
                take_lease(unit.connection, who, None)
            outcomes.append("leads")
        except RefusedError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=take, args=[who]) for who in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["leads", "lease-taken", "lease-taken"]


# --- what is not a database -----------------------------------------------------------------


def test_a_file_that_is_no_database_is_named(tmp_path, open_database: OpenDatabase):
    file = tmp_path / "doorstep.db"
    file.write_bytes(b"not a database at all " * 100)
    with pytest.raises(InputError, match=r"doorstep\.db") as refused:
        upgrade(open_database(f"sqlite:///{file}"))
    assert refused.value.code == "not-a-database"
    assert file.read_bytes() == b"not a database at all " * 100


def test_a_folder_that_is_not_there_is_unreachable(tmp_path, open_database: OpenDatabase):
    with pytest.raises(UnreachableError):
        upgrade(open_database(f"sqlite:///{tmp_path}/nowhere/doorstep.db"))


def test_a_postgresql_that_does_not_answer_is_named_without_its_password(
    tmp_path, open_database: OpenDatabase
):
    url = f"postgresql://ada:secret@/loans?host={tmp_path}"
    with pytest.raises(UnreachableError, match="ada") as refused:
        upgrade(open_database(url))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["mysql://a:secret@h/x", "sqlite://", "sqlite:///:memory:", "loans.db", "://", ""]
)
def test_other_urls_are_refused_without_their_password(url: str):
    with pytest.raises(UsageError, match="postgresql://") as refused:
        engine.parse_url(url)
    assert "secret" not in str(refused.value)


@pytest.fixture(autouse=True)
def no_thread_may_fail() -> Iterator[None]:
    """A failure in a thread would otherwise only be printed."""
    failures: list[threading.ExceptHookArgs] = []
    before, threading.excepthook = threading.excepthook, failures.append
    yield
    threading.excepthook = before
    assert not failures, failures[0].exc_value
