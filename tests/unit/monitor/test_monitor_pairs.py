from __future__ import annotations

import msgspec
import numpy as np
from monitor_cases import HOUR, T0, facts_of, reference_of, rows_of

from doorstep.core.manifest import PairProfile, Profile
from doorstep.core.record import Column, Layout, PredictionMeta
from doorstep.journal.columns import batch_of
from doorstep.journal.reader import Group
from doorstep.journal.summary import (
    Counted,
    Summary,
    coarsen,
    decode_summary,
    encode_summary,
    merge,
)
from doorstep.journal.tally import tally
from doorstep.monitor.decide import evaluate
from doorstep.monitor.drift import drift_subjects
from doorstep.monitor.facts import drift_window
from doorstep.monitor.pairs import SUBJECT
from doorstep.stats.codes import code_numbers
from doorstep.stats.pairs import score_table, spreads

NUMBERS = ("income", "amount", "age", "children", "rate", "tail", "balance", "tenure")


def together(generator: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """Rows in which the amount follows the income."""
    found = rows_of(generator, rows)
    found["amount"] = found["income"] * 0.5 + generator.normal(0, 300, rows)
    return found


def with_pairs(columns: dict[str, np.ndarray]) -> Profile:
    profile = reference_of(columns)
    chosen = [one for one in profile.columns if one.name in NUMBERS]
    codes = [code_numbers(columns[one.name], one.edges) for one in chosen]
    scores = np.column_stack([score_table(a.counts)[b] for a, b in zip(chosen, codes, strict=True)])
    r, spread = (tuple(np.nan_to_num(one).tolist()) for one in spreads(scores))
    names = tuple(one.name for one in chosen)
    pairs = PairProfile(columns=names, correlations=r, spreads=spread)
    return msgspec.structs.replace(profile, pairs=pairs)


REFERENCE = with_pairs(together(np.random.default_rng(0), 20_000))


def recorded(columns: dict[str, np.ndarray], at: int = T0, profile: Profile = REFERENCE) -> Summary:
    """What the journal keeps of rows with these numbers."""
    names = [name for name in columns if name in NUMBERS or name[:4] == "out."]
    numbers = tuple(Column(one if "." in one else f"in.{one}", "float") for one in names)
    layout = Layout(format=1, service="loans", numbers=numbers, texts=())
    count = len(columns[names[0]])
    rows = [
        PredictionMeta(
            bytes(16), 0, at + i * 1000, 2, 2, 0, 0, "", 0, 0.0, "", "k", "u", 1, (), ()
        )
        for i in range(count)
    ]  # fmt: skip
    matrix = np.column_stack([columns[name] for name in names])
    batch = batch_of([Group(layout, rows, memoryview(matrix.tobytes()))], [0], hashed=False)
    return tally(batch, lambda _service, _version: profile)


def test_an_answer_that_is_called_as_a_column_is_none() -> None:
    columns = together(np.random.default_rng(7), 500)
    (income,) = (one for one in REFERENCE.columns if one.name == "income")
    profile = msgspec.structs.replace(REFERENCE, scores=(income,))
    found = recorded(columns | {"out.income": columns["age"]}, profile=profile)
    assert "out.income" in found.cells[0].columns
    assert [one.pairs for one in found.cells] == [one.pairs for one in recorded(columns).cells]


def seen(summary: Summary):
    kept = decode_summary(encode_summary(coarsen(summary, 3600)))
    facts = facts_of(REFERENCE, drift_window(kept, 2, T0, T0 + HOUR))
    return [one for one in evaluate(facts, T0 + HOUR) if one.kind == "drift"]


def scrambled(rows: int = 2000) -> dict[str, np.ndarray]:
    columns = together(np.random.default_rng(1), rows)
    columns["amount"] = np.random.default_rng(2).permutation(columns["amount"])
    return columns


def test_columns_that_no_longer_go_together_are_found_although_each_looks_as_before() -> None:
    (found,) = seen(recorded(scrambled()))
    assert (found.subject, found.severity) == (SUBJECT, "critical")
    assert found.sentence.startswith(
        "income and amount go together otherwise than in training: correlation "
    )
    assert "2,000 requests in 1 h" in found.sentence
    assert ("drift", SUBJECT) in {
        ("drift", one) for one in drift_subjects(facts_of(REFERENCE, None))
    }


def test_a_window_in_many_parts_is_judged_as_one() -> None:
    columns = scrambled()
    cuts = [slice(start, start + 300) for start in range(0, 2000, 300)]
    parts = [
        recorded({name: one[cut] for name, one in columns.items()}, T0 + cut.start * 1000)
        for cut in cuts
    ]
    whole = parts[0]
    for one in parts[1:]:
        whole = merge(one, whole)
    assert seen(whole) == seen(recorded(columns))


def test_traffic_as_in_training_goes_together_as_in_training() -> None:
    generator = np.random.default_rng(3)
    found = [seen(recorded(together(generator, 500))) for _ in range(40)]
    assert sum(any(one.subject == SUBJECT for one in window) for window in found) <= 1


def test_a_column_that_has_drifted_itself_says_nothing_of_its_pairs() -> None:
    columns = together(np.random.default_rng(5), 5000)
    columns["amount"] = np.full(5000, 4000.0)
    assert {one.subject for one in seen(recorded(columns))} == {"amount"}


def test_a_window_of_which_only_a_part_has_pairs_is_not_judged_by_them() -> None:
    """As the day on which summaries began to have them."""
    with_them = recorded(scrambled())
    old = recorded(together(np.random.default_rng(6), 2000), T0 + 1_000_000_000)
    cells = tuple(msgspec.structs.replace(one, pairs=type(one.pairs)()) for one in old.cells)
    old = msgspec.structs.replace(old, cells=cells)
    assert SUBJECT not in {one.subject for one in seen(merge(with_them, old))}
    assert SUBJECT in {one.subject for one in seen(with_them)}


def test_records_without_inputs_leave_the_pairs_of_the_others_as_they_are() -> None:
    bare = recorded(scrambled())
    cells = tuple(
        msgspec.structs.replace(one, counted=Counted(), pairs=type(one.pairs)())
        for one in bare.cells
    )
    bare = msgspec.structs.replace(bare, cells=cells)
    assert [one.subject for one in seen(merge(recorded(scrambled()), bare))] == [SUBJECT]
