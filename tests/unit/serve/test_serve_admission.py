"""Who is let in: by default nobody without a key where one is asked for, and none too often."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.api.openapi import path_of
from doorstep.core.apikey import id_of, new_api_key
from doorstep.core.ids import digest_of
from doorstep.core.plan import ApiKey
from doorstep.operations import table
from doorstep.serve import jsonrows
from doorstep.serve.admission import Admission, Bucket, WireError
from doorstep.serve.cells import CellWriter, create_cells
from doorstep.serve.http import JSON, Head
from doorstep.serve.site import SKINS, Site

DAY_US = 86400 * 10**6


class Exchange:
    def __init__(self) -> None:
        self.status, self.body, self.headers = 0, b"", b""

    def respond(self, status: int, body: bytes, headers: bytes = b"", media: bytes = JSON) -> None:
        self.status, self.body, self.headers = status, body, headers


def a_key(service: str = "", lasts_us: int = DAY_US, rate: float = 0.0) -> tuple[ApiKey, bytes]:
    name, secret = new_api_key()
    expires_at = time.time_ns() // 1000 + lasts_us
    digest = digest_of(secret.encode())
    known = ApiKey(id=name, digest=digest, service=service, expires_at=expires_at, rate=rate)
    return known, secret.encode()


def a_service(name: str, access: str = "open", limit: float = 0.0) -> Any:
    return SimpleNamespace(
        name=name, versions={}, plan=SimpleNamespace(service=name, access=access, limit=limit)
    )


def admission(
    *services: Any, keys: Any = (), guarded: bool = False, quota: float = 1.0
) -> Admission:
    found = Admission(guarded=guarded)
    found.swap(keys, {one.name: one for one in services}, quota)
    return found


def visit(**fields: bytes) -> Any:
    sent = {name.replace("_", "-").encode(): value for name, value in fields.items()}
    return SimpleNamespace(head=SimpleNamespace(fields=sent), key=None, admitted=None)


def status(found: Admission, asked: Any, service: str) -> int:
    try:
        found.admit(asked, service)
    except WireError as error:
        return error.status
    return 200


OWN = ("/aip/predict", "/aip/health")
"""Paths that Vertex AI chose."""
ROUTES = [
    (skin, pattern, method)
    for skin in (*SKINS, jsonrows.vertex_at(*OWN))
    for pattern, handlers in skin.routes.items()
    for method in handlers
]


def a_guarded_site(folder: Path, *, guarded: bool = True) -> Site:
    create_cells(folder / "cells")
    path: Any = SimpleNamespace(observers=(), breakers=SimpleNamespace(keep=lambda _: None))
    return Site(path, None, CellWriter(folder / "cells"), guarded=guarded)  # type: ignore[arg-type]


def asked_without_key(site: Site, pattern: str, method: str) -> Exchange:
    url = "/" + pattern.strip("/").replace("{service}", "s").replace("{version}", "1")
    exchange = Exchange()
    site.handle(exchange, Head(method.encode(), url.encode(), 0, True, False, {}), b"{}")
    return exchange


@pytest.mark.parametrize(
    ("skin", "pattern", "method"), ROUTES, ids=[f"{method} {path}" for _, path, method in ROUTES]
)
def test_every_route_of_every_protocol_wants_a_key_but_probes(
    skin: Any, pattern: str, method: str, tmp_path: Path
) -> None:
    create_cells(tmp_path / "cells")
    site = a_guarded_site(tmp_path)
    site.listen_at(*OWN)
    exchange = asked_without_key(site, pattern, method)
    if pattern in skin.probes:
        assert exchange.status in (200, 503)
        return
    assert exchange.status == 401
    assert b"www-authenticate: Bearer" in exchange.headers
    with pytest.raises(WireError) as caught:
        admission(guarded=True).admit(visit(), "s")
    error = caught.value
    request = exchange.headers.partition(b"doorstep-request-id: ")[2].partition(b"\r\n")[0]
    own = skin.codec.refusal(error.code, error.message, error.hint, request.decode())
    assert exchange.body == own, "refused in the words of its own protocol"


def test_a_path_for_health_and_predictions_wants_a_key_for_predictions(tmp_path: Path) -> None:
    site = a_guarded_site(tmp_path)
    site.listen_at("/both", "/both")
    assert asked_without_key(site, "both", "POST").status == 401
    assert asked_without_key(site, "both", "GET").status in (200, 503)


def test_the_only_service_is_behind_the_admission_though_no_path_names_it(tmp_path: Path) -> None:
    known, secret = a_key("other")
    site = a_guarded_site(tmp_path, guarded=False)
    site.swap({"s": a_service("s", "keys")}, (known,))
    for pattern in ("invocations", "score"):
        assert asked_without_key(site, pattern, "POST").status == 401
    found = admission(a_service("s", "keys"), keys=(known,))
    for named in ("", "s"):
        asked = visit(x_api_key=secret)
        assert [status(found, asked, name) for name in (named, "s")][-1] == 403


def test_a_key_of_another_service_learns_nothing_of_the_only_ones_rows(tmp_path: Path) -> None:
    known, secret = a_key("other")
    site = a_guarded_site(tmp_path, guarded=False)
    site.swap({"s": a_service("s", "keys")}, (known,))
    for path in (b"/invocations", b"/score"):
        exchange = Exchange()
        head = Head(b"POST", path, 0, True, False, {b"x-api-key": secret})
        site.handle(exchange, head, b'{"instances": 1}')
        assert exchange.status == 403, "refused before its rows are read"


def test_who_is_asked_twice_has_used_one_request_of_its_key() -> None:
    known, secret = a_key(rate=2.0)
    found = admission(a_service("a"), keys=(known,))
    for _ in range(2):
        asked = visit(x_api_key=secret)
        assert [status(found, asked, name) for name in ("", "a")] == [200, 200]
    assert status(found, visit(x_api_key=secret), "") == 429


def test_the_control_plane_is_not_on_the_data_port() -> None:
    patterns = [pattern for _, pattern, _ in ROUTES]
    assert not [one for one in patterns if one.startswith(("api", "static", "sign"))]
    operations = {path_of(one).strip("/") for one in table().values()}
    assert not operations & {one.removeprefix("v1/") for one in patterns}


def test_a_probe_is_a_route() -> None:
    assert all(skin.probes <= set(skin.routes) for skin in SKINS)
    assert sum(len(skin.probes) for skin in SKINS) >= 3


def test_a_key_opens_its_service_and_no_other() -> None:
    (mine, secret), (every, master) = a_key("a"), a_key()
    found = admission(
        a_service("a", "keys"), a_service("b", "keys"), a_service("c"), keys=(mine, every)
    )
    for headers in ({"authorization": b"Bearer " + secret}, {"x_api_key": secret}):
        assert [status(found, visit(**headers), name) for name in "abc"] == [200, 403, 200]
    assert [status(found, visit(x_api_key=master), name) for name in "abc"] == [200, 200, 200]
    assert [status(found, visit(), name) for name in "abc"] == [401, 401, 200]


def test_what_belongs_to_no_service_wants_a_key_as_soon_as_one_service_does() -> None:
    known, secret = a_key("a")
    found = admission(a_service("a", "keys"), a_service("b"), keys=(known,))
    assert status(found, visit(), "") == 401
    asked = visit(x_api_key=secret)
    assert status(found, asked, "") == 200
    assert [found.sees(asked, name) for name in "ab"] == [True, True]
    assert [found.sees(visit(), name) for name in "ab"] == [False, True]
    assert status(admission(a_service("b")), visit(), "") == 200


def test_a_guarded_node_wants_a_key_also_for_open_and_unknown_services() -> None:
    known, secret = a_key("a")
    found = admission(a_service("a"), a_service("b"), keys=(known,), guarded=True)
    assert [status(found, visit(), name) for name in ("a", "b", "x")] == [401, 401, 401]
    asked = [status(found, visit(x_api_key=secret), name) for name in ("a", "b", "x")]
    assert asked == [200, 403, 403]


def test_a_key_that_is_expired_revoked_or_wrong_is_refused_in_the_same_words() -> None:
    (old, expired), (known, secret), (_, revoked) = a_key(lasts_us=-1), a_key(), a_key()
    found = admission(a_service("a", "keys"), keys=(old, known))
    said = set()
    for sent in (expired, revoked, secret[:-1] + b"!", secret[:-1], b"", b"x" * 70, secret + b"x"):
        with pytest.raises(WireError) as caught:
            found.admit(visit(authorization=b"Bearer " + sent), "a")
        said.add(str(caught.value))
        assert caught.value.status == 401
        assert secret.decode()[17:] not in str(caught.value)
    assert len(said) == 1


def test_the_next_plan_lets_nobody_in_with_a_key_that_it_has_not() -> None:
    known, secret = a_key()
    service = a_service("a", "keys")
    found = admission(service, keys=(known,))
    assert status(found, visit(x_api_key=secret), "a") == 200
    found.swap((), {"a": service}, 1.0)
    assert status(found, visit(x_api_key=secret), "a") == 401


def test_a_key_and_a_service_have_limits_of_their_own() -> None:
    (slow, few), (_quick, many) = a_key(rate=0.001), a_key()
    found = admission(a_service("a", limit=0.003), a_service("b"), keys=(slow, _quick))
    assert [status(found, visit(x_api_key=few), "b") for _ in range(2)] == [200, 429]
    assert [status(found, visit(x_api_key=many), "b") for _ in range(3)] == [200] * 3
    assert [status(found, visit(), "a") for _ in range(2)] == [200, 429]
    with pytest.raises(WireError) as caught:
        found.admit(visit(x_api_key=few), "b")
    assert b"retry-after: 1000\r\n" in caught.value.headers or b"retry-after: 999" in (
        caught.value.headers
    )
    assert caught.value.reason == "rate"


def test_a_visit_that_finds_its_service_late_is_asked_again_and_counted_once() -> None:
    known, secret = a_key("a", rate=0.001)
    found = admission(a_service("a", "keys"), a_service("b", "keys"), keys=(known,))
    asked = visit(x_api_key=secret)
    assert [status(found, asked, name) for name in ("", "a", "b")] == [200, 200, 403]
    assert status(found, visit(x_api_key=secret), "a") == 429


def test_a_limit_is_shared_by_workers_and_survives_a_plan() -> None:
    service = a_service("a", limit=100.0)
    found = admission(service, quota=0.01)
    assert [status(found, visit(), "a") for _ in range(2)] == [200, 429]
    found.swap((), {"a": service}, 0.01)
    assert status(found, visit(), "a") == 429, "what was used stays used"


def test_without_keys_and_limits_there_is_nothing_to_ask() -> None:
    assert admission(a_service("a")).is_idle
    assert not admission(a_service("a", "keys")).is_idle
    assert not admission(a_service("a", limit=1.0)).is_idle
    assert not admission(guarded=True).is_idle


@given(st.floats(0.01, 1000), st.lists(st.floats(0, 5), min_size=1, max_size=60))
def test_a_bucket_gives_out_no_more_than_its_rate_and_one_seconds_worth(
    rate: float, pauses: list[float]
) -> None:
    bucket, now_s, taken = Bucket(rate, 0.0), 0.0, 0
    for pause_s in pauses:
        now_s += pause_s
        wait_s = bucket.take(now_s)
        taken += wait_s == 0
        assert wait_s == 0 or 0 < wait_s <= 1 / rate
    assert taken <= max(rate, 1.0) + rate * now_s + 1e-6


def test_a_bucket_lets_in_again_when_it_said_so() -> None:
    bucket = Bucket(0.5, 0.0)
    assert bucket.take(0.0) == 0
    wait_s = bucket.take(0.5)
    assert wait_s == pytest.approx(1.5)
    assert bucket.take(0.5 + wait_s + 1e-9) == 0


@given(st.binary(max_size=80))
def test_what_is_no_key_has_no_id(sent: bytes) -> None:
    assert id_of(sent) == ""


def test_a_key_has_the_form_that_scanners_find() -> None:
    name, secret = new_api_key()
    assert id_of(secret.encode()) == name
    assert secret.startswith(f"dsk_{name}_")
    assert len(secret) == len("dsk_") + 12 + 1 + 43
