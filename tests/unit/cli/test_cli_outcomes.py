"""Outcomes of files: told once, with their time, and what makes no sense kept beside."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from test_cli_asking import SERVICE, TABLE

from doorstep.cli.outcomes import Columns, Sent, tell
from doorstep.cli.refusals import Refusals
from doorstep.cli.sources import rows_of_file
from doorstep.core.errors import InputError, NotFoundError
from doorstep.core.instant import parse_instant
from doorstep.core.outcome import sort_out
from doorstep.journal.received import Received
from doorstep.journal.surface import OutcomesRecorded
from doorstep.journal.telling import name_of_taken

KNOWN = {("bad", "good")}
DAY = parse_instant("2026-11-22T00:00:00Z")
NOW = parse_instant("2026-12-01T00:00:00Z")


def write(folder: Path, text: str = TABLE, name: str = "test.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


class Told:
    """A client that keeps what a control plane would."""

    def __init__(self, folder: Path, service=SERVICE, known=KNOWN) -> None:
        self.received = Received(folder / "received.txt")
        self.outcomes: list = []
        self._service, self._known = service, known

    def versions(self, service):
        return [SimpleNamespace(manifest=SimpleNamespace(labels=one)) for one in self._known]

    def service(self, service):
        return self._service

    def tell_outcomes(self, service, outcomes, batch="", *, check=False):
        records, refused = sort_out(service, outcomes, self._known, NOW)
        kept = [one for at, one in enumerate(outcomes) if at not in {bad.index for bad in refused}]

        def keep() -> int:
            self.outcomes += kept
            return len(records)

        name = name_of_taken(batch, refused) if batch else ""
        done = 0 if check else self.received.once(name, keep) if batch else keep()
        return OutcomesRecorded(recorded=done, refused=tuple(refused))

    def tell(self, path: Path, asked=Columns(), **words) -> Sent:  # noqa: B008
        refusals = Refusals(Path(f"{path}.refused.jsonl"))
        with contextlib.closing(refusals):
            return tell(
                self, "loans", lambda: rows_of_file(path), asked, refusals, name=path.name, **words
            )


def test_an_outcome_has_the_key_that_the_request_had(tmp_path: Path) -> None:
    here = Told(tmp_path)
    here.tell(write(tmp_path))
    assert [(one.key, one.label, one.at) for one in here.outcomes] == [
        ("007", "bad", 0),
        ("008", "good", 0),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "case,risk,at\n007,bad,2026-11-22\n"),
        ("a.csv", "case,risk,at\n007,bad,2026-11-22T01:00:00+01:00\n"),
        ("a.csv", "case,risk,at\n007,BAD,1795305600\n"),
        ("a.jsonl", '{"case": "007", "risk": "bad", "at": "2026-11-22T00:00:00Z"}\n'),
        ("a.jsonl", '{"case": "007"}\n{"case": "007", "risk": "bad", "at": 1795305600000}\n'),
    ],
)
def test_the_column_at_says_when_it_became_true(tmp_path: Path, name: str, text: str) -> None:
    here = Told(tmp_path)
    here.tell(write(tmp_path, text, name))
    assert [(one.key, one.label, one.at) for one in here.outcomes] == [("007", "bad", DAY)]


def test_another_column_may_say_when_and_one_that_is_none_is_named(tmp_path: Path) -> None:
    here = Told(tmp_path)
    path = write(tmp_path, "case,risk,paid,n\n007,bad,2026-11-22,-5\n")
    here.tell(path, Columns(at="paid"))
    assert here.outcomes[0].at == DAY
    for wrong in (Columns(at="when"), Columns(key="when"), Columns(label="when")):
        with pytest.raises(NotFoundError, match="no column 'when'; it has case, risk"):
            here.tell(path, wrong)
    assert "'-5' in column n is no time" in here.tell(path, Columns(at="n")).reason


def test_a_case_may_have_a_value_beside_its_label(tmp_path: Path) -> None:
    file = SERVICE.file + "\nmonitor: {outcomes: {unit: EUR}}\n"
    here = Told(tmp_path, msgspec.structs.replace(SERVICE, file=file), {*KNOWN, ()})
    rows = "case,risk,value\n1,bad,-500\n2,,12.5\n3,good,\n4,,\n5,good,much\n"
    sent = here.tell(write(tmp_path, rows))
    assert [(one.label, one.value) for one in here.outcomes] == [
        ("bad", -500.0), (None, 12.5), ("good", None),
    ]  # fmt: skip
    assert (sent.unknown, sent.refused, sent.reason) == (1, 1, "row 5: value: 'much' is no number")
    undeclared = Told(tmp_path).tell(write(tmp_path, rows[:24]), Columns(value="value"), again=True)
    assert "or monitor.outcomes.unit in the service file" in undeclared.reason


def test_a_source_is_never_held_as_a_whole_and_passed_follows_what_is_recorded(
    tmp_path: Path,
) -> None:
    here, given, marks = Told(tmp_path), 0, []

    def opened():
        nonlocal given
        for given in range(1, 3501):
            assert given - len(here.outcomes) <= 1001, "rows are read ahead of what is recorded"
            yield {"case": str(given), "risk": "bad"}, ""

    refusals = Refusals(tmp_path / "r.jsonl")
    tell(
        here, "loans", opened, Columns(), refusals, name="q",
        passed=lambda: marks.append((given, len(here.outcomes))),
    )  # fmt: skip
    assert marks == [(1000, 1000), (2000, 2000), (3000, 3000), (3500, 3500)]


def test_rows_that_make_no_sense_are_kept_beside_and_the_others_are_told(tmp_path: Path) -> None:
    here = Told(tmp_path)
    rows = "007,bad,2026-11-22\n008,gut,2026-11-22\n,good,2026-11-22\n009,good,soon\n010,,\n"
    path = write(tmp_path, "case,risk,at\n" + rows)
    sent = here.tell(path)
    assert [one.key for one in here.outcomes] == ["007"]
    assert (sent.recorded, sent.refused, sent.unknown) == (1, 3, 1)
    kept = [msgspec.json.decode(line) for line in Path(sent.kept).read_bytes().splitlines()]
    kept.sort(key=lambda one: one["row"])  # what only the server knows comes behind its thousand
    assert [one["row"] for one in kept] == [2, 3, 4]
    reasons = [one["reason"] for one in kept]
    assert "found label 'gut'" in reasons[0]
    assert "case is empty" in reasons[1]
    assert "'soon' in column at is no time" in reasons[2]
    assert kept[0]["values"]["case"] == "008"


def test_strict_takes_all_rows_or_none(tmp_path: Path) -> None:
    here = Told(tmp_path)
    path = write(tmp_path, "case,risk\n007,bad\n008,gut\n")
    with pytest.raises(InputError, match=r"row 2: found label 'gut'.*'bad', 'good'") as caught:
        here.tell(path, strict=True)
    assert (caught.value.code, "none was recorded" in caught.value.hint) == ("bad-outcome", True)
    assert here.outcomes == []


def test_a_bad_prediction_id_is_a_reason(tmp_path: Path) -> None:
    path = write(tmp_path, "prediction,risk\nx,bad\n01900000-0000-7000-8000-000000000001.0,bad\n")
    here = Told(tmp_path)
    assert here.tell(path).reason.startswith("row 1: ")
    assert here.outcomes[0].prediction.endswith("1.0")


def test_the_same_file_twice_counts_once_also_for_another_process(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert Told(tmp_path).tell(path).recorded == 2
    later = Told(tmp_path)
    assert (later.tell(path).recorded, later.tell(path).repeated) == (0, 2)
    assert later.outcomes == []
    assert later.tell(path, again=True).recorded == 2


def test_what_was_refused_is_recorded_when_a_version_knows_its_label(tmp_path: Path) -> None:
    path = write(tmp_path, "case,risk\n007,bad\n008,gut\n")
    for _ in range(2):
        assert Told(tmp_path).tell(path).refused == 1
    later = Told(tmp_path, known={("bad", "good", "gut")})
    assert later.tell(path).refused == 0
    assert [one.key for one in later.outcomes] == ["007", "008"]
    assert later.tell(path).recorded == 0


def test_a_text_with_nul_is_a_reason_of_its_row(tmp_path: Path) -> None:
    rows = '{"case": "a\\u0000b", "risk": "bad"}\n{"case": "007", "risk": "bad"}\n'
    here = Told(tmp_path)
    assert "NUL" in here.tell(write(tmp_path, rows, "test.jsonl")).reason
    assert [one.key for one in here.outcomes] == ["007"]


def test_the_same_row_twice_counts_once_and_a_correction_has_a_time_of_its_own(
    tmp_path: Path,
) -> None:
    here = Told(tmp_path)
    day, next_day = "2026-11-22", "2026-11-23"
    rows = f"007,bad,{day}\n007,bad,{day}\n007,good,{next_day}\n007,good,{day}\n"
    sent = here.tell(write(tmp_path, "case,risk,at\n" + rows))
    assert (sent.recorded, sent.repeated, sent.refused) == (2, 1, 1)
    assert [one.label for one in here.outcomes] == ["bad", "good"]
    assert sent.reason == "row 4: row 1 says another outcome of this at this time"


def test_a_batch_that_was_not_written_is_not_noted(tmp_path: Path) -> None:
    received, name = Received(tmp_path / "new" / "received.txt"), "ab" * 32

    def fail() -> int:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        received.once(name, fail)
    assert received.once(name, lambda: 3) == 3
    assert received.once(name, fail) == 0
    for bad in ("x", "AB" * 32, "ab" * 32 + "\n"):
        with pytest.raises(InputError, match="SHA-256"):
            received.once(bad, fail)
