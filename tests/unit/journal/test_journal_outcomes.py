from hypothesis import given
from hypothesis import strategies as st

from doorstep.core.record import Kind, OutcomeRecord
from fakes.outcome_join import Predicted, join

ONE = "01900000-0000-7000-8000-000000000001.0"
TWO = "01900000-0000-7000-8000-000000000002.0"


def told(at=100, received_at=200, **changes):
    fields = {"service": "loans", "at": at, "received_at": received_at, "value": 1.0} | changes
    return OutcomeRecord(**fields)


def test_an_outcome_by_key_is_about_the_latest_prediction_at_or_before_it():
    predictions = [Predicted(ONE, 50, "k"), Predicted(TWO, 100, "k")]
    assert set(join(predictions, [told(at=99, key="k")]).winning) == {ONE}
    assert set(join(predictions, [told(at=100, key="k")]).winning) == {TWO}
    assert join(predictions, [told(at=49, key="k")]).waiting


def test_shadow_and_rehearsal_records_take_no_outcome():
    predictions = [
        Predicted(ONE, 50, "k"),
        Predicted(TWO, 60, "k", Kind.SHADOW),
        Predicted(TWO, 70, "k", Kind.REHEARSAL),
    ]
    assert set(join(predictions, [told(key="k")]).winning) == {ONE}
    rehearsed = join(predictions, [told(key="k")], kinds=[Kind.REHEARSAL])
    assert set(rehearsed.winning) == {TWO}


def test_the_last_at_wins_then_the_last_received_and_all_are_kept():
    outcomes = [
        told(at=100, received_at=300, prediction=ONE, value=1.0),
        told(at=101, received_at=200, prediction=ONE, value=2.0),
        told(at=101, received_at=201, prediction=ONE, value=3.0),
    ]
    joined = join([Predicted(ONE, 50)], outcomes)
    assert joined.winning[ONE].value == 3.0
    assert [one.value for one in joined.all[ONE]] == [1.0, 2.0, 3.0]


def test_what_is_told_again_was_known_since_it_was_told_first():
    outcomes = [
        told(at=100, received_at=received, prediction=ONE, label=label)
        for received, label in ((200, "no"), (210, "yes"), (300, "no"))
    ]
    found = join([Predicted(ONE, 50)], outcomes).winning[ONE]
    assert (found.label, found.received_at) == ("no", 200)


def test_an_id_matches_without_its_row_and_in_upper_case():
    joined = join([Predicted(ONE, 50)], [told(prediction=ONE[:-2].upper())])
    assert set(joined.winning) == {ONE}


def test_an_outcome_without_a_prediction_waits_and_is_joined_when_it_comes():
    outcome = told(prediction=ONE)
    assert join([], [outcome]).waiting == (outcome,)
    assert join([Predicted(ONE, 50)], [outcome]).waiting == ()


predictions = st.lists(
    st.builds(
        Predicted,
        id=st.integers(0, 9).map(str),
        at=st.integers(0, 9),
        key=st.sampled_from(["a", "b"]),
        kind=st.sampled_from(list(Kind)),
    ),
    max_size=8,
    unique_by=lambda one: one.id,
)
outcomes = st.lists(
    st.builds(
        lambda at, received, key, named, value: told(
            at, received, value=value, **({"key": key} if key else {"prediction": named})
        ),
        st.integers(0, 9),
        st.integers(0, 9),
        st.sampled_from(["a", "b", ""]),
        st.integers(0, 9).map(str),
        st.floats(0, 1),
    ),
    max_size=8,
)


@given(predictions, outcomes, st.randoms())
def test_every_outcome_is_kept_once_and_the_order_of_arrival_does_not_matter(ones, told_, random):
    joined = join(ones, told_)
    kept = [one for several in joined.all.values() for one in several]
    assert len(kept) + len(joined.waiting) == len(told_)
    shuffled = list(told_)
    random.shuffle(shuffled)
    assert join(ones, shuffled).winning == joined.winning
