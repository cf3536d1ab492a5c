"""The service file: what is read, what is refused and how, what is explained and written.

A refusal is a pair of files in tests/golden/servicefile/refused: NAME.yaml and the message that it
must give, NAME.txt. Every file in tests/golden/servicefile/valid must parse.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from doorstep.core.condition import parse_condition
from doorstep.core.errors import InputError
from doorstep.core.filekeys import PROBLEMS_MAX, credential_in
from doorstep.core.filereaders import Group, keys_of
from doorstep.core.filewords import show_duration, show_share
from doorstep.core.instant import parse_duration_s
from doorstep.core.servicefile import (
    HINT,
    ROOT,
    ServiceFile,
    parse_service_file,
    read_service_file,
    stored_service_file,
)
from doorstep.core.servicefile_explain import advice, explain, thin_keys
from doorstep.core.servicefile_people import Approval, ReviewRule
from doorstep.core.servicefile_running import (
    MARGINS,
    STEP_SHARES,
    FallbackSpec,
    Guardrail,
    RecordSpec,
    ReleaseSpec,
)
from doorstep.core.servicefile_schema import schema_text, service_file_schema
from doorstep.core.servicefile_types import FieldSpec, SecretRef
from doorstep.core.servicefile_write import Draft, render_service_file
from doorstep.core.yamlwrite import flow, quoted
from fakes.yaml_plain import parse_yaml, to_plain

HERE = Path(__file__).resolve().parents[2]
GOLDEN = HERE / "golden" / "servicefile"
PUBLISHED = HERE.parent / "docs" / "reference" / "doorstep.schema.json"
REFUSED = sorted((GOLDEN / "refused").glob("*.yaml"))
VALID = sorted((GOLDEN / "valid").glob("*.yaml"))
SMALLEST = "service: loans\nmodel: {label: default}\ndata: {holdout: test.csv}\n"
FULL = (GOLDEN / "valid" / "full.yaml").read_text()


def plain_of(service_file: ServiceFile) -> dict[str, Any]:
    """The file as plain values: what differs from the defaults of every tier, and what the tier
    set. Written as YAML it reads back to the same service file, without `environments`."""
    plain: dict[str, Any] = ROOT.show(service_file)
    plain.pop("environments", None)
    whole = {"people": service_file.approve.people}
    review = ROOT.keys["review"].reads.show(service_file.review)
    keep = ROOT.keys["privacy"].reads.show(service_file.privacy)
    return {**plain, "approve": whole, "review": review, "privacy": {"keep": "400d", **keep}}


def read(more: str = "", environment: str | None = None) -> ServiceFile:
    return parse_service_file(SMALLEST + more, environment=environment)


def refusal(more: str) -> str:
    with pytest.raises(InputError) as caught:
        read(more)
    assert caught.value.code == "bad-service-file"
    return caught.value.message


# --- golden files -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_a_refused_file_gives_the_message_beside_it(path: Path) -> None:
    with pytest.raises(InputError) as caught:
        parse_service_file(path.read_bytes(), path.name)
    assert caught.value.message + "\n" == path.with_suffix(".txt").read_text()
    assert (caught.value.code, caught.value.hint) == ("bad-service-file", HINT)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_file_is_read_in_every_environment(path: Path) -> None:
    found = parse_service_file(path.read_bytes(), path.name)
    for environment in found.environments:
        assert parse_service_file(path.read_text(), environment=environment).service


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_file_reads_back_from_its_plain_values(path: Path) -> None:
    found = parse_service_file(path.read_text())
    again = parse_service_file(flow(plain_of(found)))
    assert same_values(again, found)


def same_values(one: ServiceFile, other: ServiceFile) -> bool:
    def bare(file: ServiceFile) -> ServiceFile:
        return msgspec.structs.replace(file, written=(), environments=(), environment="")

    return bare(one) == bare(other)


# --- defaults -----------------------------------------------------------------------------------


def test_the_smallest_file_has_every_default() -> None:
    found = read()
    assert (found.service, found.model.label, found.data.holdout.path) == (
        "loans",
        "default",
        "test.csv",
    )
    assert (found.format, found.risk, found.contract.enforce) == (1, "low", "warn")
    assert found.serve.fallback == (FallbackSpec(kind="champion"),)


def test_the_release_defaults_are_those_that_were_measured() -> None:
    release = read().release
    assert release.steps == ()
    assert STEP_SHARES == (0.01, 0.05, 0.25, 0.5)
    assert release.dwell_s == (300.0, 600.0, 600.0, 600.0)
    assert (release.bake_s, release.holdback, release.alpha) == (3600.0, 0.05, 0.05)
    assert (release.deadline.after_s, release.deadline.then) == (36000.0, "rollback")
    assert release.guardrails == (
        Guardrail(name="errors", tolerance=1.1, margins=(5.0, 3.0, 2.0, 1.5), ceiling=0.01),
    )
    assert release.shadow.requests == 1000


def test_the_demo_can_shorten_everything_and_alpha_stays() -> None:
    release = parse_service_file((GOLDEN / "valid" / "demo.yaml").read_text()).release
    assert (release.dwell_s, release.bake_s, release.shadow.requests) == ((2.0,), 3.0, 200)
    assert release.steps == (0.05, 0.25, 0.5)
    assert release.alpha == 0.05


@pytest.mark.parametrize(
    ("risk", "people", "rules", "days"),
    [("low", 0, 0, 400), ("medium", 1, 1, 400), ("high", 2, 2, 800)],
)
def test_the_risk_tier_sets_approval_review_and_retention(
    risk: str, people: int, rules: int, days: int
) -> None:
    found = read(f"risk: {risk}\n")
    assert found.approve == Approval(people=people)
    assert len(found.review) == rules
    assert found.privacy.keep_s == days * 86400


def test_what_the_file_says_wins_over_the_risk_tier() -> None:
    found = read("risk: high\napprove: none\nreview: []\nprivacy: {keep: 30d}\n")
    assert (found.approve.people, found.review, found.privacy.keep_s) == (0, (), 30 * 86400)
    assert same_values(parse_service_file(flow(plain_of(found))), found)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("approve: {role: chief}", "approve.role: is no key any more: nothing acted on it"),
        ("retrain: {approve: person}", "retrain.approve: is no key any more: nothing acted on it"),
        ("environments: {local: {approve: {role: chief}}}", "approve.role: is no key any more"),
    ],
)
def test_a_key_that_did_nothing_is_refused_and_read_where_it_was_applied(
    gone: str, said: str
) -> None:
    text = f"{SMALLEST}risk: high\n{gone}\n"
    with pytest.raises(InputError, match=re.escape(said)):
        parse_service_file(text, environment="local")
    assert stored_service_file(text, "local").approve == Approval(people=2)


def test_a_task_without_confidence_is_reviewed_at_random_only() -> None:
    found = parse_service_file(
        "service: rent\nrisk: high\nmodel: {label: rent, task: regression}\ndata: {holdout: a.csv}"
    )
    assert found.review == (ReviewRule(sample=0.01),)


def test_a_guardrail_has_the_defaults_of_its_kind() -> None:
    rails = read("release: {guardrails: [latency, quality, {name: fairness, tolerance: 0.1}]}\n")
    assert rails.release.guardrails == (
        Guardrail(name="latency", tolerance=1.1, margins=MARGINS),
        Guardrail(name="quality", tolerance=0.0, margins=(0.005,)),
        Guardrail(name="fairness", tolerance=0.1, margins=(0.1,)),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("guardrails: [conversion]", "conversion is a metric without outcomes"),
        ("guardrails: [{name: errors, loss: brier}]", "is for quality; errors has none"),
        ("guardrails: [{name: quality, tolerance: 0.1, margins: 0.05}]", "is below the tolerance"),
        ("experiment: {metric: revenue}", "revenue is a metric without outcomes"),
        ("{experiment: {metric: errors}, steps: [5%]}", "has one step for everybody"),
    ],
)
def test_a_metric_that_could_never_be_decided_is_refused(text: str, said: str) -> None:
    assert said in refusal(f"release: {text if text[0] == '{' else '{' + text + '}'}\n")


def test_an_experiment_outlasts_its_outcomes() -> None:
    experiment = "release: {experiment: {metric: revenue, for: 1d}}\n"
    text = f"monitor: {{outcomes: {{delay: 2d}}}}\n{experiment}"
    assert "no outcome would ever count" in refusal(text)
    assert "expected monitor.outcomes.unit" in refusal(text)


def test_the_last_margin_belongs_to_the_last_step() -> None:
    rail = Guardrail(name="errors")
    assert [rail.margin_at(step, 4) for step in range(4)] == [5.0, 3.0, 2.0, 1.5]
    assert [rail.margin_at(step, 1) for step in range(1)] == [1.5]
    assert [rail.margin_at(step, 6) for step in range(6)] == [5.0, 5.0, 5.0, 3.0, 2.0, 1.5]


def test_one_dwell_is_for_every_step() -> None:
    assert [ReleaseSpec(dwell_s=(2.0,)).dwell_s_at(step, 3) for step in range(3)] == [2.0] * 3
    assert [ReleaseSpec().dwell_s_at(step, 2) for step in range(2)] == [600.0, 600.0]


# --- values -------------------------------------------------------------------------------------


def test_text_is_kept_as_text() -> None:
    found = parse_service_file((GOLDEN / "valid" / "text-kept.yaml").read_text())
    assert (found.model.label, found.model.positive) == ("on", "no")
    assert found.data.holdout.path == "2026-01-01"
    assert found.runtime.python == "3.10"
    assert found.contract.inputs["no"].values == (
        *("no", "007", "12:30", "true", "null", "~", "", "1.0"),
    )
    assert found.contract.inputs["y"] == FieldSpec(type="category")
    assert found.release.waves[0].match == {"store": ("007", "3"), "region": ("no",)}
    assert found.serve.fallback[1].answer == "007"


@pytest.mark.parametrize(
    ("written", "answer"),
    [("5", 5.0), ("0.25", 0.25), ("'5'", "5"), ("refer", "refer"), ("05", "05"), ("true", "true")],
)
def test_an_answer_is_a_number_only_if_it_is_written_as_one(
    written: str, answer: str | float
) -> None:
    found = read(f"serve: {{fallback: [{{answer: {written}}}]}}\n").serve.fallback[0].answer
    assert (found, type(found)) == (answer, type(answer))


@pytest.mark.parametrize(
    ("written", "record"),
    [
        ("full", RecordSpec()),
        ("no-inputs", RecordSpec("no-inputs")),
        ("sample 10%", RecordSpec("sample", 0.1)),
        ("sample 0.1", RecordSpec("sample", 0.1)),
    ],
)
def test_record_says_what_the_journal_keeps(written: str, record: RecordSpec) -> None:
    assert read(f"serve: {{record: {written}}}\n").serve.record == record


@pytest.mark.parametrize("written", ["sample", "sample 0%", "sample 100%", "sample 200%", "none"])
def test_a_sample_is_more_than_nothing_and_less_than_all(written: str) -> None:
    assert "serve.record" in refusal(f"serve: {{record: {written}}}\n")


@pytest.mark.parametrize(
    ("written", "share"), [("5%", 0.05), ("0.05", 0.05), ("99.9%", 0.999), ("100%", 1.0)]
)
def test_a_share_is_a_percentage_or_a_fraction(written: str, share: float) -> None:
    assert read(f"release: {{steps: [{written}]}}\n").release.steps == (share,)


@pytest.mark.parametrize("written", ["5", "1", "101%", "-5%", "five", "'5'", "0%", ".nan", "true"])
def test_a_number_that_could_be_either_is_no_share(written: str) -> None:
    assert "release.steps[0]" in refusal(f"release: {{steps: [{written}]}}\n")


def test_an_open_side_of_a_range_is_null() -> None:
    found = read("contract: {inputs: {age: {type: int, range: [18, null]}}}\n")
    assert found.contract.inputs["age"].range == (18.0, None)


@pytest.mark.parametrize("written", ["[.nan, 1]", "[0, .inf]", "[1]", "[true, 2]", "['1', 2]"])
def test_a_range_is_two_finite_numbers(written: str) -> None:
    more = f"contract: {{inputs: {{age: {{type: int, range: {written}}}}}}}\n"
    assert "contract.inputs.age.range" in refusal(more)


@pytest.mark.parametrize("schedule", ["0 3 * * 1", "*/15 * * * *", "0,30 9-17 1 */2 1-5"])
def test_schedules(schedule: str) -> None:
    found = read(f'retrain: {{when: [{{schedule: "{schedule}"}}]}}\n')
    assert found.retrain.when[0].schedule == schedule


@pytest.mark.parametrize(
    "schedule", ["* * * *", "60 * * * *", "* 24 * * *", "*/0 * * * *", "a b c d e"]
)
def test_what_is_no_schedule(schedule: str) -> None:
    assert "retrain.when[0].schedule" in refusal(
        f'retrain: {{when: [{{schedule: "{schedule}"}}]}}\n'
    )


@given(st.floats(min_value=0.001, max_value=1e8))
def test_a_duration_is_shown_so_that_it_reads_back(seconds: float) -> None:
    assert parse_duration_s(show_duration(seconds)) == seconds


@given(st.floats(min_value=0.0, max_value=1.0))
def test_a_share_is_shown_so_that_it_reads_back(fraction: float) -> None:
    more = f"release: {{holdback: {show_share(fraction)}}}\n"
    if fraction <= 0.5 and len(show_share(fraction)) <= 18:
        assert read(more).release.holdback == fraction


# --- the page for people ------------------------------------------------------------------------

PAGE = (HERE.parent / "docs" / "concepts" / "service-file.md").read_text()


def blocks(language: str) -> list[str]:
    return [part.split("```")[0] for part in PAGE.split(f"```{language}\n")[1:]]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_the_examples_of_the_page_are_read_in_every_environment(text: str) -> None:
    for environment in (None, *parse_service_file(text).environments):
        assert parse_service_file(text, environment=environment)


def test_the_defaults_on_the_page_are_those_of_the_code() -> None:
    rows = [f"{row.path:24} {row.value:24}  {row.why}".rstrip() for row in explain(read())]
    assert blocks("text")[-1].splitlines() == rows


# --- several at once ----------------------------------------------------------------------------


def test_an_environment_changes_only_what_it_names() -> None:
    staging = parse_service_file(FULL, environment="staging")
    plain = parse_service_file(FULL)
    assert (staging.release.steps, staging.release.bake_s) == ((1.0,), 600.0)
    assert staging.release.guardrails == plain.release.guardrails
    assert staging.environment == "staging"
    assert parse_service_file(FULL, environment="production").approve == Approval(people=2)


def test_an_environment_that_the_file_does_not_name_has_no_differences() -> None:
    assert same_values(parse_service_file(FULL, environment="lab"), parse_service_file(FULL))


def test_the_differences_of_every_environment_are_checked() -> None:
    message = refusal("environments: {staging: {release: {bake: soon}}}\n")
    assert "4:42: release.bake: found soon" in message


def test_a_problem_is_reported_once_however_many_environments_there_are() -> None:
    message = refusal("risk: hihg\nenvironments: {a: {purpose: x}, b: {purpose: y}}\n")
    assert message.count("risk:") == 1


def test_no_more_problems_are_listed_than_a_person_reads() -> None:
    found, problems = read_service_file(SMALLEST + "".join(f"key{i}: 1\n" for i in range(500)))
    assert len(problems) == PROBLEMS_MAX
    assert found is not None


def test_a_problem_carries_its_place() -> None:
    _, problems = read_service_file(SMALLEST + "risk: hihg\n")
    assert [(one.line, one.column, one.path) for one in problems] == [(4, 7, "risk")]


# --- secrets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "AKIAABCDEFGHIJKLMNOP",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "postgresql://me:hunter22@db/loans",
        "https://hooks.slack.com/services/T00/B00/abcdefgh",
        "https://example.org/hook?token=abc",
        "password=correct-horse",
        "sk-proj-abcd1234abcd1234abcd",
        "Bearer abcdefghijklmnopqrstu",
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
)
def test_a_credential_is_refused_and_never_repeated(text: str) -> None:
    assert credential_in(text)
    for more in (f"purpose: '{text}'\n", f"risk: '{text}'\n", f"release: {{'{text}': 1}}\n"):
        message = refusal(more)
        assert "looks like" in message
        assert text not in message


@pytest.mark.parametrize(
    "text",
    [
        "Predict the token class of a password",
        "https://example.org/hook",
        "s3://bucket/data.parquet",
        "sk-telecom-subscriber-group",
        "secret: a sentence about secrets",
        "eyJ is how they begin",
    ],
)
def test_ordinary_text_is_no_credential(text: str) -> None:
    assert not credential_in(text)


def test_a_secret_is_a_name() -> None:
    found = read("alert: [{to: webhook, url: {secret: CHAT_WEBHOOK}}]\n")
    assert found.alert[0].url == SecretRef("CHAT_WEBHOOK")


# --- explain, thin keys, advice -----------------------------------------------------------------


def test_every_key_is_explained_with_its_source_and_reason() -> None:
    rows = {row.path: row for row in explain(read())}
    assert rows["service"].source == "file"
    assert (rows["release.bake"].value, rows["release.bake"].source) == ("1h", "default")
    assert all(row.why for row in rows.values() if row.source == "default")
    assert rows["serve.cache"].value == "none"


def test_every_declared_key_is_explained() -> None:
    def paths(group: Group, path: str) -> list[str]:
        out = []
        for key in keys_of(group.type).values():
            where = f"{path}{key.name}"
            inner = paths(key.reads, f"{where}.") if isinstance(key.reads, Group) else [where]
            out += inner
        return out

    explained = {row.path for row in explain(read())}
    missing = [path for path in paths(ROOT, "") if path not in explained]
    here = [path for path in missing if not path.startswith(("watch.", "release.experiment."))]
    assert here == ["data.train.path", "data.train.sql", "data.train.connection"]
    test = "release: {experiment: {metric: errors}}"
    watched = parse_service_file(f"service: x\nmodel: {{label: y}}\nwatch: {{time: at}}\n{test}\n")
    assert set(missing) - set(here) <= {row.path for row in explain(watched)}


def test_a_file_without_data_is_one_of_a_service_that_is_watched() -> None:
    text = "service: x\nmodel: {label: y}\n"
    assert parse_service_file(f"{text}watch: {{time: at}}\n").data is None
    with pytest.raises(InputError, match=r"data\.holdout: missing"):
        parse_service_file(text)
    with pytest.raises(InputError, match=r"scores: found \{a: b\}: says what score says"):
        parse_service_file(f"{text}watch: {{score: p, scores: {{a: b}}}}\n")


def test_a_key_of_the_file_is_explained_as_such() -> None:
    rows = {row.path: row for row in explain(parse_service_file(FULL))}
    assert rows["review[1].within"].value == "4h"
    assert rows["release.guardrails[2].tolerance"].source == "default"
    assert rows["contract.inputs.duration.range"].value == "[1, 120]"
    assert rows["alert[0].url"].value == "{secret: CHAT_WEBHOOK}"


def test_every_key_says_what_it_promises_and_why_its_default_is_so() -> None:
    def check(group: type[msgspec.Struct], seen: set[type]) -> None:
        if group in seen:
            return
        seen.add(group)
        for key in keys_of(group).values():
            assert key.about, key.name
            is_group = isinstance(key.reads, Group)
            assert key.default is msgspec.UNSET or key.why or is_group, (group, key.name)
            inner = key.reads if is_group else getattr(key.reads, "item", None)
            if isinstance(inner, Group):
                check(inner.type, seen)

    check(ServiceFile, set())


def test_what_this_release_does_not_do_yet_is_said() -> None:
    thin = dict(thin_keys(parse_service_file(FULL)))
    assert {"alert[0].to", "review"} <= set(thin)
    assert all(sentence.startswith(path) for path, sentence in thin.items())
    assert not thin_keys(parse_service_file((GOLDEN / "valid" / "demo.yaml").read_text()))


def test_a_metric_that_no_gate_measures_yet_is_named() -> None:
    found = read('gates: {quality: ["auc >= 0.7", "mcc >= 0.3"]}\n')
    assert thin_keys(found) == [
        ("gates.quality[1]", "gates.quality[1] is inconclusive; mcc is not measured yet")
    ]


def test_advice_is_given_where_a_file_is_allowed_and_probably_not_meant() -> None:
    paths = [path for path, _ in advice(read("ids: {subject: customer}\n"))]
    assert paths == ["doorstep", "ids.unit"]
    assert not advice(parse_service_file((GOLDEN / "valid" / "demo.yaml").read_text()))


# --- the schema for editors ---------------------------------------------------------------------


def test_the_published_schema_is_the_one_that_the_declarations_give() -> None:
    assert PUBLISHED.read_text() == schema_text(), (
        "run: python -m doorstep.core.servicefile_schema > docs/reference/doorstep.schema.json"
    )


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(service_file_schema())
    return Draft202012Validator(service_file_schema())


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_the_schema_accepts_every_valid_file(path: Path, validator: Draft202012Validator) -> None:
    plain = to_plain(parse_yaml(path.read_text()))
    assert [error.message for error in validator.iter_errors(plain)] == []


def test_the_schema_accepts_what_is_written_from_values(validator: Draft202012Validator) -> None:
    plain = plain_of(parse_service_file(FULL))
    assert [error.message for error in validator.iter_errors(plain)] == []


@pytest.mark.parametrize("name", ["typo", "missing", "wrong-shapes", "contract", "serving"])
def test_the_schema_refuses_what_a_schema_can_see(
    name: str, validator: Draft202012Validator
) -> None:
    plain = to_plain(parse_yaml((GOLDEN / "refused" / f"{name}.yaml").read_text()))
    assert not validator.is_valid(plain)


def test_the_schema_holds_environments_to_known_keys(validator: Draft202012Validator) -> None:
    plain: dict[str, Any] = to_plain(parse_yaml(SMALLEST))
    assert validator.is_valid({**plain, "environments": {"lab": {"release": {"bake": "1m"}}}})
    assert not validator.is_valid({**plain, "environments": {"lab": {"release": {"bak": "1m"}}}})
    assert not validator.is_valid({**plain, "environments": {"lab": {"service": "other"}}})


# --- travelling and writing ---------------------------------------------------------------------


def test_a_service_file_travels_in_json() -> None:
    found = parse_service_file(FULL)
    assert msgspec.json.decode(msgspec.json.encode(found), type=ServiceFile) == found


_printable = st.text(
    st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]).filter(str.isprintable),
    min_size=1,
    max_size=20,
)
_number = st.floats(-1e9, 1e9)
_fields = st.one_of(
    st.builds(
        lambda kind, ends, unit: FieldSpec(
            type=kind, range=(min(ends), max(ends)) if ends else None, unit=unit
        ),
        st.sampled_from(["int", "float"]),
        st.none() | st.tuples(_number, _number),
        st.just("") | _printable,
    ),
    st.builds(
        lambda values, unseen: FieldSpec(type="category", values=values, unseen=unseen),
        st.none() | st.lists(st.text(max_size=20), min_size=1, max_size=8, unique=True).map(tuple),
        st.none() | st.sampled_from(["allow", "missing", "reject"]),
    ),
    st.builds(
        lambda required, protected: FieldSpec(
            type="text", required=required, protected=protected, personal="pseudonymise"
        ),
        st.none() | st.booleans(),
        st.booleans(),
    ),
)
_drafts = st.builds(
    Draft,
    service=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True),
    label=_printable,
    holdout=_printable.map("h".__add__),
    train=st.just("") | _printable.map("t".__add__),
    task=st.none() | st.sampled_from(["binary", "multiclass"]),
    positive=st.just("") | _printable,
    purpose=st.just("") | _printable,
    key=st.just("") | _printable,
    inputs=st.dictionaries(_printable.map("i".__add__), _fields, max_size=5),
    context=st.dictionaries(_printable.map("c".__add__), _fields, max_size=3),
    quality=st.just(()) | st.just(("auc >= champion - 0.005", "auc >= 0.75")),
    speed=st.just(()) | st.just(("p99 <= 20 ms",)),
    holdout_note=st.text(max_size=40),
)


@given(_drafts)
@settings(max_examples=60)
def test_what_init_writes_reads_back_to_what_it_was_given(draft: Draft) -> None:
    if draft.label in draft.inputs or credential_in(str(draft)):
        return
    try:
        text = render_service_file(draft)
    except InputError as error:
        assert error.code == "bad-text"
        return
    found = parse_service_file(text)
    assert found.service == draft.service
    assert (found.model.label, found.model.positive) == (draft.label, draft.positive)
    assert (found.model.task, found.purpose, found.ids.key) == (
        draft.task,
        draft.purpose,
        draft.key,
    )
    assert found.data.holdout.path == draft.holdout
    assert (found.data.train.path if found.data.train else "") == draft.train
    assert found.contract.inputs == draft.inputs
    assert found.contract.context == draft.context
    assert found.gates.quality == tuple(parse_condition(one) for one in draft.quality)
    assert found.gates.speed == tuple(parse_condition(one) for one in draft.speed)
    assert not [path for path, _ in advice(found)]


def test_what_init_writes_is_small_and_needs_no_advice() -> None:
    inputs = {f"column_{i}": FieldSpec(type="float", range=(0.0, 1.0)) for i in range(8)}
    text = render_service_file(
        Draft(service="loans", label="default", holdout="test.csv", task="binary", inputs=inputs)
    )
    assert 20 <= len(text.splitlines()) <= 35
    assert text.splitlines()[1].startswith("doorstep: 1")


def test_what_init_writes_means_the_same_to_other_yaml_readers() -> None:
    values = ("no", "on", "007", "12:30", "2026-01-01", "null", "a: b", "x # y", "1e3", "car")
    draft = Draft(
        service="loans",
        label="y",
        holdout="test.csv",
        inputs={"no": FieldSpec(type="category", values=values)},
    )
    assert yaml.safe_load(render_service_file(draft))["contract"]["inputs"] == {
        "no": {"type": "category", "values": list(values)}
    }


@given(st.text())
def test_quoted_text_is_read_back_by_every_yaml_reader(text: str) -> None:
    if any(0xD800 <= ord(one) <= 0xDFFF for one in text):
        return
    assert to_plain(parse_yaml(f"a: {quoted(text)}")) == {"a": text}
    assert yaml.safe_load(f"a: {quoted(text)}") == {"a": text}


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(_json)
def test_flow_text_reads_back_to_the_value(value: Any) -> None:
    try:
        text = flow(value)
    except InputError:
        return
    again = to_plain(parse_yaml(f"a: {text}"))["a"]
    assert json.dumps(again, sort_keys=True) == json.dumps(value, sort_keys=True) or again == value


# --- hostile ------------------------------------------------------------------------------------


def gives_a_file_or_an_input_error(source: str | bytes) -> None:
    try:
        found = parse_service_file(source)
    except InputError as error:
        assert error.code == "bad-service-file"
        assert error.message.startswith("doorstep.yaml has")
        return
    assert same_values(parse_service_file(flow(plain_of(found))), found)
    explain(found)
    thin_keys(found)
    advice(found)


@given(st.text() | st.binary())
@example("service: ~\nmodel:\ndata: {}\n")
@example("a: 0x" + "f" * 50)
def test_any_text_gives_a_service_file_or_an_input_error(source: str | bytes) -> None:
    gives_a_file_or_an_input_error(source)


@given(
    st.integers(0, len(FULL)),
    st.integers(0, 12),
    st.text(alphabet="{}[],:-'\"%#~ \n01ame", max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_gives_a_service_file_or_an_input_error(
    start: int, gone: int, put: str
) -> None:
    gives_a_file_or_an_input_error(FULL[:start] + put + FULL[start + gone :])


def _written(group: Group, depth: int = 0) -> st.SearchStrategy[Any]:
    """Mappings with known keys and any values: what a person with a wrong idea writes."""
    junk = _json | st.sampled_from(["10m", "5%", "auto", "none", "errors", "auc >= 0.7", "console"])
    options = {}
    for key in group.keys.values():
        inner = key.reads if isinstance(key.reads, Group) else getattr(key.reads, "item", None)
        if isinstance(inner, Group) and depth < 3:
            part = _written(inner, depth + 1)
            options[key.name] = part | st.lists(part, max_size=2) | junk
        else:
            options[key.name] = junk | st.lists(junk, max_size=2)
    return st.fixed_dictionaries({}, optional=options)


@given(_written(ROOT))
@settings(max_examples=100, deadline=None)
def test_wrong_values_under_known_keys_give_a_service_file_or_an_input_error(value: Any) -> None:
    whole = {"model": {"label": "x"}, "data": {"holdout": "a.csv"}, **value, "service": "loans"}
    gives_a_file_or_an_input_error(flow(whole))
