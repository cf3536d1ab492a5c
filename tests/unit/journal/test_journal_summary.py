import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_samples import LAYOUT, meta

from doorstep.core.errors import InputError
from doorstep.core.manifest import ColumnProfile, Profile
from doorstep.core.merkle import grow, hash_leaf, root_of
from doorstep.core.record import OutcomeRecord
from doorstep.journal.columns import Batch, batch_of
from doorstep.journal.contents import root_of_leaves
from doorstep.journal.reader import Group
from doorstep.journal.summary import (
    FORMAT,
    LATENCY_BINS,
    Cell,
    ColumnCount,
    PairSums,
    ReleaseCount,
    ScoreSum,
    Summary,
    coarsen,
    decode_summary,
    encode_summary,
    keep_columns,
    latency_ms,
    merge,
    merge_all,
    pack,
    unpack,
    window,
)
from doorstep.journal.tally import no_profiles, tally, tally_outcomes

MINUTE = 60_000_000
AT = 1_700_000_040_000_000
PROFILE = Profile(
    format=1,
    rows=10,
    columns=(
        ColumnProfile(name="age", type="int", edges=(18.0, 30.0), counts=(1,) * 32, nulls=0),
        ColumnProfile(
            name="purpose",
            type="category",
            categories=("car",),
            known=("car", "boat"),
            counts=(1,) * 32,
            nulls=0,
        ),
    ),
    scores=(ColumnProfile(name="yes", type="float", edges=(0.5,), counts=(1,) * 32, nulls=0),),
)


def batch(rows, numbers) -> Batch:
    matrix = memoryview(np.array(numbers, dtype=float).tobytes())
    return batch_of([Group(LAYOUT, rows, matrix)], [0], hashed=False)


counts = st.integers(0, 10**6)
products = st.lists(st.integers(-(2**50), 2**50), min_size=3, max_size=3).map(
    lambda numbers: pack(np.array(numbers))
)
histogram = st.one_of(st.just(()), st.lists(counts, min_size=32, max_size=32).map(tuple))
cells = st.builds(
    Cell,
    at=st.integers(0, 3).map(lambda n: n * MINUTE),
    version=st.integers(0, 1),
    assigned=st.just(1),
    kind=st.integers(0, 1),
    segment=st.sampled_from(["", "north"]),
    rows=counts,
    statuses=st.lists(counts, min_size=6, max_size=6).map(tuple),
    errors=counts,
    warned=counts,
    latency=st.lists(counts, min_size=LATENCY_BINS, max_size=LATENCY_BINS).map(tuple),
    counted=st.dictionaries(
        st.sampled_from(["in.a", "in.b"]), st.builds(ColumnCount, counts, histogram)
    ).map(keep_columns),
    scores=st.dictionaries(
        st.sampled_from(["out.yes", "out.no"]),
        st.builds(ScoreSum, counts, st.integers(-(10**30), 10**30), st.integers(0, 10**30)),
    ),
    pairs=st.just(PairSums()) | st.builds(PairSums, counts, products),
)
releases = st.builds(
    ReleaseCount,
    release=st.sampled_from(["r1", "r2"]),
    epoch=st.integers(0, 1),
    segment=st.just(""),
    assigned=st.just(1),
    kind=st.just(0),
    ok=counts,
    failed=counts,
    passed=counts,
)
summaries = st.builds(
    lambda cells, outcomes, bucket, releases: coarsen(
        merge(
            Summary(
                service="loans", cells=tuple(cells), outcomes=outcomes, releases=tuple(releases)
            ),
            EMPTY,
        ),
        bucket,
    ),
    st.lists(cells, max_size=4),
    st.dictionaries(st.integers(0, 3).map(lambda n: n * MINUTE), counts),
    st.sampled_from([60, 120]),
    st.lists(releases, max_size=3),
)
EMPTY = Summary(service="loans")


@settings(max_examples=50, deadline=None)
@given(summaries, summaries, summaries)
def test_merging_is_associative_and_commutative_and_survives_its_file(one, two, three):
    assert merge(one, two) == merge(two, one)
    assert merge(merge(one, two), three) == merge(one, merge(two, three))
    assert merge(one, EMPTY) == one
    assert decode_summary(encode_summary(one)) == one


def test_summaries_of_different_services_do_not_merge():
    with pytest.raises(ValueError, match="do not merge"):
        merge(EMPTY, Summary(service="fraud"))


def test_a_newer_summary_is_refused():
    with pytest.raises(InputError, match="format 4"):
        decode_summary(b'{"format": 4, "service": "loans"}')
    with pytest.raises(InputError, match="bad-summary"):
        decode_summary(b'{"service": 1}')


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 3, "counted": [{"a": 0}, "CQAA"]},  # numbers of nine bytes
        {"format": 3, "counted": [{"a": 0}, "AQAA"]},  # two numbers and not 32
        {"format": 3, "counted": [{}, "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]},
        {"format": 3, "pairs": [3, "AgA="]},  # half a number
        {"format": 2, "pairs": [3, "AAAA"]},
        {"format": 2, "columns": {"a": [0, [1, 2]]}},
        {"format": 2, "columns": {"a": [0, [1, 2]], "b": [0, [1]]}},
    ],
)
def test_a_summary_whose_counts_are_no_counts_is_refused(changes):
    data = msgspec.json.decode(Path(__file__).with_name("summary-format-2.json").read_bytes())
    data["format"] = changes["format"]
    data["cells"][0] |= {"columns": {}, "pairs": [0, ""]} | changes
    del data["cells"][0]["format"]
    with pytest.raises(InputError, match="bad-summary"):
        decode_summary(msgspec.json.encode(data))


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200), max_size=9))
def test_packed_numbers_are_what_they_were_and_take_no_more_bytes_than_the_largest_needs(numbers):
    packed = pack(np.array(numbers, dtype=np.int64))
    assert unpack(packed).tolist() == numbers
    if numbers and min(numbers) >= -128 and max(numbers) <= 127:
        assert len(packed) == 1 + len(numbers)


def test_a_summary_that_spells_out_its_counts_is_read_and_merged_with_one_of_now():
    old = decode_summary(Path(__file__).with_name("summary-format-2.json").read_bytes())
    (cell,) = old.cells
    assert (cell.columns["in.age"].nulls, cell.columns["in.age"].codes[:3]) == (1, (1, 0, 1))
    assert cell.columns["in.purpose"] == ColumnCount(0)
    assert (cell.pairs.rows, cell.pairs.sums.tolist()) == (3, [29_017])
    both = merge(old, merge(old, EMPTY))
    assert both.cells[0].columns["in.age"].codes[:3] == (2, 0, 2)
    assert both.cells[0].pairs.sums.tolist() == [58_034]
    assert both.format == FORMAT
    assert decode_summary(encode_summary(both)) == both


def test_a_summary_of_the_first_format_is_read_and_merged_with_one_of_now():
    old = decode_summary(Path(__file__).with_name("summary-format-1.json").read_bytes())
    assert (sum(cell.rows for cell in old.cells), sum(old.outcomes.values())) == (3, 1)
    assert (old.releases, old.cells[0].pairs) == ((), PairSums())
    rows = [meta(0, at=AT, release="r1"), meta(1, at=AT, release="r1", status=1)]
    both = merge(old, tally(batch(rows, [17, 0.2, 18, 0.7]), lambda *_: PROFILE))
    assert both.format == FORMAT
    assert both.cells[0].rows == 4
    assert both.cells[0].columns["in.age"].codes[:3] == (2, 2, 0)
    assert decode_summary(encode_summary(both)) == both


def test_a_release_is_counted_as_nodes_count_it():
    """Rows of a request that were assigned together are one, answered if any row is; a shadow's
    rows are each one."""
    other = bytes(range(1, 17))
    rows = [
        meta(0),
        meta(0, release="r1", epoch=3, assigned=2),
        meta(1, release="r1", epoch=3, assigned=2, status=1),
        meta(2, release="r1", epoch=3, assigned=3, status=1),
        meta(0, release="r1", epoch=3, assigned=3, status=5, request=other),
        meta(0, release="r1", epoch=2, assigned=3, kind=1),
        meta(1, release="r1", epoch=2, assigned=3, kind=1, status=2),
    ]
    found = tally(batch(rows, [1.0, 0.5] * len(rows)), no_profiles).releases
    assert [(*one.key, one.ok, one.failed, one.passed) for one in found] == [
        ("r1", 2, "", 3, 1, 1, 1, 0),
        ("r1", 3, "", 2, 0, 1, 0, 0),
        ("r1", 3, "", 3, 0, 0, 1, 1),
    ]


def test_buckets_only_become_wider_by_whole_multiples():
    with pytest.raises(ValueError, match="not a multiple"):
        coarsen(EMPTY, 95)


def test_a_batch_is_counted_by_minute_version_kind_and_segment():
    rows = [
        meta(0, at=AT),
        meta(1, at=AT + 5, warnings=()),
        meta(2, at=AT + MINUTE, version=1, status=2, error="timed-out"),
        meta(3, at=AT, kind=1, segment="north", latency_us=0),
    ]
    found = tally(batch(rows, [17, 0.2, 18, 0.7, 40, np.nan, np.nan, 0.5]), lambda *_: PROFILE)
    assert [cell.key for cell in found.cells] == [
        (AT, 2, 2, 0, ""),
        (AT, 2, 2, 1, "north"),
        (AT + MINUTE, 1, 2, 0, ""),
    ]
    first, shadow, later = found.cells
    assert (first.rows, first.failed, first.errors, first.warned) == (2, 0, 0, 1)
    assert (later.rows, later.failed, later.errors) == (1, 1, 0)  # version 1 answered instead
    assert first.columns["in.age"].codes[:3] == (1, 1, 0)
    assert first.columns["in.purpose"].codes[0] == 2
    assert shadow.columns["in.age"] == ColumnCount(1, (0,) * 32)
    assert first.scores["out.yes"].mean == pytest.approx(0.45)
    assert first.columns["out.yes"].codes[:2] == (1, 1)
    assert math.isnan(later.scores["out.yes"].mean)
    assert sum(shadow.latency) == shadow.latency[0] == 1


def test_an_error_is_a_row_that_nobody_answered():
    rows = [meta(0, version=-1, status=1, error="failed"), meta(1, version=1, status=1, error="x")]
    found = tally(batch(rows, [17, 0.2, 18, 0.7]), lambda *_: None)
    assert [(cell.version, cell.failed, cell.errors) for cell in found.cells] == [
        (-1, 1, 1),
        (1, 1, 0),
    ]


def test_without_a_profile_only_missing_values_are_counted():
    found = tally(batch([meta(0), meta(1, texts=(None, "no"))], [1, 2, np.nan, 4]), no_profiles)
    assert found.cells[0].columns == {
        "in.age": ColumnCount(1),
        "in.purpose": ColumnCount(1),
        "out.yes": ColumnCount(0),
    }


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(-10, 10)), min_size=1, max_size=12), st.data()
)
def test_counting_in_two_parts_is_counting_at_once_but_for_rounding_of_scores(rows, data):
    cut = data.draw(st.integers(1, len(rows)))
    metas = [meta(i, version=version, assigned=1) for i, (version, _) in enumerate(rows)]
    numbers = [[value, value] for _, value in rows]

    def without_scores(summary: Summary):
        return [(cell.key, cell.rows, cell.columns, cell.latency) for cell in summary.cells]

    whole = tally(batch(metas, numbers), lambda *_: PROFILE)
    parts = [tally(batch(metas[:cut], numbers[:cut]), lambda *_: PROFILE)]
    if cut < len(rows):
        parts.append(tally(batch(metas[cut:], numbers[cut:]), lambda *_: PROFILE))
    both = merge_all("loans", parts)
    assert without_scores(both) == without_scores(whole)
    for one, other in zip(both.cells, whole.cells, strict=True):
        assert one.scores["out.yes"].mean == pytest.approx(other.scores["out.yes"].mean, abs=1e-5)


def test_a_window_takes_its_start_and_not_its_end():
    outcomes = [OutcomeRecord(service="loans", at=at, received_at=9, key="k", value=1.0)
                for at in (AT, AT + MINUTE, AT + 2 * MINUTE)]  # fmt: skip
    summary = tally_outcomes("loans", outcomes)
    assert window(summary, AT, AT + 2 * MINUTE).outcomes == {AT: 1, AT + MINUTE: 1}


@pytest.mark.parametrize("us", [1, 2, 100, 812, 10**6, 60 * 10**6])
def test_a_latency_quantile_is_at_most_19_percent_too_high(us):
    rows = [meta(0, latency_us=us)]
    (cell,) = tally(batch(rows, [1, 1]), no_profiles).cells
    for q in (0.0, 0.5, 1.0):
        assert us / 1000 <= latency_ms(cell.latency, q) <= us / 1000 * 1.1893
    assert math.isnan(latency_ms((0,) * LATENCY_BINS, 0.5))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 100])
def test_the_record_root_is_the_root_of_rfc_6962(count):
    leaves = [hash_leaf(bytes([i])) for i in range(count)]
    frontier = ()
    for size, leaf in enumerate(leaves):
        frontier, _ = grow(frontier, size, leaf)
    assert root_of_leaves(leaves) == root_of(frontier)
