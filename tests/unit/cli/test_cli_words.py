"""What commands say: marked lines, a version's gates, what comes next, and what `up` printed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.cli import release_view
from doorstep.cli.commands_use import monitor_text
from doorstep.cli.registering import Registered, build_spec, next_command, parts_of
from doorstep.cli.rehearse import RATE_PER_S, SLOW_AFTER, Pace, Requests, left_out
from doorstep.cli.running import command_of, find_error, find_ready
from doorstep.cli.saying import GAP, lines_of
from doorstep.compose.up import Ready
from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError
from doorstep.core.manifest import Lineage, Manifest, NativeForm
from doorstep.core.servicefile import parse_service_file
from doorstep.core.servicefile_types import IdsSpec
from doorstep.core.verdict import Finding, Verdict, worst
from doorstep.gate.surface import GateRun
from doorstep.kernel.settings import Flags, read_settings
from doorstep.monitor.surface import MonitorView, ValueView
from doorstep.register.surface import Version

PARTS = st.lists(st.tuples(st.sampled_from(["✓", "fail"]), st.text(max_size=30)), max_size=20)
QUALITY = Finding(
    check="auc >= 0.75",
    verdict=Verdict.PASS,
    reason="auc 0.781 [0.764, 0.797] on 5,000 held-out rows",
    evidence={"gate": "quality"},
)
FAIRNESS = Finding(
    check="selection_rate_ratio >= 0.8 by marital_status",
    verdict=Verdict.INCONCLUSIVE,
    reason="38 rows of 'divorced', 120 needed",
    evidence={"gate": "fairness"},
    next="name more rows",
)
SANE = Finding(check="answers are sane", verdict=Verdict.PASS, reason="all finite")
BAD = Finding(check="p99 <= 1 ms", verdict=Verdict.FAIL, reason="p99 3 ms", evidence={"gate": "speed"})  # fmt: skip  # noqa: E501
CONTRACT = Contract(
    inputs=(Field(name="amount", type="float"), Field(name="email", type="text")),
    context=(Field(name="store", type="int"), Field(name="person", type="text")),
)


@pytest.mark.parametrize(
    ("log_e", "threshold", "said"),
    [(2.9, 3.0, "18 of 20"), (3.0, 3.0, "20 reached"), (3.4, 3.0, "20 reached"), (9, 0, "–")],
)
def test_evidence_that_is_enough_is_no_part_of_a_whole(
    log_e: float, threshold: float, said: str
) -> None:
    assert release_view.say_evidence(log_e, threshold) == said


@given(PARTS, st.integers(1, 120))
def test_no_part_is_lost_and_only_a_long_one_is_wider_than_the_line(
    parts: list[tuple[str, str]], width: int
) -> None:
    lines = lines_of(parts, width)
    assert [text for line in lines for _, text in line] == [text for _, text in parts]
    for line in lines:
        size = len(GAP.join(f"{mark} {text}" for mark, text in line))
        assert len(line) == 1 or size <= width


def version(created: bool = True, state: str = "registered") -> Version:
    manifest = Manifest(
        format=1,
        task="binary",
        label="default",
        labels=("no", "yes"),
        positive="yes",
        threshold=0.5,
        contract=CONTRACT,
        native=NativeForm(
            family="sklearn", serialization="pickle", file="m", frame=True, columns=(), dtypes=()
        ),
        onnx=None,
        parity=None,
        lineage=Lineage(),
        reads=(),
        files=(),
    )
    return Version(
        service="loans",
        number=1,
        digest="0" * 64,
        form="onnx",
        placement="inline",
        trusted=True,
        holdout="",
        speed_ms_p99=0.08,
        registered_at=0,
        by="me",
        state=state,
        created=created,
        manifest=manifest,
        findings=(Finding(check="ONNX", verdict=Verdict.PASS, reason="ONNX, 50 of 50 rows agree"),),
    )


def gated(*findings: Finding) -> Registered:
    run = GateRun(
        id="r",
        version="loans@1",
        champion="",
        verdict=worst(one.verdict for one in findings),
        findings=findings,
        started_at=0,
        took_s=0.1,
        by="me",
    )
    return Registered(version(), run)


def test_a_version_is_told_with_its_quality_and_what_is_open() -> None:
    assert list(parts_of(gated(QUALITY, SANE, FAIRNESS))) == [
        ("✓", "loans@1  ONNX, 50 of 50 rows agree, 0.08 ms a row"),
        ("pass", "quality auc 0.781 [0.764, 0.797]"),
        ("inconclusive", "fairness inconclusive: 38 rows of 'divorced', 120 needed"),
    ]


def test_failed_gates_are_told_before_inconclusive_ones() -> None:
    marks = [mark for mark, _ in parts_of(gated(FAIRNESS, BAD))]
    assert marks == ["✓", "fail", "inconclusive"]


def test_many_open_gates_are_counted() -> None:
    told = list(parts_of(gated(*[BAD] * 8)))
    assert told[-1] == ("fail", "3 more")
    assert len(told) == 7


def test_a_known_model_is_said_to_be_known() -> None:
    (told,) = parts_of(Registered(version(created=False), None))
    assert told[1] == "this model is loans@1 already (registered by me)"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (gated(QUALITY), "doorstep release start loans@1"),
        (gated(FAIRNESS), "doorstep gate loans@1; name more rows"),
        (gated(BAD), "doorstep gate loans@1"),
        (Registered(version(), None), "doorstep gate loans@1"),
        (Registered(version(state="serving"), gated(QUALITY).run), "doorstep status loans"),
    ],
)
def test_the_next_command_follows_from_the_verdict(found: Registered, said: str) -> None:
    assert next_command(found) == said


def test_a_build_is_asked_for_what_the_file_says(tmp_path) -> None:  # type: ignore[no-untyped-def]
    text = (
        "doorstep: 1\nservice: a\nids: {key: id, unit: person}\n"
        "model: {label: y, positive: 'yes'}\ndata: {holdout: h.csv, train: t.csv}\n"
        "contract:\n  enforce: reject\n  inputs:\n    person: {type: text}\n"
        "    age: {type: int, range: [1, 9]}\n"
    )
    found = build_spec(parse_service_file(text), tmp_path, trusted=True)
    assert (found.label, found.positive, found.task, found.enforce) == ("y", "yes", "", "reject")
    assert (found.train, found.holdout) == (tmp_path / "t.csv", tmp_path / "h.csv")
    # A field that the model reads is an input, also where it identifies somebody.
    assert found.ids == ("id",)
    assert found.inputs["age"]["range"] == (1, 9)
    assert "values" not in found.inputs["age"]


def test_data_behind_a_query_is_refused_with_what_to_do(tmp_path) -> None:  # type: ignore[no-untyped-def]
    text = (
        "doorstep: 1\nservice: a\nmodel: {label: y}\ndata: {holdout: {sql: q.sql, connection: w}}\n"
    )
    with pytest.raises(InputError, match="is a query") as caught:
        build_spec(parse_service_file(text), tmp_path, trusted=False)
    assert "data.holdout: {path: FILE}" in caught.value.hint


READY = Ready(
    console_url="http://a", data_url="http://b", health_url="http://c", invite="http://a/i",
    home="/h", pid=7,
)  # fmt: skip


def test_ready_is_found_among_other_lines_and_not_in_half_a_line() -> None:
    line = msgspec.json.encode(READY).decode()
    assert find_ready(["a warning", line]) == READY
    assert find_ready(["a warning", line[:40]]) is None
    assert find_ready([]) is None


def test_the_error_of_up_is_the_error_of_the_command_that_started_it() -> None:
    line = '{"error":{"kind":"refused","code":"port-in-use","message":"taken","hint":"other"}}'
    found = find_error([line, "✗ port-in-use: taken"])
    assert found is not None
    assert (found.kind, found.code, found.message, found.hint) == (
        *("refused", "port-in-use", "taken", "other"),
    )
    assert find_error(["Traceback"]) is None


def test_a_database_with_a_password_is_not_on_the_command_line(tmp_path) -> None:  # type: ignore[no-untyped-def]
    flags = Flags(home=str(tmp_path), database="postgresql://me:secret@here/db", data_port=0)
    words = command_of(read_settings(flags, {}, tmp_path), 3)
    assert "secret" not in " ".join(words)
    assert words[words.index("--data-port") + 1] == "0"
    assert "--control-port" not in words


def bodies(requests: Requests, count: int) -> list[dict]:  # type: ignore[type-arg]
    stream = iter(requests)
    return [msgspec.json.decode(next(stream)[1]) for _ in range(count)]


def asked(count: int) -> tuple[list[dict], list[dict]]:  # type: ignore[type-arg]
    rows = [{"amount": float(at), "email": f"{at}@a"} for at in range(count)]
    return rows, [{"store": 5, "person": "p"} for _ in range(count)]


@pytest.mark.parametrize("unit", ["", "person", "other", "store"])
def test_every_request_of_a_rehearsal_is_a_unit_of_its_own(unit: str) -> None:
    ids = IdsSpec(unit=unit)
    sent = bodies(Requests("release", ids, CONTRACT, asked(3)), 9)
    found = [
        one["keys"][0] if not unit else {**one["context"], **one["rows"][0]}[unit] for one in sent
    ]
    assert len(set(found)) == 9
    if unit == "store":
        assert all(isinstance(one, int) for one in found), "the contract says that it is a number"


def test_a_rehearsal_sends_every_row_once_a_pass_in_a_seeded_order() -> None:
    sent = bodies(Requests("a", IdsSpec(), CONTRACT, asked(20)), 40)
    amounts = [one["rows"][0]["amount"] for one in sent]
    assert sorted(amounts[:20]) == sorted(amounts[20:]) == [float(at) for at in range(20)]
    assert amounts[:20] != amounts[20:]
    again = bodies(Requests("a", IdsSpec(), CONTRACT, asked(20)), 40)
    assert sent == again


def test_an_input_that_identifies_somebody_keeps_its_value() -> None:
    sent = bodies(Requests("a", IdsSpec(unit="email"), CONTRACT, asked(2)), 2)
    assert {one["rows"][0]["email"] for one in sent} == {"0@a", "1@a"}


def test_a_refused_row_is_not_sent_again_and_a_file_of_them_ends() -> None:
    requests = Requests("a", IdsSpec(), CONTRACT, asked(3))
    rows = []
    for row, _ in requests:
        rows.append(row)
        requests.leave_out(row)
    assert sorted(rows) == [0, 1, 2]


def test_requests_are_spaced_evenly_and_slower_once_the_evidence_is_in() -> None:
    pace = Pace()
    waits = [pace.pause_s(0.0) for _ in range(3)]
    assert waits == pytest.approx([0.0, 1 / RATE_PER_S, 2 / RATE_PER_S])
    assert pace.pause_s(100.0) == 0.0, "what was missed is not sent in a burst"
    for _ in range(SLOW_AFTER):
        late = pace.pause_s(1e6)
    assert pace.pause_s(1e6) - late > 1 / RATE_PER_S


def test_the_monitor_names_the_window_of_every_number() -> None:
    quality = {"auc": (0.8, 0.7, 0.9)}
    found = MonitorView(
        service="a", version=2, window_s=10.0, since=0, rows=5, labelled=0.5, labelled_rows=7,
        quality_s=604_800.0, errors=0.0, failed=0.01, latency_ms_p99=2.0, traffic_s=60.0,
        columns=(), promises=(), findings=(), quality=quality,
    )  # fmt: skip
    text = monitor_text(found)
    assert "quality, last 7 d: auc 0.800 [0.700, 0.900] (outcomes of 50 %, 7 rows)" in text
    assert "traffic, last 1 min: errors 0.00 % · failed by its version 1.00 % · p99 2.0 ms" in text
    assert "columns, 10 s from " in text
    due = msgspec.structs.replace(
        found,
        quality_delay_s=30 * 86_400.0,
        unit="EUR",
        values=(
            ValueView(
                version=2, day="", rows=3, mean=(1234.5, 1.0, 2468.0), total=(3703.5, 3.0, 7404.0)
            ),
            ValueView(
                version=2, day="2026-11-01", rows=1, mean=(7.0, None, None), total=(7.0, None, None)
            ),
        ),
    )
    text = monitor_text(due)
    assert "quality, 7 d that ended 30 d ago: auc" in text
    assert "mean, EUR" in text and "1,234.50 [1.00, 2,468.00]" in text
    assert [line.split() for line in text.splitlines() if "2026-11-01" in line] == [
        ["a@2", "2026-11-01", "1", "7.00", "7.00"]
    ]
    fresh = msgspec.structs.replace(found, version=None)
    assert "next: doorstep release start a@1; where it is watched: doorstep status a" in (
        monitor_text(fresh)
    )


def test_a_rehearsal_says_which_guardrails_it_does_not_judge():
    rails = "[errors, latency, quality, {name: fairness, tolerance: 0.1}]"
    file = "service: x\nmodel: {label: y}\ndata: {holdout: h.csv}\nrelease: {guardrails: %s}\n"
    assert left_out(parse_service_file(file % rails)) == ["quality", "fairness"]
    assert left_out(parse_service_file(file % "[errors]")) == []
