from __future__ import annotations

import msgspec
import numpy as np
import pytest
from gate_cases import Logistic, profile_of, rows_of

from doorstep.core.condition import parse_condition
from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError
from doorstep.core.servicefile_types import GatesSpec, SliceSpec
from doorstep.core.verdict import Verdict
from doorstep.formats.columns import Table
from doorstep.formats.table import write_parquet
from doorstep.gate.child import decode_request, findings_of
from doorstep.gate.decide import recompute, verdict_of
from doorstep.gate.types import Candidate, GateRequest
from fakes.tables import column_of

NOBODY = Candidate(name="loans@2", folder="", digest="")


def conditions(*texts):
    return tuple(map(parse_condition, texts))


def by_check(findings):
    return {one.check: one for one in findings}


def test_a_sound_first_version_passes_every_default_gate(make_subject, holdout) -> None:
    subject = make_subject(Logistic(), profile_of(rows_of(1, 2000)), seen=4)
    found = findings_of(GateRequest(version=NOBODY, holdout=holdout), subject, None)
    assert verdict_of(found) is Verdict.PASS, [one.reason for one in found]
    assert "no champion" in by_check(found)["auc not worse than champion"].reason
    assert "as chance would have it" in by_check(found)["the hold-out is new to the model"].reason


def test_every_verdict_is_recomputed_from_its_stored_evidence(make_subject, holdout) -> None:
    request = GateRequest(
        version=NOBODY,
        holdout=holdout,
        gates=GatesSpec(
            quality=conditions(
                "auc >= 0.75", "auc >= champion - 0.005", "log_loss <= 0.1", "ndcg >= 0.1"
            ),
            slices=(SliceSpec(check=parse_condition("recall >= 0.5"), by=("sex",)),),
            fairness=conditions("selection_rate_ratio >= 0.8", "accuracy_difference <= 0.1"),
            speed=conditions("p99 <= 20 ms", "size <= 50 MB", "mean <= 1 s"),
        ),
        favourable="good",
    )
    subject = make_subject(Logistic(noise=2), profile_of(rows_of(1, 2000)))
    found = findings_of(request, subject, make_subject(Logistic(), name="loans@1"))
    stored = msgspec.json.decode(msgspec.json.encode(found), type=list[type(found[0])])
    assert [recompute(one) for one in stored] == found
    assert {one.verdict for one in found} == set(Verdict)


def test_a_version_trained_with_a_column_in_the_wrong_unit_fails_and_is_told_why(
    make_subject, holdout
) -> None:
    wrong = make_subject(Logistic(amount_unit=100), profile_of(rows_of(1, 2000), 0.01))
    champion = make_subject(Logistic(), profile_of(rows_of(1, 2000)), "loans@1")
    found = by_check(findings_of(GateRequest(version=NOBODY, holdout=holdout), wrong, champion))
    worse = found["auc not worse than champion"]
    assert worse.verdict is Verdict.FAIL
    assert "below champion" in worse.reason
    assert "most changed column: credit_amount" in worse.reason
    assert "contract range [250, 20,000]" in worse.reason
    unit = found["the hold-out is in the units of training"]
    assert unit.verdict is Verdict.FAIL
    assert "97 times" in unit.reason


def test_a_version_as_good_as_the_champion_is_not_worse(make_subject, holdout) -> None:
    subject = make_subject(Logistic(noise=0.1), profile_of(rows_of(1, 2000)))
    champion = make_subject(Logistic(), name="loans@1")
    found = findings_of(GateRequest(version=NOBODY, holdout=holdout), subject, champion)
    assert verdict_of(found) is Verdict.PASS, [one.reason for one in found]


def test_quality_never_passes_on_rows_that_the_model_has_seen(make_subject, train) -> None:
    subject = make_subject(Logistic(), profile_of(rows_of(1, 2000)))
    found = by_check(findings_of(GateRequest(version=NOBODY, holdout=train), subject, None))
    assert found["auc > 0.5"].verdict is Verdict.INCONCLUSIVE
    assert "no data that this model has not seen" in found["auc > 0.5"].reason
    assert "the file that this version was trained on" in found["auc > 0.5"].reason


def test_shared_rows_that_register_counted_are_no_held_out_rows(make_subject, holdout) -> None:
    request = GateRequest(version=NOBODY, holdout=holdout)
    found = by_check(findings_of(request, make_subject(Logistic(), seen=500), None))
    assert "500 of 800" in found["the hold-out is new to the model"].reason
    assert found["auc > 0.5"].verdict is Verdict.INCONCLUSIVE


def test_a_version_that_raises_fails_with_the_row(make_subject, holdout) -> None:
    class Touchy(Logistic):
        def score(self, batch):
            if (batch.numbers[:, 0] > 12_000).any():
                raise ValueError("too much money")
            return super().score(batch)

    found = findings_of(GateRequest(version=NOBODY, holdout=holdout), make_subject(Touchy()), None)
    assert verdict_of(found) is Verdict.FAIL
    amounts = rows_of(2, 800).column("credit_amount").as_numbers()
    row = int(np.argmax(amounts > 12_000)) + 1
    assert f"ValueError: too much money at held-out row {row} of 800" in found[-1].reason


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s * np.nan, "not a number"),
        (lambda s: s * 2, "outside 0 to 1"),
        (lambda s: s * 0.5, "sum to 1"),
        (lambda s: np.full_like(s, 0.5), "the same answer"),
        (lambda s: s[:, :1], "1 scores a row, the manifest says 2"),
    ],
)
def test_answers_that_make_no_sense_fail(make_subject, holdout, change, says) -> None:
    class Odd(Logistic):
        def score(self, batch):
            return change(super().score(batch))

    found = findings_of(GateRequest(version=NOBODY, holdout=holdout), make_subject(Odd()), None)
    sane = by_check(found)["answers are sane"]
    assert sane.verdict is Verdict.FAIL
    assert says in sane.reason


def test_a_version_that_answers_by_the_day_or_by_its_company_fails(make_subject, holdout) -> None:
    class Moody(Logistic):
        calls = 0

        def score(self, batch):
            self.calls += 1
            return super().score(batch) + self.calls * 1e-4

    class Social(Logistic):
        def score(self, batch):
            return super().score(batch) * (1 - 0.001 * (batch.rows > 1))

    moody = by_check(
        findings_of(GateRequest(version=NOBODY, holdout=holdout), make_subject(Moody()), None)
    )
    assert moody["the same row gets the same answer"].verdict is Verdict.FAIL
    social = by_check(
        findings_of(GateRequest(version=NOBODY, holdout=holdout), make_subject(Social()), None)
    )
    assert social["the same row gets the same answer"].verdict is Verdict.PASS
    alone = social["a row alone gets the answer that it gets in a batch"]
    assert alone.verdict is Verdict.FAIL


def test_callers_of_the_service_must_not_notice(make_subject, holdout) -> None:
    promised = Contract(inputs=(Field(name="credit_amount", type="float"),))
    request = GateRequest(version=NOBODY, holdout=holdout, promised=promised)
    found = by_check(findings_of(request, make_subject(Logistic()), None))
    schema = found["schema: callers of the service file"]
    assert schema.verdict is Verdict.FAIL
    assert "'duration' is required, and callers do not send it" in schema.reason


def test_without_a_hold_out_nothing_is_known(make_subject) -> None:
    found = findings_of(GateRequest(version=NOBODY), make_subject(Logistic()), None)
    assert verdict_of(found) is Verdict.INCONCLUSIVE
    assert found[-1].next == "name it under data.holdout of the service file"


def test_a_champion_that_cannot_read_the_rows_is_inconclusive(make_subject, holdout) -> None:
    class Broken:
        def score(self, batch):
            raise KeyError("gone")

    champion = make_subject(Broken(), name="loans@1")
    found = by_check(
        findings_of(
            GateRequest(version=NOBODY, holdout=holdout), make_subject(Logistic()), champion
        )
    )
    assert found["auc not worse than champion"].verdict is Verdict.INCONCLUSIVE
    assert "KeyError" in found["auc not worse than champion"].reason


class Unfair(Logistic):
    """Refuses ("bad") a share of the rows, whoever they are of; the table says of whom."""

    def score(self, batch):
        bad = np.where(batch.numbers[:, 1] > 24, 0.9, 0.1)
        return np.column_stack([bad, 1 - bad])


def discriminating_rows(tmp_path, *, refused_f: float, refused_m: float) -> str:
    """2,000 rows of which those of `f` and `m` are refused by `Unfair` in these shares."""
    table = rows_of(2, 2000)
    is_f = np.array([one == "f" for one in table.column("sex").as_texts()])
    draws = np.random.default_rng(4).random(2000)
    refused = np.where(is_f, draws < refused_f, draws < refused_m)
    duration = column_of("duration", np.where(refused, 36, 12), "int")
    path = tmp_path / "unfair.parquet"
    columns = tuple(duration if one.name == "duration" else one for one in table.columns)
    write_parquet(Table(columns, 2000), path)
    return str(path)


FAIR = GatesSpec(fairness=conditions("selection_rate_ratio >= 0.8"))


def fairness_of(make_subject, path: str, favourable: str):
    request = GateRequest(version=NOBODY, holdout=path, gates=FAIR, favourable=favourable)
    found = findings_of(request, make_subject(Unfair()), None)
    return next(one for one in found if one.check.startswith("selection_rate_ratio"))


def test_gross_discrimination_fails_where_the_positive_label_is_the_bad_news(
    make_subject, tmp_path
) -> None:
    """f are refused far more often: counted by refusals, they would be the best treated group."""
    path = discriminating_rows(tmp_path, refused_f=0.8, refused_m=0.3)
    found = fairness_of(make_subject, path, "good")
    assert found.verdict is Verdict.FAIL
    assert "share answered 'good' by sex, against 'm'" in found.reason
    assert "'f' 0.2" in found.reason


def test_equal_chances_pass_however_rare_the_bad_news_is(make_subject, tmp_path) -> None:
    path = discriminating_rows(tmp_path, refused_f=0.02, refused_m=0.04)
    assert fairness_of(make_subject, path, "good").verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("favourable", "says"),
    [("", "model.favourable is not set: which of 'bad', 'good'"), ("fine", "is 'fine', which")],
)
def test_who_is_selected_is_never_guessed(make_subject, holdout, favourable, says) -> None:
    found = fairness_of(make_subject, holdout, favourable)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert says in found.reason
    assert found.next == "write model.favourable in the service file"


def test_labels_that_the_version_does_not_know_are_refused(make_subject, tmp_path) -> None:
    table = rows_of(2, 50)
    strange = Table((*table.columns[:3], column_of("risk", ["odd"] * 50, "text")), 50)
    path = tmp_path / "strange.parquet"
    write_parquet(strange, path)
    with pytest.raises(InputError, match="odd"):
        findings_of(GateRequest(version=NOBODY, holdout=str(path)), make_subject(Logistic()), None)


@pytest.mark.parametrize("request_bytes", [b"", b"{}", b'{"version": 1}', b"[1,"])
def test_a_request_that_is_none_is_refused(request_bytes: bytes) -> None:
    with pytest.raises(InputError, match="bad-gate-request"):
        decode_request(request_bytes)
