"""What the journal answers is the same before, during and after compaction."""

import struct
from pathlib import Path
from uuid import UUID

import duckdb
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from doorstep.core.errors import InputError
from doorstep.core.ids import digest_of, new_id
from doorstep.core.manifest import ColumnProfile, Profile
from doorstep.core.record import Column, Kind, Layout, OutcomeRecord, PredictionMeta, Status
from doorstep.journal.compactor import Compactor
from doorstep.journal.joined import About
from doorstep.journal.profiles import PlanProfiles
from doorstep.journal.query import Question, ask, outcomes_joined, prediction, predictions
from doorstep.journal.rows import Filters, Wanted
from doorstep.journal.windows import SummaryCache, column_codes, counts
from doorstep.journal.writer import BlockWriter
from fakes.outcome_join import Predicted, join

LAYOUT = Layout(
    format=1,
    service="loans",
    numbers=(Column("in.age", "int"), Column("out.yes", "float")),
    texts=(Column("in.purpose", "category"), Column("out.answer", "text")),
)
WIDER = Layout(
    format=1,
    service="loans",
    numbers=(*LAYOUT.numbers, Column("out.no", "float")),
    texts=LAYOUT.texts,
)
PROFILE = Profile(
    format=1,
    rows=10,
    columns=(ColumnProfile(name="age", type="int", edges=(18.0,), counts=(1,) * 32, nulls=0),),
)
AT = 1_700_000_040_000_000
MINUTE = 60_000_000


def profiles(service, version):
    return PROFILE


def meta(request=None, **changes):
    fields = {
        "request": request or new_id().bytes, "row": 0, "at": AT, "version": 1, "assigned": 1,
        "status": 0, "kind": 0, "release": "", "epoch": 0, "share": 0.0, "segment": "",
        "key": "", "unit": "", "latency_us": 900, "warnings": (), "texts": ("car", "yes"),
    }  # fmt: skip
    return PredictionMeta(**(fields | changes))


class Journal:
    """A node with one writer; `add` flushes, `compact` closes and compacts."""

    def __init__(self, home):
        self.home = home
        self.boots = 0
        self.writer = None

    def add(self, *rows, layout=LAYOUT, numbers=(30.0, 0.5)):
        if self.writer is None:
            self.boots += 1
            self.writer = BlockWriter(
                self.home / "journal", node="n1", boot=f"b{self.boots}", slot="front-0"
            )
        number = self.writer.declare(layout)
        packed = struct.pack(f"<{len(numbers)}d", *numbers)
        self.writer.predictions(number, rows, packed * len(rows))
        self.writer.flush()

    def tell(self, **fields):
        told = {"service": "loans", "received_at": AT + 9 * MINUTE} | fields
        self.writer.outcome(OutcomeRecord(**told))
        self.writer.flush()

    def compact(self):
        self.close()
        with Compactor(self.home, "n1", profiles) as compactor:
            compactor.run_once()

    def close(self):
        if self.writer is not None:
            self.writer.close()
            self.writer = None


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path)
    yield made
    made.close()


def id_of(row):
    return f"{UUID(bytes=row.request)}.{row.row}"


def test_a_prediction_reads_the_same_from_an_open_block_and_from_a_file(journal):
    row = meta(warnings=("unseen:purpose",), key="k1", texts=(None, "yes"))
    shadow = meta(row.request, kind=1, version=2, assigned=2, at=AT + 5)
    journal.add(row, numbers=(float("nan"), 0.25))
    journal.add(shadow)
    before = prediction(journal.home, id_of(row))
    journal.compact()
    after = prediction(journal.home, id_of(row))
    assert len(after.pop("leaf_hash")) == len(after["shadows"][0].pop("leaf_hash")) == 64
    assert before.pop("leaf_hash") is before["shadows"][0].pop("leaf_hash") is None
    assert before == after
    assert after["in.age"] is after["in.purpose"] is None
    assert (after["out.yes"], after["out.answer"]) == (0.25, "yes")
    assert after["warnings"] == ["unseen:purpose"]
    assert after["shadows"][0]["version"] == 2


def test_a_file_of_before_there_was_a_cache_reads_and_joins_with_newer_ones(journal):
    old, new = meta(), meta(cached=True)
    journal.add(old)
    journal.compact()
    (path,) = journal.home.glob("journal/n1/**/*.parquet")
    copy = path.with_suffix(".old")
    duckdb.sql(f"COPY (SELECT * EXCLUDE cached FROM '{path}') TO '{copy}' (FORMAT parquet)")
    copy.replace(path)
    journal.add(new)
    journal.compact()
    rows = predictions(journal.home, "loans")
    assert {row["id"]: row["cached"] for row in rows} == {id_of(old): False, id_of(new): True}


def test_a_shadow_record_that_is_listed_later_is_found_with_its_prediction(journal):
    row = meta()
    journal.add(row)
    journal.compact()
    journal.add(meta(row.request, kind=1, version=2))
    found = prediction(journal.home, id_of(row))
    assert (found["version"], found["shadows"][0]["version"]) == (1, 2)


def test_an_unknown_prediction_is_none_and_a_malformed_id_is_refused(journal):
    journal.add(meta())
    journal.compact()
    assert prediction(journal.home, str(new_id())) is None
    with pytest.raises(InputError, match="bad-prediction-id"):
        prediction(journal.home, "x")


def test_pages_give_every_record_once_newest_first(journal):
    rows = [meta(at=AT + i // 3) for i in range(30)]
    for part in range(3):
        journal.add(*rows[part * 10 : part * 10 + 10])
        if part < 2:
            journal.compact()
    pages, before = [], None
    while page := predictions(journal.home, "loans", 7, before):
        pages += page
        before = (page[-1]["at"], page[-1]["id"])
    expected = sorted(((row.at, id_of(row)) for row in rows), reverse=True)
    assert [(row["at"], row["id"]) for row in pages] == expected


def test_rows_of_one_request_are_listed_in_their_order(journal):
    request = new_id().bytes
    for numbers in (range(6), range(6, 12)):
        journal.add(*(meta(request, row=number) for number in numbers))
        if 0 in numbers:
            journal.compact()
    first = predictions(journal.home, "loans", 5)
    rest = predictions(journal.home, "loans", 50, (first[-1]["at"], first[-1]["id"]))
    assert [one["row"] for one in first + rest] == list(range(12))


def test_filters_mean_the_same_in_open_blocks_and_in_files(journal):
    rows = [
        meta(version=2, segment="north", key="k1"),
        meta(status=Status.TIMED_OUT, error="timed-out", warnings=("range:age",)),
        meta(kind=Kind.SHADOW),
        meta(kind=Kind.REHEARSAL, at=AT + 5),
    ]
    journal.add(*rows)
    asked = [
        Filters(),
        Filters(version=2),
        Filters(segment="north", key="k1"),
        Filters(key="k2"),
        Filters(status=2, has_error=True),
        Filters(has_warning=False, kinds=(0, 1, 2)),
        Filters(since=AT + 1),
        Filters(wanted=(Wanted(("out.answer",), "yes"),)),
        Filters(wanted=(Wanted(("out.answer",), "no"),)),
        Filters(wanted=(Wanted(("ctx.age", "in.age"), "30"), Wanted(("in.purpose",), "car"))),
        Filters(wanted=(Wanted(("in.age",), "thirty"),)),
        Filters(wanted=(Wanted(("in.nothing",), "x"),)),
    ]

    def answers():
        return [[row["id"] for row in predictions(journal.home, "loans", 9, None, one)]
                for one in asked]  # fmt: skip

    before = answers()
    journal.compact()
    assert answers() == before
    assert [len(one) for one in before] == [3, 1, 1, 0, 1, 3, 1, 3, 0, 3, 0, 0]


def test_limits_are_checked(journal):
    for limit in (0, 1001):
        with pytest.raises(InputError, match="bad-limit"):
            predictions(journal.home, "loans", limit)
    assert predictions(journal.home, "loans", 1000) == []


def everything(home, cache=None):
    window = (home, "loans", AT, AT + 10 * MINUTE)
    found = column_codes(*window, cache=cache)
    return (
        counts(*window, cache=cache),
        counts(*window, 300, cache=cache),
        found.cells,
        found.outcomes,
    )


def test_windows_are_the_same_before_and_after_compaction_and_with_a_cache(journal):
    cache = SummaryCache(profiles)
    assert everything(journal.home, cache)[0] == []
    journal.add(meta(), meta(version=2, assigned=2, at=AT + MINUTE, latency_us=5000))
    first = everything(journal.home, cache)
    assert first == everything(journal.home, SummaryCache(profiles))
    journal.add(meta(assigned=2, status=1, at=AT + 2 * MINUTE), layout=WIDER, numbers=(1, 2, 3))
    journal.add(meta(at=AT - MINUTE), meta(at=AT + 10 * MINUTE))
    journal.tell(at=AT, key="k1", value=1.0)
    before = everything(journal.home, cache)
    assert before == everything(journal.home, SummaryCache(profiles))
    journal.compact()
    assert everything(journal.home, cache) == before
    assert everything(journal.home, SummaryCache(profiles)) == before
    rows, wide, cells, outcomes = before
    assert [row.rows for row in rows] == [1, 1, 1]
    assert sum(row.rows for row in wide) == 3
    assert all(row.at % (5 * MINUTE) == 0 for row in wide)
    assert [(one.version, sum(one.latency)) for one in cells] == [(1, 1), (2, 1), (1, 1)]
    assert [(one.assigned, one.statuses[1]) for one in cells] == [(1, 0), (2, 0), (2, 1)]
    assert outcomes == {AT: 1}


def test_a_window_is_whole_buckets(journal):
    for bucket_s in (0, 59, 95):
        with pytest.raises(ValueError, match="whole number of buckets"):
            counts(journal.home, "loans", 0, 1, bucket_s)


def test_records_whose_inputs_are_not_kept_are_counted_and_are_not_taken_for_missing_inputs(
    journal,
):
    bare = Layout(format=1, service="loans", numbers=LAYOUT.numbers[1:], texts=LAYOUT.texts[1:])
    journal.add(meta(), meta())
    bare_id = new_id()
    journal.add(meta(request=bare_id.bytes, texts=("yes",)), layout=bare, numbers=(0.25,))
    for _ in range(2):
        columns = column_codes(
            journal.home, "loans", AT - MINUTE, AT + MINUTE, cache=SummaryCache(profiles)
        ).cells
        assert sum(one.rows for one in columns) == 3
        ages = [one.columns["in.age"] for one in columns if "in.age" in one.columns]
        assert sum(sum(one.codes) for one in ages) == 2
        assert sum(one.nulls for one in ages) == 0
        assert sum(one.scores["out.yes"].rows for one in columns) == 3
        assert len(predictions(journal.home, "loans", 10)) == 3
        row = prediction(journal.home, f"{bare_id}.0")
        assert (row["out.yes"], row["out.answer"], row.get("in.age")) == (0.25, "yes", None)
        journal.compact()


def test_outcomes_are_joined_across_files_layouts_and_open_blocks(journal):
    one, two = meta(key="k1"), meta(key="k1", at=AT + 10, version=2)
    journal.add(one, numbers=(30.0, 0.1))
    journal.tell(at=AT + 5, key="k1", label="no")
    journal.compact()
    journal.add(two, layout=WIDER, numbers=(30.0, 0.2, 0.8))
    journal.add(meta(two.request, kind=1, version=3, at=AT + 11), numbers=(30.0, 0.9))
    journal.tell(at=AT + 20, prediction=str(UUID(bytes=two.request)), value=7.0)
    for _ in range(2):
        found = outcomes_joined(journal.home, "loans", AT, AT + MINUTE)
        assert found.id.tolist() == [id_of(one), id_of(two)]
        assert found.label.tolist() == ["no", None]
        assert found.version.tolist() == [1, 2]
        assert found.answer.tolist() == ["yes", "yes"]
        assert found.received_at.tolist() == [AT + 9 * MINUTE] * 2
        np.testing.assert_equal(found.value, [np.nan, 7.0])
        np.testing.assert_equal(found.scores, {"yes": np.array([0.1, 0.2]),
                                               "no": np.array([np.nan, 0.8])})  # fmt: skip
        shadow = outcomes_joined(journal.home, "loans", AT, AT + MINUTE, kinds=[Kind.SHADOW])
        assert (shadow.version.tolist(), shadow.value.tolist()) == ([3], [7.0])
        assert outcomes_joined(journal.home, "loans", AT + 1, AT + MINUTE).rows == 1
        assert outcomes_joined(journal.home, "loans", AT, AT + 10).rows == 1
        journal.compact()


def test_of_too_many_outcomes_the_newest_are_told_and_it_is_said(journal, monkeypatch):
    rows = [meta(at=AT + at) for at in range(3)]
    journal.add(*rows)
    for row in rows:
        journal.tell(at=AT + 20, prediction=str(UUID(bytes=row.request)), label="no")
    for most, is_cut in ((3, False), (2, True)):
        monkeypatch.setattr("doorstep.journal.joined.JOINED_ROWS_MAX", most)
        found = outcomes_joined(journal.home, "loans", AT, AT + MINUTE)
        assert (found.at.tolist(), found.is_cut) == ([AT, AT + 1, AT + 2][-most:], is_cut)


def test_what_is_told_again_was_known_since_it_was_told_first(journal):
    one = meta()
    journal.add(one)
    name = str(UUID(bytes=one.request))
    for received, label in ((1, "no"), (3, "no"), (2, "yes")):
        journal.tell(at=AT + 5, received_at=AT + received * MINUTE, prediction=name, label=label)
    found = outcomes_joined(journal.home, "loans", AT, AT + MINUTE)
    assert (found.label.tolist(), found.received_at.tolist()) == (["no"], [AT + MINUTE])


def test_outcomes_of_some_predictions_are_those_that_a_join_of_all_gives_them(journal):
    first, second, other = (meta(key=key, at=AT + at) for key, at in (("a", 0), ("a", 4), ("", 5)))
    journal.add(first, second, other)
    journal.compact()
    journal.add(meta(key="b", at=AT + 6))
    journal.tell(at=AT + 3, key="a", label="early")
    journal.tell(at=AT + 9, key="a", label="late")
    journal.tell(at=AT + 9, key="b", label="of another")
    journal.tell(at=AT + 9, prediction=id_of(other), label="named")

    def told(*rows, keys=("a",)):
        about = About(tuple(map(id_of, rows)), keys)
        found = outcomes_joined(journal.home, "loans", AT, AT + MINUTE, about=about)
        return dict(zip(found.id, found.label, strict=True))

    assert told(first) == {id_of(first): "early", id_of(second): "late"}
    assert told(other, keys=()) == {id_of(other): "named"}


def test_no_records_and_no_outcomes_are_empty_arrays(journal):
    assert outcomes_joined(journal.home, "loans", 0, AT).rows == 0
    journal.add(meta())
    assert outcomes_joined(journal.home, "loans", 0, AT * 2).rows == 0


@settings(max_examples=15, deadline=None)
@example(
    [(0, "a", Kind.LIVE)],
    [(0, 0, "a", 0, ("no", None)), (0, 1, "a", 0, ("no", None))],
    (Kind.LIVE,),
)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["a", "b", ""]), st.sampled_from(list(Kind))),
        min_size=1,
        max_size=8,
    ),
    st.lists(
        st.tuples(
            st.integers(0, 12),
            st.integers(0, 5),
            st.sampled_from(["a", "b", ""]),
            st.integers(0, 7),
            st.sampled_from([("no", None), (None, 0.5), (None, 1.0), ("yes", 0.5)]),
        ),
        min_size=1,
        max_size=10,
    ),
    st.sampled_from([(Kind.LIVE,), (Kind.REHEARSAL,), (Kind.LIVE, Kind.REHEARSAL)]),
)
def test_duckdb_joins_as_the_pure_decision_does(tmp_path_factory, made, told, kinds):
    journal = Journal(tmp_path_factory.mktemp("join"))
    rows = [meta(at=AT + at, key=key, kind=int(kind)) for at, key, kind in made]
    journal.add(*rows)
    outcomes = [
        OutcomeRecord(
            service="loans",
            at=AT + at,
            received_at=AT + received,
            label=said[0],
            value=said[1],
            key=key,
            prediction="" if key else id_of(rows[named % len(rows)]),
        )
        for at, received, key, named, said in told
    ]
    for one in outcomes:
        journal.writer.outcome(one)
    journal.writer.flush()
    found = outcomes_joined(journal.home, "loans", AT, AT + MINUTE, kinds)
    journal.close()
    predicted = [Predicted(id_of(row), row.at, row.key, row.kind) for row in rows]
    expected = join(predicted, outcomes, kinds).winning
    values = [None if value != value else value for value in found.value.tolist()]
    said = zip(found.label.tolist(), values, found.outcome_at, found.received_at, strict=True)
    assert {
        about: (one.label, one.value, one.at, one.received_at) for about, one in expected.items()
    } == dict(zip(found.id.tolist(), said, strict=True))


def test_a_child_answers_as_the_functions_do(journal):
    row = meta(key="k1")
    journal.add(row)
    journal.tell(at=AT + 5, key="k1", label="no")
    home = str(journal.home)
    one = ask(Question(what="prediction", home=home, id=id_of(row)))
    assert one == prediction(journal.home, id_of(row))
    rows = ask(Question(what="predictions", home=home, service="loans", limit=3))
    assert rows == predictions(journal.home, "loans", 3)
    question = Question(
        what="outcomes_joined", home=home, service="loans", since=AT, until=AT + MINUTE
    )
    assert ask(question).label.tolist() == ["no"]
    with pytest.raises(InputError, match="bad-question"):
        ask(Question(what="everything", home=home))


def test_profiles_come_from_the_plan_and_the_bundle(tmp_path):
    import msgspec

    from doorstep.core.contract import Contract
    from doorstep.core.plan import PlanPointer, PlanRoot, ServicePlan, VersionPlan

    home, bundle = tmp_path, "a" * 64
    found = PlanProfiles(home)
    assert found("loans", 1) is None
    (home / "plan").mkdir()

    def publish(document):
        data = msgspec.json.encode(document)
        (home / "plan" / f"{digest_of(data)}.json").write_bytes(data)
        return digest_of(data)

    version = VersionPlan(number=1, bundle=bundle, form="onnx", placement="inline")
    plan = ServicePlan(
        format=1,
        service="loans",
        contract=Contract(inputs=()),
        versions=(version,),
        champion=1,
    )
    root = PlanRoot(
        format=1,
        environment="test",
        term=1,
        number=1,
        made_at=0,
        services={"loans": publish(plan)},
    )
    pointer = PlanPointer(format=1, term=1, number=1, root=publish(root), renewal=0)
    (home / "plan" / "current").write_bytes(msgspec.json.encode(pointer))
    assert found("loans", 1) is None
    (home / "bundles" / bundle / "reference").mkdir(parents=True)
    path = home / "bundles" / bundle / "reference" / "profile.json"
    path.write_bytes(msgspec.json.encode(PROFILE))
    assert found("loans", 1) == PROFILE
    (home / "plan" / "current").unlink()
    assert found("loans", 1) == PROFILE
    assert found("loans", 2) is None


def test_the_documented_way_to_read_the_files_works(journal, capsys):
    journal.add(meta(), meta(at=AT + MINUTE))
    journal.compact()
    page = (Path(__file__).parents[2] / "docs" / "concepts" / "journal.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    folder = str(journal.home / "journal" / "n1")
    exec(code.replace("HOME/journal/NODE", folder), {})
    assert "mean_score" in capsys.readouterr().out
