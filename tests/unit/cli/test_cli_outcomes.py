"""Outcomes of files: told once, with their time, and what makes no sense kept beside."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from test_cli_asking import SERVICE, TABLE

from doorstep.cli.outcomes import Columns, Sent, outcomes_of, tell
from doorstep.core.errors import InputError, NotFoundError
from doorstep.core.instant import parse_instant
from doorstep.journal.received import Received

KNOWN = {("bad", "good")}
DAY = parse_instant("2026-11-22T00:00:00Z")


def write(folder: Path, text: str = TABLE, name: str = "test.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


class Told:
    """A client that keeps what a control plane would."""

    def __init__(self, folder: Path) -> None:
        self.received = Received(folder / "received.txt")
        self.outcomes: list = []

    def versions(self, service):
        return [SimpleNamespace(manifest=SimpleNamespace(labels=one)) for one in KNOWN]

    def service(self, service):
        return SERVICE

    def call(self, name, asked, kind):
        def keep() -> int:
            self.outcomes += asked.outcomes
            return len(asked.outcomes)

        assert name == "outcome.record"
        return kind(recorded=self.received.once(asked.batch, keep) if asked.batch else keep())

    def tell(self, path: Path, *, strict: bool = False, again: bool = False) -> Sent:
        return tell(self, "loans", path, Columns(), strict=strict, again=again)


def test_an_outcome_has_the_key_that_the_request_had(tmp_path: Path) -> None:
    told = outcomes_of(write(tmp_path), SERVICE, KNOWN, Columns())
    assert [(one.key, one.label, one.at) for one in told.given] == [
        ("007", "bad", 0),
        ("008", "good", 0),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "case,risk,at\n007,bad,2026-11-22\n"),
        ("a.csv", "case,risk,at\n007,bad,2026-11-22T01:00:00+01:00\n"),
        ("a.jsonl", '{"case": "007", "risk": "bad", "at": "2026-11-22T00:00:00Z"}\n'),
    ],
)
def test_the_column_at_says_when_it_became_true(tmp_path: Path, name: str, text: str) -> None:
    told = outcomes_of(write(tmp_path, text, name), SERVICE, KNOWN, Columns())
    assert [(one.key, one.at) for one in told.given] == [("007", DAY)]


def test_another_column_may_say_when_and_one_that_is_none_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "case,risk,paid,n\n007,bad,2026-11-22,5\n")
    assert outcomes_of(path, SERVICE, KNOWN, Columns(at="paid")).given[0].at == DAY
    with pytest.raises(NotFoundError, match="no column 'when'"):
        outcomes_of(path, SERVICE, KNOWN, Columns(at="when"))
    with pytest.raises(InputError, match=r"the column n of .* is int"):
        outcomes_of(path, SERVICE, KNOWN, Columns(at="n"))


def test_rows_that_make_no_sense_are_kept_beside_and_the_others_are_told(tmp_path: Path) -> None:
    here = Told(tmp_path)
    rows = "007,bad,2026-11-22\n008,gut,2026-11-22\n,good,2026-11-22\n009,good,soon\n010,,\n"
    path = write(tmp_path, "case,risk,at\n" + rows)
    sent = here.tell(path)
    assert [one.key for one in here.outcomes] == ["007"]
    assert (sent.recorded, sent.refused, sent.unknown) == (1, 3, 1)
    kept = [msgspec.json.decode(line) for line in Path(sent.kept).read_bytes().splitlines()]
    assert [one["row"] for one in kept] == [2, 3, 4]
    reasons = [one["reason"] for one in kept]
    assert "found label 'gut'" in reasons[0]
    assert "case is empty" in reasons[1]
    assert "'soon' is not a time" in reasons[2]
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
    told = outcomes_of(path, SERVICE, KNOWN, Columns())
    assert [one.row for one in told.refused] == [1]
    assert told.given[0].prediction.endswith("1.0")


def test_the_same_file_twice_counts_once_also_for_another_process(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert Told(tmp_path).tell(path).recorded == 2
    later = Told(tmp_path)
    assert (later.tell(path).recorded, later.tell(path).repeated) == (0, 2)
    assert later.outcomes == []
    assert later.tell(path, again=True).recorded == 2


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
