"""Live quality from a real journal: of the week, and of the outcomes that are newer."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest

from doorstep.compose.control import ControlPlane
from doorstep.core.ids import new_id
from doorstep.core.instant import SECOND_US, SystemClock, to_text
from doorstep.core.record import Column, Layout, OutcomeRecord, PredictionMeta
from doorstep.core.servicefile import parse_service_file
from doorstep.journal.away import declare
from doorstep.journal.compactor import Compactor
from doorstep.journal.query import Question, ask
from doorstep.journal.rows import tail_parts
from doorstep.journal.snapshot import take_snapshots
from doorstep.journal.tally import no_profiles
from doorstep.journal.writer import BlockWriter
from doorstep.kernel.app import App
from doorstep.kernel.db import Database
from doorstep.kernel.event import Object
from doorstep.kernel.home import open_home
from doorstep.monitor.gather import Watched, gather_shown, quality_of
from doorstep.monitor.incidents import NOT_ASKED
from doorstep.monitor.labels import say_stopped
from doorstep.monitor.loop import look
from doorstep.monitor.promises import promises
from doorstep.monitor.store import save_finding
from doorstep.monitor.types import MonitorFinding, QualityWindow, ServiceFacts
from doorstep.register.store import ServiceRow, VersionRow, save_revision
from doorstep.testing.home import TestHome
from doorstep.testing.installation import service_file

LAYOUT = Layout(
    format=1,
    service="loans",
    numbers=(Column("out.bad", "float"), Column("out.good", "float")),
    texts=(Column("out.answer", "text"),),
)
PROMISE = "accuracy >= 0.75"
MINUTE = 60 * SECOND_US
DAY = 24 * 60 * MINUTE


@pytest.fixture
def app(sqlite_database: Database, tmp_path: Path) -> App:
    home = open_home(tmp_path / "home", create=True)
    return ControlPlane(home, sqlite_database, SystemClock(), {}, {}, tmp_path).app()


def watched_of(folder: Path, more: str = "") -> Watched:
    maker = TestHome(folder / "maker")
    digest = maker.bundle(TestHome.contract(3))
    version = VersionRow(
        service="loans", number=1, digest=digest, form="onnx", placement="inline", trusted=False,
        holdout="", speed_ms_p99=0.1, registered_at=0, by="t", findings=(),
    )  # fmt: skip
    return Watched(
        file=parse_service_file(service_file("loans", more=more)),
        version=version,
        manifest=maker.read_manifest(digest),
        profile=None,
        served_since=0,
    )


def told(
    writer: BlockWriter, label: str | None, rows: int, at: int, received_at: int,
    value: float | None = None,
) -> None:  # fmt: skip
    """Predictions that all say bad, and what became true of them, told at `received_at`; nothing
    of them for no label."""
    for _ in range(rows):
        key = new_id().hex
        predicted(writer, key, at)
        if label or value is not None:
            writer.outcome(
                OutcomeRecord(
                    service="loans", at=at + 1, received_at=received_at, key=key, label=label,
                    value=value,
                )
            )  # fmt: skip
    writer.flush()


def predicted(writer: BlockWriter, key: str, at: int) -> None:
    meta = PredictionMeta(
        request=new_id().bytes, row=0, at=at, version=1, assigned=1, status=0, kind=0, release="",
        epoch=0, share=0.0, segment="", key=key, unit="", latency_us=900,
        warnings=(), texts=("bad",),
    )  # fmt: skip
    writer.predictions(writer.declare(LAYOUT), [meta], struct.pack("<2d", 0.9, 0.1))
    writer.flush()


def incident(judged_until: int) -> MonitorFinding:
    return MonitorFinding(
        id="f", service="loans", kind="quality", subject=PROMISE, severity="critical",
        state="open", sentence="", cause="", next="", since=0, updated_at=0,
        judged_until=judged_until,
    )  # fmt: skip


def test_newer_outcomes_are_those_that_were_received_since_the_last_judged_window(
    app: App, tmp_path: Path
):
    seen, now = watched_of(tmp_path), app.clock.now()
    writer = BlockWriter(app.home.journal, node="n1", boot="b1", slot="front-0")
    # All of the same hour: what is newer is told by when it was received.
    made = now - 60 * MINUTE
    told(writer, "good", 100, made, made + MINUTE)
    first = quality_of(app, seen, now)
    assert first.week is not None
    assert (first.week.labelled, first.week.metrics["accuracy"].value) == (100, 0.0)
    assert first.fresh == {}
    judged = made + 10 * MINUTE
    after = quality_of(app, seen, now, (incident(judged),))
    assert after.fresh[PROMISE].labelled == 0
    told(writer, "bad", 60, made, judged + MINUTE)
    found = quality_of(app, seen, now + SECOND_US, (incident(judged),))
    fresh = found.fresh[PROMISE]
    assert (fresh.labelled, fresh.metrics["accuracy"].value) == (60, 1.0)
    assert (fresh.since, fresh.until) == (judged, now + SECOND_US)
    assert found.week is not None
    assert (found.week.labelled, found.week.metrics["accuracy"].value) == (160, 0.375)
    # The same outcomes, looked at again later.
    later = quality_of(app, seen, now + MINUTE, (incident(judged),))
    assert later.fresh[PROMISE].until == now + MINUTE
    assert later.fresh[PROMISE].metrics == fresh.metrics
    writer.close()


def test_only_predictions_whose_outcome_is_due_are_judged(app: App, tmp_path: Path):
    more = f'monitor: {{quality: ["{PROMISE}"], outcomes: {{delay: 30d, unit: EUR}}}}'
    seen, now = watched_of(tmp_path, more), app.clock.now()
    writer = BlockWriter(app.home.journal, node="n1", boot="b1", slot="front-0")
    due = now - 33 * DAY
    told(writer, "good", 60, due, due + MINUTE, value=-100.0)
    told(writer, "bad", 40, due + DAY, now, value=10.0)  # told as late as now
    told(writer, "", 100, due + DAY, now)
    # Good news comes early: it would make four of five of those that are known right.
    told(writer, "bad", 300, now - 2 * DAY, now - DAY, value=10.0)
    found = quality_of(app, seen, now).week
    assert found is not None
    assert (found.rows, found.labelled, found.metrics["accuracy"].value) == (200, 100, 0.4)
    (promise,) = [one for one in promises(facts_of(seen, found)) if one.kind == "quality"]
    first, last = (to_text(now - back * DAY)[:10] for back in (37, 30))
    assert promise.state == "broken"
    assert f"labels for 50 % of 200 predictions of {first} to {last}, older than 30 d" in (
        promise.measured
    )
    total, *days = found.values
    assert (total.version, total.day, total.total, total.mean.value) == (1, "", -5600.0, -56.0)
    assert [(one.day, one.total, one.mean.counted) for one in days] == [
        (to_text(due)[:10], -6000.0, 60), (to_text(due + DAY)[:10], 400.0, 40),
    ]  # fmt: skip
    # Three days later the newer ones are still not due; in 29 days they are.
    assert quality_of(app, seen, now + 3 * DAY).week.rows == 200
    assert quality_of(app, seen, now + 29 * DAY).week.labelled == 300
    writer.close()


def test_a_case_with_a_value_and_no_label_is_not_labelled(app: App, tmp_path: Path):
    seen, now = watched_of(tmp_path, "monitor: {outcomes: {delay: 2d, unit: EUR}}"), app.clock.now()
    writer = BlockWriter(app.home.journal, node="n1", boot="b1", slot="front-0")
    told(writer, "good", 20, now - 5 * DAY, now)
    told(writer, "", 180, now - 5 * DAY, now)
    told(writer, None, 250, now - 2 * DAY - 6 * 60 * MINUTE, now, value=5.0)
    found = quality_of(app, seen, now).week
    assert found is not None
    assert (found.rows, found.labelled, found.newest) == (450, 20, (250, 0))
    assert say_stopped(found).startswith("labels are known for 0% of 250 predictions")
    writer.close()


def facts_of(seen: Watched, quality: QualityWindow) -> ServiceFacts:
    return ServiceFacts(
        service="loans", version=1, quality=quality, promised=seen.file.monitor.quality
    )


def test_a_correction_counts_a_late_older_one_does_not_and_all_are_kept(app: App, tmp_path: Path):
    """Duplicate, out of order, corrected, early: the newest by its own time counts."""
    seen, now = watched_of(tmp_path), app.clock.now()
    writer = BlockWriter(app.home.journal, node="n1", boot="b1", slot="front-0")
    made = now - 60 * MINUTE

    def tell(label: str, at: int, received_at: int) -> float | None:
        writer.outcome(
            OutcomeRecord(service="loans", at=at, received_at=received_at, key="k", label=label)
        )
        writer.flush()
        found = quality_of(app, seen, now).week
        return found.metrics["accuracy"].value if found and found.labelled else None

    # Early: its prediction is not known yet. It waits, and counts once it is.
    assert tell("good", made + MINUTE, made) is None
    predicted(writer, "k", made)
    assert quality_of(app, seen, now).week.labelled == 1
    assert tell("good", made + MINUTE, made + 1) == 0.0  # the same again
    assert tell("bad", made + 2 * MINUTE, made + 2) == 1.0  # corrected
    assert tell("good", made + MINUTE + 1, made + 3) == 1.0  # late, and out of date
    assert tell("good", made + 2 * MINUTE, made + 4) == 0.0  # a tie: the last that came
    assert tell("bad", made - MINUTE, made + 5) == 0.0  # before the prediction: about another
    question = Question(what="outcomes_joined", home=str(app.home.path), service="loans",
                        since=0, until=now)  # fmt: skip
    assert ask(question).rows == 1
    kept = [one.part for one in tail_parts(take_snapshots(app.home.path))
            if isinstance(one.part, OutcomeRecord)]  # fmt: skip
    assert len(kept) == 6
    writer.close()


def test_a_window_that_is_shown_says_of_how_much_time_its_rows_are(app: App, tmp_path: Path):
    seen = watched_of(tmp_path, "monitor: {drift: {window: 10s}}")
    now = app.clock.now()
    hour = (now // (60 * MINUTE) - 3) * 60 * MINUTE
    for rows, at_s in ((10, 5), (5, 47)):
        writer = BlockWriter(app.home.journal, node="n1", boot=f"b{rows}", slot="front-0")
        told(writer, "good", rows, hour + at_s * SECOND_US, now)
        writer.close()
    shown = gather_shown(app, seen, now).drift
    assert (shown.rows, shown.since, shown.until - shown.since) == (
        5, hour + 40 * SECOND_US, 10 * SECOND_US,
    )  # fmt: skip
    with Compactor(app.home.path, "n1", no_profiles) as compactor:
        for _ in range(2):  # into files, and these together
            compactor.run_once()
    # The hour is over, and kept by the minute.
    merged = gather_shown(app, seen, now).drift
    assert (merged.rows, merged.since, merged.until - merged.since) == (15, hour, MINUTE)


def test_where_nothing_serves_any_more_no_incident_stays_open(app: App, tmp_path: Path):
    row = ServiceRow(
        name="loans", revision=1, created_at=0, file=service_file("loans"), applied_at=0, by="t"
    )
    with app.database.transaction() as unit:
        save_revision(unit.connection, row)
        save_finding(unit.connection, incident(1))
        unit.record("service.applied", Object("service", "loans"), {})
    declare(app.home.path, f"file://{tmp_path}/store")
    (ended,) = look(app, "loans", app.clock.now())
    assert (ended.state, ended.ended) == ("resolved", NOT_ASKED)
    # What changed waits to go to the store.
    (report,) = (app.home.path / "store").glob("reports/loans/*.json")
    said = msgspec.json.decode(report.read_bytes())
    assert (said["kind"], said["finding"]["id"]) == ("finding.resolved", ended.id)
    assert look(app, "loans", app.clock.now()) == []
