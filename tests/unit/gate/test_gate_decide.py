from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorstep.core.errors import InputError
from doorstep.core.verdict import Finding, Verdict
from doorstep.gate.decide import decide, recompute, verdict_of
from doorstep.gate.rules import is_leak, is_other_unit, judge, rows_needed
from doorstep.gate.types import (
    AgreementEvidence,
    ChampionEvidence,
    ColumnChange,
    DataEvidence,
    Estimate,
    QualityEvidence,
    SizeEvidence,
    SlicesEvidence,
    SpeedEvidence,
    UnmeasuredEvidence,
    Unseen,
)

NEW = Unseen(compared="training data", rows=1000, shared=0, compared_rows=4000, by_chance=0.0)
LEAKED = Unseen(compared="training data", rows=1000, shared=900, compared_rows=4000, by_chance=0.0)


def found(value, low, high, counted=300, least=30) -> Estimate:
    return Estimate(value=value, low=low, high=high, counted=counted, counted_min=least)


def quality(estimate: Estimate, bound: float = 0.75, unseen: Unseen = NEW) -> QualityEvidence:
    return QualityEvidence(
        check="auc >= 0.75",
        metric="auc",
        operator=">=",
        bound=bound,
        found=estimate,
        unseen=unseen,
    )


def against(difference: Estimate, *, slack=0.0, tolerance=None, champion="loans@1"):
    return ChampionEvidence(
        check="auc against champion",
        metric="auc",
        operator=">=",
        slack=slack,
        champion=champion,
        found=found(0.76, 0.73, 0.79),
        of_champion=found(0.78, 0.75, 0.81),
        difference=difference,
        tolerance=tolerance,
        unseen=NEW,
    )


@pytest.mark.parametrize(
    ("estimate", "verdict"),
    [
        (found(0.75, 0.70, 0.80), Verdict.PASS),
        (found(0.7499, 0.70, 0.80), Verdict.INCONCLUSIVE),
        (found(0.70, 0.65, 0.75), Verdict.INCONCLUSIVE),
        (found(0.70, 0.65, 0.7499), Verdict.FAIL),
        (found(0.90, 0.85, 0.95, counted=29), Verdict.INCONCLUSIVE),
        (found(0.90, 0.85, 0.95, counted=30), Verdict.PASS),
        (found(0.10, 0.05, 0.15, counted=29), Verdict.INCONCLUSIVE),
        (found(None, None, None), Verdict.INCONCLUSIVE),
        (found(0.70, 0.65, None), Verdict.INCONCLUSIVE),
    ],
)
def test_a_number_passes_on_its_estimate_and_fails_on_its_whole_interval(
    estimate: Estimate, verdict: Verdict
) -> None:
    assert decide(quality(estimate)).verdict is verdict


def test_inconclusive_says_how_many_rows_would_settle_it() -> None:
    reason = decide(quality(found(0.74, 0.70, 0.78))).reason
    assert reason == (
        "auc 0.740 [0.700, 0.780] on 1,000 held-out rows is below 0.750, but its interval is not; "
        "about 16,000 rows would settle it"
    )


def test_too_few_rows_are_said_with_what_is_needed() -> None:
    answer = decide(quality(found(0.9, 0.8, 1.0, counted=12)))
    assert answer.reason.endswith(": 12 held-out rows, 30 needed")
    assert answer.next == "name more held-out rows under data.holdout, then doorstep register MODEL"


@pytest.mark.parametrize("estimate", [found(0.9, 0.8, 0.95), found(0.7, 0.6, 0.8)])
def test_seen_rows_never_pass(estimate: Estimate) -> None:
    answer = decide(quality(estimate, unseen=LEAKED))
    assert answer.verdict is Verdict.INCONCLUSIVE
    assert answer.reason.startswith("no data that this model has not seen: 900 of 1,000")


def test_failing_on_seen_rows_is_still_failing() -> None:
    assert decide(quality(found(0.5, 0.4, 0.6), unseen=LEAKED)).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("difference", "slack", "verdict"),
    [
        (found(-0.005, -0.02, 0.01), -0.005, Verdict.PASS),
        (found(-0.006, -0.02, 0.01), -0.005, Verdict.INCONCLUSIVE),
        (found(-0.05, -0.09, -0.006), -0.005, Verdict.FAIL),
        (found(-0.05, -0.09, -0.005), -0.005, Verdict.INCONCLUSIVE),
    ],
)
def test_a_written_comparison_is_about_the_paired_difference(difference, slack, verdict) -> None:
    assert decide(against(difference, slack=slack)).verdict is verdict


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (found(-0.01, -0.03, 0.01), Verdict.PASS),
        (found(0.0, -0.05, 0.05), Verdict.PASS),
        (found(0.0, -0.051, 0.051), Verdict.INCONCLUSIVE),
        (found(-0.02, -0.03, -0.01), Verdict.FAIL),
        (found(-0.001, -0.01, 0.008, counted=20), Verdict.INCONCLUSIVE),
    ],
)
def test_the_default_comparison_rules_a_loss_out_or_finds_it(difference, verdict) -> None:
    assert decide(against(difference, tolerance=0.05)).verdict is verdict


def test_a_first_version_has_nobody_to_be_worse_than() -> None:
    nothing = found(None, None, None, 0, 0)
    assert decide(against(nothing, champion="")).verdict is Verdict.PASS


def test_a_fail_names_by_how_much_and_which_column_changed_most() -> None:
    import msgspec

    change = ColumnChange(
        column="credit_amount",
        shift_sd=2.1,
        ks=1.0,
        holdout_p50=2300,
        reference_p50=23,
        scale=100.0,
        range_min=250,
        range_max=20000,
    )
    evidence = msgspec.structs.replace(
        against(found(-0.17, -0.2, -0.13), tolerance=0.05), changed=(change,)
    )
    assert decide(evidence).reason == (
        "auc 0.760 [0.730, 0.790] is below champion 0.780 by 0.170 [0.130, 0.200] on 1,000 "
        "held-out rows; most changed column: credit_amount (contract range [250, 20,000]; held-out "
        "p50 2,300 vs training reference p50 23, 100 times)"
    )


@pytest.mark.parametrize(
    ("scale", "ks", "is_unit"),
    [(100.0, 1.0, True), (0.01, 1.0, True), (10.0, 0.8, True), (9.9, 0.99, False),
     (50.0, 0.79, False), (-1.0, 1.0, False), (None, 1.0, False)],
)  # fmt: skip
def test_another_unit_is_a_factor_of_ten_without_overlap(scale, ks, is_unit) -> None:
    assert is_other_unit(ColumnChange(column="x", ks=ks, scale=scale)) is is_unit


def test_ordinary_drift_of_the_hold_out_is_told_and_not_refused() -> None:
    change = ColumnChange(column="income", shift_sd=0.8, ks=0.4, scale=1.6)
    answer = decide(DataEvidence(check="units", rows=10, reference_rows=10, columns=(change,)))
    assert answer.verdict is Verdict.PASS
    assert "1 of 1 columns differ" in answer.reason


@pytest.mark.parametrize(
    ("shared", "by_chance", "leak"),
    [(0, 0.0, False), (5, 0.0, False), (30, 0.0, True), (300, 0.3, False), (500, 0.3, True)],
)
def test_twins_by_chance_are_no_leak(shared: int, by_chance: float, leak: bool) -> None:
    unseen = Unseen(
        compared="training data", rows=1000, shared=shared, compared_rows=1, by_chance=by_chance
    )
    assert is_leak(unseen) is leak


def test_speed_on_a_noisy_machine_is_inconclusive_between() -> None:
    def verdict(value: float, low: float, counted: int = 500) -> Verdict:
        evidence = SpeedEvidence(
            check="p99 <= 20 ms",
            measure="p99",
            operator="<=",
            bound_ms=20,
            form="onnx",
            ms=found(value, low, None, counted, 100),
        )
        return decide(evidence).verdict

    assert verdict(20, 15) is Verdict.PASS
    assert verdict(21, 20) is Verdict.INCONCLUSIVE
    assert verdict(25, 20.5) is Verdict.FAIL
    assert verdict(1, 0.5, counted=99) is Verdict.INCONCLUSIVE


def test_size_has_two_sides() -> None:
    def one(size: int) -> Finding:
        return decide(
            SizeEvidence(check="size <= 50 MB", operator="<=", bound_bytes=50e6, bytes=size)
        )

    assert one(50_000_000).verdict is Verdict.PASS
    assert one(50_000_001).verdict is Verdict.FAIL
    assert one(51_300_000).reason == "51.3 MB is above 50 MB"
    assert one(812).reason == "812 B"


def test_small_groups_are_named_and_not_passed() -> None:
    evidence = SlicesEvidence(
        check="recall >= 0.5 by purpose",
        metric="recall",
        operator=">=",
        bound=0.5,
        by="purpose",
        rows_min=50,
        groups=(),
        small={"divorced": 38},
        unseen=NEW,
    )
    answer = decide(evidence)
    assert answer.verdict is Verdict.INCONCLUSIVE
    assert "38 rows of 'divorced', 50 needed" in answer.reason


def test_agreement_is_allowed_up_to_its_tolerance() -> None:
    def verdict(difference: float | None) -> Verdict:
        return decide(
            AgreementEvidence(
                check="x", what="alone", rows=9, difference=difference, tolerance=1e-5
            )
        ).verdict

    assert verdict(1e-5) is Verdict.PASS
    assert verdict(1.1e-5) is Verdict.FAIL
    assert verdict(None) is Verdict.INCONCLUSIVE


def test_what_cannot_be_measured_is_inconclusive_unless_the_version_is_to_blame() -> None:
    assert decide(UnmeasuredEvidence(check="x", problem="y")).verdict is Verdict.INCONCLUSIVE
    blamed = UnmeasuredEvidence(check="x", problem="y", is_fault=True)
    assert decide(blamed).verdict is Verdict.FAIL


def test_nothing_measured_is_not_a_pass() -> None:
    assert verdict_of([]) is Verdict.INCONCLUSIVE


def test_evidence_that_was_tampered_with_is_refused() -> None:
    broken = Finding(check="x", verdict=Verdict.PASS, reason="", evidence={"gate": "quality"})
    with pytest.raises(InputError, match="bad-evidence"):
        recompute(broken)


numbers = st.floats(-1, 1, allow_nan=False)


@given(value=numbers, below=st.floats(0, 1), above=st.floats(0, 1), bound=numbers)
@settings(max_examples=200, deadline=None)
def test_more_is_never_judged_worse(value, below, above, bound) -> None:
    order = [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS]
    before = judge(found(value, value - below, value + above), ">=", bound)
    after = judge(found(value + 0.1, value + 0.1 - below, value + 0.1 + above), ">=", bound)
    assert order.index(after) >= order.index(before)


@given(value=numbers, below=st.floats(0, 1), above=st.floats(0, 1), bound=numbers)
@settings(max_examples=200, deadline=None)
def test_losses_are_judged_as_gains_upside_down(value, below, above, bound) -> None:
    gain = judge(found(value, value - below, value + above), ">=", bound)
    loss = judge(found(-value, -value - above, -value + below), "<=", -bound)
    assert gain is loss


def test_error_rates_are_those_of_the_decision_record() -> None:
    """1,000 rows, AUC near 0.78 with a standard error of 0.016: shares of 4,000 simulated gates."""
    generator = np.random.default_rng(7)

    def rates(truth: float) -> dict[Verdict, float]:
        values = generator.normal(truth, 0.016, 4000)
        verdicts = [judge(found(v, v - 1.96 * 0.016, v + 1.96 * 0.016), ">=", 0.75) for v in values]
        return {one: verdicts.count(one) / 4000 for one in Verdict}

    assert rates(0.75)[Verdict.FAIL] == pytest.approx(0.025, abs=0.01)
    assert rates(0.72)[Verdict.PASS] < 0.05
    assert rates(0.70)[Verdict.PASS] < 0.005
    assert rates(0.78)[Verdict.PASS] > 0.95


def test_rows_needed_grows_as_the_gap_closes() -> None:
    near = rows_needed(found(0.745, 0.70, 0.79), ">=", 0.75, 1000)
    far = rows_needed(found(0.72, 0.67, 0.765), ">=", 0.75, 1000)
    assert near is not None
    assert far is not None
    assert near > far > 1000
    assert rows_needed(found(0.75, 0.7, 0.8), ">=", 0.75, 1000) is None
    assert rows_needed(found(math.nan, None, None), ">=", 0.75, 1000) is None
