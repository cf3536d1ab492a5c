"""Rows of another service: what is taken, what is refused and why, and each only once."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorstep.compose.control import ControlPlane
from doorstep.core.instant import SECOND_US, SystemClock
from doorstep.core.servicefile import parse_service_file
from doorstep.journal.importing import import_rows
from doorstep.journal.imports import instant_of, label_of, mapped, prepared, shape_of
from doorstep.journal.known import known_ids
from doorstep.journal.rows import Filters, tail_parts, tail_rows
from doorstep.journal.sealing import Sealer, pseudonym
from doorstep.journal.snapshot import take_snapshots
from doorstep.journal.subjects import Erasure, subjects_of
from doorstep.journal.surface import ImportedRow, ImportRows
from doorstep.journal.watched import read_watched
from doorstep.kernel.app import App
from doorstep.kernel.db import Database
from doorstep.kernel.home import open_home
from doorstep.kernel.keys import create_keys
from doorstep.register.views import manifest_of
from doorstep.register.watched import reference_of, watch_version
from watch_case import FILE, made_rows, weeks_ago

TEXT = FILE.format(service="loans")
PARSED = parse_service_file(TEXT)
ROWS = made_rows(300, since_s=weeks_ago(2), until_s=weeks_ago(1), prefix="a")


@pytest.fixture
def app(sqlite_database: Database, tmp_path: Path) -> App:
    home = open_home(tmp_path / "home", create=True)
    made = ControlPlane(home, sqlite_database, SystemClock(), {}, {}, tmp_path).app()
    watch_version(made, TEXT, "v3", reference_of(ROWS, PARSED, "300 rows"))
    return made


def asked(rows: list[dict[str, Any]]) -> ImportRows:
    return ImportRows(service="loans", rows=tuple(mapped(one, PARSED) for one in rows))


def recorded(app: App) -> list[dict[str, Any]]:
    return list(tail_rows(tail_parts(take_snapshots(app.home.path), "loans"), Filters()))


def test_a_row_is_recorded_with_what_it_was_answered(app: App) -> None:
    found = import_rows(app, asked(ROWS[:1]))
    assert (found.imported, found.outcomes, found.refused) == (1, 1, ())
    (row,) = recorded(app)
    given = ROWS[0]
    assert (row["version"], row["assigned"], row["kind"], row["key"]) == (1, 1, 3, "a00000")
    assert row["at"] == round(given["answered"] * SECOND_US)
    assert (row["in.amount"], row["in.purpose"]) == (given["amount"], given["purpose"])
    assert row["out.yes"] == pytest.approx(given["p_default"])
    assert row["out.answer"] == given["answer"]
    assert row["cached"], "nothing is known of its latency"


BROKEN = (
    ({"application": ""}, "no key in column application"),
    ({"answered": "yesterday"}, "'yesterday' in column answered is no time"),
    ({"answered": None}, "no time in column answered"),
    ({"answered": 4e9}, "its time is in the future"),
    ({"amount": "much"}, "amount: 'much' is no number"),
    ({"amount": "inf"}, "amount: inf is not finite"),
    ({"amount": ""}, "amount is missing"),
    ({"age": 33.5}, "age: 33.5 is no whole number"),
    ({"purpose": "x" * 10_001}, "purpose has 10001 characters; at most 10000"),
    ({"application": "k" * 257}, "a key of 257 characters; at most 256"),
    ({"p_default": 1.5}, "a score is not from 0 to 1"),
    ({"p_default": "high"}, "score: 'high' is no number"),
    ({"answer": "perhaps"}, "answer 'perhaps' is none of no, yes"),
    ({"answer": None, "p_default": None}, "it has neither an answer nor a score"),
    ({"defaulted": "maybe"}, "outcome 'maybe' is none of no, yes"),
)


@pytest.mark.parametrize(("change", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_a_row_that_makes_no_sense_is_refused_with_its_reason(
    app: App, change: dict[str, Any], reason: str
) -> None:
    row = {**ROWS[0], **change}
    try:
        one = mapped(row, PARSED)
    except ValueError as error:
        assert str(error) == reason
        return
    found = import_rows(app, ImportRows(service="loans", rows=(mapped(ROWS[1], PARSED), one)))
    assert [(one.index, one.reason) for one in found.refused] == [(1, reason)]
    assert [row["key"] for row in recorded(app)] == ["a00001"], "the others are taken"


def test_a_version_that_has_no_name_spoils_its_row_and_not_those_beside_it(app: App) -> None:
    given = asked(ROWS[:3])
    rows = (given.rows[0], msgspec.structs.replace(given.rows[1], version=""), given.rows[2])
    found = import_rows(app, msgspec.structs.replace(given, rows=rows))
    assert (found.imported, [one.index for one in found.refused]) == (2, [1])
    assert "a version is called ''" in found.refused[0].reason


def test_rows_are_imported_once_and_an_outcome_that_comes_later_is_added(app: App) -> None:
    early = [{**one, "defaulted": None} for one in ROWS[:50]]
    assert import_rows(app, asked(early)).imported == 50
    again = import_rows(app, asked(ROWS[:80]))
    assert (again.imported, again.known, again.outcomes) == (30, 50, 80)
    third = import_rows(app, asked(ROWS[:80]))
    assert (third.imported, third.known, third.outcomes) == (0, 80, 0)
    assert sorted(row["key"] for row in recorded(app)) == [f"a{at:05d}" for at in range(80)]


def test_a_double_within_one_call_is_one_row(app: App) -> None:
    assert import_rows(app, asked([ROWS[0], ROWS[0]])).imported == 1


def test_a_check_records_nothing_and_makes_no_version(app: App) -> None:
    rows = [{**ROWS[0], "model": "v9"}, {**ROWS[1], "age": "old"}]
    found = import_rows(app, msgspec.structs.replace(asked(rows), check=True))
    assert [one.index for one in found.refused] == [1]
    assert recorded(app) == []
    known = read_watched(app.home.path, "loans")
    assert known is None or [one.name for one in known.versions] == ["v3"]


def test_a_new_name_is_a_new_number_that_the_ledger_knows(app: App) -> None:
    import_rows(app, asked([{**ROWS[0], "model": "8f3c2d1"}]))
    known = read_watched(app.home.path, "loans")
    assert known is not None
    assert {one.name: one.number for one in known.versions} == {"v3": 1, "8f3c2d1": 2}
    assert known.newest is not None and known.newest.name == "8f3c2d1"
    bundle = known.versions[1].bundle
    assert manifest_of(app.home.bundles, bundle).lineage.parameters == {"version": "8f3c2d1"}


def test_an_error_of_the_other_service_is_one_of_its_version(app: App) -> None:
    row = ImportedRow(id="r1", at=SECOND_US, version="v3", error="status 500")
    assert import_rows(app, ImportRows(service="loans", rows=(row,))).imported == 1
    (found,) = recorded(app)
    assert (found["version"], found["assigned"], found["status"]) == (-1, 1, 1)


@pytest.mark.parametrize(
    ("value", "expected_us"),
    [
        ("2026-10-01T12:00:00Z", 1_790_856_000_000_000),
        ("2026-10-01 12:00:00", 1_790_856_000_000_000),
        ("2026-10-01T14:00:00+02:00", 1_790_856_000_000_000),
        (1_790_856_000, 1_790_856_000_000_000),
        ("1790856000.5", 1_790_856_000_500_000),
        (1_790_856_000_000, 1_790_856_000_000_000),
        (1_790_856_000_000_000, 1_790_856_000_000_000),
    ],
)
def test_a_time_is_read_in_the_unit_that_it_must_be(value: Any, expected_us: int) -> None:
    assert instant_of(value, "t") == expected_us


def test_a_label_is_found_however_its_source_writes_it() -> None:
    assert label_of(True, ("false", "true")) == "true"
    assert label_of("True", ("false", "true")) == "true"
    assert label_of(1.0, ("0", "1")) == "1"
    assert label_of("1.0", ("0", "1")) == "1"
    assert label_of("007", ("007", "7")) == "007"
    assert label_of("2", ("0", "1")) is None


def test_personal_fields_are_kept_as_a_hash_or_not_at_all(app: App) -> None:
    text = TEXT + (
        "contract: {inputs: {amount: {type: float, personal: drop}, "
        "purpose: {type: text, personal: pseudonymise}}}\n"
    )
    file = parse_service_file(text.replace("service: loans", "service: private"))
    row, _ = watch_version(
        app, text.replace("service: loans", "service: private"), "v3",
        reference_of(ROWS, file, "x"),
    )  # fmt: skip
    shape = shape_of(
        "private", 1, manifest_of(app.home.bundles, row.digest), file.ids, Sealer(bytes(64))
    )
    found = prepared(mapped(ROWS[0], file), shape, "private", SystemClock().now())
    assert found.numbers[0] != found.numbers[0], "a personal number is not kept"
    assert found.meta.texts[0] != ROWS[0]["purpose"] and len(found.meta.texts[0] or "") == 32


def test_imported_rows_are_sealed_and_those_of_an_erased_person_are_refused(app: App) -> None:
    create_keys(app.home.keys, "test")
    text = TEXT.replace("service: loans", "service: private") + (
        "contract: {inputs: {amount: {type: float, personal: seal}, "
        "purpose: {type: text, personal: seal}}}\n"
    )
    file = parse_service_file(text)
    watch_version(app, text, "v3", reference_of(ROWS, file, "x"))
    rows = tuple(mapped(one, file) for one in ROWS[:2])
    assert import_rows(app, ImportRows(service="private", rows=rows[:1])).imported == 1
    (row,) = tail_rows(tail_parts(take_snapshots(app.home.path), "private"), Filters())
    subjects = subjects_of(app.home.path)
    name = pseudonym(subjects.secret, ROWS[0]["application"])
    assert (row["in.amount"], row["in.purpose"], row["key"]) == (None, None, name)
    opened = {"in.amount": ROWS[0]["amount"], "in.purpose": ROWS[0]["purpose"]}
    assert subjects.open([row]) == [{**opened, "key": ROWS[0]["application"]}]
    other = pseudonym(subjects.secret, ROWS[1]["application"])
    subjects.erase(Erasure(other, app.clock.now(), "u", "w"))
    found = import_rows(app, ImportRows(service="private", rows=rows))
    assert (found.imported, found.known) == (0, 1)
    assert [(one.index, one.reason) for one in found.refused] == [
        (1, "whose row this is was erased since")
    ]


# --- once, whatever happens -----------------------------------------------------------------------

IDS = st.integers(0, 40).map(lambda one: one.to_bytes(16))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(IDS, unique=True), st.booleans()), max_size=12))
def test_each_id_is_written_once_whatever_batches_overlap_or_fail(
    batches: list[tuple[list[bytes], bool]],
) -> None:
    written: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        for ids, fails in batches:
            with known_ids(Path(folder), "x") as known:
                fresh = [one for one in ids if one not in known.among(ids)]
                try:
                    with known.writing(fresh, ()):
                        if fails:
                            raise OSError("disk full")
                        written.extend(fresh)
                except OSError:
                    pass
    assert len(written) == len(set(written))
    assert set(written) == {one for ids, fails in batches if not fails for one in ids}


@pytest.mark.parametrize("was_written", [True, False])
def test_what_a_crash_left_on_its_way_is_settled_by_the_journal(
    tmp_path: Path, was_written: bool
) -> None:
    rows, outcomes = [b"r" * 16, b"s" * 16], [b"o" * 16]
    crash(tmp_path, rows, outcomes)
    looked_for: list[bytes] = []

    def is_written(request: bytes) -> bool:
        looked_for.append(request)
        return was_written

    with known_ids(tmp_path, "x") as known:
        known.settle(is_written)
        assert known.among([*rows, *outcomes]) == ({*rows, *outcomes} if was_written else set())
        known.settle(is_written)
    assert len(looked_for) == 1 and looked_for[0] in rows


def crash(folder: Path, rows: list[bytes], outcomes: list[bytes]) -> None:
    """A process that dies between the journal and the end."""
    script = f"""
import os
from pathlib import Path
from doorstep.journal.known import known_ids
with known_ids(Path({str(folder)!r}), "x") as known, known.writing({rows!r}, {outcomes!r}):
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 9
