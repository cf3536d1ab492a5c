"""One prediction, proven from its bytes to the ledger's signature; whatever is changed is found."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import duckdb
import msgspec
import pytest
from journal_samples import LAYOUT, OUTCOME, VirtualClock, meta

from doorstep.core.errors import InputError, NotFoundError
from doorstep.govern.proof import check_proof
from doorstep.govern.proving import prove_prediction
from doorstep.govern.surface import PredictionProof, Proof, ProvePrediction
from doorstep.journal.compactor import Compactor
from doorstep.journal.index import INDEX
from doorstep.journal.ledgering import record_closed
from doorstep.journal.tally import no_profiles
from doorstep.journal.writer import BlockWriter
from doorstep.kernel.db import Database
from doorstep.kernel.keys import create_keys, load_public_key, new_signing_key

NODE = "n"
ROWS = 7
NAN = float("nan")
NUMBERS = (0.0, -0.0, NAN, float("inf"), 5e-324, 1 / 3, 2.0**60)
TEXTS = (("car", "yes"), (None, "no"), ("", ""), ("it's", "ü\x00"), *[("a", "b")] * 3)
REQUEST = UUID("018bcfe5-6800-7000-8000-000000000001")
"""Its time is that of `meta()`."""


class Home:
    def __init__(self, path: Path, database: Database) -> None:
        self.clock = VirtualClock()
        keys = path / "keys"
        keys.mkdir()
        create_keys(keys, "test/ledger")
        folders = SimpleNamespace(path=path, keys=keys)
        self.app = SimpleNamespace(home=folders, database=database, clock=self.clock)
        self.node = path / "journal" / NODE
        self.write("a")

    def write(self, slot: str, later_s: int = 0) -> None:
        """Two groups and an outcome between them, so that records lie in two Parquet files."""
        writer = BlockWriter(self.node.parent, node=NODE, boot="b", slot=slot)
        number = writer.declare(LAYOUT)
        rows = [
            meta(row, request=REQUEST.bytes if slot == "a" else bytes(16), texts=TEXTS[row],
                 warnings=("x", "y") if row % 2 else (), share=0.05, cached=row == 3,
                 at=meta().at + later_s * 1_000_000)
            for row in range(ROWS)
        ]  # fmt: skip
        matrix = b"".join(struct.pack("<2d", one, NUMBERS[-1 - i]) for i, one in enumerate(NUMBERS))
        writer.predictions(number, rows[:3], matrix[: 3 * 16])
        writer.outcome(msgspec.structs.replace(OUTCOME, received_at=rows[0].at))
        writer.predictions(number, rows[3:], matrix[3 * 16 :])
        writer.flush()
        self.writer = writer

    def compact(self) -> None:
        with Compactor(self.node.parent.parent, NODE, no_profiles, clock=self.clock) as compactor:
            compactor.run_once()

    def seal(self) -> None:
        self.writer.close()
        self.compact()
        record_closed(self.app)

    def prove(self, row: int = 4) -> PredictionProof:
        return prove_prediction(self.app, ProvePrediction(prediction=f"{REQUEST}.{row}"))

    @property
    def key(self):
        return load_public_key(self.app.home.keys / "ledger.pub")

    def parquet(self, holds: str = "") -> Path:
        found = list((self.node / "compacted").glob("*.parquet"))
        return next(one for one in found if ("outcomes" in one.name) == (holds == "outcomes"))

    def rewrite(self, change: str, holds: str = "", *, listed: bool = True) -> None:
        """A Parquet file with `change` (SELECT * REPLACE (...)); listed: the index agrees."""
        path = self.parquet(holds)
        before = path.read_bytes()
        other = path.with_suffix(".new")
        duckdb.sql(
            f"COPY (SELECT * REPLACE ({change}) FROM '{path}') TO '{other}' (FORMAT parquet)"
        )
        other.rename(path)
        if listed:
            self.edit_index(_digest(before), _digest(path.read_bytes()))

    def edit_index(self, old: str, new: str) -> None:
        text = (self.node / INDEX).read_text()
        assert old in text
        (self.node / INDEX).write_text(text.replace(old, new))


def _digest(data: bytes) -> str:
    from hashlib import sha256

    return sha256(data).hexdigest()


@pytest.fixture
def home(tmp_path: Path, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> Home:
    # Children are the flow tests' matter; the functions are the same.
    from doorstep.govern import proving
    from doorstep.journal import proof

    monkeypatch.setattr(proving, "ask_stored", proof.find_stored)
    monkeypatch.setattr(proving, "ask_path", proof.prove_in_block)
    return Home(tmp_path, sqlite_database)


def test_an_open_block_and_one_that_the_ledger_has_not_are_not_yet_sealed(home: Home) -> None:
    assert home.prove().state == "not-sealed"
    home.writer.close()
    assert home.prove().state == "not-sealed"
    home.compact()
    found = home.prove()
    assert (found.state, found.proof) == ("not-sealed", None)
    assert "not yet sealed" in found.said[0]
    record_closed(home.app)
    assert home.prove().state == "proven"


@pytest.mark.parametrize("row", range(ROWS))
def test_every_record_is_proven_whatever_its_numbers_and_texts(home: Home, row: int) -> None:
    home.seal()
    found = home.prove(row)
    assert (found.state, found.problems) == ("proven", ())
    assert found.proof is not None
    assert found.proof.records == ROWS + 1


def test_it_is_proven_after_hourly_and_daily_merges(home: Home) -> None:
    home.seal()
    for slot, later_s in (("c", 0), ("d", 3600)):
        home.write(slot, later_s)
        home.seal()
    for hours, level in ((4, "hour"), (24 * 4, "day")):
        home.clock.move(hours * 3600)
        home.compact()
        home.clock.move(3600)
        home.compact()  # now the files that were merged are gone
        assert len(list((home.node / "compacted").glob(f"{level}-*.parquet"))) == 2
        assert home.prove().state == "proven"


def test_an_unknown_prediction_is_not_found(home: Home) -> None:
    home.seal()
    with pytest.raises(NotFoundError, match="no prediction"):
        home.prove(99)


def test_erased_contents_leave_the_leaf_proven_and_say_so(home: Home) -> None:
    home.seal()
    home.rewrite('NULL AS "in.age", NULL AS "in.purpose", NULL AS key, NULL AS "out.answer"')
    found = home.prove()
    assert (found.state, found.problems) == ("erased", ())
    assert "contents are gone" in found.said[0]
    assert found.proof is not None and found.proof.record == ""
    assert check_proof(found.proof, home.key).state == "erased"


@pytest.mark.parametrize(
    "change",
    [
        '"in.age" + 1 AS "in.age"',
        '\'no\' || "out.answer" AS "out.answer"',
        "version + 1 AS version",
        "'other' AS key",
        "'\\x00'::BLOB AS leaf_hash",
        "leaf_hash || '\\x00'::BLOB AS leaf_hash",
        "7 - ordinal AS ordinal",
        "0 AS ordinal",
        "'elsewhere' AS block",
        "(ordinal + 5)::VARCHAR::BLOB AS leaf_hash",
    ],
)
def test_a_changed_value_leaf_or_place_is_found_though_the_index_agrees(
    home: Home, change: str
) -> None:
    home.seal()
    home.rewrite(change)
    assert home.prove().state in ("broken", "not-sealed")
    if "block" not in change:
        assert home.prove().problems


def test_a_leaf_of_another_record_of_the_block_is_found(home: Home) -> None:
    home.seal()
    home.rewrite("'\\x00'::BLOB AS leaf_hash", "outcomes")
    found = home.prove()
    assert found.state == "broken"
    assert "its leaves were changed" in found.problems[-1]


def test_a_file_that_the_index_does_not_list_so_is_found(home: Home) -> None:
    home.seal()
    home.rewrite("source AS source", "outcomes", listed=False)
    assert "another digest" in home.prove().problems[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f'"rows":{ROWS},"outcomes":1', f'"rows":{ROWS + 1},"outcomes":0'),
        ('"sha256":"', '"sha256":"0'),
        ('"record_root":"', '"record_root":"0'),
        ('"service":"loans","holds":"outcomes"', '"service":"x","holds":"outcomes"'),
    ],
)
def test_a_changed_line_of_the_index_is_found_or_changes_nothing(
    home: Home, old: str, new: str
) -> None:
    home.seal()
    home.edit_index(old, new)
    found = home.prove()
    harmless = '"holds"' in old
    assert (found.state == "proven") if harmless else found.problems


def test_files_that_cannot_be_read_are_an_error_that_says_so(home: Home) -> None:
    home.seal()
    home.edit_index('"holds":"outcomes"', '"holds":"predictions"')
    with pytest.raises(InputError, match="cannot be read"):
        home.prove()


def test_any_broken_bytes_of_a_file_are_found(home: Home) -> None:
    home.seal()
    path = home.parquet()
    whole = path.read_bytes()
    for at in range(0, len(whole), len(whole) // 30):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            found = home.prove()
        except (InputError, NotFoundError):
            continue
        assert found.state != "proven", at


def test_a_file_taken_out_of_the_index_is_missed(home: Home) -> None:
    home.seal()
    lines = (home.node / INDEX).read_text()
    entry = msgspec.json.decode(lines.encode())
    entry["files"] = [one for one in entry["files"] if one["holds"] == "predictions"]
    (home.node / INDEX).write_bytes(msgspec.json.encode(entry) + b"\n")
    assert "7 of its 8 leaves" in home.prove().problems[0]


def test_a_layout_that_was_changed_or_is_gone_is_found(home: Home) -> None:
    home.seal()
    path = next((home.node / "layouts").iterdir())
    path.write_bytes(path.read_bytes().replace(b"in.age", b"in.old"))
    assert any("layout" in one for one in home.prove().problems)
    path.unlink()
    assert home.prove().state == "broken"


def _with(**changes: object) -> Callable[[Proof], Proof]:
    return lambda proof: msgspec.structs.replace(proof, **changes)


def _flip(name: str) -> Callable[[Proof], Proof]:
    def change(proof: Proof) -> Proof:
        text = getattr(proof, name)
        return msgspec.structs.replace(proof, **{name: ("1" if text[0] == "0" else "0") + text[1:]})

    return change


@pytest.mark.parametrize(
    "change",
    [
        _with(prediction=f"{REQUEST}.5"),
        _with(layout=None),
        _with(record=base64.b64encode(b"p" * 200).decode()),
        _with(record="%"),
        _flip("leaf"),
        _with(ordinal=0),
        _with(records=9),
        _with(path=()),
        _with(path=("xyz",)),
        _with(event="{}"),
        lambda proof: _with(event=proof.event.replace('"boot":"b"', '"boot":"c"'))(proof),
        _with(event_path=("00" * 32,)),
        lambda proof: _with(checkpoint=proof.checkpoint.replace("\n1\n", "\n2\n"))(proof),
        _with(checkpoint=""),
    ],
)
def test_a_proof_with_anything_changed_is_refused(
    home: Home, change: Callable[[Proof], Proof]
) -> None:
    home.seal()
    proof = home.prove().proof
    assert proof is not None
    changed = change(proof)
    assert changed != proof
    assert check_proof(proof, home.key).state == "proven"
    assert check_proof(changed, home.key).state == "broken"


def test_a_proof_that_another_key_signed_is_refused(home: Home) -> None:
    home.seal()
    proof = home.prove().proof
    assert proof is not None
    assert check_proof(proof, new_signing_key("test/ledger").public).state == "broken"
