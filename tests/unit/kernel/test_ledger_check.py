"""The ledger finds every way of changing it, in the database and in its export."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from doorstep.core import merkle
from doorstep.core.errors import InputError, RefusedError
from doorstep.govern import verifier
from doorstep.kernel import checkpoints, ledger
from doorstep.kernel.checkpoints import Signed, Signer, is_due, sign_checkpoint
from doorstep.kernel.db import Database
from doorstep.kernel.event import Object
from doorstep.kernel.keys import new_signing_key
from doorstep.kernel.ledger import TreeHead
from doorstep.kernel.ledger_check import LedgerReport, verify_ledger
from doorstep.kernel.note import Checkpoint, open_checkpoint, sign_note

KEY = new_signing_key("doorstep/test/ledger")
VKEY = KEY.public.to_text()
SIZE = 300


def record(database: Database, count: int) -> None:
    with database.transaction() as unit:
        for number in range(count):
            about = Object("thing", str(number))
            unit.record("thing.added", about, {"service": "loans", "n": number})


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(KEY, tmp_path / "ledger.note")


@pytest.fixture
def grown(sqlite_database: Database, signer: Signer) -> Database:
    """300 events, checkpoints signed at 100 and 300."""
    record(sqlite_database, 100)
    sign_checkpoint(sqlite_database, signer, 1)
    record(sqlite_database, 200)
    sign_checkpoint(sqlite_database, signer, 2)
    return sqlite_database


def check(database: Database, *pinned: Checkpoint) -> LedgerReport:
    with database.reading() as connection:
        return verify_ledger(connection, KEY.public, pinned)


def notes(database: Database) -> list[str]:
    with database.reading() as connection:
        found = [checkpoints.read_checkpoint(connection, size) for size in (100, SIZE)]
    return [signed.note for signed in found if signed]


def sql(database: Database, *statements: str) -> None:
    with database.writing() as connection:
        for statement in statements:
            connection.execute(text(statement))


def rewrite(database: Database, change: Callable[[dict], dict]) -> None:
    """What an insider with the database can do: another history, every hash of it right."""
    with database.writing() as connection:
        events = [json.loads(row.leaf) for row in ledger.scan(connection)]
        for table in ("ledger", "ledger_node"):
            connection.execute(text(f"DELETE FROM {table}"))
        connection.execute(text("UPDATE ledger_head SET size = 0, frontier = x''"))
        appender = ledger.Appender(connection)
        for event in map(change, events):
            about = Object(**event["object"])
            actor = ledger.Actor(**event["actor"])
            appender.append(event["kind"], about, event["data"], actor=actor, at=event["ts"])
        appender.flush()


def with_another_seventh(event: dict) -> dict:
    return {**event, "data": {"n": "other"}} if event["seq"] == 7 else event


# --- in the database ------------------------------------------------------------------------


def test_an_untouched_ledger_is_whole(grown: Database):
    report = check(grown)
    assert report.is_whole and (report.size, report.checkpoints) == (SIZE, 2)


def test_an_empty_ledger_is_whole(sqlite_database: Database):
    report = check(sqlite_database)
    assert report.is_whole and report.root == merkle.EMPTY_ROOT.hex()


SWAP_LEAVES = [
    "CREATE TABLE two AS SELECT * FROM ledger WHERE seq IN (7, 8)",
    "UPDATE ledger SET (leaf, hash, object_id) = "
    "(SELECT leaf, hash, object_id FROM two WHERE two.seq = 15 - ledger.seq) WHERE seq IN (7, 8)",
]
COPY = "SELECT {seq}, leaf, hash, at, kind, object_type, object_id, service FROM ledger"
MUTATIONS = {
    "edit": (["UPDATE ledger SET leaf = CAST(replace(leaf, 'loans', 'fraud') AS BLOB) "
              "WHERE seq = 7"], "changed"),
    "edit a column": (["UPDATE ledger SET object_id = 'x' WHERE seq = 7"], "object_id"),
    "edit a hash": (["UPDATE ledger SET hash = zeroblob(32) WHERE seq = 7"], "another hash"),
    "edit an inner hash": (["UPDATE ledger_node SET hash = zeroblob(32)"], "inner"),
    "edit the head": (["UPDATE ledger_head SET frontier = zeroblob(128)"], "head"),
    "break the head": (["UPDATE ledger_head SET frontier = x'00'"], "head cannot be read"),
    "delete": (["DELETE FROM ledger WHERE seq = 7"], "missing"),
    "swap": (SWAP_LEAVES, "moved"),
    "insert": ([f"INSERT INTO ledger {COPY.format(seq=SIZE)} WHERE seq = 7"], "moved"),
    "insert before": ([f"INSERT INTO ledger {COPY.format(seq=-1)} WHERE seq = 7"], "inserted"),
    "drop the tail": ([f"DELETE FROM ledger WHERE seq = {SIZE - 1}"], "cut off"),
    "no JSON": (["UPDATE ledger SET leaf = x'ff' WHERE seq = 7"], "not an event"),
    "edit a checkpoint": (["UPDATE ledger_checkpoint SET note = replace(note, '100', '101')"],
                          "signature"),
    "move a checkpoint": (["UPDATE ledger_checkpoint SET size = 99 WHERE size = 100"], "is of 100"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_change_in_the_database_is_found(grown: Database, name: str):
    statements, said = MUTATIONS[name]
    sql(grown, *statements)
    problems = check(grown).problems
    assert any(said in problem.what for problem in problems), problems


def test_a_tail_that_was_cut_off_with_care_is_found_by_the_checkpoint(grown: Database):
    sql(grown, "DELETE FROM ledger WHERE seq >= 256", "DELETE FROM ledger_node WHERE number > 0")
    with grown.reading() as connection:
        root = merkle.root_at(256, ledger.hash_at(connection))
    sql(grown, f"UPDATE ledger_head SET size = 256, frontier = x'{root.hex()}'")
    problems = check(grown).problems
    assert [problem.what for problem in problems] == [
        "a checkpoint covers 300 events, 256 are here: the end was cut off"
    ]


def test_a_history_with_right_hashes_is_found_by_its_checkpoints(grown: Database):
    rewrite(grown, with_another_seventh)
    assert [problem.seq for problem in check(grown).problems] == [100, SIZE]


def test_a_history_that_was_signed_anew_is_found_only_by_a_pinned_checkpoint(
    grown: Database, tmp_path: Path
):
    pinned = open_checkpoint(notes(grown)[0], KEY.public)
    rewrite(grown, with_another_seventh)
    sql(grown, "DELETE FROM ledger_checkpoint")
    sign_checkpoint(grown, Signer(KEY, tmp_path / "forgotten.note"), 3)
    assert check(grown).is_whole
    assert [problem.seq for problem in check(grown, pinned).problems] == [100]


# --- signing --------------------------------------------------------------------------------


def test_a_checkpoint_is_signed_once_for_each_state(grown: Database, signer: Signer):
    again = sign_checkpoint(grown, signer, 9)
    assert (again.size, again.signed_at) == (SIZE, 2)
    record(grown, 1)
    assert sign_checkpoint(grown, signer, 9).size == SIZE + 1


def test_nothing_is_signed_that_does_not_continue_what_was_signed(
    grown: Database, signer: Signer, tmp_path: Path
):
    before = (tmp_path / "ledger.note").read_bytes()
    rewrite(grown, with_another_seventh)
    record(grown, 1)
    with pytest.raises(RefusedError) as refused:
        sign_checkpoint(grown, signer, 9)
    assert refused.value.code == "ledger-inconsistent"
    sql(grown, "DELETE FROM ledger_checkpoint")
    with pytest.raises(RefusedError):  # The file beside the key still knows.
        sign_checkpoint(grown, signer, 9)
    assert (tmp_path / "ledger.note").read_bytes() == before


def test_a_database_restored_to_an_older_state_gets_no_signature(grown: Database, signer: Signer):
    remembered = Checkpoint(KEY.public.name, SIZE + 50, bytes(32))
    (signer._memory).write_text(sign_note(remembered.to_text(), KEY))
    with pytest.raises(RefusedError, match="350"):
        sign_checkpoint(grown, signer, 9)


def test_a_signers_memory_that_was_changed_stops_the_signing(grown: Database, signer: Signer):
    signer._memory.write_bytes(b"\xff nonsense")
    with pytest.raises(InputError):
        sign_checkpoint(grown, signer, 9)


def test_a_checkpoint_is_due_after_events_or_time():
    head = TreeHead(1, (bytes(32),))
    assert is_due(head, None, 0) and not is_due(TreeHead(0, ()), None, 0)
    last = Signed(0, "", 0)
    assert not is_due(head, last, 59_999_999) and is_due(head, last, 60_000_000)
    assert not is_due(head, Signed(1, "", 0), 10**12)
    many = TreeHead(1024, (bytes(32),))
    assert is_due(many, Signed(24, "", 0), 1) and not is_due(many, Signed(25, "", 0), 1)


# --- the export and the verifier ------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], list[str]]:
    """Lines of 300 events, and the notes at 100 and 300."""
    from doorstep.core.instant import SystemClock
    from doorstep.migrations.upgrade import upgrade

    folder = tmp_path_factory.mktemp("exported")
    database = Database(f"sqlite:///{folder / 'doorstep.db'}", SystemClock())
    upgrade(database)
    for size in (100, 200):
        record(database, size)
        sign_checkpoint(database, Signer(KEY, folder / "ledger.note"), size)
    with database.reading() as connection:
        lines = list(ledger.export_lines(connection))
    found = notes(database)
    database.close()
    return lines, found


def test_the_verifier_accepts_what_was_exported(exported):
    lines, (old, new) = exported
    origin, size, _ = verifier.verify_export(lines, new, VKEY, [old])
    assert (origin, size) == ("doorstep/test/ledger", SIZE)
    assert verifier.verify_export(lines[:100], old, VKEY)[1] == 100


def resigned(lines: list[bytes]) -> str:
    frontier: merkle.Frontier = ()
    for size, line in enumerate(lines):
        frontier, _ = merkle.grow(frontier, size, merkle.hash_leaf(line[:-1]))
    root = merkle.root_of(frontier)
    return sign_note(Checkpoint(KEY.public.name, len(lines), root).to_text(), KEY)


def renumbered(lines: list[bytes]) -> list[bytes]:
    events = [{**json.loads(line), "seq": seq} for seq, line in enumerate(lines)]
    return [json.dumps(event, sort_keys=True).encode() + b"\n" for event in events]


def edited(lines: list[bytes]) -> list[bytes]:
    return [*lines[:7], lines[7].replace(b'"n":7', b'"n":9'), *lines[8:]]


EXPORTS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "edit": edited,
    "blank": lambda lines: [*lines[:7], lines[7].replace(b":", b": ", 1), *lines[8:]],
    "delete": lambda lines: lines[:7] + lines[8:],
    "delete and renumber": lambda lines: renumbered(lines[:7] + lines[8:]),
    "swap": lambda lines: [*lines[:7], lines[8], lines[7], *lines[9:]],
    "swap and renumber": lambda lines: renumbered([*lines[:7], lines[8], lines[7], *lines[9:]]),
    "insert": lambda lines: [*lines[:7], lines[7], *lines[7:]],
    "drop the tail": lambda lines: lines[:-1],
    "cut the last line": lambda lines: [*lines[:-1], lines[-1][:-1]],
    "empty": lambda lines: [],
    "no JSON": lambda lines: [b"\xff\n", *lines[1:]],
    "deep JSON": lambda lines: [b"[" * 100_000 + b"\n", *lines[1:]],
}


@pytest.mark.parametrize("name", EXPORTS)
def test_the_verifier_finds_every_change_of_an_export(exported, name: str):
    lines, (old, new) = exported
    with pytest.raises(verifier.Wrong):
        verifier.verify_export(EXPORTS[name](lines), new, VKEY, [old])


def test_the_verifier_finds_a_fork_of_equal_size(exported):
    lines, (_, new) = exported
    forged = sign_note(Checkpoint(KEY.public.name, SIZE, bytes(32)).to_text(), KEY)
    with pytest.raises(verifier.Wrong, match="not those that were signed"):
        verifier.verify_export(lines, new, VKEY, [forged])


def test_the_verifier_finds_a_rewrite_by_the_keys_holder_if_a_checkpoint_was_kept(exported):
    lines, (old, _) = exported
    rewritten = edited(lines)
    assert verifier.verify_export(rewritten, resigned(rewritten), VKEY)[1] == SIZE
    with pytest.raises(verifier.Wrong, match="first 100 events"):
        verifier.verify_export(rewritten, resigned(rewritten), VKEY, [old])


def test_the_verifier_finds_a_checkpoint_of_another_ledger_or_from_the_future(exported):
    lines, (old, new) = exported
    root = bytes(32)
    other = sign_note(Checkpoint("another", 100, root).to_text(), KEY)
    future = sign_note(Checkpoint(KEY.public.name, SIZE + 1, root).to_text(), KEY)
    for pinned in (other, future):
        with pytest.raises(verifier.Wrong):
            verifier.verify_export(lines, new, VKEY, [old, pinned])


@given(st.data())
def test_the_verifier_accepts_no_edited_checkpoint(exported, data: st.DataObject):
    _, (_, note) = exported
    place = data.draw(st.integers(0, len(note) - 1))
    letter = data.draw(st.characters(codec="utf-8").filter(lambda c: c != note[place]))
    changed = note[:place] + letter + note[place + 1 :]
    with pytest.raises(verifier.Wrong):
        verifier.open_checkpoint(changed, VKEY)


@pytest.mark.parametrize(
    "key",
    ["", "a+b", VKEY[:-1], VKEY.replace("test", "tost"), "a+00000000+AA=="],
    ids=["empty", "two parts", "cut", "another name", "another id"],
)
def test_the_verifier_accepts_no_edited_key(exported, key: str):
    with pytest.raises(verifier.Wrong, match="key"):
        verifier.open_checkpoint(exported[1][1], key)


@given(message=st.binary(max_size=64), flip=st.integers(0, 64 * 8 - 1))
def test_the_verifiers_ed25519_agrees_with_cryptography(message: bytes, flip: int):
    signature = KEY.sign(message)
    forged = (int.from_bytes(signature) ^ 1 << flip).to_bytes(64)
    public = KEY.public.raw
    assert verifier.verify_signature(public, message, signature)
    assert not verifier.verify_signature(public, message, forged)
    assert not KEY.public.verify(message, forged)


@given(st.lists(st.integers(), max_size=70))
def test_the_verifiers_tree_agrees_with_doorsteps(numbers: list[int]):
    lines = [b'{"seq":%d,"n":%d}\n' % (seq, n) for seq, n in enumerate(numbers)]
    roots, frontier = {0: merkle.EMPTY_ROOT}, ()
    for size, line in enumerate(lines):
        frontier, _ = merkle.grow(frontier, size, merkle.hash_leaf(line[:-1]))
        roots[size + 1] = merkle.root_of(frontier)
    assert verifier.roots_of(lines, set(roots)) == roots


def test_the_verifier_runs_alone_and_says_what_it_found(exported, tmp_path: Path):
    lines, (old, new) = exported
    # A copy in an empty folder, in isolated mode: nothing of Doorstep can be imported.
    script = tmp_path / "verifier.py"
    script.write_bytes(Path(verifier.__file__).read_bytes())
    for name, content in {"export": b"".join(lines), "new": new.encode(), "old": old.encode(),
                          "key": VKEY.encode(), "cut": b"".join(lines[:-1])}.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)

    def run(*names: str) -> tuple[int, str]:
        asked = [sys.executable, "-I", "-S", str(script), *(str(tmp_path / n) for n in names)]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout

    code, said = run("export", "new", "key", "old")
    assert code == 0 and said.startswith("valid: 300 events of doorstep/test/ledger, root ")
    assert "no older checkpoint" in run("export", "new", "key")[1]
    assert run("cut", "new", "key") == (
        1,
        "NOT VALID: the export has 299 events, 300 were signed\n",
    )
    assert run("export", "new")[0] == run("nothing", "new", "key")[0] == 2
