"""What comes in is hostile: decoded strictly, bounded, and never a fault of ours."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doorstep.api.app import BODY_BYTES_MAX
from doorstep.operations import table

OPERATIONS = table()
VALID: dict[str, dict[str, Any]] = {
    "service.apply": {"file": "doorstep: 1"},
    "service.diff": {"file": "doorstep: 1"},
    "blob.missing": {"digests": ["0" * 64]},
    "version.register": {"file": "doorstep: 1", "digest": "0" * 64},
    "service.show": {"service": "x"},
    "version.show": {"version": "x@1"},
    "version.list": {"service": "x"},
    "gate.run": {"version": "x@1"},
    "gate.show": {"version": "x@1"},
    "release.start": {"version": "x@1"},
    "release.estimate": {"version": "x@1"},
    "version.approve": {"version": "x@1", "why": "y"},
    "version.withdraw": {"version": "x@1", "why": "y"},
    "service.approve": {"service": "x", "revision": 2, "why": "y"},
    "release.show": {"release": "x"},
    "release.differences": {"release": "x"},
    "release.recompute": {"release": "x"},
    "release.pause": {"release": "x", "why": "y"},
    "release.resume": {"release": "x", "why": "y"},
    "release.promote": {"release": "x", "why": "y"},
    "service.rollback": {"service": "x", "why": "y"},
    "version.kill": {"version": "x@1", "why": "y"},
    "version.revive": {"version": "x@1", "why": "y"},
    "prediction.show": {"prediction": "x"},
    "prediction.open": {"prediction": "x", "why": "w"},
    "subject.erase": {"subject": "s", "why": "w"},
    "subject.hold": {"subject": "s", "why": "w"},
    "prediction.list": {"service": "x"},
    "journal.query": {"sql": "SELECT 1"},
    "prediction.explain": {"prediction": "x"},
    "prediction.prove": {"prediction": "x"},
    "outcome.record": {"service": "x", "outcomes": [{"key": "k", "label": "a"}]},
    "journal.mark": {"service": "x", "source": "ab" * 32},
    "journal.keep-mark": {"service": "x", "source": "ab" * 32, "mark": {}},
    "prediction.import": {"service": "x", "rows": [{"at": 1, "key": "k"}]},
    "version.watch": {"file": "x", "name": "y"},
    "traffic.count": {"service": "x"},
    "monitor.show": {"service": "x"},
    "service.history": {"service": "x"},
    "token.create": {"service": "x"},
    "token.revoke": {"token": "x", "why": "y"},
}
HOSTILE = [
    "",
    "../../../../etc/passwd",
    "..",
    "/etc/passwd",
    "C:\\Windows\\system32",
    "\\\\host\\share",
    "%2e%2e%2fetc%2fpasswd",
    "file:///etc/passwd",
    "http:///#/../..",
    "loans\x00.db",
    "\x00",
    "loans\r\nX-Evil: 1",
    "a" * 100_000,
    "' OR 1=1 --",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "\u202e\ufeffloans",
    "𝕝𝕠𝕒𝕟𝕤",
    "loans@99999999999999999999",
    "loans@-1",
    "\x1b[31m",
]


def is_refusal(answer) -> bool:
    error = answer.json()["error"]
    return 400 <= answer.status_code < 500 and set(error) == {"kind", "code", "message", "hint"}


def test_the_samples_fit_their_operations():
    for name, operation in OPERATIONS.items():
        msgspec.convert(VALID.get(name, {}), operation.input, strict=True)


def string_fields(name: str) -> list[str]:
    sample = VALID.get(name, {})
    known = msgspec.structs.fields(OPERATIONS[name].input)
    return [
        field.encode_name
        for field in known
        if field.type is str or isinstance(sample.get(field.encode_name), str)
    ]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_hostile_text_in_any_parameter_is_refused_or_answered_never_a_fault(api, name):
    for field in string_fields(name):
        for text in HOSTILE:
            answer = api.ask(name, json.dumps(VALID.get(name, {}) | {field: text}))
            assert answer.status_code < 500, (field, text[:40], answer.text)
            assert "root:x:" not in answer.text
            assert len(answer.text) < 20_000


def test_hostile_text_inside_lists_is_no_fault_either(api):
    for text in HOSTILE:
        for name, body in (
            ("blob.missing", {"digests": [text]}),
            ("outcome.record", {"service": "loans", "outcomes": [{"prediction": text}]}),
            ("version.register", VALID["version.register"] | {"holdout": text}),
        ):
            answer = api.ask(name, json.dumps(body))
            assert answer.status_code < 500, (name, text[:40], answer.text)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_an_upload_address_writes_nothing(api, text):
    from urllib.parse import quote

    uploads = api.serving.control.home.path / "uploads"
    for written in (quote(text[:5000], safe=""), quote(text[:5000], safe="/")):
        answer = api.client.put(f"/api/v1/blobs/{written}", content=b"x", headers=api.signed)
        assert 400 <= answer.status_code < 500
    assert list(uploads.iterdir()) == []


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_what_is_not_the_input_is_refused(api, name):
    sample = VALID.get(name, {})
    bodies = ["not json", "[]", "null", "1", '"x"', "{", json.dumps(sample) + "x", "\xff\xfe"]
    bodies.append(json.dumps(sample | {"surprise": 1}))
    bodies += [
        json.dumps({key: value for key, value in sample.items() if key != k}) for k in sample
    ]
    for body in bodies:
        answer = api.ask(name, body.encode("latin-1"))
        if body != json.dumps({}) or sample:
            assert is_refusal(answer), (body, answer.text)


def test_an_unknown_field_is_named(api):
    answer = api.ask("service.show", '{"service": "loans", "colour": "red"}')
    assert "colour" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("ledger.list", '{"limit": "1"}'),
        ("ledger.list", '{"limit": 1.5}'),
        ("ledger.list", '{"limit": true}'),
        ("ledger.list", '{"limit": null}'),
        ("release.start", '{"version": "loans@1", "rehearsal": 1}'),
        ("release.start", '{"version": "loans@1", "rehearsal": "true"}'),
        ("service.show", '{"service": 1}'),
        ("service.show", '{"service": ["loans"]}'),
    ],
)
def test_types_are_not_guessed(api, name, body):
    assert is_refusal(api.ask(name, body))


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 2**200, -1, 10**400])
@pytest.mark.parametrize(
    "name",
    [
        *("ledger.list", "prediction.list", "journal.query", "service.history", "traffic.count"),
        "outcome.record",
    ],
)
def test_numbers_beyond_all_bounds_are_no_fault(api, name, number):
    known = {
        "ledger.list": [{"limit": number}, {"before": number}],
        "prediction.list": [{"service": "loans", key: number} for key in ("limit", "before")],
        "journal.query": [
            {"sql": "FROM loans", key: number} for key in ("since", "until", "limit")
        ],
        "service.history": [{"service": "loans", "at": number}],
        "traffic.count": [{"service": "loans", key: number} for key in ("minutes", "bucket_s")],
        "outcome.record": [
            {"service": "loans", "outcomes": [{"key": "k", "value": 1, "at": number}]}
        ],
    }
    for body in known[name]:
        answer = api.ask(name, json.dumps(body))
        assert answer.status_code < 500, (body, answer.text)


@pytest.mark.parametrize("depth", [100, 2_000, 100_000])
@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_deep_nesting_is_refused(api, depth, opening):
    closing = "}" if opening[0] == "{" else "]"
    deep = opening * depth + "1" + closing * depth
    for body in (deep, f'{{"service": {deep}}}', f'{{"service": "x", "deep": {deep}}}'):
        assert is_refusal(api.ask("service.show", body))
    found = {"check": "c", "verdict": "pass", "reason": "r"}
    findings = json.dumps(found)[:-1] + f', "evidence": {{"x": {deep}}}}}'
    body = f'{{"file": "doorstep: 1", "digest": "{"0" * 64}", "findings": [{findings}]}}'
    assert api.ask("version.register", body).status_code < 500


def test_a_body_of_40_megabytes_is_refused(api):
    assert BODY_BYTES_MAX < 40_000_000
    answer = api.ask("service.apply", json.dumps({"file": "x" * 40_000_000}))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too-large"


def test_a_service_file_of_two_megabytes_is_refused_by_its_own_limit(api):
    answer = api.ask("service.apply", json.dumps({"file": "# x\n" * 500_000}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad-service-file")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)  # fmt: skip
CHEAP = sorted(set(OPERATIONS) - {"gate.run", "prediction.show", "prediction.explain"})


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_in_any_field_is_refused_or_answered(api, data):
    name = data.draw(st.sampled_from(CHEAP))
    field = data.draw(st.sampled_from([one.encode_name for one in _fields(name)] or ["x"]))
    value = data.draw(JSON)
    answer = api.ask(name, json.dumps(VALID.get(name, {}) | {field: value}))
    assert answer.status_code < 500, answer.text


def _fields(name: str):
    return msgspec.structs.fields(OPERATIONS[name].input)


def test_nothing_of_all_this_is_in_the_ledger(api):
    before = api.ledger_size()
    for name in OPERATIONS:
        api.ask(name, "{")
    assert api.ledger_size() == before


def test_a_fault_of_ours_says_an_id_and_nothing_else(api, monkeypatch):
    def fail(*_args: object, **_named: object) -> None:
        raise ZeroDivisionError("/secret/path")

    monkeypatch.setattr(api.serving.control, "ask", fail)
    answer = api.ask("service.list", "{}")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "ZeroDivision" not in answer.text
    assert answer.json()["error"]["code"] == "internal-error"
