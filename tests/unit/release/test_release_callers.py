"""What a plan says about callers: their keys, and each node's part of a limit."""

from __future__ import annotations

import msgspec
import pytest

from doorstep.core.contract import Contract
from doorstep.core.filewords import parse_rate, show_rate
from doorstep.core.ids import digest_of
from doorstep.core.plan import ApiKey, KeysPlan, PlanRoot, ServicePlan
from doorstep.core.servicefile import parse_service_file
from doorstep.release.plan import plan_root

KEY = ApiKey(id="0a1b2c3d4e5f", digest="d" * 64, service="loans", expires_at=10)


def planned(
    limit: float = 0.0, keys: tuple[ApiKey, ...] = (), nodes: int = 1
) -> tuple[PlanRoot, dict[str, bytes]]:
    plan = ServicePlan(
        format=1, service="loans", contract=Contract(inputs=()), versions=(), champion=None,
        limit=limit,
    )  # fmt: skip
    return plan_root(
        [plan], keys, nodes=nodes, environment="test", term=1, number=1, made_at=0, lease_s=60.0
    )


def test_keys_are_one_document_that_belongs_to_the_plan() -> None:
    root, bodies = planned(keys=(KEY,))
    assert root.documents == set(bodies)
    assert msgspec.json.decode(bodies[root.keys], type=KeysPlan).keys == (KEY,)
    assert all(digest == digest_of(body) for digest, body in bodies.items())
    bare, others = planned()
    assert bare.keys == ""
    assert bare.documents == set(others) == set(bare.services.values())


@pytest.mark.parametrize(
    ("limit", "rate", "nodes", "share"),
    [(0, 0, 4, 1.0), (10, 0, 4, 0.25), (0, 5, 4, 0.25), (10, 5, 1, 1.0), (10, 0, 0, 1.0)],
)
def test_nodes_share_a_limit_where_there_is_one(
    limit: float, rate: float, nodes: int, share: float
) -> None:
    keys = (msgspec.structs.replace(KEY, rate=float(rate)),)
    assert planned(float(limit), keys, nodes)[0].node_share == share


@pytest.mark.parametrize("text", ["100/s", "0.5/s", "30/m", "10/h", "7/m", "0.001/h"])
def test_a_rate_reads_back_to_what_it_says(text: str) -> None:
    assert parse_rate(show_rate(parse_rate(text))) == parse_rate(text)


@pytest.mark.parametrize(
    "text", ["0/s", "-1/s", "100", "100/d", "/s", "1e3/s", "", "9" * 12 + "/s"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="requests per"):
        parse_rate(text)


def test_a_service_file_says_who_may_call_and_how_often() -> None:
    text = "doorstep: 1\nservice: a\nmodel: {label: y}\ndata: {holdout: h.csv}\n"
    assert (parse_service_file(text).serve.access, parse_service_file(text).serve.limit) == (
        "open",
        0.0,
    )
    found = parse_service_file(text + 'serve: {access: keys, limit: "90/m"}\n').serve
    assert (found.access, found.limit) == ("keys", 1.5)
