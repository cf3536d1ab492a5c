from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitor_cases import HOUR, T0, facts_of, reference_of, rows_of, window_of

from doorstep.core.condition import parse_condition
from doorstep.gate.types import Estimate
from doorstep.journal.retain import Due, Why
from doorstep.journal.summary import LATENCY_BINS
from doorstep.journal.troubles import Trouble
from doorstep.monitor.decide import QUALITY_WINDOW_S, evaluate, latest_window
from doorstep.monitor.incidents import LOOKS_CLEAR_MIN, NOT_ASKED, REOPEN_S, step
from doorstep.monitor.promises import latency_quantile, promises
from doorstep.monitor.types import (
    MonitorFinding,
    Observation,
    QualityWindow,
    ServiceFacts,
    TrafficWindow,
)

SECOND = 1_000_000
LOANS = ServiceFacts(service="loans", version=2)


def traffic(
    rows: int = 1000, errors: int = 0, statuses=(0,) * 6, milliseconds: float = 1.0, hour: int = 0
) -> TrafficWindow:
    latency = [0] * LATENCY_BINS
    latency[int(4 * np.log2(milliseconds * 1000))] = rows
    return TrafficWindow(
        since=T0 + hour * HOUR,
        until=T0 + (hour + 1) * HOUR,
        rows=rows,
        errors=errors,
        statuses=statuses,
        latency=tuple(latency),
    )


def quality(value: float, half: float, labelled: int = 620, rows: int = 1000) -> QualityWindow:
    found = Estimate(
        value=value, low=value - half, high=value + half, counted=labelled, counted_min=30
    )
    return QualityWindow(
        since=T0, until=T0 + HOUR, rows=rows, labelled=labelled, metrics={"f1": found}
    )


def with_slo(window: TrafficWindow | None, *slo: str, **changes) -> ServiceFacts:
    return ServiceFacts(
        service="loans",
        version=2,
        traffic=window,
        slo=tuple(parse_condition(one) for one in slo),
        **changes,
    )


def test_a_quiet_healthy_service_has_no_findings() -> None:
    window = window_of(REFERENCE, rows_of(np.random.default_rng(1), 1000))
    facts = facts_of(REFERENCE, window, traffic=traffic(), had_traffic=True)
    assert evaluate(facts, T0 + HOUR) == []


REFERENCE = reference_of(rows_of(np.random.default_rng(0), 20_000))


@pytest.mark.parametrize(
    ("errors", "is_found"), [(0, False), (50, False), (60, False), (70, True), (300, True)]
)
def test_errors_are_found_when_their_whole_interval_is_over_the_default(errors, is_found) -> None:
    found = evaluate(with_slo(traffic(errors=errors)), T0 + HOUR)
    assert bool(found) is is_found


def test_an_error_finding_names_the_commonest_failure_and_the_way_back() -> None:
    found = evaluate(
        with_slo(traffic(errors=300, statuses=(700, 40, 260, 0, 0, 0)), "availability >= 99.9%"),
        T0 + HOUR,
    )[0]
    assert (found.kind, found.severity, found.alert) == ("errors", "critical", True)
    assert found.sentence == (
        "availability >= 99.9% is broken: 70 % [67.1, 72.8] of 1,000 requests in 1 h"
    )
    assert "took too long (260 of 1,000 requests in 1 h)" in found.cause
    assert found.next == "doorstep rollback loans"


def test_a_new_champion_in_the_window_is_the_likely_cause() -> None:
    facts = with_slo(traffic(errors=300), served_since=T0 + 60 * SECOND)
    assert evaluate(facts, T0 + HOUR)[0].cause == "loans@2 became champion in this window"


@pytest.mark.parametrize(
    ("milliseconds", "is_found"), [(10, False), (45, False), (50, False), (70, True), (200, True)]
)
def test_latency_is_broken_only_beyond_the_width_of_a_bin(milliseconds, is_found) -> None:
    found = evaluate(with_slo(traffic(milliseconds=milliseconds), "p99 <= 50 ms"), T0 + HOUR)
    assert [one.kind for one in found] == (["latency"] if is_found else [])


def test_quality_says_how_many_outcomes_it_rests_on() -> None:
    facts = with_slo(None, promised=(parse_condition("f1 >= 0.6"),), quality=quality(0.5, 0.05))
    found = evaluate(facts, T0 + HOUR)[0]
    assert found.sentence == (
        "f1 >= 0.6 is broken: 0.500 [0.450, 0.550], labels for 62 % of 1,000 predictions in 1 h"
    )
    assert found.next.endswith("doorstep monitor loans")


def test_promises_without_data_are_not_yet_known() -> None:
    facts = with_slo(None, "p99 <= 50 ms", promised=(parse_condition("f1 >= 0.6"),))
    states = {one.text: (one.state, one.measured) for one in promises(facts)}
    assert states == {
        "p99 <= 50 ms": ("not-yet-known", "no requests"),
        "error_rate <= 5%": ("not-yet-known", "no requests"),
        "f1 >= 0.6": ("not-yet-known", "no predictions whose outcome could be known"),
    }
    assert evaluate(facts, T0) == []


def test_promises_that_are_kept_say_so_with_their_interval() -> None:
    facts = with_slo(traffic(), "availability >= 99%")
    only = promises(facts)[0]
    assert only.state == "kept"
    assert only.measured == "100 % [99.6, 100] of 1,000 requests in 1 h"


def test_no_requests_is_said_as_no_data_and_not_as_good_news() -> None:
    found = evaluate(with_slo(traffic(rows=0), had_traffic=True), T0 + HOUR)
    assert [(one.kind, one.subject, one.alert) for one in found] == [("data", "traffic", False)]
    assert found[0].sentence.startswith("no data")


def test_outcomes_that_never_come_are_a_finding() -> None:
    window = QualityWindow(since=T0, until=T0 + HOUR, rows=1000, labelled=0, metrics={})
    facts = with_slo(None, promised=(parse_condition("f1 >= 0.6"),), quality=window)
    assert [one.subject for one in evaluate(facts, T0 + HOUR)] == ["outcomes"]


@pytest.mark.parametrize(("warned", "is_found"), [(0, False), (10, False), (14, False), (40, True)])
def test_rows_outside_the_contract_are_found_beyond_a_percent(warned, is_found) -> None:
    window = window_of(REFERENCE, rows_of(np.random.default_rng(1), 1000), warned=warned)
    found = evaluate(facts_of(REFERENCE, window), T0 + HOUR)
    assert bool(found) is is_found


@pytest.mark.parametrize(("why", "severity"), [("age", "info"), ("size", "warning")])
def test_records_that_go_soon_are_a_finding_until_they_went(why: Why, severity: str) -> None:
    due = Due(since=T0, why=why, files=2, rows=12_345, bytes=9, first=T0, last=T0 + HOUR)
    (found,) = evaluate(with_slo(traffic(), leaving={"local": due}), T0 + HOUR)
    assert (found.subject, found.severity, found.alert) == ("retention", severity, False)
    assert "12,345 records" in found.sentence
    assert "node local" in found.sentence
    (found,) = evaluate(with_slo(traffic(hour=1), known=(found,)), T0 + 2 * HOUR)
    assert found.state == "resolved"


def test_what_the_compactor_cannot_do_is_a_finding_until_it_is_mended() -> None:
    some = [
        Trouble(file=f"b-{n}.block", reason="is odd", next=f"mend {n}", since=T0 + n)
        for n in range(3)
    ]
    (found,) = evaluate(with_slo(traffic(), troubles={"local": some}), T0 + HOUR)
    assert (found.subject, found.severity, found.since) == ("journal", "warning", T0)
    assert found.sentence == (
        "b-0.block is odd (node local); b-1.block is odd (node local); and 1 more"
    )
    assert found.next == "mend 0"
    (found,) = evaluate(with_slo(traffic(hour=1), known=(found,)), T0 + 2 * HOUR)
    assert found.state == "resolved"


@pytest.mark.parametrize(("number", "severity"), [(2, "critical"), (3, "warning")])
def test_a_version_that_cannot_be_loaded_is_a_finding_until_one_look_without_it(
    number: int, severity: str
) -> None:
    facts = with_slo(traffic(), unloaded={number: "its digest is wrong"})
    (found,) = evaluate(facts, T0 + HOUR)
    assert (found.subject, found.severity) == ("loading", severity)
    assert found.since == T0 + HOUR  # seen now: nobody knows that it was so before
    assert f"loans@{number} cannot be loaded" in found.sentence
    assert "its digest is wrong" in found.sentence
    (found,) = evaluate(with_slo(traffic(hour=1), known=(found,)), T0 + 2 * HOUR)
    assert found.state == "resolved"


def test_before_the_first_release_there_is_nothing_to_watch() -> None:
    facts = msgspec.structs.replace(with_slo(traffic(errors=900)), version=None)
    assert evaluate(facts, T0) == []


def seen(hour: int, is_bad: bool, severity="warning") -> Observation:
    return Observation(
        kind="drift",
        subject="income",
        is_bad=is_bad,
        since=T0 + hour * HOUR,
        until=T0 + (hour + 1) * HOUR,
        severity=severity,
        sentence=f"look {hour}",
    )


def after(*looks: tuple[int, bool]) -> MonitorFinding | None:
    found = None
    for hour, is_bad in looks:
        found = step(LOANS, found, seen(hour, is_bad), T0 + (hour + 1) * HOUR) or found
    return found


def test_an_incident_keeps_its_id_and_its_beginning_while_it_lasts() -> None:
    first, later = after((0, True)), after((0, True), (1, True), (2, False), (3, True))
    assert first is not None
    assert later is not None
    assert (later.id, later.since, later.state) == (first.id, T0, "open")
    assert later.sentence == "look 3"


def test_an_incident_is_over_after_three_clear_windows_and_not_before() -> None:
    looks = [(0, True), *((hour, False) for hour in range(1, LOOKS_CLEAR_MIN + 1))]
    almost, over = after(*looks[:-1]), after(*looks)
    assert almost is not None
    assert over is not None
    assert (almost.state, over.state) == ("open", "resolved")
    assert over.resolved_at == T0 + (LOOKS_CLEAR_MIN + 1) * HOUR


def test_the_same_window_is_judged_once() -> None:
    found = after((0, True))
    for _ in range(5):
        found = step(LOANS, found, seen(0, False), T0 + HOUR)
    assert found is not None
    assert found.looks_clear == 0


@pytest.mark.parametrize(("late_s", "is_same"), [(REOPEN_S - 1, True), (REOPEN_S, False)])
def test_what_comes_back_at_once_is_the_same_incident(late_s: int, is_same: bool) -> None:
    over = after((0, True), (1, False), (2, False), (3, False))
    assert over is not None
    assert over.resolved_at is not None
    back = step(LOANS, over, seen(9, True), over.resolved_at + late_s * SECOND)
    assert back is not None
    assert back.state == "open"
    assert (back.id == over.id) is is_same


def test_what_cannot_be_judged_stays_as_it_was() -> None:
    found = after((0, True))
    assert step(LOANS, found, None, T0 + 9 * HOUR) == found
    assert step(LOANS, None, None, T0) is None


def test_severity_only_rises_while_an_incident_lasts() -> None:
    found = step(LOANS, None, seen(0, True, "critical"), T0)
    found = step(LOANS, found, seen(1, True, "info"), T0 + HOUR)
    assert found is not None
    assert found.severity == "critical"


def test_a_kind_that_nobody_asked_about_tells_nobody() -> None:
    facts = msgspec.structs.replace(LOANS, alert_kinds=frozenset({"quality"}))
    found = step(facts, None, seen(0, True), T0)
    assert found is not None
    assert not found.alert


@given(st.lists(st.sampled_from([True, False, None]), max_size=30))
@settings(max_examples=200, deadline=None)
def test_an_open_incident_never_vanishes_and_a_closed_one_was_clear(looks) -> None:
    found: MonitorFinding | None = None
    for hour, is_bad in enumerate(looks):
        before = found
        look = None if is_bad is None else seen(hour, is_bad)
        found = step(LOANS, before, look, T0 + (hour + 1) * HOUR)
        if before is not None and before.state == "open":
            assert found is not None
            assert found.state == "open" or is_bad is False
        if is_bad:
            assert found is not None
            assert found.state == "open"
        found = found or before


def test_windows_are_whole_closed_and_aligned() -> None:
    since, until = latest_window(T0 + HOUR + 119 * SECOND, 3600)
    assert (since, until) == (T0 - HOUR, T0)
    assert latest_window(T0 + HOUR + 120 * SECOND, 3600) == (T0, T0 + HOUR)


def test_a_quantile_from_the_histogram_covers_the_true_one() -> None:
    generator = np.random.default_rng(2)
    inside = 0
    for _ in range(100):
        values = generator.lognormal(1, 0.5, 2000)
        bins = np.floor(4 * np.log2(values * 1000)).astype(int)
        counts = tuple(np.bincount(bins, minlength=LATENCY_BINS).tolist())
        found = latency_quantile(counts, 0.99)
        inside += found.low <= np.exp(1 + 0.5 * 2.3263) <= found.high
    assert inside >= 95


def test_evaluation_is_the_same_whenever_it_is_repeated() -> None:
    facts = with_slo(traffic(errors=300))
    first = evaluate(facts, T0 + HOUR)
    again = evaluate(msgspec.structs.replace(facts, known=tuple(first)), T0 + 2 * HOUR)
    assert again == first


MINUTE = 60 * SECOND


def broken_between(start: int, end: int, now: int) -> ServiceFacts:
    """Ten requests a minute, all of them errors from minute `start` to `end`; the last hour of
    them at minute `now`."""
    minutes = range(max(0, now - 60), now)
    errors = 10 * sum(start <= one < end for one in minutes)
    window = TrafficWindow(
        since=T0 + (now - 60) * MINUTE,
        until=T0 + now * MINUTE,
        rows=10 * len(minutes),
        errors=errors,
        statuses=(0,) * 6,
        latency=(10 * len(minutes),) + (0,) * (LATENCY_BINS - 1),
    )
    return with_slo(window, had_traffic=True)


def looked_at_every_minute(start: int, end: int, until: int) -> dict[int, str]:
    """Minute -> what the one incident was from then on."""
    known: tuple[MonitorFinding, ...] = ()
    states: dict[int, str] = {}
    for now in range(60, until):
        facts = msgspec.structs.replace(broken_between(start, end, now), known=known)
        found = evaluate(facts, T0 + now * MINUTE)
        assert len(found) <= 1
        known = tuple(found) or known
        state = known[0].state if known else "none"
        if state != (list(states.values()) or [""])[-1]:
            states[now] = state
    return states


def test_a_broken_promise_is_found_at_once_and_ends_once_after_three_separate_hours() -> None:
    states = looked_at_every_minute(90, 100, 600)
    assert list(states.values()) == ["none", "open", "resolved"]
    opened, resolved = list(states)[1:]
    assert 90 < opened <= 97
    last_bad = 100 + 60 - 1
    assert resolved >= 100 + LOOKS_CLEAR_MIN * 60
    assert resolved <= last_bad + LOOKS_CLEAR_MIN * 60 + 60


def test_the_same_hour_looked_at_again_and_again_clears_nothing() -> None:
    found = after((0, True))
    for second in range(0, 3600, 15):
        look = msgspec.structs.replace(
            seen(0, False), since=T0 + second * SECOND, until=T0 + HOUR + second * SECOND
        )
        found = step(LOANS, found, look, look.until)
    assert found is not None
    assert (found.state, found.looks_clear) == ("open", 0)


def incident(kind: str, subject: str) -> MonitorFinding:
    look = msgspec.structs.replace(seen(0, True), kind=kind, subject=subject)
    found = step(LOANS, None, look, T0 + HOUR)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("kind", "subject", "is_asked"),
    [
        ("errors", "availability >= 99%", True),
        ("errors", "availability >= 99.9%", False),
        ("errors", "error_rate <= 5%", False),
        ("latency", "p99 <= 50 ms", False),
        ("quality", "f1 >= 0.6", True),
        ("quality", "f1 >= 0.7", False),
        ("drift", "income", True),
        ("drift", "salary", False),
        ("data", "traffic", True),
        ("data", "outcomes", True),
    ],
)
def test_what_is_no_longer_asked_is_over_and_says_so(kind, subject, is_asked) -> None:
    facts = msgspec.structs.replace(
        with_slo(None, "availability >= 99%", promised=(parse_condition("f1 >= 0.6"),)),
        reference=REFERENCE,
        known=(incident(kind, subject),),
    )
    found = evaluate(facts, T0 + 2 * HOUR)[0]
    assert (found.state, found.ended) == (("open", "") if is_asked else ("resolved", NOT_ASKED))
    assert found.resolved_at == (None if is_asked else T0 + 2 * HOUR)


def test_outcomes_that_come_at_last_end_it_at_once() -> None:
    window = QualityWindow(since=T0, until=T0 + HOUR, rows=1000, labelled=0, metrics={})
    asked = {"promised": (parse_condition("f1 >= 0.6"),)}
    opened = evaluate(with_slo(None, quality=window, **asked), T0 + HOUR)
    later = msgspec.structs.replace(window, until=T0 + HOUR + SECOND, labelled=1)
    found = evaluate(with_slo(None, quality=later, known=tuple(opened), **asked), T0 + HOUR + 1)
    assert [(one.subject, one.state) for one in found] == [("outcomes", "resolved")]


F1 = "f1 >= 0.6"
WEEK = round(QUALITY_WINDOW_S) * SECOND
DAY = 24 * HOUR


def fresh_look(
    known: list[MonitorFinding], value: float, half: float, now: int, since: int
) -> list[MonitorFinding]:
    """A look at which the week is as bad as before, and newer outcomes say `value`."""
    bad = msgspec.structs.replace(quality(0.5, 0.05), since=now - WEEK, until=now)
    newer = msgspec.structs.replace(quality(value, half), since=since, until=now)
    facts = with_slo(
        None, promised=(parse_condition(F1),), quality=bad, fresh={F1: newer}, known=tuple(known)
    )
    return [one for one in evaluate(facts, now) if one.kind == "quality"]


def broken_quality() -> list[MonitorFinding]:
    week = msgspec.structs.replace(quality(0.5, 0.05), since=T0 - WEEK, until=T0)
    facts = with_slo(None, promised=(parse_condition(F1),), quality=week)
    return evaluate(facts, T0)


def test_quality_is_over_once_newer_outcomes_are_sure_of_it_long_before_three_weeks() -> None:
    opened = broken_quality()
    assert [one.state for one in opened] == ["open"]
    (ended,) = fresh_look(opened, 0.75, 0.05, T0 + DAY, T0)
    assert (ended.state, ended.ended, ended.id) == ("resolved", "clear", opened[0].id)
    # The week still has the bad outcomes: they do not open it again.
    assert fresh_look([ended], 0.75, 0.05, T0 + DAY + 1, ended.judged_until) == []
    # Newer ones that are bad do.
    again = fresh_look([ended], 0.5, 0.05, T0 + 2 * DAY, ended.judged_until)
    assert [one.state for one in again] == ["open"]


def test_newer_outcomes_that_are_not_sure_leave_it_open_until_three_whole_weeks_were_kept() -> None:
    known, since = broken_quality(), T0
    assert fresh_look(known, 0.65, 0.1, T0 + DAY, since) == known
    for week in range(1, LOOKS_CLEAR_MIN + 1):
        (one,) = known = fresh_look(known, 0.65, 0.1, T0 + week * WEEK, since)
        since = one.judged_until
        assert one.state == ("resolved" if week == LOOKS_CLEAR_MIN else "open")


def test_newer_outcomes_that_are_bad_keep_it_open_and_begin_anew() -> None:
    opened = broken_quality()
    (one,) = fresh_look(opened, 0.5, 0.05, T0 + DAY, T0)
    assert (one.state, one.id, one.judged_until) == ("open", opened[0].id, T0 + DAY)
    # Nothing newer than that has come yet.
    empty = msgspec.structs.replace(quality(0.0, 0.0, labelled=0), since=T0 + DAY)
    facts = with_slo(
        None, promised=(parse_condition(F1),), quality=quality(0.5, 0.05), known=(one,),
        fresh={F1: empty},
    )  # fmt: skip
    assert [two for two in evaluate(facts, T0 + DAY + 1) if two.kind == "quality"] == [one]
