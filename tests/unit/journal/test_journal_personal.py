"""Sealed fields: what is on the disk, who opens it, and that nobody does after an erasure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_samples import VirtualClock, meta

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import DoorstepError, InputError, RefusedError
from doorstep.core.instant import SECOND_US
from doorstep.core.record import OutcomeRecord, layout_of
from doorstep.govern import proving
from doorstep.govern.proving import prove_prediction
from doorstep.govern.surface import ProvePrediction
from doorstep.journal import personal, proof, query
from doorstep.journal.compactor import Compactor
from doorstep.journal.erased import personal_of, without_erased
from doorstep.journal.erasedlist import ErasedList, note_erased
from doorstep.journal.held import read_held
from doorstep.journal.holding import hold_subject
from doorstep.journal.index import fold, read_entries
from doorstep.journal.ledgering import record_closed
from doorstep.journal.masking import Mask, Row
from doorstep.journal.personal import (
    erase_subject,
    erasure_problems,
    finish_erasures,
    open_prediction,
)
from doorstep.journal.retain import Bounds
from doorstep.journal.sealing import Opener, Sealer, open_sealed, pseudonym, subject_in
from doorstep.journal.subjects import FILE, Erasure, Subjects
from doorstep.journal.surface import EraseSubject, HoldSubject, OpenPrediction
from doorstep.journal.tally import no_profiles
from doorstep.journal.troubles import read_troubles
from doorstep.journal.writer import BlockWriter
from doorstep.kernel.app import Kept
from doorstep.kernel.db import Database
from doorstep.kernel.event import Actor
from doorstep.kernel.keys import PersonalKey, create_keys, load_personal_key
from doorstep.kernel.ledger import Filter, read_events

NODE = "n"
DAY_US = 86_400 * SECOND_US
CANARY = "Anna Canary-7f3a"
CONTRACT = Contract(
    inputs=(
        Field(name="age", type="int", personal="seal"),
        Field(name="income", type="float"),
        Field(name="name", type="text", personal="seal"),
    ),
    context=(Field(name="person", type="text"),),
)
LAYOUT = layout_of("loans", CONTRACT, ("yes",))
IDS = ("application", "person", "person")
REQUEST = UUID("018bcfe5-6800-7000-8000-000000000001")
"""Its time is that of `meta()`."""


class Home:
    def __init__(self, path: Path, database: Database) -> None:
        self.path, self.clock = path, VirtualClock()
        self.clock.move(10)
        (path / "keys").mkdir()
        create_keys(path / "keys", "test")
        self.app = SimpleNamespace(
            home=SimpleNamespace(path=path, keys=path / "keys", journal=path / "journal"),
            database=database,
            clock=self.clock,
            actor=Actor("user", "u1"),
            kept=Kept(),
        )
        self.subjects = Subjects(path / "keys")
        self.slots = 0

    def answer(self, *people: str, request: UUID = REQUEST, at: int = 0) -> BlockWriter:
        """One record a person, in an open block."""
        sealer = Sealer(load_personal_key(self.path / "keys").sealing)
        mask = Mask("loans", CONTRACT, IDS, sealer)
        rows, matrix, session = [], b"", sealer.session()
        for number, person in enumerate(people):
            data, texts = struct.pack("<2d", 40.0 + number, 5.0), (CANARY, person)
            came = Row(number, data, texts, person, f"a{number}", person)
            kept, shown = mask.inputs(data, texts)
            key, unit = mask.ids(came.key, came.unit)
            sealed = mask.sealed(session, request.bytes, came)
            matrix += kept + struct.pack("<d", 0.25)
            rows.append(
                meta(
                    number,
                    request=request.bytes,
                    texts=(*shown, sealed, "yes"),
                    key=key,
                    unit=unit,
                    at=at or meta().at,
                    warnings=(),
                )
            )
        self.slots += 1
        writer = BlockWriter(self.path / "journal", node=NODE, boot="b", slot=f"s{self.slots}")
        writer.predictions(writer.declare(LAYOUT), rows, matrix, session.seal)
        writer.flush()
        return writer

    def compact(self, writer: BlockWriter) -> None:
        writer.close()
        with Compactor(self.path, NODE, no_profiles, clock=self.clock) as compactor:
            compactor.run_once()
        record_closed(self.app)

    def row(self, number: int = 0, request: UUID = REQUEST):
        found = query.prediction(self.path, f"{request}.{number}")
        assert found is not None
        return found

    def opened(self, number: int = 0, request: UUID = REQUEST):
        return self.subjects.open([self.row(number, request)])[0]

    def erase(self, subject: str):
        return erase_subject(self.app, EraseSubject(subject=subject, why="ticket 7"))

    def prove(self, number: int = 0):
        return prove_prediction(self.app, ProvePrediction(prediction=f"{REQUEST}.{number}"))

    def events(self):
        with self.app.database.reading() as connection:
            return read_events(connection, Filter(kind="subject.erased"), 10)

    def files(self) -> bytes:
        return b"".join(one.read_bytes() for one in self.path.rglob("*") if one.is_file())


@pytest.fixture
def home(tmp_path: Path, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> Home:
    # Children are the flow tests' matter; the functions are the same.
    monkeypatch.setattr(proving, "ask_stored", proof.find_stored)
    monkeypatch.setattr(proving, "ask_path", proof.prove_in_block)

    def ask(asked: query.Question, *, timeout_s: float = 60.0) -> object:
        return msgspec.msgpack.decode(query.main(msgspec.msgpack.encode(asked)))

    monkeypatch.setattr(query, "ask", ask)
    return Home(tmp_path, sqlite_database)


def test_nothing_personal_is_on_the_disk_and_the_key_opens_it(home: Home) -> None:
    writer = home.answer("anna", "bert")
    for _ in ("open", "compacted"):
        row = home.row(1)
        assert (row["in.age"], row["in.income"], row["in.name"]) == (None, 5.0, None)
        assert (row["ctx.person"], row["key"]) == (None, "a1")
        assert row["unit"] == pseudonym(home.subjects.secret, "bert") == subject_in(row["sealed"])
        assert home.opened(1) == {
            "in.age": 41.0, "in.name": CANARY, "ctx.person": "bert", "unit": "bert"
        }  # fmt: skip
        found = home.files()
        assert CANARY.encode() not in found and b"anna" not in found
        home.compact(writer)
    assert (home.path / "keys" / FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("is_compacted", [False, True])
def test_an_erased_person_is_closed_and_proven_before_and_after_compaction(
    home: Home, *, is_compacted: bool
) -> None:
    writer = home.answer("anna", "bert")
    assert home.prove().state == "not-sealed"
    if is_compacted:
        home.compact(writer)
        assert [home.prove(one).state for one in (0, 1)] == ["proven", "proven"]
    before = home.row()["sealed"]
    done = home.erase("anna")
    assert done.predictions == 1
    assert (home.opened(0), home.opened(1) is None) == (None, False)
    assert personal_of(home.app, [home.row(), home.row(1)]) == [
        "erased",
        "sealed",
    ]
    if not is_compacted:
        assert home.prove().state == "not-sealed"
        home.compact(writer)
        assert home.row()["sealed_key"] is None, "not even the home's key opens it"
    found = home.prove()
    assert (found.state, found.problems, home.prove(1).state) == ("erased", (), "proven")
    assert found.proof is not None and found.proof.record, "what was stored is still whole"
    assert home.row()["sealed"] == before
    assert (home.opened(0), home.opened(1) is None) == (None, False)


def test_the_ledger_names_the_erased_by_a_pseudonym_and_once(home: Home) -> None:
    home.answer("anna")
    done = home.erase("anna")
    (event,) = home.events()
    assert (event.object.id, event.data["predictions"]) == (done.subject, 1)
    assert b"anna" not in home.files() and "anna" not in str(event)
    with pytest.raises(InputError, match="names the subject"):
        erase_subject(home.app, EraseSubject(subject="anna", why="anna asked"))
    with pytest.raises(InputError, match="why"):
        erase_subject(home.app, EraseSubject(subject="anna", why=" "))
    assert finish_erasures(home.app) == 0


@pytest.mark.parametrize("step", ["key", "ledger"])
def test_an_erasure_that_was_broken_off_is_done_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    home.compact(home.answer("anna"))
    broken = "ask" if step == "key" else "finish"

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(query if step == "key" else Subjects, broken, die)
        with pytest.raises(KeyboardInterrupt):
            home.erase("anna")
    assert home.opened() is None, "the key went first"
    assert len(home.events()) == (0 if step == "key" else 1)
    assert finish_erasures(home.app) == 1
    assert (len(home.events()), finish_erasures(home.app)) == (1, 0)


def test_a_search_that_fails_is_told_put_off_and_done_later(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.compact(home.answer("anna", "anna"))
    asked = []

    def fail(_: query.Question, *, timeout_s: float = 60.0) -> object:
        asked.append(timeout_s)
        raise RefusedError("child-timed-out", "it took longer than 60 s")

    with monkeypatch.context() as patched:
        patched.setattr(query, "ask", fail)
        done = home.erase("anna")
        assert (done.predictions, "child-timed-out" in done.problem) == (None, True)
        assert [one.data["predictions"] for one in home.events()] == [None]
        (said,) = erasure_problems(home.app)
        assert "the key is destroyed" in said
        for _ in range(3):
            assert finish_erasures(home.app) == 0
        home.clock.move(61)
        finish_erasures(home.app)
        home.erase("bert")
    assert (asked, len(home.events())) == ([60.0, 120.0, 60.0], 2), "who asks waits no longer"
    # What goes through shows that the search can: the others need not wait any more.
    assert home.erase("carl").predictions == 0
    assert finish_erasures(home.app) == 2
    counts = [one.data["predictions"] for one in home.events()]
    assert sorted(counts, key=str) == [0, 0, 2, None, None]
    assert erasure_problems(home.app) == ()


def test_a_person_who_is_held_is_erased_when_the_hold_has_ended(home: Home) -> None:
    home.compact(home.answer("anna", "bert"))

    def hold(subject: str = "anna", **more: object) -> bool:
        return hold_subject(home.app, HoldSubject(subject=subject, why="case 4", **more)).is_held

    assert [hold(), hold()] == [True, True]
    with pytest.raises(RefusedError, match=r"subject-held: .*by u1 \(case 4\)"):
        home.erase("anna")
    assert home.opened() is not None
    home.erase("bert")
    again = hold_subject(home.app, HoldSubject(subject="anna", why="case 4"))
    assert (again.was_held, again.predictions) == (True, 1)
    nobody = hold_subject(home.app, HoldSubject(subject="nobody", why="case 4"))
    assert (nobody.is_held, nobody.was_held, nobody.predictions) == (True, False, 0)
    never = hold_subject(home.app, HoldSubject(subject="never", why="case 4", ends=True))
    assert (never.is_held, never.was_held, never.predictions) == (False, False, None)
    assert [hold(ends=True), hold(ends=True), hold("bert", ends=True)] == [False] * 3
    with home.app.database.reading() as connection:
        kinds = [one.kind for one in read_events(connection, Filter(), 10)]
    assert kinds[:3] == ["subject.freed", "subject.held", "subject.erased"]
    assert hold(), "again"
    with pytest.raises(RefusedError, match="subject-held"):
        home.erase("anna")
    hold(ends=True)
    assert home.erase("anna").predictions == 1
    assert home.opened() is None
    with pytest.raises(InputError, match="subject-in-reason"):
        hold_subject(home.app, HoldSubject(subject="anna", why="anna's case"))


def test_of_many_holds_none_is_forgotten(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doorstep.journal.holding.EVENTS_READ_MAX", 2)
    home.compact(home.answer("anna"))
    people = [f"p{number}" for number in range(5)]

    def hold(person: str, **more: object) -> str:
        return hold_subject(home.app, HoldSubject(subject=person, why="case 4", **more)).subject

    names = [hold(one) for one in people]
    hold(people[1], ends=True)
    hold(people[3], ends=True)
    hold(people[3])
    assert read_held(home.path / "journal") == {*names} - {names[1]}


def test_what_is_held_is_not_dropped_before_the_hold_has_ended(home: Home) -> None:
    home.compact(home.answer("anna"))
    # Of another hour: files are merged by the hour before anything goes.
    earlier = meta().at - 3 * 3600 * SECOND_US
    home.compact(home.answer("bert", request=UUID(int=REQUEST.int + 1), at=earlier))
    hold = HoldSubject(subject="anna", why="case 4")
    hold_subject(home.app, hold)
    bounds = Bounds({"loans": 60.0}, 1e12)

    def rows_left(days: int) -> int:
        for _ in range(days):
            home.clock.move(86_400)
            with Compactor(
                home.path, NODE, no_profiles, bounds=lambda: bounds, clock=home.clock
            ) as compactor:
                compactor.run_once()
        listed = fold(read_entries(home.path / "journal" / NODE)).files.values()
        return sum(one.rows for one in listed)

    with Compactor(
        home.path, NODE, no_profiles, bounds=lambda: bounds, clock=home.clock
    ) as compactor:
        compactor.run_once()
    assert len(list((home.path / "journal" / NODE / "compacted").glob("*.parquet"))) == 2
    # Of a list that is lost the ledger knows.
    (home.path / "journal" / "held").unlink()
    finish_erasures(home.app)
    assert rows_left(1) == 1
    assert home.opened() is not None
    # A file that cannot be read may have records of theirs; it keeps no other.
    (listed,) = fold(read_entries(home.path / "journal" / NODE)).files
    path = home.path / "journal" / NODE / listed
    data = path.read_bytes()
    path.write_bytes(b"PAR1")
    home.compact(home.answer("bert", request=UUID(int=REQUEST.int + 2), at=earlier - DAY_US))
    assert rows_left(2) == 1
    assert any(
        one.file == listed and "cannot be seen whether a legal hold" in one.reason
        for one in read_troubles(home.path / "journal" / NODE)
    )
    path.write_bytes(data)
    hold_subject(home.app, msgspec.structs.replace(hold, ends=True))
    assert rows_left(3) == 0


def test_keys_that_were_lost_are_not_said_to_be_erased(home: Home) -> None:
    home.compact(home.answer("anna", "bert"))
    home.erase("anna")
    (home.path / "keys" / FILE).unlink()
    home.subjects = Subjects(home.path / "keys")
    home.app.kept = Kept()
    rows = [home.row(), home.row(1)]
    assert personal_of(home.app, rows) == ["erased", "lost"]  # the ledger knows of the erasure
    with pytest.raises(RefusedError, match=r"subject-erased"):
        open_prediction(home.app, OpenPrediction(prediction=f"{REQUEST}.0", why="case 4"))
    with pytest.raises(
        RefusedError, match=r"subject-key-lost: .*personal\.db.* not erased"
    ) as said:
        open_prediction(home.app, OpenPrediction(prediction=f"{REQUEST}.1", why="case 4"))
    assert "restore personal.db" in said.value.hint
    assert home.prove(1).state == "proven"
    # Who is answered again has a new key, which does not open what is older.
    again = UUID(int=REQUEST.int + 1)
    home.compact(home.answer("bert", request=again))
    assert home.opened(0, again) is not None
    assert personal_of(home.app, [home.row(1)]) == ["lost"]


@pytest.mark.parametrize("bytes_max", [1.0, 1e12])
def test_holds_that_keep_more_than_the_journal_may_have_are_said(
    home: Home, bytes_max: float
) -> None:
    home.compact(home.answer("anna"))
    hold = HoldSubject(subject="anna", why="case 4")
    hold_subject(home.app, hold)
    home.clock.move(10 * 86_400)

    def said() -> list[str]:
        bounds = Bounds({"loans": 60.0}, bytes_max)
        with Compactor(
            home.path, NODE, no_profiles, bounds=lambda: bounds, clock=home.clock
        ) as compactor:
            compactor.run_once()
        return [one.text for one in read_troubles(home.path / "journal" / NODE)]

    found = said()
    assert len(found) == (bytes_max == 1.0)
    assert all("legal holds keep" in one and "of loans" in one for one in found)
    assert home.opened() is not None
    hold_subject(home.app, msgspec.structs.replace(hold, ends=True))
    assert said() == []


def test_a_person_is_erased_by_one_of_their_predictions(home: Home) -> None:
    home.compact(home.answer("anna", "anna", "bert"))
    asked = EraseSubject(prediction=f"{REQUEST}.0", why="ticket 7")
    with pytest.raises(InputError, match="bad-subject"):
        erase_subject(home.app, msgspec.structs.replace(asked, subject="anna"))
    done = erase_subject(home.app, asked)
    assert (done.predictions, done.subject) == (2, pseudonym(home.subjects.secret, "anna"))
    assert [home.opened(number) is None for number in range(3)] == [True, True, False]


def test_a_list_of_the_erased_that_is_lost_is_made_again(home: Home) -> None:
    home.compact(home.answer("anna", "bert"))
    home.erase("anna")
    known, path = ErasedList(home.path / "journal"), home.path / "journal" / "erased"
    finish_erasures(home.app)
    for lose in (path.unlink, lambda: path.write_bytes(b"")):
        assert f"{REQUEST}.0" in known
        lose()
        assert f"{REQUEST}.0" not in ErasedList(home.path / "journal")
        finish_erasures(home.app)
        assert f"{REQUEST}.0" in ErasedList(home.path / "journal")
    note_erased(home.path / "journal", ["later"])
    assert "later" in known
    # A control plane that starts does not know how long the list was.
    path.write_bytes(path.read_bytes()[-16:])
    home.app.kept = Kept()
    finish_erasures(home.app)
    assert f"{REQUEST}.0" in ErasedList(home.path / "journal")


def test_what_comes_back_after_an_erasure_is_erased_too(home: Home) -> None:
    home.erase("anna")
    assert [one.data["predictions"] for one in home.events()] == [0]
    home.compact(home.answer("anna"))
    told = outcome(prediction=f"{REQUEST}.0")
    assert without_erased(home.app, [told], skips=True) == ([told], ())
    home.subjects.look_again()
    assert finish_erasures(home.app) == 1
    assert without_erased(home.app, [told], skips=True) == ([], (0,))
    assert len(home.events()) == 1


def test_many_outcomes_by_key_of_erased_people_are_one_question(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.compact(home.answer(*(f"p{number}" for number in range(20))))
    for number in range(20):
        home.erase(f"p{number}")
    later = home.clock.now() + 10
    back = home.answer("p0", "p1", request=UUID(int=REQUEST.int + 1), at=later)
    asked, ask = [], query.ask
    monkeypatch.setattr(query, "ask", lambda one, **more: asked.append(one) or ask(one, **more))
    told = [outcome(key=f"a{number}", at=later + 1) for number in range(20)]
    for _ in ("open", "compacted"):
        assert without_erased(home.app, told, skips=True)[0] == told[:2]
        assert without_erased(home.app, [outcome(key="a0", at=later - 1)], skips=True)[0] == []
        home.compact(back)
    assert len(asked) == 4


def test_a_person_who_comes_back_has_a_new_key_and_what_was_before_stays_closed(home: Home) -> None:
    home.compact(home.answer("anna"))
    home.erase("anna")
    later = UUID("018bcfe5-f4a0-7000-8000-000000000001")
    writer = home.answer("anna", request=later, at=home.clock.now() + 1)
    assert home.opened(0, later) is not None
    home.compact(writer)
    assert (home.opened(0, later) is None, home.opened()) == (False, None)
    home.clock.move(10)
    assert home.erase("anna").predictions == 2
    assert home.opened(0, later) is None


@pytest.mark.parametrize("step", ["write", "rename", "closed", "list", "delete"])
def test_an_erasure_while_a_compaction_is_broken_off_leaves_the_proof_whole(
    home: Home, step: str
) -> None:
    writer = home.answer("anna", "bert")
    writer.close()

    def die(reached: str) -> None:
        if reached == step:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        Compactor(home.path, NODE, no_profiles, clock=home.clock, reached=die) as compactor,
    ):
        compactor.run_once()
    record_closed(home.app)
    home.erase("anna")
    home.compact(writer)
    assert [home.prove(one).state for one in (0, 1)] == ["erased", "proven"]
    assert (home.opened(0), home.opened(1) is None) == (None, False)


def test_sessions_that_follow_each_other_in_one_block_are_told_apart(home: Home) -> None:
    clock = VirtualClock()
    sealer = Sealer(load_personal_key(home.path / "keys").sealing, clock)
    writer = BlockWriter(home.path / "journal", node=NODE, boot="b", slot="mixed")
    number = writer.declare(LAYOUT)
    seals = []
    for at in (0, 1, 2):
        session = sealer.session()
        sealed = sealer.seal(session, ("loans", REQUEST.bytes, at), "anna", {"in.age": at})
        row = meta(at, request=REQUEST.bytes, texts=(None, None, sealed, "yes"))
        writer.predictions(number, [row], bytes(24), session.seal)
        seals.append(session.seal)
        clock.move(61 if at else 1)
    assert (seals[0] == seals[1], seals[1] == seals[2]) == (True, False)
    writer.flush()
    for _ in ("open", "compacted"):
        assert [home.opened(at) for at in (0, 1, 2)] == [{"in.age": at} for at in (0, 1, 2)]
        home.compact(writer)


def outcome(**changes: object) -> OutcomeRecord:
    fields = {"service": "loans", "at": meta().at + 5_000_000, "received_at": 1, "label": "yes"}
    return OutcomeRecord(**(fields | changes))


def test_an_outcome_of_an_erased_prediction_is_refused_or_left_out(home: Home) -> None:
    home.compact(home.answer("anna", "bert"))
    told: Sequence[OutcomeRecord] = [
        outcome(prediction=f"{REQUEST}.1"),
        outcome(prediction=f"{REQUEST}.0"),
        outcome(key="a0"),
        outcome(key="a1"),
    ]
    assert without_erased(home.app, told, skips=False) == (told, ())
    home.erase("anna")
    with pytest.raises(InputError, match="outcome 1: the person whose prediction") as refused:
        without_erased(home.app, told, skips=False)
    assert refused.value.code == "subject-erased"
    known = ErasedList(home.path / "journal")
    assert [f"{REQUEST}.{number}" in known for number in (0, 1)] == [True, False]
    with (home.path / "journal" / "erased").open("ab") as file:
        file.write(b"torn")
    note_erased(home.path / "journal", ["later"])
    assert "later" in known and f"{REQUEST}.0" in known
    kept, gone = without_erased(home.app, told, skips=True)
    assert (kept, gone) == ([told[0], told[3]], (1, 2))
    back = home.answer("anna", request=UUID(int=REQUEST.int + 1), at=home.clock.now() + 1)
    later = outcome(key="a0", at=home.clock.now() + 2)
    assert without_erased(home.app, [later], skips=False) == ([later], ())
    back.close()


def take_another_key(keys: Path) -> None:
    """As if somebody had put the key of another home here."""
    (keys / "other").mkdir()
    create_keys(keys / "other", "test")
    (keys / "other" / "personal.key").replace(keys / "personal.key")


def test_another_key_is_said_and_nothing_is_thrown_away(home: Home) -> None:
    writer = home.answer("anna")
    take_another_key(home.path / "keys")
    with pytest.raises(RefusedError) as refused:
        home.compact(writer)
    assert refused.value.code == "sealed-for-another-key"
    assert list((home.path / "journal" / NODE).glob("*.block")), "the block waits for its key"


def test_what_another_key_sealed_is_not_said_to_be_erased(home: Home) -> None:
    home.compact(home.answer("anna"))
    take_another_key(home.path / "keys")
    with pytest.raises(RefusedError) as refused:
        Subjects(home.path / "keys").open([home.row()])
    assert refused.value.code == "sealed-for-another-key"
    assert personal_of(home.app, [home.row()]) == ["sealed"]


def test_without_a_key_a_block_waits(home: Home) -> None:
    writer = home.answer("anna")
    (home.path / "keys" / "personal.key").unlink()
    with pytest.raises(DoorstepError, match="there is no key"):
        home.compact(writer)
    assert list((home.path / "journal" / NODE).glob("*.block"))


def test_a_destroyed_key_is_not_left_in_the_file(home: Home) -> None:
    home.compact(home.answer("anna", "bert"))
    import sqlite3

    with sqlite3.connect(home.path / "keys" / FILE) as con:
        keys = dict(con.execute("SELECT name, key FROM subject").fetchall())
    name = pseudonym(home.subjects.secret, "anna")
    home.erase("anna")
    assert keys.pop(name) not in home.files()
    assert all(one in home.files() for one in keys.values())


def test_without_a_key_of_the_node_nothing_personal_is_kept() -> None:
    mask = Mask("loans", CONTRACT, IDS, None)
    data, texts = mask.inputs(struct.pack("<2d", 40, 5), (CANARY, "anna"))
    assert (struct.unpack("<2d", data)[1], texts, mask.seals) == (5.0, (None, None), False)
    assert mask.ids("a1", "anna") == ("a1", "")


VALUES = st.dictionaries(st.text(max_size=20), st.floats(allow_nan=False) | st.text(), max_size=5)


@given(values=VALUES, flip=st.integers(0, 10_000))
def test_sealed_values_come_back_whole_or_not_at_all(values: dict, flip: int) -> None:
    key, place = PersonalKey(bytes(32)), ("loans", bytes(16), 3)
    sealer = Sealer(key.sealing)
    session = sealer.session()
    text = sealer.seal(session, place, "anna", values)
    right = Opener(key).row_key(session.seal, *place)
    assert open_sealed(right, text) == values
    assert open_sealed(Opener(key).row_key(session.seal, "loans", bytes(16), 4), text) is None
    at = 33 + flip % (len(text) - 33)
    other = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
    assert open_sealed(right, other) in (None, values), "base64 has bits that say nothing"


def test_an_erasure_reaches_only_what_was_answered_until_then(home: Home) -> None:
    home.compact(home.answer("anna"))
    home.subjects.erase(Erasure("nobody", 1, "u", "w"))
    assert home.opened() is not None
    assert personal.finish_erasures(home.app) == 1
